"""`tilewright tune` on a model of one product."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tests.pickles import pickles_in
from tilewright.cli.main import app

MODEL = """
from tilewright.dsl.builder import graph, param
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32

@graph(x=f32[dim("rows", 1, 16), 24])
def linear(x):
    return x @ param("w", f32[40, 24]).T
"""


def test_one_trial_is_recorded(tmp_path: Path) -> None:
    path, records = tmp_path / "model.py", tmp_path / "records.db"
    path.write_text(MODEL)
    save_file({"w": np.ones((40, 24), np.float32)}, tmp_path / "w.safetensors")
    model = [f"{path}:linear", "--weights", str(tmp_path / "w.safetensors")]
    records_flag = ["--records", str(records), "--json"]
    run = CliRunner().invoke(app, ["tune", *model, *records_flag, "--trials", "1"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    (row,) = found["searched"]
    assert row["trials"] == 1
    assert row["failures"] == 0
    assert pickles_in(tmp_path) == []  # the study and the records, cell by cell
    out = ["-o", str(tmp_path / "artifact")]
    run = CliRunner().invoke(app, ["compile", *model, *records_flag, *out])
    assert run.exit_code == 0, run.output
    records.write_bytes(b"no database " * 100)
    run = CliRunner().invoke(app, ["compile", *model, *records_flag, *out])
    assert run.exit_code == 1
    assert "RecordsUnreadable" in run.output
