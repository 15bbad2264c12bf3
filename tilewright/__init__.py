"""Tilewright: a compiler and autotuner for model kernels.

This is the public door. Every name is imported when it is first used, so that `import tilewright`
costs nothing; the table says where it lives.

    import tilewright as tw

    @tw.graph(x=tw.f32[tw.dim("rows", 1, 64), 16])
    def layer(x):
        return tw.gelu(x)

    model = tw.compile(layer)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tilewright.version import __version__

if TYPE_CHECKING:
    from tilewright.api import compile as compile
    from tilewright.dsl.builder import graph as graph
    from tilewright.dsl.builder import param as param
    from tilewright.dsl.builder import scope as scope
    from tilewright.dsl.builder import state as state
    from tilewright.dsl.dims import Dim as Dim
    from tilewright.dsl.dims import DimExpr as DimExpr
    from tilewright.dsl.dims import dim as dim
    from tilewright.dsl.dtypes import DType as DType
    from tilewright.dsl.dtypes import bf16 as bf16
    from tilewright.dsl.dtypes import bool_ as bool_
    from tilewright.dsl.dtypes import f8e4m3 as f8e4m3
    from tilewright.dsl.dtypes import f8e5m2 as f8e5m2
    from tilewright.dsl.dtypes import f16 as f16
    from tilewright.dsl.dtypes import f32 as f32
    from tilewright.dsl.dtypes import f64 as f64
    from tilewright.dsl.dtypes import i8 as i8
    from tilewright.dsl.dtypes import i32 as i32
    from tilewright.dsl.dtypes import i64 as i64
    from tilewright.dsl.dtypes import u8 as u8
    from tilewright.dsl.dtypes import u32 as u32
    from tilewright.dsl.encoding import NM as NM
    from tilewright.dsl.encoding import IntFormat as IntFormat
    from tilewright.dsl.encoding import Quantized as Quantized
    from tilewright.dsl.encoding import Sparse as Sparse
    from tilewright.dsl.errors import CompilerBug as CompilerBug
    from tilewright.dsl.errors import TilewrightError as TilewrightError
    from tilewright.dsl.mask import Mask as Mask
    from tilewright.dsl.mask import causal as causal
    from tilewright.dsl.mask import sinks as sinks
    from tilewright.dsl.mask import window as window
    from tilewright.dsl.ops.activation import gated_mlp as gated_mlp
    from tilewright.dsl.ops.activation import gelu as gelu
    from tilewright.dsl.ops.activation import gelu_tanh as gelu_tanh
    from tilewright.dsl.ops.activation import silu as silu
    from tilewright.dsl.ops.attention import attention as attention
    from tilewright.dsl.ops.bundle import bundle as bundle
    from tilewright.dsl.ops.bundle import unbundle as unbundle
    from tilewright.dsl.ops.collective import all_gather as all_gather
    from tilewright.dsl.ops.collective import all_reduce as all_reduce
    from tilewright.dsl.ops.collective import all_to_all as all_to_all
    from tilewright.dsl.ops.collective import broadcast as broadcast
    from tilewright.dsl.ops.collective import permute as permute
    from tilewright.dsl.ops.collective import reduce as reduce
    from tilewright.dsl.ops.collective import reduce_scatter as reduce_scatter
    from tilewright.dsl.ops.collective import send as send
    from tilewright.dsl.ops.collective import shard_slice as shard_slice
    from tilewright.dsl.ops.create import constant as constant
    from tilewright.dsl.ops.create import full as full
    from tilewright.dsl.ops.create import iota as iota
    from tilewright.dsl.ops.elementwise import clamp as clamp
    from tilewright.dsl.ops.elementwise import cos as cos
    from tilewright.dsl.ops.elementwise import equal as equal
    from tilewright.dsl.ops.elementwise import erf as erf
    from tilewright.dsl.ops.elementwise import exp as exp
    from tilewright.dsl.ops.elementwise import log as log
    from tilewright.dsl.ops.elementwise import maximum as maximum
    from tilewright.dsl.ops.elementwise import minimum as minimum
    from tilewright.dsl.ops.elementwise import rsqrt as rsqrt
    from tilewright.dsl.ops.elementwise import sigmoid as sigmoid
    from tilewright.dsl.ops.elementwise import sin as sin
    from tilewright.dsl.ops.elementwise import sqrt as sqrt
    from tilewright.dsl.ops.elementwise import tanh as tanh
    from tilewright.dsl.ops.elementwise import where as where
    from tilewright.dsl.ops.embedding import embedding as embedding
    from tilewright.dsl.ops.encoding import decode as decode
    from tilewright.dsl.ops.encoding import encode as encode
    from tilewright.dsl.ops.grouped import grouped_matmul as grouped_matmul
    from tilewright.dsl.ops.index import gather as gather
    from tilewright.dsl.ops.index import scatter_add as scatter_add
    from tilewright.dsl.ops.linalg import eigh as eigh
    from tilewright.dsl.ops.linalg import qr as qr
    from tilewright.dsl.ops.matmul import matmul as matmul
    from tilewright.dsl.ops.movement import broadcast_to as broadcast_to
    from tilewright.dsl.ops.movement import concat as concat
    from tilewright.dsl.ops.movement import copy as copy
    from tilewright.dsl.ops.movement import pad as pad
    from tilewright.dsl.ops.movement import permute_dims as permute_dims
    from tilewright.dsl.ops.movement import slice as slice
    from tilewright.dsl.ops.norm import layer_norm as layer_norm
    from tilewright.dsl.ops.norm import rms_norm as rms_norm
    from tilewright.dsl.ops.norm import softmax as softmax
    from tilewright.dsl.ops.random import dropout as dropout
    from tilewright.dsl.ops.random import random_bits as random_bits
    from tilewright.dsl.ops.random import uniform as uniform
    from tilewright.dsl.ops.reduce import argmax as argmax
    from tilewright.dsl.ops.reduce import cumsum as cumsum
    from tilewright.dsl.ops.reduce import logsumexp as logsumexp
    from tilewright.dsl.ops.reduce import max as max
    from tilewright.dsl.ops.reduce import mean as mean
    from tilewright.dsl.ops.reduce import min as min
    from tilewright.dsl.ops.reduce import sum as sum
    from tilewright.dsl.ops.reduce import topk as topk
    from tilewright.dsl.ops.reshape import reshape as reshape
    from tilewright.dsl.ops.rope import rope as rope
    from tilewright.dsl.ops.row import row as row
    from tilewright.dsl.ops.row import stack as stack
    from tilewright.dsl.ops.scan import scan as scan
    from tilewright.dsl.ops.state import cache_gather as cache_gather
    from tilewright.dsl.ops.state import fork as fork
    from tilewright.dsl.ops.state import rollback as rollback
    from tilewright.dsl.placement import At as At
    from tilewright.dsl.placement import Local as Local
    from tilewright.dsl.placement import Mesh as Mesh
    from tilewright.dsl.placement import Partial as Partial
    from tilewright.dsl.placement import Placement as Placement
    from tilewright.dsl.placement import Replicate as Replicate
    from tilewright.dsl.placement import Shard as Shard
    from tilewright.dsl.program import Program as Program
    from tilewright.dsl.program import Traced as Traced
    from tilewright.dsl.program import program as program
    from tilewright.dsl.tensor import Cache as Cache
    from tilewright.dsl.tensor import Tensor as Tensor
    from tilewright.dsl.text import parse_program as parse_program
    from tilewright.dsl.text import print_program as print_program
    from tilewright.dsl.types import CacheType as CacheType
    from tilewright.dsl.types import TensorType as TensorType
    from tilewright.runtime import LanguageModel as LanguageModel
    from tilewright.runtime import Model as Model
    from tilewright.runtime import Sampling as Sampling
    from tilewright.runtime import Session as Session
    from tilewright.runtime import load as load

_NAMES = {
    "api": "compile",
    "dsl.builder": "graph param scope state",
    "dsl.dims": "Dim DimExpr dim",
    "dsl.dtypes": "DType bf16 bool_ f16 f32 f64 f8e4m3 f8e5m2 i32 i64 i8 u32 u8",
    "dsl.encoding": "IntFormat NM Quantized Sparse",
    "dsl.errors": "CompilerBug TilewrightError",
    "dsl.mask": "Mask causal sinks window",
    "dsl.ops.activation": "gated_mlp gelu gelu_tanh silu",
    "dsl.ops.attention": "attention",
    "dsl.ops.bundle": "bundle unbundle",
    "dsl.ops.collective": (
        "all_gather all_reduce all_to_all broadcast permute reduce reduce_scatter send shard_slice"
    ),
    "dsl.ops.create": "constant full iota",
    "dsl.ops.elementwise": (
        "clamp cos equal erf exp log maximum minimum rsqrt sigmoid sin sqrt tanh where"
    ),
    "dsl.ops.embedding": "embedding",
    "dsl.ops.encoding": "decode encode",
    "dsl.ops.grouped": "grouped_matmul",
    "dsl.ops.index": "gather scatter_add",
    "dsl.ops.linalg": "eigh qr",
    "dsl.ops.matmul": "matmul",
    "dsl.ops.movement": "broadcast_to concat copy pad permute_dims slice",
    "dsl.ops.norm": "layer_norm rms_norm softmax",
    "dsl.ops.random": "dropout random_bits uniform",
    "dsl.ops.reduce": "argmax cumsum logsumexp max mean min sum topk",
    "dsl.ops.reshape": "reshape",
    "dsl.ops.rope": "rope",
    "dsl.ops.row": "row stack",
    "dsl.ops.scan": "scan",
    "dsl.ops.state": "cache_gather fork rollback",
    "dsl.placement": "At Local Mesh Partial Placement Replicate Shard",
    "dsl.program": "Program Traced program",
    "dsl.tensor": "Cache Tensor",
    "dsl.text": "parse_program print_program",
    "dsl.types": "CacheType TensorType",
    "runtime": "LanguageModel Model Sampling Session load",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]  # a table


def __getattr__(name: str) -> Any:
    """A public name, imported now."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if home.startswith("dsl"):
        # The operators of tensors need the registry, whichever name comes first.
        import_module(f"{__name__}.dsl.ops")
    found = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
