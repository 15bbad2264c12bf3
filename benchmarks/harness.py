"""Side-by-side timing: every system in a process of its own, in alternating blocks of calls.

Thread pools that spin after a call slow whoever comes next in the same process, up to threefold;
and a machine drifts, so that systems measured one after the other are not measured alike. Here a
parent asks each child in turn for a block of calls, again and again, and takes medians.

A benchmark script is a `Script`: the parent, or its child where it was started with `--worker`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

REST_SECONDS = 0.05  # lets a pool that still spins go to sleep before the next system's block
BLOCK_SECONDS = 2.0  # no call begins later in a block, so that slow calls do not take an hour
START_SECONDS = 600
WORK_FOLDER = Path(__file__).resolve().parent.parent / "build" / "bench"


class NotAvailable(Exception):
    """A system cannot run here; the message says why and what to do."""

    verdict = "not available"


class WrongNumbers(NotAvailable):
    """A system computes something else; it is not timed."""

    verdict = "wrong"


@dataclass(frozen=True, slots=True)
class Setting:
    """How systems are made ready.

    trials: how many candidates a tuner may measure, the same for all; 0 leaves all untuned.
    folder: where artifacts and what was found by tuning are kept.
    """

    threads: int
    trials: int = 0
    folder: Path = WORK_FOLDER


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: the median over blocks of the block's median call."""

    case: str
    system: str
    value: float
    unit: str
    blocks: tuple[float, ...] = ()
    """The median call of each block, in seconds: intervals are made of them."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """What nothing on this machine exceeds, per second: FLOPs by dtype, bytes read."""

    flops: Mapping[str, float]
    read_bytes: float | None


@dataclass(frozen=True, slots=True)
class Work:
    """What a case must do at least: FLOPs in a dtype, or bytes to read where that is the bound."""

    dtype: str
    flops: float = 0.0
    read_bytes: float = 0.0

    def fraction(self, seconds: float, peaks: Peaks) -> float | None:
        """The fraction of the peak reached by doing this work in so many seconds."""
        peak = peaks.read_bytes if self.read_bytes else peaks.flops.get(self.dtype)
        return None if not peak else (self.read_bytes or self.flops) / seconds / peak


@dataclass(frozen=True, slots=True)
class Measured:
    """The blocks of one system on one case: the median call of each, in seconds."""

    case: str
    system: str
    blocks: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return statistics.median(self.blocks)


# --- the machine ----------------------------------------------------------------------------------


def machine_peaks(threads: int) -> Peaks:
    """Measure the peaks with the C program beside this file; empty where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return Peaks({}, None)
    source = Path(__file__).with_name("machine_peaks.c")
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "machine_peaks")
        build = [compiler, "-O3", "-march=native", "-pthread", str(source), "-o", program]
        if subprocess.run(build, capture_output=True, check=False).returncode:
            return Peaks({}, None)
        ran = subprocess.run([program, str(threads)], capture_output=True, text=True, check=False)
    found = {name: float(value) for name, value in map(str.split, ran.stdout.splitlines())}
    read_bytes = found.pop("read", None)
    found.setdefault("bf16", found["f32"])  # without dots of its own, it is multiplied as f32
    return Peaks(found, read_bytes)


def limit_threads(threads: int) -> None:
    """Set what native libraries read when they are loaded; call it before importing any."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ["TVM_BIND_THREADS"] = "0"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


# --- the child ------------------------------------------------------------------------------------


def serve(prepare: Callable[[], Callable[[int], Sequence[float]]]) -> None:
    """The child: prepare a system, then answer each line `n` with the seconds of n calls.

    `prepare` returns a function that makes n calls; whatever it and the libraries below it print
    goes to stderr, so that stdout carries the protocol alone.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        run = prepare()
    except NotAvailable as reason:
        print(json.dumps({"absent": f"{reason.verdict}: {reason}"}), file=answers)
        return
    except ImportError as error:
        reason = f"{NotAvailable.verdict}: {error}: pip install -e '.[peers]'"
        print(json.dumps({"absent": reason}), file=answers)
        return
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        print(json.dumps(list(run(int(line)))), file=answers)


