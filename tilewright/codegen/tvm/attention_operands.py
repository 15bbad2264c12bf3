"""What attention is computed of, and how its scores are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tilewright.codegen.tvm.emit import Expr
from tilewright.dsl.mask import Mask

Load: TypeAlias = Callable[[Expr, Expr, Expr, Expr, int, Expr | None], Expr]
"""(batch, position, head, column, lanes, mask) -> f32 lanes from that column on."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the result: its batch, query and head, and the log-sum-exp of its scores."""

    batch: Expr
    query: Expr
    head: Expr
    lse: Expr


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """`seq` queries of `heads` heads meet `keys` keys of `groups` heads."""

    batch: Expr
    seq: Expr
    keys: Expr
    heads: int
    groups: int
    head_dim: int
    value_dim: int

    @property
    def each(self) -> int:
        """Query heads of a group."""
        return self.heads // self.groups


@dataclass(frozen=True, slots=True)
class AttentionOperands:
    """Where queries, keys and values come from, and where rows of the result go.

    `ask(batch, position, head)` asks for the cache lines of a key and its value. `seen(batch, key)`
    is a scalar bool that hides keys. `store(row, columns)` stores one row, whose values
    `columns(body)` hands out as body(column, value, mask).
    """

    query: Load
    key: Load
    value: Load
    ask: Callable[[Expr, Expr, Expr], None]
    seen: Callable[[Expr, Expr], Expr] | None
    store: Callable[[Row, Callable[[Callable[[Expr, Expr, Expr | None], None]], None]], None]


@dataclass(frozen=True, slots=True)
class Scoring:
    """How scores are made of products."""

    mask: Mask
    scale: float
    softcap: float | None
