"""Running a loaded artifact: inputs of every kind, addresses, native spans, sections."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.runtime.programs import affine_weights, write, write_affine
from tilewright.dsl.errors import (
    ArtifactError,
    DTypeError,
    InvalidManifest,
    InvalidSession,
    InvalidSetting,
    MissingInput,
    NativeLibraryError,
    OutOfMemory,
    ShapeError,
    SymbolRangeError,
    TeamError,
    TilewrightError,
    TokenizerMissing,
    UnknownGraph,
    UnknownInput,
    UnsupportedMachine,
)
from tilewright.dsl.text import parse_program
from tilewright.runtime import Model, artifact, binding, load, sections
from tilewright.runtime.buffers import Array, address_of, aligned_empty
from tilewright.runtime.native import ABI
from tilewright.runtime.reference import ReferenceRegion
from tilewright.runtime.schema import (
    SCHEMA_VERSION,
    CopyStep,
    GraphPlan,
    Manifest,
    Port,
    Section,
    Slot,
    SpanStep,
    Step,
    SymbolRecord,
    WeightRecord,
)

X = np.arange(12, dtype=np.float32).reshape(3, 4)
IDS = np.array([1, 2, 3], np.int32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("affine") / "model"
    write_affine(folder)
    return load(folder, threads=1)


def expected(x: Array) -> Array:
    weights = affine_weights()
    return x.astype(np.float64) @ weights["w"] + weights["b"]


# --- inputs ---------------------------------------------------------------------------------------


def unaligned(x: Array) -> Array:
    block = np.zeros(x.nbytes + 65, np.uint8)
    found = block[1 : 1 + x.nbytes].view(x.dtype).reshape(x.shape)
    found[...] = x
    return found


def read_only(x: Array) -> Array:
    found = x.copy()
    found.flags.writeable = False
    return found


def repeated(x: Array) -> Array:
    return np.broadcast_to(x[:1], x.shape)


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "plain": lambda x: x,
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "backwards": lambda x: x[::-1],
    "columns first": np.asfortranarray,
    "unaligned": unaligned,
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only": read_only,
    "repeated": repeated,
    "a subclass": lambda x: x.view(np.matrix),
    "one row": lambda x: x[1:2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_every_layout_work_and_are_not_written(model: Model, layout: str) -> None:
    x = LAYOUTS[layout](X)
    before = np.array(x)
    (found,) = model.run("apply", {"x": x}).values()
    assert np.allclose(found, expected(np.asarray(x)), rtol=1e-6)
    assert np.array_equal(x, before)
    assert address_of(found) % 64 == 0
    assert type(found) is np.ndarray


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernels_get_aligned_elements_in_native_order(layout: str) -> None:
    x = LAYOUTS[layout](X)
    found = binding._laid_out(np.asarray(x))
    assert address_of(found) % found.itemsize == 0
    assert found.flags.c_contiguous
    assert found.dtype.isnative
    assert np.array_equal(found, x)
    aligned = aligned_empty(X.shape, X.dtype)
    assert binding._laid_out(aligned) is aligned


def test_outputs_are_new_each_time(model: Model) -> None:
    first = model.run("apply", {"x": X})["out"]
    kept = first.copy()
    second = model.run("apply", {"x": X + 1})["out"]
    assert not np.shares_memory(first, second)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("offset", [3, np.int32(3), np.array(3, np.uint8)])
def test_integers_bind_symbols(model: Model, offset: Any) -> None:
    found = model.run("twice", {"x": X, "ids": IDS, "offset": offset})
    assert found["moved"].tolist() == [4, 5, 6]
    assert np.array_equal(found["doubled"], 2 * X)


GOOD: dict[str, Any] = {"x": X, "ids": IDS, "offset": 3}


@pytest.mark.parametrize(
    ("change", "mistake", "says"),
    [
        ({"x": X.astype(np.float64)}, DTypeError, "x is f64, expected f32"),
        ({"x": X.astype(">f8")}, DTypeError, "expected f32"),
        ({"x": X.astype(np.complex64)}, DTypeError, "complex64"),
        ({"x": [[1.0, 2.0, 3.0, 4.0]]}, DTypeError, "x is f64"),
        ({"x": [[1.0], [2.0, 3.0]]}, DTypeError, "x is no array"),
        ({"x": None}, DTypeError, "object"),
        ({"ids": IDS.astype(np.int64)}, DTypeError, "astype('int32')"),
        ({"ids": IDS.view(np.uint32)}, DTypeError, "u32"),
        ({"ids": IDS.view("V4")}, DTypeError, "V4"),
        ({"x": X[0]}, ShapeError, "1 dimensions, expected [rows, 4]"),
        ({"x": X[:, :3]}, ShapeError, "[3, 3], expected [3, 4]"),
        ({"x": X[:2]}, ShapeError, "ids: rows is 3 here and 2 elsewhere"),
        ({"x": X[:0], "ids": IDS[:0]}, SymbolRangeError, "rows is 0, outside 1..64"),
        ({"x": np.zeros((65, 4), np.float32)}, SymbolRangeError, "65"),
        ({"offset": 8}, SymbolRangeError, "offset is 8, outside 0..7"),
        ({"offset": -1}, SymbolRangeError, "-1"),
        ({"offset": 1 << 70}, DTypeError, "offset is one integer"),
        ({"offset": 1.0}, DTypeError, "offset is one integer"),
        ({"offset": True}, DTypeError, "offset is one integer"),
        ({"offset": [1]}, DTypeError, "offset is one integer"),
        ({"y": X}, UnknownInput, "no input 'y'"),
    ],
)
def test_wrong_inputs_are_named(
    model: Model, change: dict[str, Any], mistake: type[TilewrightError], says: str
) -> None:
    with pytest.raises(mistake) as caught:
        model.run("twice", {**GOOD, **change})
    assert says in str(caught.value)


@pytest.mark.parametrize("missing", GOOD)
def test_missing_inputs_are_named(model: Model, missing: str) -> None:
    with pytest.raises(MissingInput, match=missing):
        model.run("twice", {n: v for n, v in GOOD.items() if n != missing})


LOOSE = """
program loose {
  symbol past = 0..6 % 2
  graph echo(past: symbol) -> (out: past) {
  }
  graph twice(x: f32[2], past as p: symbol) -> (y: y) {
    y: f32[2] = add(x, x)
  }
}
"""


def test_a_symbol_that_nothing_mentions_is_held_to_its_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "m", parse_program(LOOSE), {})
    model = load(tmp_path / "m", threads=1)
    x = np.ones(2, np.float32)
    assert model.run("echo", {"past": 4})["out"] == 4
    assert model.run("twice", {"x": x, "past": 4})["y"].tolist() == [2, 2]
    assert model.signature("twice").scalars == (SymbolRecord("past", 0, 6, 2),)
    monkeypatch.delattr(ReferenceRegion, "run")  # nothing runs before the refusal
    for past, says in (
        (8, "past is 8, outside 0..6"),
        (-2, "past is -2, outside 0..6"),
        (3, "past is 3, not a multiple of 2"),
    ):
        for graph, inputs in (("echo", {}), ("twice", {"x": x})):
            with pytest.raises(SymbolRangeError, match=says):
                model.run(graph, {**inputs, "past": past})


def test_what_a_model_has_is_told(model: Model) -> None:
    assert model.graphs == ("apply", "twice")
    found = model.signature("twice")
    assert [(p.name, p.dtype, p.shape) for p in found.inputs] == [
        ("x", "f32", ["rows", "4"]),
        ("ids", "i32", ["rows"]),
    ]
    assert [(s.name, s.lo, s.hi) for s in found.scalars] == [("offset", 0, 7)]
    assert [p.name for p in found.outputs] == ["doubled", "moved"]
    with pytest.raises(UnknownGraph, match="apply, twice"):
        model.run("train", {})
    with pytest.raises(TokenizerMissing):
        model.tokenizer()
    with pytest.raises(InvalidSession):
        model.session(batch=3)


def test_threads_come_from_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_affine(tmp_path / "m")
    monkeypatch.setenv("TILEWRIGHT_THREADS", "3")
    assert load(tmp_path / "m").threads == 3
    assert load(tmp_path / "m", threads=2).threads == 2
    monkeypatch.setenv("TILEWRIGHT_THREADS", "none")
    with pytest.raises(InvalidSetting):
        load(tmp_path / "m")
    with pytest.raises(TeamError):
        load(tmp_path / "m", threads=0)


# --- plans by hand --------------------------------------------------------------------------------


def plan(steps: list[Step], **changes: Any) -> GraphPlan:
    """y = the bytes of x, by way of the arena; the slots are x, two in the arena, y, w, n."""
    slots = [
        Slot("input", "x"),
        Slot("arena", "", "64"),
        Slot("arena", "", "(4*n + 63) // 64 * 64 + 64"),
        Slot("output", "y"),
        Slot("weight", "w"),
        Slot("input", "n"),
    ]
    plain = GraphPlan(
        name="f",
        inputs=[Port("x", "f32", ["n"])],
        bound=["n"],
        outputs=[Port("y", "f32", ["n"])],
        states=[],
        symbols=["n"],
        slots=slots,
        steps=steps,
        arena="(4*n + 63) // 64 * 128 + 64",
        arena_bound=1 << 30,
    )
    return msgspec.structs.replace(plain, **changes)


COPIES: list[Step] = [CopyStep(0, 1, "4*n"), CopyStep(1, 2, "4*n"), CopyStep(2, 3, "4*n")]
HUGE = 1 << 40


def written(
    folder: Path,
    graphs: list[GraphPlan],
    sections: list[Section] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    manifest = Manifest(
        schema=SCHEMA_VERSION,
        program="",
        files={},
        tools={},
        symbols=[SymbolRecord("n", 0, HUGE - 1)],
        states=[],
        weights=[WeightRecord("w", "f32", [1])],
        graphs=graphs,
        sections=sections or [],
    )
    artifact.write(folder, manifest, files or {}, {"w": np.array([10], np.float32)})
    return folder


def test_copies_pass_through_an_arena_that_grows(tmp_path: Path) -> None:
    model = load(written(tmp_path / "m", [plan(COPIES)]))
    sizes: list[int] = []
    for n in (5, 1000, 17, 0):
        x = np.arange(n, dtype=np.float32)
        assert np.array_equal(model.run("f", {"x": x, "n": n})["y"], x)
        sizes.append(model.arena_bytes)
    assert sizes == [192, 8128, 8128, 8128]


def test_requirements_are_checked_before_anything_runs(tmp_path: Path) -> None:
    model = load(written(tmp_path / "m", [plan(COPIES, requires=["7 - n"])]))
    x = np.zeros(8, np.float32)
    assert model.run("f", {"x": x[:7], "n": 7})["y"].shape == (7,)
    with pytest.raises(SymbolRangeError, match="is -1"):
        model.run("f", {"x": x, "n": 8})


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"arena": f"{HUGE}*n"}, OutOfMemory),
        ({"arena": f"{HUGE}*{HUGE}*n"}, SymbolRangeError),
        ({"outputs": [Port("y", "f32", ["n", str(HUGE), "64"])]}, OutOfMemory),
        ({"outputs": [Port("y", "f32", ["n", str(HUGE), str(1 << 20)])]}, OutOfMemory),
    ],
)
def test_too_much_memory_is_an_error_of_ours(
    tmp_path: Path, changes: dict[str, Any], mistake: type[TilewrightError]
) -> None:
    model = load(written(tmp_path / "m", [plan([], **changes)]))
    with pytest.raises(mistake):
        model.run("f", {"x": np.zeros(4000, np.float32), "n": 4000})


def test_a_symbol_that_nothing_binds_is_refused(tmp_path: Path) -> None:
    loose = plan([], inputs=[], bound=[], slots=[])
    with pytest.raises(InvalidManifest, match="nothing binds symbol n"):
        load(written(tmp_path / "m", [loose]))


def test_calls_from_many_threads_take_turns(tmp_path: Path) -> None:
    model = load(written(tmp_path / "m", [plan(COPIES)]))
    wrong: list[int] = []

    def work(value: int) -> None:
        for n in range(1, 200):
            x = np.full(n, value, np.float32)
            if not np.array_equal(model.run("f", {"x": x, "n": n})["y"], x):
                wrong.append(value)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


# --- native code ----------------------------------------------------------------------------------

SOURCE = """
#include <stdint.h>
typedef int32_t span(int32_t, int32_t, const int64_t *, void **, void *, int64_t *);
int32_t tw_abi(int32_t *version) { *version = ABI; return 0; }
int32_t tw_team_work(void *sync, int32_t rank) { return 0; }
int32_t tw_team_run(void *sync, void *f, int32_t size, void *symbols, void *pointers,
                    int64_t *trace, int32_t workers) {
    if (f) for (int32_t rank = 0; rank < size; rank++)
        ((span *)f)(rank, size, symbols, pointers, sync, trace);
    return 0;
}
/* y = FACTOR * x + w + n + 1000 * size, with n once from a symbol and once from a slot */
int32_t affine(int32_t rank, int32_t size, const int64_t *symbols, void **p, void *sync,
               int64_t *trace) {
    if (trace) trace[1 + rank * trace[0]] = trace[2 + rank * trace[0]] = 1000 + rank;
    float *x = p[0], *w = p[1], *y = p[2];
    int64_t *n = p[3];
    if (*n != symbols[0] || symbols[1] != 2 * symbols[0]) return 1;
    for (int64_t i = rank; i < *n; i += size) y[i] = FACTOR * x[i] + *w + *n + 1000 * size;
    return 0;
}
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], bytes]:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("c")

    def make(factor: int, abi: int = ABI) -> bytes:
        source, library = folder / f"{factor}.c", folder / f"{factor}.so"
        source.write_text(SOURCE)
        options = ["-O1", "-shared", "-fPIC", f"-DFACTOR={factor}", f"-DABI={abi}"]
        subprocess.run([compiler, *options, "-o", library, source], check=True)
        return library.read_bytes()

    return make


