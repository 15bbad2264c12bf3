"""Compiling from the command line: every kind of source, the cache, what is stored."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cli.shell import call, compiled, write_model, write_weights
from tests.faults import FailingCalls
from tilewright.dsl.builder import graph
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import SymbolRangeError
from tilewright.dsl.ops.elementwise import tanh
from tilewright.dsl.program import program
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.text import print_program
from tilewright.runtime import folder, load
from tilewright.runtime.artifact import open_artifact
from tilewright.runtime.schema import CollectiveStep


@graph(x=f32[dim("n", 1, 9), 2])
def squashed(x: Tensor) -> Tensor:
    return tanh(x)


def run(folder: Path, graph: str = "layer", columns: int = 4) -> np.ndarray:
    x = np.linspace(-2, 2, 3 * columns, dtype=np.float32).reshape(3, columns)
    with load(folder) as model:
        (found,) = model.run(graph, {"x": x}).values()
    return found


def test_function_of_a_python_file(tmp_path: Path) -> None:
    assert run(compiled(tmp_path)).shape == (3, 4)


def test_callable_that_returns_a_program_and_its_weights(tmp_path: Path) -> None:
    w = np.arange(12, dtype=np.float32).reshape(3, 4)
    weights = write_weights(tmp_path, w=w)
    out = compiled(tmp_path, "whole", "--weights", weights)
    x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    assert np.allclose(run(out, "linear"), x @ w.T, atol=1e-5)


def test_program_in_text_form(tmp_path: Path) -> None:
    path = tmp_path / "p.tw"
    path.write_text(print_program(program("p", squashed).program))
    done = call("compile", path, "--backend", "reference", "-o", tmp_path / "out", "--untrusted")
    assert done.code == 0, done.err
    assert np.allclose(run(tmp_path / "out", "squashed", 2)[0], np.tanh([-2, -1.2]), atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "tvm"])
def test_a_symbol_that_nothing_mentions_is_held_to_its_range(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "p.tw"
    path.write_text(
        "program p {\n"
        "  symbol past = 0..6 % 2\n"
        "  graph g(x: f32[2], past: symbol) -> (y: y, at: past) {\n"
        "    y: f32[2] = add(x, x)\n"
        "  }\n"
        "}\n"
    )
    done = call("compile", path, "--backend", backend, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    with load(tmp_path / "out") as model:
        x = np.ones(2, np.float32)
        found = model.run("g", {"x": x, "past": 4})
        assert (found["y"].tolist(), found["at"]) == ([2, 2], 4)
        (record,) = model.signature("g").scalars
        assert (record.lo, record.hi, record.multiple_of) == (0, 6, 2)
        for past in (8, 3, -2):
            with pytest.raises(SymbolRangeError, match=f"past is {past}"):
                model.run("g", {"x": x, "past": past})


def test_kernels_agree_with_the_reference(tmp_path: Path) -> None:
    reference = run(compiled(tmp_path))
    out = tmp_path / "kernels"
    done = call("compile", f"{write_model(tmp_path)}:layer", "-o", out, "--json")
    assert done.code == 0, done.err
    assert done.data["kernels"] > 0
    assert np.allclose(run(out), reference, atol=1e-6)


def test_second_compilation_does_nothing(tmp_path: Path) -> None:
    out = compiled(tmp_path)
    before = (out / "manifest.json").stat().st_mtime_ns
    model = f"{tmp_path / 'model.py'}:layer"
    again = call("compile", model, "--backend", "reference", "-o", out, "--json")
    assert again.data["cached"] is True
    assert (out / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["program", "option", "weights", "damage"])
def test_what_changes_is_compiled_again(tmp_path: Path, change: str) -> None:
    w = write_weights(tmp_path, w=np.ones((3, 4), np.float32))
    out = compiled(tmp_path, "linear", "--weights", w)
    options = ["--backend", "reference", "--weights", w, "-o", out, "--json"]
    match change:
        case "program":
            path = tmp_path / "model.py"
            path.write_text(path.read_text().replace(".T}", ".T + 1.0}"))
        case "option":
            options += ["--passes", "dce"]
        case "weights":
            write_weights(tmp_path, w=np.zeros((3, 4), np.float32))
        case _:
            os.truncate(out / "graph.tw", 5)
    done = call("compile", f"{tmp_path / 'model.py'}:linear", *options)
    assert done.code == 0, done.err
    assert done.data["cached"] is False


def test_place_and_time_of_inputs_do_not_matter(tmp_path: Path) -> None:
    keys: list[bytes] = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        w = write_weights(folder, w=np.ones((3, 4), np.float32))
        os.utime(w, (1, len(keys) + 1))
        keys.append((compiled(folder, "linear", "--weights", w) / "manifest.json").read_bytes())
    assert keys[0] == keys[1]


def files_in(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("known", [True, False])
def test_a_full_disk_at_any_call_keeps_the_old_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    model, w = write_model(tmp_path), write_weights(tmp_path, w=np.ones((3, 4), np.float32))
    temporary, work = tmp_path / "temporary", tmp_path / "work"
    temporary.mkdir()
    work.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    options = ["--backend", "reference", "-o", work / "out", "--force"]
    failed = 0
    for fail_at in range(100):
        if known:
            assert call("compile", f"{model}:layer", *options).code == 0
        old = files_in(work)
        with monkeypatch.context() as patch:
            faults = FailingCalls(patch, folder, fail_at)
            done = call("compile", f"{model}:linear", "--weights", w, *options)
        assert list(temporary.iterdir()) == []
        assert [path.name for path in work.iterdir()] in ([], ["out"])
        if faults.calls <= fail_at:
            assert done.code == 0, done.err
            break
        failed += done.code
        # A folder that is there already need not be made: that fault harms nobody.
        assert done.code == 0 or (done.code == 1 and files_in(work) == old)
        assert done.code == 0 or "No space left" in done.err
        if done.code == 0:
            shutil.rmtree(work / "out")
    assert failed > 20
    assert run(work / "out", "linear").shape == (3, 3)


def test_fallback_runs_what_the_backend_refuses(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        "import tilewright as tw\n@tw.graph(x=tw.f64[3])\ndef wide(x):\n    return {'y': x + x}\n"
    )
    refused = call("compile", f"{path}:wide", "-o", tmp_path / "out")
    assert refused.code == 1
    assert "--fallback reference" in refused.err
    assert not (tmp_path / "out").exists()
    done = call("compile", f"{path}:wide", "-o", tmp_path / "out", "--fallback", "reference")
    assert done.code == 0, done.err
    with load(tmp_path / "out") as model:
        assert model.run("wide", {"x": np.ones(3)})["y"].tolist() == [2, 2, 2]


def test_an_entry_of_the_plan_that_names_no_choice_is_told(tmp_path: Path) -> None:
    path, plan = tmp_path / "p.tw", tmp_path / "plan.json"
    path.write_text(print_program(program("p", squashed).program))
    plan.write_text('{"tile_weights:lyers.*": "rows"}')
    done = call("compile", path, "--plan", plan, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "'tile_weights:lyers.*' of the plan names no choice" in done.err
    (told,) = call("explain", tmp_path / "out", "--rule", "plan", "--json").data["decisions"]
    assert told["outcome"] == "refused"
    assert told["places"] == ["p/tile_weights:lyers.*"]


def test_the_settings_file_says_where_the_cache_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", "")  # restored after what the file sets
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tilewright.toml").write_text(f'cache_dir = "{tmp_path / "kept"}"\n')
    (tmp_path / "p.tw").write_text(print_program(program("p", squashed).program))
    done = call("compile", "p.tw", "-o", "out")
    assert done.code == 0, done.err
    assert call("cache", "ls", "--json").data["entries"]
    assert any((tmp_path / "kept").iterdir())


MLP = """
import tilewright as tw


