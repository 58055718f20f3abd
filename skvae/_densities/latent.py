"""Mixtures of Gaussians over latent codes: p(z) while a VAE trains, and after it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .._support.device import some_rows
from .._support.numerics import log_sum_exp2, row_product
from .density import Density
from .mixture import DiagonalMixture, fit_diagonal_mixture, k_means, refine

__all__ = ["N_CODES", "LatentMixture", "MixturePrior"]

_LOG_2, _LOG_2PI = math.log(2.0), math.log(2.0 * math.pi)
# Sizes of the latent mixture that are compared; codes that it is fitted to; codes that cross-validate the sizes.
_LATENT_SIZES = (1, 2, 4, 8, 16, 32, 64)
N_CODES, _COMPARED_CODES = 10_000, 2_000
_LATENT_FLOOR = 1e-5
# The largest size is taken that lies within so many standard errors of the best one before it, since the mixture of all
# codes has more of them to learn from.
_CLOSE_ERRORS = 1.0
# Of k-means; of expectation maximisation, in float32; and those that are enough to compare sizes by.
_CENTRE_ROUNDS, _ROUNDS, _COMPARED_ROUNDS = 8, 100, 8


@dataclass(frozen=True)
class LatentMixture(Density):
    """A Gaussian mixture over latent codes, from which new codes are drawn: what p(z) is after training.

    Attributes
    ----------
    log_weight : Tensor of shape (n_mixture,)
        Log-probabilities of the mixture's components.
    center : Tensor of shape (n_mixture, n_components)
    whitener : Tensor of shape (n_mixture, n_components, n_components)
        Maps a centred code to independent unit variances.
    """

    shapes: ClassVar[dict[str, str]] = {"log_weight": "m", "center": "mc", "whitener": "mcc"}

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
    ) -> "LatentMixture":
        """Choose among N(0, I) and diagonal mixtures of growing size by the likelihood of codes left out.

        Parameters
        ----------
        codes : Tensor of shape (n_samples, ..., n_components)
            Draws of each row's posterior, of which several make a larger mixture of few rows: p(z) follows the mean of
            the posteriors then rather than a draw of each.
        random_state : RandomState
        weight : Tensor of shape (n_samples,), or None
            Rows are drawn in proportion to it.
        size : int or None
            Number of mixture components; None chooses it.

        Returns
        -------
        mixture : LatentMixture
        """
        values = _chosen_codes(codes, random_state, weight)
        if size is None:
            size = cls._chosen_size(values, random_state)
        return cls._of(values, size, random_state, _ROUNDS) if size else cls.standard(values.shape[-1])

    @classmethod
    def _chosen_size(cls, values: Tensor, random_state: np.random.RandomState) -> int | None:
        """The best size; None where N(0, I) is better.

        Every size is tried: many small clusters look like one Gaussian to a few Gaussians.
        """
        # One hold-out of a fifth is enough for many rows; few are cross-validated in five folds.
        held = range(1 if len(values) > 1000 else 5)
        n_draws = values.shape[1] if len(held) == 1 else max(1, _COMPARED_CODES // len(values))
        parts = values[random_state.permutation(len(values)), :n_draws].tensor_split(5)
        folds = [(torch.cat([*parts[:i], *parts[i + 1 :]]), parts[i]) for i in held]

        def left_out_by(mixtures: Sequence["LatentMixture"]) -> Tensor:
            """Log-density of each row left out, the mean over its draws."""
            return torch.cat([one.log_prob(left).mean(dim=1) for one, (_, left) in zip(mixtures, folds, strict=True)])

        highest, chosen = left_out_by([cls.standard(values.shape[-1])] * len(folds)), None
        for size in _LATENT_SIZES:
            if size > len(values) // 10:
                break
            density = left_out_by([cls._of(kept, size, random_state, _COMPARED_ROUNDS) for kept, _ in folds])
            gain, error = _mean_and_error(density - highest)
            if gain > 0.0:
                highest = density
            if gain > -_CLOSE_ERRORS * error:
                chosen = size
        return chosen

    @classmethod
    def _of(cls, values: Tensor, size: int, random_state: np.random.RandomState, n_rounds: int) -> "LatentMixture":
        codes = values.flatten(0, -2)
        labels = k_means(codes.float(), size, random_state, max_iter=_CENTRE_ROUNDS)
        mixture = fit_diagonal_mixture(codes, labels, size, floor=_LATENT_FLOOR, max_iter=n_rounds, dtype=torch.float32)
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
        values = _chosen_codes(codes, random_state, weight).flatten(0, -2)
        return LatentMixture.of(refine(self.diagonal(), values, floor=_LATENT_FLOOR, n_iter=n_iter))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of codes of shape (..., n_components), in nats."""
        codes = z.reshape(-1, z.shape[-1])
        if self._product is None:
            return torch.logsumexp(self._joint_log_prob(codes), dim=-1).view(z.shape[:-1])
        matrix, constant = self._product
        codes = codes.to(matrix)
        exponents = row_product(torch.cat([codes, codes.square()], dim=-1), matrix).add_(constant)
        return log_sum_exp2(exponents).to(z.dtype).view(z.shape[:-1])

    @cached_property
    def _product(self) -> tuple[Tensor, Tensor] | None:
        """What [z, squared z] is multiplied by, and what is added, for diagonal mixtures; in powers of two.

        In float64 where the device has it: narrow components far from 0 are small differences of large terms.
        """
        scale = self.whitener.diagonal(dim1=-2, dim2=-1)
        if not torch.equal(torch.diag_embed(scale), self.whitener):
            return None
        exact = torch.float32 if self.center.device.type == "mps" else torch.float64
        with torch.inference_mode(mode=False):
            scale, center, log_weight = scale.to(exact), self.center.to(exact), self.log_weight.to(exact)
            linear, precision = center * scale.square(), scale.square()
            constant = log_weight + (scale.log() - 0.5 * center * linear - 0.5 * _LOG_2PI).sum(dim=-1)
            return torch.cat([linear, -0.5 * precision], dim=1).T.contiguous() / _LOG_2, constant / _LOG_2

    def _joint_log_prob(self, z: Tensor) -> Tensor:
        """Log-density of codes (n_samples, n_components) and each component, for full covariances."""
        n_mixture, n_components = self.center.shape
        side_by_side = self.whitener.transpose(0, 1).reshape(n_components, -1)
        offset = torch.einsum("kj,kjl->kl", self.center, self.whitener).reshape(-1)
        whitened = row_product(z, side_by_side) - offset
        distance = whitened.square_().view(-1, n_mixture, n_components).sum(dim=-1)
        log_scale = self.whitener.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1) - 0.5 * n_components * _LOG_2PI
        return self.log_weight + log_scale - 0.5 * distance

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


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std(correction=0)) / math.sqrt(len(values))


