"""Linear models to start from where cells are missing: factor analysis from the cells that are there."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .starts import LinearStart

__all__ = ["incomplete_start"]

# Products per round of expectation maximisation: a tenth of a second on one core.
_MAX_PRODUCTS = 1e9
_MAX_ROWS = 20_000


def _drawn(rows: Tensor, most: int, random_state: np.random.RandomState) -> np.ndarray:
    """At most ``most`` rows, as float64."""
    if len(rows) > most:
        chosen = torch.from_numpy(np.sort(random_state.choice(len(rows), most, replace=False)))
        rows = rows[chosen.to(rows.device)]
    return rows.cpu().double().numpy()


class _Factors(NamedTuple):
    """Factor analysis of rows with missing cells."""

    loadings: np.ndarray  # (rank, n_features)
    mean: np.ndarray  # (n_features,)
    noise: np.ndarray  # (n_features,), variances
    codes: np.ndarray  # (n_samples, rank), posterior means
    precision: np.ndarray  # (n_samples, rank, rank) of the posteriors


def _incomplete_factors(rows: np.ndarray, rank: int, *, n_rounds: int = 30) -> _Factors:
    r"""Factor analysis by expectation maximisation, each row with the cells that it has.

    .. math:: A_i = I + \sum_{j \in o_i} w_j w_j^\top / \psi_j, \quad
        E z_i = A_i^{-1} \sum_{j \in o_i} w_j (x_{ij} - \mu_j) / \psi_j

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        NaN where missing.
    rank : int
    n_rounds : int

    Returns
    -------
    factors : _Factors

    References
    ----------
    Ghahramani & Jordan (1994), "Supervised learning from incomplete data via an EM approach", NIPS 6;
    Rubin & Thayer (1982), "EM algorithms for ML factor analysis", Psychometrika 47(1).
    """
    mask = ~np.isnan(rows)
    seen, x = mask.astype(float), np.where(mask, rows, 0.0)
    count = np.maximum(seen.sum(axis=0), 1.0)
    mean = x.sum(axis=0) / count
    noise = np.maximum((seen * (x - mean) ** 2).sum(axis=0) / count, 1e-4)
    _, values, axes = np.linalg.svd(seen * (x - mean), full_matrices=False)
    loadings = 0.5 * axes[:rank] * values[:rank, None] / np.sqrt(len(rows))
    for _ in range(n_rounds):
        pairs = np.einsum("kj,lj->jkl", loadings, loadings).reshape(len(mean), -1)
        precision = np.eye(rank) + ((seen / noise) @ pairs).reshape(-1, rank, rank)
        codes = np.linalg.solve(precision, ((seen * (x - mean) / noise) @ loadings.T)[..., None])[..., 0]
        covariance = np.linalg.inv(precision)
        moments = (codes[:, :, None] * codes[:, None, :] + covariance).reshape(len(rows), -1)
        moments = (seen.T @ moments).reshape(-1, rank, rank)
        # A standard normal prior of the loadings, in units of the noise: factors need more than a few rows.
        ridge = noise[:, None, None] * np.eye(rank)
        products = (seen * (x - mean)).T @ codes
        loadings = np.linalg.solve(moments + ridge, products[..., None])[..., 0].T
        explained = codes @ loadings
        doubt = (seen.T @ covariance.reshape(len(rows), -1)).reshape(-1, rank, rank)
        spread = np.einsum("kj,jkl,lj->j", loadings, doubt, loadings)
        mean = (seen * (x - explained)).sum(axis=0) / count
        noise = np.maximum(((seen * (x - mean - explained) ** 2).sum(axis=0) + spread) / count, 1e-4)
    return _Factors(loadings, mean, noise, codes, precision)


def _regressed(inputs: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear map from an encoder's inputs to codes, and its bias, by ridge regression."""
    centre, target = inputs.mean(axis=0), codes.mean(axis=0)
    centred = inputs - centre
    ridge = 1e-3 * len(inputs) * np.eye(inputs.shape[1])
    weights = np.linalg.solve(centred.T @ centred + ridge, centred.T @ (codes - target))
    return weights, target - centre @ weights


def incomplete_start(
    x: Tensor,
    inputs: Tensor,
    n_components: int,
    random_state: np.random.RandomState,
    *,
    noise_variance: float | None = None,
) -> LinearStart:
    """Start at a linear model of rows with missing cells: factor analysis, or the principal axes of rows it fills.

    The encoder is regressed on what it will see, since no linear map of filled rows is the posterior's mean.

    Parameters
    ----------
    x : Tensor of shape (n_samples, n_features)
        Scaled rows, NaN where missing.
    inputs : Tensor of shape (n_samples, n_inputs)
        What the encoder sees of them.
    n_components : int
    random_state : RandomState
    noise_variance : float or None, default=None
        None starts at factor analysis, for a VAE. A number starts at whitened principal components, for an
        autoencoder with that mean variance of the noise on its inputs.

    Returns
    -------
    start : LinearStart
    """
    principal = noise_variance is not None
    n_samples, n_features = x.shape
    # A third of the columns: more factors fill gaps with noise.
    rank = max(1, min(n_components, n_features // 3, n_samples - 1))
    most = max(int(_MAX_PRODUCTS / (n_features * rank**2)), 10 * rank)
    present = torch.cat([x, inputs], dim=1)[torch.isfinite(x).any(dim=1)]
    rows = _drawn(present, min(most, _MAX_ROWS), random_state)
    table, seen_by_encoder = rows[:, :n_features], rows[:, n_features:]
    surplus_scale = (0.02 if principal else 0.05) / np.sqrt(inputs.shape[1])
    if len(table) < 2:
        mean, noise = np.nan_to_num(table.sum(axis=0)), np.ones(n_features)
        encoder = surplus_scale * random_state.standard_normal((inputs.shape[1], n_components))
        zeros = np.zeros(n_components)
        return LinearStart(encoder, np.zeros((n_components, n_features)), mean, zeros, noise, zeros)
    factors = _incomplete_factors(table, rank)
    mean, noise = factors.mean, factors.noise
    if noise_variance is not None:
        filled = np.where(np.isnan(table), factors.codes @ factors.loadings + mean, table)
        mean = filled.mean(axis=0)
        _, values, axes = np.linalg.svd(filled - mean, full_matrices=False)
        variance = np.maximum(values[:n_components] ** 2 / len(table), 1e-3)
        codes, log_variance = (filled - mean) @ axes[:n_components].T / np.sqrt(variance), np.zeros(len(variance))
        decoder = axes[:n_components] * (variance**1.5 / (variance + noise_variance))[:, None]
    else:
        eigenvalues, rotation = np.linalg.eigh(factors.precision.mean(axis=0))
        decoder, codes, log_variance = rotation.T @ factors.loadings, factors.codes @ rotation, -np.log(eigenvalues)
    encoder, bias = _regressed(seen_by_encoder, codes)
    surplus = n_components - len(decoder)
    random = surplus_scale * random_state.standard_normal((inputs.shape[1], surplus))
    return LinearStart(
        np.hstack([encoder, random]),
        np.pad(decoder, ((0, surplus), (0, 0))),
        mean,
        np.pad(log_variance, (0, surplus)),
        noise,
        np.pad(bias, (0, surplus)),
    )
