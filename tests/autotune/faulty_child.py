"""A measuring process with planted faults: candidates that crash, and candidates that are wrong.

What is right is said to take half the time, so that tests do not depend on real ones.
"""

import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

from tilewright.autotune.job import Configuration, Job, Measured

CRASHES, IS_WRONG = 8, 2
"""Values of `unroll`."""


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    unroll = job.candidate.schedules[0].point["unroll"]
    if unroll == CRASHES:
        os.abort()
    from tilewright.autotune import child

    made = child._model

    def planted(program: Any, job: Job, configuration: Configuration, folder: Path) -> Any:
        model = made(program, job, configuration, folder)
        if unroll == IS_WRONG and configuration == job.candidate:
            run = model.run

            def off_by_a_percent(*arguments: Any, **options: Any) -> Any:
                return {name: y * 1.01 for name, y in run(*arguments, **options).items()}

            model.run = off_by_a_percent
        return model

    with patch.object(child, "_model", planted):
        found = child.measure(job)
    if found.mismatch is None:
        found = Measured([2.0] * job.rounds, [1.0] * job.rounds)
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
