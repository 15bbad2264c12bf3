"""What each algorithm sends: bytes on the wire of a rank, messages that wait for one another.

Sources: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms", JPDC 69(2), 2009 (ring);
Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH",
IJHPCA 19(1), 2005 (recursive halving and doubling); Sanders, Speck and Traff, "Two-tree algorithms
for full bandwidth broadcast, reduction and scan", Parallel Computing 35(12), 2009 (tree); Klenk et
al., "An in-network architecture for accelerating shared-memory multiprocessor collectives", ISCA
2020 (switch).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from tilewright.dsl.errors import UnknownAlgorithm

Op = Literal["all_gather", "all_reduce", "reduce_scatter", "all_to_all", "permute"]
Algorithm = Literal[
    "ring", "tree", "one_shot", "two_shot", "halving_doubling", "all_pairs", "switch"
]

COLLECTIVES: Final[tuple[Op, ...]] = (
    "all_gather", "all_reduce", "reduce_scatter", "all_to_all", "permute",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Traffic:
    """One collective as a rank sees it.

    bytes: what leaves a rank. phases: passes over the data (an all-reduce scatters sums, then
    gathers them). hops: messages of one phase that wait for one another. links: of a mesh, how many
    are busy at once.
    """

    bytes: float
    phases: int
    hops: float
    links: int


def traffic(op: Op, algorithm: Algorithm, ranks: int, bytes: float) -> Traffic:
    """What `algorithm` sends for `op` on a logical tensor of `bytes`.

    `bytes` are of the reduced tensor (all-reduce), of the gathered one (all-gather), of the input
    (reduce-scatter, all-to-all, permute). Raises `UnknownAlgorithm` where the op has none of that
    name.
    """
    rule = ALGORITHMS.get(op, {}).get(algorithm)
    if rule is None:
        known = ", ".join(ALGORITHMS.get(op, ()))
        raise UnknownAlgorithm(
            f"{op} has no algorithm {algorithm!r}", fix=f"take one of {known or COLLECTIVES}"
        )
    return rule(ranks, bytes) if ranks > 1 else Traffic(0.0, 1, 0.0, 1)


def _levels(ranks: int) -> int:
    return math.ceil(math.log2(ranks))


def _ring(phases: int) -> Callable[[int, float], Traffic]:
    def rule(n: int, size: float) -> Traffic:
        return Traffic(phases * size * (n - 1) / n, phases, n - 1, n - 1)

    return rule


def _direct(phases: int) -> Callable[[int, float], Traffic]:
    """Every rank talks to all others at once: one message deep."""

    def rule(n: int, size: float) -> Traffic:
        return Traffic(phases * size * (n - 1) / n, phases, 1, n - 1)

    return rule


def _halving_doubling(phases: int) -> Callable[[int, float], Traffic]:
    def rule(n: int, size: float) -> Traffic:
        return Traffic(phases * size * (n - 1) / n, phases, _levels(n), 1)

    return rule


def _one_shot(n: int, size: float) -> Traffic:
    """Every rank reads the whole tensor of every other and adds."""
    return Traffic(size * (n - 1), 1, 1, n - 1)


def _tree(n: int, size: float) -> Traffic:
    """Two trees, each for half of the tensor, up and down; a rank is a leaf in one of them."""
    return Traffic(2 * size * (n - 1) / n, 2, _levels(n), 2)


def _switch(n: int, size: float) -> Traffic:
    """The switch adds: a rank pulls its own part reduced, and pushes it once for all."""
    return Traffic(size * (1 + 1 / n), 2, math.log2(n), 1)


def _permute(n: int, size: float) -> Traffic:
    del n
    return Traffic(size, 1, 1, 1)


ALGORITHMS: Final[Mapping[Op, Mapping[Algorithm, Callable[[int, float], Traffic]]]] = (
    MappingProxyType(
        {
            "all_gather": MappingProxyType(
                {
                    "ring": _ring(1),
                    "all_pairs": _direct(1),
                    "halving_doubling": _halving_doubling(1),
                }
            ),
            "reduce_scatter": MappingProxyType(
                {
                    "ring": _ring(1),
                    "all_pairs": _direct(1),
                    "halving_doubling": _halving_doubling(1),
                }
            ),
            "all_reduce": MappingProxyType(
                {
                    "ring": _ring(2),
                    "tree": _tree,
                    "one_shot": _one_shot,
                    "two_shot": _direct(2),
                    "halving_doubling": _halving_doubling(2),
                    "switch": _switch,
                }
            ),
            "all_to_all": MappingProxyType({"all_pairs": _direct(1)}),
            "permute": MappingProxyType({"all_pairs": _permute}),
        }
    )
)
"""Per rank: what each algorithm of an op sends."""