@tw.graph(x=tw.f32[8, 16])
def mlp(x):
    up, down = tw.param("up", tw.f32[64, 16]), tw.param("down", tw.f32[16, 64])
    return {"y": tw.gelu(x @ up.T) @ down.T + x}
"""


def write_mlp(folder: Path) -> list[object]:
    path = folder / "mlp.py"
    path.write_text(MLP)
    rng = np.random.default_rng(0)
    up, down = rng.normal(size=(64, 16)), rng.normal(size=(16, 64))
    weights = write_weights(folder, up=up.astype(np.float32), down=down.astype(np.float32))
    return [f"{path}:mlp", "--weights", weights, "--backend", "reference"]


def test_a_mesh_gets_an_artifact_for_each_rank(tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = [*write_mlp(tmp_path), "--mesh", "dp=2,tp=2", "--shard", "megatron", "-o", out]
    done = call("compile", *asked, "--json")
    assert done.code == 0, done.err
    assert done.data["ranks"] == 4
    assert sorted(path.name for path in out.iterdir()) == [f"rank{i}" for i in range(4)]
    manifest = open_artifact(out / "rank3").manifest
    assert (manifest.rank, manifest.mesh) == (3, [("dp", 2), ("tp", 2)])
    (plan,) = manifest.graphs
    assert plan.inputs[0].shape == ["4", "16"], "data parallel over dp without being asked"
    assert any(isinstance(step, CollectiveStep) for step in plan.steps)
    assert call("compile", *asked, "--json").data["cached"]


def test_explain_tells_what_is_sent(tmp_path: Path) -> None:
    asked = [*write_mlp(tmp_path), "--mesh", "tp=4", "--shard", "megatron"]
    done = call("explain", *asked, "--rule", "shard", "--json")
    assert done.code == 0, done.err
    reasons = [d["reason"] for d in done.data["decisions"]]
    assert any("over tp of f32[8, 16]" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "megatron"], "there is none"),
        (["--mesh", "tp"], "cannot read the mesh"),
        (["--mesh", "tp=2,tp=2"], "cannot read the mesh"),
        (["--mesh", "ep=2", "--shard", "megatron"], "the mesh has ep"),
        (["--mesh", "tp=2", "--shard", "quick@tp"], "no strategy 'quick'"),
        (["--mesh", "tp=3", "--shard", "input/x:tp=shard(0)"], "do not divide dimension 0"),
        (["--mesh", "tp=2", "--shard", "data@tp", "--passes", "dce"], "both say"),
    ],
)
def test_meshes_that_do_not_fit_get_a_sentence(
    tmp_path: Path, options: list[str], message: str
) -> None:
    done = call("compile", *write_mlp(tmp_path), *options, "-o", tmp_path / "out")
    assert done.code != 0
    assert message in " ".join(done.err.split())
    assert not (tmp_path / "out").exists()
