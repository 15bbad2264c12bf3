"""Encoders tuned: a kernel and a choice, recorded, and used by the next compilation."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.autotune.test_tuning import FAULTY, OPTIONS
from tests.models.compiled import ROOT
from tests.models.reference import minilm
from tilewright.autotune.child import DrawnWeights
from tilewright.autotune.expected import drawn_inputs
from tilewright.autotune.records import Records
from tilewright.autotune.study import Budget, search
from tilewright.autotune.subjects import kernel_subjects, plan_subject
from tilewright.codegen.compiler import Options, compile_program
from tilewright.dsl.program import Program
from tilewright.models.bert import bert
from tilewright.models.config import BertConfig, SentenceConfig
from tilewright.runtime.model import load

CHOICE = "horizontal_matmul:*"


def one_layer() -> Program:
    config = BertConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        type_vocab_size=2,
        hidden_act="gelu",
        layer_norm_eps=1e-12,
    )
    return bert(config, SentenceConfig(pooling="mean", normalize=True)).program


def embedded(program: Program, options: Options, folder: Path) -> tuple[Any, NDArray[Any]]:
    """How the program was compiled, and its answer to a few drawn sentences."""
    done = compile_program(program, DrawnWeights(program), folder, options)
    with load(folder, 1) as model:
        inputs = drawn_inputs(program.graph("encode"), {"batch": 3, "seq": 7}, 0)
        return done, model.run("encode", inputs)["embedding"]


def test_one_layer_is_tuned_and_the_next_compilation_uses_it(tmp_path: Path) -> None:
    program, records = one_layer(), Records.at(tmp_path / "records.db")
    # The choice below takes the joined product of queries, keys and values apart: not that kernel.
    kernel = next(
        k for k in kernel_subjects(program, OPTIONS, "matmul_*") if "f32[96" not in k.case.program
    )
    near = kernel.space.neighbours(kernel.space.default)
    schedule = search(kernel, records, Budget(2, 500), FAULTY, near)
    assert (schedule.trials, schedule.failures, schedule.ratio) == (2, {}, 0.5), schedule
    choice = plan_subject(program, OPTIONS, CHOICE, "encode", {"batch": 2, "seq": 8})
    separate = search(choice, records, Budget(1, 500), FAULTY)
    assert separate.winner == {CHOICE: "separate"}, separate

    options = records.applied(program, OPTIONS)
    _, plain = embedded(program, OPTIONS, tmp_path / "plain")
    done, tuned = embedded(program, options, tmp_path / "tuned")
    (met,) = (c for c in done.context.choices.met.values() if c.id.startswith(CHOICE[:-1]))
    assert (met.default, met.taken) == ("fuse", "separate")
    fired = {d.anchor: d for d in done.context.log.decisions if d.rule == "schedule"}
    assert fired[kernel.name].outcome == "fired"
    assert plain.shape == (3, 32)
    np.testing.assert_allclose(tuned, plain, atol=2e-6, rtol=0)


def verb(*arguments: object) -> Any:
    """What one command prints as JSON, in a process of its own: TVM must not meet torch."""
    command = [sys.executable, "-m", "tilewright.cli.main", *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return msgspec.json.decode(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_minilm_is_tuned_and_the_next_compilation_uses_it(tmp_path: Path) -> None:
    file, model = tmp_path / "records.db", minilm.folder()
    refused = verb("tune", model, "--kernel", "which", "--storage", file)
    names = refused["fix"].partition(": ")[2].split(", ")
    flags = ["--kernel", names[0], "--choice", CHOICE, "--at", "batch=2", "--at", "seq=32"]
    found = verb("tune", model, *flags, "--trials", 2, "--budget", 600, "--storage", file)
    choice, *kernels = found["searched"]
    assert (choice["kind"], choice["trials"], choice["failures"]) == ("plan", 1, {}), choice
    assert [(k["name"], k["trials"], k["failures"]) for k in kernels] == [(names[0], 2, {})]

    verb("compile", model, "--storage", file, "-o", tmp_path / "tuned")
    used(tmp_path / "tuned", choice["winner"], [k["name"] for k in kernels if k["winner"]])
    agrees(tmp_path / "tuned")


def used(folder: Path, plan: Any, kernels: list[str]) -> None:
    """What `explain` says of an artifact is what has won, or the default where nothing has."""
    told = verb("explain", folder)
    taken = {c["taken"] for c in told["choices"] if c["id"].startswith(CHOICE[:-1])}
    assert taken == {"fuse" if plan is None else plan[CHOICE]}
    fired = [d for d in told["decisions"] if d["rule"] == "schedule"]
    assert {d["outcome"] for d in fired} <= {"fired"}
    places = {place.removeprefix("kernels/") for d in fired for place in d["places"]}
    assert places == set(kernels)


def agrees(folder: Path) -> None:
    """Sentences have the embeddings that transformers gives them."""
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(1996, 29_000, (3, 17)), np.ones((3, 17), np.int64)
    mask[1, 9:] = 0
    given = {"input_ids": ids.astype(np.int32), "attention_mask": mask.astype(np.int32)}
    with load(folder, 2) as model:
        ours = model.run("encode", given)["embedding"]
    assert np.abs(ours - minilm.embeddings(ids, mask)).max() <= 2e-6
