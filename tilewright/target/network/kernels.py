"""Collectives of one's own: kernels over memory that all ranks of a node can read.

They begin where the library's launch ends: peers signal with flags, and bytes move by loads and
stores, so that small tensors pay little and large ones what the links pay. Sources of the
algorithms: vLLM's and PyTorch's symmetric-memory all-reduces (one-shot, two-shot, multimem), and
MSCCL++ (arXiv 2504.09014).
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.target.network.algorithms import Algorithm, Op
from tilewright.target.network.model import wire_seconds
from tilewright.target.network.topology import Cluster


@dataclass(frozen=True, slots=True)
class Kernel:
    """launch: seconds to the first byte, barriers included. peer: what each further rank adds to
    that. share: of the library's bandwidth within a node, what loads and stores reach.
    """

    algorithm: Algorithm
    launch: float
    peer: float
    share: float


def kernel_seconds(kernel: Kernel, op: Op, ranks: int, bytes: float, cluster: Cluster) -> float:
    """Seconds of `op` by `kernel`. Raises as `seconds` does."""
    between = 0.0
    if (nodes := cluster.nodes_of(ranks)) > 1 and cluster.nic is not None:
        between = 2 * (nodes - 1) * cluster.nic.latency
    wire = wire_seconds(op, kernel.algorithm, cluster, ranks, bytes, kernel.share)
    return kernel.launch + kernel.peer * (ranks - 1) + between + wire
