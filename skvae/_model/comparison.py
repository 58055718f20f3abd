"""A row beside what a model makes of it: one number for each cell, whatever the cell holds."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._support.numerics import observed

__all__ = ["Comparison", "compare", "compare_many"]

# Rows that pass a network at once: its values stay in the cache.
_PART_ROWS = 1024


class Comparison(NamedTuple):
    """Rows and their residuals, NaN where a cell is missing; each column counts once."""

    marks: Tensor  # (n_samples, n_columns), numbers as the encoder sees them, how rare a level is
    residual: Tensor  # (n_samples, n_columns)
    expected_marks: Tensor  # (n_samples, n_columns), what stands in for missing cells
    expected_residual: Tensor | float  # (n_samples, n_columns)
    log_mass: Tensor | None = None  # (n_samples,), of the observed categories and counts; None where there are none


def compare(module: Any, x: Tensor) -> Comparison:
    r"""Hold scaled rows against their reconstruction.

    The residual of a number is its difference, that of a category its deviance,

    .. math:: r = \sqrt{-2 \log p(l \mid z)}

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
    layer = module.layer
    if layer.is_plain:
        reconstruction = module.reconstruct(x)
        return Comparison(x, x - reconstruction, reconstruction, 0.0)
    outputs, free, likelihood = module.decode(module.encode(x)), module.free(), module.likelihood
    mask = observed(x)
    log_prob = likelihood.log_prob(x, outputs, free, mask)
    marks, expected_marks = layer.marks(x), layer.marks(likelihood.mean(outputs, free))
    residual, expected_residual = marks - expected_marks, torch.zeros_like(marks)
    entropy = -likelihood.expected_log_prob(outputs, free)
    for column, _ in layer.shares:
        deviance = (-2.0 * log_prob[:, column]).clamp_min(0.0).sqrt()
        residual[:, column] = torch.where(marks[:, column].isnan(), torch.nan, deviance)
        expected_residual[:, column] = (2.0 * entropy[:, column]).clamp_min(0.0).sqrt()
    log_mass = log_prob[:, list(layer.discrete)].sum(dim=-1)
    return Comparison(marks, residual, expected_marks, expected_residual, log_mass)


@torch.no_grad()
def compare_many(module: Any, x: Tensor) -> Comparison:
    """`compare` of any number of rows, part by part."""
    frozen = module.with_buffers()
    parts = [tuple(map(_kept, compare(frozen, part))) for part in x.split(_PART_ROWS)]
    return Comparison(*map(_joined, zip(*parts, strict=True)))


def _kept(value: Any) -> Any:
    """What the next pass does not overwrite."""
    return value.clone() if isinstance(value, Tensor) else value


def _joined(values: tuple) -> Any:
    return torch.cat(values) if isinstance(values[0], Tensor) else values[0]
