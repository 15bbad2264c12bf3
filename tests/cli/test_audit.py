"""Which files `compile` and `run` touch: what they were given, and nothing else.

A command runs in a process of its own with an audit hook, in a folder that is empty but for what
it is given, with an empty home. What the hook cannot see (native code) would be left lying there.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.audit import Touched, audited
from tests.cli.shell import arrays, call, write_weights
from tests.models.gguf_files import GgufSpec
from tilewright.autotune.records import RecordKey, Records
from tilewright.codegen.tvm.link import linker
from tilewright.dsl.errors import LinkerMissing

MODEL = """
import tilewright as tw
from shapes import rows


@tw.graph(x=tw.bf16[rows, 32])
def block(x):
    up, down = tw.param("up", tw.bf16[48, 32]), tw.param("down", tw.bf16[32, 48])
    return x + tw.gelu(x @ up.T) @ down.T
"""
SHAPES = 'import tilewright as tw\n\nrows = tw.dim("rows", 1, 16)\n'
IMPORTS = "import sys; from tilewright.cli.main import main"
COMMAND = "sys.argv[0] = 'tilewright'; main()"


@dataclass(frozen=True)
class Sandbox:
    """Folders of their own for a command's inputs, output, cache, temporary files and home."""

    root: Path

    def folder(self, name: str) -> Path:
        made = self.root / name
        made.mkdir(exist_ok=True)
        return made

    @property
    def out(self) -> Path:
        return self.folder("work") / "out"

    def run(self, *arguments: object) -> Touched:
        """What a command touches; its working folder is not the package's nor the inputs'."""
        ours = ("TILEWRIGHT_", "TRITON_", "XDG_", "TVM_FFI_", "PYTHON", "HF_")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
        environment = {
            **kept,
            "HOME": str(self.folder("home")),
            "TMPDIR": str(self.folder("temporary")),
            "TILEWRIGHT_CACHE_DIR": str(self.root / "cache"),
        }
        log, work = self.root / "log", self.folder("work")
        found = audited(IMPORTS, COMMAND, log, arguments, cwd=work, environment=environment)
        assert found.network == set()
        assert found.unpickled == set()
        assert list(self.folder("home").iterdir()) == []
        assert list(self.folder("temporary").iterdir()) == []
        return found

    def private(self, found: Touched) -> set[Path]:
        """The temporary folders that a command made."""
        names = {Path(name) for name in found.changed if self._is_temporary(Path(name))}
        return {path for path in names if path.name.startswith("tilewright-")}

    def _is_temporary(self, path: Path) -> bool:
        return path.parent == self.folder("temporary")

    def strange_changes(self, found: Touched) -> list[str]:
        """What a compilation wrote, made or removed that is not its own."""
        staging = re.compile(re.escape(f"{self.out.parent}/.out.new-") + r"\w{8}")
        # How Python finds out that the system's temporary folder can be written.
        probe = re.compile(re.escape(f"{self.folder('temporary')}/") + r"[a-z0-9_]{8}")

        def own(name: str) -> bool:
            top = [name, *map(str, Path(name).parents)]
            folders = (self.out, self.root / "cache", *self.private(found))
            mine = {str(folder) for folder in folders} & set(top)
            return bool(mine or probe.fullmatch(name) or any(map(staging.fullmatch, top)))

        return sorted(name for name in found.changed if not own(name))

    def strange_reads(self, found: Touched, inputs: Sequence[Path]) -> list[str]:
        """What a compilation read that it was not given and did not make.

        The folder of the output is listed for leftovers of killed compilations.
        """
        made = (self.out, self.root / "cache", *self.private(found))
        staging = f"{self.out.parent}/.out.new-"
        named = {str(path) for path in (*inputs, self.out.parent)}
        return sorted(
            name
            for name in found.read | found.loaded
            if name not in named
            and not name.startswith(staging)
            and not any(Path(name).is_relative_to(folder) for folder in made)
            and not self._is_bytecode(name, inputs)
        )

    def _is_bytecode(self, name: str, inputs: Sequence[Path]) -> bool:
        """Whether it is what Python would have left beside one of the user's modules."""
        path = Path(name)
        beside = path.parent.parent / f"{path.name.split('.')[0]}.py"
        return path.parent.name == "__pycache__" and beside in inputs


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def write_block(sandbox: Sandbox) -> tuple[str, list[Path]]:
    """The argument MODEL for a Python file with a neighbour, and all files it takes."""
    folder = sandbox.folder("inputs")
    (folder / "model.py").write_text(MODEL)
    (folder / "shapes.py").write_text(SHAPES)
    rng = np.random.default_rng(0)
    up, down = rng.normal(size=(48, 32)), rng.normal(size=(32, 48))
    weights = write_weights(folder, up=up.astype(np.float32), down=down.astype(np.float32))
    return f"{folder / 'model.py'}:block", [weights, folder / "model.py", folder / "shapes.py"]