def timed(call: Callable[[], object]) -> Callable[[int], Sequence[float]]:
    """The function that `serve` wants, for a system where every call is alike.

    A block ends early, after one call at least, where calls take longer than BLOCK_SECONDS.
    """

    def run(count: int) -> list[float]:
        seconds: list[float] = []
        start = begin = time.perf_counter()
        while len(seconds) < count and (not seconds or begin - start < BLOCK_SECONDS):
            call()
            end = time.perf_counter()
            seconds.append(end - begin)
            begin = end
        return seconds

    return run


# --- the parent -----------------------------------------------------------------------------------


class _Absent(Exception):
    """A child's system is not to be timed; the message is the verdict and the reason."""


class Worker:
    """A child process that holds one system, ready for one case."""

    def __init__(self, script: Path, case: str, system: str, arguments: Sequence[str]) -> None:
        self.case = case
        self.system = system
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `stop`)
        self.process = subprocess.Popen(
            [sys.executable, str(script), "--worker", system, "--case", case, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def wait_until_ready(self) -> None:
        """Return when the system is ready to be timed; raise `_Absent` where it never is."""
        answer = self._answer()
        if isinstance(answer, dict) and "absent" in answer:
            raise _Absent(str(answer["absent"]))

    def block(self, calls: int) -> list[float]:
        """Seconds of each of `calls` calls."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        return [float(seconds) for seconds in self._answer()]

    def stop(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()

    def _answer(self) -> dict[str, object] | list[float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(START_SECONDS)
            self.errors.seek(0)
            last = [text for text in self.errors.read().splitlines() if text.strip()][-1:]
            code, verdict = self.process.returncode, NotAvailable.verdict
            raise _Absent(f"{verdict}: exit code {code}: {''.join(last)[-300:]}")
        return json.loads(line)


def compare(
    script: Path,
    case: str,
    systems: Sequence[str],
    arguments: Sequence[str] = (),
    *,
    rounds: int,
    calls: int,
) -> tuple[list[Measured], dict[str, str]]:
    """Time the systems on one case; also returns why those that are missing are missing.

    Children are started one after the other, so that one's start-up never disturbs another's; the
    timed part takes `rounds` turns of a block of `calls` calls each.
    """
    ready: list[Worker] = []
    absent: dict[str, str] = {}
    try:
        for system in systems:
            worker = Worker(script, case, system, arguments)
            ready.append(worker)
            try:
                worker.wait_until_ready()
                worker.block(max(2, calls // 4))  # warms caches, pools and lazy compilers
            except _Absent as reason:
                absent[system] = str(reason)
                ready.remove(worker)
                worker.stop()
        blocks: dict[str, list[float]] = {worker.system: [] for worker in ready}
        for _ in range(rounds):
            for worker in ready:
                blocks[worker.system].append(statistics.median(worker.block(calls)))
                time.sleep(REST_SECONDS)
    finally:
        for worker in ready:
            worker.stop()
    return [Measured(case, name, tuple(times)) for name, times in blocks.items()], absent


# --- the report -----------------------------------------------------------------------------------


def print_heading(threads: int, peaks: Peaks) -> None:
    parts = [f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in peaks.flops.items()]
    if peaks.read_bytes:
        parts.append(f"read {peaks.read_bytes / 1e9:.1f} GB/s")
    measured = ", ".join(parts) or "unknown: there is no C compiler"
    print(f"{threads} threads; measured peaks: {measured}")


def print_table(
    case: str,
    results: Sequence[Measured],
    absent: Mapping[str, str],
    value: Callable[[float], float],
    unit: str,
    work: Callable[[str], Work],
    peaks: Peaks,
) -> None:
    """One line a system: the median, the range of its blocks, and the fraction of the peak."""
    for result in results:
        fraction = work(result.system).fraction(result.seconds, peaks)
        low, high = sorted((value(min(result.blocks)), value(max(result.blocks))))
        share = "-" if fraction is None else f"{fraction:6.1%}"
        print(
            f"{case:32s} {result.system:18s} {value(result.seconds):10.2f} {unit}"
            f"  [{low:.2f} .. {high:.2f}]  {share} of peak",
            flush=True,
        )
    for system, reason in absent.items():
        print(f"{case:32s} {system:18s} {reason}", flush=True)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


# --- a script -------------------------------------------------------------------------------------


class Case(Protocol):
    """What is measured, read from a text such as `decode-512`."""

    @property
    def systems(self) -> Sequence[str]:
        """Those that can run it, in the order of the table."""
        ...

    def figure(self, seconds: float) -> float:
        """What the table shows of a call that takes so many seconds."""
        ...

    def work(self, system: str) -> Work:
        """What a system must do at least in that time."""
        ...


C = TypeVar("C", bound=Case)


@dataclass(frozen=True, slots=True)
class Script(Generic[C]):
    """A benchmark as a command: its cases, and how a system is made ready for one of them."""

    path: Path
    about: str | None
    cases: Sequence[str]
    form: str
    """How a case is written, for the help."""
    unit: str
    """The unit of a case's figure."""
    rounds: int
    calls: int
    parse: Callable[[str], C]
    prepare: Callable[[str, C, Setting], Callable[[int], Sequence[float]]]
    """Makes a system ready for a case; it returns what `serve` wants."""
    report: Callable[[Sequence[Measured]], None]
    """Prints what all the cases say together."""
    work: Callable[[C, str, Path], Work] | None = None
    """A case's work by a system, where the system's files in the folder tell; else `Case.work`."""

    def main(self) -> None:
        """Reads the command line: measures and prints a table, or serves as the child of one."""
        options = self._parser().parse_args()
        limit_threads(options.threads)
        setting = Setting(options.threads, options.trials, options.work_dir)
        if options.worker:
            serve(lambda: self.prepare(options.worker, options.case, setting))
            return
        peaks = machine_peaks(options.threads)
        print_heading(options.threads, peaks)
        results = [r for text in options.cases for r in self._measured(text, options, peaks)]
        self.report(results)
        if options.json:
            write_rows(options.json, [self._row(result) for result in results])

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(description=self.about, allow_abbrev=False)
        parser.add_argument(
            "--cases", nargs="+", type=self._checked, default=self.cases, metavar=self.form
        )
        parser.add_argument("--systems", nargs="+", help="only these")
        parser.add_argument("--threads", type=int, default=2)
        parser.add_argument("--rounds", type=int, default=self.rounds, help="blocks per system")
        parser.add_argument("--calls", type=int, default=self.calls, help="most calls per block")
        parser.add_argument(
            "--trials", type=int, default=0, help="candidates per kernel that each tuner may try"
        )
        parser.add_argument(
            "--work-dir",
            type=Path,
            default=WORK_FOLDER,
            help="keeps what tuning has found; a second run with as many trials does not tune",
        )
        parser.add_argument("--json", type=Path, metavar="FILE")
        parser.add_argument("--worker", help=argparse.SUPPRESS)
        parser.add_argument("--case", type=self.parse, help=argparse.SUPPRESS)
        return parser

    def _checked(self, text: str) -> str:
        """A case's text, if it is one."""
        self.parse(text)
        return text

    def _measured(self, text: str, options: argparse.Namespace, peaks: Peaks) -> Sequence[Measured]:
        """One case, printed."""
        case = self.parse(text)
        systems = [s for s in case.systems if not options.systems or s in options.systems]
        arguments = ["--threads", str(options.threads), "--trials", str(options.trials)]
        arguments += ["--work-dir", str(options.work_dir)]
        results, absent = compare(
            self.path, text, systems, arguments, rounds=options.rounds, calls=options.calls
        )

        def work(system: str) -> Work:
            return self.work(case, system, options.work_dir) if self.work else case.work(system)

        print_table(text, results, absent, case.figure, self.unit, work, peaks)
        return results

    def _row(self, result: Measured) -> Row:
        figure = self.parse(result.case).figure(result.seconds)
        return Row(result.case, result.system, round(figure, 4), self.unit, result.blocks)
