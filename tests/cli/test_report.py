"""`tilewright report`: one file with everything in it, from records that are planted."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.cli.pages import CHROMIUM, Element, opened, parsed
from tests.cli.shell import call, compiled, write_model, write_weights
from tilewright.autotune.history import histories
from tilewright.autotune.records import RecordKey, Records, Result, failure_class, tools
from tilewright.autotune.subjects import kernel_subjects
from tilewright.cli.report.kernels import Standing, recorded_ratios, together
from tilewright.cli.report.page import embedded
from tilewright.cli.source import Request, open_source
from tilewright.codegen.compiler import Options
from tilewright.codegen.space import Point
from tilewright.target import roofline as machine
from tilewright.target.roofline import Roofline
from tilewright.target.spec import parse_target

LIMITS = Roofline(2, {"f32_fma": (1e9, 2e9), "stream_read": (1e9, 1e9)}, "measured")
KEY = RecordKey("schedule", "f" * 64, "rest", "cpu:znver3", tools())
PLAN = RecordKey("plan", "0" * 64, "encode[seq=64]", "cpu:znver3", tools())
HOSTILE = "</script><script>document.title='owned'</script><!--<b>&"


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of round numbers, so that nothing is measured."""
    monkeypatch.setattr(machine, "recorded_roofline", lambda: LIMITS)


def planted(folder: Path) -> Records:
    """A kernel with a winner and failures, and a choice without."""
    records = Records.at(folder / "records.db")
    for mr in (1, 2, 4, 8):
        for kc in (64, 128, 256, 512):
            records.put(KEY, {"mr": mr, "kc": kc}, Result(0.5 * mr, 1e-3 * mr))
    records.put(KEY, {"mr": 16, "kc": 64}, Result(failure="wrong: y is off by 1"))
    records.put(KEY, {"mr": 16, "kc": 128}, Result(failure="it was ended by signal 11: x"))
    records.put(KEY, {"mr": 16, "kc": 256}, Result(failure="wrong: y is off by 2"))
    records.crown(KEY, {"mr": 1, "kc": 64})
    records.put(PLAN, {"fuse:*": "separate"}, Result(1.5, 1.0))
    return records


def reported(folder: Path, *arguments: object) -> tuple[Element, Any]:
    """The page, and the summary as data."""
    out = folder / "report.html"
    done = call("report", *arguments, "-o", out, "--json")
    assert done.code == 0, done.err
    return parsed(out.read_text("utf-8")), done.data


def figures(page: Element) -> list[dict[str, Any]]:
    embedded = page.by_id("figures")
    assert embedded is not None
    return msgspec.json.decode(embedded.text)


def titles(page: Element) -> list[str]:
    return [figure["layout"]["title"]["text"] for figure in figures(page)]


def test_each_subject_is_summed_up_and_drawn(tmp_path: Path) -> None:
    page, data = reported(tmp_path, planted(tmp_path).store.name)
    kernel, choice = data["subjects"]
    assert (kernel["name"], kernel["trials"], kernel["gain"]) == ("region ffffffffffff", 19, 2.0)
    assert kernel["failures"] == {"wrong": 2, "crashed": 1}
    assert (choice["name"], choice["winner"]) == ("fuse:*", None)
    table = page.by_id("summary")
    assert table is not None
    first, second = [[cell.text for cell in row.all("td")] for row in table.all("tr")[1:]]
    assert first == [
        "region ffffffffffff", "rest", "cpu:znver3", "19", "2 wrong, 1 crashed", "kc=64, mr=1",
        "2.00x",
    ]  # fmt: skip
    assert second[-2:] == ["the default", ""]
    drawn = ["Trials", "What sets the best apart", "Candidates, dimension by dimension"]
    assert titles(page) == [*drawn, "Trials"]
    assert len([d for d in page.all("div") if "data-figure" in d.attributes]) == 4


