"""A study on a local Ray cluster."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.shell import call
from tests.cli.test_tune import model as model
from tests.cli.test_tune import tune_elsewhere

pytest.importorskip("ray")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The address of a cluster of one node."""
    binary = Path(sys.executable).with_name("ray")
    port = 20_000 + os.getpid() % 20_000
    place = {**os.environ, "RAY_TMPDIR": "/tmp", "RAY_USAGE_STATS_ENABLED": "0"}
    start = [binary, "start", "--head", "--num-cpus=2", f"--port={port}"]
    options = ["--include-dashboard=false", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    subprocess.run([*start, *options], env=place, check=True, capture_output=True)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run([binary, "stop", "--force"], env=place, check=False, capture_output=True)


def test_workers_on_a_cluster_complete_a_study(
    tmp_path: Path, model: list[str], cluster: str
) -> None:
    records = tmp_path / "records.db"
    tune_elsewhere(model, records, "--trials", "6", "--workers", "2", "--ray", cluster)
    with sqlite3.connect(records) as connection:
        count = "SELECT count(*) FROM tilewright_candidates"
        assert connection.execute(count).fetchone() == (6,)
        rows = connection.execute(
            "SELECT value_json FROM trial_user_attributes WHERE key = 'worker'"
        ).fetchall()
    assert len(set(rows)) > 1, "all trials were made by one worker"


def test_a_cluster_that_is_not_there(tmp_path: Path, model: list[str]) -> None:
    given = ["--storage", tmp_path / "records.db", "--ray", "127.0.0.1:1", "--json"]
    done = call("tune", *model, *given)
    assert (done.code, done.data["error"]) == (1, "WorkersFailed")
