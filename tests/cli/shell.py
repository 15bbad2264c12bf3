"""The command line called in this process, and small programs for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from typer.testing import CliRunner

from tilewright.cli.main import app

MODEL = """
import numpy
import tilewright as tw

rows = tw.dim("rows", 1, 64)


@tw.graph(x=tw.f32[rows, 4])
def layer(x):
    return {"y": tw.gelu(x) * 2.0}


@tw.graph(x=tw.f32[rows, 4])
def linear(x):
    return {"y": x @ tw.param("w", tw.f32[3, 4]).T}


def whole():
    return tw.program("whole", layer, linear)


def broken():
    return 1 / 0


@tw.graph(x=tw.f32[rows, 4])
def wrong(x):
    return x @ x


nothing = 3
"""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """stdout as the one JSON value that it must be."""
        return msgspec.json.decode(self.out)


def call(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    return Result(done.exit_code, done.stdout, done.stderr)


def compiled(folder: Path, function: str = "layer", *more: object) -> Path:
    """An artifact of one function of `MODEL`, run by its meaning."""
    model = write_model(folder)
    out = folder / "out"
    done = call("compile", f"{model}:{function}", "--backend", "reference", "-o", out, *more)
    assert done.code == 0, done.err
    return out


def write_model(folder: Path) -> Path:
    path = folder / "model.py"
    path.write_text(MODEL)
    return path


def write_weights(folder: Path, **arrays: np.ndarray) -> Path:
    from safetensors.numpy import save_file

    path = folder / "w.safetensors"
    save_file(arrays, path)
    return path


def arrays(path: Path, **values: object) -> Path:
    """A .npz file of these arrays."""
    made: dict[str, Any] = {name: np.asarray(value) for name, value in values.items()}
    np.savez(path, **made)
    return path