def span_plan(library: str, symbol: str = "affine") -> GraphPlan:
    return plan([SpanStep(library, symbol, ["n", "2*n"], [0, 4, 3, 5], ["affine"])])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_spans_run_on_a_team(
    tmp_path: Path, compiled: Callable[[int], bytes], threads: int
) -> None:
    here = [Section("cpu:x86-64", [], "kernels.so", ABI)]
    folder = written(tmp_path / "m", [span_plan("kernels.so")], here, {"kernels.so": compiled(2)})
    with load(folder, threads=threads) as model:
        x = np.arange(9, dtype=np.float32)
        found = model.run("f", {"x": x, "n": 9})["y"]
        assert np.array_equal(found, 2 * x + 19 + 1000 * threads)
    with pytest.raises(TeamError):
        model.run("f", {"x": x, "n": 9})


def test_the_first_section_that_runs_here_is_taken(
    tmp_path: Path, compiled: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "cpu_flags", lambda: frozenset({"avx2", "fma"}))
    found = [
        Section("cpu:next", ["avx2", "avx99"], "a.so", ABI),
        Section("cpu:haswell", ["avx2", "fma"], "b.so", ABI),
        Section("cpu:generic", [], "c.so", ABI),
    ]
    files = {"a.so": b"for another machine", "b.so": compiled(3), "c.so": compiled(5)}
    plans = [span_plan(section.library) for section in found]
    folder = written(tmp_path / "m", plans, found, files)
    with load(folder, threads=1) as model:
        assert model.run("f", {"x": np.ones(1, np.float32), "n": 1})["y"].tolist() == [1014]
    monkeypatch.setattr(sections, "cpu_flags", frozenset[str])
    with load(folder, threads=1) as model:
        assert model.run("f", {"x": np.ones(1, np.float32), "n": 1})["y"].tolist() == [1016]


