"""Points made by only a few rows, far from all others: one row says nothing about its own density."""

import math

import torch
from torch import Tensor

__all__ = ["few_rows", "lone_rows", "strays"]

# So many rows are no group yet, in number and as a share of all.
_FEW_ROWS, _FEW_SHARE = 10, 0.025
# No point is far off that lies within so many standard deviations of a group.
_LEAST_DISTANCE = 5.0
# Quartile ranges beyond the upper quartile, as in the outer fences of a box plot; in many dimensions, where distances
# differ little, at least a factor of squared distance.
_FENCE, _LEAST_FACTOR = 3.0, 2.0
# Strays inflate a column that keeps less than this part of its standard deviation without them; its unit then.
_INFLATED, _LEAST_UNIT = 0.5, 1e-6
_MOST = 0.25  # of all rows


def few_rows(n_samples: int) -> int:
    """The most rows that are no group yet."""
    return min(_FEW_ROWS, math.ceil(_FEW_SHARE * n_samples))


def strays(points: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    r"""Find points that lie far from a group of rows.

    With :math:`R_k` the distance from a point to the nearest row that is not among the nearest few,

    .. math:: R_k > 5, \quad \log R_k^2 > Q_3 + \max(3 (Q_3 - Q_1), \log 2)

    over the quartiles Q of the :math:`\log R^2` of all points. Where distances differ much between rows, as in tables
    of heavy tails, so do the quartiles; never are more than a quarter of the points strays. Strays that
    make most of a column's standard deviation hide one another: once some are found, such columns are measured again
    in the standard deviation of the rows that are nearest to other points.

    Parameters
    ----------
    points : Tensor of shape (n_points, n_columns)
        In units of about a standard deviation.
    rows : Tensor of shape (n_samples, n_columns)
    weights : Tensor of shape (n_points,)
        Of the points, which sum to one.

    Returns
    -------
    strays : Tensor of bool of shape (n_points,)

    References
    ----------
    Tukey (1977), "Exploratory data analysis", section 2D: the outer fences.
    """
    return _beyond(points, rows, weights, points.new_ones(points.shape[1]))


def lone_rows(rows: Tensor) -> Tensor:
    """Find the strays among few rows, of which one makes so much of a standard deviation that it hides itself.

    Columns are measured in their standard deviation without the farthest few values at first.

    Parameters
    ----------
    rows : Tensor of shape (n_samples, n_columns)
        In units of about a standard deviation.

    Returns
    -------
    strays : Tensor of bool of shape (n_samples,)
    """
    order = (rows - rows.median(dim=0).values).abs().argsort(dim=0)
    left = rows.gather(0, order[: max(1, len(rows) - few_rows(len(rows)))]).std(dim=0, correction=0)
    unit = torch.where(left > 0.0, _unit(left, rows), 1.0)  # a lone value of an indicator says nothing of a spread
    return _beyond(rows, rows, rows.new_full((len(rows),), 1.0 / len(rows)), unit)


def _beyond(points: Tensor, rows: Tensor, weights: Tensor, unit: Tensor) -> Tensor:
    """Points beyond the fence, in units that those found before do not inflate."""
    found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    if few_rows(len(rows)) >= len(rows):
        return found
    nearest = None
    while True:
        known = found
        found = known | _far(points / unit, rows / unit, weights)
        if torch.equal(found, known) or weights[found].sum() > _MOST:
            return known
        nearest = torch.cdist(rows, points).argmin(dim=1) if nearest is None else nearest
        unit = _unit(rows[~found[nearest]].std(dim=0, correction=0), rows)


def _unit(left: Tensor, rows: Tensor) -> Tensor:
    """Of each column, given its standard deviation without some rows: one, or that where they inflate it."""
    return torch.where(left < _INFLATED * rows.std(dim=0, correction=0), left.clamp(_LEAST_UNIT, 1.0), 1.0)


def _far(points: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Whether each point lies beyond the fence."""
    nearest = torch.cdist(points, rows).topk(few_rows(len(rows)) + 1, dim=1, largest=False, sorted=False).values
    distance = nearest.amax(dim=1)
    logarithm = 2.0 * distance.clamp_min(1e-6).log()
    order = logarithm.argsort()
    reach = weights[order].cumsum(dim=0)
    low, high = (logarithm[order][min(int((reach < level).sum()), len(points) - 1)] for level in (0.25, 0.75))
    return (distance > _LEAST_DISTANCE) & (
        logarithm > high + (_FENCE * (high - low)).clamp_min(math.log(_LEAST_FACTOR))
    )
