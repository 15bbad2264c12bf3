"""Elementary functions of f32 vectors, as polynomials.

Calls into libm would take one lane at a time. Errors below are the largest seen against float64
over dense grids (`tests/codegen/tvm/test_math.py`), in units in the last place of the result. All
functions keep NaN and treat infinities as IEEE says. The polynomials are those of the
single-precision Cephes library (S. Moshier), except for erf and pow.

Rounding to an integer is done by adding and subtracting 1.5 * 2^23, which every instruction set
can do, and leaves the integer in the low bits of the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from tvm import tirx

from tilewright.codegen.tvm.emit import Expr, KernelBuilder, lanes_of, vector_type
from tilewright.codegen.tvm.intrin import absolute, bits, copysign, from_bits, intrinsic, sqrt
from tilewright.codegen.tvm.vector import is_nan, maximum, minimum, select, splat

_ROUNDER: Final = 12582912.0
_LN2_HIGH: Final = 0.693359375
_LN2_LOW: Final = -2.12194440e-4

_EXP: Final = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
               5.0000001201e-1)  # fmt: skip
_LOG: Final = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1,
               1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1,
               3.3333331174e-1)  # fmt: skip
_TANH_SMALL: Final = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1,
                      -3.33332819422e-1)  # fmt: skip
# erf(x) / x in powers of x^2 on [0, 1], and log erfc(1 + t) on [0, 3]: weighted least squares,
# iterated to equal errors (1.2e-9 and 1.0e-9 of erf).
_ERF_SMALL: Final = (7.85385803e-5, -8.01019286e-4, 5.18832763e-3, -2.68538119e-2, 1.12835851e-1,
                     -3.76126258e-1, 1.12837917)  # fmt: skip
_LOG_ERFC: Final = (1.85575139e-4, -1.82616744e-3, 9.89089753e-3, -4.15006916e-2, -8.43118336e-1,
                    -2.63896682, -1.84960552)  # fmt: skip
_SIN: Final = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS: Final = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)


def _polynomial(kernel: KernelBuilder, x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's rule, highest power first."""
    lanes = lanes_of(x)
    total = splat(coefficients[0], lanes)
    for coefficient in coefficients[1:]:
        total = total * x + splat(coefficient, lanes)
    return kernel.let(total, "p")


def _integers(value: int, lanes: int) -> Expr:
    return tirx.const(value, vector_type("int32", lanes))


def exp(kernel: KernelBuilder, x: Expr) -> Expr:
    """e^x, error below 1.1 ulp; results below 2^-125.5 become 0."""
    lanes = lanes_of(x)
    # The bound first: max and min keep a NaN in their second operand.
    bounded = maximum(splat(-87.6, lanes), minimum(splat(89.0, lanes), kernel.let(x)))
    bounded = kernel.let(bounded, "x")
    shifted = kernel.let(bounded * splat(math.log2(math.e), lanes) + splat(_ROUNDER, lanes), "t")
    whole = kernel.let(shifted - splat(_ROUNDER, lanes), "n")
    rest = bounded - whole * splat(_LN2_HIGH, lanes)
    rest = kernel.let(rest - whole * splat(_LN2_LOW, lanes), "r")
    series = _polynomial(kernel, rest, _EXP)
    value = kernel.let(series * (rest * rest) + rest + splat(1.0, lanes), "p")
    # 2 * 2^(n - 1): the power for n = 128, where e^x may still be finite, is no float.
    power = tirx.shift_left(bits(shifted), _integers(23, lanes)) + _integers(126 << 23, lanes)
    return kernel.let((value + value) * from_bits(power), "exp")


