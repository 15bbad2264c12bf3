"""Y-02, the idealized runtime: long generations told from short runs that others have disturbed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tests.cli.shell import call
from tests.cli.shell import compiled as compiled_graph
from tests.runtime.programs import write_counter
from tests.seeds.language import compiled, decoder
from tests.seeds.ranks import kendall
from tilewright.autotune import ideal_runtime as module
from tilewright.autotune.ideal_runtime import (
    IdealRuntime,
    Probe,
    fit,
    probe,
    probe_points,
)
from tilewright.dsl.errors import PromptTooLong, TooFewProbes
from tilewright.runtime import LanguageModel

KNOTS = (16, 256, 2048)
PLANTED = IdealRuntime(KNOTS, (0.02, 0.08, 0.8), 0.01)
PROMPTS, OUTPUTS = (16, 96, 256, 800, 1400, 2048), (0, 32)
NOISE = 0.2


@dataclass
class Clock:
    """A model that takes planted times, each up to 20 % longer, and the clock that shows them."""

    planted: IdealRuntime
    rng: np.random.Generator
    context: int = 4096
    now: float = 0.0
    runs: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    @property
    def model(self) -> Any:
        return SimpleNamespace(session=lambda: None)

    def perf_counter(self) -> float:
        return self.now

    def generate(
        self, prompt: Sequence[int], *, max_tokens: int, on_token: Callable[[int], None], **_: Any
    ) -> None:
        self.runs.append((len(prompt), max_tokens))
        self.now += self.planted.encode(len(prompt)) * (1 + NOISE * self.rng.random())
        for token in range(max_tokens):
            self.now += self.planted.token_seconds * (1 + NOISE * self.rng.random())
            on_token(token)


@pytest.mark.parametrize("seed", range(20))
def test_planted_coefficients_are_recovered(seed: int) -> None:
    """From 12 points, each run 20 times with one-sided noise of 20 %."""
    rng = np.random.default_rng(seed)
    probes = [
        Probe(p, o, PLANTED.seconds(p, o) * (1 + NOISE * rng.random()))
        for p in PROMPTS
        for o in OUTPUTS
        for _ in range(20)
    ]
    found = fit(probes, KNOTS)
    assert found.knots == KNOTS
    assert found.encode_seconds == pytest.approx(PLANTED.encode_seconds, rel=0.05)
    assert found.token_seconds == pytest.approx(PLANTED.token_seconds, rel=0.05)


def test_without_noise_the_fit_is_exact() -> None:
    probes = [Probe(p, o, PLANTED.seconds(p, o)) for p in PROMPTS for o in OUTPUTS]
    found = fit(probes)
    assert found.knots == PROMPTS
    for prompt in (1, 16, 40, 700, 2048, 3000):
        assert found.seconds(prompt, 900) == pytest.approx(PLANTED.seconds(prompt, 900))


def test_pieces_of_the_line() -> None:
    assert PLANTED.encode(16) == PLANTED.encode(3) == pytest.approx(0.02)
    assert PLANTED.encode(136) == pytest.approx(0.05)
    assert PLANTED.encode(2048 + 1792) == pytest.approx(0.8 + 0.72)
    assert IdealRuntime((8,), (0.5,), 0.1).seconds(100, 5) == pytest.approx(1.0)


def test_cost_and_energy() -> None:
    assert PLANTED.seconds(256, 172) == pytest.approx(1.8)
    assert PLANTED.cost(256, 172, price_per_hour=4.0, accelerators=8) == pytest.approx(0.016)
    assert PLANTED.energy(256, 172, watts=300.0, accelerators=2) == pytest.approx(1080)


@pytest.mark.parametrize(
    "points", [[], [(8, 1)], [(8, 1), (16, 1)], [(8, 1), (8, 1)], [(8, 1), (8, 5), (16, 1), (9, 1)]]
)
def test_too_few_points_are_refused(points: list[tuple[int, int]]) -> None:
    probes = [Probe(p, o, 1.0 + p + o) for p, o in points]
    with pytest.raises(TooFewProbes, match="do not determine"):
        fit(probes, (8, 16) if len(points) == 2 else (8, 16, 32) if points else None)


def test_a_fit_without_sense_is_refused() -> None:
    with pytest.raises(TooFewProbes, match="no longer"):
        fit([Probe(8, 1, 2.0), Probe(8, 33, 1.0)])


def test_probes_take_the_fastest_of_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten rounds; the least of ten draws up to 20 % is 1.8 % too long in the mean."""
    clock = planted_clock(monkeypatch, PLANTED, 1)
    points = [(16, 1), (16, 33), (700, 2)]
    (found,) = probe([as_model(clock)], points, 10)
    assert [(p.prompt, p.output) for p in found] == points
    assert clock.runs == [(16, 33), (700, 2)] * 11
    for each in found:
        least = PLANTED.seconds(each.prompt, each.output)
        assert least < each.seconds < 1.1 * least
    assert found[1].seconds < 1.03 * PLANTED.seconds(16, 33)


def test_probes_beyond_the_context_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = [planted_clock(monkeypatch, PLANTED, seed) for seed in range(2)]
    clocks[1].context = 40
    with pytest.raises(PromptTooLong, match="41 tokens in all exceeds the context of 40"):
        probe([as_model(clock) for clock in clocks], [(1, 1), (8, 33)], 2)
    assert clocks[0].runs == clocks[1].runs == []


def test_what_is_probed() -> None:
    lengths = (1, 256, 512, 1024, 2048)
    assert probe_points(2048, 4096) == [(p, o) for p in lengths for o in (1, 33)]
    assert probe_points(4, 16) == [(p, o) for p in (1, 2, 4) for o in (1, 12)]
    assert probe_points(2, 3) == [(1, 1), (1, 2), (2, 1)]
    assert probe_points(1, 64) == [(1, 1), (1, 33)]


