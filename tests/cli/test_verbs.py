"""Explain, bench, doctor, list and cache: their tables, and one JSON value each under --json."""

from pathlib import Path

import numpy as np
import pytest

from tests.cli.shell import call, compiled, write_model, write_weights
from tests.runtime.programs import write_counter
from tilewright.cli.talk import amount
from tilewright.codegen.region_cost import region_cost
from tilewright.dsl.attrs import Attrs
from tilewright.dsl.builder import graph
from tilewright.dsl.dtypes import f32, i32
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.graph import Node
from tilewright.dsl.ops.embedding import embedding
from tilewright.dsl.ops.encoding import decode
from tilewright.dsl.tensor import Tensor
from tilewright.passes.registry import default_pipeline
from tilewright.target import roofline as machine
from tilewright.target.roofline import Roofline

LIMITS = Roofline(2, {"f32_fma": (1e9, 2e9), "stream_read": (1e9, 1e9)}, "measured")


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of round numbers, so that nothing is measured."""
    monkeypatch.setattr(machine, "recorded_roofline", lambda: LIMITS)


def test_explain_counts_the_work(tmp_path: Path) -> None:
    w = write_weights(tmp_path, w=np.ones((3, 4), np.float32))
    out = compiled(tmp_path, "linear", "--weights", w)
    found = call("explain", out, "--at", "rows=10", "--json").data
    flops = sum(row["flops"] * row["calls"] for row in found["kernels"])
    assert flops == 2 * 10 * 3 * 4
    (product,) = (row for row in found["kernels"] if "matmul" in row["ops"])
    assert product["bytes"] == 4 * (10 * 4 + 3 * 4 + 10 * 3)
    assert product["bound"] == "memory"
    assert product["bound_seconds"] == pytest.approx(product["bytes"] / 1e9)
    assert len(found["stages"]) == len(default_pipeline().passes)


def test_explain_adds_up_each_graph(tmp_path: Path) -> None:
    w = write_weights(tmp_path, w=np.ones((3, 4), np.float32))
    out = compiled(tmp_path, "linear", "--weights", w)
    found = call("explain", out, "--at", "rows=10", "--json").data
    (row,) = found["graphs"]
    assert (row["graph"], row["at"], row["flops"]) == ("linear", "rows=10", 2 * 10 * 3 * 4)
    assert row["bytes"] == sum(k["bytes"] * k["calls"] for k in found["kernels"])
    assert row["weights"] == row["held"]["weights"] == 4 * 3 * 4
    assert (row["cache"], row["activations"]) == (0, 4 * (10 * 4 + 10 * 3))
    assert row["intensity"] == row["flops"] / row["bytes"]
    assert row["bound"] == "memory"
    assert row["bound_seconds"] == pytest.approx(row["bytes"] / 1e9)
    text = call("explain", out, "--at", "rows=10").out
    assert "Graphs: one call of each" in text
    assert "240 FLOP" in text


def test_explain_reads_of_a_table_only_what_is_looked_up(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        "import tilewright as tw\n"
        "@tw.graph(ids=tw.i32[2], table=tw.f32[1000, 8])\n"
        "def look(ids, table):\n    return tw.embedding(table, ids) * 2.0\n"
    )
    out = tmp_path / "out"
    assert call("compile", f"{path}:look", "--backend", "reference", "-o", out).code == 0
    rows = call("explain", out, "--json").data["kernels"]
    assert sum(row["bytes"] for row in rows) < 1000


@pytest.mark.parametrize("lookup", [True, False])
def test_a_stored_table_costs_what_is_decoded_of_it(lookup: bool) -> None:
    table = f32[1000, 8].with_encoding(Quantized(IntFormat(8), 1))

    @graph(ids=i32[2], table=table)
    def look(ids: Tensor, table: Tensor) -> Tensor:
        whole = decode(table)
        return embedding(whole, ids) if lookup else whole + 1.0

    body = look.graph()
    results = [output.value for output in body.outputs]
    attrs = Attrs({"family": "loop", "body": body})
    cost = region_cost(Node("fused", body.input_values, tuple(results), attrs))
    assert cost.flops == (2 * 16 if lookup else 3 * 8000)
    assert cost.bytes_read == (2 * 4 + 16 * 2 if lookup else 8000 + 4000)


def test_explain_shows_decisions_and_filters_them(tmp_path: Path) -> None:
    out = compiled(tmp_path)
    done = call("explain", out)
    assert done.code == 0, done.err
    assert "expand_composites" in done.out
    assert "Kernels of layer at rows=64" in done.out
    only = call("explain", out, "--rule", "expand_composites", "--json").data["decisions"]
    assert {d["rule"] for d in only} == {"expand_composites"}
    assert only[0]["outcome"] == "fired"


def test_explain_compiles_a_model(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    before = sorted(tmp_path.iterdir())
    done = call("explain", f"{model}:layer", "--backend", "reference", "--json")
    assert done.data["kernels"]
    assert [p for p in sorted(tmp_path.iterdir()) if p.name != "__pycache__"] == before


def test_bench_times_every_graph(tmp_path: Path) -> None:
    write_counter(tmp_path / "lm")
    done = call("bench", tmp_path / "lm", "--runs", 3, "--warmup", 0, "--at", "past=2", "--json")
    assert done.code == 0, done.err
    assert [row["graph"] for row in done.data] == ["prefill", "decode"]
    for row in done.data:
        assert row["at"]["past"] == 2
        assert 0 < row["best_ms"] <= row["low_ms"] <= row["median_ms"] <= row["high_ms"]


def test_bench_explains_where_the_time_goes(tmp_path: Path) -> None:
    out = compiled(tmp_path, "layer", "--backend", "tvm")
    arguments = ("bench", out, "--runs", 5, "--threads", 2, "--explain")
    (row,) = call(*arguments, "--json").data
    found = row["breakdown"]
    assert len(found["thread_ms"]) == 2
    for total in found["thread_ms"]:
        assert total == pytest.approx(found["wall_ms"])
    kernels = [s for s in found["steps"] if s["step"] == "kernel"]
    assert len(kernels) == sum(k["calls"] for k in found["kernels"]) > 0
    for kernel in found["kernels"]:
        assert min(kernel["busy_ms"], kernel["wait_ms"]) >= 0
        least = kernel["busy_ms"] - kernel["inefficiency_ms"]
        assert least == pytest.approx(kernel["least_ms"])
    text = call(*arguments).out
    assert "inefficiency" in text
    assert "sum of each thread" in text


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_THREADS", "3")
    monkeypatch.setenv("TILEWRIGHT_TREADS", "3")
    found = call("doctor", "--json").data
    (row,) = (r for r in found["settings"] if r["name"] == "TILEWRIGHT_THREADS")
    assert (row["value"], row["origin"]) == ("3", "env")
    assert found["unknown_variables"] == ["TILEWRIGHT_TREADS"]
    assert found["target"].startswith("cpu:")
    assert found["packages"]["numpy"] == np.__version__
    assert found["roofline"]["rates"]["f32_fma"] == [1e9, 2e9]
    assert "TILEWRIGHT_TREADS" in call("doctor").err


@pytest.mark.parametrize(
    ("kind", "name"),
    [("ops", "matmul"), ("passes", "cse"), ("targets", "cuda:sm_90"), ("models", "gemma3")],
)
def test_list(kind: str, name: str) -> None:
    assert name in {row["name"] for row in call("list", kind, "--json").data}
    assert name in call("list", kind).out
    assert call("list", "unicorns").code == 2


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilewright.runtime.cache import Cache

    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))
    store = Cache()
    store.put("old", bytes(1000), kind="object")
    store.put("new", bytes(range(200)), kind="object")
    assert [e["key"] for e in call("cache", "ls", "--json").data["entries"]] == ["new", "old"]
    blobs = (b for b in (tmp_path / "cache" / "blobs").glob("??/*") if b.stat().st_size == 1000)
    next(blobs).write_bytes(b"x" * 1000)
    found = call("cache", "verify", "--json").data
    assert found["whole"] == 1
    assert "damaged" in found["dropped"][0]
    assert call("cache", "gc", "--limit", "1K", "--json").data["freed"] == 0
    assert call("cache", "clear", "--json").data["freed"] == 200
    assert call("cache", "gc", "--limit", "plenty").code == 1


def test_amounts() -> None:
    assert [amount(v, "B") for v in (0, 12, 999.6, 1234, 3.5e9)] == [
        "0 B", "12 B", "1 kB", "1.23 kB", "3.5 GB",
    ]  # fmt: skip
