"""The kernels in Relax, tuned by TVM's MetaSchedule (Shao et al., 2022), constants packed.

The pipeline is TVM's own for static shapes with `cpu_weight_prepack`, in pieces: layouts of
constants are free while a kernel is tuned, and their rewriting is split off and done beforehand.
Candidates are built in this process, since a builder of MetaSchedule's own spends its 30 seconds
importing, and run in a child that is ended when they take too long.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from harness import NotAvailable, Setting
from kernel_cases import LAYER_EPS, RMS_EPS, Array, Arrays, Case
from tuning_folder import once

_PER_ROUND = 16
"""Candidates between two looks of the cost model at what was measured."""
_RUN_SECONDS = 60.0


def metaschedule(
    case: Case, arrays: Arrays, setting: Setting
) -> tuple[Callable[[], Any], Callable[[Any], Array]]:
    """The best of as many candidates as the setting allows, from a child's own database."""
    if not setting.trials:
        raise NotAvailable("it has no untuned kernels; give --trials")
    os.environ["TVM_NUM_THREADS"] = str(setting.threads)
    tvm: Any = import_module("tvm")
    _import_intrinsics(tvm)
    relax: Any = import_module("tvm.relax")
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    target = tvm.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": setting.threads})
    module = _prepared(tvm, _module(relax, case), target)
    folder = setting.folder / "metaschedule" / case.file_name
    once(folder, setting.trials, lambda: _tune(module, target, folder, setting.trials))
    run = relax.VirtualMachine(_built(tvm, module, target, folder), tvm.cpu())
    given = [tvm.runtime.tensor(arrays[name]) for name in case.inputs]
    constants = [tvm.runtime.tensor(a) for name, a in arrays.items() if name not in case.inputs]
    if constants:
        constants = list(run["main_transform_params"](constants))
    main = run["main"]
    return lambda: main(*given, *constants), lambda found: found.numpy().astype(np.float32)


def _import_intrinsics(tvm: Any) -> None:
    """Those of x86 alone: all of them take a minute, and nothing here needs the others."""
    name = "tvm.s_tir.tensor_intrin"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(Path(tvm.__file__).parent / "s_tir" / "tensor_intrin")]
        sys.modules[name] = package
    import_module(f"{name}.x86")


def _module(relax: Any, case: Case) -> Any:
    """A case as a Relax module: its inputs, then its constants."""
    name = {"f32": "float32", "bf16": "bfloat16"}[case.dtype]
    builder = relax.BlockBuilder()
    values = [relax.Var(n, relax.TensorType(s, name)) for n, s in case.shapes.items()]
    with builder.function("main", values, attrs={"num_input": len(case.inputs)}):
        with builder.dataflow():
            wide = _meaning(relax.op, builder.emit, case, values)
            result = builder.emit_output(relax.op.astype(wide, name))
        builder.emit_func_output(result)
    return builder.finalize()


def _meaning(op: Any, emit: Callable[[Any], Any], case: Case, values: Sequence[Any]) -> Any:
    """The result in float32."""
    x, *constants = values
    match case.kind:
        case "matmul":
            return emit(op.matmul(x, constants[0], out_dtype="float32"))
        case "gelu":
            return emit(op.nn.gelu(emit(op.matmul(x, constants[0], out_dtype="float32"))))
        case "softmax":
            return emit(op.nn.softmax(emit(op.astype(x, "float32"))))
        case "rms_norm":
            wide = [emit(op.astype(value, "float32")) for value in values]
            return emit(op.nn.rms_norm(*wide, axes=[-1], epsilon=RMS_EPS))
        case "layer_norm":
            wide = [emit(op.astype(value, "float32")) for value in values]
            return emit(op.nn.layer_norm(*wide, axes=[-1], epsilon=LAYER_EPS))
        case "attention":
            raise NotAvailable("it has no attention that is free of the whole score matrix")


def _prepared(tvm: Any, module: Any, target: Any) -> Any:
    relax: Any = tvm.relax
    with target:
        passes = [
            relax.transform.DecomposeOpsForInference(),
            relax.transform.CanonicalizeBindings(),
            relax.get_pipeline("zero"),
            relax.transform.AttachAttrLayoutFreeBuffers(),
        ]
        return tvm.transform.Sequential(passes)(module)


def _tune(module: Any, target: Any, folder: Path, trials: int) -> None:
    meta: Any = import_module("tvm.s_tir.meta_schedule")
    meta.relax_integration.tune_relax(
        module,
        {},
        target,
        str(folder),
        trials,
        num_trials_per_iter=min(trials, _PER_ROUND),
        builder=_builder(meta),
        runner=meta.runner.LocalRunner(timeout_sec=_RUN_SECONDS),
        cost_model="xgb" if util.find_spec("xgboost") else "random",
        seed=1,
    )


def _builder(meta: Any) -> Any:
    """A builder that compiles in this process."""
    local: Any = import_module("tvm.s_tir.meta_schedule.builder.local_builder")
    derived: Any = import_module("tvm.ir.utils").derived_object

    def built(candidate: Any) -> Any:
        try:
            code = local.default_build(candidate.mod, candidate.target, None)
            return meta.builder.BuilderResult(local.default_export(code), None)
        except Exception as error:  # a candidate that is no program: the search goes on
            return meta.builder.BuilderResult(None, str(error))

    class Builder(meta.builder.PyBuilder):
        def build(self, inputs: Sequence[Any]) -> list[Any]:
            return [built(candidate) for candidate in inputs]

    return derived(Builder)()


def _built(tvm: Any, module: Any, target: Any, folder: Path) -> Any:
    transform: Any = tvm.relax.transform
    with target:
        passes = [
            transform.MetaScheduleApplyDatabase(str(folder)),
            transform.SplitLayoutRewritePreproc(),
            transform.LiftTransformParams(),
            transform.FoldConstant(),
        ]
        return tvm.compile(tvm.transform.Sequential(passes)(module), target)
