"""Special functions that the array namespace lacks, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_CHUNK = 1 << 14
"""Elements computed at a time, so that the many terms stay in the processor's cache."""

# Rational approximations of erf on [0, 0.84375), [0.84375, 1.25), [1.25, 1/0.35) and [1/0.35, 6),
# from fdlibm's s_erf.c (Sun Microsystems, 1993; freely granted), lowest power first.
_ERF_ONE = 8.45062911510467529297e-01
_P = (
    1.28379167095512558561e-01, -3.25042107247001499370e-01, -2.84817495755985104766e-02,
    -5.77027029648944159157e-03, -2.37630166566501626084e-05,
)  # fmt: skip
_Q = (
    1.0, 3.97917223959155352819e-01, 6.50222499887672944485e-02, 5.08130628187576562776e-03,
    1.32494738004321644526e-04, -3.96022827877536812320e-06,
)  # fmt: skip
_PA = (
    -2.36211856075265944077e-03, 4.14856118683748331666e-01, -3.72207876035701323847e-01,
    3.18346619901161753674e-01, -1.10894694282396677476e-01, 3.54783043256182359371e-02,
    -2.16637559486879084300e-03,
)  # fmt: skip
_QA = (
    1.0, 1.06420880400844228286e-01, 5.40397917702171048937e-01, 7.18286544141962662868e-02,
    1.26171219808761642112e-01, 1.36370839120290507362e-02, 1.19844998467991074170e-02,
)  # fmt: skip
_RA = (
    -9.86494403484714822705e-03, -6.93858572707181764372e-01, -1.05586262253232909814e01,
    -6.23753324503260060396e01, -1.62396669462573470355e02, -1.84605092906711035994e02,
    -8.12874355063065934246e01, -9.81432934416914548592e00,
)  # fmt: skip
_SA = (
    1.0, 1.96512716674392571292e01, 1.37657754143519042600e02, 4.34565877475229228821e02,
    6.45387271733267880336e02, 4.29008140027567833386e02, 1.08635005541779435134e02,
    6.57024977031928170135e00, -6.04244152148580987438e-02,
)  # fmt: skip
_RB = (
    -9.86494292470009928597e-03, -7.99283237680523006574e-01, -1.77579549177547519889e01,
    -1.60636384855821916062e02, -6.37566443368389627722e02, -1.02509513161107724954e03,
    -4.83519191608651397019e02,
)  # fmt: skip
_SB = (
    1.0, 3.03380607434824582924e01, 3.25792512996573918826e02, 1.53672958608443695994e03,
    3.19985821950859553908e03, 2.55305040643316442583e03, 4.74528541206955367215e02,
    -2.24409524465858183362e01,
)  # fmt: skip


def erf(xp: Any, x: Any) -> Any:
    """The error function to about 2e-16 for any array namespace; NaN where x is NaN."""
    flat = xp.reshape(x, (-1,))
    count = flat.shape[0]
    if count <= _CHUNK:
        return xp.reshape(_erf(xp, flat), x.shape)
    parts = [_erf(xp, flat[start : start + _CHUNK]) for start in range(0, count, _CHUNK)]
    return xp.reshape(xp.concat(parts), x.shape)


def _erf(xp: Any, x: Any) -> Any:
    size = xp.minimum(xp.abs(x), 6.0)  # beyond 6 the result rounds to 1
    square = size * size
    near = size + size * _ratio(_P, _Q, square)
    middle = _ERF_ONE + _ratio(_PA, _QA, size - 1.0)
    divisor = xp.maximum(size, 1.25)
    inverse = 1.0 / (divisor * divisor)
    tail = xp.where(size < 1.0 / 0.35, _ratio(_RA, _SA, inverse), _ratio(_RB, _SB, inverse))
    far = 1.0 - xp.exp(tail - square - 0.5625) / divisor
    found = xp.where(size < 0.84375, near, xp.where(size < 1.25, middle, far))
    return xp.where(xp.isnan(x), x, xp.copysign(found, x))


def _ratio(above: Sequence[float], below: Sequence[float], x: Any) -> Any:
    return _polynomial(above, x) / _polynomial(below, x)


def _polynomial(coefficients: Sequence[float], x: Any) -> Any:
    total = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total
