"""The kernels in OpenVINO, converted from torch; ports are in the case's own format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from harness import Setting
from kernel_cases import DTYPES, Array, Arrays, Case
from kernels_torch import TorchKernel, inputs_of, result_of, tensor


def openvino(
    case: Case, arrays: Arrays, setting: Setting
) -> tuple[Callable[[], Array], Callable[[Array], Array]]:
    """A request with its tensors set beforehand: a call copies nothing."""
    ov: Any = import_module("openvino")
    wide = {name: array.astype(np.float32) for name, array in arrays.items()}
    inputs = inputs_of(case, wide)
    model: Any = ov.convert_model(TorchKernel(case, wide).eval(), example_input=inputs)
    model.reshape({port: list(x.shape) for port, x in zip(model.inputs, inputs, strict=True)})
    kind = getattr(ov.Type, case.dtype)
    ports: Any = ov.preprocess.PrePostProcessor(model)
    for i in range(len(inputs)):
        ports.input(i).tensor().set_element_type(kind)
    ports.output(0).tensor().set_element_type(kind)
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": setting.threads,
        "INFERENCE_PRECISION_HINT": case.dtype,
    }
    compiled: Any = ov.Core().compile_model(ports.build(), "CPU", options)
    request: Any = compiled.create_infer_request()
    given = [x.numpy().astype(DTYPES[case.dtype]) for x in inputs]
    result = np.zeros(tuple(compiled.output(0).shape), DTYPES[case.dtype])
    for i, array in enumerate(given):
        request.set_input_tensor(i, _shared(ov, array, kind))
    request.set_output_tensor(0, _shared(ov, result, kind))
    read = result_of(case)
    return _Request(request, given, result), lambda found: read(tensor(found))


@dataclass(frozen=True, slots=True)
class _Request:
    """A request beside the arrays that its tensors borrow."""

    request: Any
    given: list[Array]
    result: Array

    def __call__(self) -> Array:
        self.request.infer()
        return self.result


def _shared(ov: Any, array: Array, kind: Any) -> Any:
    """The array's own memory as a tensor; NumPy has no bfloat16 that OpenVINO knows."""
    return ov.Tensor(array.view(f"u{array.itemsize}"), ov.Shape(list(array.shape)), kind)
