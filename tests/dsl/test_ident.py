"""Names and parameter paths."""

import pytest

from tilewright.dsl.errors import InvalidName
from tilewright.dsl.ident import ident, path


@pytest.mark.parametrize("name", ["x", "_", "q_proj", "X9", "__class__", "a" * 128])
def test_identifiers_pass_unchanged(name: str) -> None:
    assert ident(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " x", "x ", "x\n", "9x", "a-b", "a.b", "é", "x٣", "a" * 129, "x;import os", "x\0", "ﬁ"],
    ids=ascii,
)
def test_what_is_no_identifier_is_refused(name: str) -> None:
    with pytest.raises(InvalidName) as caught:
        ident(name)
    assert str(caught.value).isascii()
    assert "fix:" in str(caught.value)


@pytest.mark.parametrize("name", ["w", "layers.3.mlp.up", "0", "0.1.2", "a." * 255 + "bc"])
def test_paths_pass_unchanged(name: str) -> None:
    assert path(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "a.", ".a", "a..b", "a.-1", "a.+1", "a.1x", "a.1.5e3", "a b", "a\n", "a.٣"),
        *("a/b", "../a", "a\\b", "a." + "b" * 129, "a." * 255 + "bcd"),
    ],
    ids=ascii,
)
def test_what_is_no_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        path(name)


def test_other_types_are_refused() -> None:
    for value in (None, 3, b"x"):
        with pytest.raises(InvalidName):
            ident(value)  # pyright: ignore[reportArgumentType] -- the point
        with pytest.raises(InvalidName):
            path(value)  # pyright: ignore[reportArgumentType] -- the point
