"""Small GGUF files, written by the gguf package's own writer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

HIDDEN, INNER, HEADS, HEAD_DIM, LAYERS = 32, 64, 2, 32, 2

SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
BYTES = [f"<0x{value:02X}>" for value in range(256)]
# "_" stands for U+2581, with which SentencePiece spells a space.
PIECES = [piece.replace("_", "\u2581") for piece in (
    "\n", "\n\n", "  ", "   ", "\t", "_", "e", "a", "t", "h", "s", "i", "n", "th", "he", "the",
    "_the", "an", "in", "_t", "_th", "_a", "_an", "_i", "is", "_is", "hat", "that", "at", "_that",
    "sa", "sat", "_s", "_sat", "é", "ü", "日", "日本", "本", "🙂", "<turn>", "</b>", ".", "!", "..",
    "1", "12", "2",
)]  # fmt: skip
TOKENS = SPECIALS + BYTES + PIECES
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def token_types() -> list[int]:
    kinds = [CONTROL, CONTROL, CONTROL, UNKNOWN, CONTROL] + [BYTE] * 256
    special = {"<turn>": CONTROL, "</b>": USER_DEFINED, "  ": USER_DEFINED, "\n\n": USER_DEFINED}
    return kinds + [special.get(piece, NORMAL) for piece in PIECES]


def tensors(seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Random weights of a two-layer Gemma under llama.cpp's names."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return rng.standard_normal((rows, columns), np.float32)

    def norm(width: int) -> npt.NDArray[np.float32]:
        return np.float32(1) + rng.standard_normal(width, np.float32) / np.float32(8)

    made = {"token_embd.weight": matrix(len(TOKENS), HIDDEN), "output_norm.weight": norm(HIDDEN)}
    for layer in range(LAYERS):
        leaves = {
            "attn_q": matrix(HEADS * HEAD_DIM, HIDDEN),
            "attn_k": matrix(HEAD_DIM, HIDDEN),
            "attn_v": matrix(HEAD_DIM, HIDDEN),
            "attn_output": matrix(HIDDEN, HEADS * HEAD_DIM),
            "attn_q_norm": norm(HEAD_DIM),
            "attn_k_norm": norm(HEAD_DIM),
            "attn_norm": norm(HIDDEN),
            "post_attention_norm": norm(HIDDEN),
            "ffn_norm": norm(HIDDEN),
            "post_ffw_norm": norm(HIDDEN),
            "ffn_gate": matrix(INNER, HIDDEN),
            "ffn_up": matrix(INNER, HIDDEN),
            "ffn_down": matrix(HIDDEN, INNER),
        }
        made |= {f"blk.{layer}.{leaf}.weight": value for leaf, value in leaves.items()}
    return made


@dataclass
class GgufSpec:
    """What to write; tests change a copy. `kinds` quantizes the tensors that it names."""

    architecture: str = "gemma3"
    numbers: dict[str, float | None] = field(
        default_factory=lambda: {
            "context_length": 128,
            "embedding_length": HIDDEN,
            "block_count": LAYERS,
            "feed_forward_length": INNER,
            "attention.head_count": HEADS,
            "attention.head_count_kv": 1,
            "attention.key_length": HEAD_DIM,
            "attention.value_length": HEAD_DIM,
            "attention.sliding_window": 16,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "rope.freq_base": 1e6,
        }
    )
    texts: dict[str, str] = field(default_factory=lambda: {"tokenizer.ggml.model": "llama"})
    flags: dict[str, bool] = field(
        default_factory=lambda: {"add_bos_token": True, "add_eos_token": False}
    )
    tokens: Sequence[str] = field(default_factory=lambda: list(TOKENS))
    token_types: Sequence[int] = field(default_factory=token_types)
    tensors: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=tensors)
    kinds: Mapping[str, GGMLQuantizationType] = field(default_factory=lambda: {})

    def write(self, path: Path) -> Path:
        writer = GGUFWriter(path, self.architecture)
        for key, value in self.numbers.items():
            if isinstance(value, float):
                writer.add_float32(f"{self.architecture}.{key}", value)
            elif value is not None:
                writer.add_uint32(f"{self.architecture}.{key}", value)
        for key, text in self.texts.items():
            writer.add_string(key, text)
        for key, flag in self.flags.items():
            writer.add_bool(f"tokenizer.ggml.{key}", flag)
        writer.add_token_list(list(self.tokens))
        writer.add_token_scores([0.0] * len(self.tokens))
        writer.add_token_types(list(self.token_types))
        writer.add_bos_token_id(2)
        writer.add_eos_token_id(1)
        writer.add_unk_token_id(3)
        writer.add_pad_token_id(0)
        for name, value in self.tensors.items():
            self._add(writer, name, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def _add(self, writer: GGUFWriter, name: str, value: npt.NDArray[Any]) -> None:
        kind = self.kinds.get(name)
        if kind is None:
            writer.add_tensor(name, value)
        else:
            writer.add_tensor(name, quantize(value, kind), raw_dtype=kind)
