"""The operations, one file a family. Importing this package fills the registry."""

from __future__ import annotations

from tilewright.dsl.ops import elementwise as elementwise
