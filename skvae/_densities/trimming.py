"""Which rows to learn from where some are anomalies."""

import torch
from torch import Tensor

from .gaussian import MAX_FULL, Gaussian, fit_gaussian

__all__ = ["MAX_TRIMMED", "central_density", "trimmed_rows"]

# Removing more costs more normal rows than it removes anomalies.
MAX_TRIMMED = 0.10
_N_CONCENTRATIONS = 3


def trimmed_rows(x: Tensor, contamination: float, least_spread: float | Tensor = 1e-9) -> Tensor:
    """Find the rows that are surely worth learning from, by concentration steps.

    Parameters
    ----------
    x : Tensor of shape (n_samples, n_features)
        In float64.
    contamination : float
        Share of anomalous rows that the user expects.
    least_spread : float or Tensor of shape (n_features,), default=1e-9
        By which a column is divided at least: values that repeat have quartiles that say nothing.

    Returns
    -------
    kept : Tensor of int, in ascending order
        At least 1 - ``MAX_TRIMMED`` of the rows.

    References
    ----------
    Rousseeuw & Van Driessen (1999), "A fast algorithm for the minimum covariance determinant estimator",
    Technometrics 41(3).
    """
    n_kept = max(1, round(len(x) * (1.0 - min(contamination, MAX_TRIMMED))))
    quartiles = torch.quantile(x[:100_000], torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype), dim=0)
    spread = torch.maximum((quartiles[2] - quartiles[0]) / 1.349, 0.1 * x.std(dim=0, correction=0)).clamp_min(
        least_spread
    )
    distance = _compressed((x - quartiles[1]) / spread).square().sum(dim=1)
    for _ in range(4):
        kept = torch.argsort(distance, stable=True)[:n_kept].sort().values
        scale = x[kept].std(dim=0, correction=0).clamp_min(least_spread)
        z = _compressed((x - x[kept].mean(dim=0)) / scale)
        distance = fit_gaussian(z[kept]).square_distance(z)
    return torch.argsort(distance, stable=True)[:n_kept].sort().values


def _compressed(z: Tensor) -> Tensor:
    """Log-compress tails beyond four standard deviations, so that no single cell decides."""
    magnitude = z.abs()
    return torch.where(magnitude > 4.0, torch.sign(z) * 4.0 * (1.0 + torch.log(magnitude / 4.0)), z)


def central_density(rows: Tensor, weight: Tensor | None = None, *, floor: float, share: float = 0.75) -> Gaussian:
    """Fit one Gaussian, without shrinkage, to the central rows, found by concentration steps.

    Parameters
    ----------
    rows : Tensor of shape (n_samples, n_features)
        In float64, complete.
    weight : Tensor of shape (n_samples,), or None
    floor : float
        Added to every variance, in the square of the rows' units.
    share : float
        Of the weight of all rows.

    Returns
    -------
    density : Gaussian

    References
    ----------
    Rousseeuw & Van Driessen (1999), "A fast algorithm for the minimum covariance determinant estimator",
    Technometrics 41(3).
    """
    weight = torch.ones(len(rows), dtype=rows.dtype, device=rows.device) if weight is None else weight
    allowed = share * weight.sum() * (1.0 + 1e-9)
    central = weight
    for _ in range(_N_CONCENTRATIONS):
        order = torch.argsort(_distances(rows, central, floor), stable=True)
        reached = weight[order].cumsum(dim=0)
        outside = reached > torch.maximum(allowed, reached[weight[order] > 0][0])
        central = weight.clone()
        central[order[outside]] = 0.0
    # The rows are [input; residual]: twice the columns of a table.
    return fit_gaussian(rows, central, shrinkage=0.0, floor=floor, max_full=2 * MAX_FULL)


def _distances(rows: Tensor, weight: Tensor, floor: float) -> Tensor:
    """Squared Mahalanobis distance of each row, up to a constant, by a factorisation that is cheap for wide rows."""
    chosen = weight > 0
    weights = (weight[chosen] / weight.sum()).unsqueeze(-1)
    mean = (weights * rows[chosen]).sum(dim=0)
    scaled = (rows[chosen] - mean) * weights.sqrt()
    if len(scaled) < scaled.shape[1] > 2 * MAX_FULL:
        return _distances_beyond(rows - mean, scaled, floor)
    covariance = scaled.T @ scaled
    covariance.diagonal().add_(floor)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed:  # by rounding: columns of wildly different scale, each by itself then
        return (rows - mean).square().div(covariance.diagonal()).sum(dim=1)
    return torch.linalg.solve_triangular(factor, (rows - mean).T, upper=False).square().sum(dim=0)


def _distances_beyond(centred: Tensor, scaled: Tensor, floor: float) -> Tensor:
    """The same for fewer rows than columns, by Woodbury's identity: |r|^2 less what the rows' span explains of it."""
    inner = scaled @ scaled.T
    inner.diagonal().add_(floor)
    factor, failed = torch.linalg.cholesky_ex(inner)
    squares = centred.square()
    if failed:
        return squares.div(scaled.square().sum(dim=0) + floor).sum(dim=1)
    explained = torch.linalg.solve_triangular(factor, scaled @ centred.T, upper=False)
    return squares.sum(dim=1) - explained.square().sum(dim=0)
