"""Target specifications: text, canonical form, and what bad ones get."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.dsl.errors import TilewrightError, UnknownTarget, UnknownTargetFeature
from tilewright.target import spec
from tilewright.target.features import ARM, CPUS, FLAGS, X86, closure
from tilewright.target.spec import Target, known_targets, machine_of, parse_target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("cpu", Target("cpu", "native")),
        ("cpu:native", Target("cpu", "native")),
        ("cpu:generic", Target("cpu", "generic")),
        ("cpu:znver4", Target("cpu", "znver4")),
        ("cpu:x86-64-v3+avxvnni", Target("cpu", "x86-64-v3", ("avxvnni",))),
        ("cpu:neoverse-v1", Target("cpu", "neoverse-v1")),
        ("cuda:sm_90", Target("cuda", "sm_90")),
        ("hip:gfx942", Target("hip", "gfx942")),
    ],
)
def test_text_names_a_target(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("cpu", "cpu:native"),
        ("cpu:x86-64+avx2+avx", "cpu:x86-64+avx2"),  # avx2 brings avx
        ("cpu:x86-64+fma+avx2+fma", "cpu:x86-64+fma+avx2"),  # once, in the table's order
        ("cpu:x86-64+avx2+fma", "cpu:x86-64+fma+avx2"),
        ("cpu:znver4+avx512f", "cpu:znver4"),  # znver4 has it
        ("cpu:skylake+avx512vnni+avx512f", "cpu:skylake+avx512vnni"),
    ],
)
def test_canonical_form_says_nothing_twice(text: str, canonical: str) -> None:
    assert str(parse_target(text)) == canonical


@given(data=st.data())
def test_every_target_prints_and_parses_back(data: st.DataObject) -> None:
    machine = data.draw(st.sampled_from((X86, ARM)))
    name = data.draw(st.sampled_from(sorted(CPUS[machine])))
    features = data.draw(st.lists(st.sampled_from(sorted(FLAGS[machine]))))
    target = Target("cpu", name, tuple(features))
    assert parse_target(str(target)) == target
    assert closure(CPUS[machine][name] | set(features)) == closure(
        CPUS[machine][name] | set(target.features)
    )


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("cpu:znver44", "znver4"),
        ("cpu:saphirerapids", "sapphirerapids"),
        ("cuda:sm90", "sm_90"),
        ("cuda", "cuda:sm_120"),
        ("hip:gfx940", "gfx942"),
        ("cupa:sm_90", "cuda"),
        ("vulkan:a", "known: cpu, cuda, hip"),
        ("cpu:generic:x", "write cpu"),
    ],
)
def test_unknown_target_says_what_was_meant(text: str, hint: str) -> None:
    with pytest.raises(UnknownTarget) as caught:
        parse_target(text)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("cpu:znver4+avx512bf61", "avx512bf16"),
        ("cpu:znver4+bf16", "avx512bf16"),
        ("cpu:neoverse-n1+avx2", "known: neon"),
        ("cuda:sm_90+fma", "drop everything"),
    ],
)
def test_unknown_feature_says_what_was_meant(text: str, hint: str) -> None:
    with pytest.raises(UnknownTargetFeature) as caught:
        parse_target(text)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "cpu:", "cpu+", "cpu: generic", "cpu:generic\n", "CPU", "cpu:-mattr=+avx"),
        *("cpu:a;b", "cpu:../x", "cpu:generic+", "cpu:\u0661", "cpu:'", "cpu:" + "a" * 40),
        "cpu" + "+avx" * 1000,
    ],
)
def test_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(TilewrightError):
        parse_target(text)


@given(st.text(max_size=40))
def test_any_text_gives_a_target_or_our_error(text: str) -> None:
    try:
        target = parse_target(text)
    except (UnknownTarget, UnknownTargetFeature):
        return
    assert parse_target(str(target)) == target


def test_listed_targets_are_canonical() -> None:
    assert [str(parse_target(text)) for text in known_targets()] == list(known_targets())


@pytest.mark.parametrize(("name", "machine"), [("AMD64", X86), ("x86_64", X86), ("arm64", ARM)])
def test_generic_means_this_machine(
    name: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec.platform, "machine", lambda: name)
    assert machine_of(parse_target("cpu:generic")) == machine
    assert machine_of(parse_target("cpu:neoverse-n1")) == ARM


def test_unknown_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec.platform, "machine", lambda: "riscv64")
    with pytest.raises(UnknownTarget, match="riscv64"):
        parse_target("cpu:generic+avx2")
