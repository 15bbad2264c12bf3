"""x + -0.0 -> x, x * 1 -> x, x / c -> x * (1/c), pow(x, 2) -> x * x, neg(neg(x)) -> x, ..."""

import pytest

from tests.passes.rewriting import Expression, assert_caught, names, of_x, only, refusals, rewritten
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import DType, bf16, bool_, f32, f64, i32
from tilewright.dsl.encoding import IntFormat, Quantized
from tilewright.dsl.graph import Node
from tilewright.dsl.ops.create import full
from tilewright.dsl.ops.elementwise import where
from tilewright.dsl.ops.encoding import decode, encode
from tilewright.dsl.tensor import Tensor
from tilewright.passes import algebra, roots
from tilewright.passes.algebra import Algebra
from tilewright.passes.base import Rewrite
from tilewright.passes.dce import Dce
from tilewright.passes.match import Match, forward_to
from tilewright.passes.roots import Roots

N = dim("n", 1, 64)
CLEAN = (Algebra(), Dce())


def negated(x: Tensor, times: int) -> Tensor:
    """neg(neg(... x))"""
    for _ in range(times):
        x = -x
    return x


IDENTITIES: list[Expression] = [
    lambda x: x + -0.0,
    lambda x: -0.0 + x,
    lambda x: x - 0.0,
    lambda x: x * 1.0,
    lambda x: 1.0 * x,
    lambda x: x / 1.0,
    lambda x: x**1.0,
    lambda x: negated(x, 2),
    lambda x: negated(x, 4),
    lambda x: where(full((), True, bool_), x, x * 3.0),
    lambda x: where(full((), False, bool_), x * 3.0, x),
    lambda x: where(x < 0.0, x, x),
]


@pytest.mark.parametrize("expression", IDENTITIES)
def test_identity_is_removed(expression: Expression) -> None:
    """x + -0.0, x - 0.0, x * 1, x / 1, pow(x, 1), neg(neg(x)), where(true, x, y) -> x"""
    assert names(rewritten(of_x(expression), *CLEAN)) == []


INTEGER_IDENTITIES: list[Expression] = [lambda x: x + 0, lambda x: x - 0, lambda x: x * 1]


@pytest.mark.parametrize("expression", INTEGER_IDENTITIES)
def test_integers_have_one_zero(expression: Expression) -> None:
    assert names(rewritten(of_x(expression, i32[N]), *CLEAN)) == []


ZEROS: list[Expression] = [lambda x: x + 0.0, lambda x: 0.0 + x]


@pytest.mark.parametrize("expression", ZEROS)
def test_adding_zero_is_no_identity_for_floats(expression: Expression) -> None:
    """-0.0 + 0.0 is 0.0."""
    assert names(rewritten(of_x(expression), *CLEAN)) == ["full", "add"]
    assert refusals(of_x(expression), Algebra()) == ["x + 0.0 is not x where x is -0.0"]


def test_subtracting_minus_zero_is_no_identity() -> None:
    assert refusals(of_x(lambda x: x - -0.0), Algebra()) == ["x - -0.0 is not x where x is -0.0"]


NO_IDENTITIES: list[Expression] = [lambda x: x * 0.0, lambda x: x - x, lambda x: x * 2.0]


@pytest.mark.parametrize("expression", NO_IDENTITIES)
def test_what_nan_forbids_stays(expression: Expression) -> None:
    assert len(names(rewritten(of_x(expression), *CLEAN))) >= 1


NEGATIONS: list[Expression] = [lambda x: x * -1.0, lambda x: x / -1.0]


@pytest.mark.parametrize("expression", NEGATIONS)
def test_minus_one_negates(expression: Expression) -> None:
    """x * -1, x / -1 -> neg(x)"""
    assert names(rewritten(of_x(expression), *CLEAN)) == ["neg"]


@pytest.mark.parametrize(
    ("divisor", "dtype", "becomes"),
    [
        (4.0, f32, "mul"),
        (-0.5, f32, "mul"),
        (3.0, f32, "div"),
        (2.0**-126, f32, "mul"),
        (2.0**-127, f32, "div"),
        (2.0**127, f32, "div"),
        (2.0**126, bf16, "mul"),
    ],
)
def test_division_by_a_power_of_two(divisor: float, dtype: DType, becomes: str) -> None:
    """x / c -> x * (1/c) if 1/c is a normal number"""
    found = rewritten(of_x(lambda x: x / divisor, dtype[N]), *CLEAN)
    assert names(found) == ["full", becomes]


def test_square_is_a_product() -> None:
    """pow(x, 2) -> x * x"""
    assert names(rewritten(of_x(lambda x: x**2.0), *CLEAN)) == ["mul"]
    assert refusals(of_x(lambda x: x**2.0, f64[N]), Algebra()) == [
        "x * x and pow(x, 2) round differently in f64"
    ]


def test_constant_that_gives_the_shape_leaves_a_broadcast() -> None:
    found = rewritten(of_x(lambda x: x * full((4, 3), 1.0, f32), f32[3]), *CLEAN)
    assert names(found) == ["broadcast_to"]
    assert only(found, "broadcast_to").attrs.dims("shape") == (4, 3)


def test_lossy_round_trip_stays() -> None:
    int8 = Quantized(IntFormat(8), axis=1)
    found = rewritten(of_x(lambda x: decode(encode(x, int8)), f32[4, 8]), *CLEAN)
    assert names(found) == ["encode", "decode"]


ROOTS: list[tuple[Expression, str]] = [
    (lambda x: (x * x + 1e-6) ** -0.5, "rsqrt"),
    (lambda x: (x * x).sum(-1) ** 0.5, "sqrt"),
    (lambda x: abs(x) ** 0.5, "sqrt"),
    (lambda x: 1.0 / (abs(x) ** 0.5), "rsqrt"),
]


@pytest.mark.parametrize(("expression", "root"), ROOTS)
def test_powers_that_are_roots(expression: Expression, root: str) -> None:
    """pow(x, 0.5) -> sqrt(x), pow(x, -0.5) -> rsqrt(x), 1 / sqrt(x) -> rsqrt(x)"""
    found = names(rewritten(of_x(expression), Roots(), Dce()))
    assert root in found
    assert "pow" not in found


NO_ROOTS: list[Expression] = [lambda x: x**0.5, lambda x: (x * x - 1.0) ** -0.5]


@pytest.mark.parametrize("expression", NO_ROOTS)
def test_power_of_what_may_be_negative_stays(expression: Expression) -> None:
    reasons = refusals(of_x(expression), Roots())
    assert len(reasons) == 1
    assert "only where its base is not negative" in reasons[0]


def test_planted_wrong_identity_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(node: Node, match: Match) -> Rewrite | None:
        return forward_to(node, node.operands[0], match, "planted")

    monkeypatch.setitem(vars(algebra)["_RULES"], "mul", wrong)
    assert_caught(of_x(lambda x: x * 3.0), Algebra())


def test_planted_loss_of_minus_zero_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local validation looks at special values too."""

    def wrong(node: Node, match: Match) -> Rewrite | None:
        match.number(node.operands[1])
        return forward_to(node, node.operands[0], match, "planted")

    monkeypatch.setitem(vars(algebra)["_RULES"], "add", wrong)
    assert_caught(of_x(lambda x: x + 0.0), Algebra())


def test_planted_wrong_root_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "_ROOTS", (("rsqrt", 0.5), ("sqrt", -0.5)))
    assert_caught(of_x(lambda x: (x * x + 0.5) ** 0.5), Roots())
