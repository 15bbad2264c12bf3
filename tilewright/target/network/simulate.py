"""Events on streams and links: what runs when, and what it takes where links are shared.

A task starts when the task before it on its stream and those that it waits for have ended. It takes
its `seconds`, then moves its `bytes` over all its `links` at once. Moving tasks share each link
max-min fairly: a rate can only grow where another shrinks that is no larger (Bertsekas and
Gallager, "Data Networks", 1992, section 6.5.2). Rates change only where a task begins or ends to
move, and only for tasks joined to it by links, so that thousands of groups cost little.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tilewright.dsl.errors import InvalidSimulation
from tilewright.target.network.algorithms import Op
from tilewright.target.network.model import choose, wire_seconds
from tilewright.target.network.topology import Cluster


@dataclass(frozen=True, slots=True)
class Task:
    """Work on one stream. `after` are places of earlier tasks in the list that is simulated."""

    name: str
    stream: str
    seconds: float = 0.0
    bytes: float = 0.0
    links: tuple[str, ...] = ()
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Timeline:
    """When each task starts and ends, in seconds, in the order of `tasks`."""

    tasks: tuple[Task, ...]
    starts: tuple[float, ...]
    ends: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return max(self.ends, default=0.0)


def simulate(tasks: Sequence[Task], links: Mapping[str, float]) -> Timeline:
    """Runs `tasks`; `links` are bytes a second. Raises `InvalidSimulation`."""
    for place, task in enumerate(tasks):
        _check(place, task, links)
    run = _Run(tasks, links)
    run.all()
    return Timeline(tuple(tasks), tuple(run.starts), tuple(run.ends))


def collective_task(
    name: str,
    stream: str,
    op: Op,
    ranks: int,
    bytes: float,
    cluster: Cluster,
    links: Mapping[str, float],
    link: str,
    after: tuple[int, ...] = (),
) -> Task:
    """The library's collective as a task on `link`; alone it takes what `seconds` says."""
    choice = choose(op, ranks, bytes, cluster)
    wire = wire_seconds(op, choice.algorithm, cluster, ranks, bytes)
    fixed = choice.seconds - wire
    return Task(name, stream, fixed, wire * links[link], (link,), after)


def trace(timeline: Timeline) -> dict[str, object]:
    """The timeline as Chrome trace events, which Perfetto opens; times in microseconds."""
    streams = {name: i for i, name in enumerate(dict.fromkeys(t.stream for t in timeline.tasks))}
    names: list[dict[str, object]] = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": i, "args": {"name": name}}
        for name, i in streams.items()
    ]
    spans: list[dict[str, object]] = [
        {
            "name": task.name,
            "ph": "X",
            "pid": 0,
            "tid": streams[task.stream],
            "ts": start * 1e6,
            "dur": (end - start) * 1e6,
            "args": {"bytes": task.bytes, "links": list(task.links)},
        }
        for task, start, end in zip(timeline.tasks, timeline.starts, timeline.ends, strict=True)
    ]
    return {"traceEvents": [*names, *spans], "displayTimeUnit": "ns"}


def fair_rates(
    flows: Mapping[int, tuple[str, ...]], links: Mapping[str, float]
) -> dict[int, float]:
    """The max-min fair rate of each flow: fill all alike until a link is full, fix those on it."""
    left = {link: links[link] for crossed in flows.values() for link in crossed}
    on: dict[str, set[int]] = defaultdict(set)
    for flow, crossed in flows.items():
        for link in crossed:
            on[link].add(flow)
    rates: dict[int, float] = {}
    while on:
        narrow = min(on, key=lambda link: left[link] / len(on[link]))
        rate = left[narrow] / len(on[narrow])
        for flow in sorted(on[narrow]):
            rates[flow] = rate
            for link in flows[flow]:
                left[link] -= rate
                on[link].discard(flow)
        on = {link: crossing for link, crossing in on.items() if crossing}
    return rates