def test_planted_variants_are_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten that differ by 8 % each, in an order of their own."""
    rng = np.random.default_rng(4)
    sizes = rng.permutation([1.08**step for step in range(10)])
    predicted: list[float] = []
    for seed, size in enumerate(sizes):
        planted = IdealRuntime((1, 512), (0.002 * size, 0.05 * size), 0.004 * size)
        clock = planted_clock(monkeypatch, planted, seed)
        points = [(p, o) for p in (1, 128, 512) for o in (1, 33)]
        (probes,) = probe([as_model(clock)], points, 6)
        predicted.append(fit(probes).seconds(300, 500))
    assert kendall(predicted, sizes.tolist()) == 1.0


def test_kendall() -> None:
    assert kendall([1, 2, 3], [4, 5, 9]) == 1
    assert kendall([1, 2, 3], [9, 5, 4]) == -1
    assert kendall([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(2 / 3)


def test_bench_tells_what_generations_take(tmp_path: Path) -> None:
    write_counter(tmp_path / "lm")
    asked = ("bench", tmp_path / "lm", "--runs", 1, "--generate", "5,9", "--generate", "3,2")
    done = call(*asked, "--price", 3.6, "--watts", 50, "--accelerators", 2, "--json")
    assert done.code == 0, done.err
    found = done.data
    assert found["prompts"] == [1, 2, 5]
    assert [(p["prompt"], p["output"]) for p in found["probes"]] == [
        (prompt, output) for prompt in (1, 2, 5) for output in (1, 11)
    ]
    runtime = fit(Probe(p["prompt"], p["output"], p["s"]) for p in found["probes"])
    assert found["token_s"] == pytest.approx(runtime.token_seconds)
    for row, (prompt, output) in zip(found["generations"], ((5, 9), (3, 2)), strict=True):
        assert (row["prompt"], row["output"]) == (prompt, output)
        assert row["seconds"] == pytest.approx(runtime.seconds(prompt, output))
        assert row["cost"] == pytest.approx(row["seconds"] * 2 * 3.6 / 3600)
        assert row["joules"] == pytest.approx(row["seconds"] * 2 * 50)
    text = call(*asked).out
    assert "first token after" in text
    assert "new tokens" in text
    assert "joules" not in text


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        (("--generate", "5"), "names no generation"),
        (("--generate", "0,4"), "names no generation"),
        (("--generate", "9,9"), "exceed the context of 16"),
        (("--generate", "4,4", "--price", "inf"), "is no number"),
        (("--generate", "4,4", "--at", "past=2"), "leave --graph"),
        (("--watts", "4"), "for generations"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, options: tuple[str, ...], mistake: str) -> None:
    write_counter(tmp_path / "lm")
    done = call("bench", tmp_path / "lm", *options)
    assert done.code == 1
    assert mistake in done.err


def test_only_language_models_generate(tmp_path: Path) -> None:
    done = call("bench", compiled_graph(tmp_path), "--generate", "4,4")
    assert done.code == 1
    assert "no language model" in done.err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_short_probes_predict_long_generations(tmp_path: Path) -> None:
    """TLM: ten points tell twelve others, with up to four times as many new tokens.

    All are run in turn, so that what else the machine does disturbs them alike.
    """
    model = compiled(decoder(6, 128), tmp_path / "tlm")
    probed = [(p, o) for p in (1, 80, 160, 320, 640) for o in (1, 33)]
    others = [(p, o) for p in (40, 120, 240, 500) for o in (64, 96, 132)]
    (found,) = probe([model], [*probed, *others], 12)
    runtime = fit(found[: len(probed)])
    errors = [runtime.seconds(p.prompt, p.output) / p.seconds - 1 for p in found[len(probed) :]]
    assert len(errors) == 12
    print(
        f"TLM, held out: median {np.median(np.abs(errors)):.1%}, worst {max(map(abs, errors)):.1%}"
    )
    assert np.median(np.abs(errors)) <= 0.15


VARIANTS = (
    *((layers, 128) for layers in (1, 2, 4, 7, 10)),
    *((layers, 256) for layers in (4, 6, 9, 13, 19)),
)
"""Layers and width; none costs nearly what another does."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_variants_are_ranked_as_by_full_measurement(tmp_path: Path) -> None:
    """Ten decoders by 132 new tokens after 100, from probes of at most 33."""
    names = [f"{layers}x{width}" for layers, width in VARIANTS]
    models = [
        compiled(decoder(*v), tmp_path / name) for v, name in zip(VARIANTS, names, strict=True)
    ]
    points = [(p, o) for p in (1, 64, 128) for o in (1, 33)]
    probes = probe(models, [*points, (100, 132)], 10)
    predicted = [fit(these[:-1]).seconds(100, 132) for these in probes]
    measured = [these[-1].seconds for these in probes]
    found = kendall(predicted, measured)
    for name, *both in sorted(zip(names, predicted, measured, strict=True), key=lambda row: row[2]):
        print(f"{name}: predicted {both[0] * 1e3:.1f} ms, measured {both[1] * 1e3:.1f} ms")
    print(f"ten variants: Kendall {found:.2f}")
    assert found >= 0.9


def planted_clock(monkeypatch: pytest.MonkeyPatch, planted: IdealRuntime, seed: int) -> Clock:
    clock = Clock(planted, np.random.default_rng(seed))
    monkeypatch.setattr(module, "time", clock)
    return clock


def as_model(clock: Clock) -> LanguageModel:
    return cast("LanguageModel", clock)
