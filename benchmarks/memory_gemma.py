"""Peak memory of Gemma 3 270M in bfloat16 for one prompt of token ids, beside what is planned.

    python benchmarks/memory_gemma.py [--length 512] [--threads 2]

The limit is: the weights once (no second copy of the tied table), the cache, 64 MB of planned
activations, and 150 MB for Python and everything else. The tokenizer is not loaded for the main
figure; what it adds is printed beside. Exit code 1 where the peak is above the limit.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
from harness import limit_threads
from peers_decoder import model_file
from tilewright_adapter import artifact_of

from tilewright.runtime import LanguageModel, load

MB = 1e6
PLANNED, REST = 64 * MB, 150 * MB


def measure(artifact: Path, length: int, threads: int, tokenizer: bool) -> dict[str, float | str]:
    """One prefill and one step in this process, and what it took."""
    model = load(artifact, threads=threads)
    language = LanguageModel(model)
    if tokenizer:
        language.encode("What does the tokenizer cost?")
    session = model.session()
    ids = np.random.default_rng(0).integers(5, 200_000, length).tolist()
    token = int(language.prefill(session, ids).argmax())
    language.decode(session, token)
    plans = [model.plan(name) for name in model.graphs]
    return {
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "weights": sum(array.nbytes for array in model.artifact.weights.values()),
        "cache": session.nbytes,
        "arena": model.arena_bytes,
        "bound": max(plan.arena_bound for plan in plans),
        "formula": "; ".join(f"{plan.name}: {plan.arena}" for plan in plans),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", nargs=2, metavar=("DIR", "TOKENIZER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    limit_threads(options.threads)
    if options.worker:
        folder, tokenizer = options.worker
        found = measure(Path(folder), options.length, options.threads, tokenizer == "yes")
        print(json.dumps(found))
        return
    artifact = artifact_of(model_file(), "bf16")
    plain, full = (_child(artifact, options, tokenizer) for tokenizer in ("no", "yes"))
    limit = plain["weights"] + plain["cache"] + PLANNED + REST
    for name in ("weights", "cache", "arena", "bound"):
        print(f"{name:8s} {plain[name] / MB:9.1f} MB")
    print(f"formula  {plain['formula']}")
    print(f"peak     {plain['peak'] / MB:9.1f} MB; the limit is {limit / MB:.1f} MB")
    print(f"the tokenizer adds {(full['peak'] - plain['peak']) / MB:.1f} MB")
    sys.exit(plain["peak"] > limit)


def _child(artifact: Path, options: argparse.Namespace, tokenizer: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", str(artifact), tokenizer]
    command += ["--length", str(options.length), "--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
