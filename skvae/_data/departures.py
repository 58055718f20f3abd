"""How far rows depart from what every training row held: the one value of a column that did not vary.

Networks never see such a departure, since nothing was learned of it; scores do.
"""

import numpy as np
import torch
from torch import Tensor

from .columns import NEXT_TO_ZERO, Columns, chunk_rows
from .large import release

__all__ = ["any_watched", "departures", "tolerances", "total_departures"]

# What float32 leaves of a zero: a scaler before us may have subtracted a constant of a thousand, which float32 rounds.
_SINGLE_ZERO = 1e-4


def any_watched(columns: Columns) -> bool:
    """Whether rows can depart at all."""
    return bool(len(_constant(columns)))


def departures(columns: Columns, values: Tensor) -> Tensor:
    r"""Departure of each cell, in multiples of e beyond what passes for the constant.

    .. math:: \max(0, \log |x_j - c_j| - \log \tau_j)

    Parameters
    ----------
    columns : Columns
    values : Tensor of shape (n_samples, n_features)
        Raw rows. A missing cell does not depart.

    Returns
    -------
    departures : Tensor of shape (n_samples, n_features)
        In float64, on the CPU: 0 for columns that varied in training, and within the tolerance of the others.
    """
    result = torch.zeros(values.shape, dtype=torch.float64)
    chosen = _constant(columns)
    if len(chosen):
        result[:, chosen] = _of_constant(columns, values, chosen)
    return result


def total_departures(columns: Columns, values: Tensor) -> Tensor | float:
    """Sum of the departures of each row, of shape (n_samples,) in float64; 0.0 where no row can depart."""
    chosen = _constant(columns)
    if not len(chosen):
        return 0.0
    sums = []
    for part in values.split(chunk_rows(columns.n_features)):
        sums.append(_of_constant(columns, part, chosen).sum(dim=1))
        release(values)
    return torch.cat(sums)


def tolerances(columns: Columns, *, single: bool) -> np.ndarray:
    """How far a value may lie from its column's constant and still pass for it, of shape (n_features,).

    Infinite for columns that varied in training. ``single`` tells whether the rows are of single precision.
    """
    if columns.tolerance is None:
        return np.full(columns.n_features, np.inf)
    return np.where(
        single & (np.abs(columns.mean) < NEXT_TO_ZERO), np.maximum(columns.tolerance, _SINGLE_ZERO), columns.tolerance
    )


def _constant(columns: Columns) -> Tensor:
    """Numbers of the columns that have one value."""
    return torch.from_numpy(np.isfinite(tolerances(columns, single=False))).nonzero().squeeze(1)


def _of_constant(columns: Columns, values: Tensor, chosen: Tensor) -> Tensor:
    single = values.dtype != torch.float64
    tolerance = torch.from_numpy(tolerances(columns, single=single))[chosen]
    distance = (values[:, chosen.to(values.device)].cpu().double() - torch.from_numpy(columns.mean)[chosen]).abs()
    # A distance that overflows is the greatest there is.
    return distance.nan_to_num(0.0).maximum(tolerance).log() - tolerance.log()
