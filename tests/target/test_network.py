"""The network model: what it must obey whatever its constants are."""

import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dsl.errors import InvalidCluster, UncalibratedNetwork, UnknownAlgorithm
from tilewright.target.network import (
    ALGORITHMS,
    COLLECTIVES,
    NETWORKS,
    Cluster,
    Network,
    Nic,
    bus_bandwidth,
    choose,
    network,
    parse_cluster,
    seconds,
    seconds_range,
    traffic,
)
from tilewright.target.network.algorithms import Algorithm, Op
from tilewright.target.network.hardware import KERNELS
from tilewright.target.network.kernels import kernel_seconds
from tilewright.target.network.matmul import matmul_seconds, unit
from tilewright.target.network.overlap import Overlap, Pair, fused_seconds, unfused_seconds
from tilewright.target.network.topology import Protocol

MIB = 1 << 20
PROTOCOLS: tuple[Protocol, ...] = ("low_latency", "line128", "bulk")
CARDS = Nic(400e9, 4e-6, 20e-6)
PLAIN = Network("plain", "switch", bandwidth=100e9, launch=5e-6, hop=1e-6, memory=1e12)
MESH = Network("mesh", "mesh", bandwidth=50e9, launch=5e-6, hop=1e-6, memory=1e12)


@given(
    name=st.sampled_from(sorted(NETWORKS)),
    op=st.sampled_from(COLLECTIVES),
    ranks=st.sampled_from((2, 3, 4, 8, 16)),
    nodes=st.sampled_from((1, 2)),
    size=st.integers(1, 1 << 34),
    more=st.integers(0, 1 << 34),
)
def test_more_bytes_are_never_faster(
    name: str, op: Op, ranks: int, nodes: int, size: int, more: int
) -> None:
    cluster = Cluster(network(name), ranks, nodes, CARDS)
    less = seconds(op, ranks * nodes, size, cluster)
    assert 0 < less <= seconds(op, ranks * nodes, size + more, cluster)


@given(
    op=st.sampled_from(COLLECTIVES),
    ranks=st.integers(2, 64),
    size=st.integers(1, 1 << 34),
    protocol=st.sampled_from(PROTOCOLS),
)
def test_no_algorithm_beats_the_links_or_the_launch(
    op: Op, ranks: int, size: int, protocol: Protocol
) -> None:
    cluster = Cluster(PLAIN, ranks)
    for algorithm in ALGORITHMS[op]:
        if algorithm == "switch":
            continue
        sent = traffic(op, algorithm, ranks, size).bytes
        took = seconds(op, ranks, size, cluster, algorithm, protocol)
        assert took >= PLAIN.launch + sent / PLAIN.bandwidth


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 12])
def test_wire_bytes_of_each_algorithm(ranks: int) -> None:
    share = (ranks - 1) / ranks
    once: list[tuple[Op, Algorithm]] = [
        ("all_gather", "ring"), ("all_gather", "halving_doubling"), ("reduce_scatter", "ring"),
        ("reduce_scatter", "all_pairs"), ("all_to_all", "all_pairs"),
    ]  # fmt: skip
    for op, algorithm in once:
        assert traffic(op, algorithm, ranks, MIB).bytes == pytest.approx(share * MIB)
    for algorithm in ("ring", "two_shot", "halving_doubling", "tree"):
        assert traffic("all_reduce", algorithm, ranks, MIB).bytes == pytest.approx(2 * share * MIB)
    assert traffic("all_reduce", "one_shot", ranks, MIB).bytes == (ranks - 1) * MIB
    assert traffic("all_reduce", "switch", ranks, MIB).bytes == MIB + MIB / ranks
    assert traffic("permute", "all_pairs", ranks, MIB).bytes == MIB


def test_messages_that_wait_for_one_another() -> None:
    assert traffic("all_gather", "ring", 8, MIB).hops == 7
    assert traffic("all_reduce", "two_shot", 8, MIB).hops == 1
    assert traffic("all_reduce", "halving_doubling", 12, MIB).hops == 4
    assert traffic("all_reduce", "tree", 9, MIB).hops == 4
    small = {
        algorithm: seconds("all_reduce", 16, 1, Cluster(PLAIN, 16), algorithm)
        for algorithm in ("ring", "tree", "two_shot", "one_shot")
    }
    assert small["one_shot"] < small["two_shot"] < small["tree"] < small["ring"]


