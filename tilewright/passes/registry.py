"""All passes, and the order in which a compilation runs them."""

from __future__ import annotations

from tilewright.passes.absorb_casts import AbsorbCasts
from tilewright.passes.algebra import Algebra
from tilewright.passes.base import Pass
from tilewright.passes.copy_views import CopyViews
from tilewright.passes.cse import Cse
from tilewright.passes.dce import Dce
from tilewright.passes.expand_composites import ExpandComposites
from tilewright.passes.fill_bundles import FillBundles
from tilewright.passes.fold_constants import FoldConstants
from tilewright.passes.fuse_regions import FuseRegions
from tilewright.passes.horizontal_matmul import HorizontalMatmul
from tilewright.passes.localize import Localize
from tilewright.passes.open_layers import OpenLayers
from tilewright.passes.overlap import Overlap
from tilewright.passes.partition import Partition
from tilewright.passes.pipeline import PassRegistry, Pipeline
from tilewright.passes.prepare_late import PrepareLate
from tilewright.passes.prepare_params import PrepareParams
from tilewright.passes.quantize_weights import QuantizeWeights
from tilewright.passes.recognize_attention import RecognizeAttention
from tilewright.passes.recognize_gelu import RecognizeGelu
from tilewright.passes.recognize_norm import RecognizeNorm
from tilewright.passes.recognize_softmax import RecognizeSoftmax
from tilewright.passes.reorder_all_gather import ReorderAllGather
from tilewright.passes.roots import Roots
from tilewright.passes.shard import Shard
from tilewright.passes.shorten_weights import ShortenWeights
from tilewright.passes.simplify_casts import SimplifyCasts
from tilewright.passes.simplify_movement import SimplifyMovement
from tilewright.passes.sparsify_weights import SparsifyWeights
from tilewright.passes.split_all_reduce import SplitAllReduce
from tilewright.passes.tile_weights import TileWeights
from tilewright.passes.transpose_matmul import TransposeMatmul
from tilewright.passes.turn_weights import TurnWeights

CLASSES: tuple[type[Pass], ...] = (
    AbsorbCasts,
    Algebra,
    CopyViews,
    Cse,
    Dce,
    ExpandComposites,
    FillBundles,
    FoldConstants,
    FuseRegions,
    HorizontalMatmul,
    Localize,
    OpenLayers,
    Overlap,
    Partition,
    PrepareLate,
    PrepareParams,
    QuantizeWeights,
    RecognizeAttention,
    RecognizeGelu,
    RecognizeNorm,
    RecognizeSoftmax,
    ReorderAllGather,
    Roots,
    Shard,
    ShortenWeights,
    SimplifyCasts,
    SimplifyMovement,
    SparsifyWeights,
    SplitAllReduce,
    TileWeights,
    TransposeMatmul,
    TurnWeights,
)
"""Every pass, sorted by name."""

REGISTRY = PassRegistry({cls.name: cls for cls in CLASSES})


def canonical_passes() -> tuple[Pass, ...]:
    """One form for each meaning: literals folded, identities gone, patterns named, products joined.

    Positions are folded last, so that masks built from them can be read as predicates before.
    """
    return (*_named_passes(), *_joining_passes())


def _named_passes() -> tuple[Pass, ...]:
    """Literals, identities and patterns."""
    return (
        FoldConstants(iota=False),
        OpenLayers(),
        Algebra(),
        Roots(),
        SimplifyCasts(),
        SimplifyMovement(),
        TransposeMatmul(),
        Cse(),
        RecognizeSoftmax(),
        RecognizeNorm(),
        RecognizeGelu(),
        AbsorbCasts(),
        RecognizeAttention(),
        SimplifyMovement(),
    )


def _joining_passes() -> tuple[Pass, ...]:
    """Products that share an operand, and what is known by now."""
    return (HorizontalMatmul(), FoldConstants(), Dce())


def mesh_passes() -> tuple[Pass, ...]:
    """Communication rewritten where the plan says so, then the view of one rank."""
    return (SplitAllReduce(), ReorderAllGather(), Overlap(), Localize())


def layout_passes() -> tuple[Pass, ...]:
    """What is stored: parameters prepared while compiling, their length, and their layout.

    Passes that change more than a weight's last bits (encodings, pruning) stand before these, where
    the user asks for them.
    """
    return (PrepareParams(), TurnWeights(), ShortenWeights(), TileWeights())


def fuse_passes() -> tuple[Pass, ...]:
    """From operations to regions: composites opened, loose ends cleaned up, nodes grouped."""
    return (
        ExpandComposites(),
        FillBundles(),
        FoldConstants(),
        Algebra(),
        SimplifyCasts(),
        SimplifyMovement(),
        Cse(),
        Dce(),
        PrepareLate(),
        CopyViews(),
        FuseRegions(),
    )


def lowering_passes() -> tuple[Pass, ...]:
    """Plan."""
    return (Partition(),)


def default_pipeline(*asked: Pass) -> Pipeline:
    """What `tilewright compile` runs; `asked` are semantic passes that it does not run unasked.

    `shard` comes before products are joined: columns of several weights, one behind the other, are
    no columns of one rank. What a rank has is joined once it is known.
    """
    shards = tuple(step for step in asked if isinstance(step, Shard))
    others = tuple(step for step in asked if not isinstance(step, Shard))
    joined = _joining_passes() if shards else ()
    semantic = (*_named_passes(), *shards, *_joining_passes(), *others, *mesh_passes(), *joined)
    return Pipeline((*semantic, *layout_passes(), *fuse_passes(), *lowering_passes()))


def read_passes(text: str) -> Pipeline:
    """The pipeline of `--passes`: a whole list, or `+quantize_weights` for the default and more.

    Raises UnknownPass.
    """
    if text.startswith("+"):
        return default_pipeline(*REGISTRY.parse(text[1:]).passes)
    return REGISTRY.parse(text)
