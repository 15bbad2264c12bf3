"""Dims: the forms that the field expects, what is proved, what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from tilewright.dsl.dims import (
    Dim,
    DimExpr,
    Symbol,
    bounds,
    ceil_div,
    compile_dim,
    dim,
    dim_max,
    dim_min,
    divisor,
    evaluate,
    known_divides,
    known_le,
    known_lt,
    parse_dim,
    product,
    quotient,
    substitute,
    symbols,
    to_text,
)
from tilewright.dsl.errors import DimError, InvalidName, SymbolRangeError

BATCH, PAST, SEQ = dim("batch", 1, 64), dim("past", 0, 4096), dim("seq", 1, 4096)
TILE = dim("tile", 8, 1024, multiple_of=8)
TABLE: dict[str, Symbol] = {
    s.name: s for d in (BATCH, PAST, SEQ, TILE, dim("min", 1, 9)) for s in symbols(d)
}

SIMPLIFIED: list[tuple[Callable[[], Dim], str]] = [
    (lambda: PAST * 2 + SEQ, "2*past + seq"),
    (lambda: BATCH * SEQ - 1, "batch*seq - 1"),
    (lambda: 16 - SEQ, "16 - seq"),
    (lambda: -SEQ, "-seq"),
    (lambda: SEQ * SEQ, "seq*seq"),
    (lambda: ceil_div(SEQ, 16), "(seq + 15) // 16"),
    (lambda: SEQ % 8, "seq % 8"),
    (lambda: (SEQ % 8) * 3, "3*(seq % 8)"),
    (lambda: -(SEQ // 3), "-(seq // 3)"),
    (lambda: (-SEQ) // 3, "(-seq) // 3"),
    (lambda: BATCH - SEQ // 3, "batch - seq // 3"),
    (lambda: dim_min(512, SEQ), "min(seq, 512)"),
    (lambda: (16 * SEQ + BATCH) // 16, "batch // 16 + seq"),
    (lambda: (16 * SEQ + BATCH) % 16, "batch % 16"),
    (lambda: (SEQ + 35) // 16, "(seq + 3) // 16 + 2"),
    (lambda: (SEQ + 35) % 16, "(seq + 3) % 16"),
    (lambda: (17 * SEQ) // 16, "seq + seq // 16"),
    (lambda: (17 * BATCH - 70) // 65, "(17*batch + 60) // 65 - 2"),
    (lambda: 17 * (SEQ // 7) // 16, "17*(seq // 7) // 16"),
    (lambda: SEQ // 1, "seq"),
    (lambda: SEQ % 1, "0"),
    (lambda: TILE // 8, "tile // 8"),
    (lambda: TILE // 8 * 8, "tile"),
    (lambda: TILE // 8 * 24, "3*tile"),
    (lambda: TILE // 4 + TILE // 8, "3*tile // 8"),
    (lambda: TILE % 8, "0"),
    (lambda: ceil_div(TILE, 8), "tile // 8"),
    (lambda: (TILE + 3) // 16, "tile // 16"),
    (lambda: (TILE + 3) % 16, "tile % 16 + 3"),
    (lambda: BATCH // 65, "0"),
    (lambda: BATCH % 65, "batch"),
    (lambda: (BATCH + 100) // 100, "1"),
    (lambda: (BATCH + 100) % 100, "batch"),
    (lambda: SEQ // 3 // 5, "seq // 15"),
    (lambda: ceil_div(ceil_div(SEQ, 4), 8), "(seq + 31) // 32"),
    (lambda: SEQ % 16 % 8, "seq % 8"),
    (lambda: SEQ % 8 % 16, "seq % 8"),
    (lambda: (2 * SEQ + 4 * PAST) % 16, "2*((2*past + seq) % 8)"),
    (lambda: (2 * SEQ + 5) // 16, "(seq + 2) // 8"),
    (lambda: BATCH * SEQ // SEQ, "batch"),
    (lambda: (BATCH * SEQ + PAST) // BATCH, "past // batch + seq"),
    (lambda: BATCH * (PAST + SEQ) * 768 // (768 * (PAST + SEQ)), "batch"),
    (lambda: ceil_div(BATCH * (PAST + SEQ), PAST + SEQ), "batch"),
    (lambda: PAST // (PAST + SEQ), "0"),
    (lambda: PAST % (PAST + SEQ), "past"),
    (lambda: SEQ % (PAST + 1), "seq % (past + 1)"),
    (lambda: 100 // SEQ, "100 // seq"),
    (lambda: PAST // (2 * BATCH), "past // (2*batch)"),
    (lambda: PAST // (SEQ // 4 + 1), "past // (seq // 4 + 1)"),
    (lambda: PAST % dim_min(SEQ, 7), "past % min(seq, 7)"),
    (lambda: dim_min(SEQ, SEQ), "seq"),
    (lambda: dim_min(SEQ, 5000), "seq"),
    (lambda: dim_min(SEQ, PAST + SEQ), "seq"),
    (lambda: dim_max(SEQ, PAST + SEQ), "past + seq"),
    (lambda: dim_min(dim_min(SEQ, 512), PAST, 600), "min(past, seq, 512)"),
    (lambda: dim_max(dim_min(SEQ, 512), dim_min(PAST, 7)), "max(min(past, 7), min(seq, 512))"),
    (lambda: dim_min(dim("fixed", 5, 5), 5), "5"),
]


@pytest.mark.parametrize(("build", "text"), SIMPLIFIED, ids=[text for _, text in SIMPLIFIED])
def test_simplified_text(build: Callable[[], Dim], text: str) -> None:
    assert to_text(build()) == text


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("seq - 1 - 2", SEQ - 3),
        ("seq % 9 % 5", SEQ % 9 % 5),
        ("past // 2 // 3", PAST // 6),
        ("past // 2 * 2", PAST // 2 * 2),
        ("2 * seq % 7", 2 * SEQ % 7),
        ("-past // 3", (-PAST) // 3),
        ("- -seq", SEQ),
        ("batch - (seq - past)", BATCH - SEQ + PAST),
        ("min(seq)", SEQ),
        ("min(min, 3, seq)", dim_min(dim("min", 1, 9), 3, SEQ)),
        ("(-7)//2", -4),
        (" ( 007 ) ", 7),
    ],
)
def test_precedence_of_text_is_that_of_python(text: str, meaning: Dim) -> None:
    assert parse_dim(text, TABLE) == meaning


def test_constants_are_plain_ints() -> None:
    for constant in (SEQ - SEQ, SEQ * 0, SEQ // SEQ, SEQ % SEQ, ceil_div(7, 2), dim_min(3, 2)):
        assert type(constant) is int


def test_equality_and_hash_are_those_of_the_normal_form() -> None:
    assert {(BATCH + SEQ) * 2, 2 * SEQ + 2 * BATCH} == {BATCH * 2 + SEQ * 2}
    assert BATCH + 1 != BATCH
    assert dim("seq", 1, 4096) == SEQ
    assert dim("seq", 1, 4095) != SEQ
    assert SEQ != 7
    assert 7 not in (SEQ, BATCH)


def test_known_le_uses_what_bounds_the_parts() -> None:
    assert known_le(dim_min(SEQ, 512), SEQ)
    assert known_le(SEQ, 16 * ceil_div(SEQ, 16))
    assert known_lt(16 * ceil_div(SEQ, 16), SEQ + 16)
    assert known_le(PAST - PAST % 8, PAST)
    assert known_le(SEQ, dim_max(SEQ, PAST))
    assert known_le(dim_max(SEQ, PAST), SEQ + PAST)
    assert not known_le(SEQ, PAST)
    assert not known_lt(PAST, 4096)
    assert known_lt(PAST, 4097)
    assert known_divides(8, 3 * TILE + 16)
    assert not known_divides(16, TILE)
    assert known_divides(5, 0)


def test_bounds_and_divisor_of_simple_forms() -> None:
    assert bounds(BATCH * 2 - PAST) == (2 - 4096, 128)
    assert bounds(SEQ % 8) == (0, 7)
    assert bounds(TILE % 32) == (0, 24)
    assert bounds(dim("odd", 3, 30, multiple_of=8)) == (8, 24)
    assert bounds(7) == (7, 7)
    shifted = dim_min(BATCH - 9, 2)
    assert bounds(shifted) == (-8, 2)
    assert bounds(shifted * shifted) == (0, 64)
    assert bounds(shifted * shifted * shifted) == (-512, 8)
    assert bounds(-(BATCH % 7) * (BATCH % 7)) == (-36, 0)
    assert divisor(TILE * 3 + 16) == 8
    assert divisor(0) == 0
    assert divisor(-6) == 6
    assert divisor(dim_min(TILE, 100)) == 4


def test_products_and_exact_quotients() -> None:
    assert product([]) == 1
    assert product([2, BATCH, SEQ, 3]) == 6 * BATCH * SEQ
    assert quotient(6 * BATCH * SEQ, 2 * SEQ) == 3 * BATCH
    assert quotient(BATCH * (PAST + SEQ), PAST + SEQ) == BATCH
    assert quotient(TILE, 8) == TILE // 8
    for inexact in ((TILE, 16), (SEQ, 2), (BATCH, PAST), (7, 0), (7, 2), (SEQ, -1)):
        assert quotient(*inexact) is None


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "guess",
    [
        lambda: SEQ < 3,
        lambda: SEQ <= BATCH,
        lambda: SEQ >= 3,
        lambda: sorted([SEQ, BATCH]),
        lambda: bool(SEQ),
        lambda: SEQ // PAST,
        lambda: SEQ % 0,
        lambda: 7 // (BATCH - 3),
        lambda: SEQ // -2,
        lambda: ceil_div(4, 0),
        lambda: dim_min(),
        lambda: known_divides(0, SEQ),
        lambda: SEQ + dim("seq", 1, 77),
        lambda: SEQ - dim("seq", 1, 77) // 2,
        lambda: dim("bad", 5, 4),
        lambda: dim("bad", -1, 4),
        lambda: dim("bad", 0, 2**40),
        lambda: dim("bad", 1, 7, multiple_of=8),
        lambda: dim("bad", 1, 7, multiple_of=0),
        lambda: SEQ * 2**128,
        lambda: SEQ + 2**128,
    ],
)
def test_guesses_and_nonsense_are_refused(guess: Callable[[], object]) -> None:
    with pytest.raises(DimError):
        guess()


@pytest.mark.parametrize("other", [1.5, "seq", None, True])
def test_other_types_do_not_mix(other: object) -> None:
    with pytest.raises(TypeError):
        SEQ + other  # pyright: ignore[reportOperatorIssue, reportUnusedExpression] -- the point
    with pytest.raises(TypeError):
        other // SEQ  # pyright: ignore[reportOperatorIssue, reportUnusedExpression] -- the point


def test_names_are_identifiers() -> None:
    for name in ("", "a-b", "1a", "seq\n", "é", "x" * 129):
        with pytest.raises(InvalidName):
            dim(name)
    with pytest.raises(InvalidName):
        replace(TABLE["seq"], name="a b")


def test_dimensions_do_not_change() -> None:
    with pytest.raises(AttributeError):
        SEQ.coefficients = {}
    with pytest.raises(AttributeError):
        del SEQ.table
    assert copy.deepcopy(SEQ // 3 + 1) == SEQ // 3 + 1


@pytest.mark.parametrize(
    ("env", "word"),
    [
        ({"tile": 8}, "no value"),
        ({"tile": 8, "seq": 0}, "1..4096"),
        ({"tile": 8, "seq": 4097}, "1..4096"),
        ({"tile": 12, "seq": 1}, "multiple of 8"),
        ({"tile": True, "seq": 1}, "integer"),
    ],
)
def test_evaluation_refuses_values_out_of_range(env: Mapping[str, int], word: str) -> None:
    with pytest.raises(SymbolRangeError, match=word):
        evaluate(TILE + SEQ, env)


def test_substitution_refuses_what_may_leave_the_range() -> None:
    d = BATCH // 65 + BATCH + SEQ  # the first term vanished because batch is at most 64
    for outside in (SEQ, PAST, 65, 0, BATCH - 1):
        with pytest.raises(SymbolRangeError):
            substitute(d, {"batch": outside})
    with pytest.raises(SymbolRangeError):
        substitute(TILE, {"tile": SEQ + 7})
    assert substitute(d, {"batch": SEQ % 64 + 1}) == SEQ % 64 + 1 + SEQ
    assert substitute(BATCH - SEQ, {"batch": dim_min(SEQ, 64), "seq": BATCH}) == (
        dim_min(SEQ, 64) - BATCH
    )


def test_compiling_needs_every_symbol() -> None:
    with pytest.raises(SymbolRangeError, match="seq"):
        compile_dim(BATCH * SEQ, ["batch"])
    assert compile_dim(7, [])([]) == 7


MALFORMED = """
1 +|seq seq|1 2|(seq|seq)|min()|min(seq)min(seq)|sin(seq)|nobody|seq // 0|seq // past|seq % -8
seq ** 2|1.5|2seq|seq.past|seq, past|__import__('os')|٣|+seq|seq *|//|seq$
""".strip().replace("\n", "|")
HOSTILE = [
    "",
    " ",
    "seq\n+ 1",
    "seq\0",
    "9" * 40,
    "9" * 5000,
    "9*" * 30000 + "9",
    "seq*" * 100 + "1",
    "(" * 60000,
    "seq" + " " * 70000,
    "min(" * 5000 + "seq",
    "(" * 40 + "seq" + " // 2 + past % 7) // 3" * 40,
    "*".join(f"(seq + past*{i} + {i})" for i in range(1, 30)),
]


@pytest.mark.parametrize("text", [*MALFORMED.split("|"), *HOSTILE], ids=lambda t: ascii(t[:20]))
def test_malformed_or_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(DimError):
        parse_dim(text, TABLE)


def test_a_caret_points_at_the_mistake() -> None:
    with pytest.raises(DimError) as caught:
        parse_dim("seq + $", TABLE)
    _, line, caret = caught.value.message.split("\n")
    assert caret.index("^") == line.index("$")
    assert caught.value.where == "column 7"


def test_long_flat_and_nested_texts_are_read_without_recursion() -> None:
    assert parse_dim("(" * 9999 + "seq" + ")" * 9999, TABLE) == SEQ
    assert parse_dim("-" * 9998 + "seq", TABLE) == SEQ
    assert parse_dim("seq + " * 9999 + "seq", TABLE) == 10000 * SEQ


def test_long_sums_stay_one_level_deep() -> None:
    total: Dim = 0
    for _ in range(3000):
        total = total + SEQ + 1
    assert total == 3000 * SEQ + 3000
    distinct = [dim(f"s{i}") for i in range(3000)]
    for d in distinct:
        total = total + d
    assert type(total) is DimExpr
    assert len(symbols(total)) == 3001
    assert evaluate(total, {s.name: 1 for s in symbols(total)}) == 9000


def test_nesting_is_bounded() -> None:
    def deeper(d: Dim, levels: int) -> Dim:
        for i in range(levels):
            d = dim_max((d * 3 + i) // 2, BATCH)
        return d

    assert evaluate(deeper(SEQ, 10), {"seq": 4096, "batch": 64}) > 4096
    with pytest.raises(DimError):
        deeper(SEQ, 1000)


def test_a_finer_floor_bounds_a_coarser_one() -> None:
    n = dim("n", 1, 64)
    assert known_le(n // 4 * 4, n // 2 * 2)
    assert known_lt(n // 2 * 2 - 4, n // 4 * 4)
    assert not known_le(n // 2 * 2, n // 4 * 4)
    assert not known_le(n // 6 * 6, n // 4 * 4)


def test_what_has_one_value_is_a_constant() -> None:
    n, one = dim("n", 1, 64), dim("five", 5, 5) - 4
    assert n % one == 0
    assert n * (n % one) // n == 0
