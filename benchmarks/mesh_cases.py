"""The half of a Megatron MLP that communicates, on two ranks, with the plans that compete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tilewright as tw
from tilewright.codegen.compiler import Options
from tilewright.codegen.ranks import compile_ranks
from tilewright.dsl.ops.collective import all_reduce
from tilewright.dsl.ops.random import dropout
from tilewright.dsl.placement import Mesh, Placement, Shard
from tilewright.passes.plan import Plan
from tilewright.runtime.buffers import Array
from tilewright.target.spec import parse_target

RANKS = 2
TOKENS, HIDDEN = (64, 256, 1024), (768, 1024, 2048, 3072)
WIDER = 4
PLANS: Mapping[str, Mapping[str, str]] = {
    "unfused": {},
    "2 parts": {"overlap:*": "2"},
    "4 parts": {"overlap:*": "4"},
    "8 parts": {"overlap:*": "8"},
}
_COLUMNS = Placement.of(tp=Shard(1))


@dataclass(frozen=True, slots=True)
class MlpHalf:
    """matmul, all-reduce, bias, dropout, residual: x [tokens, 4 hidden / ranks] on each rank."""

    tokens: int
    hidden: int

    def __str__(self) -> str:
        return f"mlp/{self.tokens}x{self.hidden}"

    @staticmethod
    def parse(text: str) -> MlpHalf:
        """Reads `mlp/256x1024`."""
        tokens, _, hidden = text.removeprefix("mlp/").partition("x")
        return MlpHalf(int(tokens), int(hidden))

    @property
    def inner(self) -> int:
        return WIDER * self.hidden

    @property
    def flops(self) -> float:
        """Of one rank."""
        return 2.0 * self.tokens * self.hidden * self.inner / RANKS

    @property
    def wire_bytes(self) -> float:
        """What one rank sends, and receives: 2 (p - 1) / p of the result."""
        return 2.0 * (RANKS - 1) / RANKS * 4 * self.tokens * self.hidden

    def program(self) -> tw.Program:
        tokens, hidden, inner = self.tokens, self.hidden, self.inner
        f32 = tw.f32

        @tw.graph(
            x=f32[tokens, inner].with_placement(_COLUMNS), r=f32[tokens, hidden], key=tw.u32[2]
        )
        def half(x: tw.Tensor, r: tw.Tensor, key: tw.Tensor) -> tw.Tensor:
            w = tw.param("w", f32[hidden, inner].with_placement(_COLUMNS))
            y = all_reduce(x @ w.T, "tp") + tw.param("b", f32[hidden])
            return dropout(y, key, 0.1) + r

        return tw.program("mlp", half, mesh=Mesh.of(tp=RANKS)).program

    def weights(self) -> Weights:
        rng = np.random.default_rng(3)
        w = rng.normal(0, self.inner**-0.5, (self.hidden, self.inner))
        return Weights({"w": w.astype(np.float32), "b": np.ones(self.hidden, np.float32)})

    def inputs(self, rank: int) -> dict[str, Array]:
        """The rank's part of x, and what all have alike."""
        rng = np.random.default_rng(5)
        x = rng.normal(size=(self.tokens, self.inner)).astype(np.float32)
        r = rng.normal(size=(self.tokens, self.hidden)).astype(np.float32)
        part = self.inner // RANKS
        own = np.ascontiguousarray(x[:, rank * part : (rank + 1) * part])
        return {"x": own, "r": r, "key": np.array([1, 2], np.uint32)}

    def compile(self, plan: str, folder: Path) -> Path:
        """`folder/rank0` and so on, compiled once."""
        if not (folder / f"rank{RANKS - 1}" / "manifest.json").exists():
            options = Options(parse_target("cpu"), plan=Plan.of(PLANS[plan]))
            compile_ranks(self.program(), self.weights(), folder, options)
        return folder


class Weights(dict[str, Array]):
    """Arrays as a reader of weights."""

    def read(self, name: str) -> Array:
        return self[name]


CASES = [str(MlpHalf(t, h)) for t in TOKENS for h in HIDDEN]
