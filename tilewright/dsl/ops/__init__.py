"""The operations, one file a family. Importing this package fills the registry."""

from __future__ import annotations

from tilewright.dsl.ops import create as create
from tilewright.dsl.ops import elementwise as elementwise
from tilewright.dsl.ops import index as index
from tilewright.dsl.ops import movement as movement
from tilewright.dsl.ops import reshape as reshape
