"""The event simulation: streams in order, links shared fairly, figures done by hand."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dsl.errors import InvalidSimulation
from tilewright.target.network import parse_cluster, seconds
from tilewright.target.network.simulate import (
    Task,
    Timeline,
    collective_task,
    fair_rates,
    simulate,
    trace,
)

LINKS = {"a": 100.0, "b": 50.0}


def test_a_stream_runs_in_order_and_streams_run_at_once() -> None:
    found = simulate([Task("x", "s", 2.0), Task("y", "s", 3.0), Task("z", "t", 4.0)], {})
    assert found.starts == (0.0, 2.0, 0.0)
    assert found.ends == (2.0, 5.0, 4.0)
    assert found.seconds == 5.0


def test_a_task_waits_for_others() -> None:
    tasks = [Task("x", "s", 2.0), Task("y", "t", 1.0, after=(0,)), Task("z", "s", 1.0, after=(1,))]
    assert simulate(tasks, {}).ends == (2.0, 3.0, 4.0)


def test_two_on_a_link_have_half_each_until_one_is_done() -> None:
    tasks = [Task("x", "s", bytes=100, links=("a",)), Task("y", "t", bytes=200, links=("a",))]
    assert simulate(tasks, LINKS).ends == pytest.approx((2.0, 3.0))


def test_one_that_comes_later_slows_the_first() -> None:
    tasks = [Task("x", "s", bytes=200, links=("a",)), Task("y", "t", 1.0, 50, ("a",))]
    # x moves 100 in the first second, then both move 50 in the next, then x its last 50.
    assert simulate(tasks, LINKS).ends == pytest.approx((2.5, 2.0))


def test_what_a_narrow_link_holds_back_is_left_to_others() -> None:
    rates = fair_rates({0: ("a", "b"), 1: ("b",), 2: ("a",)}, LINKS)
    assert rates == {0: 25.0, 1: 25.0, 2: 75.0}


@given(
    st.dictionaries(
        st.integers(0, 9),
        st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True).map(tuple),
        min_size=1,
    ),
    st.fixed_dictionaries({link: st.integers(1, 100).map(float) for link in "abcd"}),
)
def test_fair_rates_fill_a_link_of_every_flow(
    flows: dict[int, tuple[str, ...]], links: dict[str, float]
) -> None:
    rates = fair_rates(flows, links)
    used = {
        link: sum(rates[flow] for flow, crossed in flows.items() if link in crossed)
        for link in links
    }
    for link, rate in used.items():
        assert rate <= links[link] * (1 + 1e-9)
    for flow, crossed in flows.items():
        # On some full link, nobody has more than this flow: it cannot be given more fairly.
        assert any(
            used[link] >= links[link] * (1 - 1e-9)
            and all(rates[o] <= rates[flow] * (1 + 1e-9) for o, c in flows.items() if link in c)
            for link in crossed
        )


def test_a_chunked_producer_and_its_transfers_take_the_longer_and_one_chunk() -> None:
    chunks, compute, size = 8, 0.5, 60.0
    tasks: list[Task] = []
    for i in range(chunks):
        tasks.append(Task(f"product {i}", "compute", compute))
        tasks.append(Task(f"send {i}", "wire", bytes=size, links=("a",), after=(2 * i,)))
    assert simulate(tasks, LINKS).seconds == pytest.approx(compute + chunks * size / 100)


def test_a_collective_alone_takes_what_the_model_says_and_two_take_longer() -> None:
    cluster, links = parse_cluster("h100x8"), {"nvlink": 400e9}
    one = collective_task("x", "s", "all_gather", 8, 1 << 28, cluster, links, "nvlink")
    two = collective_task("y", "t", "all_gather", 8, 1 << 28, cluster, links, "nvlink")
    alone = seconds("all_gather", 8, 1 << 28, cluster)
    assert simulate([one], links).seconds == pytest.approx(alone)
    assert 1.5 * alone < simulate([one, two], links).seconds < 2 * alone


def test_a_thousand_ranks_take_seconds() -> None:
    ranks, layers = 1024, 12
    links = {f"link {rank // 8}": 1e9 for rank in range(ranks)}
    tasks: list[Task] = []
    for rank in range(ranks):
        for layer in range(layers):
            tasks.append(Task(f"product {layer}", f"compute {rank}", 1e-3))
            crossed = (f"link {rank // 8}",)
            tasks.append(Task("send", f"wire {rank}", 1e-5, 1e4, crossed, after=(len(tasks) - 1,)))
    begin = time.process_time()
    found = simulate(tasks, links)
    assert time.process_time() - begin < 10
    # Eight equal transfers share a link: each takes as long as all of them one after the other.
    assert found.seconds == pytest.approx(layers * 1e-3 + 1e-5 + 8 * 1e4 / 1e9)


def test_the_trace_holds_every_task() -> None:
    found = simulate([Task("x", "s", 2.0), Task("y", "t", 0.0, 50, ("a",))], LINKS)
    events = json.loads(json.dumps(trace(found)))["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert [(e["name"], e["ts"], e["dur"]) for e in spans] == [("x", 0, 2e6), ("y", 0, 5e5)]
    assert {e["args"]["name"] for e in events if e["ph"] == "M"} == {"s", "t"}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task("x", "s", after=(0,)), "waits for"),
        (Task("x", "s", bytes=1, links=("c",)), "crosses 'c'"),
        (Task("x", "s", bytes=1), "over no link"),
        (Task("x", "s", seconds=-1.0), "takes -1.0 s"),
        (Task("x", "s", seconds=float("nan")), "takes nan s"),
    ],
)
def test_what_cannot_be_simulated_is_refused(task: Task, message: str) -> None:
    with pytest.raises(InvalidSimulation, match=message):
        simulate([task], LINKS)


def test_nothing_takes_no_time() -> None:
    assert simulate([], {}) == Timeline((), (), ())
    assert simulate([], {}).seconds == 0.0
