"""What saying hello may cost: asking for help, and naming the package, load nothing heavy."""

import subprocess
import sys

import pytest

from tests.audit import ROOT

HEAVY = (
    "numpy", "ml_dtypes", "msgspec", "lark", "networkx", "rich", "tvm", "tvm_ffi", "torch",
    "triton", "optuna", "tokenizers", "transformers", "gguf", "filelock",
)  # fmt: skip


def loaded(program: str) -> list[str]:
    report = f"import sys; print('|', *[n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.rpartition("|")[2].split()


def test_naming_the_package() -> None:
    assert loaded("import tilewright") == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["compile", "--help"]])
def test_asking_for_help(arguments: list[str]) -> None:
    program = f"from tilewright.cli.main import app\napp({arguments!r}, standalone_mode=False)"
    assert loaded(program) == []


def test_the_report_sees_what_is_loaded() -> None:
    assert loaded("import tilewright; tilewright.f32") == ["numpy", "ml_dtypes"]
