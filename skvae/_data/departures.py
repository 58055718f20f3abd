"""How far rows depart from what every training row held: the one value of a constant column, or one of the levels.

Networks never see such a departure, since nothing was learned of it; scores do. A network sees the constant, and the
rarest level in place of a new one.
"""

import numpy as np
import torch
from torch import Tensor

from .columns import NEXT_TO_ZERO, Columns, chunk_rows
from .large import release

__all__ = ["any_constant", "departures", "tolerances", "total_departures"]

# What float32 leaves of a zero: a scaler before us may have subtracted a constant of a thousand, which float32 rounds.
_SINGLE_ZERO = 1e-4


def any_constant(columns: Columns) -> bool:
    """Whether a column has one value, from which rows can depart."""
    return bool(len(columns.tolerant))


def departures(columns: Columns, values: Tensor, cost: float, nat: float = 1.0) -> Tensor:
    r"""What the departure of each cell takes off its row's score.

    .. math:: c \max(0, \log |x_j - c_j| - \log \tau_j), \qquad u \log \max(1, m_j)

    for numbers, with the constant c_j and its tolerance, and for a new level, with m_j rows of the rarest level: the
    rule of succession gives a level that no row of n has one (n + 1)-th, and the rarest level has m_j / n.

    Parameters
    ----------
    columns : Columns
    values : Tensor of shape (n_samples, n_features)
        Raw rows; codes from the number of levels on are new ones. A missing cell does not depart.
    cost : float
        Of a departure from a constant by a factor of e, in the units of the score.
    nat : float
        One nat in the units of the score.

    Returns
    -------
    departures : Tensor of shape (n_samples, n_features)
        In float64, on the CPU: 0 for columns that varied in training, and within the tolerance of the others.
    """
    result = torch.zeros(values.shape, dtype=torch.float64)
    chosen, (codes, *_) = columns.tolerant, columns.levels
    if len(chosen):
        result[:, chosen] = cost * _of_constant(columns, values, chosen)
    if len(codes):
        result[:, codes] = nat * _of_new_levels(columns, values)
    return result


def total_departures(columns: Columns, values: Tensor, cost: float, nat: float = 1.0) -> Tensor | float:
    """Sum of `departures` of each row, of shape (n_samples,) in float64; 0.0 where no row can depart."""
    chosen, (codes, *_) = columns.tolerant, columns.levels
    if not len(chosen) + len(codes):
        return 0.0
    if not len(chosen) and not bool((values[:, codes.to(values.device)].cpu() >= columns.levels[1]).any()):
        return 0.0
    sums = []
    for part in values.split(chunk_rows(columns.n_features)):
        of_constant = cost * _of_constant(columns, part, chosen).sum(dim=1)
        sums.append(of_constant + nat * _of_new_levels(columns, part).sum(dim=1))
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


def _of_constant(columns: Columns, values: Tensor, chosen: Tensor) -> Tensor:
    single = values.dtype != torch.float64
    tolerance = torch.from_numpy(tolerances(columns, single=single))[chosen]
    distance = (values[:, chosen.to(values.device)].cpu().double() - torch.from_numpy(columns.mean)[chosen]).abs()
    # A distance that overflows is the greatest there is.
    return distance.nan_to_num(0.0).maximum(tolerance).log() - tolerance.log()


def _of_new_levels(columns: Columns, values: Tensor) -> Tensor:
    """Nats by which a new level is less likely than the rarest, of shape (n_samples, n_categorical)."""
    codes, limits, _ = columns.levels
    rows = torch.empty(0) if columns.rarest_rows is None else torch.from_numpy(columns.rarest_rows)[codes]
    return torch.where(values[:, codes.to(values.device)].cpu() >= limits, rows.clamp_min(1.0).log(), 0.0).double()