def is_linker(program: str) -> bool:
    try:
        return program == linker()[0]
    except LinkerMissing:
        return False


def test_compile_touches_inputs_output_cache_and_one_private_folder(sandbox: Sandbox) -> None:
    model, inputs = write_block(sandbox)
    arguments = ["compile", model, "--weights", inputs[0], "-o", "out"]
    cold = sandbox.run(*arguments)
    assert sandbox.strange_changes(cold) == []
    assert sandbox.strange_reads(cold, inputs) == []
    assert len(sandbox.private(cold)) == 1
    assert [program for program in cold.started if not is_linker(program)] == []
    assert {str(path) for path in inputs} <= cold.read
    assert any(name.startswith(f"{sandbox.root / 'cache'}/blobs/") for name in cold.changed)
    left = {
        path.name for path in (*sandbox.folder("inputs").iterdir(), *sandbox.out.parent.iterdir())
    }
    assert left == {"model.py", "shapes.py", "w.safetensors", "out"}

    again = sandbox.run(*arguments)
    assert again.changed == set()
    assert again.started == ()
    assert sandbox.strange_reads(again, inputs) == []

    rest = sandbox.run(*arguments, "--force")  # kernels from the cache, a new artifact
    assert sandbox.strange_changes(rest) == []
    assert sandbox.strange_reads(rest, inputs) == []
    assert len(sandbox.private(rest)) == 1


def test_compile_reads_every_file_it_was_given(sandbox: Sandbox) -> None:
    """Plan, records, settings and a full check, which loads the kernels and runs them."""
    model, inputs = write_block(sandbox)
    folder = sandbox.folder("inputs")
    plan, records, settings = (
        folder / "plan.json",
        folder / "r.db",
        sandbox.out.parent / "tilewright.toml",
    )
    plan.write_text("{}")
    Records.at(records).crown(RecordKey("plan", "none", "", "cpu", ""), {})
    settings.write_text('target = "cpu:generic"\n')
    given = ["--weights", inputs[0], "--plan", plan, "--storage", records, "--check", "full"]
    found = sandbox.run("compile", model, *given, "-o", "out")
    assert sandbox.strange_changes(found) == []
    assert sandbox.strange_reads(found, [*inputs, plan, records, settings]) == []
    assert {str(plan), str(records), str(settings)} <= found.read
    assert len(sandbox.private(found)) == 1
    assert {path.name for path in folder.iterdir()} == {
        "model.py", "shapes.py", "w.safetensors", "plan.json", "r.db",
    }  # fmt: skip


def test_compile_of_a_model_reads_its_file_alone(sandbox: Sandbox) -> None:
    model = GgufSpec().write(sandbox.folder("inputs") / "small.gguf")
    found = sandbox.run("compile", model, "--backend", "reference", "-o", "out")
    assert sandbox.strange_changes(found) == []
    assert sandbox.strange_reads(found, [model]) == []
    assert found.started == ()


def test_compile_for_a_gpu_touches_no_more(sandbox: Sandbox) -> None:
    """Triton has a cache in the user's home, and its assembler wants files."""
    path = sandbox.folder("inputs") / "m.py"
    path.write_text(
        "import tilewright as tw\n@tw.graph(x=tw.f32[5, 8])\ndef f(x):\n    return tw.softmax(x)\n"
    )
    found = sandbox.run(
        "compile", f"{path}:f", "--target", "cuda:sm_90", "--backend", "triton", "-o", "out"
    )
    assert sandbox.strange_changes(found) == []
    assert sandbox.strange_reads(found, [path]) == []
    assert len(sandbox.private(found)) == 1
    assert {Path(program).name for program in found.started} <= {"ptxas", "ptxas-blackwell"}


