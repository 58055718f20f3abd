"""Numbers of a row as pure functions of tensors: divergences, bounds, densities of residuals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .._support.numerics import WIDTH, Affine, filled_up, log_sum_exp2, observed, row_product
from .density import Density
from .mixture import fit_diagonal_mixture, k_means
from .strays import few_rows, strays

__all__ = ["GaussianDensity", "JointDensity", "completed", "mean_square"]

_LOG_2PI = math.log(2.0 * math.pi)
# Rows on which the mixture is estimated: bounds its time.
_MIXTURE_ROWS = 4_000
_DOUBLE_COLUMNS = 200
# Wide tables are scored on this many principal axes of the input and of the residual.
_MAX_AXES = 200
# Variance added to every component of the mixture: a tenth of a whitened column's keeps one from closing in on a few
# rows.
_FLOOR = 0.1
# Beyond so many standard deviations from zero the squares of rows cancel: with less, float64 keeps 13 digits.
_FAR = 30.0
# Numbers in the covariances of rows with missing cells that are factorised at once.
_MARGINAL_NUMBERS = 2**22


def mean_square(residual: Tensor) -> Tensor:
    """Mean square over the observed cells of rows of shape (n_samples, n_features); 0 for a row without any."""
    mask = observed(residual)
    if mask is None:
        return residual.square().mean(dim=-1)
    return residual.square().nan_to_num(0.0).sum(dim=-1) / mask.sum(dim=-1).clamp_min(1)


def completed(
    x: Tensor, residual: Tensor, reconstruction: Tensor, expected_residual: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Rows with their missing cells as the model expects them, and their residuals, which are as expected there."""
    mask = observed(residual)
    if mask is None:
        return x, residual
    return torch.where(mask, x, reconstruction), torch.where(mask, residual, expected_residual)


