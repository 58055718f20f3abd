"""Linear models to start from: an autoencoder at PCA, a VAE at factor analysis.

A network that starts at the best linear model of its kind needs to learn only what is not linear.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["LinearStart", "factor_analysis_start", "pca_start"]

# Rows enough to place d(d+1)/2 second moments; the start is a start, not the fit.
_MAX_ROWS = 20_000
# Up to here all eigenvectors of the second moments cost less than an epoch; beyond, the leading ones are enough.
_MAX_EXACT = 200

# Noise variance, as a share of a column's, of a start with as many components as columns: a scale of about exp(-2).
_FULL_RANK_NOISE = 0.02


class LinearStart(NamedTuple):
    """A linear encoder and decoder of centred data, and what a VAE needs beside them."""

    encoder: np.ndarray  # (n_features, n_components)
    decoder: np.ndarray  # (n_components, n_features)
    mean: np.ndarray  # (n_features,)
    log_variance: np.ndarray  # (n_components,) of the posterior
    noise_variance: np.ndarray  # (n_features,)
    bias: np.ndarray = np.empty(0)  # (n_components,), of the encoder; empty for -mean @ encoder


def _rows(x: Tensor, generator: np.random.RandomState) -> Tensor:
    """At most ``_MAX_ROWS`` rows on the CPU; in float64 where that is cheap."""
    if len(x) > _MAX_ROWS:
        rows = torch.from_numpy(np.sort(generator.choice(len(x), _MAX_ROWS, replace=False)))
        x = x[rows.to(x.device)]
    return x.cpu() if x.shape[1] > _MAX_EXACT else x.cpu().double()


def _leading(matrix: Tensor, n_components: int, start: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Largest eigenvalues of a symmetric matrix, descending, their vectors as columns, and where to go on from.

    Wide matrices are met by subspace iteration, which a nearby ``start`` makes short.

    References
    ----------
    Halko, Martinsson & Tropp (2011), https://arxiv.org/abs/0909.4061, algorithm 4.4.
    """
    if start is None:
        values, vectors = torch.linalg.eigh(matrix)
        return values.flip(0)[:n_components], vectors.flip(1)[:, :n_components], None
    for _ in range(3):
        start = torch.linalg.qr(matrix @ start).Q
    values, rotation = torch.linalg.eigh(start.T @ matrix @ start)
    start = start @ rotation.flip(1)
    return values.flip(0)[:n_components], start[:, :n_components], start


def _directions(n_features: int, n_components: int, random_state: np.random.RandomState) -> Tensor | None:
    """Random columns to begin a subspace iteration with; None where all eigenvectors are cheap."""
    n_columns = n_components + 10
    if n_features <= _MAX_EXACT or n_columns >= n_features // 2:
        return None
    return torch.from_numpy(random_state.standard_normal((n_features, n_columns)))


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance in float64."""
    mean = rows.mean(dim=0)
    centred = rows - mean
    return mean.double(), (centred.T @ centred).double() / len(rows)


def _pad(matrix: np.ndarray, n_components: int) -> np.ndarray:
    """Append zero columns up to ``n_components``."""
    return np.pad(matrix, ((0, 0), (0, n_components - matrix.shape[1])))


def pca_start(
    x: Tensor, n_components: int, random_state: np.random.RandomState, *, noise_variance: float = 0.0
) -> LinearStart:
    r"""Start at the principal components of ``x``, whitened.

    With noise on the input the best linear map back shrinks each component, as Wiener's filter does,

    .. math:: W_j = \sqrt{\lambda_j} \frac{\lambda_j}{\lambda_j + \sigma^2} v_j^\top

    Components beyond the rank get random encoder directions, which decode to nothing yet; training can use them.

    Parameters
    ----------
    x : Tensor of shape (n_samples, n_features)
    n_components : int
    random_state : RandomState
    noise_variance : float, default=0.0
        Mean variance of the noise that training will add to each scaled column.

    Returns
    -------
    start : LinearStart
        Without noise, its reconstruction is PCA's.

    References
    ----------
    Baldi & Hornik (1989), "Neural networks and principal component analysis", Neural Networks 2(1): the optimum of a
    linear autoencoder spans the principal subspace. Vincent et al. (2010), "Stacked denoising autoencoders", JMLR 11.
    """
    rows = _rows(x, random_state)
    n_samples, n_features = rows.shape
    rank = min(n_components, n_samples, n_features)
    mean, covariance = _moments(rows)
    if covariance.diagonal().max() > 0:
        start = _directions(n_features, rank, random_state)
        for _ in range(1 if start is None else 4):
            values, axes, start = _leading(covariance, rank, start)
        residual = (covariance.diagonal() - axes.square() @ values).clamp_min_(1e-6)
    else:
        axes, residual = torch.eye(n_features, rank).double(), torch.ones(n_features)
    decoder = _pad(axes.numpy(), n_components).T
    encoder = decoder.T.copy()
    encoder[:, rank:] = random_state.standard_normal((n_features, n_components - rank)) / np.sqrt(n_features)
    return LinearStart(encoder, decoder, mean.numpy(), np.zeros(n_components), residual.double().numpy())


def _full_rank_factors(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Factors for as many components as columns, where any small enough noise is equally likely.

    Little noise makes the code carry the row; factor analysis itself may end with no factor at all, where a decoder
    that starts at zero stays.
    """
    scale = covariance.diagonal().clamp_min(1e-4).sqrt()
    eigenvalues, axes = torch.linalg.eigh(covariance / torch.outer(scale, scale))
    share = max(1e-4, min(_FULL_RANK_NOISE, 0.5 * float(eigenvalues[0])))
    loadings = (eigenvalues - share).clamp_min(0.0).sqrt().unsqueeze(1) * axes.T * scale
    return loadings, (share * scale.square()).clamp_min(1e-4)


