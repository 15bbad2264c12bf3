"""What running an artifact opens, and what it imports."""

import subprocess
import sys
from pathlib import Path

from tests.audit import ROOT, audited
from tests.runtime.programs import write_counter

IMPORTS = "import sys; from tilewright.runtime import LanguageModel, load"
PROGRAM = """
found = LanguageModel(load(sys.argv[1])).generate([3, 1, 4], max_tokens=5)
assert len(found.tokens) == 5
"""


def test_running_opens_nothing_but_the_artifact(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_counter(folder)
    found = audited(IMPORTS, PROGRAM, tmp_path / "log", [folder])
    assert str(folder / "manifest.json") in found.read
    assert str(folder / "weights.safetensors") in found.read
    inside = f"{folder}/"
    strange = {n for n in found.opened if n != str(folder) and not n.startswith(inside)}
    assert strange == found.changed == set()
    assert (found.started, found.network, found.unpickled) == ((), set(), set())


HEAVY = ("torch", "tvm", "tvm_ffi", "triton", "optuna", "transformers", "tokenizers", "networkx")


def test_running_imports_nothing_heavy(tmp_path: Path) -> None:
    write_counter(tmp_path / "model")
    report = f"print([name for name in {HEAVY!r} if name in sys.modules])"
    program = f"{IMPORTS}\n{PROGRAM}\n{report}"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_naming_the_package_loads_none_of_it() -> None:
    program = "import sys, tilewright.runtime as r; print('numpy' in sys.modules, dir(r.load)[:0])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == "False"
