"""Gaussians over residuals and rows: a whitener for each, or axes and variances where a table is wide."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .._support.numerics import filled_up, observed, row_product
from .._support.spectrum import padded_axes, principal_axes
from .density import Density

__all__ = ["MAX_FULL", "FactoredGaussian", "Gaussian", "GaussianDensity", "covariance_product", "fit_gaussian"]

# Up to so many columns a Gaussian keeps a whitener, and second moments are summed in float64.
MAX_FULL = 200
_LOG_2PI = math.log(2.0 * math.pi)
# Numbers in the covariances of rows with missing cells that are factorised at once.
_MARGINAL_NUMBERS = 2**22


class Gaussian(Density, ABC):
    """A Gaussian with a full covariance, in whatever form."""

    mean: Tensor
    log_scale: Tensor

    def n_features(self) -> int:
        """Width of the rows that it scores."""
        return len(self.mean)

    @property
    @abstractmethod
    def root(self) -> Tensor:
        """The symmetric matrix of shape (n_features, n_features) that whitens a centred row."""

    @cached_property
    def filled_whitener(self) -> Tensor:
        """The same with the columns of zeros that a product over rows needs."""
        return filled_up(self.root)

    @abstractmethod
    def whiten(self, rows: Tensor) -> Tensor:
        """Rows with unit covariance, by the symmetric root, which keeps each value close to its own column.

        The squared norm is the squared Mahalanobis distance.
        """

    @abstractmethod
    def leading(self, n_axes: int, random_state: np.random.RandomState) -> tuple[Tensor, Tensor]:
        """Axes of greatest variance, (n_features, n_axes), and what whitens a centred row on them.

        Where directions have equal variances it is random which of them come last.
        """

    @abstractmethod
    def restricted(self, columns: Sequence[int]) -> "Gaussian":
        """The marginal of some columns."""

    @abstractmethod
    def square_distance(self, rows: Tensor) -> Tensor:
        """Squared Mahalanobis distance of each row."""

    @abstractmethod
    def _marginal_of(self, centred: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distance and half the log-determinant of the seen cells, 1 in ``seen``, of rows with 0 elsewhere."""

    def log_prob(self, rows: Tensor) -> Tensor:
        """Log-density of the observed cells of each row, in nats: the marginal, which is Gaussian too."""
        distance, log_scale, n_observed = self._marginal(rows)
        return -0.5 * (distance + n_observed * _LOG_2PI) - log_scale

    def expected_log_prob(self, rows: Tensor) -> Tensor:
        r"""Log-density of each row, in nats, in expectation over its missing cells given the others.

        .. math:: E \log p(r) = -\tfrac12 (r_o^\top C_{oo}^{-1} r_o + n_{missing} + d \log 2 \pi + \log \det C)
        """
        distance, _, n_observed = self._marginal(rows)
        n_features = rows.shape[-1]
        return -0.5 * (distance + (n_features - n_observed) + n_features * _LOG_2PI) - self.log_scale

    def _marginal(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | int]:
        """Squared Mahalanobis distance, half the log-determinant and number of the observed cells of each row."""
        mask = observed(rows)
        distance = self.square_distance(rows)
        if mask is None:
            return distance, self.log_scale, rows.shape[-1]
        log_scale = self.log_scale.expand(len(rows)).clone()
        incomplete = (~mask.all(dim=-1)).nonzero().squeeze(-1)
        for chosen in incomplete.split(max(1, _MARGINAL_NUMBERS // self._n_numbers())):
            residual = torch.where(mask[chosen], rows[chosen] - self.mean, 0.0)
            distance[chosen], log_scale[chosen] = self._marginal_of(residual, mask[chosen].to(rows))
        return distance, log_scale, mask.sum(dim=-1).to(rows)

    @abstractmethod
    def _n_numbers(self) -> int:
        """Numbers that a row with missing cells takes while its marginal is computed."""


@dataclass(frozen=True)
class GaussianDensity(Gaussian):
    r"""One Gaussian with full covariance, shrunk towards a multiple of the identity.

    .. math:: C = (1 - s) \hat C + (s \operatorname{tr}(\hat C) / d + \epsilon) I

    Attributes
    ----------
    mean : Tensor of shape (n_features,)
    whitener : Tensor of shape (n_features, n_features)
        Maps a centred row to independent unit variances.
    log_scale : Tensor of shape ()
        Half the log-determinant of the covariance.
    """

    shapes: ClassVar[dict[str, str]] = {"mean": "w", "whitener": "ww", "log_scale": ""}

    mean: Tensor
    whitener: Tensor
    log_scale: Tensor

    @property
    def root(self) -> Tensor:
        """The whitener."""
        return self.whitener

    @classmethod
    def fit(
        cls, rows: Tensor, weight: Tensor | None = None, *, shrinkage: float = 0.05, floor: float = 1e-6
    ) -> "GaussianDensity":
        """Estimate from rows of shape (n_samples, n_features) in float64, NaN where missing.

        Weights have the shape (n_samples,).
        """
        mean, variance, axes = _shrunk(*_moments(rows, _normalised(rows, weight)), shrinkage, floor)
        return cls(mean, (axes * variance.rsqrt()) @ axes.T, 0.5 * variance.log().sum())

    def restricted(self, columns: Sequence[int]) -> "GaussianDensity":
        """The marginal of some columns."""
        factor = torch.linalg.inv(self.whitener)[list(columns)]
        variance, axes = torch.linalg.eigh(factor @ factor.T)
        return GaussianDensity(self.mean[list(columns)], (axes * variance.rsqrt()) @ axes.T, 0.5 * variance.log().sum())

    def whiten(self, rows: Tensor) -> Tensor:
        """Rows with unit covariance."""
        return row_product(rows - self.mean, self.whitener)

    def square_distance(self, rows: Tensor) -> Tensor:
        """Squared Mahalanobis distance of each row."""
        return self.whiten(rows).square().sum(dim=-1)

    def leading(self, n_axes: int, random_state: np.random.RandomState) -> tuple[Tensor, Tensor]:
        """Axes of greatest variance, which the whitener shrinks most, and what whitens a centred row on them."""
        scales, directions = torch.linalg.eigh(self.whitener)
        axes = directions[:, :n_axes].contiguous()
        return axes, axes * scales[:n_axes]

    @cached_property
    def _covariance(self) -> Tensor:
        factor = torch.linalg.inv(self.whitener).T
        return factor @ factor.T

    def _n_numbers(self) -> int:
        return self.whitener.numel()

    def _marginal_of(self, centred: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        covariance = seen.unsqueeze(-1) * self._covariance * seen.unsqueeze(-2) + torch.diag_embed(1.0 - seen)
        factor = torch.linalg.cholesky(covariance)
        whitened = torch.linalg.solve_triangular(factor, centred.unsqueeze(-1), upper=False).squeeze(-1)
        return whitened.square().sum(dim=-1), factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)


@dataclass(frozen=True)
class FactoredGaussian(Gaussian):
    r"""One Gaussian as a covariance of low rank plus a multiple of the identity, for wide rows.

    .. math:: C = V \operatorname{diag}(v) V^\top + s (I - V V^\top)

    The shrunk covariance of fewer rows than columns has this form exactly, and takes as much memory as the rows.

    Attributes
    ----------
    mean : Tensor of shape (n_features,)
    axes : Tensor of shape (n_features, n_axes)
        V, orthonormal, by descending variance; square where there are as many rows as columns.
    variance : Tensor of shape (n_axes,)
    rest : Tensor of shape ()
        Variance in every direction that no axis has, s; no more than the least of ``variance``.
    log_scale : Tensor of shape ()
        Half the log-determinant of the covariance.
    """

    shapes: ClassVar[dict[str, str]] = {"mean": "w", "axes": "wa", "variance": "a", "rest": "", "log_scale": ""}

    mean: Tensor
    axes: Tensor
    variance: Tensor
    rest: Tensor
    log_scale: Tensor

    @property
    def root(self) -> Tensor:
        """The matrix that `whiten` does without."""
        scale = self.rest.rsqrt()
        root = (self.axes * (self.variance.rsqrt() - scale)) @ self.axes.T
        root.diagonal().add_(scale)
        return root

    @classmethod
    def fit(
        cls, rows: Tensor, weight: Tensor | None = None, *, shrinkage: float = 0.05, floor: float = 1e-6
    ) -> "FactoredGaussian":
        r"""Estimate as `GaussianDensity.fit` does; of fewer rows than columns, without ever forming the covariance.

        There a missing cell counts as the mean, and a column with the share p of its cells is divided by
        :math:`\sqrt p`: its variance is that of the cells that are there.
        """
        weights = _normalised(rows, weight)
        if len(rows) >= rows.shape[1]:
            mean, variance, axes = _shrunk(*_moments(rows, weights), shrinkage, floor)
            return cls.of(mean, axes.flip(1).contiguous(), variance.flip(0), variance[0])
        mean, scaled = _scaled_rows(rows, weights)
        spread = shrinkage * scaled.square().sum() / rows.shape[1] + floor
        variance, axes = principal_axes(scaled)
        return cls.of(mean, axes, (1.0 - shrinkage) * variance + spread, spread)

    @classmethod
    def of(cls, mean: Tensor, axes: Tensor, variance: Tensor, rest: Tensor) -> "FactoredGaussian":
        """With the determinant that follows."""
        n_outside = axes.shape[0] - axes.shape[1]
        return cls(mean, axes, variance, rest, 0.5 * (variance.log().sum() + n_outside * rest.log()))

    def restricted(self, columns: Sequence[int]) -> "FactoredGaussian":
        """The marginal of some columns."""
        chosen = self._loadings[list(columns)]
        axes, scale, _ = torch.linalg.svd(chosen, full_matrices=False)
        return FactoredGaussian.of(self.mean[list(columns)], axes, scale.square() + self.rest, self.rest)

    def whiten(self, rows: Tensor) -> Tensor:
        """Rows with unit covariance."""
        centred, scale = rows - self.mean, self.rest.rsqrt()
        along = row_product(centred, self.axes) * (self.variance.rsqrt() - scale)
        return centred * scale + row_product(along, self.axes.T)

    def square_distance(self, rows: Tensor) -> Tensor:
        """Squared Mahalanobis distance of each row."""
        centred = rows - self.mean
        along = row_product(centred, self.axes).square()
        distance = (along / self.variance).sum(dim=-1)
        if self.axes.shape[0] == self.axes.shape[1]:
            return distance
        return distance + (centred.square().sum(dim=-1) - along.sum(dim=-1)).clamp_min(0.0) / self.rest

    def leading(self, n_axes: int, random_state: np.random.RandomState) -> tuple[Tensor, Tensor]:
        """Axes of greatest variance, and what whitens a centred row on them."""
        axes = padded_axes(self.axes, n_axes, random_state)
        surplus = max(0, axes.shape[1] - len(self.variance))
        return axes, axes * torch.cat([self.variance[:n_axes], self.rest.expand(surplus)]).rsqrt()

    @cached_property
    def _loadings(self) -> Tensor:
        """L of shape (n_features, n_axes), for which the covariance is L L^T plus the rest on the diagonal."""
        return self.axes * (self.variance - self.rest).clamp_min(0.0).sqrt()

    def _n_numbers(self) -> int:
        return self.axes.numel()

    def _marginal_of(self, centred: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        r"""By Woodbury's identity, with M = I + L_o^T L_o / s: |r|^2 / s - r^T L_o M^-1 L_o^T r / s^2."""
        loadings = seen.unsqueeze(-1) * self._loadings / self.rest.sqrt()
        inner = loadings.mT @ loadings
        inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
        factor, scaled = torch.linalg.cholesky(inner), centred / self.rest.sqrt()
        along = torch.linalg.solve_triangular(factor, loadings.mT @ scaled.unsqueeze(-1), upper=False).squeeze(-1)
        distance = (scaled.square().sum(dim=-1) - along.square().sum(dim=-1)).clamp_min(0.0)
        log_scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1) + 0.5 * seen.sum(dim=-1) * self.rest.log()
        return distance, log_scale


def fit_gaussian(
    rows: Tensor,
    weight: Tensor | None = None,
    *,
    shrinkage: float = 0.05,
    floor: float = 1e-6,
    max_full: int = MAX_FULL,
) -> Gaussian:
    r"""Fit one Gaussian with full covariance, shrunk towards a multiple of the identity.

    .. math:: C = (1 - s) \hat C + (s \operatorname{tr}(\hat C) / d + \epsilon) I

    Parameters
    ----------
    rows : Tensor of shape (n_samples, n_features)
        In float64, NaN where missing.
    weight : Tensor of shape (n_samples,), or None
    shrinkage : float
        s.
    floor : float
        Added to every variance, in the square of the rows' units.
    max_full : int
        Columns up to which the covariance is kept as a whitener.

    Returns
    -------
    density : Gaussian
    """
    density = GaussianDensity if rows.shape[1] <= max_full else FactoredGaussian
    return density.fit(rows, weight, shrinkage=shrinkage, floor=floor)


def _normalised(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Weights that sum to one, of shape (n_samples, 1)."""
    weight = torch.ones(len(rows), dtype=rows.dtype, device=rows.device) if weight is None else weight
    return (weight / weight.sum()).unsqueeze(-1)


def _moments(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance."""
    mask = observed(rows)
    if mask is not None:
        return _available_moments(rows, weights, mask)
    mean = (weights * rows).sum(dim=0)
    centred = rows - mean
    return mean, covariance_product((centred * weights).T, centred)


def _shrunk(mean: Tensor, covariance: Tensor, shrinkage: float, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, and the variances, ascending, and axes of the shrunk covariance."""
    spread = shrinkage * covariance.diagonal().mean() + floor
    shrunk = (1.0 - shrinkage) * covariance + spread * torch.eye(len(mean)).to(covariance)
    variance, axes = torch.linalg.eigh(shrunk)
    return mean, variance.clamp_min(floor), axes


def _scaled_rows(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and rows whose inner products are the covariance."""
    mask = observed(rows)
    if mask is None:
        mean = (weights * rows).sum(dim=0)
        return mean, (rows - mean) * weights.sqrt()
    mass = (weights * mask).sum(dim=0).clamp_min(1e-12)
    mean = (weights * rows.nan_to_num(0.0)).sum(dim=0) / mass
    return mean, torch.where(mask, rows - mean, 0.0) * (weights / mass).sqrt()


def _available_moments(rows: Tensor, weights: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance from the cells that are there; an eigenvalue may be negative."""
    seen = mask.to(rows)
    mean = (weights * rows.nan_to_num(0.0)).sum(dim=0) / (weights * seen).sum(dim=0).clamp_min(1e-12)
    centred = torch.where(mask, rows - mean, 0.0)
    mass = covariance_product((seen * weights).T, seen).clamp_min(1e-12)
    return mean, covariance_product((centred * weights).T, centred) / mass


def covariance_product(first: Tensor, second: Tensor) -> Tensor:
    """first @ second in float64, of a wide table with the products in float32: shrinkage exceeds their rounding."""
    if len(first) <= MAX_FULL:
        return first @ second
    return (first.float() @ second.float()).double()
