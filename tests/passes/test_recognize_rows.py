"""exp(x - max) / sum -> softmax;  x / sqrt(mean(x * x) + eps) * w -> rms_norm;  + b -> layer_norm;
x/2 (1 + erf) -> gelu;  cast(f(cast(x, wide)), narrow) -> f(x).
"""

import math
from collections.abc import Callable

import pytest

from tests.passes.rewriting import (
    Expression,
    assert_caught,
    names,
    of_x,
    only,
    refusals,
    rewritten,
)
from tilewright.dsl.builder import TracedFunction, graph
from tilewright.dsl.dims import dim
from tilewright.dsl.dtypes import bf16, f32
from tilewright.dsl.ops.elementwise import erf, exp, rsqrt, sigmoid, sqrt, tanh
from tilewright.dsl.ops.movement import broadcast_to
from tilewright.dsl.tensor import Tensor
from tilewright.dsl.types import TensorType
from tilewright.passes import recognize_gelu, recognize_norm, recognize_softmax
from tilewright.passes.absorb_casts import AbsorbCasts
from tilewright.passes.algebra import Algebra
from tilewright.passes.cse import Cse
from tilewright.passes.dce import Dce
from tilewright.passes.recognize_gelu import RecognizeGelu
from tilewright.passes.recognize_norm import RecognizeNorm
from tilewright.passes.recognize_softmax import RecognizeSoftmax
from tilewright.passes.roots import Roots

N = dim("n", 2, 64)
X, W = f32[N, 8], f32[8]
SOFTMAX = (Cse(), RecognizeSoftmax(), AbsorbCasts(), Dce())
NORM = (Algebra(), Roots(), Cse(), RecognizeNorm(), AbsorbCasts(), Dce())
GELU = (Algebra(), Cse(), RecognizeGelu(), AbsorbCasts(), Dce())


