"""Second moments by their axes: from the rows where those are fewer than the columns, and the leading ones alone."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["leading_axes", "padded_axes", "principal_axes"]

# Axes whose ratio to the largest variance is below it are rounding.
_LEAST_RATIO = 1e-12


def principal_axes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of ``rows.T @ rows``, for fewer rows than columns.

    Parameters
    ----------
    rows : Tensor of shape (n_samples, n_columns)
        Centred, each times the root of its weight, in float64.

    Returns
    -------
    variance : Tensor of shape (n_kept,)
        Descending; those that are zero but for rounding are left out, except one.
    axes : Tensor of shape (n_columns, n_kept)
        Orthonormal columns.
    """
    variance, mixing = torch.linalg.eigh(rows @ rows.T)
    variance, mixing = variance.flip(0).clamp_min(0.0), mixing.flip(1)
    n_kept = int((variance > _LEAST_RATIO * variance[0]).sum())
    if not n_kept:  # equal rows have no axis of their own
        return variance[:1], torch.eye(rows.shape[1], 1).to(rows)
    return variance[:n_kept], rows.T @ (mixing[:, :n_kept] * variance[:n_kept].rsqrt())


def leading_axes(moments: Tensor, start: Tensor, n_rounds: int, *, thin: bool = False) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues and eigenvectors of a symmetric matrix, by subspace iteration.

    Parameters
    ----------
    moments : Tensor of shape (n_columns, n_columns)
        The matrix; or, where it is ``thin``, rows A of shape (n_samples, n_columns) that make it, as A.T @ A.
    start : Tensor of shape (n_columns, n_axes)
        Some more columns than the axes that are asked for; the nearer to them the better.
    n_rounds : int
    thin : bool

    Returns
    -------
    values : Tensor of shape (n_axes,)
        Descending.
    axes : Tensor of shape (n_columns, n_axes)

    References
    ----------
    Halko, Martinsson & Tropp (2011), https://arxiv.org/abs/0909.4061, algorithm 4.4.
    """

    def product(axes: Tensor) -> Tensor:
        return moments.T @ (moments @ axes) if thin else moments @ axes

    for _ in range(n_rounds):
        start = torch.linalg.qr(product(start)).Q
    values, rotation = torch.linalg.eigh(start.T @ product(start))
    return values.flip(0), start @ rotation.flip(1)


def padded_axes(axes: Tensor, n_axes: int, random_state: np.random.RandomState) -> Tensor:
    """Orthonormal columns with random ones beside them, orthogonal to all, up to a number or until there are no more.

    Parameters
    ----------
    axes : Tensor of shape (n_columns, n_given)
    n_axes : int
    random_state : RandomState

    Returns
    -------
    axes : Tensor of shape (n_columns, n_axes), or fewer columns
    """
    n_columns, n_given = axes.shape
    n_more = min(n_axes, n_columns) - n_given
    if n_more <= 0:
        return axes[:, :n_axes].contiguous()
    more = torch.from_numpy(random_state.standard_normal((n_columns, n_more))).to(axes)
    for _ in range(2):  # once more: what the first pass leaves of the given axes is rounding that others magnify
        more = torch.linalg.qr(more - axes @ (axes.T @ more)).Q
    return torch.cat([axes, more], dim=1)