def test_the_trials_chart_tells_winner_failures_and_the_best_so_far(tmp_path: Path) -> None:
    page, _ = reported(tmp_path, planted(tmp_path).store.name)
    traces = {trace["name"]: trace for trace in figures(page)[0]["data"]}
    assert traces["candidate"]["y"][:5] == [0.5, 0.5, 0.5, 0.5, 1.0]
    assert set(traces["best so far"]["y"]) == {0.5}
    assert (traces["winner"]["x"], traces["winner"]["y"]) == ([1], [0.5])
    assert traces["failed"]["x"] == [17, 18, 19]
    assert "off by 1" in traces["failed"]["text"][0]


def test_memory_is_drawn_where_more_than_one_point_is_not_beaten(tmp_path: Path) -> None:
    records = planted(tmp_path)
    for mr, (ratio, taken) in enumerate(((0.8, 900), (0.9, 950), (1.0, 700)), 32):
        point = {"mr": mr, "kc": 64}
        records.put(KEY, point, Result(ratio, 1.0, None, ratio, ratio, taken, 700))
    page, _ = reported(tmp_path, records.store.name)
    chart = next(f for f in figures(page) if f["layout"]["title"]["text"] == "Memory and time")
    others, front = chart["data"]
    assert (front["x"], front["y"]) == ([0.8, 1.0], [900, 700])
    assert front["text"][1].endswith("the default")
    assert (others["x"], others["y"]) == ([0.9, 1.0], [950, 700])
    records.put(KEY, {"mr": 34, "kc": 64}, Result(0.8, 1.0, None, 0.8, 0.8, 100, 700))
    page, _ = reported(tmp_path, records.store.name)
    assert "Memory and time" not in titles(page)


def test_candidates_of_an_older_space_are_trials_and_no_lines(tmp_path: Path) -> None:
    records = planted(tmp_path)
    records.put(KEY, {"mr": 1, "warps": 4}, Result(0.7, 1.0))
    page, _ = reported(tmp_path, records.store.name)
    trials, _, lines, *_ = figures(page)
    assert 0.7 in trials["data"][0]["y"]
    assert "warps" not in lines["layout"]["xaxis"]["ticktext"]
    crossed = sum(trace["y"].count(None) for trace in lines["data"])
    assert crossed == 19  # lines, of the 16 that were measured and the 3 that failed


def test_an_artifact_stands_on_the_roofline(tmp_path: Path) -> None:
    out = compiled(tmp_path)
    arguments = (planted(tmp_path).store.name, "--artifact", out, "--at", "rows=8")
    page, data = reported(tmp_path, *arguments)
    assert data["kernels"]
    roof = next(f for f in figures(page) if f["layout"]["title"]["text"].startswith("Where"))
    assert "GFLOP/s" in roof["layout"]["yaxis"]["title"]["text"]
    assert "FLOP/byte" in roof["layout"]["xaxis"]["title"]["text"]
    marks = [mark["text"].strip() for mark in roof["layout"]["annotations"]]
    assert marks == ["f32 peak 2 GFLOP/s", "memory 1 GB/s"]
    (dots,) = (trace for trace in roof["data"] if trace["name"] == "prediction, not run")
    assert len(dots["x"]) == len(data["kernels"])  # the reference has no kernel to run
    for kernel in data["kernels"]:
        assert (kernel["origin"], kernel["at"]) == ("predicted", "rows=8")
        assert kernel["seconds"] == max(kernel["flops"] / 2e9, kernel["bytes"] / 1e9)
    place = page.by_id("roofline")
    assert place is not None
    assert figures(page)[int(place.attributes["data-figure"] or "")] == roof


