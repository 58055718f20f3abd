"""Numbers of a row as pure functions of tensors: divergences, bounds, densities of residuals."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ._inputs import observed
from ._mixture import DiagonalMixture, fit_diagonal_mixture, k_means, refine
from ._numerics import WIDTH, Affine, filled_up, log_sum_exp2, row_product

__all__ = [
    "GaussianDensity",
    "JointDensity",
    "LatentMixture",
    "NeighborDistance",
    "completed",
    "effective_sample_size",
    "gaussian_kl",
    "importance_weighted_bound",
    "mean_square",
]

_LOG_2PI = math.log(2.0 * math.pi)
# Rows on which the mixture is estimated: bounds its time.
_MIXTURE_ROWS = 4_000
_DOUBLE_COLUMNS = 200
# Wide tables are scored on this many principal axes of the input and of the residual.
_MAX_AXES = 200
# Numbers in the covariances of rows with missing cells that are factorised at once.
_MARGINAL_NUMBERS = 2**22
# Sizes of the latent mixture that are compared, and the codes that it is fitted to.
_LATENT_SIZES = (1, 2, 4, 8, 16, 32)
_LATENT_ROWS = 10_000
_LATENT_FLOOR = 1e-5
_REFINING_ROUNDS = 20


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""Divergence of a diagonal Gaussian from the standard normal, summed over components.

    .. math:: \mathrm{KL} = \tfrac12 \sum_j (\mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1)

    Parameters
    ----------
    mean, log_variance : Tensor of shape (..., n_components)

    Returns
    -------
    kl : Tensor of shape (...)
        In nats, never negative.

    References
    ----------
    Kingma & Welling (2014), https://arxiv.org/abs/1312.6114, appendix B.
    """
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).sum(dim=-1)


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    r"""Tighten the evidence lower bound with several posterior draws.

    .. math:: L_K(x) = \log \tfrac1K \sum_k p(x, z_k) / q(z_k \mid x)

    Parameters
    ----------
    log_weights : Tensor of shape (n_draws, n_samples)
        log p(x, z) - log q(z given x) of each draw, in nats.

    Returns
    -------
    bound : Tensor of shape (n_samples,)
        Lower bound on log p(x), in nats; non-decreasing in ``n_draws`` on average.

    Raises
    ------
    ValueError
        If there is no draw.

    References
    ----------
    Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519, theorem 1.
    """
    if len(log_weights) == 0:
        raise ValueError("The importance-weighted bound needs at least one draw, got 0.")
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


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


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""Number of equally weighted draws that would estimate as well.

    .. math:: n_\mathrm{eff} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}

    Parameters
    ----------
    log_weights : Tensor of shape (n_draws, n_samples)
        In nats.

    Returns
    -------
    size : Tensor of shape (n_samples,)
        From 1, where one draw decides, to ``n_draws``.

    References
    ----------
    Kong (1992), "A note on importance sampling using standardized weights", technical report 348, Chicago.
    """
    return torch.exp(2.0 * torch.logsumexp(log_weights, dim=0) - torch.logsumexp(2.0 * log_weights, dim=0))


@dataclass(frozen=True)
class _Fitted(ABC):
    """A fitted density: named tensors that turn into arrays and back, so that models pickle without torch."""

    @abstractmethod
    def n_features(self) -> int:
        """Width of the rows that it scores."""

    def state(self) -> dict[str, Any]:
        """Arrays by name."""
        return {f.name: getattr(self, f.name).cpu().numpy() for f in fields(self)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Inverse of `state`."""
        return cls(**{name: torch.from_numpy(np.array(value)) for name, value in state.items()})

    def to(self, like: Tensor) -> Self:
        """The same numbers in the precision and on the device of ``like``; itself if nothing changes."""
        first = next(iter(vars(self).values()))
        if first.dtype == like.dtype and first.device == like.device:
            return self
        return type(self)(*(getattr(self, f.name).to(like) for f in fields(self)))


