"""Spans: order, barriers, dispatch; and the libraries that hold them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.codegen.tvm.kernels import Compiled, isa, load
from tilewright.codegen.tvm import link
from tilewright.codegen.tvm.emit import KernelBuilder, KernelFunction, i64
from tilewright.codegen.tvm.object_code import object_code
from tilewright.codegen.tvm.span import (
    Barrier,
    Dispatch,
    KernelCall,
    Slot,
    Step,
    span_entry,
    span_library,
)
from tilewright.dsl.errors import LinkerFailed, LinkerMissing


def reverse_and_add(cpu: str, name: str, number: float) -> KernelFunction:
    """y[i] = x[n - 1 - i] + number: each thread reads what the others wrote."""
    kernel = KernelBuilder(name, isa(cpu))
    n, x, y = kernel.symbol("n"), kernel.pointer("x", "f32"), kernel.pointer("y", "f32")
    begin, end = kernel.share(n)
    with kernel.loop(begin, end) as i:
        y.store(i, x.load(n - 1 - i) + number)
    return kernel.finish()


@pytest.mark.parametrize("cpu", ["native", "generic"])
def test_barriers_order_dependent_kernels(cpu: str, tmp_path: Path) -> None:
    kernels = [reverse_and_add(cpu, "one", 1.0), reverse_and_add(cpu, "two", 2.0)]
    steps: list[Step] = []
    for number in range(200):
        name = ("one", "two")[number % 2]
        steps += [KernelCall(name, (Slot(0),), (number % 2, 1 - number % 2)), Barrier()]
    run = Compiled(kernels, isa(cpu), tmp_path, steps)
    start = np.arange(513, dtype=np.float32)
    for threads, calls in ((1, 20), (2, 200), (3, 5)):
        for _ in range(calls):
            x, y = start.copy(), np.zeros_like(start)
            run([513], [x, y], threads)
            assert np.array_equal(x, start + 300), threads
    run.close()


def test_without_barriers_the_stress_would_notice(tmp_path: Path) -> None:
    """The test above can fail: the same span without barriers, on purpose."""
    kernels = [reverse_and_add("native", "one", 1.0)]
    steps: list[Step] = [KernelCall("one", (Slot(0),), (i % 2, 1 - i % 2)) for i in range(200)]
    run = Compiled(kernels, isa("native"), tmp_path, steps)
    start = np.arange(513, dtype=np.float32)

    def is_right() -> bool:
        x = start.copy()
        run([513], [x, np.zeros_like(x)], 2)
        return np.array_equal(x, start + 200)

    assert not all(is_right() for _ in range(200))
    run.close()


def store_constant(name: str, number: int) -> KernelFunction:
    kernel = KernelBuilder(name, isa("native"))
    n, out = kernel.symbol("n"), kernel.pointer("out", "i64")
    out.store(0, i64(number) + n)
    return kernel.finish()


def test_dispatch_takes_the_first_case_that_holds(tmp_path: Path) -> None:
    kernels = [store_constant(name, i * 1000) for i, name in enumerate(("few", "some", "many"))]
    few, some, many = (KernelCall(k.name, (Slot(0),), (0,)) for k in kernels)
    steps: list[Step] = [
        Dispatch(Slot(0), ((1, few), (8, some)), many),
        KernelCall("few", (5,), (1,)),
    ]
    run = Compiled(kernels, isa("native"), tmp_path, steps)
    for n, expected in ((1, 1), (2, 1002), (8, 1008), (9, 2009)):
        out, constant = np.zeros(1, np.int64), np.zeros(1, np.int64)
        run([n], [out, constant])
        assert out[0] == expected
        assert constant[0] == 5
    run.close()


def library() -> bytes:
    code = object_code([store_constant("few", 0)], isa("native"))
    return span_library(
        [span_entry("span", [KernelCall("few", (1,), (0,))])], [code], isa("native")
    )


def test_libraries_are_equal_byte_for_byte_wherever_they_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "a", tmp_path / "a longer name"]
    built: list[bytes] = []
    for folder in folders:
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        built.append(library())
        assert list(folder.iterdir()) == [], "left temporary files behind"
    assert built[0] == built[1]
    assert os.fsencode(tmp_path) not in built[0]


def test_two_builds_in_different_processes_are_equal() -> None:
    program = (
        "import hashlib; from tests.codegen.tvm.test_span import library;"
        "print(hashlib.sha256(library()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_a_library_written_again_is_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "same.so"
    out = np.zeros(1, np.int64)
    for number in (1, 2):
        code = object_code([store_constant("few", number)], isa("native"))
        path.write_bytes(span_library([], [code], isa("native")))
        from tilewright.runtime.native import NativeLibrary

        NativeLibrary(path).kernel("few", 1, 1)(0, 1, 0, out.ctypes.data)
        assert out[0] == number
        path.unlink()


def test_without_a_linker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # pyright: ignore[reportUnknownLambdaType]  # a stand-in
    with pytest.raises(LinkerMissing, match="no C compiler"):
        link.linker()


def test_what_the_linker_refuses() -> None:
    with pytest.raises(LinkerFailed, match="failed"):
        link.shared_library([b"not an object file"])


def test_spans_need_no_tvm_to_run(tmp_path: Path) -> None:
    path = tmp_path / "alone.so"
    path.write_bytes(library())
    program = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from tilewright.runtime.native import NativeLibrary\n"
        "from tilewright.runtime.team import ThreadTeam\n"
        f"library = NativeLibrary(Path({str(path)!r}))\n"
        "out = np.zeros(1, np.int64)\n"
        "with ThreadTeam(library, 2) as team:\n"
        "    team.run(library.span('span'), np.zeros(1, np.int64),\n"
        "             np.array([out.ctypes.data], np.uint64))\n"
        "assert out[0] == 1 and not {'tvm', 'tvm_ffi', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_load_reports_the_missing_entry(tmp_path: Path) -> None:
    from tilewright.dsl.errors import NativeLibraryError

    loaded = load(library(), tmp_path)
    with pytest.raises(NativeLibraryError, match="no 'absent'"):
        loaded.span("absent")