@pytest.mark.parametrize("op", ["all_gather", "all_reduce", "reduce_scatter"])
def test_the_bandwidth_of_the_links_is_reached_at_last_and_never_passed(op: Op) -> None:
    huge = 1 << 44
    for fabric, rate in ((PLAIN, 100e9), (MESH, 7 * 50e9)):
        took = seconds(op, 8, huge, Cluster(fabric, 8), "ring")
        reached = bus_bandwidth(op, 8, huge, took)
        assert 0.999 * rate < reached < rate


def test_the_shortest_call_is_what_waiting_costs() -> None:
    assert seconds("all_gather", 8, 0, Cluster(PLAIN, 8), "ring") == pytest.approx(5e-6 + 7e-6)
    assert seconds("all_reduce", 8, 0, Cluster(PLAIN, 8), "ring") == pytest.approx(5e-6 + 14e-6)
    assert seconds("all_gather", 1, MIB, Cluster(PLAIN, 8)) == PLAIN.launch


def test_chunks_cost_least_where_the_formula_says() -> None:
    fill, body = 3e-6, 100e-6
    filled = Network("f", "switch", bandwidth=1e9, launch=0.0, hop=0.0, memory=1.0, fill=fill)
    size = body * 1e9 * 2  # half of it leaves each of two ranks
    took = seconds("all_gather", 2, size, Cluster(filled, 2), "ring")
    by_hand = min(body + k * fill + body / k for k in range(1, 100))
    assert took == pytest.approx(by_hand, rel=0.01)
    assert took == pytest.approx(body + 2 * math.sqrt(fill * body))


def test_protocols_trade_waiting_for_bandwidth() -> None:
    one = Network(
        "p", "switch", bandwidth=100e9, launch=0.0, hop=10e-6, memory=1.0, flag_latency=0.2,
        protocols=("low_latency", "line128", "bulk"),
    )  # fmt: skip
    cluster = Cluster(one, 8)
    chosen = [choose("all_gather", 8, size, cluster).protocol for size in (1, 6 * MIB, 1 << 30)]
    assert chosen == ["low_latency", "line128", "bulk"]
    slow = seconds("all_gather", 8, 1 << 40, cluster, "ring", "low_latency")
    fast = seconds("all_gather", 8, 1 << 40, cluster, "ring", "bulk")
    assert slow == pytest.approx(2 * fast, rel=0.01)


def test_the_library_takes_the_switch_where_it_adds() -> None:
    h100 = parse_cluster("h100x8")
    assert choose("all_reduce", 8, 1 << 28, h100).algorithm == "switch"
    assert choose("all_reduce", 2, 1 << 28, h100).algorithm == "ring"
    assert choose("all_reduce", 8, 1 << 28, parse_cluster("mi300xx8")).algorithm == "ring"


def test_out_of_place_an_all_reduce_copies_its_operand() -> None:
    cluster = Cluster(PLAIN, 8)
    inside = seconds("all_reduce", 8, 1 << 30, cluster)
    outside = seconds("all_reduce", 8, 1 << 30, cluster, in_place=False)
    assert outside - inside == pytest.approx(2 * (1 << 30) / PLAIN.memory)
    gather = [seconds("all_gather", 8, MIB, cluster, in_place=place) for place in (True, False)]
    assert gather[0] == gather[1]


def test_between_nodes_the_cards_are_the_narrowest_part() -> None:
    slow = Nic(10e9, 5e-6)
    one, two = Cluster(PLAIN, 16), Cluster(PLAIN, 8, 2, slow)
    size = 1 << 30
    assert seconds("all_gather", 16, size, two) > 9 * seconds("all_gather", 16, size, one)
    assert seconds("all_gather", 8, size, two) == seconds("all_gather", 8, size, one)
    sent = traffic("all_gather", "ring", 16, size).bytes
    assert seconds("all_gather", 16, size, two) == pytest.approx(sent / 10e9, rel=0.01)


def test_a_mesh_has_no_links_beyond_the_node() -> None:
    size, fast = 1 << 34, Nic(1e15, 1e-6)
    took = seconds("all_gather", 16, size, Cluster(MESH, 8, 2, fast), "ring")
    assert took == pytest.approx(size * 15 / 16 / (7 * 50e9), rel=0.01)


