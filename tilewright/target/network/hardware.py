"""Constants of known hardware, fitted to public measurements.

Source of the rows: XLA's collective_perf_table_gen, the tables inside jax-cuda12-pjrt 0.12.0.1
(Apache-2.0), sizes from 1 MiB, single nodes. `benchmarks/network_fit.py` computes the constants
from them, `benchmarks/network_error.py` how far predictions for held-out sizes are off. What is not
fitted: NVIDIA's `memory`, from the difference to the same all-reduces in place (MSCCL++'s figures
for H100, GCP's for B200), and MI350's `second_phase`, an all-reduce of which waits no longer than
its gather.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tilewright.dsl.errors import UncalibratedNetwork
from tilewright.target.network.topology import Network, Nic

_US: Final = 1e-6
_GB: Final = 1e9

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
    }
)

# The cards of a node together, as such nodes are sold: eight of 400 Gbit/s. The share reached and
# the latency are NCCL's (its model's NET hop for rings, 2.7 us), not fitted to these rows.
NICS: Final[Mapping[str, Nic]] = MappingProxyType(
    {name: Nic(8 * 50 * _GB, 2.7 * _US) for name in NETWORKS}
)


def network(name: str) -> Network:
    """The constants of this hardware, by architecture (`sm_90`) or product (`h100`).

    Raises `UncalibratedNetwork` for any other.
    """
    found = NETWORKS.get(ALIASES.get(name, name))
    if found is None:
        near = difflib.get_close_matches(name, (*NETWORKS, *ALIASES), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UncalibratedNetwork(
            f"no network constants for {name!r}; there are some for {', '.join(NETWORKS)}",
            fix=f"{hint}measure its collectives and fit them (docs/network-model.md), or take"
            " seconds_range over known hardware",
        )
    return found
