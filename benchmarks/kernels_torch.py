"""The kernels in torch: eager, compiled, compiled for flexible masks, and by oneDNN.

Weights are stored as torch's layers store them, and attention as its kernels want it: each head's
tokens lie together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import NotAvailable, Setting
from kernel_cases import LAYER_EPS, RMS_EPS, Array, Arrays, Case
from torch.nn import functional

Result = Callable[[], torch.Tensor]


class TorchKernel(torch.nn.Module):
    """A case as a module: constants are parameters, `forward` takes the inputs."""

    def __init__(self, case: Case, arrays: Arrays) -> None:
        super().__init__()
        self.case = case
        constants = {name: tensor(a) for name, a in arrays.items() if name not in case.inputs}
        if "w" in constants:
            constants["w"] = constants["w"].T.contiguous()
        self.constants = torch.nn.ParameterDict(
            {name: torch.nn.Parameter(value, requires_grad=False)
             for name, value in constants.items()}
        )  # fmt: skip
        self.mask = None if case.window is None else window_mask(case.sizes[2], case.window)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        c, shape = self.constants, inputs[0].shape[-1:]
        match self.case.kind:
            case "matmul":
                return functional.linear(inputs[0], c["w"])
            case "gelu":
                return functional.gelu(functional.linear(inputs[0], c["w"]))
            case "softmax":
                return functional.softmax(inputs[0], dim=-1)
            case "rms_norm":
                return functional.rms_norm(inputs[0], shape, c["weight"], RMS_EPS)
            case "layer_norm":
                return functional.layer_norm(inputs[0], shape, c["weight"], c["bias"], LAYER_EPS)
            case "attention":
                q, k, v = inputs
                return functional.scaled_dot_product_attention(
                    q, k, v, self.mask, is_causal=self.mask is None, scale=self.case.scale
                )


def eager(case: Case, arrays: Arrays, setting: Setting) -> tuple[Result, Callable[..., Array]]:
    module, inputs = _ready(case, arrays, setting)
    return _inferring(module, inputs), result_of(case)


def compiled(case: Case, arrays: Arrays, setting: Setting) -> tuple[Result, Callable[..., Array]]:
    """As it comes: `torch.compile(module)`."""
    module, inputs = _ready(case, arrays, setting)
    return _inferring(torch.compile(module), inputs), result_of(case)


def autotuned(case: Case, arrays: Arrays, setting: Setting) -> tuple[Result, Callable[..., Array]]:
    """With constants packed when it is compiled (freezing), and its own choice of kernels."""
    from torch._inductor import config

    module, inputs = _ready(case, arrays, setting)
    options = config.patch({"freezing": True, "max_autotune": True})
    run = _inferring(torch.compile(module), inputs)
    with options:
        run()
    return run, result_of(case)


def flexible(case: Case, arrays: Arrays, setting: Setting) -> tuple[Result, Callable[..., Array]]:
    """`flex_attention`, which skips blocks that a mask hides."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    _, inputs = _ready(case, arrays, setting)
    tokens, window = case.sizes[2], case.window or case.sizes[2]

    def seen(batch: Any, head: Any, q: Any, k: Any) -> Any:
        del batch, head
        return (q >= k) & (q - k < window)

    mask = create_block_mask(seen, None, None, tokens, tokens, device="cpu")
    scale = case.scale

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
        return flex_attention(q, k, v, block_mask=mask, scale=scale)

    return _inferring(torch.compile(attention), inputs), result_of(case)


def onednn(case: Case, arrays: Arrays, setting: Setting) -> tuple[Result, Callable[..., Array]]:
    """oneDNN's inner product on a weight in its own layout, with GELU as its epilogue."""
    module, (x,) = _ready(case, arrays, setting)
    ops: Any = torch.ops.mkldnn
    try:
        packed = ops._reorder_linear_weight(module.constants["w"].data, case.sizes[0])
    except RuntimeError as error:
        raise NotAvailable(str(error).splitlines()[0]) from error
    epilogue = ("gelu", [], "none") if case.kind == "gelu" else ("none", [], "")

    def call(x: torch.Tensor) -> torch.Tensor:
        return ops._linear_pointwise(x, packed, None, *epilogue)

    return _inferring(call, (x,)), result_of(case)


def tensor(array: Array) -> torch.Tensor:
    """A tensor of the array's content, in its format."""
    if array.dtype == np.float32:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)


def window_mask(tokens: int, window: int) -> torch.Tensor:
    """True where a query sees a key."""
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
    return (distance >= 0) & (distance < window)


def inputs_of(case: Case, arrays: Arrays) -> tuple[torch.Tensor, ...]:
    """What `forward` takes."""
    given = (tensor(arrays[name]) for name in case.inputs)
    if case.kind == "attention":
        return tuple(x.transpose(1, 2).contiguous() for x in given)
    return tuple(given)


def result_of(case: Case) -> Callable[[torch.Tensor], Array]:
    """Reads a result of `forward` as the case's array."""

    def read(result: torch.Tensor) -> Array:
        ordered = result.transpose(1, 2) if case.kind == "attention" else result
        return ordered.float().numpy()

    return read


def _ready(
    case: Case, arrays: Arrays, setting: Setting
) -> tuple[TorchKernel, tuple[torch.Tensor, ...]]:
    torch.set_num_threads(setting.threads)
    torch.set_grad_enabled(False)
    return TorchKernel(case, arrays).eval(), inputs_of(case, arrays)


def _inferring(function: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> Result:
    def call() -> torch.Tensor:
        with torch.inference_mode():
            return function(*inputs)

    return call