def soft(x: Tensor, axis: int = -1) -> Tensor:
    """Softmax as a textbook writes it."""
    weights = exp(x - x.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


def soft_flat(x: Tensor) -> Tensor:
    """With reductions that drop their dim, and repetitions written out."""
    top = broadcast_to(x.max(-1).reshape(N, 1), (N, 8))
    weights = exp(x - top)
    return weights / broadcast_to(weights.sum(-1).reshape(N, 1), (N, 8))


SOFTMAXES: list[Expression] = [
    soft,
    soft_flat,
    lambda x: soft(x, 0),
    lambda x: exp(x) / exp(x).sum(-1, keepdims=True),
]


@pytest.mark.parametrize("expression", SOFTMAXES)
def test_softmax(expression: Expression) -> None:
    """exp(x - m) / sum(exp(x - m), axis) -> softmax(x, axis)"""
    assert names(rewritten(of_x(expression, X), *SOFTMAX)) == ["softmax"]


def test_softmax_in_f32_of_a_short_float() -> None:
    """cast(softmax(cast(x, f32)), bf16) -> softmax(x)"""
    found = rewritten(of_x(lambda x: soft(x.cast(f32)).cast(bf16), bf16[N, 8]), *SOFTMAX)
    assert names(found) == ["softmax"]
    assert only(found, "softmax").operands[0].tensor.dtype == bf16


def test_maximum_along_another_axis_is_refused() -> None:
    def mixed(x: Tensor) -> Tensor:
        weights = exp(x - x.max(0, keepdims=True))
        return weights / weights.sum(1, keepdims=True)

    assert refusals(of_x(mixed, f32[3, 3]), *SOFTMAX[:2]) == [
        "softmax: the maximum is along axis 0, the sum along 1"
    ]


def test_quotient_of_other_exponentials_stays() -> None:
    found = rewritten(of_x(lambda x: exp(x) / exp(-x).sum(-1, keepdims=True), X), *SOFTMAX)
    assert "softmax" not in names(found)


def of_row(
    expression: Callable[..., Tensor], x: TensorType = X, w: TensorType = W
) -> TracedFunction:
    """The graph of an expression of rows, a weight and a bias."""

    @graph(x=x, w=w, b=w)
    def g(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return expression(x, w, b)

    return g


def unit(x: Tensor) -> Tensor:
    """x over its root mean square."""
    return x * rsqrt((x**2.0).mean(-1, keepdims=True) + 1e-6)


def llama(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """As `LlamaRMSNorm` in transformers."""
    return w * unit(x.cast(f32)).cast(x.dtype)


def gemma(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """As `Gemma3RMSNorm` in transformers."""
    return (unit(x.cast(f32)) * (1.0 + w.cast(f32))).cast(x.dtype)


def power(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """With a power for the root, and a sum for the mean."""
    return x * ((x * x).sum(-1, keepdims=True) / 8.0 + 1e-6) ** -0.5 * w


def divided(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Divided by the root, the weight repeated."""
    return x / sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * broadcast_to(w, x.shape)


@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
@pytest.mark.parametrize(("form", "offset"), [(llama, 0.0), (gemma, 1.0)])
def test_rms_norm_with_its_casts(form: Callable[..., Tensor], offset: float, dtype: object) -> None:
    """x / sqrt(mean(x * x) + eps) * (w + c) -> rms_norm(x, w, eps, offset=c)"""
    kind = bf16 if dtype == bf16 else f32
    found = rewritten(of_row(form, kind[2, N, 8], kind[8]), *NORM)
    assert names(found) == ["rms_norm"]
    attrs = only(found, "rms_norm").attrs
    assert (attrs["eps"], attrs["offset"]) == (1e-6, offset)


@pytest.mark.parametrize("form", [power, divided])
def test_rms_norm(form: Callable[..., Tensor]) -> None:
    """x / sqrt(mean(x * x) + eps) * w -> rms_norm(x, w, eps)"""
    assert names(rewritten(of_row(form), *NORM)) == ["rms_norm"]


def centred_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Layer norm as written from its formula."""
    c = x - x.mean(-1, keepdims=True)
    return b + c / sqrt((c * c).mean(-1, keepdims=True) + 1e-5) * w


@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
def test_layer_norm(dtype: object) -> None:
    """rms_norm(x - mean(x), w, eps) + b -> layer_norm(x, w, b, eps)"""

    def wide(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return centred_norm(*(v.cast(f32) for v in (x, w, b))).cast(x.dtype)

    kind = bf16 if dtype == bf16 else f32
    assert names(rewritten(of_row(wide, kind[2, N, 8], kind[8]), *NORM)) == ["layer_norm"]


def near_rms(axis: int = -1, weight: bool = True) -> Callable[..., Tensor]:
    """A norm that is none: along another axis, or scaled by another tensor."""

    def form(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        scaled = x * rsqrt((x * x).mean(axis, keepdims=True) + 1e-6)
        return scaled * (w if weight else x)

    return form


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (near_rms(axis=0), "norm: the mean is along axis 0, not the last"),
        (near_rms(weight=False), "norm: what multiplies the quotient has not one element a column"),
    ],
)
def test_near_norm_is_refused(form: Callable[..., Tensor], reason: str) -> None:
    function = of_row(form, f32[8, 8])
    assert refusals(function, *NORM[:4]) == [reason]


def test_sum_with_a_row_is_no_layer_norm() -> None:
    def shifted(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return centred_norm(x, w, x)

    assert refusals(of_row(shifted), *NORM[:4]) == [
        "norm: what is added to the norm has not one element a column"
    ]


def tanh_gelu(x: Tensor) -> Tensor:
    """As `NewGELUActivation` in transformers."""
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3.0)
    return 0.5 * x * (1.0 + tanh(inner))


def tanh_factored(x: Tensor) -> Tensor:
    """As `FastGELUActivation` in transformers."""
    return 0.5 * x * (1.0 + tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


GELUS: list[tuple[Expression, str]] = [
    (lambda x: x * 0.5 * (1.0 + erf(x / math.sqrt(2.0))), "gelu"),
    (lambda x: x * (0.5 * (erf(x * 0.70710678118) + 1.0)), "gelu"),
    (lambda x: 0.5 * x + 0.5 * x * erf(x * 0.70710678118), "gelu"),
    (lambda x: (x + x * erf(x * 0.70710678118)) / 2.0, "gelu"),
    (tanh_gelu, "gelu_tanh"),
    (tanh_factored, "gelu_tanh"),
    (lambda x: tanh_gelu(x * 3.0 + 1.0), "gelu_tanh"),
    (lambda x: x * sigmoid(x), "silu"),
    (lambda x: sigmoid(x) * x, "silu"),
]


@pytest.mark.parametrize(("expression", "name"), GELUS)
def test_activations(expression: Expression, name: str) -> None:
    """x/2 + x/2 * erf(x * sqrt(1/2)) -> gelu(x), likewise gelu_tanh and silu"""
    assert names(rewritten(of_x(expression, X), *GELU))[-1] == name


def test_activation_in_f32_of_a_short_float() -> None:
    found = rewritten(of_x(lambda x: tanh_gelu(x.cast(f32)).cast(bf16), bf16[N, 8]), *GELU)
    assert names(found) == ["gelu_tanh"]


NEAR_GELUS: list[Expression] = [
    lambda x: x * 0.5 * (1.0 + erf(x * 0.7)),
    lambda x: x * 0.5 * (1.0 + tanh(x * 0.7978845608)),
]


@pytest.mark.parametrize("expression", NEAR_GELUS)
def test_activation_with_other_coefficients_is_refused(expression: Expression) -> None:
    (reason,) = refusals(of_x(expression, X), *GELU[:3])
    assert "is another polynomial" in reason


def test_gate_of_another_value_is_no_silu() -> None:
    found = rewritten(of_x(lambda x: x * sigmoid(x + 1.0), X), *GELU)
    assert "silu" not in names(found)


def test_planted_wrong_axis_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = vars(recognize_softmax)["reduced"]

    def wrong(*given: object) -> object:
        found = right(*given)
        return None if found is None else (found[0], 0)

    monkeypatch.setattr(recognize_softmax, "reduced", wrong)
    assert_caught(of_x(soft, f32[5, 5]), *SOFTMAX)


def test_planted_wrong_eps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = vars(recognize_norm)["plus_number"]

    def wrong(*given: object) -> object:
        found = right(*given)
        return None if found is None else (found[0], 0.1)

    monkeypatch.setattr(recognize_norm, "plus_number", wrong)
    assert_caught(of_row(power), *NORM)


def test_planted_swap_of_activations_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognize_gelu, "_NAME", {"erf": "gelu_tanh", "tanh": "gelu"})
    assert_caught(of_x(tanh_gelu, X), *GELU)
