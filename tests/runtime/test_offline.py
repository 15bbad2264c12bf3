"""What running an artifact opens, and what it imports."""

import subprocess
import sys
from pathlib import Path

from tests.audit import ROOT, opened
from tests.runtime.programs import write_counter

IMPORTS = "import sys; from tilewright.runtime import LanguageModel, load"
PROGRAM = """
found = LanguageModel(load(sys.argv[2])).generate([3, 1, 4], max_tokens=5)
assert len(found.tokens) == 5
"""


def test_running_opens_nothing_but_the_artifact(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_counter(folder)
    found = opened(IMPORTS, PROGRAM, tmp_path / "log", [str(folder)])
    assert str(folder / "manifest.json") in found
    assert str(folder / "weights.safetensors") in found
    inside = f"{folder}/"
    assert {name for name in found if name != str(folder) and not name.startswith(inside)} == set()


def test_the_hook_sees_what_is_opened(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"")
    program = "import os; open(sys.argv[2]).close(); os.listdir(os.path.dirname(sys.argv[2]))"
    found = opened("import sys", program, tmp_path / "log", [str(other)])
    assert found == {str(other), str(tmp_path)}


HEAVY = ("torch", "tvm", "tvm_ffi", "triton", "optuna", "transformers", "tokenizers", "networkx")


def test_running_imports_nothing_heavy(tmp_path: Path) -> None:
    write_counter(tmp_path / "model")
    report = f"print([name for name in {HEAVY!r} if name in sys.modules])"
    program = f"{IMPORTS}\n{PROGRAM}\n{report}"
    done = subprocess.run(
        [sys.executable, "-c", program, "", str(tmp_path / "model")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_naming_the_package_loads_none_of_it() -> None:
    program = "import sys, tilewright.runtime as r; print('numpy' in sys.modules, dir(r.load)[:0])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == "False"
