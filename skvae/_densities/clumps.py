"""Groups of components of a mixture that few rows make: where training rows may hide anomalies that are alike."""

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from .mixture import DiagonalMixture

__all__ = ["clumps"]

# Of all rows.
_LEAST_SHARE = 0.05


def clumps(mixture: DiagonalMixture) -> Tensor:
    r"""Find components in groups that hold less than a twentieth of the rows.

    Components are linked where their Bhattacharyya distance

    .. math:: B = \frac{1}{8} \sum_j \frac{(\mu_{1j} - \mu_{2j})^2}{s_j}
        + \frac{1}{2} \sum_j \log \frac{s_j}{\sigma_{1j} \sigma_{2j}}, \quad
        s_j = \frac{\sigma_{1j}^2 + \sigma_{2j}^2}{2}

    is at most the median of the distances from each component to its nearest. Groups are what links connect.

    Parameters
    ----------
    mixture : DiagonalMixture

    Returns
    -------
    clumps : Tensor of bool of shape (n_mixture,)
        None of them where all groups are that small.

    References
    ----------
    Kailath (1967), "The divergence and Bhattacharyya distance measures in signal selection", IEEE Transactions on
    Communication Technology 15(1).
    """
    distance = _bhattacharyya(mixture)
    linked = distance <= distance.amin(dim=1).median()
    group = torch.from_numpy(connected_components(linked.numpy(), directed=False)[1]).long()
    share = torch.zeros(len(group), dtype=mixture.weights.dtype).index_add_(0, group, mixture.weights)
    small = share[group] < _LEAST_SHARE
    return small & ~small.all()


def _bhattacharyya(mixture: DiagonalMixture) -> Tensor:
    """Distances of shape (n_mixture, n_mixture), infinite from a component to itself."""
    means, variances = mixture.means, mixture.variances
    half = 0.5 * variances.log().sum(dim=1)
    distance = torch.empty(len(means), len(means), dtype=means.dtype)
    for row, (mean, variance) in enumerate(zip(means, variances, strict=True)):
        between = 0.5 * (variances + variance)
        distance[row] = 0.125 * ((means - mean).square() / between).sum(dim=1)
        distance[row] += 0.5 * (between.log().sum(dim=1) - half - half[row])
    return distance.fill_diagonal_(torch.inf)
