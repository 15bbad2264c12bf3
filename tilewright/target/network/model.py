"""Seconds of a collective: waiting, moving, and the chunks of a pipeline.

    seconds = launch + wait + body + 2 sqrt(phases * fill * body) + copy

`wait` is what messages that depend on one another take, `body` is bytes over rates. The third term
is the least that cutting `body` into k chunks costs, min over k of (k fill + body / k) for each
phase: libraries open more channels and cut more chunks as sizes grow, which is why bandwidth rises
so slowly with size. Without it the form is Hockney's, "The communication challenge for MPP",
Parallel Computing 20(3), 1994.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tilewright.dsl.errors import UnknownAlgorithm
from tilewright.target.network.algorithms import Algorithm, Op, Traffic, traffic
from tilewright.target.network.topology import Cluster, Network, Protocol

# Useful bytes in one that is sent: 8-byte words of half data, half flag; lines of 128 bytes with a
# flag of 8; data alone, with flags beside them. Source: NCCL's documentation of NCCL_PROTO.
_USEFUL: Final[dict[Protocol, float]] = {"low_latency": 0.5, "line128": 120 / 128, "bulk": 1.0}

# Which algorithms the vendors' libraries choose among; the others belong to kernels of one's own.
_LIBRARY: Final[dict[Op, tuple[Algorithm, ...]]] = {
    "all_gather": ("ring",),
    "reduce_scatter": ("ring",),
    "all_reduce": ("ring", "tree", "switch"),
    "all_to_all": ("all_pairs",),
    "permute": ("all_pairs",),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What the library is expected to run, and how long it takes."""

    algorithm: Algorithm
    protocol: Protocol
    seconds: float


def seconds(
    op: Op,
    ranks: int,
    bytes: float,
    cluster: Cluster,
    algorithm: Algorithm | None = None,
    protocol: Protocol | None = None,
    *,
    dtype: str = "f32",
    in_place: bool = True,
) -> float:
    """Seconds that `op` takes on the first `ranks` ranks of `cluster`.

    `bytes` are those of the whole logical tensor (see `traffic`). Without `algorithm` or `protocol`
    the library's own choice is taken. Out of place, an all-reduce copies its operand first.

    Raises `UnknownAlgorithm` if the op or the hardware has no such algorithm, `InvalidCluster` if
    there are not so many ranks.
    """
    if algorithm is None:
        return choose(op, ranks, bytes, cluster, protocol, dtype=dtype, in_place=in_place).seconds
    return min(
        _seconds(op, ranks, bytes, cluster, algorithm, one, dtype, in_place)
        for one in (cluster.network.protocols if protocol is None else (protocol,))
    )


def choose(
    op: Op,
    ranks: int,
    bytes: float,
    cluster: Cluster,
    protocol: Protocol | None = None,
    *,
    dtype: str = "f32",
    in_place: bool = True,
) -> Choice:
    """The library's choice: the fastest of its algorithms and protocols on this hardware.

    Raises as `seconds` does.
    """
    if op not in _LIBRARY:
        raise UnknownAlgorithm(
            f"there is no collective {op!r}", fix=f"take one of {', '.join(_LIBRARY)}"
        )
    algorithms: list[Algorithm] = [a for a in _LIBRARY[op] if _chosen_from(op, a, ranks, cluster)]
    protocols = cluster.network.protocols if protocol is None else (protocol,)
    return min(
        (
            Choice(a, p, _seconds(op, ranks, bytes, cluster, a, p, dtype, in_place))
            for a in algorithms
            for p in protocols
        ),
        key=lambda choice: choice.seconds,
    )


def seconds_range(
    op: Op, ranks: int, bytes: float, clusters: Iterable[Cluster]
) -> tuple[float, float]:
    """The least and the most that `op` takes on any of `clusters`: for hardware not calibrated."""
    found = [seconds(op, ranks, bytes, cluster) for cluster in clusters]
    return min(found), max(found)


def wire_seconds(
    op: Op, algorithm: Algorithm, cluster: Cluster, ranks: int, bytes: float, share: float = 1.0
) -> float:
    """What the links alone need: no launch, no waiting, no chunks.

    `share` is the part of the links' bandwidth that is reached within a node. Raises as `seconds`.
    """
    _check(algorithm, cluster.network)
    return _wire(algorithm, cluster, ranks, bytes, traffic(op, algorithm, ranks, bytes), share)


def bus_bandwidth(op: Op, ranks: int, bytes: float, seconds: float) -> float:
    """Bytes a second that a ring would have to carry, as nccl-tests reports it."""
    if op == "permute":
        return bytes / seconds
    return (2 if op == "all_reduce" else 1) * (ranks - 1) / ranks * bytes / seconds


def _chosen_from(op: Op, algorithm: Algorithm, ranks: int, cluster: Cluster) -> bool:
    """Two ranks have nothing to gain from a switch that adds; trees are for several nodes."""
    if algorithm == "switch":
        return cluster.network.switch_bandwidth > 0 and ranks > 2
    if algorithm == "tree":
        return cluster.nodes_of(ranks) > 1
    # Where the switch adds, the library takes it throughout: nothing is gained by a ring there.
    reduces = op == "all_reduce" and ranks > 2 and cluster.nodes_of(ranks) == 1
    return not (reduces and cluster.network.switch_bandwidth > 0)


