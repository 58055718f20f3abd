"""Linear models of complete rows to start from: an autoencoder at PCA, a VAE at factor analysis.

A network that starts at the best linear model needs to learn only what is not linear.
"""

import math
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .._support.device import some_rows
from .._support.spectrum import leading_axes, principal_axes
from .shrinkage import held_out_shrinkage

__all__ = ["LinearStart", "Moments", "factor_analysis_start", "pca_start", "shrunk"]

# Rows enough to place d(d+1)/2 second moments; the start is a start, not the fit.
_MAX_ROWS = 20_000
# Up to here all eigenvectors of the second moments cost less than an epoch; beyond, the leading ones are enough.
_MAX_EXACT = 200
# Up to here all axes of rows that are fewer than their columns cost less than the leading ones.
_MAX_EXACT_ROWS = 400
# Noise variance, relative to a column's, of a start with as many components as columns: a scale of about exp(-2).
_FULL_RANK_NOISE = 0.02
# Rounds of subspace iteration from nowhere, and of factor analysis.
_PCA_ROUNDS = 12
_MAX_ROUNDS = 1000
# Variances below it, relative to the squared mean, are rounding.
_LEAST_VARIANCE = 1e-12
# Rows that are left out in turn.
_SHRINKAGE_ROWS = 2_000

_Numbers = TypeVar("_Numbers", np.ndarray, Tensor)


class LinearStart(NamedTuple):
    """A linear encoder and decoder of centred data, and what a VAE needs beside them."""

    encoder: np.ndarray  # (n_features, n_components)
    decoder: np.ndarray  # (n_components, n_features)
    mean: np.ndarray  # (n_features,)
    log_variance: np.ndarray  # (n_components,) of the posterior
    noise_variance: np.ndarray  # (n_features,)
    bias: np.ndarray = np.empty(0)  # (n_components,), of the encoder; empty for -mean @ encoder


def _rows(x: Tensor, random_state: np.random.RandomState) -> Tensor:
    """At most ``_MAX_ROWS`` rows on the CPU; in float64 where that is cheap."""
    (x,) = some_rows(_MAX_ROWS, random_state, x)
    return x.cpu() if x.shape[1] > _MAX_EXACT else x.cpu().double()


