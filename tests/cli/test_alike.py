"""Lines that differ in numbers alone are told as one."""

from tilewright.cli.alike import merged, merged_choices
from tilewright.codegen.explanation import ChoiceRecord, DecisionRecord


def decision(reason: str, *places: str, gain: int | None = None) -> DecisionRecord:
    return DecisionRecord("fired", "fuse", reason, list(places), gain)


def test_equal_layers_are_one_line() -> None:
    found = merged(
        [
            decision("into layers.0.v12 as f32", "a", gain=3),
            decision("by another law", "b"),
            decision("into layers.1.v40 as f32", "c", "d", gain=4),
        ]
    )
    assert found == [
        decision("into layers.*.v* as f32", "a", "c", "d", gain=7),
        decision("by another law", "b"),
    ]


def test_other_rules_outcomes_and_words_stay_apart() -> None:
    these = [
        decision("into v1", "a"),
        DecisionRecord("refused", "fuse", "into v2", ["b"]),
        DecisionRecord("fired", "split", "into v3", ["c"]),
        decision("not into v4", "d"),
    ]
    assert merged(these) == these


def test_names_of_prepared_weights_differ_in_their_hashes() -> None:
    (found,) = merged([decision("as w.0.x12ab34cd", "a"), decision("as w.1.x98765432", "b")])
    assert found.reason == "as w.*.*"


def test_choices_taken_alike_are_one_pattern() -> None:
    first, last = (ChoiceRecord(f"tile:layers.{i}.up", ["tiled", "rows"], "tiled") for i in (0, 1))
    other = ChoiceRecord("tile:layers.2.up", ["tiled", "rows"], "rows")
    assert merged_choices([first, other, last]) == [
        ("tile:layers.*.up", 2, first),
        ("tile:layers.2.up", 1, other),
    ]