def _seconds(
    op: Op,
    ranks: int,
    bytes: float,
    cluster: Cluster,
    algorithm: Algorithm,
    protocol: Protocol,
    dtype: str,
    in_place: bool,
) -> float:
    network = cluster.network
    _check(algorithm, network)
    if cluster.nodes_of(ranks) == 1 == ranks:
        return network.launch
    sent = traffic(op, algorithm, ranks, bytes)
    wait = _wait(op, algorithm, cluster, ranks, sent)
    body = _wire(algorithm, cluster, ranks, bytes, sent) / _USEFUL[protocol]
    if algorithm == "ring":
        body += _own_shard(op, network, ranks, bytes, dtype)
    copy = 0.0 if in_place or op != "all_reduce" else 2 * bytes / network.memory
    pipeline = 2 * math.sqrt(sent.phases * network.fill * body)
    return network.launch + _flagged(network, protocol) * wait + body + pipeline + copy


def _check(algorithm: Algorithm, network: Network) -> None:
    if algorithm == "switch" and network.switch_bandwidth == 0:
        raise UnknownAlgorithm(
            f"{network.name} has no switch that reduces", fix="take ring or two_shot"
        )


def _flagged(network: Network, protocol: Protocol) -> float:
    """How long a message waits, relative to bulk; 128-byte lines stand half way (NCCL's own table
    of hop latencies over NVLink has 0.6, 1.9 and 3.4 us).
    """
    match protocol:
        case "low_latency":
            return network.flag_latency
        case "line128":
            return (1 + network.flag_latency) / 2
        case _:
            return 1.0


def _wait(op: Op, algorithm: Algorithm, cluster: Cluster, ranks: int, sent: Traffic) -> float:
    """Messages that wait for others, and for the cards between nodes."""
    network, nodes = cluster.network, cluster.nodes_of(ranks)
    hop = network.hop * (network.scatter_hop if op == "reduce_scatter" else 1.0)
    if algorithm == "switch":
        levels = network.switch_hop * math.log2(min(ranks, cluster.devices))
        relay = 0.0 if cluster.nic is None else cluster.nic.relay
        return levels + sent.phases * math.log2(nodes) * relay
    if algorithm == "tree" and nodes > 1:
        # Chains within the nodes, trees between them.
        one = (cluster.devices - 1) * hop + _between(cluster, nodes, math.ceil(math.log2(nodes)))
    else:
        crossings = nodes - 1 if algorithm == "ring" else math.log2(nodes)
        inside = max(sent.hops - crossings, 0)
        one = inside * hop + _between(cluster, nodes, crossings)
    return (1 + network.second_phase * (sent.phases - 1)) * (network.start + one)


def _between(cluster: Cluster, nodes: int, crossings: float) -> float:
    return 0.0 if nodes == 1 or cluster.nic is None else crossings * cluster.nic.latency


def _wire(
    algorithm: Algorithm,
    cluster: Cluster,
    ranks: int,
    bytes: float,
    sent: Traffic,
    share: float = 1.0,
) -> float:
    """Seconds on the narrowest part of the way."""
    network, nodes = cluster.network, cluster.nodes_of(ranks)
    tree = network.tree_share if algorithm == "tree" else 1.0
    if algorithm == "switch":
        within = min(ranks, cluster.devices)
        inside = traffic("all_reduce", "switch", within, bytes).bytes / network.switch_bandwidth
    else:
        at_once = max(min(sent.links, cluster.devices - 1), 1)
        links = at_once if network.fabric == "mesh" else 1
        inside = sent.bytes / (network.bandwidth * links * tree)
    if nodes == 1 or cluster.nic is None:
        return inside / share
    outside = _outside(algorithm, cluster, ranks, bytes, sent)
    return max(inside / share, outside / (cluster.nic.bandwidth * tree))


def _outside(
    algorithm: Algorithm, cluster: Cluster, ranks: int, bytes: float, sent: Traffic
) -> float:
    """Bytes that leave a node."""
    nodes, devices = cluster.nodes_of(ranks), cluster.devices
    match algorithm:
        case "ring" | "tree":
            return sent.bytes
        case "switch" | "halving_doubling":
            return sent.phases * bytes * (nodes - 1) / nodes
        case _:
            return devices * sent.bytes * (ranks - devices) / (ranks - 1)


def _own_shard(op: Op, network: Network, ranks: int, bytes: float, dtype: str) -> float:
    """What a rank does with the shard that never travels."""
    if op == "all_gather":
        return bytes / ranks / network.copy
    if op == "reduce_scatter":
        rate = network.reduce * (network.reduce_bf16 if dtype == "bf16" else 1.0)
        return bytes / ranks / (rate * (network.reduce_pair if ranks == 2 else 1.0))
    return 0.0