def _check(place: int, task: Task, links: Mapping[str, float]) -> None:
    if any(not 0 <= other < place for other in task.after):
        raise InvalidSimulation(
            f"task {place} ({task.name}) waits for {task.after}",
            fix="list a task behind all those that it waits for",
        )
    if missing := [link for link in task.links if not links.get(link, 0) > 0]:
        raise InvalidSimulation(
            f"task {place} ({task.name}) crosses {missing[0]!r}, which has no bandwidth",
            fix=f"take links from {', '.join(links)}",
        )
    if task.bytes > 0 and not task.links:
        raise InvalidSimulation(
            f"task {place} ({task.name}) moves bytes over no link", fix="name the links it crosses"
        )
    if not (0 <= task.seconds < math.inf and 0 <= task.bytes < math.inf):
        raise InvalidSimulation(
            f"task {place} ({task.name}) takes {task.seconds} s and {task.bytes} bytes",
            fix="give numbers that are finite and not negative",
        )


@dataclass(slots=True)
class _Flow:
    """Bytes that are still to move, at a rate that holds since a moment."""

    left: float
    since: float
    rate: float = 0.0
    version: int = 0


@dataclass(slots=True)
class _Run:
    """The state of one simulation. Events are (time, task, version of its flow or -1)."""

    tasks: Sequence[Task]
    links: Mapping[str, float]
    starts: list[float] = field(init=False)
    ends: list[float] = field(init=False)
    _waits: list[int] = field(init=False)
    _followers: dict[int, list[int]] = field(init=False)
    _events: list[tuple[float, int, int]] = field(init=False)
    _flows: dict[int, _Flow] = field(init=False)
    _on: dict[str, set[int]] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.tasks)
        self.starts, self.ends, self._waits = [0.0] * count, [0.0] * count, [0] * count
        self._followers, self._on = defaultdict(list), defaultdict(set)
        self._events, self._flows = [], {}
        last: dict[str, int] = {}
        for place, task in enumerate(self.tasks):
            before = {*task.after, *([last[task.stream]] if task.stream in last else [])}
            last[task.stream] = place
            self._waits[place] = len(before)
            for other in before:
                self._followers[other].append(place)

    def all(self) -> None:
        for place, waits in enumerate(self._waits):
            if waits == 0:
                self._start(place, 0.0)
        while self._events:
            now, place, version = heapq.heappop(self._events)
            if version < 0:
                self._move(place, now)
            elif place in self._flows and self._flows[place].version == version:
                self._leave(place, now)

    def _start(self, place: int, now: float) -> None:
        self.starts[place] = now
        heapq.heappush(self._events, (now + self.tasks[place].seconds, place, -1))

    def _move(self, place: int, now: float) -> None:
        task = self.tasks[place]
        if task.bytes == 0:
            self._end(place, now)
            return
        self._flows[place] = _Flow(task.bytes, now)
        for link in task.links:
            self._on[link].add(place)
        self._share(task.links, now)

    def _leave(self, place: int, now: float) -> None:
        task = self.tasks[place]
        del self._flows[place]
        for link in task.links:
            self._on[link].discard(place)
        self._share(task.links, now)
        self._end(place, now)

    def _end(self, place: int, now: float) -> None:
        self.ends[place] = now
        for other in self._followers[place]:
            self._waits[other] -= 1
            if self._waits[other] == 0:
                self._start(other, now)

    def _share(self, links: Iterable[str], now: float) -> None:
        """New rates for all flows that are joined to `links`, directly or through others."""
        joined = self._joined(links)
        rates = fair_rates({flow: self.tasks[flow].links for flow in joined}, self.links)
        for place, rate in rates.items():
            flow = self._flows[place]
            flow.left = max(flow.left - flow.rate * (now - flow.since), 0.0)
            flow.since, flow.rate, flow.version = now, rate, flow.version + 1
            heapq.heappush(self._events, (now + flow.left / rate, place, flow.version))

    def _joined(self, links: Iterable[str]) -> set[int]:
        found: set[int] = set()
        seen, open_links = set(links), list(links)
        while open_links:
            for flow in self._on[open_links.pop()] - found:
                found.add(flow)
                more = [link for link in self.tasks[flow].links if link not in seen]
                seen.update(more)
                open_links.extend(more)
        return found