OLD_TORCH = """
from torch import version

__version__ = "2.1.0"


class Tensor:
    pass


class cuda:
    Stream = object
    is_available = staticmethod(lambda: False)


def compiled_with_cxx11_abi():
    return True


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return object()
"""


MEET_TVM = """
from tilewright.codegen.compiler import Options, _builder
from tilewright.target.spec import parse_target

target = parse_target("cpu:generic")
assert _builder(Options(target), target) is not None
assert "tvm" in sys.modules
import torch

torch.Tensor  # it was hidden from TVM alone
"""


def test_beside_an_old_torch_nothing_is_built_in_the_home(tmp_path: Path) -> None:
    """tvm_ffi compiles an extension, in C++, for a torch whose tensors lack DLPack's exchange."""
    torch = tmp_path / "site" / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").write_text(OLD_TORCH)
    (torch / "version.py").write_text("cuda = None\n")
    imports = f"import sys; sys.path.insert(0, {str(torch.parent)!r})"
    kept = {name: text for name, text in os.environ.items() if not name.startswith("TVM_FFI_")}
    # Without a compiler the build fails, as it would succeed only after minutes.
    environment = {**kept, "HOME": str(tmp_path), "PATH": "/nonexistent"}
    found = audited(imports, MEET_TVM, tmp_path / "log", environment=environment)
    assert found.started == ()
    assert not any(name.startswith(f"{tmp_path}/.cache") for name in found.opened)


def strange_to_run(found: Touched, artifact: Path, given: Sequence[Path] = ()) -> list[str]:
    """What a run touched besides reading its artifact and its inputs."""
    named = {str(artifact), *map(str, given)}
    read = {n for n in found.read | found.loaded if not n.startswith(f"{artifact}/")} - named
    return sorted(read | found.changed)


def test_run_on_arrays_touches_artifact_inputs_and_outputs(sandbox: Sandbox) -> None:
    artifact = sandbox.root / "inputs" / "out"
    folder = sandbox.folder("inputs")
    path = folder / "m.py"
    path.write_text(
        "import tilewright as tw\n@tw.graph(x=tw.f32[3, 4])\ndef f(x):\n"
        "    return tw.softmax(x @ tw.param('w', tw.f32[5, 4]).T)\n"
    )
    weights = write_weights(folder, w=np.ones((5, 4), np.float32))
    done = call("compile", f"{path}:f", "--weights", weights, "-o", artifact)
    assert done.code == 0, done.err
    given = arrays(folder / "in.npz", x=np.ones((3, 4), np.float32))
    results = sandbox.folder("results")
    made = results / "out.npz"
    found = sandbox.run("run", artifact, "--inputs", given, "--outputs", made)
    assert {str(given), str(artifact / "manifest.json")} <= found.read
    assert str(artifact / "kernels.so") in found.loaded
    assert found.started == ()
    temporary = re.compile(re.escape(f"{results}/.new-") + r"\w{8}")  # renamed when it is whole
    strange = strange_to_run(found, artifact, [given, results])
    assert [name for name in strange if not temporary.fullmatch(name)] == [str(made)]
    assert [path.name for path in results.iterdir()] == ["out.npz"]
    assert [path.name for path in sandbox.out.parent.iterdir()] == []


def test_run_on_a_prompt_touches_the_artifact_alone(sandbox: Sandbox) -> None:
    model = GgufSpec().write(sandbox.folder("inputs") / "small.gguf")
    artifact = sandbox.root / "inputs" / "out"
    done = call("compile", model, "--backend", "reference", "-o", artifact)
    assert done.code == 0, done.err
    found = sandbox.run("run", artifact, "--prompt", "the", "--max-tokens", 3, "--json")
    assert strange_to_run(found, artifact) == []
    assert str(artifact / "tokenizer.json") in found.read
    assert found.started == ()
    assert len(json.loads(found.output)["tokens"]) == 3
    assert [path.name for path in sandbox.out.parent.iterdir()] == []
