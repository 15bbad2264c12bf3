"""Constants of known hardware, fitted to public measurements.

Source of the rows: XLA's collective_perf_table_gen, the tables inside jax-cuda12-pjrt 0.12.0.1
(Apache-2.0), sizes from 1 MiB, single nodes. `benchmarks/network_fit.py` computes the constants
from them, `benchmarks/network_error.py` how far predictions for held-out sizes are off. What is not
fitted: NVIDIA's `memory`, from the difference to the same all-reduces elsewhere (MSCCL++'s figures
for H100, GCP's for B200, both in place), and MI350's `second_phase`: an all-reduce there waits no
longer than a gather.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from tilewright.dsl.errors import InvalidCluster, UncalibratedNetwork
from tilewright.target.network.kernels import Kernel
from tilewright.target.network.overlap import Overlap
from tilewright.target.network.topology import Cluster, Network, Nic

_US: Final = 1e-6
_GB: Final = 1e9
_SPEC: Final = re.compile(r"([a-z0-9_]{1,32}?)x([0-9]{1,5})(?:x([0-9]{1,5}))?", re.ASCII)

_KNOWN: Final = (
    Network(
        "sm_90", "switch", bandwidth=378.4 * _GB, launch=8.01 * _US, hop=1.26 * _US,
        fill=3.60 * _US, switch_bandwidth=348.5 * _GB, switch_hop=9.37 * _US, copy=1144 * _GB,
        reduce=498.8 * _GB, memory=2600 * _GB,
    ),
    Network(
        "sm_100_B200", "switch", bandwidth=715.9 * _GB, launch=21.57 * _US, hop=0.78 * _US,
        fill=4.43 * _US, switch_bandwidth=516.4 * _GB, switch_hop=7.41 * _US, copy=1839 * _GB,
        reduce=1941 * _GB, memory=4000 * _GB,
    ),
    Network(
        "sm_100_GB200", "switch", bandwidth=752.8 * _GB, launch=3.08 * _US, hop=1.32 * _US,
        fill=9.61 * _US, switch_bandwidth=639.4 * _GB, switch_hop=7.73 * _US, memory=4000 * _GB,
    ),
    Network(
        "sm_103", "switch", bandwidth=738.9 * _GB, launch=3.38 * _US, hop=1.33 * _US,
        fill=7.98 * _US, switch_bandwidth=633.7 * _GB, switch_hop=7.86 * _US, memory=4000 * _GB,
    ),
    Network(
        "gfx942", "mesh", bandwidth=47.69 * _GB, launch=0.0, start=14.00 * _US, hop=2.76 * _US,
        reduce=1570 * _GB, reduce_bf16=0.487, memory=5074 * _GB,
        protocols=("low_latency", "bulk"), flag_latency=0.733,
    ),
    Network(
        "gfx950", "mesh", bandwidth=65.57 * _GB, launch=0.0, start=52.12 * _US, hop=6.84 * _US,
        second_phase=0.0, scatter_hop=0.711, reduce=561.0 * _GB, reduce_bf16=0.835,
        reduce_pair=0.656, memory=5823 * _GB,
    ),
    Network(
        "sm_70", "switch", bandwidth=113 * _GB, launch=8.4 * _US, hop=5.7 * _US, memory=750 * _GB,
        tree_share=0.63, protocols=("low_latency", "line128", "bulk"), flag_latency=0.4 / 5.7,
    ),
)  # fmt: skip
NETWORKS: Final[Mapping[str, Network]] = MappingProxyType({one.name: one for one in _KNOWN})
ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "h100": "sm_90",
        "b200": "sm_100_B200",
        "gb200": "sm_100_GB200",
        "gb300": "sm_103",
        "mi300x": "gfx942",
        "mi350": "gfx950",
        "v100": "sm_70",
    }
)

# The cards of a node together, as such nodes are sold: eight of 400 Gbit/s. Latencies are those of
# NCCL's tuning model (2026): a hop of a ring with 128-byte lines, one of an NVLS tree. V100's are
# NCCL 2.6.4's, but for the bandwidth, which CoCoNet's 4 GiB all-reduce on 8 DGX-2 reaches.
NICS: Final[Mapping[str, Nic]] = MappingProxyType(
    {
        **{name: Nic(8 * 50 * _GB, 4.0 * _US, 20.9 * _US) for name in NETWORKS},
        "sm_70": Nic(81 * _GB, 6.6 * _US),
    }
)


# Where calls are queued behind other work, or replayed as a graph, the host's part of the launch is
# hidden. Fitted, as the kernels below are, to tests/data/network/algorithms.json; the kernels are
# PyTorch's and vLLM's (by the name of their algorithm), and MSCCL++'s, whose figures one kernel
# describes at all sizes.
_QUEUED: Final[Mapping[str, Network]] = MappingProxyType(
    {"sm_90": replace(NETWORKS["sm_90"], launch=0.0, switch_hop=4.62 * _US)}
)
KERNELS: Final[Mapping[str, Mapping[str, Kernel]]] = MappingProxyType(
    {
        "sm_90": MappingProxyType(
            {
                "one_shot": Kernel("one_shot", 2.87 * _US, 0.61 * _US, 0.87),
                "two_shot": Kernel("two_shot", 12.35 * _US, 0.25 * _US, 0.91),
                "switch": Kernel("switch", 11.33 * _US, 0.13 * _US, 0.71),
                "mscclpp": Kernel("switch", 4.06 * _US, 0.34 * _US, 0.88),
            }
        )
    }
)


# What implementations reach that do a product and a collective in one schedule; fitted, each to its
# own rows, to tests/data/network/pairs.json.
OVERLAPS: Final[Mapping[str, Overlap]] = MappingProxyType(
    {
        "flux_gather": Overlap(1.00, 307 * _GB, 10.74 * _US, False),
        "flux_scatter": Overlap(0.60, 231 * _GB, 3.60 * _US, False),
        "triton_distributed": Overlap(0.98, 378 * _GB, 47.95 * _US, False),
        "kraken_chunks": Overlap(0.99, 378 * _GB, 9.39 * _US, True),
        "kraken_triton": Overlap(0.97, 324 * _GB, 1.70 * _US, True),
        "torch_scatter_fp8": Overlap(0.92, 325 * _GB, 5.01 * _US, True),
        "torch_scatter_fp4": Overlap(0.92, 611 * _GB, 26.00 * _US, True),
        "streams": Overlap(0.85, 298 * _GB, 5.01 * _US, False),
        "copy_engine": Overlap(0.98, 304 * _GB, 4.99 * _US, False),
    }
)


def network(name: str, *, queued: bool = False) -> Network:
    """The constants of this hardware, by architecture (`sm_90`) or product (`h100`).

    `queued`: without the host's part of the launch, where that was measured.
    Raises `UncalibratedNetwork` for any other hardware.
    """
    name = ALIASES.get(name, name)
    found = (_QUEUED if queued else NETWORKS).get(name, NETWORKS.get(name))
    if found is None:
        near = difflib.get_close_matches(name, (*NETWORKS, *ALIASES), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UncalibratedNetwork(
            f"no network constants for {name!r}; there are some for {', '.join(NETWORKS)}",
            fix=f"{hint}measure its collectives and fit them (docs/network-model.md), or take"
            " seconds_range over known hardware",
        )
    return found


def parse_cluster(text: str, nic: Nic | None = None) -> Cluster:
    """`h100x8` or `h100x8x32`: hardware, devices of a node, nodes.

    Raises `InvalidCluster` for any other text, `UncalibratedNetwork` for hardware not known.
    """
    found = _SPEC.fullmatch(text)
    if found is None:
        raise InvalidCluster(
            f"{text!r} is not a cluster", fix="write hardware x devices [x nodes], as h100x8x32"
        )
    links = network(found[1])
    nodes = int(found[3] or 1)
    return Cluster(links, int(found[2]), nodes, nic or (NICS.get(links.name)))