@dataclass(frozen=True)
class GaussianDensity(_Fitted):
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
class JointDensity(_Fitted):
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
    """

    axes: Tensor
    residual_axes: Tensor
    whitener: Tensor
    precision: Tensor
    linear: Tensor
    constant: Tensor

    def n_features(self) -> int:
        """Width of the rows that it scores."""
        return 2 * len(self.axes)

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
            axes = torch.linalg.eigh(torch.cov(x.T, correction=0).reshape(n_columns, n_columns))[1].flip(1).contiguous()
            residual_axes = whitener = axes.new_empty(n_columns, 0)
        else:
            centred = x - x.mean(dim=0)
            axes = torch.linalg.eigh(_product(centred.T, centred))[1].flip(1)[:, :_MAX_AXES].contiguous()
            # The whitener shrinks the directions of greatest variance most, so they come first.
            scales, directions = torch.linalg.eigh(density.whitener)
            residual_axes = directions[:, :_MAX_AXES].contiguous()
            whitener = residual_axes * scales[:_MAX_AXES]
        empty = axes.new_empty(0)
        joint = cls(axes, residual_axes, whitener, empty, empty, empty)._condensed(x, residual, density).cpu()
        n_mixture = max(1, min(64, len(joint) // 10))
        # More rounds of either, here and below, rank anomalies no better (protocol S of benchmarks/quality_anomaly.py).
        labels = k_means(joint.float(), n_mixture, random_state, max_iter=2)
        # 0.1: a tenth of a whitened column's variance keeps a component from closing in on a few rows.
        mixture = fit_diagonal_mixture(joint, labels, n_mixture, floor=0.1, max_iter=5, dtype=torch.float32)
        return cls(axes, residual_axes, whitener, *(part.to(axes) for part in mixture.terms()))

    def _condensed(self, x: Tensor, residual: Tensor, density: GaussianDensity) -> Tensor:
        """Rows and their whitened residuals on the axes, without whitening what is not kept."""
        whitened = density.whiten(residual, self.whitener if self.whitener.shape[1] else None)
        return torch.cat([row_product(x, self.axes), whitened], dim=-1)

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

        ``whitener`` is the weight of that map beside the axes, filled up.
        """
        both = self._buffer(x)
        torch.mm(x, whitener, out=both[:, : whitener.shape[1]])
        both[:, self.axes.shape[1] : self.precision.shape[0]].sub_(expected)
        return self._log_prob_in(both)

    def _log_prob(self, x: Tensor, residual: Tensor, whitener: Tensor) -> Tensor:
        """Log-density of rows whose residuals are yet to be multiplied by a matrix."""
        axes, n_kept = self._filled[0], self.axes.shape[1]
        both = self._buffer(x)
        torch.mm(x, axes, out=both[:, : axes.shape[1]])
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


