"""The probes are real loops: right in what they compute, and made of the instructions they time."""

import re
import sys

import numpy as np
import pytest

from tilewright.target import measure
from tilewright.target.cpu import CpuIsa, isa_of
from tilewright.target.host import host
from tilewright.target.probes import FILL, STREAM_BLOCK_BYTES, Probe, probes, tile_configuration
from tilewright.target.spec import parse_target


def isa(text: str) -> CpuIsa:
    return isa_of(parse_target(text))


def probe(found: CpuIsa, name: str) -> Probe:
    return next(p for p in probes(found) if p.name == name)


def assembly(found: CpuIsa, of: Probe) -> str:
    pytest.importorskip("tvm")
    return measure.build_probe(of, found).mod.inspect_source("asm")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cpu:x86-64", "f32_fma stream_read"),
        ("cpu:alderlake", "f32_fma i8_dot stream_read"),
        ("cpu:znver4", "f32_fma bf16_dot i8_dot stream_read"),
        ("cpu:sapphirerapids", "f32_fma bf16_dot i8_dot bf16_tile stream_read"),
        ("cpu:neoverse-v1", "f32_fma bf16_dot i8_dot stream_read"),
    ],
)
def test_every_unit_of_an_instruction_set_is_probed(text: str, names: str) -> None:
    assert [p.name for p in probes(isa(text))] == names.split()


@pytest.mark.parametrize(
    ("text", "name", "instruction", "count"),
    [
        ("cpu:x86-64", "f32_fma", "mulps", 12),
        ("cpu:haswell", "f32_fma", "vfmadd", 12),
        ("cpu:znver4", "f32_fma", "vfmadd", 24),
        ("cpu:alderlake", "i8_dot", "vpdpbusd", 12),
        ("cpu:znver4", "i8_dot", "vpdpbusd", 24),
        ("cpu:znver4", "bf16_dot", "vdpbf16ps", 24),
        ("cpu:sapphirerapids", "bf16_tile", "tdpbf16ps", 6),
        ("cpu:neoverse-v1", "f32_fma", "fmla", 24),
        ("cpu:neoverse-v1", "bf16_dot", "bfdot", 24),
        ("cpu:neoverse-v1", "i8_dot", "usdot", 24),
    ],
)
def test_loop_is_made_of_the_instruction_it_times(
    text: str, name: str, instruction: str, count: int
) -> None:
    found = isa(text)
    lines = assembly(found, probe(found, name)).splitlines()
    seen = sum(instruction in line for line in lines)
    assert seen >= count
    assert seen % count == 0  # LLVM may unroll, but must drop and merge nothing
    assert not [line for line in lines if re.search(r"mm\d+.*rsp|rsp.*mm\d+", line)]  # no spills


@pytest.mark.parametrize("name", ["f32_fma", "bf16_dot", "i8_dot"])
def test_work_counts_the_operations_of_one_turn(name: str) -> None:
    of = probe(isa("cpu:znver4"), name)
    lanes, per_lane = 16, {"f32_fma": 1, "bf16_dot": 2, "i8_dot": 4}[name]
    assert of.work == 24 * lanes * per_lane * 2


def runnable(name: str) -> tuple[Probe, measure.Kernel]:
    pytest.importorskip("tvm")
    here = isa("cpu")
    of = [p for p in probes(here) if p.name == name]
    if not of:
        pytest.skip(f"this machine has no {name}")
    return of[0], measure.compile_probe(of[0], here)


def test_fma_multiplies_and_adds() -> None:
    of, kernel = runnable("f32_fma")
    (memory,) = measure._scratch(of, 1)
    half = memory[:1].view(np.float32)[0]
    kernel(memory.ctypes.data, 5)
    expected = half
    for _ in range(5):
        expected = np.float32(expected * half + half)
    width = isa("cpu").lanes_f32
    count = of.work // 2 // width
    values = memory.view(np.float32)
    np.testing.assert_allclose(values[: width * count], expected, rtol=1e-6)
    assert (memory[width * count :] == FILL).all()


def test_bf16_dot_adds_two_products() -> None:
    of, kernel = runnable("bf16_dot")
    (memory,) = measure._scratch(of, 1)
    start = float(memory[:1].view(np.float32)[0])
    kernel(memory.ctypes.data, 7)
    np.testing.assert_allclose(memory.view(np.float32)[0], start + 7 * 2 * 0.25, rtol=1e-5)


def test_i8_dot_adds_four_products() -> None:
    of, kernel = runnable("i8_dot")
    (memory,) = measure._scratch(of, 1)
    kernel(memory.ctypes.data, 3)
    assert memory[0] == FILL + 3 * 2 * 0x3F * 0x3F


def test_tiles_multiply() -> None:
    of, kernel = runnable("bf16_tile")
    if not measure._tiles_granted():
        pytest.skip("the system does not grant tile registers")
    (memory,) = measure._scratch(of, 1)
    assert bytes(memory[:16]) == tile_configuration()
    kernel(memory.ctypes.data, 3)
    tile = memory[256 : 256 + 256].view(np.float32)
    assert (tile == 3 * 32 * 0.25).all()


@pytest.mark.parametrize("blocks", [1, 2, 37])
def test_stream_reads_every_byte_once(blocks: int) -> None:
    _, kernel = runnable("stream_read")
    memory = measure._aligned(blocks * STREAM_BLOCK_BYTES)
    values = memory.view(np.float32)
    values[:] = np.arange(values.size) % 251
    total = float(values.sum())
    kernel(memory.ctypes.data, blocks)
    assert float(values[: isa("cpu").lanes_f32].sum()) == total


def test_stream_memory_is_larger_than_the_caches() -> None:
    pieces = measure._stream_memory(2)
    size = sum(piece.nbytes for piece in pieces)
    assert size >= min(2 * host().caches.l3, 512 << 20, measure._free_bytes() // 8)
    assert all(piece.ctypes.data % 64 == 0 for piece in pieces)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the machine's own features")
def test_estimate_covers_the_units_of_the_machine() -> None:
    found = isa("cpu")
    rates = measure._estimate(found, 1)
    expected = {"f32_fma": True, "stream_read": True, "bf16_dot": found.bf16_dot}
    expected["i8_dot"] = found.vnni
    assert rates.keys() == {name for name, there in expected.items() if there}
    assert all(0 < one <= every for one, every in rates.values())
