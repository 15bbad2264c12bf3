"""Small Gemma-like decoders with seeded random weights, compiled: they are timed, not scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.seeds.zoo import GEMMA
from tilewright.api import ArrayWeights
from tilewright.codegen.compiler import Options, compile_program
from tilewright.dsl.dtypes import f32
from tilewright.dsl.sampling import ANYTHING, draw_value
from tilewright.models.config import Gemma3Config, layer_types
from tilewright.models.gemma3 import gemma3
from tilewright.runtime import LanguageModel, load
from tilewright.target.spec import parse_target

CONTEXT = 1024


def decoder(layers: int, width: int) -> Gemma3Config:
    """The shape of a decoder; TLM is `decoder(6, 128)`."""
    return replace(
        GEMMA,
        vocab_size=512,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        query_pre_attn_scalar=32.0,
        sliding_window=512,
        layer_types=layer_types(layers, 6),
    )


def compiled(config: Gemma3Config, folder: Path) -> LanguageModel:
    """The language model on one thread; its artifact lies in `folder`."""
    program, rng = gemma3(config, CONTEXT, f32).program, np.random.default_rng(11)
    weights: dict[str, Any] = {
        p.path: draw_value(program.param(p.path), ANYTHING, rng, scale=0.05) for p in program.params
    }
    metadata = {"kind": "causal_lm", "context": str(CONTEXT), "eos": "", "bos": ""}
    options = Options(parse_target("cpu"), metadata=metadata)
    compile_program(program, ArrayWeights(weights), folder, options)
    return LanguageModel(load(folder, threads=1))