@dataclass(frozen=True)
class LatentMixture(_Fitted):
    """A Gaussian mixture over latent codes, from which new codes are drawn: what p(z) is after training.

    Attributes
    ----------
    log_weight : Tensor of shape (n_mixture,)
        Log-probabilities of the mixture's components.
    center : Tensor of shape (n_mixture, n_components)
    whitener : Tensor of shape (n_mixture, n_components, n_components)
        Maps a centred code to independent unit variances.
    """

    log_weight: Tensor
    center: Tensor
    whitener: Tensor

    def n_features(self) -> int:
        """Width of the codes that it scores."""
        return self.center.shape[1]

    @classmethod
    def standard(cls, n_components: int) -> "LatentMixture":
        """N(0, I), in float64."""
        eye = torch.eye(n_components, dtype=torch.float64)
        return cls(torch.zeros(1, dtype=torch.float64), torch.zeros_like(eye[:1]), eye.unsqueeze(0))

    @classmethod
    def fit(
        cls,
        codes: Tensor,
        random_state: np.random.RandomState,
        weight: Tensor | None = None,
        *,
        size: int | None,
        thorough: bool = False,
        patience: int = 2,
    ) -> "LatentMixture":
        """Choose among N(0, I) and diagonal mixtures of growing size by the likelihood of codes left out.

        Parameters
        ----------
        codes : Tensor of shape (n_samples, n_components)
            One draw of each row's posterior.
        random_state : RandomState
        weight : Tensor of shape (n_samples,), or None
            Rows are drawn in proportion to it.
        size : int or None
            Number of mixture components; None chooses it.
        thorough : bool
            Whether every size is tried, and twice the largest. Levels of categories part the codes into many small
            clusters, which a few Gaussians describe no better than one does.
        patience : int
            Otherwise: sizes in a row without a gain after which larger ones are not tried.

        Returns
        -------
        mixture : LatentMixture
        """
        values = _chosen_codes(codes, random_state, weight)
        standard = cls.standard(values.shape[1])
        # A fifth left out once says enough of many codes; of few it is left out in turn.
        parts = values[random_state.permutation(len(values))].tensor_split(5)
        held = range(1 if len(values) > 1000 else 5)
        folds = [(torch.cat([*parts[:i], *parts[i + 1 :]]), parts[i]) for i in held]
        judged = torch.cat([left for _, left in folds]) if thorough else values
        highest, best, waited = float(standard.log_prob(judged).mean()), [], 0
        sizes = (*_LATENT_SIZES, 2 * _LATENT_SIZES[-1]) if thorough else _LATENT_SIZES
        for n_mixture in sizes if size is None else ():
            if (waited == patience and not thorough) or n_mixture > len(values) / 10:
                break
            waited += 1
            tried = [cls._of(kept, n_mixture, random_state) for kept, _ in folds]
            held_out = [one.log_prob(left).mean() for one, (_, left) in zip(tried, folds, strict=True)]
            if (mean := float(torch.stack(held_out).mean())) > highest:
                highest, best, waited = mean, tried, 0
        if size is None and not best:
            return standard
        if thorough and len(best) == 1:  # another start of so many may be a worse one
            return best[0].refined(values, random_state, n_iter=_REFINING_ROUNDS)
        return cls._of(values, len(best[0].center) if size is None else size, random_state)

    @classmethod
    def _of(cls, codes: Tensor, n_mixture: int, random_state: np.random.RandomState) -> "LatentMixture":
        labels = k_means(codes, n_mixture, random_state)
        mixture = fit_diagonal_mixture(codes, labels, n_mixture, floor=_LATENT_FLOOR, max_iter=50)
        return cls.of(mixture)

    @classmethod
    def of(cls, mixture: DiagonalMixture) -> "LatentMixture":
        """The same density as a diagonal mixture's."""
        return cls(mixture.weights.log(), mixture.means, torch.diag_embed(mixture.variances.rsqrt()))

    def diagonal(self) -> DiagonalMixture:
        """Inverse of `of`."""
        variances = self.whitener.diagonal(dim1=-2, dim2=-1).square().reciprocal()
        return DiagonalMixture(self.log_weight.exp(), self.center, variances)

    def refined(
        self, codes: Tensor, random_state: np.random.RandomState, weight: Tensor | None = None, *, n_iter: int
    ) -> "LatentMixture":
        """Follow codes that moved, by some rounds of expectation maximisation; for diagonal mixtures."""
        values = _chosen_codes(codes, random_state, weight)
        return LatentMixture.of(refine(self.diagonal(), values, floor=_LATENT_FLOOR, n_iter=n_iter))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of codes of shape (..., n_components), in nats."""
        n_mixture, n_components = self.center.shape
        side_by_side = self.whitener.transpose(0, 1).reshape(n_components, -1)
        offset = torch.einsum("kj,kjl->kl", self.center, self.whitener).reshape(-1)
        whitened = row_product(z.reshape(-1, n_components), side_by_side) - offset
        distance = whitened.square_().view(-1, n_mixture, n_components).sum(dim=-1)
        log_scale = self.whitener.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1) - 0.5 * n_components * _LOG_2PI
        return torch.logsumexp(self.log_weight + log_scale - 0.5 * distance, dim=-1).view(z.shape[:-1])

    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Draw codes of shape (n_samples, n_components)."""
        z = torch.empty(n_samples, self.n_features(), dtype=self.center.dtype, device=generator.device)
        z.normal_(generator=generator)
        chosen = torch.multinomial(self.log_weight.exp(), n_samples, replacement=True, generator=generator)
        for k, (center, whitener) in enumerate(zip(self.center, self.whitener, strict=True)):
            rows = (chosen == k).nonzero().squeeze(-1)
            # x W = e is solved for x: the whitener is upper triangular.
            z[rows] = center + torch.linalg.solve_triangular(whitener, z[rows], upper=True, left=False)
        return z


def _chosen_codes(codes: Tensor, random_state: np.random.RandomState, weight: Tensor | None) -> Tensor:
    """A bounded number of codes on the CPU in float64, drawn in proportion to their weights."""
    values = codes.cpu().double()
    n_kept = min(len(values), _LATENT_ROWS)
    if weight is not None:
        share = weight.cpu().double().numpy()
        return values[torch.from_numpy(random_state.choice(len(values), n_kept, p=share / share.sum()))]
    if n_kept == len(values):
        return values
    return values[torch.from_numpy(np.sort(random_state.choice(len(values), n_kept, replace=False)))]


@dataclass(frozen=True)
class NeighborDistance(_Fitted):
    """Distance to the k-th nearest of a bounded number of stored rows.

    Attributes
    ----------
    references : Tensor of shape (n_references, n_joint)
    n_neighbors : Tensor of shape ()
    """

    references: Tensor
    n_neighbors: Tensor

    def n_features(self) -> int:
        """Width of the rows that it scores."""
        return self.references.shape[1]

    @classmethod
    def fit(
        cls, rows: Tensor, n_neighbors: int, random_state: np.random.RandomState, *, n_references: int = 2000
    ) -> "NeighborDistance":
        """Keep at most ``n_references`` rows of shape (n_samples, n_joint)."""
        if len(rows) > n_references:
            chosen = np.sort(random_state.choice(len(rows), n_references, replace=False))
            rows = rows[torch.from_numpy(chosen).to(rows.device)]
        return cls(rows.clone(), torch.tensor(min(n_neighbors, len(rows))))

    def distance(self, rows: Tensor) -> Tensor:
        """Euclidean distance of each row to its k-th nearest reference."""
        distances = torch.cdist(rows, self.references, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.kthvalue(int(self.n_neighbors), dim=-1).values
