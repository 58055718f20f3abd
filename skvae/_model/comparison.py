"""A row beside what a model makes of it: one number for each cell, whatever the cell holds."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._support.numerics import observed

__all__ = ["Comparison", "compare", "compare_many", "with_levels"]

# Rows that pass a network at once: its values stay in the cache.
_PART_ROWS = 1024


class Comparison(NamedTuple):
    """Rows and their residuals, NaN where a cell is missing; each column counts once."""

    scalars: Tensor  # (n_samples, n_columns), numbers as the encoder sees them, how rare a level is
    residual: Tensor  # (n_samples, n_columns)
    expected_scalars: Tensor  # (n_samples, n_columns), what stands in for missing cells
    log_mass: Tensor | None = None  # (n_samples,), of the observed categories and counts; None where there are none


def compare(module: Any, x: Tensor) -> Comparison:
    r"""Hold scaled rows against their reconstruction.

    The residual of a number is its difference, that of a category its deviance,

    .. math:: r = \sqrt{-2 \log p(l \mid z)}

    Where the columns see each other, what is expected of a cell, and p, are given the observed cells before it.

    Parameters
    ----------
    module : LatentModule
    x : Tensor of shape (n_samples, n_columns)
        Scaled rows, NaN where missing.

    Returns
    -------
    comparison : Comparison

    References
    ----------
    McCullagh & Nelder (1989), "Generalized linear models", section 2.4.3: deviance residuals.
    """
    layer, likelihood, mask = module.layer, module.likelihood, observed(x)
    outputs, free = module.decode(module.encode(x)), module.free()
    if likelihood.sees_columns:
        likelihood, outputs, free = likelihood.given_cells(x, outputs, free, mask)
    if layer.is_plain:
        reconstruction = likelihood.mean(outputs, free)
        return Comparison(x, x - reconstruction, reconstruction)
    log_prob = likelihood.log_prob(x, outputs, free, mask)
    scalars, expected_scalars = layer.scalars(x), layer.scalars(likelihood.mean(outputs, free))
    residual = scalars - expected_scalars
    if layer.probabilities:
        codes = list(layer.categorical)
        deviance = (-2.0 * log_prob[:, codes]).clamp_min(0.0).sqrt()
        residual[:, codes] = torch.where(scalars[:, codes].isnan(), torch.nan, deviance)
    log_mass = log_prob[:, list(layer.discrete)].sum(dim=-1)
    return Comparison(scalars, residual, expected_scalars, log_mass)


def with_levels(module: Any, x: Tensor) -> Tensor:
    """Rows whose missing categories are the levels that the model finds likeliest; missing numbers stay missing.

    A row has one level and a residual of that level. No row has the expected residual of an unknown one, which lies
    between that of the right level and those of the others: a density of rows would take a blank cell for an anomaly.

    Parameters
    ----------
    module : LatentModule
    x : Tensor of shape (n_samples, n_columns)
        Scaled rows, NaN where missing.

    Returns
    -------
    x : Tensor of shape (n_samples, n_columns)
        The same tensor where no category is missing.
    """
    codes = list(module.layer.categorical)
    if not codes:
        return x
    missing = x[:, codes].isnan()
    if not missing.any():
        return x
    filled = x.clone()
    filled[:, codes] = torch.where(missing, module.reconstruct(x)[:, codes], x[:, codes])
    return filled


@torch.no_grad()
def compare_many(module: Any, x: Tensor, *, fill_levels: bool = False) -> Comparison:
    """`compare` of any number of rows, part by part; with the likeliest level for a missing category, or without."""
    frozen = module.with_buffers()
    rows = (with_levels(frozen, part) if fill_levels else part for part in x.split(_PART_ROWS))
    parts = [tuple(map(_kept, compare(frozen, part))) for part in rows]
    return Comparison(*map(_joined, zip(*parts, strict=True)))


def _kept(value: Any) -> Any:
    """A copy, which the next pass does not overwrite."""
    return value.clone() if isinstance(value, Tensor) else value


def _joined(values: tuple) -> Any:
    return torch.cat(values) if isinstance(values[0], Tensor) else values[0]
