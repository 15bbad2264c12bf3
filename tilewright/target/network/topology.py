"""What connects devices: links within a node, the switch or mesh they form, cards between nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tilewright.dsl.errors import InvalidCluster

Fabric = Literal["switch", "mesh"]
Protocol = Literal["low_latency", "line128", "bulk"]


@dataclass(frozen=True, slots=True)
class Network:
    """The links of one kind of node. Rates are bytes a second that are reached, times are seconds.

    fabric: `switch` joins every device by all its links; `mesh` gives each pair a link of its own.
    bandwidth: one way, of a device into the switch, or of one link of the mesh.
    launch: from the call to the first byte, once a collective.
    start, hop: one phase of a collective waits `start`, and `hop` for each message that follows
        from another (a ring of n ranks: n - 1 of them).
    second_phase: the share of that wait which the second phase of an all-reduce adds.
    scatter_hop: a hop of a reduce-scatter relative to `hop`.
    fill: what it costs to start one more chunk of a pipeline; the model cuts each transfer into the
        number of chunks that costs least.
    copy, reduce: rates at which a rank copies its own shard into a gathered tensor, and adds its
        own shard to a reduced one. `reduce_bf16` and `reduce_pair` scale the latter where the
        numbers are bfloat16, and where a single peer is served (fewer channels are opened).
    memory: device memory, for the copy that an all-reduce out of place makes first.
    switch_bandwidth, switch_hop: reduction inside the switch (NVLS); no such unit where it is 0.
    tree_share: of the bandwidth, what the trees of an all-reduce reach.
    protocols: what the library chooses among. `bulk` alone where `fill` already describes how it
        treats small transfers.
    flag_latency: the wait under the low-latency protocol relative to the bulk one.
    """

    name: str
    fabric: Fabric
    bandwidth: float
    launch: float
    hop: float
    memory: float
    start: float = 0.0
    second_phase: float = 1.0
    scatter_hop: float = 1.0
    fill: float = 0.0
    copy: float = math.inf
    reduce: float = math.inf
    reduce_bf16: float = 1.0
    reduce_pair: float = 1.0
    switch_bandwidth: float = 0.0
    switch_hop: float = 0.0
    tree_share: float = 1.0
    protocols: tuple[Protocol, ...] = ("bulk",)
    flag_latency: float = 1.0


@dataclass(frozen=True, slots=True)
class Nic:
    """The network cards of a node together: bytes a second one way, and seconds for one message.

    relay: seconds for a message that goes on from a reduction in the switch.
    """

    bandwidth: float
    latency: float
    relay: float = 0.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """`nodes` times `devices` of one kind of network; ranks fill node after node.

    Raises `InvalidCluster` for a cluster of no device, or one of several nodes without cards.
    """

    network: Network
    devices: int
    nodes: int = 1
    nic: Nic | None = None

    def __post_init__(self) -> None:
        if self.devices < 1 or self.nodes < 1:
            raise InvalidCluster(
                f"a cluster of {self.nodes} x {self.devices} devices has none",
                fix="give at least one node with one device",
            )
        if self.nodes > 1 and self.nic is None:
            raise InvalidCluster(
                f"{self.nodes} nodes are joined by nothing",
                fix="say what a node's network cards reach: nic=Nic(bandwidth, latency)",
            )

    @property
    def ranks(self) -> int:
        return self.devices * self.nodes

    def nodes_of(self, ranks: int) -> int:
        """How many nodes the first `ranks` ranks stand on. Raises `InvalidCluster`."""
        if not 1 <= ranks <= self.ranks:
            raise InvalidCluster(
                f"{ranks} ranks do not fit on {self.nodes} x {self.devices} devices",
                fix=f"ask for 1 to {self.ranks} ranks",
            )
        return -(-ranks // self.devices)