@dataclass(frozen=True)
class GaussianDensity(Density):
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

    def n_features(self) -> int:
        """Width of the rows that it scores."""
        return len(self.mean)

    @classmethod
    def fit(
        cls, rows: Tensor, weight: Tensor | None = None, *, shrinkage: float = 0.05, floor: float = 1e-6
    ) -> "GaussianDensity":
        """Estimate from rows of shape (n_samples, n_features) in float64, NaN where missing.

        Weights have the shape (n_samples,).
        """
        weight = torch.ones(len(rows), dtype=rows.dtype, device=rows.device) if weight is None else weight
        share = (weight / weight.sum()).unsqueeze(-1)
        mask = observed(rows)
        if mask is None:
            mean = (share * rows).sum(dim=0)
            centred = rows - mean
            covariance = _product((centred * share).T, centred)
        else:
            mean, covariance = _available_moments(rows, share, mask)
        spread = shrinkage * covariance.diagonal().mean() + floor
        shrunk = (1.0 - shrinkage) * covariance + spread * torch.eye(rows.shape[1]).to(covariance)
        variance, axes = torch.linalg.eigh(shrunk)
        variance = variance.clamp_min(floor)
        # The symmetric root keeps each whitened residual close to its own column.
        return cls(mean, (axes * variance.rsqrt()) @ axes.T, 0.5 * variance.log().sum())

    def restricted(self, columns: Sequence[int]) -> "GaussianDensity":
        """The marginal of some columns."""
        factor = torch.linalg.inv(self.whitener)[list(columns)]
        variance, axes = torch.linalg.eigh(factor @ factor.T)
        return GaussianDensity(self.mean[list(columns)], (axes * variance.rsqrt()) @ axes.T, 0.5 * variance.log().sum())

    def whiten(self, rows: Tensor, axes: Tensor | None = None) -> Tensor:
        """Rows with unit covariance; the squared norm is the squared Mahalanobis distance.

        ``axes`` are what the whitener maps to instead, if the values on some directions are enough.
        """
        return row_product(rows - self.mean, self.whitener if axes is None else axes)

    @cached_property
    def filled_whitener(self) -> Tensor:
        """The whitener with the columns of zeros that a product over rows needs."""
        return filled_up(self.whitener)

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
        distance = self.whiten(rows).square().sum(dim=-1)
        if mask is None:
            return distance, self.log_scale, rows.shape[-1]
        log_scale = self.log_scale.expand(len(rows)).clone()
        factor = torch.linalg.inv(self.whitener).T  # of the covariance
        incomplete = (~mask.all(dim=-1)).nonzero().squeeze(-1)
        for chosen in incomplete.split(max(1, _MARGINAL_NUMBERS // factor.numel())):
            seen = mask[chosen].to(rows)
            covariance = seen.unsqueeze(-1) * (factor @ factor.T) * seen.unsqueeze(-2) + torch.diag_embed(1.0 - seen)
            own = torch.linalg.cholesky(covariance)
            residual = torch.where(mask[chosen], rows[chosen] - self.mean, 0.0).unsqueeze(-1)
            whitened = torch.linalg.solve_triangular(own, residual, upper=False).squeeze(-1)
            distance[chosen] = whitened.square().sum(dim=-1)
            log_scale[chosen] = own.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        return distance, log_scale, mask.sum(dim=-1).to(rows)


def _available_moments(rows: Tensor, share: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance from the cells that are there; an eigenvalue may be negative."""
    seen = mask.to(rows)
    mean = (share * rows.nan_to_num(0.0)).sum(dim=0) / (share * seen).sum(dim=0).clamp_min(1e-12)
    centred = torch.where(mask, rows - mean, 0.0)
    return mean, _product((centred * share).T, centred) / _product((seen * share).T, seen).clamp_min(1e-12)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """first @ second in float64, of a wide table with the products in float32: shrinkage exceeds their rounding."""
    if len(first) <= _DOUBLE_COLUMNS:
        return first @ second
    return (first.float() @ second.float()).double()


@dataclass(frozen=True)
class JointDensity(Density):
    r"""A mixture of many Gaussians with diagonal covariances over [input on its principal axes; whitened residual].

    .. math:: \log p(u) = \log \sum_k \pi_k \prod_j N(u_j; \mu_{kj}, \sigma_{kj}^2)

    Attributes
    ----------
    axes : Tensor of shape (n_columns, n_kept)
        Principal axes of the input.
    residual_axes : Tensor of shape (n_columns, n_kept)
        Principal axes of the residual where a table is too wide to keep all; otherwise of no column, for identity.
    whitener : Tensor of the shape of ``residual_axes``
        From a centred residual to its whitened values on those axes.
    precision, linear : Tensor of shape (n_joint, n_mixture)
        Inverse variances, and means times them.
    constant : Tensor of shape (n_mixture,)
        The part of each component's log-density that does not depend on the row.
    centre : Tensor of shape (n_columns,), or of shape (0,)
        What is subtracted from the input before it is squared, where it lies far from zero.
    """

    shapes: ClassVar[dict[str, str]] = {
        "axes": "dk", "residual_axes": "dr", "whitener": "dr", "precision": "jm", "linear": "jm", "constant": "m"
    }  # fmt: skip

    axes: Tensor
    residual_axes: Tensor
    whitener: Tensor
    precision: Tensor
    linear: Tensor
    constant: Tensor
    centre: Tensor = field(default_factory=lambda: torch.empty(0))

    def n_features(self) -> int:
        """Width of the rows that it scores."""
        return 2 * len(self.axes)

    def state(self) -> dict[str, np.ndarray]:
        """Arrays by name; no centre where there is none, so that versions that know of none read what they can."""
        state = super().state()
        if not len(self.centre):
            del state["centre"]
        return state

    @classmethod
    def fit(
        cls, x: Tensor, density: GaussianDensity, residual: Tensor, random_state: np.random.RandomState
    ) -> "JointDensity":
        """Estimate from scaled rows and their residuals, both of shape (n_samples, n_columns) in float64."""
        if len(x) > _MIXTURE_ROWS:
            chosen = torch.from_numpy(np.sort(random_state.choice(len(x), _MIXTURE_ROWS, replace=False)))
            x, residual = x[chosen.to(x.device)], residual[chosen.to(x.device)]
        n_columns = x.shape[1]
        if n_columns <= _MAX_AXES:
            variance, axes = torch.linalg.eigh(torch.cov(x.T, correction=0).reshape(n_columns, n_columns))
            axes = axes.flip(1).contiguous()
            residual_axes = whitener = axes.new_empty(n_columns, 0)
        else:
            centred = x - x.mean(dim=0)
            variance, axes = torch.linalg.eigh(_product(centred.T, centred))
            variance, axes = variance / len(x), axes.flip(1)[:, :_MAX_AXES].contiguous()
            # The whitener shrinks the directions of greatest variance most, so they come first.
            scales, directions = torch.linalg.eigh(density.whitener)
            residual_axes = directions[:, :_MAX_AXES].contiguous()
            whitener = residual_axes * scales[:_MAX_AXES]
        empty = axes.new_empty(0)
        centre, spread = x.mean(dim=0), variance.flip(0)[: axes.shape[1]].clamp_min(_FLOOR).sqrt()
        centre = centre if ((centre @ axes).abs() > _FAR * spread).any() else empty
        joint = cls(axes, residual_axes, whitener, empty, empty, empty, centre)._condensed(x, residual, density).cpu()
        n_mixture = max(1, min(64, len(joint) // 10))
        # More rounds of either, here and below, rank anomalies no better (protocol S of benchmarks/quality_anomaly.py).
        labels = k_means(joint.float(), n_mixture, random_state, max_iter=2)
        mixture = fit_diagonal_mixture(joint, labels, n_mixture, floor=_FLOOR, max_iter=5, dtype=torch.float32)
        few = mixture.weights * len(joint) < few_rows(len(joint)) + 0.5
        mixture = mixture.chosen(~(few & strays(mixture.means, joint, mixture.weights)))
        precision, linear, constant = (part.to(axes) for part in mixture.terms())
        return cls(axes, residual_axes, whitener, precision, linear, constant, centre)

    def _condensed(self, x: Tensor, residual: Tensor, density: GaussianDensity) -> Tensor:
        """Rows and their whitened residuals on the axes, without whitening what is not kept."""
        whitened = density.whiten(residual, self.whitener if self.whitener.shape[1] else None)
        return torch.cat([row_product(self._centred(x), self.axes), whitened], dim=-1)

    def _centred(self, x: Tensor) -> Tensor:
        return x - self.centre if len(self.centre) else x

    def log_prob(self, rows: Tensor) -> Tensor:
        """Log-density of each row [input; whitened residual], in nats."""
        x, whitened = rows.tensor_split(2, dim=-1)
        if self.residual_axes.shape[1]:
            return self._log_prob(x, whitened, filled_up(self.residual_axes))
        return self._log_prob(x, whitened, filled_up(torch.eye(x.shape[1]).to(x)))

    def log_prob_of(self, x: Tensor, residual: Tensor, density: GaussianDensity) -> Tensor:
        """The same of rows and their residuals, which ``density`` whitens."""
        whitener = self._filled[1] if self.whitener.shape[1] else density.filled_whitener
        return self._log_prob(x, residual - density.mean, whitener)

    def whitening(self, density: GaussianDensity) -> Affine:
        """The map after which rows and their reconstructions differ by the whitened residual, less a constant."""
        whitener = self.whitener if self.whitener.shape[1] else density.whitener
        return Affine(whitener, density.mean @ whitener)

    def log_prob_of_whitened(self, x: Tensor, whitener: Tensor, expected: Tensor) -> Tensor:
        """Log-density of rows without missing cells, whose reconstructions have gone through `whitening`.

        ``whitener`` is the weight of that map beside the axes, filled up. Not for rows that lie far from zero, which
        have a ``centre``: here they are whitened before their reconstructions are subtracted.
        """
        both = self._buffer(x)
        torch.mm(x, whitener, out=both[:, : whitener.shape[1]])
        both[:, self.axes.shape[1] : self.precision.shape[0]].sub_(expected)
        return self._log_prob_in(both)

    def _log_prob(self, x: Tensor, residual: Tensor, whitener: Tensor) -> Tensor:
        """Log-density of rows whose residuals are yet to be multiplied by a matrix."""
        axes, n_kept = self._filled[0], self.axes.shape[1]
        both = self._buffer(x)
        torch.mm(self._centred(x), axes, out=both[:, : axes.shape[1]])
        torch.mm(residual, whitener, out=both[:, n_kept : n_kept + whitener.shape[1]])
        return self._log_prob_in(both)

    def _buffer(self, x: Tensor) -> Tensor:
        """Place for [u | u^2]: what a product writes beyond its own columns is overwritten by what comes next."""
        return x.new_empty(x.shape[0], 2 * self.precision.shape[0] + WIDTH)

    def _log_prob_in(self, both: Tensor) -> Tensor:
        """Log-density of rows u in the first columns of a buffer, as one product with [u | u^2]."""
        _, _, terms, constant = self._filled
        n_joint = self.precision.shape[0]
        joint = both[:, :n_joint]
        torch.mul(joint, joint, out=both[:, n_joint : 2 * n_joint])
        exponents = torch.addmm(constant, both[:, : 2 * n_joint], terms)
        return log_sum_exp2(exponents[:, : self.constant.shape[0]])

    @cached_property
    def _filled(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Axes, whitener, what [u | u^2] is multiplied by and what is added, of which powers of two are taken."""
        terms = torch.cat([self.linear, -0.5 * self.precision])
        own = (self.axes, self.whitener, terms / math.log(2.0), self.constant / math.log(2.0))
        axes, whitener, terms, constant = (filled_up(part) for part in own)
        return axes, whitener, terms, constant
