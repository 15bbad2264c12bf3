"""The rules of the house that no linter holds: sizes, names, docstrings, forbidden calls."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILE_LINES = 600
FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


PACKAGE = sources("tilewright")
EVERYTHING = sources("tilewright", "tests", "benchmarks", "examples", "docs")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def long_parts(text: str) -> Iterator[str]:
    """What in this source is longer than a reader should have to hold in mind."""
    if (lines := len(text.splitlines())) > FILE_LINES:
        yield f"file of {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {lines} lines"


def forbidden(text: str) -> Iterator[str]:
    """What this source must not do, with the line where it does it."""
    for node in ast.walk(ast.parse(text)):
        if (fault := _fault(node)) is not None:
            yield f"line {getattr(node, 'lineno', 0)}: {fault}"


def _fault(node: ast.AST) -> str | None:
    match node:
        case ast.Import(names=names) if found := {n.name.split(".")[0] for n in names} & PICKLES:
            return f"imports {min(found)}"
        case ast.ImportFrom(module=str(module)) if module.split(".")[0] in PICKLES:
            return f"imports {module}"
        case ast.Call(func=ast.Name(id=("eval" | "exec" | "__import__") as name)):
            return f"calls {name}()"
        case ast.Call(keywords=keywords) if any(_allows_pickle(k) for k in keywords):
            return "allows pickle"
        case ast.Call(
            func=ast.Attribute(value=ast.Name("np" | "numpy"), attr="load"), keywords=keywords
        ) if not any(k.arg == "allow_pickle" for k in keywords):
            return "does not forbid pickle"
        case ast.ExceptHandler(type=None):
            return "bare except"
        case ast.Raise(
            exc=ast.Name(id="NotImplementedError") | ast.Call(func=ast.Name("NotImplementedError"))
        ):
            return "leaves something unwritten"
        case _:
            return None


def _allows_pickle(keyword: ast.keyword) -> bool:
    off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
    return keyword.arg == "allow_pickle" and not off


@pytest.mark.parametrize("path", EVERYTHING, ids=shown)
def test_files_and_functions_are_short(path: Path) -> None:
    assert list(long_parts(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", PACKAGE, ids=shown)
def test_package_does_nothing_forbidden(path: Path) -> None:
    assert list(forbidden(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", PACKAGE, ids=shown)
def test_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", PACKAGE, ids=shown)
def test_module_name_means_something(path: Path) -> None:
    assert not VAGUE_NAMES & set(path.relative_to(ROOT).with_suffix("").parts)


def test_every_folder_of_the_package_is_a_package() -> None:
    """A folder without `__init__.py` would escape the checks of imports and layers."""
    assert [shown(p.parent) for p in PACKAGE if not (p.parent / "__init__.py").exists()] == []


@pytest.mark.parametrize(
    ("planted", "finding"),
    [
        ("import os, pickle", "line 1: imports pickle"),
        ("from joblib.memory import Memory", "line 1: imports joblib.memory"),
        ("def f():\n    return eval('1')", "line 2: calls eval()"),
        ("exec('x = 1')", "line 1: calls exec()"),
        ("try:\n    pass\nexcept:\n    pass", "line 3: bare except"),
        ("np.load(f, allow_pickle=True)", "line 1: allows pickle"),
        ("np.load(f, allow_pickle=flag)", "line 1: allows pickle"),
        ("np.load(f)", "line 1: does not forbid pickle"),
        ("raise NotImplementedError", "line 1: leaves something unwritten"),
        ("raise NotImplementedError('later')", "line 1: leaves something unwritten"),
    ],
)
def test_planted_fault_is_found(planted: str, finding: str) -> None:
    assert list(forbidden(planted)) == [finding]


def test_harmless_code_is_let_through() -> None:
    fine = "np.load(f, allow_pickle=False)\nmodel.eval()\ntry:\n    pass\nexcept OSError:\n    pass"
    assert list(forbidden(fine)) == []


def test_planted_length_is_found() -> None:
    longest = "def f():\n" + "    x = 1\n" * (FUNCTION_LINES - 1)
    assert list(long_parts(longest)) == []
    assert list(long_parts(longest + "    x = 1\n")) == ["line 1: f has 61 lines"]
    assert list(long_parts("x = 1\n" * FILE_LINES)) == []
    assert list(long_parts("x = 1\n" * (FILE_LINES + 1))) == ["file of 601 lines"]