def test_a_machine_that_lacks_something_is_told_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "cpu_flags", lambda: frozenset({"amx_tile", "amx_bf16"}))
    monkeypatch.setattr(sections, "request_amx", lambda: False)
    found = [
        Section("cpu:sapphirerapids", ["amx_bf16", "amx_tile"], "a.so", ABI),
        Section("cpu:znver5", ["avx512_bf16", "amx_tile"], "b.so", ABI),
        Section("cpu:generic", [], "c.so", ABI + 1),
        Section("cuda:sm_90", [], "d.so", ABI),
    ]
    files = {section.library: b"" for section in found}
    plans = [span_plan(section.library) for section in found]
    with pytest.raises(UnsupportedMachine) as caught:
        load(written(tmp_path / "m", plans, found, files))
    text = str(caught.value)
    assert "cpu:sapphirerapids: the operating system does not let this process use AMX" in text
    assert "cpu:znver5: the processor lacks avx512_bf16" in text
    assert f"calling convention is {ABI + 1}" in text
    assert "--target cpu:generic" in text


def test_amx_is_asked_for_where_a_section_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def request() -> bool:
        asked.append(True)
        return True

    monkeypatch.setattr(sections, "cpu_flags", lambda: frozenset({"amx_tile"}))
    monkeypatch.setattr(sections, "request_amx", request)
    assert sections.refusal(Section("cpu:x", [], "a", ABI)) is None
    assert asked == []
    assert sections.refusal(Section("cpu:x", ["amx_tile"], "a", ABI)) is None
    assert asked == [True]


