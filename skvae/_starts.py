"""Linear models to start from: an autoencoder at PCA, a VAE at factor analysis.

A network that starts at the best linear model of its kind needs to learn only what is not linear.
"""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from torch import Tensor

__all__ = ["LinearStart", "factor_analysis_start", "pca_start"]

# Rows enough to place d(d+1)/2 second moments; the start is a start, not the fit.
_MAX_ROWS = 20_000


class LinearStart(NamedTuple):
    """A linear encoder and decoder of centred data, and what a VAE needs beside them."""

    encoder: np.ndarray  # (n_features, n_components)
    decoder: np.ndarray  # (n_components, n_features)
    mean: np.ndarray  # (n_features,)
    log_variance: np.ndarray  # (n_components,) of the posterior
    noise_variance: np.ndarray  # (n_features,)


def _rows(x: Tensor, generator: np.random.RandomState) -> np.ndarray:
    """At most ``_MAX_ROWS`` rows as float64."""
    if len(x) > _MAX_ROWS:
        rows = torch.from_numpy(np.sort(generator.choice(len(x), _MAX_ROWS, replace=False)))
        x = x[rows.to(x.device)]
    return x.cpu().double().numpy()


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
    if n_samples > 1 and rows.var(axis=0).max() > 0:
        pca = PCA(rank, random_state=random_state).fit(rows)
        axes, mean, variance = pca.components_.T, pca.mean_, np.maximum(pca.explained_variance_, 1e-3)
        residual = np.maximum((rows - mean).var(axis=0) - ((rows - mean) @ axes).var(axis=0) @ (axes.T**2), 1e-6)
    else:
        axes, mean, variance = np.eye(n_features, rank), rows.mean(axis=0), np.ones(rank)
        residual = np.ones(n_features)
    encoder = _pad(axes / np.sqrt(variance), n_components)
    encoder[:, rank:] = random_state.standard_normal((n_features, n_components - rank)) * 0.02 / np.sqrt(n_features)
    decoder = axes * np.sqrt(variance) * (variance / (variance + noise_variance))
    return LinearStart(encoder, _pad(decoder, n_components).T, mean, np.zeros(n_components), residual)


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
    mean = rows.mean(axis=0)
    noise = np.maximum(rows.var(axis=0), 1e-4)
    varying = noise > 1e-4  # factor analysis takes the logarithm of each variance
    rank = min(n_components, int(varying.sum()), max(n_samples - 1, 0))
    loadings = np.zeros((rank, n_features))
    if rank:
        model = FactorAnalysis(rank, svd_method="lapack" if n_features <= 200 else "randomized", random_state=0)
        model.fit(rows[:, varying])
        loadings[:, varying], noise[varying] = model.components_, np.maximum(model.noise_variance_, 1e-4)
    precision = np.eye(len(loadings)) + (loadings / noise) @ loadings.T
    eigenvalues, rotation = np.linalg.eigh(precision)
    loadings, variance = rotation.T @ loadings, 1.0 / eigenvalues
    encoder = _pad((loadings / noise).T * variance, n_components)
    surplus = n_components - len(loadings)
    encoder[:, len(loadings) :] = 0.05 / np.sqrt(n_features) * random_state.standard_normal((n_features, surplus))
    log_variance = np.concatenate([np.log(variance), np.zeros(surplus)])
    return LinearStart(encoder, _pad(loadings.T, n_components).T, mean, log_variance, noise)