def log(kernel: KernelBuilder, x: Expr) -> Expr:
    """Natural logarithm, error below 1 ulp; denormals included, NaN below zero."""
    lanes = lanes_of(x)
    x = kernel.let(x)
    tiny = x < splat(2.0**-126, lanes)
    scaled = kernel.let(select(tiny, x * splat(2.0**23, lanes), x), "x")
    # Mantissa in [sqrt(1/2), sqrt(2)).
    exponent = tirx.shift_right(bits(scaled) - _integers(0x3F3504F3, lanes), _integers(23, lanes))
    exponent = kernel.let(exponent, "e")
    mantissa = from_bits(bits(scaled) - tirx.shift_left(exponent, _integers(23, lanes)))
    f = kernel.let(mantissa - splat(1.0, lanes), "f")
    shift = select(tiny, splat(-23.0, lanes), splat(0.0, lanes))
    power = kernel.let(tirx.Cast(vector_type("float32", lanes), exponent) + shift, "e")
    square = kernel.let(f * f, "z")
    series = _polynomial(kernel, f, _LOG)
    small = f * square * series + power * splat(_LN2_LOW, lanes) - square * splat(0.5, lanes)
    value = f + small + power * splat(_LN2_HIGH, lanes)
    value = select(x < splat(math.inf, lanes), value, x)
    value = select(tirx.EQ(x, splat(0.0, lanes)), splat(-math.inf, lanes), value)
    return kernel.let(select(x < splat(0.0, lanes), splat(math.nan, lanes), value), "log")


def tanh(kernel: KernelBuilder, x: Expr) -> Expr:
    """Hyperbolic tangent, error below 1.5 ulp."""
    lanes = lanes_of(x)
    x = kernel.let(x)
    size = kernel.let(absolute(x), "a")
    power = exp(kernel, size + size)
    large = splat(1.0, lanes) - splat(2.0, lanes) / (power + splat(1.0, lanes))
    square = kernel.let(x * x, "z")
    small = _polynomial(kernel, square, _TANH_SMALL) * square * x + x
    value = select(size < splat(0.625, lanes), small, copysign(large, x))
    return kernel.let(value, "tanh")


def sigmoid(kernel: KernelBuilder, x: Expr) -> Expr:
    """1 / (1 + e^-x), error below 3 ulp; 0 below -88.4."""
    lanes = lanes_of(x)
    one = splat(1.0, lanes)
    return kernel.let(one / (one + exp(kernel, splat(0.0, lanes) - x)), "sigmoid")


def erf(kernel: KernelBuilder, x: Expr) -> Expr:
    """The error function, error below 2.5 ulp."""
    lanes = lanes_of(x)
    x = kernel.let(x)
    size = kernel.let(absolute(x), "a")
    square = kernel.let(x * x, "z")
    small = x * _polynomial(kernel, square, _ERF_SMALL)
    # erf rounds to 1 long before 4; the bound keeps the polynomial where it was fitted.
    beyond = kernel.let(minimum(splat(4.0, lanes), size) - splat(1.0, lanes), "t")
    large = splat(1.0, lanes) - exp(kernel, _polynomial(kernel, beyond, _LOG_ERFC))
    return kernel.let(select(size < splat(1.0, lanes), small, copysign(large, x)), "erf")


def sin(kernel: KernelBuilder, x: Expr) -> Expr:
    """Sine, absolute error below 1e-7 for |x| <= 1e5 (no claim beyond)."""
    return sin_cos(kernel, x)[0]


def cos(kernel: KernelBuilder, x: Expr) -> Expr:
    """Cosine, absolute error below 1e-7 for |x| <= 1e5 (no claim beyond)."""
    return sin_cos(kernel, x)[1]


def _split(value: float, widths: Sequence[int]) -> list[float]:
    """`value` as a sum of parts of so many bits each, largest first (Cody and Waite)."""
    parts: list[float] = []
    for width in widths:
        unit = 2.0 ** (math.frexp(value)[1] - width)
        parts.append(math.floor(value / unit) * unit)
        value -= parts[-1]
    return [*parts, value]


# Eight bits times a quadrant number of up to 16 are exact, also without FMA.
_HALF_PI: Final = tuple(_split(math.pi / 2, (8, 8, 8)))


