"""Dims against plain integer arithmetic: random expressions, and a world looked at everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import gcd
from random import Random

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.depth import count
from tilewright.dsl.dims import (
    DIM_ARITHMETIC,
    Dim,
    DimExpr,
    DimOp,
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
from tilewright.dsl.errors import DimError

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
            multiple = case.dim * factor
        except DimError:  # too many factors
            assume(False)
            return
        assert multiple // factor == case.dim
        assert multiple % factor == 0


@given(CASES)
def test_fold_rebuilds_the_same_text_meaning(case: Case) -> None:
    texts: dict[DimOp, Callable[[str, str], str]] = {
        op: partial(_as_text, op) for op in DIM_ARITHMETIC
    }
    python = fold(case.dim, lambda n: f"({n})", lambda s: s.name, texts)
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


# --- a world small enough to look everywhere ------------------------------------------------------

TINY = [dim("x", 0, 5), dim("y", 1, 4), dim("s", 0, 18, multiple_of=6)]
TINY_ENVS: list[Env] = [
    {"x": x, "y": y, "s": s} for x in range(6) for y in range(1, 5) for s in range(0, 19, 6)
]


def _tiny_leaf(d: DimExpr) -> Case:
    name = to_text(d)
    return Case(d, lambda env: env[name])


TINY_CASES = st.recursive(
    st.sampled_from([_tiny_leaf(d) for d in TINY]) | st.integers(-7, 7).map(of_int),
    lambda cases: st.builds(joined, OPS, cases, cases),
    max_leaves=7,
)
EVERYWHERE = settings(max_examples=count(400, 4000))


@EVERYWHERE
@given(TINY_CASES)
def test_normal_form_bounds_and_divisor_hold_everywhere(case: Case) -> None:
    expected = [case.value(env) for env in TINY_ENVS]
    assert [evaluate(case.dim, env) for env in TINY_ENVS] == expected
    low, high = bounds(case.dim)
    assert low <= min(expected)
    assert max(expected) <= high
    assert gcd(*expected) % divisor(case.dim) == 0 if divisor(case.dim) else not any(expected)


@EVERYWHERE
@given(TINY_CASES, TINY_CASES)
def test_what_is_known_is_true_everywhere(a: Case, b: Case) -> None:
    # Lifted until it just fits, so that a proof that is off by one is off the truth.
    gap = max(a.value(env) - b.value(env) for env in TINY_ENVS)
    assert not known_lt(a.dim, b.dim + gap)
    assert not known_le(a.dim, b.dim + gap - 1)
    assert known_eq(a.dim, b.dim) <= all(a.value(env) == b.value(env) for env in TINY_ENVS)


def test_parts_of_every_small_division_are_sound() -> None:
    x, _, s = TINY
    names = list(TINY_ENVS[0])
    points = [list(env.values()) for env in TINY_ENVS]
    for c, num, k in product((-5, 0, 1, 8), (x, -s, 3 * s, x - s), (1, 2, 4, 5, 6, 9)):
        whole = num * 3 + c
        run = compile_dim(whole, names)
        for d in (whole // k, whole % k, ceil_div(whole, k), (num // 2 + c) % k, num % k // 2):
            values = list(map(compile_dim(d, names), points))
            assert bounds(d)[0] <= min(values)
            assert max(values) <= bounds(d)[1]
            assert divisor(d) == 0 or gcd(*values) % divisor(d) == 0
            if d == whole // k:
                assert values == [run(point) // k for point in points]
            if d == whole % k:
                assert values == [run(point) % k for point in points]
