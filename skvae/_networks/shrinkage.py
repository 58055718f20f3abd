"""How much of the correlations of few rows to believe."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["SHRINKAGES", "covariance_shrinkage", "held_out_shrinkage"]

# Candidates. At 1 a decoder would start at zero, and stay there.
SHRINKAGES = (0.0, 3e-4, 1e-3, 3e-3, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
# Variances below it, of standardised columns, are rounding, and so is what a row leaves of its share in the moments.
_LEAST_VARIANCE, _LEAST_SHARE = 1e-10, 1e-9
# Rows that are left out in turn for a covariance, and the columns up to which its axes cost little.
_MAX_ROWS, _MAX_COLUMNS = 1_000, 200


def held_out_shrinkage(rows: Tensor, values: Tensor, axes: Tensor, n_samples: int, most: float = 1.0) -> float:
    r"""The shrinkage of a correlation matrix towards the identity under which rows that are left out are likeliest.

    .. math:: \hat s = \arg\max_s \sum_k \log N\bigl(v_k \mid m_{-k}, (1 - s) R_{-k} + s I\bigr)

    with the moments of all rows but the k-th. They differ by one outer product from those of all rows, so that one
    eigendecomposition serves all k and s.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_columns)
        Some of the rows, or all, centred and of unit variance, in float64.
    values : Tensor of shape (n_axes,)
        Eigenvalues of the correlation matrix R of all rows; those that are left out are zero.
    axes : Tensor of shape (n_columns, n_axes)
        Their eigenvectors.
    n_samples : int
        How many rows have made R, at least 2.
    most : float, default=1.0
        Greater ones are not tried.

    Returns
    -------
    shrinkage : float
        One of ``SHRINKAGES``, the least of the best.

    References
    ----------
    Hoffbeck & Landgrebe (1996), "Covariance matrix estimation and classification with limited training data", IEEE
    Transactions on Pattern Analysis and Machine Intelligence 18(7).
    """
    squares = (rows @ axes).square()
    n_lost = rows.shape[1] - len(values)
    lost = (rows.square().sum(dim=1) - squares.sum(dim=1)).clamp_min(0.0)
    grown = n_samples / (n_samples - 1)
    candidates = [shrinkage for shrinkage in SHRINKAGES if shrinkage <= most]
    shrinkage = torch.tensor(candidates).to(values)
    variance = torch.outer((1.0 - shrinkage) * grown, values).add_(shrinkage[:, None]).clamp_min_(_LEAST_VARIANCE)
    distance, log_determinant = squares @ variance.reciprocal().T, variance.log().sum(dim=1)
    if n_lost:
        least = shrinkage.clamp_min(_LEAST_VARIANCE)
        distance, log_determinant = distance + torch.outer(lost, 1.0 / least), log_determinant + n_lost * least.log()
    share = 1.0 - (1.0 - shrinkage) * (grown / (n_samples - 1)) * distance
    loss = (log_determinant + share.log() + grown**2 * distance / share).mean(dim=0)
    losses = torch.where(share.amin(dim=0) > _LEAST_SHARE, loss, torch.inf).tolist()
    return candidates[losses.index(min(losses))]


def covariance_shrinkage(rows: Tensor, most: float, least: float = 0.0) -> float:
    """The shrinkage of a covariance towards a multiple of the identity: what rows that are left out ask for.

    Columns that follow from each other leave directions of hardly any variance, which a fixed shrinkage would hide.

    Parameters
    ----------
    rows : Tensor of shape (n_samples, n_columns)
        In float64, NaN where missing. Complete ones count, and copies once: a copy is not left out.
    most : float
        No more than this, and this where nothing is known: of one column, of too many, and of fewer than two rows.
    least : float, default=0.0
        No less than this.

    Returns
    -------
    shrinkage : float
    """
    if not 1 < rows.shape[1] <= _MAX_COLUMNS:
        return most
    known = _different(rows[~rows.isnan().any(dim=1)][:_MAX_ROWS].cpu())
    centred = known - known.mean(dim=0)
    spread = centred.square().mean().sqrt() if len(known) > 1 else torch.zeros(())
    if not spread > 0.0:
        return most
    scaled = centred / spread
    values, axes = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    return max(least, held_out_shrinkage(scaled, values.clamp_min(0.0), axes, len(scaled), most))


def _different(rows: Tensor) -> Tensor:
    """Each of some rows once; told apart by a sum of random parts, for `torch.unique` takes ten times as long."""
    parts = torch.from_numpy(np.random.RandomState(0).standard_normal(rows.shape[1])).to(rows)
    _, first = np.unique((rows * parts).sum(dim=1).numpy(), return_index=True)
    return rows[torch.from_numpy(first)]
