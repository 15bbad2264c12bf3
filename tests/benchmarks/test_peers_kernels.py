"""The benchmark of kernels: cases are read, results are checked, a small case runs."""

import argparse
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

cases: Any = import_module("kernel_cases")
CASES, Case = cases.CASES, cases.Case
WrongNumbers: Any = import_module("harness").WrongNumbers
once: Any = import_module("tuning_folder").once


def test_every_case_is_read() -> None:
    read = [Case.parse(text) for text in CASES]
    assert len(read) == len(set(read)) == 2 * (12 + 3 * 2 + 2 + 8)
    assert Case.parse("attention/8x128/4096/window512/bf16") in read


@pytest.mark.parametrize(
    "text",
    [
        "", "matmul", "matmul/f32", "matmul/2x3/f32", "matmul/2x0x4/f32", "matmul/2x3x4/f16",
        "conv/2x3x4/f32", "softmax/2x3x4/f32", "attention/8x128/128/f32",
        "attention/8x128/128/window/f32", "attention/8x128/128/causal/causal/f32",
    ],
)  # fmt: skip
def test_what_is_no_case_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"KERNEL/SIZES|sizes are written"):
        Case.parse(text)


def test_attention_means_what_its_mask_says() -> None:
    case = Case.parse("attention/2x4/6/window3/f32")
    arrays = case.arrays()
    found = case.reference(arrays)
    q, k, v = (arrays[name].astype(np.float64)[0, :, 1] for name in "qkv")
    for row in range(6):
        seen = slice(max(0, row - 2), row + 1)
        weights = np.exp(q[row] @ k[seen].T / 2)
        np.testing.assert_allclose(found[0, row, 1], weights @ v[seen] / weights.sum(), rtol=1e-12)


def test_visible_pairs_are_the_work_of_attention() -> None:
    work = Case.parse("attention/2x4/6/window3/f32").work("any")
    assert work.flops == 4 * 2 * 4 * (1 + 2 + 3 + 3 + 3 + 3)
    assert Case.parse("matmul/1x3x5/bf16").work("any").read_bytes == 3 * 5 * 2


def test_wrong_numbers_are_told() -> None:
    case = Case.parse("rms_norm/3x8/f32")
    arrays = case.arrays()
    right = case.reference(arrays)
    case.check(right.astype(np.float32), arrays)
    wrong = right.copy()
    wrong[1, 2] += 0.01
    with pytest.raises(WrongNumbers, match=r"off by up to 0\.01"):
        case.check(wrong, arrays)
    wrong[1, 2] = np.nan
    with pytest.raises(WrongNumbers):
        case.check(wrong, arrays)
    with pytest.raises(WrongNumbers, match="shape"):
        case.check(right[:2], arrays)


def test_a_folder_is_tuned_once_for_a_number_of_trials(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    calls: list[int] = []

    def tune(fail: bool = False) -> None:
        calls.append(len(list(folder.iterdir())))
        (folder / "found").touch()
        if fail:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(folder, 8, lambda: tune(fail=True))
    once(folder, 8, tune)
    once(folder, 8, tune)
    once(folder, 16, tune)
    assert calls == [0, 0, 0]


def test_a_small_case_is_checked_and_timed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    rows = tmp_path / "rows.json"
    options = ["--cases", "softmax/4x32/f32", "--systems", "tilewright", "torch-eager"]
    options += ["--rounds", "1", "--calls", "2", "--json", str(rows), "--work-dir", str(tmp_path)]
    ran = subprocess.run(
        [sys.executable, BENCHMARKS / "peers_kernels.py", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    found = [(row["case"], row["system"]) for row in json.loads(rows.read_text())]
    assert found == [("softmax/4x32/f32", "tilewright"), ("softmax/4x32/f32", "torch-eager")], (
        ran.stdout
    )
    assert "x of torch-eager" in ran.stdout