def test_hardware_without_constants_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(UncalibratedNetwork, match="no network constants for 'h200'") as caught:
        network("h200")
    assert "h100" in (caught.value.fix or "") or "b200" in (caught.value.fix or "")
    clusters = [Cluster(network(name), 8) for name in ("h100", "b200")]
    least, most = seconds_range("all_gather", 8, 1 << 30, clusters)
    assert least == seconds("all_gather", 8, 1 << 30, clusters[1])
    assert most == seconds("all_gather", 8, 1 << 30, clusters[0])


def test_what_a_cluster_cannot_do_is_refused() -> None:
    with pytest.raises(InvalidCluster, match="not a cluster"):
        parse_cluster("h100")
    with pytest.raises(InvalidCluster, match="joined by nothing"):
        Cluster(PLAIN, 8, 2)
    with pytest.raises(InvalidCluster, match="has none"):
        Cluster(PLAIN, 0)
    with pytest.raises(InvalidCluster, match="9 ranks do not fit"):
        seconds("all_gather", 9, MIB, Cluster(PLAIN, 8))
    with pytest.raises(UnknownAlgorithm, match="all_gather has no algorithm 'tree'"):
        traffic("all_gather", "tree", 8, MIB)
    with pytest.raises(UnknownAlgorithm, match="there is no collective 'scan'"):
        seconds(cast(Op, "scan"), 8, MIB, Cluster(PLAIN, 8))
    with pytest.raises(UnknownAlgorithm, match="no switch that reduces"):
        seconds("all_reduce", 8, MIB, Cluster(PLAIN, 8), "switch")


def test_clusters_are_read() -> None:
    cluster = parse_cluster("h100x8x32")
    assert (cluster.ranks, cluster.nodes, cluster.network.name) == (256, 32, "sm_90")
    assert cluster.nodes_of(8) == 1
    assert cluster.nodes_of(9) == 2


def test_kernels_pay_less_at_first_and_one_shot_most_at_last() -> None:
    cluster = Cluster(network("h100", queued=True), 8)
    one, two = KERNELS["sm_90"]["one_shot"], KERNELS["sm_90"]["two_shot"]
    small = [kernel_seconds(k, "all_reduce", 8, 1024, cluster) for k in (one, two)]
    large = [kernel_seconds(k, "all_reduce", 8, 64 * MIB, cluster) for k in (one, two)]
    assert small[0] < small[1] < seconds("all_reduce", 8, 1024, cluster)
    assert large[1] < large[0]


def test_products_are_bound_by_the_units_or_by_memory() -> None:
    h100 = unit("sm_90")
    large = matmul_seconds(h100, 8192, 8192, 8192)
    assert 0.7 < 2 * 8192**3 / large / 989e12 < 1
    assert matmul_seconds(h100, 1, 8192, 8192) > 2 * 8192 * 8192 / 3.35e12
    assert matmul_seconds(h100, 128, 4096, 4096) <= matmul_seconds(h100, 256, 4096, 4096)
    with pytest.raises(UncalibratedNetwork, match="no matmul constants"):
        unit("sm_75")


@given(m=st.integers(64, 1 << 16), ranks=st.sampled_from((2, 4, 8)))
def test_overlap_hides_the_shorter_part_and_no_more(m: int, ranks: int) -> None:
    ideal = Overlap(compute=1.0, rate=math.inf, peer=0.0, chunked=False)
    h100, cluster = unit("sm_90"), Cluster(network("h100", queued=True), ranks)
    pair = Pair("gather_matmul", ranks, m, 4096, 4096)
    fused = fused_seconds(pair, ideal, h100, cluster)
    product = matmul_seconds(h100, m, 4096, 4096)
    assert product <= fused < unfused_seconds(pair, h100, cluster)


def test_small_products_are_not_worth_cutting() -> None:
    """Chunks of 128 rows leave half of H100's multiprocessors without a tile."""
    chunks = Overlap(compute=1.0, rate=math.inf, peer=5e-6, chunked=True)
    h100, cluster = unit("sm_90"), Cluster(network("h100", queued=True), 8)
    wins = [
        fused_seconds(pair, chunks, h100, cluster) < unfused_seconds(pair, h100, cluster)
        for pair in (Pair("gather_matmul", 8, 8 * rows, 6656, 4096) for rows in (64, 128, 2048))
    ]
    assert wins == [False, False, True]
