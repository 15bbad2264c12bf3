"""Running from the command line: arrays in and out, prompts, sampling."""

from pathlib import Path

import ml_dtypes
import numpy as np

from tests.cli.shell import arrays, call, compiled
from tests.runtime.programs import write_counter

X = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)


def test_arrays_in_and_out(tmp_path: Path) -> None:
    out = compiled(tmp_path)
    given, made = arrays(tmp_path / "in.npz", x=X), tmp_path / "out.npz"
    done = call("run", out, "--inputs", given, "--outputs", made, "--json")
    assert done.code == 0, done.err
    assert done.data["outputs"]["y"] == {"dtype": "float32", "shape": [5, 4]}
    with np.load(made) as file:
        assert file["y"].shape == (5, 4)
        assert abs(file["y"]).max() > 0.1


def test_results_are_printed_where_no_file_is_named(tmp_path: Path) -> None:
    done = call("run", compiled(tmp_path), "--inputs", arrays(tmp_path / "in.npz", x=X))
    assert done.out.startswith("y float32[5, 4]\n")


def test_short_floats_come_and_go_as_float32(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        "import tilewright as tw\n@tw.graph(x=tw.bf16[3])\ndef f(x):\n    return x + x\n"
    )
    assert call("compile", f"{path}:f", "--backend", "reference", "-o", tmp_path / "o").code == 0
    x = np.array([1, 1.001, 3], np.float32)
    given, made = arrays(tmp_path / "in.npz", x=x), tmp_path / "out.npz"
    done = call("run", tmp_path / "o", "--inputs", given, "--outputs", made)
    assert done.code == 0, done.err
    doubled = 2 * x.astype(ml_dtypes.bfloat16).astype(np.float32)
    with np.load(made) as file:
        assert file["out"].tolist() == doubled.tolist()


def test_graphs_with_state_and_scalars(tmp_path: Path) -> None:
    write_counter(tmp_path / "lm")
    given = arrays(tmp_path / "in.npz", tokens=np.array([[3, 1]], np.int32), past=0)
    done = call("run", tmp_path / "lm", "--graph", "prefill", "--inputs", given, "--json")
    assert done.code == 0, done.err
    assert list(done.data["outputs"]) == ["logits"]
