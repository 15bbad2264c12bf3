"""Special functions that the array namespace lacks, in float64."""

from __future__ import annotations

from typing import Any

_TWO_OVER_SQRT_PI = 1.1283791670955126


def erf(xp: Any, x: Any) -> Any:
    """The error function to about 2e-16, for any array namespace.

    erf(x) = 2/sqrt(pi) exp(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!! has only terms of one sign
    (Abramowitz and Stegun 7.1.6); beyond |x| = 6 the result rounds to +-1.
    """
    small = xp.where(xp.abs(x) < 6.0, x, xp.zeros_like(x))
    square = small * small
    term = small
    total = small
    for n in range(1, 160):
        term = term * (2.0 * square / (2 * n + 1))
        total = total + term
    inside = _TWO_OVER_SQRT_PI * xp.exp(-square) * total
    outside = xp.where(xp.isnan(x), x, xp.sign(x))
    return xp.where(xp.abs(x) < 6.0, inside, outside)
