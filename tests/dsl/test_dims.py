"""Dims: the normal form against plain integer arithmetic, its proofs, its text."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

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
    fold,
    known_divides,
    known_eq,
    known_le,
    known_lt,
    parse_dim,
    substitute,
    symbols,
    to_text,
)
from tilewright.dsl.errors import DimError, InvalidName, SymbolRangeError

Env = Mapping[str, int]
Value = Callable[[Env], int]

BATCH, PAST, SEQ = dim("batch", 1, 64), dim("past", 0, 4096), dim("seq", 1, 4096)
TILE = dim("tile", 8, 1024, multiple_of=8)
TABLE: dict[str, Symbol] = {
    s.name: s
    for d in (BATCH, PAST, SEQ, TILE, dim("min", 1, 9), dim("fixed", 5, 5), dim("wide", 0, 96, 12))
    for s in symbols(d)
}


@dataclass(frozen=True)
class Case:
    """A dimension beside the same expression in plain Python integers."""

    dim: Dim
    value: Value


def of_int(n: int) -> Case:
    return Case(n, lambda _: n)


def of_name(name: str) -> Case:
    s = TABLE[name]
    return Case(dim(name, s.lo, s.hi, s.multiple_of), lambda env: env[name])


def joined(op: str, x: Case, y: Case) -> Case:
    a, b = x.dim, y.dim
    match op:
        case "+":
            return Case(a + b, lambda e: x.value(e) + y.value(e))
        case "-":
            return Case(a - b, lambda e: x.value(e) - y.value(e))
        case "*":
            return Case(a * b, lambda e: x.value(e) * y.value(e))
        case "min":
            return Case(dim_min(a, b), lambda e: min(x.value(e), y.value(e)))
        case "max":
            return Case(dim_max(a, b), lambda e: max(x.value(e), y.value(e)))
        case _:
            # A divisor must be known to be positive.
            low = bounds(b)[0]
            lift = max(0, 1 - low)
            b = b + lift
            if op == "//":
                return Case(a // b, lambda e: x.value(e) // (y.value(e) + lift))
            if op == "%":
                return Case(a % b, lambda e: x.value(e) % (y.value(e) + lift))
            return Case(ceil_div(a, b), lambda e: -(-x.value(e) // (y.value(e) + lift)))


LEAVES = st.one_of(st.sampled_from(sorted(TABLE)).map(of_name), st.integers(-70, 70).map(of_int))
SMALL = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 128]).map(of_int)
OPS = st.sampled_from(["+", "-", "*", "//", "%", "min", "max", "ceil"])


def _grown(cases: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    by_constant = st.builds(joined, st.sampled_from(["*", "//", "%", "ceil"]), cases, SMALL)
    return by_constant | st.builds(joined, OPS, cases, cases)


CASES = st.recursive(LEAVES, _grown, max_leaves=10)
EXTREMES: list[Env] = [
    {name: s.low for name, s in TABLE.items()},
    {name: s.high for name, s in TABLE.items()},
]


def multiples(s: Symbol) -> st.SearchStrategy[int]:
    return st.integers(s.low // s.multiple_of, s.high // s.multiple_of).map(
        lambda n: n * s.multiple_of
    )


ENVS = st.one_of(
    st.sampled_from(EXTREMES),
    st.fixed_dictionaries({n: multiples(s) for n, s in TABLE.items()}),
)


# --- properties -----------------------------------------------------------------------------------


@given(CASES, st.lists(ENVS, min_size=1, max_size=5))
def test_normal_form_means_what_was_written(case: Case, envs: list[Env]) -> None:
    order = sorted(TABLE)
    run = compile_dim(case.dim, order)
    for env in (*envs, *EXTREMES):
        expected = case.value(env)
        assert evaluate(case.dim, env) == expected
        assert run([env[name] for name in order]) == expected


@given(CASES, st.lists(ENVS, min_size=1, max_size=5))
def test_bounds_and_divisor_hold(case: Case, envs: list[Env]) -> None:
    low, high = bounds(case.dim)
    step = divisor(case.dim)
    for env in (*envs, *EXTREMES):
        value = case.value(env)
        assert low <= value <= high
        assert value % step == 0 if step else value == 0


@given(CASES)
def test_text_reads_back_as_the_identical_dimension(case: Case) -> None:
    text = to_text(case.dim)
    again = parse_dim(text, TABLE)
    assert type(again) is type(case.dim)
    assert again == case.dim
    assert to_text(again) == text
    assert hash(again) == hash(case.dim)


@given(CASES, ENVS)
def test_substituting_values_evaluates(case: Case, env: Env) -> None:
    assert substitute(case.dim, env) == case.value(env)


@given(CASES, CASES, ENVS)
def test_substitution_commutes_with_evaluation(case: Case, other: Case, env: Env) -> None:
    clamped = dim_max(dim_min(other.dim, 4096), 1)
    inner: dict[str, Dim] = {
        "seq": clamped,
        "past": TILE * 4 - SEQ % 7 - 2,
        "tile": 8 * BATCH,
        "wide": 12 * (SEQ % 9),
    }
    values = {**env, **{name: evaluate(d, env) for name, d in inner.items()}}
    try:
        outer = substitute(case.dim, inner)
    except DimError:  # nests too deep or grows too large
        assume(False)
        return
    assert evaluate(outer, env) == case.value(values)


@given(CASES, CASES, st.lists(ENVS, min_size=1, max_size=5))
def test_what_is_known_is_true(a: Case, b: Case, envs: list[Env]) -> None:
    le, lt, eq = known_le(a.dim, b.dim), known_lt(a.dim, b.dim), known_eq(a.dim, b.dim)
    divided = [k for k in (2, 3, 8, 12) if known_divides(k, a.dim)]
    assert le or not lt
    for env in (*envs, *EXTREMES):
        x, y = a.value(env), b.value(env)
        assert x <= y or not le
        assert x < y or not lt
        assert x == y or not eq
        assert all(x % k == 0 for k in divided)


@given(CASES, st.sampled_from([1, 4, 8, 32]), st.sampled_from(["min", "max", "//", "%"]))
def test_known_le_proves_the_defining_inequalities(case: Case, k: int, op: str) -> None:
    d = case.dim
    match op:
        case "min":
            assert known_le(dim_min(d, SEQ), d)
        case "max":
            assert known_le(d, dim_max(d, SEQ))
        case "//":
            assert known_le(d // k * k, d)
            assert known_le(d, ceil_div(d, k) * k)
        case _:
            assert known_le(0, d % k)
            assert known_lt(d % k, k)


@given(CASES, CASES, CASES)
def test_ring_laws_hold_as_identity(a: Case, b: Case, c: Case) -> None:
    x, y, z = a.dim, b.dim, c.dim
    assert x + y == y + x
    assert (x + y) + z == x + (y + z)
    assert x * y == y * x
    assert x * (y + z) == x * y + x * z
    assert x - x == 0
    assert x - y == -(y - x)
    assert x * 1 == x
    assert x * 0 == 0


@given(st.lists(CASES, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_minimum_does_not_depend_on_order_or_nesting(cases: list[Case], random: Random) -> None:
    dims = [case.dim for case in cases]
    shuffled = list(dims)
    random.shuffle(shuffled)
    assert dim_min(*dims) == dim_min(*shuffled)
    assert dim_max(*dims, *shuffled) == dim_max(*dims)
    nested = dims[0]
    for d in dims[1:]:
        nested = dim_min(d, nested)
    assert nested == dim_min(*dims)


@given(CASES)
def test_exact_division_undoes_multiplication(case: Case) -> None:
    for factor in (3, 16, BATCH, BATCH + PAST, TILE * SEQ):
        try:
            product = case.dim * factor
        except DimError:  # too many factors
            assume(False)
            return
        assert product // factor == case.dim
        assert product % factor == 0


@given(CASES)
def test_fold_rebuilds_the_same_text_meaning(case: Case) -> None:
    python = fold(case.dim, lambda n: f"({n})", lambda s: s.name, _as_text)
    assert parse_dim(python, TABLE) == case.dim


def _as_text(op: str, x: str, y: str) -> str:
    return f"{op}({x}, {y})" if op in ("min", "max") else f"({x} {op} {y})"


def _cut(case: Case, length: int, tail: str) -> str:
    return to_text(case.dim)[:length] + tail


@given(
    st.text("0123456789abpst_ +-*/%(),min\n\x00٣é", max_size=40)
    | st.builds(_cut, CASES, st.integers(0, 40), st.text())
)
def test_any_text_is_a_dimension_or_an_error_of_ours(text: str) -> None:
    try:
        d = parse_dim(text, TABLE)
    except DimError:
        return
    assert parse_dim(to_text(d), TABLE) == d


# --- the form that the field expects --------------------------------------------------------------

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
    assert bounds((BATCH - 10) * (BATCH - 10))[0] <= 0
    assert divisor(TILE * 3 + 16) == 8
    assert divisor(0) == 0
    assert divisor(-6) == 6
    assert divisor(dim_min(TILE, 100)) == 4


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
def test_evaluation_refuses_values_out_of_range(env: Env, word: str) -> None:
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
    assert parse_dim("(" * 30000 + "seq" + ")" * 30000, TABLE) == SEQ
    assert parse_dim("-" * 30000 + "seq", TABLE) == SEQ
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
