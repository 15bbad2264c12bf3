"""The public door: every name opens, and one call compiles."""

import ast
import runpy
from math import erf, sqrt
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilewright as tw
from tilewright.api import ArrayWeights
from tilewright.codegen.compiler import Options, compile_program
from tilewright.dsl.builder import scope
from tilewright.dsl.errors import (
    DimError,
    DTypeError,
    InvalidModelFunction,
    InvalidPrompt,
    InvalidSession,
    MissingInput,
    MissingWeights,
    NotAnArtifact,
    TeamError,
    UnexpectedWeights,
    UnknownBackend,
    UnknownGraph,
    UnknownInput,
    UnknownTarget,
    WeightFormatMismatch,
    WriteFailed,
)
from tilewright.runtime import tokenizer as tw_tokenizer
from tilewright.target.spec import parse_target

CPU = parse_target("cpu")
ROOT = Path(__file__).parent.parent


@tw.graph(x=tw.f32[tw.dim("rows", 1, 8), 4])
def linear(x: tw.Tensor) -> tw.Tensor:
    return x @ tw.param("w", tw.f32[3, 4]).T


def test_every_name_opens() -> None:
    for name in tw.__all__:
        assert getattr(tw, name) is not None
    with pytest.raises(AttributeError):
        _ = tw.unicorn


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(tw.__file__).read_text())
    seen = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tilewright.")
        for alias in node.names
    }
    assert seen == set(tw.__all__)


@pytest.mark.parametrize("backend", ["reference", "tvm"])
def test_compile_and_run(backend: str) -> None:
    w, x = np.arange(12.0).reshape(3, 4), np.ones((2, 4), np.float32)
    with tw.compile(linear, {"w": w}, backend=backend) as model:
        assert np.array_equal(model.run("linear", {"x": x})["out"], x @ w.T)


@tw.graph(x=tw.f32[tw.dim("rows", 1, 8), 4])
def scoped(x: tw.Tensor) -> tw.Tensor:
    with scope("layer", 0):
        hidden = tw.gelu(x @ tw.param("w", tw.f32[3, 4]).T)
    return hidden @ tw.param("v", tw.f32[5, 3]).T


def test_both_backends_run_what_was_made_in_a_scope() -> None:
    weights = {"layer.0.w": np.arange(12.0).reshape(3, 4) / 10, "v": np.ones((5, 3))}
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    answers: list[np.ndarray] = []
    for backend in ("reference", "tvm"):
        with tw.compile(scoped, weights, backend=backend) as model:
            answers.append(model.run("scoped", {"x": x})["out"])
    assert np.allclose(*answers, atol=1e-6)


def test_folder_that_is_named_stays(tmp_path: Path) -> None:
    tw.compile(tw.program("p", linear), {"w": np.ones((3, 4))}, out=tmp_path / "p",
               backend="reference").close()  # fmt: skip
    with tw.load(tmp_path / "p") as model:
        assert model.graphs == ("linear",)


def test_weights_must_fit() -> None:
    with pytest.raises(MissingWeights):
        tw.compile(linear, backend="reference")
    with pytest.raises(UnexpectedWeights):
        tw.compile(linear, {"w": np.ones((3, 4)), "v": np.ones(1)}, backend="reference")
    with pytest.raises(InvalidModelFunction):
        tw.compile(print, backend="reference")  # pyright: ignore[reportArgumentType]  # wrong


@pytest.mark.parametrize(
    "w",
    [
        [[1, 2], [3]],
        np.full(4, None),
        np.full(4, "x"),
        np.ones(4, np.complex64),
        np.ones(4, "i4,f4"),
        np.array(["2020-01-01"] * 4, "M8[D]"),
        np.array([1, 2, 3, 1e6]),
    ],
    ids=str,
)
def test_weights_must_be_numbers_that_the_format_holds(w: object) -> None:
    @tw.graph(x=tw.f16[4])
    def add(x: tw.Tensor) -> tw.Tensor:
        return x + tw.param("w", tw.f16[4])

    with pytest.raises(WeightFormatMismatch, match="the weight w"):
        tw.compile(add, {"w": w}, backend="reference")


@pytest.mark.parametrize("w", [[1.7, 2], [300, 2], [-129, 2], [float("nan"), 2]], ids=str)
def test_integer_weights_are_not_cut_off(w: list[float]) -> None:
    @tw.graph(x=tw.i8[2])
    def add(x: tw.Tensor) -> tw.Tensor:
        return x + tw.param("w", tw.i8[2])

    with pytest.raises(WeightFormatMismatch):
        tw.compile(add, {"w": w}, backend="reference")
    with tw.compile(add, {"w": [-128, 127]}, backend="reference") as model:
        assert model.run("add", {"x": np.zeros(2, np.int8)})["out"].tolist() == [-128, 127]