def test_a_tuned_artifact_shows_sources_schedules_and_both_times(tmp_path: Path) -> None:
    w = write_weights(tmp_path, w=np.ones((40, 4), np.float32))
    model = write_model(tmp_path)
    model.write_text(model.read_text().replace("tw.f32[3, 4]", "tw.f32[40, 4]"))
    records, point = won(model, w, tmp_path / "records.db")
    out = tmp_path / "artifact"
    named = [f"{model}:linear", "--weights", w, "--storage", records.store.name]
    done = call("compile", *named, "-o", out)
    assert done.code == 0, done.err

    page, data = reported(tmp_path, records.store.name, "--artifact", out, "--at", "rows=4")
    kernel = data["subjects"][0]["name"]
    default, tuned = (k for k in data["kernels"] if k["kernel"] == kernel)
    assert (default["origin"], default["tuned"]) == ("scaled", False)
    assert (tuned["origin"], tuned["tuned"]) == ("traced", True)
    assert default["seconds"] == pytest.approx(2 * tuned["seconds"])
    assert default["number"] == tuned["number"]
    (block,) = (
        d for d in page.all("details")
        if d.attributes.get("class") == "kernel" and kernel in d.text
    )  # fmt: skip
    assert "@T.prim_func" in block.all("pre")[0].text
    told = [item.text for item in block.all("li")]
    values = ", ".join(f"{name}={value}" for name, value in sorted(point.items()))
    assert told[0].startswith("in this artifact: rest: ")
    assert told[1] == f"on record: rest: {values} (2.00x over the default)"
    page, data = reported(tmp_path, records.store.name, "--artifact", out, "--no-trace")
    assert {k["origin"] for k in data["kernels"]} == {"predicted"}


def won(model: Path, weights: Path, path: Path) -> tuple[Records, Point]:
    """Records by which another point than the default takes half the default's time."""
    request = Request(f"{model}:linear", weights)
    options = Options(parse_target("cpu:native"))
    (subject,) = kernel_subjects(open_source(request, print).program, options)
    point = next(subject.space.neighbours(subject.space.default))
    records = Records.at(path)
    records.put(subject.key, point, Result(0.5, 1.0))
    records.crown(subject.key, point)
    return records, point


def hostile(folder: Path) -> Path:
    """Records whose every text is markup."""
    records = Records.at(folder / "hostile.db")
    key = RecordKey("schedule", HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    for number in range(16):
        records.put(key, {HOSTILE: number % 4, "mr": f"{HOSTILE}{number // 4}"}, Result(1.0, 1.0))
    records.put(key, {HOSTILE: 0, "mr": HOSTILE}, Result(failure=HOSTILE))
    return folder / "hostile.db"


def test_texts_of_records_never_become_markup(tmp_path: Path) -> None:
    plain, _ = reported(tmp_path, planted(tmp_path).store.name)
    page, data = reported(tmp_path, hostile(tmp_path))
    assert data["subjects"][0]["shapes"] == HOSTILE
    assert len(page.all("script")) == len(plain.all("script")) == 3
    assert page.all("b") == []
    cells = page.all("td")
    assert cells[1].text == HOSTILE  # shown as it is
    assert len(figures(page)) == 3
    labels = [text for f in figures(page) for t in f["data"] for text in t.get("text") or []]
    assert any(labels)
    assert not any("<b>" in text for text in labels if text is not None)


def test_json_in_a_script_element_cannot_end_it() -> None:
    text = embedded({"x": HOSTILE + "\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert msgspec.json.decode(text) == {"x": HOSTILE + "\u2028"}


def test_an_empty_store_gives_a_page_that_says_so(tmp_path: Path) -> None:
    records = Records.at(tmp_path / "records.db")
    records.require_writable()
    page, data = reported(tmp_path, records.store.name)
    nothing = page.by_id("nothing")
    assert nothing is not None
    assert "There is nothing" in nothing.text
    assert data["subjects"] == data["kernels"] == figures(page) == []


def test_the_records_of_the_user_need_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))
    page, _ = reported(tmp_path)
    assert "nothing was tuned yet" in page.text


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (["absent.db"], "RecordsUnreadable"),
        (["damaged.db"], "RecordsUnreadable"),
        (["records.db", "--at", "rows=1"], "UnsuitableOption"),
        (["records.db", "--artifact", "nowhere"], "ArtifactNotFound"),
        (["records.db", "-o", "absent/report.html"], "WriteFailed"),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], mistake: str
) -> None:
    monkeypatch.chdir(tmp_path)
    planted(tmp_path)
    (tmp_path / "damaged.db").write_bytes(b"no database " * 100)
    done = call("report", "-o", "report.html", *arguments, "--json")
    assert (done.code, done.data["error"]) == (1, mistake), done.err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("wrong: y differs", "wrong"),
        ("it took longer than 3 s", "too slow"),
        ("it was ended by signal 9: it said nothing", "crashed"),
        ("it ended with 1: MemoryError", "ended"),
        ("LoweringRefused: no", "LoweringRefused"),
        (f"{HOSTILE}: no", "other"),
        ("", "other"),
    ],
)
def test_failures_have_classes(reason: str, name: str) -> None:
    assert failure_class(reason) == name


