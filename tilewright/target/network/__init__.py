"""How long communication takes: topology, algorithms, protocols, and constants that are physical.

The model says seconds for a collective of any size on any number of ranks; nothing is looked up by
size. `docs/network-model.md` states the formula, its constants and its error.
"""

from tilewright.target.network.algorithms import ALGORITHMS, COLLECTIVES, Traffic, traffic
from tilewright.target.network.hardware import NETWORKS, network, parse_cluster
from tilewright.target.network.model import Choice, bus_bandwidth, choose, seconds, seconds_range
from tilewright.target.network.topology import Cluster, Fabric, Network, Nic

__all__ = [
    "ALGORITHMS",
    "COLLECTIVES",
    "NETWORKS",
    "Choice",
    "Cluster",
    "Fabric",
    "Network",
    "Nic",
    "Traffic",
    "bus_bandwidth",
    "choose",
    "network",
    "parse_cluster",
    "seconds",
    "seconds_range",
    "traffic",
]
