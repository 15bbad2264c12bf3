"""Calls that follow one another: other shapes, other scalars, errors in between, many threads."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest

from tests.runtime.programs import affine_weights, write_affine, write_counter
from tilewright.dsl.errors import ShapeError, SymbolRangeError, TilewrightError
from tilewright.runtime import Model, artifact, binding, load, steps
from tilewright.runtime.buffers import Array, address_of, aligned_empty
from tilewright.runtime.executor import FRAMES, GraphExecutor
from tilewright.runtime.schema import (
    SCHEMA_VERSION,
    CopyStep,
    GraphPlan,
    Manifest,
    Port,
    Slot,
    SymbolRecord,
)

IDS = np.arange(3, dtype=np.int32)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    write_affine(tmp_path / "m")
    return load(tmp_path / "m", threads=1)


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def right(found: Array, x: Array) -> bool:
    weights = affine_weights()
    return np.allclose(found, x.astype(np.float64) @ weights["w"] + weights["b"], atol=1e-5)


def executor(model: Model, graph: str) -> GraphExecutor:
    return model._executors[graph]


def shifted(x: Array, by: int) -> Array:
    """A copy whose data begins `by` bytes behind a multiple of 64."""
    block = aligned_empty((x.nbytes + 64,), np.dtype(np.uint8))
    found = block[by : by + x.nbytes].view(x.dtype).reshape(x.shape)
    found[...] = x
    return found


LAYOUTS: list[Callable[[Array], Array]] = [
    lambda x: x,
    lambda x: np.repeat(x, 2, axis=0)[::2],
    np.asfortranarray,
    lambda x: shifted(x, 4),
    lambda x: shifted(x, 1),
    lambda x: x.astype(">f4"),
    lambda x: x.view(np.matrix),
    lambda x: np.broadcast_to(x[:1], x.shape),
]


def test_calls_of_any_order_and_layout_are_right(model: Model) -> None:
    for seed in range(2):
        for count in (3, 1, 64, 3):
            for layout in LAYOUTS:
                x = layout(rows(count, seed))
                found = model.run("apply", {"x": x})["out"]
                assert found.shape == (count, 3)
                assert right(found, np.asarray(x))
                assert address_of(found) % 64 == 0
    assert len(executor(model, "apply")._frames) == 3


def test_only_what_kernels_cannot_read_is_copied() -> None:
    x = rows(3)
    for fine in (x, shifted(x, 4), x[1:], x[:0]):
        assert binding._laid_out(fine) is fine
    for copied in (shifted(x, 1), x[:, 1:], x[::-1], x.astype(">f4")):
        assert binding._laid_out(copied) is not copied
        assert np.array_equal(binding._laid_out(copied), copied)


def test_addresses_are_those_that_numpy_tells() -> None:
    x = rows(5)
    kinds = [x, x[1:, 2], x[::-1], x[:0], x.view(np.matrix), x.astype(ml_dtypes.bfloat16)]
    for array in (*kinds, np.zeros(()), np.broadcast_to(x, (2, 5, 4))):
        assert address_of(array) == array.ctypes.data


WRONG: list[dict[str, Any]] = [
    {"x": rows(3).astype(np.float64)},
    {"x": rows(3)[0]},
    {"x": rows(3)[:, :3]},
    {"x": rows(2)},
    {"x": np.zeros((65, 4), np.float32), "ids": np.zeros(65, np.int32)},
    {"x": None},
    {"ids": IDS.astype(np.int64)},
    {"offset": 8},
    {"offset": -1},
    {"offset": 1 << 63},
    {"offset": 1 << 70},
    {"offset": 1.0},
    {"offset": True},
    {"y": 1},
    {"offset": 8, "ids": IDS[:2]},
    {"x": None, "offset": 9},
]


def mistake(model: Model, inputs: dict[str, Any]) -> tuple[type[TilewrightError], str]:
    with pytest.raises(TilewrightError) as caught:
        model.run("twice", inputs)
    return caught.type, str(caught.value)


def test_errors_are_the_same_before_and_after_a_good_call(model: Model) -> None:
    good: dict[str, Any] = {"x": rows(3), "ids": IDS, "offset": 3}
    wrong = [good | change for change in WRONG]
    wrong += [{n: v for n, v in good.items() if n != missing} for missing in good]
    before = [mistake(model, inputs) for inputs in wrong]
    for inputs, expected in zip(wrong, before, strict=True):
        assert model.run("twice", good)["moved"].tolist() == [3, 4, 5]
        assert mistake(model, inputs) == expected
    assert model.run("twice", good)["moved"].tolist() == [3, 4, 5]


def test_scalars_that_shape_nothing_need_no_frame_of_their_own(model: Model) -> None:
    for offset in (3, 0, 7, np.int32(5), 3):
        inputs = {"x": rows(3), "ids": IDS, "offset": offset}
        assert model.run("twice", inputs)["moved"].tolist() == [offset + i for i in range(3)]
    assert len(executor(model, "twice")._frames) == 1


def test_the_frames_are_bounded_and_the_last_ones_stay(model: Model) -> None:
    for count in (*range(1, 2 * FRAMES), 1, 50):
        x = rows(count)
        assert right(model.run("apply", {"x": x})["out"], x)
        assert right(model.run("apply", {"x": rows(40)})["out"], rows(40))
    kept = [key[0] for key in executor(model, "apply")._frames]
    assert len(kept) == FRAMES
    assert kept[-3:] == [(1, 4), (50, 4), (40, 4)]


# --- outputs --------------------------------------------------------------------------------------


def test_outputs_that_are_held_are_never_written_again(model: Model) -> None:
    inputs = [rows(64, seed) for seed in range(12)]
    held: list[Any] = []
    for i, x in enumerate(inputs):
        out = model.run("apply", {"x": x})["out"]
        held.append([out, out[1:], out.data, out.reshape(-1), out.T, out.base][i % 6])
        del out
        for seed in range(3):
            model.run("apply", {"x": rows(64, 100 + seed)})
    for i, (x, part) in enumerate(zip(inputs, held, strict=True)):
        if i % 6 == 5:
            part = part[-address_of(part) % 64 :][: 64 * 3 * 4].view(np.float32)
        found = np.asarray(part)
        found = found.T if i % 6 == 4 else found
        assert right(found.reshape(-1, 3), x[-found.size // 3 :])


def test_memory_of_dropped_outputs_is_used_again(model: Model) -> None:
    first = model.run("apply", {"x": rows(9)})["out"]
    place = address_of(first)
    assert address_of(model.run("apply", {"x": rows(9)})["out"]) != place
    del first
    assert address_of(model.run("apply", {"x": rows(9)})["out"]) == place


def test_an_output_may_be_the_next_input(model: Model) -> None:
    x = rows(5)
    out = model.run("twice", {"x": x, "ids": np.arange(5, dtype=np.int32), "offset": 0})
    for power in range(2, 6):
        out = model.run("twice", {"x": out["doubled"], "ids": out["moved"], "offset": 1})
        assert np.array_equal(out["doubled"], 2**power * x)
        assert out["moved"].tolist() == [i + power - 1 for i in range(5)]


# --- tables ---------------------------------------------------------------------------------------


def copying(folder: Path, **changes: Any) -> Model:
    """y = the first k of x [n], by way of the arena, and told = k, which must not exceed n."""
    plain = GraphPlan(
        name="f",
        inputs=[Port("x", "f32", ["n"])],
        bound=["k"],
        outputs=[Port("y", "f32", ["n"]), Port("told", "i64", [])],
        states=[],
        symbols=["k", "n"],
        slots=[
            Slot("input", "x"),
            Slot("arena", "", "4*n // 64 * 64"),
            Slot("output", "y"),
            Slot("input", "k"),
            Slot("output", "told"),
        ],
        steps=[CopyStep(0, 1, "4*n"), CopyStep(1, 2, "4*k"), CopyStep(3, 4, "8")],
        arena="8*n + 64",
        arena_bound=1 << 20,
        requires=["n - k"],
    )
    manifest = Manifest(
        schema=SCHEMA_VERSION,
        program="",
        files={},
        tools={},
        symbols=[SymbolRecord("k", 0, 999, 2), SymbolRecord("n", 0, 9999)],
        states=[],
        weights=[],
        graphs=[msgspec.structs.replace(plain, **changes)],
        sections=[],
    )
    artifact.write(folder, manifest, {}, {})
    return load(folder, threads=1)


def test_sizes_follow_the_scalars_of_each_call(tmp_path: Path) -> None:
    model = copying(tmp_path / "m")
    for n, k in ((8, 4), (8, 8), (8, 2), (900, 800), (8, 6), (900, 2), (8, 2)):
        x = np.arange(1, n + 1, dtype=np.float32)
        found = model.run("f", {"x": x, "k": k}, poison=True)
        assert found["told"] == k
        assert np.array_equal(found["y"][:k], x[:k])
        assert np.isnan(found["y"][k:]).all()
    assert len(executor(model, "f")._frames) == 2


def test_scratch_is_where_the_arena_is_now(tmp_path: Path) -> None:
    model = copying(tmp_path / "m")
    for n in (40, 900, 40):
        model.run("f", {"x": np.zeros(n, np.float32), "k": 2})
        frame = executor(model, "f")._last
        assert frame is not None
        scratch = model._workspace.arena.reserve(0) + 4 * n // 64 * 64
        assert frame.addresses[1] == frame.addresses[2] == scratch


def test_a_scalar_that_shapes_an_output_counts(tmp_path: Path) -> None:
    outputs = [Port("y", "f32", ["k"]), Port("told", "i64", [])]
    model = copying(tmp_path / "m", outputs=outputs)
    x = np.arange(8, dtype=np.float32)
    for k in (4, 8, 2, 4):
        assert np.array_equal(model.run("f", {"x": x, "k": k})["y"], x[:k])
    assert len(executor(model, "f")._frames) == 3


def test_a_scalar_that_an_input_shows_too_must_agree(tmp_path: Path) -> None:
    model = copying(
        tmp_path / "m",
        inputs=[Port("x", "f32", ["k"])],
        symbols=["k"],
        requires=[],
        arena="64",
        slots=[Slot("input", "x"), Slot("arena", ""), Slot("output", "y")],
        outputs=[Port("y", "f32", ["8"])],
        steps=[CopyStep(0, 1, "4*k"), CopyStep(1, 2, "4*k")],
    )
    x = np.arange(8, dtype=np.float32)
    assert np.array_equal(model.run("f", {"x": x, "k": 8})["y"], x)
    for wrong in ({"x": x, "k": 6}, {"x": x[:6], "k": 8}):
        with pytest.raises(ShapeError, match=r"k is \d here and \d elsewhere"):
            model.run("f", wrong)


def test_a_refused_call_leaves_the_frame_as_it_was(tmp_path: Path) -> None:
    model = copying(tmp_path / "m")
    x = np.arange(8, dtype=np.float32)
    for says, k in (("n - k is -2", 10), ("outside 0..999", 1000), ("not a multiple of 2", 5)):
        assert np.array_equal(model.run("f", {"x": x, "k": 8})["y"], x)
        for _ in range(2):
            with pytest.raises(SymbolRangeError, match=says):
                model.run("f", {"x": x, "k": k})
    with pytest.raises(ShapeError):
        model.run("f", {"x": x[None], "k": 8})
    assert np.array_equal(model.run("f", {"x": x, "k": 8})["y"], x)


def test_threads_that_share_a_model_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copying(tmp_path / "m")
    real = steps.view_at

    def slow(*given: Any) -> Array:
        time.sleep(1e-5)  # lets another thread come in between, if anything lets it
        return real(*given)

    monkeypatch.setattr(steps, "view_at", slow)
    wrong: list[int] = []

    def work(seed: int) -> None:
        held: list[tuple[Array, dict[str, Array]]] = []
        for n in [8, 64, 900] * 6:
            x = np.full(n, seed, np.float32)
            held.append((x, model.run("f", {"x": x, "k": 2 * seed})))
        for x, found in held:
            k = 2 * seed
            if found["told"] != k or not np.array_equal(found["y"][:k], x[:k]):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_sessions_in_turn_keep_their_own_state(tmp_path: Path) -> None:
    write_counter(tmp_path / "m")
    model = load(tmp_path / "m", threads=1)
    tokens = [[1, 2, 3, 4, 5], [9, 8, 7, 6, 10]]

    def logits(turns: list[int]) -> list[list[Array]]:
        sessions, found = [model.session(), model.session()], list[list[Array]]([[], []])
        for which in turns:
            token = np.array([[tokens[which][len(found[which])]]], np.int32)
            found[which].append(sessions[which].run("decode", {"tokens": token})["logits"])
        return found

    one_by_one, in_turn = logits([0] * 5 + [1] * 5), logits([0, 1] * 5)
    assert np.array_equal(one_by_one, in_turn)
    assert len(executor(model, "decode")._frames) == 1