def standing(tuned: bool, seconds: float, origin: Any = "traced") -> Standing:
    return Standing(
        0, "g", "", "matmul_ffffffffffff", ("matmul",), 1, "f32", 8, 8, "memory", 1.0, 1.0,
        seconds, origin, tuned,
    )  # fmt: skip


def test_a_time_that_was_taken_comes_before_one_that_is_told_by_a_ratio() -> None:
    ratios = {"ffffffffffff": 0.5}
    one, two = together([[standing(True, 1.0)], [standing(False, 3.0)]], ratios)
    assert [(s.tuned, s.seconds, s.origin, s.number) for s in (one, two)] == [
        (False, 3.0, "traced", 1),
        (True, 1.0, "traced", 1),
    ]
    one, two = together([[standing(False, 3.0)]], ratios)
    assert (two.tuned, two.seconds, two.origin) == (True, 1.5, "scaled")
    (only,) = together([[standing(False, 3.0, "predicted")]], ratios)
    assert only.origin == "predicted"
    assert len(together([[standing(False, 3.0)]], {})) == 1


def test_a_ratio_counts_for_its_target_tools_and_only_shape_class(tmp_path: Path) -> None:
    records = planted(tmp_path)
    found = histories(records.store)
    assert recorded_ratios(found, {KEY.target}, KEY.tools) == {"f" * 12: 0.5}
    assert recorded_ratios(found, {"cpu:generic"}, KEY.tools) == {}
    assert recorded_ratios(found, {KEY.target}, "older") == {}
    other = RecordKey("schedule", KEY.subject, "le8", KEY.target, KEY.tools)
    records.put(other, {"mr": 1}, Result(1.0, 1.0))
    assert recorded_ratios(histories(records.store), {KEY.target}, KEY.tools) == {}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_chromium_draws_it_without_a_network_or_an_error(tmp_path: Path) -> None:
    out = compiled(tmp_path)
    reported(tmp_path, hostile(tmp_path), "--artifact", out)
    found = opened(tmp_path / "report.html", tmp_path)
    assert found.complaints == []
    place = found.document.by_id("roofline")
    assert place is not None
    drawn = [e.attributes.get("class") or "" for e in place.all("svg") + place.all("path")]
    assert any("main-svg" in name for name in drawn)
    assert any(name == "point" for name in drawn)
    assert "GFLOP/s" in place.text
    (title,) = found.document.all("title")
    assert title.text == "Tilewright: report of tuning"  # no script of the records has run


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_what_would_run_or_fetch_is_refused(tmp_path: Path) -> None:
    reported(tmp_path, hostile(tmp_path))
    path = tmp_path / "report.html"
    forged = "<script>document.title = 'owned'</script><img src='http://example.org/x.png'>"
    path.write_text(path.read_text("utf-8").replace("<h1>", f"{forged}<h1>"), "utf-8")
    found = opened(path, tmp_path)
    for directive in ("script-src", "img-src"):
        assert any(directive in line for line in found.complaints), found.complaints
    assert found.document.all("title")[0].text == "Tilewright: report of tuning"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_an_error_of_a_script_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "broken.html"
    path.write_text("<title>x</title><script>absent()</script>")
    assert any("absent is not defined" in line for line in opened(path, tmp_path).complaints)
