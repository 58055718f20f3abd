"""What the codes of the training rows tell of a fitted variational autoencoder."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._densities.bounds import surplus_kl
from .._training.rows import Rows
from .fitted import Fitted

__all__ = ["CodeSummary", "summarise_codes"]

# Rows from which a mean over the training rows is estimated.
_MAX_ROWS = 10_000


class CodeSummary(NamedTuple):
    """Means over the training rows, by their weights."""

    kl: list[float]  # of each component, in nats
    active: list[int]  # components that carry more than noise does
    noise_scale: Tensor | None  # (n_columns,), in raw units; None where no likelihood has a scale
    n_rows: int  # rows that the means rest on


def summarise_codes(fitted: Fitted, rows: Rows) -> CodeSummary:
    """Say how many nats each component carries, and how much noise is left to the columns.

    Parameters
    ----------
    fitted : Fitted
        A variational autoencoder.
    rows : Rows
        Those that it was trained on.

    Returns
    -------
    summary : CodeSummary
    """
    module: Any = fitted.features
    x, weight = rows.x[:_MAX_ROWS], None if rows.weight is None else rows.weight[:_MAX_ROWS].double()
    with torch.no_grad():
        mean, log_variance = module.posterior(x)
        kl = _mean(0.5 * (mean.square() + torch.expm1(log_variance) - log_variance), weight).tolist()
        noise_scale = _noise_scale(module, mean, weight, fitted) if module.likelihood.has_scale else None
    n_varying = max(1, fitted.columns.n_degrees - int(fitted.columns.constant.sum()))
    least = surplus_kl(_effective_rows(rows), n_varying)
    return CodeSummary(kl, [index for index, value in enumerate(kl) if value > least], noise_scale, len(x))


def _noise_scale(module: Any, mean: Tensor, weight: Tensor | None, fitted: Fitted) -> Tensor:
    """Root mean square of each column's noise scale; NaN for those that a map bends or of which nothing is learned."""
    columns, left_out = fitted.columns, () if fitted.table is None else fitted.table.left_out
    scale = module.likelihood.scale(module.decode(mean), module.free())
    scale = _mean(scale.double().square(), weight).sqrt().cpu()
    units = torch.from_numpy(np.where(columns.constant, 0.0, columns.scale))
    units[[*(columns.marginals.columns if columns.marginals else ()), *columns.empty, *left_out]] = torch.nan
    return scale * units


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over rows (n_samples, n_columns), by their weights."""
    return values.mean(dim=0) if weight is None else (weight / weight.sum()) @ values.to(weight)


def _effective_rows(rows: Rows) -> float:
    """How many rows of one weight tell as much."""
    if rows.weight is None:
        return rows.mass
    weight = rows.weight.double()
    return float(weight.sum().square() / weight.square().sum())
