"""A mixture of Gaussians with diagonal covariances, fitted by k-means and expectation maximisation in tensors."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .strays import few_rows, strays

__all__ = ["DiagonalMixture", "fit_diagonal_mixture", "fit_mixture", "k_means", "refine"]

# Gain of the mean log-likelihood, in nats, below which expectation maximisation stops.
_TOL = 1e-3
# Components of a mixture over rows, at most, and rows for each at least.
_MOST_COMPONENTS, _LEAST_ROWS = 64, 10
_LOG_2, _LOG_2PI = math.log(2.0), math.log(2.0 * math.pi)


class DiagonalMixture(NamedTuple):
    """Parameters of a mixture of ``n_mixture`` components."""

    weights: Tensor  # (n_mixture,)
    means: Tensor  # (n_mixture, n_columns)
    variances: Tensor  # (n_mixture, n_columns)

    def chosen(self, components: Tensor) -> "DiagonalMixture":
        """Those components alone, of a boolean for each; itself if it is all of them."""
        if components.all():
            return self
        weights = self.weights[components]
        return DiagonalMixture(weights / weights.sum(), self.means[components], self.variances[components])

    def repeated(self, n_mixture: int) -> "DiagonalMixture":
        """The same density of so many components, some of which share what was one's weight."""
        places = torch.arange(n_mixture) % len(self.weights)
        weights = self.weights[places] / torch.bincount(places)[places]
        return DiagonalMixture(weights, self.means[places], self.variances[places])

    def terms(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a row's log-density is made of: precisions and linear terms (n_columns, n_mixture), constants.

        The joint log-density of a row u and a component is ``linear.T @ u - precision.T @ u**2 / 2 + constant``.
        """
        precision = 1.0 / self.variances
        linear = self.means * precision
        quadratic = (self.means * linear).sum(dim=1)
        constant = self.weights.log() - 0.5 * (self.means.shape[1] * _LOG_2PI - precision.log().sum(dim=1) + quadratic)
        return precision.T.contiguous(), linear.T.contiguous(), constant


def _first_centres(rows: Tensor, n_centres: int, random_state: np.random.RandomState) -> Tensor:
    """Rows far from each other, by k-means++.

    References
    ----------
    Arthur & Vassilvitskii (2007), "k-means++: the advantages of careful seeding", SODA.
    """
    squares = rows.square().sum(dim=1)

    def square_distance(index: int) -> Tensor:
        return torch.addmv(squares, rows, rows[index], alpha=-2.0).add_(squares[index]).clamp_min_(0.0)

    chosen, distance = [int(random_state.randint(len(rows)))], rows.new_full((len(rows),), torch.inf)
    for draw in random_state.random_sample(n_centres - 1):
        distance = torch.minimum(distance, square_distance(chosen[-1]))
        reach = distance.cumsum(dim=0)
        chosen.append(min(int(torch.searchsorted(reach, draw * reach[-1])), len(rows) - 1))
    return rows[chosen]


@torch.inference_mode()
def k_means(rows: Tensor, n_centres: int, random_state: np.random.RandomState, *, max_iter: int = 30) -> Tensor:
    """Partition rows around centres by Lloyd's iterations.

    Parameters
    ----------
    rows : Tensor of shape (n_samples, n_columns)
    n_centres : int
    random_state : RandomState
    max_iter : int

    Returns
    -------
    labels : Tensor of int of shape (n_samples,)
    """
    centres = _first_centres(rows, n_centres, random_state)
    labels = rows.new_full((len(rows),), -1, dtype=torch.int64)
    for n_done in range(max_iter):
        if n_done:
            count = torch.bincount(labels, minlength=n_centres).unsqueeze(1)
            total = torch.zeros_like(centres).index_add_(0, labels, rows)
            centres = torch.where(count > 0, total / count.clamp_min(1), centres)
        before = labels
        labels = torch.addmm(centres.square().sum(dim=1), rows, centres.T, alpha=-2.0).argmin(dim=1)
        if torch.equal(labels, before):
            break
    return labels


def _maximise(both: Tensor, responsibilities: Tensor, floor: float) -> DiagonalMixture:
    """Parameters from [rows, squared rows] and the responsibilities, (n_samples, n_mixture)."""
    mass = responsibilities.sum(dim=0) + 10.0 * torch.finfo(both.dtype).eps
    means, squares = (responsibilities.T @ both).div_(mass.unsqueeze(1)).chunk(2, dim=1)
    return DiagonalMixture(mass / mass.sum(), means, (squares - means.square()).clamp_min_(0.0) + floor)


def _responsibilities(mixture: DiagonalMixture, both: Tensor, n_starts: int = 1) -> tuple[Tensor, float]:
    """Responsibilities, (n_samples, n_mixture), and the mean log-density in nats; with several starts, those of each.

    The starts' components follow each other, as many of each, and the responsibilities of each start sum to one.
    """
    precision, linear, constant = mixture.terms()
    matrix = torch.cat([linear, -0.5 * precision]).div_(_LOG_2)
    exponents = torch.addmm(constant / _LOG_2, both, matrix).view(len(both), n_starts, -1)
    top = exponents.amax(dim=-1, keepdim=True)
    # Responsibilities below 2^-100 = 1e-30 count for nothing, but would slow everything down as subnormal numbers.
    responsibilities = exponents.sub_(top).clamp_min_(-100.0).exp2_()
    total = responsibilities.sum(dim=-1, keepdim=True)
    return responsibilities.div_(total).flatten(1), _LOG_2 * float(top.add_(total.log2()).mean())


def fit_diagonal_mixture(
    rows: Tensor,
    labels: Tensor,
    n_mixture: int,
    *,
    floor: float,
    max_iter: int = 20,
    dtype: torch.dtype = torch.float64,
) -> DiagonalMixture:
    """Fit by expectation maximisation.

    Parameters
    ----------
    rows : Tensor of shape (n_samples, n_columns)
    labels : Tensor of int of shape (n_samples,) or (n_samples, n_starts)
        The component that each row belongs to at first. From each of several starts comes a mixture of its own, and
        what is returned is the mean of their densities.
    n_mixture : int
        Components of each start.
    floor : float
        Added to every variance, in the square of the rows' units.
    max_iter : int
    dtype : torch.dtype
        Precision of the iterations; the parameters follow from the last responsibilities in that of ``rows``.

    Returns
    -------
    mixture : DiagonalMixture
        Of n_starts * n_mixture components.

    References
    ----------
    Dempster, Laird & Rubin (1977), "Maximum likelihood from incomplete data via the EM algorithm", JRSS B 39(1).
    """
    exact = torch.cat([rows, rows.square()], dim=1)
    n_starts = labels.shape[1] if labels.dim() == 2 else 1
    first = torch.nn.functional.one_hot(labels.reshape(len(rows), n_starts), n_mixture)
    both, responsibilities = exact.to(dtype), first.flatten(1).to(dtype)
    before = -math.inf
    with torch.inference_mode():
        for _ in range(max_iter):
            responsibilities, reached = _responsibilities(_maximise(both, responsibilities, floor), both, n_starts)
            if abs(reached - before) < _TOL:
                break
            before = reached
    return _maximise(exact, responsibilities.to(rows), floor)


def fit_mixture(rows: Tensor, random_state: np.random.RandomState, n_starts: int, *, floor: float) -> DiagonalMixture:
    """Fit at most 64 components, without those of a few rows far from all others.

    Parameters
    ----------
    rows : Tensor of shape (n_samples, n_columns)
        In float64.
    random_state : RandomState
    n_starts : int
        Of several starts it is the mean of the densities.
    floor : float
        Added to every variance, in the square of the rows' units.

    Returns
    -------
    mixture : DiagonalMixture
    """
    n_mixture = max(1, min(_MOST_COMPONENTS, len(rows) // _LEAST_ROWS))
    n_starts = n_starts if n_mixture > 1 else 1
    single = rows.float()
    # More rounds of either, here and below, rank anomalies no better (protocol S of benchmarks/quality_anomaly.py).
    labels = torch.stack([k_means(single, n_mixture, random_state, max_iter=2) for _ in range(n_starts)], dim=1)
    mixture = fit_diagonal_mixture(rows, labels, n_mixture, floor=floor, max_iter=5, dtype=torch.float32)
    few = n_starts * mixture.weights * len(rows) < few_rows(len(rows)) + 0.5
    return mixture.chosen(~(few & strays(mixture.means, rows, mixture.weights))) if few.any() else mixture


def refine(mixture: DiagonalMixture, rows: Tensor, *, floor: float, n_iter: int) -> DiagonalMixture:
    """Go on with expectation maximisation on other rows, of shape (n_samples, n_columns), in their precision."""
    both = torch.cat([rows, rows.square()], dim=1)
    for _ in range(n_iter):
        mixture = _maximise(both, _responsibilities(mixture, both)[0], floor)
    return mixture