class Moments(NamedTuple):
    """Mean and covariance in float64; of fewer wide rows than columns as those rows."""

    mean: Tensor  # (n_features,)
    variance: Tensor  # (n_features,)
    matrix: Tensor  # the covariance, or rows A with A.T @ A for it
    is_thin: bool

    @classmethod
    def of(cls, rows: Tensor) -> "Moments":
        mean = rows.mean(dim=0)
        centred = rows - mean
        if len(rows) < rows.shape[1] > _MAX_EXACT:
            thin = centred.double() / math.sqrt(len(rows))
            return cls(mean.double(), thin.square().sum(dim=0), thin, True)
        covariance = (centred.T @ centred).double() / len(rows)
        return cls(mean.double(), covariance.diagonal(), covariance, False)

    def divided(self, scale: Tensor) -> "Moments":
        """Moments of columns that are divided by a scale."""
        if self.is_thin:
            matrix = self.matrix / scale
            return self._replace(variance=matrix.square().sum(dim=0), matrix=matrix)
        matrix = self.matrix / torch.outer(scale, scale)
        return self._replace(variance=matrix.diagonal(), matrix=matrix)

    def shrinkage(self, rows: Tensor) -> float:
        """How much of the correlations of the rows that these are the moments of is chance, from 0 to 1."""
        varies = (self.variance > _LEAST_VARIANCE * self.mean.square()).nonzero().squeeze(1)
        if len(rows) < 2 or len(varies) < 2:
            return 0.0
        scale = self.variance[varies].sqrt()
        standardised = (rows[:_SHRINKAGE_ROWS, varies].double() - self.mean[varies]) / scale
        if self.is_thin:
            values, axes = principal_axes(self.matrix[:, varies] / scale)
        else:
            values, axes = torch.linalg.eigh(self.matrix[varies][:, varies] / torch.outer(scale, scale))
        return held_out_shrinkage(standardised, values, axes, len(rows))

    def directions(self, n_components: int, random_state: np.random.RandomState) -> Tensor | None:
        """Random columns to begin a subspace iteration with; None where all axes are cheap."""
        n_features, n_columns = self.matrix.shape[1], n_components + 10
        if n_features <= _MAX_EXACT or n_columns >= len(self.matrix) // 2:
            return None
        return torch.from_numpy(random_state.standard_normal((n_features, n_columns)))

    def leading(self, n_components: int, start: Tensor | None, n_rounds: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Largest eigenvalues, descending, their vectors as columns, and where to go on from.

        Wide matrices are met by subspace iteration, which a nearby ``start`` makes short.
        """
        if start is not None:
            values, start = leading_axes(self.matrix, start, n_rounds, thin=self.is_thin)
            return values[:n_components], start[:, :n_components], start
        if self.is_thin:
            values, vectors = principal_axes(self.matrix)
            return values[:n_components], vectors[:, :n_components], None
        values, vectors = torch.linalg.eigh(self.matrix)
        return values.flip(0)[:n_components], vectors.flip(1)[:, :n_components], None


def _pad(matrix: np.ndarray, n_components: int) -> np.ndarray:
    """Append zero columns up to ``n_components``."""
    return np.pad(matrix, ((0, 0), (0, n_components - matrix.shape[1])))


def pca_start(x: Tensor, n_components: int, random_state: np.random.RandomState) -> LinearStart:
    """Start at the principal components of ``x``, as they are, also where training adds noise to the input.

    Components beyond the rank get random encoder directions, which decode to nothing yet; training can use them.

    Parameters
    ----------
    x : Tensor of shape (n_samples, n_features)
    n_components : int
    random_state : RandomState

    Returns
    -------
    start : LinearStart
        Its reconstruction is PCA's.

    References
    ----------
    Baldi & Hornik (1989), "Neural networks and principal component analysis", Neural Networks 2(1): the optimum of a
    linear autoencoder spans the principal subspace.
    """
    rows = _rows(x, random_state)
    n_samples, n_features = rows.shape
    rank = min(n_components, n_samples, n_features)
    moments = Moments.of(rows)
    if moments.variance.max() > 0:
        few = moments.is_thin and n_samples <= _MAX_EXACT_ROWS
        directions = None if few else moments.directions(rank, random_state)
        values, axes, _ = moments.leading(rank, directions, _PCA_ROUNDS)
        residual = (moments.variance - axes.square() @ values).clamp_min_(1e-6)
    else:
        axes, residual = torch.eye(n_features, rank).double(), torch.ones(n_features)
    rank = axes.shape[1]
    decoder = _pad(axes.numpy(), n_components).T
    encoder = decoder.T.copy()
    encoder[:, rank:] = random_state.standard_normal((n_features, n_components - rank)) / np.sqrt(n_features)
    return LinearStart(encoder, decoder, moments.mean.numpy(), np.zeros(n_components), residual.double().numpy())


def _full_rank_factors(covariance: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Factors for as many components as columns, where any small enough noise is equally likely.

    Little noise makes the code carry the row; factor analysis itself may end with no factor at all, where a decoder
    that starts at zero stays.
    """
    scale = covariance.diagonal().clamp_min(1e-4).sqrt()
    correlation = covariance / torch.outer(scale, scale)
    correlation = (1.0 - shrinkage) * correlation + shrinkage * torch.diag(correlation.diagonal())
    eigenvalues, axes = torch.linalg.eigh(correlation)
    noise = max(1e-4, min(_FULL_RANK_NOISE, 0.5 * float(eigenvalues[0])))
    loadings = (eigenvalues - noise).clamp_min(0.0).sqrt().unsqueeze(1) * axes.T * scale
    return loadings, (noise * scale.square()).clamp_min(1e-4)


def shrunk(loadings: _Numbers, noise: _Numbers, shrinkage: float) -> tuple[_Numbers, _Numbers]:
    """Loadings and noise variances of the same variances, with all correlations times ``1 - shrinkage``."""
    return (1.0 - shrinkage) ** 0.5 * loadings, noise + shrinkage * (loadings**2).sum(0)


def factor_analysis_start(
    x: Tensor, n_components: int, random_state: np.random.RandomState, *, max_iter: int = _MAX_ROUNDS
) -> LinearStart:
    r"""Start at factor analysis, whose posterior a linear encoder gives exactly.

    .. math:: q(z \mid x) = N(P W \Psi^{-1} (x - \mu), P), \quad P = (I + W \Psi^{-1} W^\top)^{-1}

    The factors are rotated so that :math:`P` is diagonal, as the encoder's is. Correlations are shrunk as far as makes
    rows that are left out likeliest: of few rows they are partly chance.

    Parameters
    ----------
    x : Tensor of shape (n_samples, n_features)
    n_components : int
        Components that factor analysis cannot fill start next to the prior.
    random_state : RandomState
    max_iter : int, default=1000
        Rounds of expectation maximisation at most; no more than 50 in a wide table.

    Returns
    -------
    start : LinearStart

    References
    ----------
    Rubin & Thayer (1982), "EM algorithms for ML factor analysis", Psychometrika 47(1).
    """
    rows = _rows(x, random_state)
    n_samples, n_features = rows.shape
    moments = Moments.of(rows)
    rank = min(n_components, n_features, max(n_samples - 1, 0))
    loadings, noise = torch.zeros(0, n_features).double(), moments.variance.clamp_min(1e-4)
    if rank and noise.max() > 1e-4:
        shrinkage = moments.shrinkage(rows)
        if rank == n_features:
            loadings, noise = _full_rank_factors(moments.matrix, shrinkage)
        else:
            directions = moments.directions(rank, random_state)
            factors = _factors(moments, rank, 1e-2 / n_samples, directions, max_iter)
            loadings, noise = shrunk(*factors, shrinkage)
    precision = torch.eye(len(loadings)).double() + (loadings / noise) @ loadings.T
    eigenvalues, rotation = torch.linalg.eigh(precision)
    loadings, variance = rotation.T @ loadings, 1.0 / eigenvalues
    encoder = _pad(((loadings / noise).T * variance).numpy(), n_components)
    surplus = n_components - len(loadings)
    encoder[:, len(loadings) :] = 0.05 / np.sqrt(n_features) * random_state.standard_normal((n_features, surplus))
    log_variance = np.concatenate([variance.log().numpy(), np.zeros(surplus)])
    return LinearStart(
        encoder, _pad(loadings.T.numpy(), n_components).T, moments.mean.numpy(), log_variance, noise.numpy()
    )


def _factors(
    moments: Moments, n_components: int, tol: float, start: Tensor | None, max_iter: int
) -> tuple[Tensor, Tensor]:
    """Loadings (n_components, n_features) and noise variances of maximum likelihood, from the moments alone.

    References
    ----------
    Barber (2012), "Bayesian reasoning and machine learning", algorithm 21.1.
    """
    noise = torch.ones(len(moments.mean)).double()
    before = math.inf
    for _ in range(max_iter if start is None else min(max_iter, 50)):
        scale = noise.sqrt() + 1e-12
        whitened = moments.divided(scale)
        values, vectors, start = whitened.leading(n_components, start, 3)
        loadings = (values - 1.0).clamp_min(0.0).sqrt().unsqueeze(1) * vectors.T * scale
        # Twice the negative log-likelihood of a row, less a constant.
        total = whitened.variance.sum()
        loss = float(values.clamp_min(1e-12).log().sum() + total - values.sum() + noise.log().sum())
        if before - loss < 2.0 * tol:
            break
        before = loss
        noise = (moments.variance - loadings.square().sum(dim=0)).clamp_min(1e-12)
    return loadings, noise.clamp_min(1e-4)
