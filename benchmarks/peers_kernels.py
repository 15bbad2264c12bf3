"""Single kernels beside torch, oneDNN, OpenVINO and TVM's MetaSchedule: milliseconds per call.

    python benchmarks/peers_kernels.py [--cases matmul/512x640x2048/f32 ...] [--trials 64]

needs `pip install -e '.[peers,run,tvm,tune,models]'`. The matrix B of a matmul is a constant, which
every side may pack beforehand. Each system's result is compared with one in float64 before it is
timed. With `--trials` our own tuner and MetaSchedule measure as many candidates for each kernel,
and what they find is kept in `--work-dir`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from harness import Script, Setting, timed
from kernel_cases import CASES, Case
from summary import print_summary

SYSTEMS = {
    "tilewright": "kernels_tilewright:run_tilewright",
    "torch-eager": "kernels_torch:eager",
    "torch-compile": "kernels_torch:compiled",
    "torch-autotune": "kernels_torch:autotuned",
    "torch-flex": "kernels_torch:flexible",
    "onednn": "kernels_torch:onednn",
    "openvino": "kernels_openvino:openvino",
    "metaschedule": "kernels_metaschedule:metaschedule",
}
"""Functions that make a system ready for a case and its arrays.

They return a call, and what reads the call's result as an array; they are imported when they are
used, each in a process of its own.
"""


def prepare(system: str, case: Case, setting: Setting) -> Callable[[int], Sequence[float]]:
    """The function that `serve` wants: seconds of n calls, of a system that computes the case."""
    module, _, function = SYSTEMS[system].partition(":")
    made: Any = getattr(import_module(module), function)
    arrays = case.arrays()
    call, read = made(case, arrays, setting)
    case.check(read(call()), arrays)
    return timed(call)


SCRIPT = Script(
    path=Path(__file__),
    about=__doc__,
    cases=CASES,
    form="KERNEL/SIZES/DTYPE",
    unit="ms",
    rounds=9,
    calls=40,
    parse=Case.parse,
    prepare=prepare,
    report=print_summary,
)

if __name__ == "__main__":
    SCRIPT.main()
