"""The kernels in Tilewright's language: compiled to an artifact, loaded, run."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness import NotAvailable, Setting
from kernel_cases import LAYER_EPS, RMS_EPS, Array, Arrays, Case
from safetensors.numpy import save_file
from tilewright_adapter import tilewright, tuned

import tilewright as tw
from tilewright.runtime.buffers import aligned_empty


def program_of(case: Case) -> tw.Program:
    """A case as a program of one graph; what it calls constant is a parameter."""
    kind = getattr(tw, case.dtype)
    types = {name: kind[shape] for name, shape in case.shapes.items()}

    def constant(name: str) -> tw.Tensor:
        return tw.param(name, types[name])

    def kernel(**inputs: tw.Tensor) -> tw.Tensor:
        given = [inputs[name] for name in case.inputs]
        match case.kind:
            case "matmul":
                return given[0] @ constant("w")
            case "gelu":
                return tw.gelu(given[0] @ constant("w"))
            case "softmax":
                return tw.softmax(given[0])
            case "rms_norm":
                return tw.rms_norm(given[0], constant("weight"), RMS_EPS)
            case "layer_norm":
                return tw.layer_norm(given[0], constant("weight"), constant("bias"), LAYER_EPS)
            case "attention":
                mask = tw.causal()
                if case.window is not None:
                    mask &= tw.window(case.window)
                return tw.attention(*given, mask=mask, scale=case.scale)[0]

    traced = tw.graph(**{name: types[name] for name in case.inputs})(kernel)
    return tw.program("kernel", traced).program


def run_tilewright(
    case: Case, arrays: Arrays, setting: Setting
) -> tuple[Callable[[], Array], Callable[[Array], Array]]:
    """A model's `run` on inputs that kernels can read where they lie."""
    folder = Path(tempfile.mkdtemp(prefix="tilewright-kernel-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program, weights, artifact = (folder / n for n in ("kernel.tw", "w.safetensors", "artifact"))
    program.write_text(tw.print_program(program_of(case)))
    what = [str(program)]
    constants = {name: array for name, array in arrays.items() if name not in case.inputs}
    if constants:
        save_file(constants, weights)
        what += ["--weights", str(weights)]
    records = tuned(what, setting.folder / "tilewright" / case.file_name, setting.trials)
    tilewright("compile", *what, *records, "-o", str(artifact))
    try:
        model = tw.load(artifact, threads=setting.threads)
    except tw.TilewrightError as error:
        raise NotAvailable(str(error)) from error
    inputs: dict[str, Array] = {}
    for name in case.inputs:
        inputs[name] = aligned_empty(arrays[name].shape, arrays[name].dtype)
        inputs[name][...] = arrays[name]

    def call() -> Array:
        return model.run("kernel", inputs)["out"]

    return call, lambda result: result
