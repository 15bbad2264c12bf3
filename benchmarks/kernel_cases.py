"""The kernels that are compared: their sizes, inputs, meaning in float64 and least work."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np
from harness import Work, WrongNumbers
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Kind = Literal["matmul", "gelu", "softmax", "rms_norm", "layer_norm", "attention"]

MATMULS = (
    "256x256x256", "512x512x512", "1024x1024x1024", "2048x2048x2048",
    "128x384x1536", "128x1536x384", "1024x384x1536", "512x640x2048", "512x2048x640",
    "1x640x2048", "1x2048x640", "1x640x262144",
)  # fmt: skip
GELUS = ("512x640x2048", "1024x1536x384")
"""As matmul: the layers of Gemma 3 270M and of MiniLM that have outputs of these sizes."""
ROWS = ("512x2048", "1024x384")
ATTENTIONS = (
    "128/causal", "1024/causal", "4096/causal",
    "128/window512", "1024/window512", "4096/window512",
    "8192/causal", "16384/causal",
)  # fmt: skip
DTYPES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}
CASES = tuple(
    f"{kernel}/{dtype}"
    for kernel in (
        *(f"matmul/{sizes}" for sizes in MATMULS),
        *(f"{kind}/{sizes}" for kind in ("softmax", "rms_norm", "layer_norm") for sizes in ROWS),
        *(f"gelu/{sizes}" for sizes in GELUS),
        *(f"attention/8x128/{sizes}" for sizes in ATTENTIONS),
    )
    for dtype in DTYPES
)
RMS_EPS, LAYER_EPS = 1e-6, 1e-5
TOLERANCE = {"f32": (1e-4, 1e-4), "bf16": (2**-6, 2**-6)}
"""Largest legal distance: this part of the element, and this part of the output's mean size."""
_MOST_SCORES = 1 << 24