def _chosen_codes(codes: Tensor, random_state: np.random.RandomState, weight: Tensor | None) -> Tensor:
    """A bounded number of codes on the CPU in float64, of rows drawn in proportion to their weights.

    Returns
    -------
    values : Tensor of shape (n_kept, n_draws, n_components)
    """
    values = codes.cpu().double().reshape(len(codes), -1, codes.shape[-1])
    n_most = N_CODES // values.shape[1]
    if weight is None:
        return some_rows(n_most, random_state, values)[0]
    mass, n_kept = weight.cpu().double().numpy(), min(len(values), n_most)
    return values[torch.from_numpy(random_state.choice(len(values), n_kept, p=mass / mass.sum()))]


class MixturePrior:
    r"""Mixtures as p(z) of a training step: one for each network, all of one size.

    Parameters
    ----------
    mixtures : sequence of DiagonalMixture
    like : Tensor
        Gives dtype and device.
    """

    def __init__(self, mixtures: Sequence[DiagonalMixture], like: Tensor) -> None:
        self.mixtures = list(mixtures)
        terms = [mixture.terms() for mixture in mixtures]
        matrix = torch.stack([torch.cat([linear, -0.5 * precision]) for precision, linear, _ in terms]).to(like)
        constant = torch.stack([constant for *_, constant in terms]).unsqueeze(1).to(like)
        alone = len(mixtures) == 1
        self._matrix, self._constant = (matrix[0], constant[0]) if alone else (matrix, constant)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of codes (..., n_samples, n_components), in nats, in differentiable operations."""
        return (torch.cat([z, z.square()], dim=-1) @ self._matrix + self._constant).logsumexp(dim=-1)

    def log_prob_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of codes and its derivative by them, of the shape of ``z``."""
        # log pi_k N_k(z) = z b_k - z^2 a_k / 2 + c_k, for precisions a_k, b_k = m_k a_k and constants c_k
        joint = torch.cat([z, z.square()], dim=-1) @ self._matrix + self._constant
        log_prob = joint.logsumexp(dim=-1, keepdim=True)
        # With the responsibilities r_k = pi_k N_k(z) / p(z): dlog p/dz = sum_k r_k b_k + 2 z sum_k r_k (-a_k / 2)
        by_z, by_square = (joint.sub_(log_prob).exp_() @ self._matrix.mT).chunk(2, dim=-1)
        return log_prob.squeeze(-1), torch.addcmul(by_z, z, by_square, value=2.0)