def test_arguments_of_another_kind(tmp_path: Path) -> None:
    wrong: Any = 3
    w = {"w": np.ones((3, 4))}
    with pytest.raises(MissingWeights, match="by path"):
        tw.compile(linear, [w["w"]], backend="reference")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnknownTarget):
        tw.compile(linear, w, target=wrong, backend="reference")
    with pytest.raises(UnknownBackend):
        tw.compile(linear, w, backend=wrong)
    with pytest.raises(WriteFailed):
        tw.compile(linear, w, out="a\0b", backend="reference")
    for threads in (0, -1, 2.5, "2", True, 10**9):
        with pytest.raises(TeamError, match="at least one"):
            tw.compile(linear, w, threads=threads, backend="reference")  # pyright: ignore[reportArgumentType]


def test_calls_with_something_else() -> None:
    wrong: Any = 3
    x = np.ones((2, 4), np.float32)
    unnamed: list[Any] = [x, [x], None, 3]

    class Evil:
        def __array__(self, *_: object, **__: object) -> None:
            raise RuntimeError("evil")

    with tw.compile(linear, {"w": np.ones((3, 4))}, backend="reference") as model:
        for inputs in unnamed:
            with pytest.raises(MissingInput, match="by name"):
                model.run("linear", inputs)
        with pytest.raises(UnknownInput):
            model.run("linear", {wrong: x})
        with pytest.raises(DTypeError, match="evil"):
            model.run("linear", {"x": Evil()})
        for graph in unnamed:
            with pytest.raises(UnknownGraph):
                model.run(graph, {"x": x})
        with pytest.raises(InvalidSession):
            model.run("linear", {"x": x}, session=wrong)


@pytest.mark.parametrize("text", ["\udcff", b"hello", None, 3])
def test_prompts_that_are_no_text(text: Any) -> None:
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(InvalidPrompt, match="UTF-8"):
        tw_tokenizer.Tokenizer(words.to_str()).encode(text)


def test_no_work_for_a_folder_that_is_in_use(tmp_path: Path) -> None:
    """The weights are not even looked for."""
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(NotAnArtifact):
        compile_program(tw.program("p", linear).program, ArrayWeights({}), tmp_path, Options(CPU))


def test_readme_shows_the_example() -> None:
    example = (ROOT / "examples" / "thirty_seconds.py").read_text()
    assert f"```python\n{example}```" in (ROOT / "README.md").read_text()


def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path(str(ROOT / "examples" / "thirty_seconds.py"))
    y, weights = found["y"], found["weights"]
    assert y.shape == (3, 256)
    up, down = weights["up.weight"], weights["down.weight"]
    hidden = np.ones(256) @ up.T
    gelu = np.array([0.5 * v * (1 + erf(v / sqrt(2))) for v in hidden])
    assert np.allclose(y[0], 1 + gelu @ down.T, atol=1e-4)


def test_scalars_of_numpy_are_python_numbers() -> None:
    @tw.graph(x=tw.f32[3])
    def scaled(x: tw.Tensor) -> tw.Tensor:
        left = np.sqrt(4.0) * x + np.float32(1) - x
        return (np.int64(6) / left - x) * np.float32(0.5)

    model = tw.compile(scaled, backend="reference")
    x = np.array([1, 2, 3], np.float32)
    found = model.run("scaled", {"x": x})["out"]
    np.testing.assert_allclose(found, (6 / (2 * x + 1 - x) - x) * 0.5, rtol=1e-6)


def test_weights_of_equal_width_do_not_overflow() -> None:
    @tw.graph(x=tw.f16[2])
    def shifted(x: tw.Tensor) -> tw.Tensor:
        return x + tw.param("w", tw.f16[2])

    large = {"w": np.array([1e30, 1.0], ml_dtypes.bfloat16)}
    with pytest.raises(WeightFormatMismatch, match="too large for f16"):
        tw.compile(shifted, large, backend="reference")


def test_weights_and_dimensions_that_are_arrays_are_refused() -> None:
    @tw.graph(x=tw.f32[3])
    def same(x: tw.Tensor) -> tw.Tensor:
        return x + 1.0

    with pytest.raises(MissingWeights, match="ndarray"):
        tw.compile(same, np.zeros(3), backend="reference")  # pyright: ignore[reportArgumentType]  # wrong
    with pytest.raises(DimError, match="ndarray"):
        tw.f32[np.array([1, 2])]  # pyright: ignore[reportArgumentType]  # wrong
