"""Rows some of which are anomalies: what the central ones have in common, as one group or as several."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .._support.device import some_rows
from .._support.numerics import filled_up, log_sum_exp2, row_product
from .density import Density
from .gaussian import MAX_FULL, Gaussian, GaussianDensity
from .mixture import fit_mixture
from .residuals import FLOOR, MIXTURE_ROWS, JointDensity, n_starts_of
from .trimming import central_density

__all__ = ["ModalDensity", "unclean_density"]

_CENTRAL = 0.75  # of the rows
# Fewer rows cannot tell one group from several.
_LEAST_ROWS = 20


@dataclass(frozen=True)
class ModalDensity(Density):
    r"""The mean of the log-densities of one Gaussian and of a mixture of many with diagonal covariances.

    .. math::
        \log p(u) = \tfrac12 \log N(u; \mu, C) + \tfrac12 \log \sum_k \pi_k \prod_j N(v_j; \mu_{kj}, \sigma_{kj}^2),
            \quad v = A^T (u - \mu)

    The Gaussian knows how columns go together, the mixture where rows are. The integral of the mean is not one.

    Attributes
    ----------
    mean : Tensor of shape (n_joint,)
    whitener : Tensor of shape (n_joint, n_joint)
        Maps a centred row to unit variances, by the symmetric root.
    log_scale : Tensor of shape ()
        Half the log-determinant of the Gaussian's covariance.
    axes : Tensor of shape (n_joint, n_joint)
        Of the mixture: A, orthonormal.
    precision, linear : Tensor of shape (n_joint, n_mixture)
        Inverse variances of the mixture, and means times them.
    constant : Tensor of shape (n_mixture,)
        The part of each component's log-density that does not depend on the row.
    """

    shapes: ClassVar[dict[str, str]] = {
        "mean": "e", "whitener": "ee", "log_scale": "", "axes": "ee", "precision": "em", "linear": "em", "constant": "m"
    }  # fmt: skip

    mean: Tensor
    whitener: Tensor
    log_scale: Tensor
    axes: Tensor
    precision: Tensor
    linear: Tensor
    constant: Tensor

    def n_features(self) -> int:
        """Width of the rows that it scores."""
        return len(self.mean)

    @classmethod
    def fit(
        cls, rows: Tensor, central: GaussianDensity, n_starts: int, random_state: np.random.RandomState
    ) -> "ModalDensity":
        """Estimate from rows [x; whitened residual] in float64, and the Gaussian of the central ones.

        The mixture is of the three quarters of the rows that are likeliest under a mixture of all, on the principal
        axes of x.
        """
        every = cls._beside(central, rows, n_starts, random_state)
        kept = _likeliest(every._log_prob_of_mixture(rows))
        return cls._beside(central, rows[kept], n_starts, random_state)

    @classmethod
    def _beside(
        cls, central: GaussianDensity, rows: Tensor, n_starts: int, random_state: np.random.RandomState
    ) -> "ModalDensity":
        """The Gaussian beside a mixture of all the rows."""
        n_columns = rows.shape[1] // 2
        covariance = torch.cov(rows[:, :n_columns].T, correction=0).reshape(n_columns, n_columns)
        axes = torch.block_diag(torch.linalg.eigh(covariance)[1], torch.eye(n_columns).to(rows))
        mixture = fit_mixture(((rows - central.mean) @ axes).cpu(), random_state, n_starts, floor=FLOOR)
        terms = (part.to(rows) for part in mixture.terms())
        return cls(central.mean, central.whitener, central.log_scale, axes, *terms)

    def log_prob(self, rows: Tensor) -> Tensor:
        """That mean for each row, in nats."""
        return 0.5 * (self._central.log_prob(rows) + self._log_prob_of_mixture(rows))

    def _log_prob_of_mixture(self, rows: Tensor) -> Tensor:
        terms, constant = self._filled_terms
        turned = row_product(rows - self.mean, self.axes)
        exponents = torch.addmm(constant, torch.cat([turned, turned.square()], dim=1), terms)
        return log_sum_exp2(exponents[:, : len(self.constant)])

    @cached_property
    def _central(self) -> GaussianDensity:
        return GaussianDensity(self.mean, self.whitener, self.log_scale)

    @cached_property
    def _filled_terms(self) -> tuple[Tensor, Tensor]:
        """What [v | v^2] is multiplied by and what is added, of which powers of two are taken."""
        terms = torch.cat([self.linear, -0.5 * self.precision])
        return filled_up(terms / math.log(2.0)), filled_up(self.constant / math.log(2.0))


def unclean_density(
    x: Tensor, density: Gaussian, residual: Tensor, weight: Tensor | None, random_state: np.random.RandomState
) -> Gaussian | ModalDensity:
    """Estimate the density of [input; whitened residual] of the central rows, some of the others being anomalies.

    It is one Gaussian, or that beside a mixture where the rows have modes: where the mixture that clean rows have makes
    the central ones of a half likelier than one Gaussian does, each estimated from the other half's.

    Parameters
    ----------
    x, residual : Tensor of shape (n_samples, n_columns)
        In float64, complete.
    density : Gaussian
        That whitens the residuals.
    weight : Tensor of shape (n_samples,), or None
        Of the rows in the Gaussian; mixtures take all as equal that have any.
    random_state : RandomState

    Returns
    -------
    density : Gaussian or ModalDensity
    """
    rows = torch.cat([x, density.whiten(residual)], dim=1)
    central = central_density(rows, weight, floor=FLOOR, share=_CENTRAL)
    if not isinstance(central, GaussianDensity) or x.shape[1] > MAX_FULL:
        return central
    weight = torch.ones(len(x)).to(x) if weight is None else weight
    counted = [part[weight > 0.0] for part in (x, residual, rows, weight)]
    x, residual, rows, weight = some_rows(MIXTURE_ROWS, random_state, *counted)
    if len(x) < _LEAST_ROWS or _gain_of_modes(x, density, residual, rows, weight, random_state) <= 0.0:
        return central
    return ModalDensity.fit(rows, central, n_starts_of(x.shape[1]), random_state)


def _gain_of_modes(
    x: Tensor,
    density: Gaussian,
    residual: Tensor,
    rows: Tensor,
    weight: Tensor,
    random_state: np.random.RandomState,
) -> float:
    """By how much central rows, [x; whitened residual], are likelier under a mixture than one Gaussian, in nats."""
    halves = torch.from_numpy(random_state.permutation(len(x))).to(x.device).tensor_split(2)
    gain = 0.0
    for learned, left in (halves, halves[::-1]):
        learned, left = learned.sort().values, rows[left]
        gaussian = central_density(rows[learned], weight[learned], floor=FLOOR, share=_CENTRAL)
        mixture = JointDensity.fit(x[learned], density, residual[learned], random_state)
        kept = learned[_likeliest(mixture.log_prob(rows[learned]))]
        mixture = JointDensity.fit(x[kept], density, residual[kept], random_state)
        gain += _central_mean(mixture.log_prob(left)) - _central_mean(gaussian.log_prob(left))
    return gain / 2.0


def _likeliest(log_density: Tensor) -> Tensor:
    """Places of the rows that count as central, in their order."""
    n_central = max(1, round(_CENTRAL * len(log_density)))
    return log_density.argsort(descending=True, stable=True)[:n_central].sort().values


def _central_mean(log_density: Tensor) -> float:
    """Mean over the rows that count as central."""
    return float(log_density[_likeliest(log_density)].mean())