def sin_cos(kernel: KernelBuilder, x: Expr) -> tuple[Expr, Expr]:
    """Sine and cosine of the same angle for the price of little more than one."""
    lanes = lanes_of(x)
    x = kernel.let(x)
    shifted = kernel.let(x * splat(2.0 / math.pi, lanes) + splat(_ROUNDER, lanes), "t")
    whole = kernel.let(shifted - splat(_ROUNDER, lanes), "n")
    rest = x
    for part in _HALF_PI:
        rest = rest - whole * splat(part, lanes)
    rest = kernel.let(rest, "r")
    square = kernel.let(rest * rest, "z")
    sine = kernel.let(_polynomial(kernel, square, _SIN) * square * rest + rest, "s")
    cosine = _polynomial(kernel, square, _COS) * (square * square)
    cosine = kernel.let(cosine - square * splat(0.5, lanes) + splat(1.0, lanes), "c")
    quadrant = kernel.let(bits(shifted), "q")
    odd = tirx.NE(tirx.bitwise_and(quadrant, _integers(1, lanes)), _integers(0, lanes))
    second = tirx.shift_left(tirx.bitwise_and(quadrant, _integers(2, lanes)), _integers(30, lanes))
    next_quadrant = quadrant + _integers(1, lanes)
    third = tirx.bitwise_and(next_quadrant, _integers(2, lanes))
    third = tirx.shift_left(third, _integers(30, lanes))
    sin_value = from_bits(tirx.bitwise_xor(bits(select(odd, cosine, sine)), second))
    cos_value = from_bits(tirx.bitwise_xor(bits(select(odd, sine, cosine)), third))
    return kernel.let(sin_value, "sin"), kernel.let(cos_value, "cos")


def pow(kernel: KernelBuilder, x: Expr, y: Expr) -> Expr:
    """x^y, error below 1 ulp (computed in double precision); IEEE's special cases."""
    lanes = lanes_of(x)
    wide = vector_type("float64", lanes)
    one, zero = splat(1.0, lanes), splat(0.0, lanes)
    x, y = kernel.let(x), kernel.let(y)
    size = kernel.let(absolute(x), "a")
    exponent = _log2_double(kernel, tirx.Cast(wide, size)) * tirx.Cast(wide, y)
    magnitude = _exp2_double(kernel, exponent)
    magnitude = select(tirx.EQ(size, one), one, magnitude)
    big = absolute(y) >= splat(2.0**24, lanes)
    # Beyond 2^24 every float is an even integer.
    number = tirx.Cast(vector_type("int32", lanes), select(big, zero, y))
    number = kernel.let(number, "n")
    integral = select(big, one, select(_equal_to_integer(y, number), one, zero))
    integral = kernel.let(integral)
    odd = tirx.bitwise_and(number, _integers(1, lanes))
    parity = select(tirx.EQ(integral, zero), _integers(0, lanes), odd)
    sign = tirx.bitwise_and(bits(x), tirx.shift_left(parity, _integers(31, lanes)))
    value = from_bits(tirx.bitwise_xor(bits(kernel.let(magnitude)), sign))
    finite_negative = tirx.And(x < zero, x > splat(-math.inf, lanes))
    undefined = tirx.And(finite_negative, tirx.EQ(integral, zero))
    value = select(undefined, splat(math.nan, lanes), value)
    value = select(tirx.Or(is_nan(x), is_nan(y)), x + y, value)
    certain = tirx.Or(tirx.EQ(y, zero), tirx.EQ(x, one))
    return kernel.let(select(certain, one, value), "pow")


def _equal_to_integer(y: Expr, number: Expr) -> Expr:
    return tirx.EQ(y, tirx.Cast(vector_type("float32", lanes_of(y)), number))


def _double(value: float, lanes: int) -> Expr:
    return tirx.const(value, vector_type("float64", lanes))


