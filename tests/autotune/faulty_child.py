"""A measuring process with planted faults: candidates that crash, and candidates that are wrong.

What is right is said to take half the time, so that tests do not depend on real ones.
"""

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tilewright.autotune import child
from tilewright.autotune.job import Answer, Case, Configuration, Job, Measured, Task
from tilewright.autotune.nursery import serve
from tilewright.autotune.study import ROUNDS

CRASHES, IS_WRONG = 8, 2
"""Values of `unroll`."""


def answered(job: Job) -> Answer:
    schedules = job.candidate.schedules
    unroll = schedules[0].point["unroll"] if schedules else None
    if unroll == CRASHES:
        os.abort()
    if job.rounds > ROUNDS:  # a confirmation: it was right before
        return Measured([2.0] * job.rounds, [1.0] * job.rounds)
    made = child._model

    def planted(program: Any, case: Case, configuration: Configuration, folder: Path) -> Any:
        model = made(program, case, configuration, folder)
        if unroll == IS_WRONG:
            run = model.run

            def off_by_a_percent(*arguments: Any, **options: Any) -> Any:
                return {name: y * 1.01 for name, y in run(*arguments, **options).items()}

            model.run = off_by_a_percent
        return model

    with patch.object(child, "_model", planted):
        found = child.answer(job)
    if isinstance(found, Measured) and found.mismatch is None:
        return Measured([2.0] * job.rounds, [1.0] * job.rounds)
    return found


def answer(task: Task) -> Answer:
    return answered(task) if isinstance(task, Job) else child.answer(task)


if __name__ == "__main__":
    serve(answer)
