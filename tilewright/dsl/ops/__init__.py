"""The operations, one file a family. Importing this package fills the registry."""

from __future__ import annotations

from tilewright.dsl.ops import activation as activation
from tilewright.dsl.ops import attention as attention
from tilewright.dsl.ops import bundle as bundle
from tilewright.dsl.ops import collective as collective
from tilewright.dsl.ops import create as create
from tilewright.dsl.ops import elementwise as elementwise
from tilewright.dsl.ops import embedding as embedding
from tilewright.dsl.ops import encoding as encoding
from tilewright.dsl.ops import grouped as grouped
from tilewright.dsl.ops import index as index
from tilewright.dsl.ops import linalg as linalg
from tilewright.dsl.ops import matmul as matmul
from tilewright.dsl.ops import movement as movement
from tilewright.dsl.ops import norm as norm
from tilewright.dsl.ops import random as random
from tilewright.dsl.ops import reduce as reduce
from tilewright.dsl.ops import region as region
from tilewright.dsl.ops import reshape as reshape
from tilewright.dsl.ops import rope as rope
from tilewright.dsl.ops import row as row
from tilewright.dsl.ops import scan as scan
from tilewright.dsl.ops import state as state