def _log2_double(kernel: KernelBuilder, x: Expr) -> Expr:
    """log2 of non-negative doubles that were f32, to 1e-13; -inf for 0, inf for inf."""
    lanes = lanes_of(x)
    x = kernel.let(x)
    kind = vector_type("int64", lanes)
    pattern = kernel.let(tirx.reinterpret(kind, x), "bits")
    # Mantissa in [sqrt(1/2), sqrt(2)).
    exponent = tirx.shift_right(
        pattern - tirx.const(0x3FE6A09E667F3BCD, kind), tirx.const(52, kind)
    )
    exponent = kernel.let(exponent, "e")
    mantissa = tirx.reinterpret(
        vector_type("float64", lanes), pattern - tirx.shift_left(exponent, tirx.const(52, kind))
    )
    mantissa = kernel.let(mantissa, "m")
    # log2 m = 2 / ln 2 * artanh((m - 1) / (m + 1)); the argument stays below 0.172.
    ratio = (mantissa - _double(1.0, lanes)) / (mantissa + _double(1.0, lanes))
    ratio = kernel.let(ratio, "s")
    square = kernel.let(ratio * ratio, "z")
    series = _double(1.0 / 15.0, lanes)
    for term in (13, 11, 9, 7, 5, 3, 1):
        series = series * square + _double(1.0 / term, lanes)
    # int64 to double has no instruction before AVX-512; the exponent fits in 32 bits.
    power = tirx.Cast(vector_type("int32", lanes), exponent)
    power = tirx.Cast(vector_type("float64", lanes), power)
    value = power + series * ratio * _double(2.0 / math.log(2.0), lanes)
    value = select(tirx.EQ(x, _double(0.0, lanes)), _double(-math.inf, lanes), value)
    return kernel.let(select(x < _double(math.inf, lanes), value, x), "log2")


def _exp2_double(kernel: KernelBuilder, x: Expr) -> Expr:
    """2^x of doubles as f32, correctly overflowing and with denormals."""
    lanes = lanes_of(x)
    low, high = _double(-200.0, lanes), _double(200.0, lanes)
    x = kernel.let(tirx.Max(low, tirx.Min(high, kernel.let(x))))
    rounder = _double(1.5 * 2.0**52, lanes)
    shifted = kernel.let(x + rounder, "t")
    rest = kernel.let((x - (shifted - rounder)) * _double(math.log(2.0), lanes), "r")
    series = _double(1.0 / math.factorial(11), lanes)
    for term in range(10, -1, -1):
        series = series * rest + _double(1.0 / math.factorial(term), lanes)
    kind = vector_type("int64", lanes)
    power = tirx.shift_left(tirx.reinterpret(kind, shifted), tirx.const(52, kind))
    power = tirx.reinterpret(vector_type("float64", lanes), power + tirx.const(1023 << 52, kind))
    return kernel.let(tirx.Cast(vector_type("float32", lanes), series * power), "exp2")


def floor(kernel: KernelBuilder, x: Expr) -> Expr:
    """The largest integer not above x, on every instruction set."""
    lanes = lanes_of(x)
    kind = vector_type("float32", lanes)
    if "sse4.1" in kernel.isa.features or kernel.isa.machine == "aarch64":
        return kernel.let(intrinsic("llvm.floor", kind, x), "floor")
    x = kernel.let(x)
    # From 2^23 on every float is an integer (and NaN fails the comparison too).
    small = kernel.let(select(absolute(x) < splat(2.0**23, lanes), x, splat(0.0, lanes)))
    cut = tirx.Cast(kind, tirx.Cast(vector_type("int32", lanes), small))
    cut = kernel.let(cut, "cut")
    down = cut - select(cut > small, splat(1.0, lanes), splat(0.0, lanes))
    whole = select(absolute(x) < splat(2.0**23, lanes), copysign(down, x), x)
    return kernel.let(whole, "floor")


def rsqrt(kernel: KernelBuilder, x: Expr) -> Expr:
    """1 / sqrt(x), error below 1.5 ulp: the estimates of the hardware differ between makers."""
    return kernel.let(splat(1.0, lanes_of(x)) / sqrt(x), "rsqrt")
