"""A tuning run: subjects, their share of the time, and what is told of them."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, cast

from tilewright.cli.talk import Steps, Talk, amount

if TYPE_CHECKING:
    from tilewright.autotune.aims import Aims
    from tilewright.autotune.bench import Measure
    from tilewright.autotune.records import Records
    from tilewright.autotune.strategy import Strategy
    from tilewright.autotune.study import Budget, Outcome
    from tilewright.autotune.subjects import Subject
    from tilewright.codegen.compiler import Options
    from tilewright.dsl.errors import BaselineFailed
    from tilewright.dsl.program import Program

Row = dict[str, object]
_REASON: Final = 160

EFFORTS: Final = {"quick": (16, 200.0), "full": (128, 3600.0)}
"""Candidates of a subject and seconds of a run, unless they are given."""

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str) -> float:
    """The seconds of `90`, `90s`, `5m` or `1.5h`. Raises InvalidBudget."""
    from tilewright.dsl.errors import InvalidBudget

    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?)([smh]?)", text, re.ASCII)
    if found is None:
        raise InvalidBudget(f"{text[:40]!r} is no length of time", fix="write 90s, 5m or 1h")
    return float(found[1]) * _UNITS[found[2]]


class TuningRun:
    """One call of the command: what is left of its time, and what was found."""

    def __init__(
        self,
        records: Records,
        budget: Budget,
        searches: int,
        strategy: Strategy = "guided",
        aims: Aims = frozenset({"latency"}),
    ) -> None:
        self.records, self.budget, self.searches = records, budget, searches
        self.aims = aims
        self._strategy: Strategy = strategy
        self.rows: list[Row] = []
        self.complete = True
        self._end = time.perf_counter() + budget.seconds

    @property
    def has_won(self) -> bool:
        """Whether anything that was searched has a winner."""
        return any(row["winner"] is not None for row in self.rows)

    def search(self, subjects: Sequence[Subject], work: Steps) -> None:
        """Searches one after another.

        A choice may take all of the time that is left, a kernel twice its share (the heaviest come
        first). Raises BaselineFailed where no subject could be measured.
        """
        from tilewright.autotune.launch import Launcher

        with Launcher() as launcher:
            self._search(subjects, launcher, work)

    def _search(self, subjects: Sequence[Subject], measure: Measure, work: Steps) -> None:
        from tilewright.autotune.study import Budget, search
        from tilewright.dsl.errors import BaselineFailed

        failed: list[BaselineFailed] = []
        for number, subject in enumerate(subjects):
            left = self._end - time.perf_counter()
            if left <= 0:
                self.complete = False
                return
            head = f"{len(self.rows) + 1}/{self.searches} {subject.name} {subject.key.shapes}"
            part = Budget(self.budget.trials, left * min(1, 2 * _share(subjects[number:])))
            work(f"{head}: preparing")
            try:
                outcome = search(
                    subject,
                    self.records,
                    part,
                    measure,
                    strategy=self._strategy,
                    progress=lambda line, head=head: work.often(f"{head}: {line}"),
                    aims=self.aims,
                )
            except BaselineFailed as mistake:
                failed.append(mistake)
                self.rows.append(self._row(subject, _failed(mistake)))
            except KeyboardInterrupt:
                self.rows.append(self._row(subject, _interrupted(subject, self.records)))
                raise
            else:
                self.rows.append(self._row(subject, outcome))
                self.complete = self.complete and outcome.complete
        if failed and len(failed) == len(subjects):
            raise failed[-1]

    def _row(self, subject: Subject, outcome: Outcome) -> Row:
        key, winner = subject.key, outcome.winner
        row: Row = {
            "name": subject.name,
            "kind": key.kind,
            "shapes": key.shapes,
            "at": dict(subject.case.sizes),
            "winner": None if winner is None else dict(winner),
            "ratio": outcome.ratio,
            "trials": outcome.trials,
            "failures": dict(outcome.failures),
            "reason": outcome.reason,
            "complete": outcome.complete,
        }
        if "memory" in self.aims:
            row["front"] = [
                {"point": c.point, "ratio": c.ratio, "bytes": c.bytes} for c in outcome.front
            ]
        return row


def _share(subjects: Sequence[Subject]) -> float:
    """The part of the first one: half of the time goes by weight, half to all alike."""
    if subjects[0].key.kind == "plan":
        return 1.0
    weight = sum(subject.weight for subject in subjects)
    return (1 / len(subjects) + subjects[0].weight / weight) / 2


def tune_kernels(
    program: Program, options: Options, records: Records, seconds: str, talk: Talk
) -> None:
    """Searches all kernels of a program for so long, and says what was found."""
    from tilewright.autotune.study import Budget

    require_tvm(options)
    subjects = kernels_of(program, options, ["*"])
    run = TuningRun(records, Budget(EFFORTS["quick"][0], seconds_of(seconds)), len(subjects))
    with talk.working(f"tuning {program.name}: {run.searches} searches") as work:
        run.search(subjects, work)
    for row in run.rows:
        talk.say(f"{row['name']} {row['shapes']}: {_verdict(row)}")


def choice_subjects(
    program: Program, options: Options, patterns: list[str], graph: str | None, at: list[str]
) -> Iterator[Subject]:
    """A subject for each pattern of choices. Raises UnsuitableOption, and as `plan_subject`."""
    from tilewright.autotune.subjects import plan_subject
    from tilewright.cli.sizes import read_sizes
    from tilewright.dsl.errors import UnsuitableOption

    if not patterns and (graph is not None or at):
        raise UnsuitableOption(
            "--graph and --at say what choices are timed on, and there are none",
            fix="add --choice, or leave them out: kernels are timed at sizes of their own",
        )
    given = read_sizes(at, {symbol.name: symbol for symbol in program.symbols})
    timed = next((g for g in program.graphs if not g.by_role("state")), program.graphs[0])
    for pattern in patterns:
        yield plan_subject(program, options, pattern, graph or timed.name, given)


def kernels_of(program: Program, options: Options, patterns: list[str]) -> list[Subject]:
    """The kernels that fit one of the patterns, each once. Raises NothingToTune."""
    from tilewright.autotune.subjects import kernel_subjects

    found = [s for pattern in patterns for s in kernel_subjects(program, options, pattern)]
    return list({subject.key: subject for subject in found}.values())


def kernels_of_winners(
    program: Program, options: Options, patterns: list[str], talk: Talk
) -> list[Subject]:
    """The kernels that there are under the plan that has won; it may have others."""
    from tilewright.dsl.errors import NothingToTune

    try:
        return kernels_of(program, options, patterns)
    except NothingToTune as gone:
        talk.say(f"under the plan that has won, {gone.message}")
        return []


def require_tvm(options: Options) -> None:
    """Raises UnsuitableOption for a backend without spaces."""
    from tilewright.dsl.errors import UnsuitableOption

    if options.backend != "tvm":
        raise UnsuitableOption(
            f"the backend {options.backend} leaves nothing open to a tuner", fix="use --backend tvm"
        )


def _failed(mistake: BaselineFailed) -> Outcome:
    from tilewright.autotune.study import Outcome

    return Outcome(None, 1.0, 0, Counter(), mistake.message, complete=False)


def _interrupted(subject: Subject, records: Records) -> Outcome:
    from tilewright.autotune.pareto import pareto
    from tilewright.autotune.records import failures_of
    from tilewright.autotune.study import Outcome

    winner, ratio = records.winner(subject.key) or (None, 1.0)
    found = records.results(subject.key)
    failures = failures_of(found)
    return Outcome(winner, ratio, len(found), failures, "interrupted", False, pareto(found))


def report(run: TuningRun, model: str, talk: Talk) -> None:
    """Tells what a run found, subject by subject, and how to use it."""
    rows, name = run.rows, run.records.store.name
    for row in rows:
        talk.line(f"{row['name']} {row['shapes']}: {_verdict(row)}")
        for place in cast("list[Row]", row.get("front", [])):
            talk.line(f"  {_on_front(place)}")
    if not run.complete:
        talk.say("the time was over before all was tried: run it again to go on")
    use = f"tilewright compile {model} --storage {name}"
    if run.has_won:
        talk.say(f"use it with: {use} -o DIR")
    else:
        talk.say(f"nothing beats the default outside the noise; kept in {name}")
    if any(len(cast("list[Row]", row.get("front", []))) > 1 for row in rows):
        talk.say(f"less memory, at most 5 % slower: {use} --prefer memory:5% -o DIR")
    talk.result({"storage": name, "searched": rows, "complete": run.complete})


def _on_front(place: Row) -> str:
    point = "default" if place["point"] is None else place["point"]
    return f"x{place['ratio']:.3f}, {amount(cast('int', place['bytes']), 'B')}: {point}"


def _verdict(row: Row) -> str:
    won = "default" if row["winner"] is None else f"x{row['ratio']:.3f} {row['winner']}"
    tried = "1 trial" if row["trials"] == 1 else f"{row['trials']} trials"
    failures = cast("dict[str, int]", row["failures"])
    tried += "".join(f", {count} {kind}" for kind, count in sorted(failures.items()))
    if row["reason"]:
        tried += f": {str(row['reason'])[:_REASON]}"
    return f"{won} ({tried})"