SYSTEMS: Mapping[Kind, Sequence[str]] = {
    "matmul": (
        "tilewright", "torch-eager", "torch-compile", "torch-autotune", "onednn", "openvino",
        "metaschedule",
    ),
    "gelu": (
        "tilewright", "torch-eager", "torch-compile", "torch-autotune", "onednn", "openvino",
        "metaschedule",
    ),
    "softmax": ("tilewright", "torch-eager", "torch-compile", "openvino", "metaschedule"),
    "rms_norm": ("tilewright", "torch-eager", "torch-compile", "openvino", "metaschedule"),
    "layer_norm": ("tilewright", "torch-eager", "torch-compile", "openvino", "metaschedule"),
    "attention": ("tilewright", "torch-eager", "torch-compile", "torch-flex", "openvino"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel: `matmul/MxKxN/f32`, `softmax/RxC/bf16`, `attention/HxD/TOKENS/window512/f32`.

    sizes: M, K, N of a matmul (and of the one under a GELU), rows and columns, or heads, head_dim
    and tokens of attention, which is causal and sees `window` positions.
    """

    text: str
    kind: Kind
    sizes: tuple[int, ...]
    dtype: str
    window: int | None = None

    @staticmethod
    def parse(text: str) -> Case:
        name, _, rest = text.partition("/")
        *parts, dtype = rest.split("/")
        kinds: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
        kind = kinds.get(name)
        if kind is None or dtype not in DTYPES:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not KERNEL/SIZES/DTYPE with a kernel of {', '.join(SYSTEMS)} "
                f"and a format of {', '.join(DTYPES)}"
            )
        mask = parts.pop() if kind == "attention" and parts else "causal"
        wanted = 3 if kind in ("matmul", "gelu", "attention") else 2
        words = "x".join(parts).split("x")
        seen = mask.removeprefix("window")
        if (
            len(words) != wanted
            or not all(word.isdecimal() and int(word) for word in words)
            or not (mask == "causal" or (seen != mask and seen.isdecimal() and int(seen)))
        ):
            raise argparse.ArgumentTypeError(
                f"{text!r}: sizes are written as in {', '.join(_examples())}"
            )
        window = None if mask == "causal" else int(seen)
        return Case(text, kind, tuple(map(int, words)), dtype, window)

    @property
    def systems(self) -> Sequence[str]:
        return SYSTEMS[self.kind]

    @property
    def inputs(self) -> Sequence[str]:
        """Names of the arrays that a call is given; the others are constants."""
        return ("q", "k", "v") if self.kind == "attention" else ("x",)

    @property
    def file_name(self) -> str:
        return self.text.replace("/", "-")

    @property
    def scale(self) -> float:
        """Of attention's scores."""
        return self.sizes[1] ** -0.5

    def figure(self, seconds: float) -> float:
        """Milliseconds."""
        return seconds * 1e3

    def work(self, system: str) -> Work:
        """FLOPs of matmuls; bytes of the matrix for one row, and of the input for normalisations.

        What fits in a cache is read faster than a stream: there a fraction may be above one.
        """
        del system
        size = DTYPES[self.dtype].itemsize
        match self.kind:
            case "matmul" | "gelu":
                rows, inner, columns = self.sizes
                read = inner * columns * size if rows == 1 else 0
                return Work(self.dtype, flops=2.0 * rows * inner * columns, read_bytes=read)
            case "attention":
                heads, width, tokens = self.sizes
                seen = min(tokens, self.window or tokens)
                pairs = seen * (seen + 1) / 2 + (tokens - seen) * seen
                return Work(self.dtype, flops=4.0 * heads * width * pairs)
            case _:
                return Work(self.dtype, read_bytes=math.prod(self.sizes) * size)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of x, w, weight, bias, or of q, k and v: [1, tokens, heads, head_dim]."""
        match self.kind:
            case "matmul" | "gelu":
                rows, inner, columns = self.sizes
                return {"x": (rows, inner), "w": (inner, columns)}
            case "attention":
                heads, width, tokens = self.sizes
                return dict.fromkeys(self.inputs, (1, tokens, heads, width))
            case "softmax":
                return {"x": self.sizes}
            case "rms_norm":
                return {"x": self.sizes, "weight": self.sizes[1:]}
            case "layer_norm":
                return {"x": self.sizes, "weight": self.sizes[1:], "bias": self.sizes[1:]}

    def arrays(self) -> dict[str, Array]:
        """Inputs and constants, normally distributed, the same in every process."""
        random = np.random.default_rng(0)
        found: dict[str, Array] = {}
        for name, shape in self.shapes.items():
            drawn = random.standard_normal(shape, np.float32)
            if name == "w":
                drawn *= np.float32(shape[0] ** -0.5)  # results are of the size of inputs
            found[name] = drawn.astype(DTYPES[self.dtype])
        return found

    def check(self, result: Array, arrays: Arrays) -> None:
        """Compares a system's result with the float64 one. Raises WrongNumbers."""
        expected = self.reference(arrays)
        if result.shape != expected.shape:
            raise WrongNumbers(f"shape {result.shape}, expected {expected.shape}")
        relative, absolute = TOLERANCE[self.dtype]
        size = math.sqrt(float(np.mean(np.square(expected))))
        distance = np.abs(result.astype(np.float64) - expected)
        legal = relative * np.abs(expected) + absolute * size
        if not np.all(distance <= legal):  # NaN is not
            worst = float(np.nanmax(distance, initial=0.0))
            raise WrongNumbers(f"off by up to {worst:.3g} where the mean size is {size:.3g}")

    def reference(self, arrays: Arrays) -> Array:
        """What the kernel means, in float64, of the inputs as they were rounded."""
        wide = {name: array.astype(np.float64) for name, array in arrays.items()}
        match self.kind:
            case "matmul":
                return wide["x"] @ wide["w"]
            case "gelu":
                return _gelu(wide["x"] @ wide["w"])
            case "softmax":
                return _softmax(wide["x"])
            case "rms_norm":
                x = wide["x"]
                square = np.mean(np.square(x), -1, keepdims=True)
                return x / np.sqrt(square + RMS_EPS) * wide["weight"]
            case "layer_norm":
                x = wide["x"] - wide["x"].mean(-1, keepdims=True)
                variance = np.mean(np.square(x), -1, keepdims=True)
                return x / np.sqrt(variance + LAYER_EPS) * wide["weight"] + wide["bias"]
            case "attention":
                return self._attention(wide["q"], wide["k"], wide["v"])

    def _attention(self, q: Array, k: Array, v: Array) -> Array:
        """By blocks of queries and their visible keys: all scores would not fit in memory."""
        heads, _, tokens = self.sizes
        block = max(1, min(512, _MOST_SCORES // tokens))
        result = np.empty_like(q)
        for first in range(0, tokens, block):
            last = min(first + block, tokens)
            begin = 0 if self.window is None else max(0, first - self.window + 1)
            rows, columns = np.arange(first, last)[:, None], np.arange(begin, last)
            seen = columns <= rows
            if self.window is not None:
                seen &= rows - columns < self.window
            for head in range(heads):
                scores = q[0, first:last, head] @ k[0, begin:last, head].T * self.scale
                weights = _softmax(np.where(seen, scores, -np.inf))
                result[0, first:last, head] = weights @ v[0, begin:last, head]
        return result


def _examples() -> Sequence[str]:
    return ("matmul/128x384x1536/f32", "softmax/1024x384/f32", "attention/8x128/4096/window512/f32")


def _softmax(x: Array) -> Array:
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _gelu(x: Array) -> Array:
    from scipy import special

    return x * special.ndtr(x)
