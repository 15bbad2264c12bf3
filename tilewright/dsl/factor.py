"""Factorizations of matrices through LAPACK, made deterministic: one result for one operand.

Both are the meaning of an operation (`dsl/ops/linalg.py`) and what a `host` step of a plan runs.
They compute in float64. A matrix that holds NaN or an infinity, or whose iteration does not
converge, gives NaN throughout; its neighbours in the batch are not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def eigh(x: Array) -> tuple[Array, Array]:
    """Eigenvalues [..., n], ascending, and eigenvectors [..., n, n], one a column.

    x: [..., n, n], symmetric: the lower triangle is read, the upper one is not. Of each
    eigenvector the largest component (the first of equals, by magnitude) is not negative.
    """
    *batch, n, _ = x.shape
    values, vectors = np.empty((*batch, n)), np.empty((*batch, n, n))
    for at in np.ndindex(*batch):
        values[at], vectors[at] = _guarded(_eigh, np.tril(x[at]), (n,), (n, n))
    return values, vectors


def qr(x: Array) -> tuple[Array, Array]:
    """Orthonormal columns q [..., m, n] and the upper triangle r [..., n, n] with q r = x.

    x: [..., m, n], m >= n. The diagonal of r is not negative, which makes both unique where the
    columns of x are independent.
    """
    *batch, m, n = x.shape
    q, r = np.empty((*batch, m, n)), np.empty((*batch, n, n))
    for at in np.ndindex(*batch):
        q[at], r[at] = _guarded(_qr, x[at], (m, n), (n, n))
    return q, r


Factors = tuple[Array, Array]


def _guarded(
    factor: Callable[[Array], Factors], x: Array, first: tuple[int, ...], second: tuple[int, ...]
) -> Factors:
    """The factors of one matrix, or NaN in their shapes."""
    if np.isfinite(x).all():
        try:
            return factor(x.astype(np.float64))
        except np.linalg.LinAlgError:  # it does not converge
            pass
    return np.full(first, np.nan), np.full(second, np.nan)


def _eigh(x: Array) -> Factors:
    values, vectors = np.linalg.eigh(x, UPLO="L")
    if not vectors.size:
        return values, vectors
    largest = np.argmax(np.abs(vectors), axis=0)
    leading = vectors[largest, np.arange(vectors.shape[1])]
    return values, np.where(leading < 0, -vectors, vectors)


def _qr(x: Array) -> Factors:
    q, r = np.linalg.qr(x, mode="reduced")
    turned = np.diagonal(r) < 0
    return np.where(turned, -q, q), np.triu(np.where(turned[:, None], -r, r))
