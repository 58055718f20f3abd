"""The linear models of `starts` from rows with missing cells, by expectation maximisation over those that are there."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._support.device import some_rows
from .starts import LinearStart, Moments, shrunk

__all__ = ["incomplete_start"]

# Rows and rounds, more of which fill no better; products per round of expectation maximisation, a tenth of a second on
# one core; numbers in the pairs of the loadings, which bound its memory.
_MAX_ROWS = 2_000
_N_ROUNDS = 15
_MAX_PRODUCTS = 1e9
_MAX_PAIRS = 2**20


class _Patterns(NamedTuple):
    """Rows by which of their cells are there: rows that share a pattern share a posterior's covariance."""

    seen: np.ndarray  # (n_patterns, n_features), 1 or 0
    sizes: np.ndarray  # (n_patterns, 1), rows of each
    first: np.ndarray  # (n_patterns,), the first row of each
    pattern: np.ndarray  # (n_samples,)

    @classmethod
    def of(cls, mask: np.ndarray) -> tuple["_Patterns", np.ndarray]:
        """Patterns, and the order of the rows in which each is a stretch of its own."""
        packed = np.packbits(mask, axis=1)
        _, chosen, pattern, count = np.unique(
            packed, axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        order = np.argsort(pattern.ravel(), kind="stable")
        first = np.cumsum(count) - count
        return cls(mask[chosen].astype(float), count[:, None].astype(float), first, pattern.ravel()[order]), order

    def posterior(
        self, centred: np.ndarray, loadings: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean codes of the rows, 0 where missing, and each pattern's precision and covariance of them."""
        rank = len(loadings)
        precision = np.eye(rank) + ((self.seen / noise) @ _pairs(loadings)).reshape(-1, rank, rank)
        covariance = np.linalg.inv(precision)
        codes = np.einsum("ikl,il->ik", covariance[self.pattern], (centred / noise) @ loadings.T)
        return codes, precision, covariance

    def sums(self, matrices: np.ndarray) -> np.ndarray:
        """Sum over the rows of each pattern, of shape (n_patterns, n)."""
        flat = matrices.reshape(len(matrices), -1)
        return flat if len(self.sizes) == len(flat) else np.add.reduceat(flat, self.first, axis=0)


class _Factors(NamedTuple):
    """Factor analysis of rows with missing cells."""

    loadings: np.ndarray  # (rank, n_features)
    mean: np.ndarray  # (n_features,)
    noise: np.ndarray  # (n_features,), variances
    codes: np.ndarray  # (n_samples, rank), posterior means
    precision: np.ndarray  # (rank, rank), mean over the rows of the posteriors' precisions


def _incomplete_factors(rows: np.ndarray, rank: int, *, n_rounds: int = _N_ROUNDS) -> _Factors:
    r"""Factor analysis by expectation maximisation, each row with the cells that it has.

    .. math:: A_i = I + \sum_{j \in o_i} w_j w_j^\top / \psi_j, \quad
        E z_i = A_i^{-1} \sum_{j \in o_i} w_j (x_{ij} - \mu_j) / \psi_j

    At the end correlations are shrunk, as those of the rows are whose gaps it fills.

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
    Rubin & Thayer (1982), "EM algorithms for ML factor analysis", Psychometrika 47(1); Liu, Rubin & Wu (1998),
    "Parameter expansion to accelerate EM: the PX-EM algorithm", Biometrika 85(4), section 4.2.
    """
    patterns, order = _Patterns.of(~np.isnan(rows))
    back = np.argsort(order)
    rows = rows[order]
    mask = ~np.isnan(rows)
    seen, x = mask.astype(float), np.where(mask, rows, 0.0)
    count = np.maximum(seen.sum(axis=0), 1.0)
    mean = x.sum(axis=0) / count
    variance = (seen * (x - mean) ** 2).sum(axis=0) / count
    # Beside less noise, and by what rounding carries over from columns of far greater values, the prior would be lost.
    least = np.maximum(np.maximum(1e-4, 1e-10 * variance), 1e-30 * variance.max())
    noise = np.maximum(variance, least)
    _, values, axes = np.linalg.svd(seen * (x - mean), full_matrices=False)
    loadings = 0.5 * axes[:rank] * values[:rank, None] / np.sqrt(len(rows))
    for _ in range(n_rounds):
        centred = seen * (x - mean)
        codes, precision, covariance = patterns.posterior(centred, loadings, noise)
        doubt = patterns.sizes * covariance.reshape(-1, rank * rank)
        moments = patterns.sums(codes[:, :, None] * codes[:, None, :]) + doubt
        expanded = _root(moments.sum(axis=0).reshape(rank, rank) / len(rows))
        moments = (patterns.seen.T @ moments).reshape(-1, rank, rank)
        # A standard normal prior of the loadings, in units of the noise: factors need more than a few rows.
        ridge = noise[:, None, None] * np.eye(rank)
        loadings = np.linalg.solve(moments + ridge, (centred.T @ codes)[..., None])[..., 0].T
        unexplained = seen * (x - codes @ loadings)
        spread = ((patterns.seen.T @ doubt) * _pairs(loadings)).sum(axis=1)
        mean = unexplained.sum(axis=0) / count
        noise = np.maximum((((unexplained - seen * mean) ** 2).sum(axis=0) + spread) / count, least)
        loadings = expanded.T @ loadings  # codes of unit covariance, as the prior has it
    codes, _, _ = patterns.posterior(seen * (x - mean), loadings, noise)
    filled = torch.from_numpy(np.where(mask, rows, codes @ loadings + mean))
    loadings, noise = shrunk(loadings, noise, Moments.of(filled).shrinkage(filled))
    codes, precision, _ = patterns.posterior(seen * (x - mean), loadings, noise)
    mean_precision = (patterns.sizes[..., None] * precision).sum(axis=0) / len(rows)
    return _Factors(loadings, mean, noise, codes[back], mean_precision)


def _root(moments: np.ndarray) -> np.ndarray:
    """A matrix whose product with its transpose is ``moments``."""
    try:
        return np.linalg.cholesky(moments)
    except np.linalg.LinAlgError:  # of columns so far apart in size that an eigenvalue is lost to rounding
        values, vectors = np.linalg.eigh(moments)
        return vectors * np.sqrt(np.maximum(values, 0.0))


def _pairs(loadings: np.ndarray) -> np.ndarray:
    """Products of the loadings of each column, of shape (n_features, rank**2)."""
    return (loadings[:, None] * loadings[None]).reshape(-1, loadings.shape[1]).T


def _regressed(inputs: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear map from an encoder's inputs to codes, and its bias, by ridge regression."""
    centre, target = inputs.mean(axis=0), codes.mean(axis=0)
    centred, ridge = inputs - centre, 1e-3 * len(inputs)
    if len(inputs) < inputs.shape[1]:
        weights = centred.T @ _solved(centred @ centred.T + ridge * np.eye(len(inputs)), codes - target)
    else:
        moments = centred.T @ centred + ridge * np.eye(inputs.shape[1])
        weights = _solved(moments, centred.T @ (codes - target))
    return weights, target - centre @ weights


def _solved(moments: np.ndarray, right: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(moments, right)
    except np.linalg.LinAlgError:  # the ridge is lost to rounding beside huge values
        return np.linalg.lstsq(moments, right)[0]


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
    rank = max(1, min(n_components, n_features // 3, n_samples - 1, int((_MAX_PAIRS / n_features) ** 0.5)))
    most = max(int(_MAX_PRODUCTS / (n_features * rank**2)), 10 * rank)
    present = torch.isfinite(x).any(dim=1).nonzero().squeeze(1)
    (chosen,) = some_rows(min(most, _MAX_ROWS), random_state, present)
    table, seen_by_encoder = (part[chosen].cpu().double().numpy() for part in (x, inputs))
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
        eigenvalues, rotation = np.linalg.eigh(factors.precision)
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
