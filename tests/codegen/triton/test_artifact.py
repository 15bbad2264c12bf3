"""Artifacts for GPUs."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from numpy.typing import NDArray

from tilewright.codegen.compiler import Options, compile_program
from tilewright.codegen.triton.build import LaunchTable
from tilewright.dsl.builder import TracedFunction, graph
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import f32
from tilewright.dsl.errors import UnknownTarget, UnsupportedMachine, UnsupportedRegion
from tilewright.dsl.ops.norm import softmax
from tilewright.dsl.ops.reduce import cumsum
from tilewright.dsl.program import collect
from tilewright.dsl.tensor import Tensor
from tilewright.runtime.artifact import open_artifact
from tilewright.runtime.model import load
from tilewright.runtime.schema import SpanStep
from tilewright.target.spec import parse_target


@graph(x=f32[dim("rows", 1, 100), 8], w=f32[24, 8])
def head(x: Tensor, w: Tensor) -> Tensor:
    return softmax(x @ w.T)


@graph(x=f32[3, 8])
def running(x: Tensor) -> Tensor:
    return cumsum(x)


class NoWeights:
    """Reads nothing: the programs here have no parameters."""

    def read(self, name: str) -> NDArray[Any]:
        raise KeyError(name)


def compiled(folder: Path, target: str, function: TracedFunction = head) -> Path:
    program = collect("p", [function.graph()])
    options = Options(parse_target(target), backend="triton")
    compile_program(program, NoWeights(), folder, options)
    return folder


@pytest.mark.parametrize(
    ("target", "suffix"), [("cuda:sm_90", "cubin"), ("hip:gfx942", "hsaco")], ids=["cuda", "hip"]
)
def test_an_artifact_says_how_its_kernels_are_started(
    tmp_path: Path, target: str, suffix: str
) -> None:
    folder = compiled(tmp_path / "a", target)
    manifest = open_artifact(folder).manifest
    (section,), (plan,) = manifest.sections, manifest.graphs
    assert (section.target, section.features) == (target, [])
    table = msgspec.json.decode((folder / section.library).read_bytes(), type=LaunchTable)
    (step,) = plan.steps
    assert isinstance(step, SpanStep)
    launches = table.spans[step.symbol]
    assert [launch.kernel for launch in launches] == step.kernels
    for launch in launches:
        kernel = table.kernels[launch.kernel]
        assert kernel.file.endswith(suffix)
        assert (folder / kernel.file).read_bytes().startswith(b"\x7fELF")
        assert kernel.symbol in (folder / f"kernels/{launch.kernel}.py").read_text()
        assert len(kernel.parameters) == len(launch.pointers) + len(launch.symbols)
        assert all(0 <= place < len(step.slots) for place in launch.pointers)
    first, second = (table.kernels[launch.kernel] for launch in launches)
    assert first.grid == ["(rows + 63) // 64"]
    assert second.grid == ["(rows + 31) // 32"]


def test_two_compilations_give_the_same_bytes(tmp_path: Path) -> None:
    folders = [compiled(tmp_path / name, "cuda:sm_90") for name in ("a", "b")]
    contents = [
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders
    ]
    assert contents[0] == contents[1]
    assert not any(str(tmp_path).encode() in data for data in contents[0].values())


def test_without_the_gpu_it_says_why_it_does_not_run(tmp_path: Path) -> None:
    folder = compiled(tmp_path / "a", "cuda:sm_90")
    with pytest.raises(UnsupportedMachine, match="cuda:sm_90"):
        load(folder)


def test_what_cannot_be_compiled_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedRegion, match="cumsum"):
        compiled(tmp_path / "a", "cuda:sm_90", running)
    with pytest.raises(UnknownTarget, match="not a GPU"):
        compiled(tmp_path / "a", "cpu:generic")
    assert list(tmp_path.iterdir()) == []