@pytest.mark.parametrize(
    ("code", "symbol"), [(b"no library at all", "affine"), (None, "absent"), (None, "affine")]
)
def test_libraries_that_do_not_fit_are_errors_of_ours(
    tmp_path: Path, compiled: Callable[..., bytes], code: bytes | None, symbol: str
) -> None:
    abi = ABI if symbol == "absent" else ABI + 1
    files = {"k.so": compiled(7, abi) if code is None else code}
    folder = written(
        tmp_path / "m", [span_plan("k.so", symbol)], [Section("cpu:x", [], "k.so", ABI)], files
    )
    with pytest.raises(NativeLibraryError):
        load(folder)


def test_the_threads_end_with_the_model(tmp_path: Path, compiled: Callable[[int], bytes]) -> None:
    here = [Section("cpu:x86-64", [], "kernels.so", ABI)]
    folder = written(tmp_path / "m", [span_plan("kernels.so")], here, {"kernels.so": compiled(2)})
    model = load(folder, threads=3)
    (team,) = _teams(model)
    del model
    assert team._closed


def _teams(model: Model) -> list[Any]:
    alive = model._close.peek()
    assert alive is not None
    return list(alive[2][0].values())


def test_a_damaged_artifact_is_not_loaded(tmp_path: Path) -> None:
    folder = written(tmp_path / "m", [plan(COPIES)])
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactError):
        load(folder)
    assert os.path.isdir(folder)