def factor_analysis_start(x: Tensor, n_components: int, random_state: np.random.RandomState) -> LinearStart:
    r"""Start at factor analysis, whose posterior a linear encoder gives exactly.

    .. math:: q(z \mid x) = N(P W \Psi^{-1} (x - \mu), P), \quad P = (I + W \Psi^{-1} W^\top)^{-1}

    The factors are rotated so that :math:`P` is diagonal, as the encoder's is.

    Parameters
    ----------
    x : Tensor of shape (n_samples, n_features)
    n_components : int
        Components that factor analysis cannot fill start next to the prior.
    random_state : RandomState

    Returns
    -------
    start : LinearStart

    References
    ----------
    Rubin & Thayer (1982), "EM algorithms for ML factor analysis", Psychometrika 47(1).
    """
    rows = _rows(x, random_state)
    n_samples, n_features = rows.shape
    mean, covariance = _moments(rows)
    rank = min(n_components, n_features, max(n_samples - 1, 0))
    loadings, noise = torch.zeros(0, n_features).double(), covariance.diagonal().clamp_min(1e-4)
    if rank and noise.max() > 1e-4:
        if rank == n_features:
            loadings, noise = _full_rank_factors(covariance)
        else:
            start = _directions(n_features, rank, random_state)
            loadings, noise = _factors(covariance, rank, 1e-2 / n_samples, start)
    precision = torch.eye(len(loadings)).double() + (loadings / noise) @ loadings.T
    eigenvalues, rotation = torch.linalg.eigh(precision)
    loadings, variance = rotation.T @ loadings, 1.0 / eigenvalues
    encoder = _pad(((loadings / noise).T * variance).numpy(), n_components)
    surplus = n_components - len(loadings)
    encoder[:, len(loadings) :] = 0.05 / np.sqrt(n_features) * random_state.standard_normal((n_features, surplus))
    log_variance = np.concatenate([variance.log().numpy(), np.zeros(surplus)])
    return LinearStart(encoder, _pad(loadings.T.numpy(), n_components).T, mean.numpy(), log_variance, noise.numpy())


def _factors(covariance: Tensor, n_components: int, tol: float, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """Loadings (n_components, n_features) and noise variances of maximum likelihood, from the covariance alone.

    References
    ----------
    Barber (2012), "Bayesian reasoning and machine learning", algorithm 21.1.
    """
    variance, noise = covariance.diagonal(), torch.ones(len(covariance)).double()
    before = math.inf
    for _ in range(1000 if start is None else 50):
        scale = noise.sqrt() + 1e-12
        whitened = covariance / torch.outer(scale, scale)
        values, vectors, start = _leading(whitened, n_components, start)
        loadings = (values - 1.0).clamp_min(0.0).sqrt().unsqueeze(1) * vectors.T * scale
        # Twice the negative log-likelihood of a row, less a constant.
        loss = float(values.clamp_min(1e-12).log().sum() + whitened.trace() - values.sum() + noise.log().sum())
        if before - loss < 2.0 * tol:
            break
        before = loss
        noise = (variance - loadings.square().sum(dim=0)).clamp_min(1e-12)
    return loadings, noise.clamp_min(1e-4)
