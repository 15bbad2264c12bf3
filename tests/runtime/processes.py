"""The ranks of a mesh as processes of this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

from tests.audit import ROOT


def run_ranks_of(script: str, ranks: int, arguments: Callable[[int], Sequence[object]]) -> None:
    """Runs a Python script once for each rank, with the rank's arguments; all must succeed."""
    common = {**os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments(rank))],
            cwd=ROOT,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]
    assert [process.wait(timeout=240) for process in running] == [0] * ranks


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
