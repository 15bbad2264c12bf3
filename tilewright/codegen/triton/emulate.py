"""Runs a kernel on the processor, in Triton's interpreter, with every access checked.

Triton 3.9's interpreter is made to run functions that were defined to be compiled, to round to
bfloat16 as GPUs do and to multiply bfloat16 matrices; all of that is undone afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tilewright.codegen.triton.kernel import TritonKernel
from tilewright.codegen.triton.load import loaded
from tilewright.dsl.dims import evaluate

Array = NDArray[Any]


class OutOfBounds(Exception):
    """A lane that is not masked reads or writes outside the kernel's arrays."""


def emulate(
    kernel: TritonKernel,
    arrays: Sequence[Array],
    symbols: Mapping[str, int],
    order: int | None = None,
) -> None:
    """Runs all programs of the kernel over `arrays`, one for each of its arguments, in place.

    Programs run one after the other: by number, or shuffled by the seed `order`. Raises
    OutOfBounds.
    """
    if len(arrays) != len(kernel.arguments) or not all(a.flags.c_contiguous for a in arrays):
        raise ValueError("one contiguous array is needed for each argument")
    count = 1
    for size in kernel.grid:
        count *= size if isinstance(size, int) else evaluate(size, symbols)
    programs = np.arange(count)
    if order is not None:
        np.random.default_rng(order).shuffle(programs)
    with loaded(kernel) as function, _interpreter(function, arrays) as (run, builder):
        arguments = _arguments(kernel, arrays, symbols)
        builder.set_grid_dim(count, 1, 1)
        with np.errstate(all="ignore"):
            for program in programs:
                builder.set_grid_idx(int(program), 0, 0)
                run(**arguments)


def _arguments(
    kernel: TritonKernel, arrays: Sequence[Array], symbols: Mapping[str, int]
) -> dict[str, Any]:
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    values = [a.ctypes.data for a in arrays] + [symbols[s] for s in kernel.symbols]
    found: dict[str, Any] = dict(kernel.constants)
    for (word, kind), value in zip(kernel.parameters, values, strict=False):
        type_: Any = tl.str_to_ty(kind, None)
        storage = np.uint64 if kind.startswith("*") else np.int64 if kind == "i64" else np.int32
        found[word] = tl.tensor(TensorHandle(np.array([value], storage), type_), type_)
    return found


@contextmanager
def _interpreter(function: Any, arrays: Sequence[Array]) -> Generator[tuple[Any, Any]]:
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    def called(self: Any, *args: Any, **options: Any) -> Any:
        """Functions of the language that are themselves compiled, such as tl.sum."""
        inner = interpreter.InterpretedFunction(self.fn)
        scope = interpreter._patch_lang(self.fn)  # pyright: ignore[reportPrivateUsage]  # there is no public way in
        try:
            return inner.rewrite()(*args, **options)
        finally:
            scope.restore()

    builder = interpreter.InterpreterBuilder
    with ExitStack() as stack:
        stack.enter_context(_replaced(JITFunction, "__call__", called))
        for name, replacement in _fixes(builder, _Bounds(arrays)).items():
            stack.enter_context(_replaced(builder, name, replacement))
        scope = interpreter._patch_lang(function.fn)  # pyright: ignore[reportPrivateUsage]  # as above
        stack.callback(scope.restore)
        run = interpreter.InterpretedFunction(function.fn).rewrite()
        yield run, interpreter.interpreter_builder


@contextmanager
def _replaced(owner: Any, name: str, replacement: Any) -> Generator[None]:
    own = name in vars(owner)
    before = getattr(owner, name, None)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


class _Bounds:
    """The memory that a kernel may touch."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        spans = sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays)
        self.starts = np.array([start for start, _ in spans], np.uint64)
        self.ends = np.array([end for _, end in spans], np.uint64)

    def check(self, kind: str, pointers: Any, mask: Any) -> None:
        places = np.asarray(pointers.data, np.uint64)
        if mask is not None:
            places = places[np.broadcast_to(np.asarray(mask.data, bool), places.shape)]
        size = np.uint64(max(1, pointers.get_element_ty().primitive_bitwidth // 8))
        at = np.searchsorted(self.starts, places, side="right") - 1
        wrong = (at < 0) | (places + size > self.ends[np.maximum(at, 0)])
        if wrong.any():
            raise OutOfBounds(f"{int(wrong.sum())} lanes of a {kind} leave the kernel's arrays")


def _fixes(builder: Any, bounds: _Bounds) -> dict[str, Callable[..., Any]]:
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    load, store, cast = builder.create_masked_load, builder.create_masked_store, builder.cast_impl

    def create_masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        bounds.check("load", pointers, mask)
        return load(self, pointers, mask, *rest)

    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        bounds.check("store", pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def widened(handle: Any) -> Array:
        if handle.dtype.scalar == tl.bfloat16:
            return np.ascontiguousarray(handle.data).view(ml_dtypes.bfloat16).astype(np.float32)
        return np.asarray(handle.data, np.float32)

    def cast_impl(self: Any, value: Any, kind: Any) -> Any:
        if kind.scalar == tl.bfloat16:
            rounded = widened(value).astype(ml_dtypes.bfloat16).view(np.uint16)
            return TensorHandle(rounded, tl.bfloat16)
        if value.dtype.scalar == tl.bfloat16:
            value = TensorHandle(widened(value), tl.float32)
        return cast(self, value, kind)

    def create_dot(self: Any, a: Any, b: Any, total: Any, *rest: Any) -> Any:
        return TensorHandle(widened(a) @ widened(b) + total.data, total.dtype.scalar)

    return {f.__name__: f for f in (create_masked_load, create_masked_store, cast_impl, create_dot)}
