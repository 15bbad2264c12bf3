"""The stated errors of the network model, computed anew from the public timings."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tilewright.target.network import network

pytest.importorskip("scipy", reason="constants are fitted with scipy")
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))
errors: Any = import_module("network_error")
fits: Any = import_module("network_fit")
rows: Any = import_module("network_rows")
algorithms: Any = import_module("network_algorithms")
overlap: Any = import_module("network_overlap")
matmul: Any = import_module("network_matmul")


@pytest.mark.parametrize("arch", errors.BARS)
def test_sizes_held_out(arch: str) -> None:
    found = errors.held_out(arch)
    assert found.model.geometric <= errors.BARS[arch]
    assert found.model.geometric < found.alpha_beta.geometric
    assert found.constants < found.simple_constants


@pytest.mark.parametrize("arch", ["sm_100_GB200", "sm_103"])
def test_group_sizes_left_out(arch: str) -> None:
    found = errors.left_out(arch)
    assert len(found) == 7
    assert max(error.geometric for error in found.values()) <= errors.LEFT_OUT_BAR


@pytest.mark.parametrize("arch", fits.PLANS)
def test_the_package_ships_the_constants_of_all_rows(arch: str) -> None:
    fitted = fits.fit(fits.PLANS[arch], rows.load(arch))
    shipped = network(arch)
    for name in fits.PLANS[arch].free:
        assert getattr(shipped, name) == pytest.approx(getattr(fitted, name), rel=0.02), name


def test_winners_among_algorithms() -> None:
    judged = algorithms.judged(algorithms.tables())
    assert len(judged) == 54
    assert sum(point.right for point in judged) >= algorithms.BAR * len(judged)


def test_rings_overtake_trees_at_the_size_that_was_measured() -> None:
    """128 V100: from 64 MiB on, in the table and in the model, within one size step."""
    (table,) = (one for one in algorithms.tables() if one.hardware == "sm_70")
    points = table.points(network("v100"), {})
    overtaken = [
        next(i for i, times in enumerate(given) if times["ring"] < times["tree"])
        for given in ([p.measured for p in points], [p.predicted for p in points])
    ]
    assert points[overtaken[0]].bytes == 64 << 20
    assert abs(overtaken[0] - overtaken[1]) <= 1


def test_fuse_or_do_not_fuse() -> None:
    judged = overlap.shipped(overlap.pairs())
    assert len(judged) == 44
    assert sum(row.right(constants) for row, constants in judged) >= overlap.BAR * len(judged)


def test_a_pair_is_predicted_from_the_others() -> None:
    judged = overlap.left_out(overlap.pairs())
    assert sum(row.right(constants) for row, constants in judged) >= overlap.BAR * len(judged)


@pytest.mark.parametrize("arch", matmul.UNITS)
def test_products_alone(arch: str) -> None:
    assert matmul.error(matmul.UNITS[arch], matmul.products(arch)) <= 0.06


def test_halves_share_no_size() -> None:
    even, odd = rows.halves(rows.load("sm_100_GB200"))
    assert {row.step % 2 for row in even} == {0}
    assert {row.step % 2 for row in odd} == {1}
    assert len(even) + len(odd) == len(rows.load("sm_100_GB200"))


def test_a_worse_model_does_not_pass() -> None:
    """The bars say something: H100 with the constants of B200 is far outside."""
    wrong = rows.Error.of(rows.predictor(network("sm_100_B200")), rows.load("sm_90"))
    assert wrong.geometric > 2 * errors.BARS["sm_90"]
