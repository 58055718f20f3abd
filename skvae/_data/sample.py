"""The order of the rows of a table that a fit depends on."""

import numpy as np

from .columns import chunk_rows

__all__ = ["canonical_rows"]


def _row_hash(values: np.ndarray) -> np.ndarray:
    """A 64-bit number of each row's content."""
    hashed = np.full(len(values), 0x9E3779B97F4A7C15, dtype=np.uint64)
    n_chunk_rows = chunk_rows(values.shape[1])
    for first in range(0, len(values), n_chunk_rows):
        bits = np.ascontiguousarray(values[first : first + n_chunk_rows].T, dtype=np.float64) + 0.0  # no minus zero
        if np.isnan(bits.sum()):
            bits[np.isnan(bits)] = np.nan  # one missing value, whatever bits it came with
        part = hashed[first : first + n_chunk_rows]
        for column in bits.view(np.uint64):
            part ^= column ^ (column >> np.uint64(29))
            part *= np.uint64(0xBF58476D1CE4E5B9)
            part ^= part >> np.uint64(32)
    return hashed


def canonical_rows(X: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Order rows by content, so that a fit depends on the rows and not on their order; integer weights repeat rows.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,), or None

    Returns
    -------
    rows : ndarray of int
        Row numbers; repeated, or missing where the weight is zero.
    weight : ndarray of the shape of ``rows`` with mean 1, or None
        None where repetition already says everything.
    """
    order = np.argsort(_row_hash(X), kind="stable")
    if weight is None:
        return order, None
    weight = weight[order]
    order, weight = order[weight > 0], weight[weight > 0]
    # 10: beyond it repetition costs more memory than it is worth; the weighted loss has the same optimum.
    if (weight == np.floor(weight)).all() and weight.sum() <= 10 * len(X):
        return np.repeat(order, weight.astype(np.int64)), None
    return order, weight / weight.mean()
