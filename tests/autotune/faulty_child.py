"""A nursery with planted faults: candidates that break in six ways, and candidates that are wrong.

What is right is said to take half the time, and what is wrong a quarter, so that tests do not
depend on real times.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
from ml_dtypes import bfloat16

from tilewright.autotune import child
from tilewright.autotune.job import Answer, Case, Configuration, Job, Measured, Task
from tilewright.autotune.nursery import serve
from tilewright.autotune.study import ROUNDS
from tilewright.codegen.space import Point
from tilewright.runtime.buffers import Array
from tilewright.runtime.frame import Frame
from tilewright.runtime.guarded import GuardedOutputs
from tilewright.runtime.output_pool import OutputPool

BREAKS, IS_WRONG = 8, 2
"""Values of `unroll`."""
ROWS, AHEAD, TILES = (1, 2, 4, 6), (0, 1, 2), (1, 2, 4)
"""Values of `mr`, `prefetch` and `tiles`; where a point has them says what is planted there."""


def hang() -> None:
    time.sleep(600)


def exhaust() -> None:
    """Takes memory, without touching it, until there is no more."""
    held: list[Any] = []
    while True:
        held.append(np.empty(1 << 28, np.uint8))


def write_far_beyond() -> None:
    """Writes megabytes over the end of an array."""
    array = np.zeros(64, np.uint8)
    ctypes.memset(array.ctypes.data, 255, 1 << 26)


def write_beyond() -> None:
    """Lets kernels write a word over the end of an output, as one with a wrong bound would."""
    placed = Frame.place_outputs

    def place(self: Frame, pool: OutputPool | GuardedOutputs) -> dict[str, Array]:
        outputs = placed(self, pool)
        for array in outputs.values():
            ctypes.memset(array.ctypes.data + array.nbytes, 0, 4)
        return outputs

    Frame.place_outputs = place


BREAKAGES: Mapping[str, Callable[[], object]] = {
    "hang": hang,
    "segfault": lambda: ctypes.string_at(8),
    "abort": os.abort,
    "memory": exhaust,
    "exit": lambda: os._exit(0),
    "far beyond": write_far_beyond,
    "beyond": write_beyond,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}

T = TypeVar("T")
Y = np.ndarray[Any, Any]


def noise(y: Y) -> Y:
    drawn: Y = np.random.default_rng(0).normal(0, 1e-2, y.shape).astype(y.dtype)
    return y + drawn


MISTAKES: Mapping[str, Callable[[Y], Y]] = {
    "one percent": lambda y: y * 1.01,
    "one element": lambda y: y + _at(y, -1, 0.05),
    "first element": lambda y: y + _at(y, 0, 0.05),
    "last row": lambda y: np.concatenate([y[:-1], y[:1]]),
    "rows turned": lambda y: np.roll(y, 1, axis=0),
    "columns turned": lambda y: np.roll(y, 1, axis=-1),
    "zeros": np.zeros_like,
    "not computed": lambda y: np.full_like(y, np.nan),
    "one not computed": lambda y: y + _at(y, y.size // 2, np.nan),
    "infinite": lambda y: y + _at(y, 3, np.inf),
    "sign": lambda y: -y,
    "magnitude": np.abs,
    "coarse": lambda y: (y * 64).round() / 64,
    "bfloat16": lambda y: y.astype(bfloat16).astype(np.float32),
    "clipped": lambda y: np.minimum(y, y.max() / 2),
    "offset": lambda y: y + np.float32(1e-2),
    "half": lambda y: y / 2,
    "last column": lambda y: y - _column(y),
    "noise": noise,
    "last half": lambda y: y * (np.arange(len(y)) < len(y) // 2)[:, None].astype(y.dtype),
}


def planted(number: int) -> Point:
    """What the plant of a number changes in the default, beside `unroll`."""
    rest, row = divmod(number, len(ROWS))
    rest, ahead = divmod(rest, len(AHEAD))
    tiles, pack = divmod(rest, 2)
    return {
        "mr": ROWS[row],
        "prefetch": AHEAD[ahead],
        "pack_rows": bool(pack),
        "tiles": TILES[tiles],
    }


def kind_at(kinds: Mapping[str, T], point: Point) -> T:
    """What is planted at a point: kinds come in turn."""
    numbers = range(len(ROWS) * len(AHEAD) * 2 * len(TILES))
    number = next(n for n in numbers if planted(n).items() <= point.items())
    return [*kinds.values()][number % len(kinds)]


def _at(y: Y, place: Any, value: float) -> Y:
    """An array like y that is `value` at a place, and zero elsewhere."""
    found = np.zeros_like(y)
    found.reshape(-1)[place] = value
    return found


def _column(y: Y) -> Y:
    """The last column, and zero elsewhere."""
    found = np.zeros_like(y)
    found[..., -1] = y[..., -1]
    return found


def answered(job: Job) -> Answer:
    schedules = job.candidate.schedules
    point = schedules[0].point if schedules else {"unroll": 0}
    unroll = point["unroll"]
    if unroll == BREAKS:
        kind_at(BREAKAGES, point)()
    made = child.compiled

    def spoiled(program: Any, case: Case, configuration: Configuration, folder: Any) -> Any:
        model, taken = made(program, case, configuration, folder)
        if unroll == IS_WRONG:
            run, mistake = model.run, kind_at(MISTAKES, point)

            def wrong(*arguments: Any, **options: Any) -> Any:
                return {name: mistake(y) for name, y in run(*arguments, **options).items()}

            model.run = wrong
        return model, taken

    if job.rounds > ROUNDS:  # a confirmation: it was right before
        return Measured([2.0] * job.rounds, [1.0] * job.rounds)
    with patch.object(child, "compiled", spoiled):
        found = child.answer(job)
    if isinstance(found, Measured) and found.mismatch is None:
        return Measured([2.0] * job.rounds, [0.5 if unroll == IS_WRONG else 1.0] * job.rounds)
    return found


def answer(task: Task) -> Answer:
    return answered(task) if isinstance(task, Job) else child.answer(task)


if __name__ == "__main__":
    serve(answer)
