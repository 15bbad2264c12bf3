"""The surroundings of every test: threads, private caches, seeds and depth."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.depth import DEEP

# Read by OpenMP, TVM, Triton and Hugging Face when they are imported, so set before any of them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TVM_BIND_THREADS", "0")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_OWN_SCRATCH = "TILEWRIGHT_TEST_SCRATCH" not in os.environ
if _OWN_SCRATCH:  # else this is a worker, which shares the caches of the run that started it
    scratch = tempfile.mkdtemp(prefix="tilewright-tests-")
    os.environ["TILEWRIGHT_TEST_SCRATCH"] = scratch
    os.environ["TILEWRIGHT_CACHE_DIR"] = f"{scratch}/cache"
    os.environ["TRITON_CACHE_DIR"] = f"{scratch}/triton"

settings.register_profile(
    "ci",
    max_examples=25,
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("deep", settings.get_profile("ci"), max_examples=1000)
settings.load_profile("deep" if DEEP else "ci")


def commit_seed() -> int:
    """A seed that is the same for everybody on one commit and moves on with the next."""
    root = Path(__file__).parent.parent
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return int(head.stdout[:8], 16) if head.returncode == 0 else 0


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hand hypothesis the seed of this commit, unless one was given."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(commit_seed())


def pytest_unconfigure() -> None:
    """Remove the private caches with the run that made them."""
    if _OWN_SCRATCH:
        shutil.rmtree(os.environ["TILEWRIGHT_TEST_SCRATCH"], ignore_errors=True)


def pytest_report_header(config: pytest.Config) -> str:
    """Say what a failure needs to be run again."""
    depth = "deep" if DEEP else "ci"
    return f"tilewright: depth {depth}, --hypothesis-seed={config.option.hypothesis_seed}"


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Leave tests marked `slow` to the deep run."""
    if not DEEP:
        for item in items:
            if item.get_closest_marker("slow") is not None:
                item.add_marker(pytest.mark.skip(reason="slow: runs in make check-deep"))
