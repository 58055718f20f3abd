"""Linear models to start from: an autoencoder at PCA, a VAE at factor analysis, from whatever cells are there.

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

__all__ = ["LinearStart", "factor_analysis_start", "incomplete_start", "pca_start"]

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
# Of tables with missing cells: rows and rounds, more of which fill no better; products per round of expectation
# maximisation, a tenth of a second on one core; numbers in the pairs of the loadings, which bound its memory.
_INCOMPLETE_ROWS = 2_000
_INCOMPLETE_ROUNDS = 15
_MAX_PRODUCTS = 1e9
_MAX_PAIRS = 2**20

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


class _Moments(NamedTuple):
    """Mean and covariance in float64; of fewer wide rows than columns as those rows."""

    mean: Tensor  # (n_features,)
    variance: Tensor  # (n_features,)
    matrix: Tensor  # the covariance, or rows A with A.T @ A for it
    is_thin: bool

    @classmethod
    def of(cls, rows: Tensor) -> "_Moments":
        mean = rows.mean(dim=0)
        centred = rows - mean
        if len(rows) < rows.shape[1] > _MAX_EXACT:
            thin = centred.double() / math.sqrt(len(rows))
            return cls(mean.double(), thin.square().sum(dim=0), thin, True)
        covariance = (centred.T @ centred).double() / len(rows)
        return cls(mean.double(), covariance.diagonal(), covariance, False)

    def divided(self, scale: Tensor) -> "_Moments":
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
    moments = _Moments.of(rows)
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


def _shrunk(loadings: _Numbers, noise: _Numbers, shrinkage: float) -> tuple[_Numbers, _Numbers]:
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
    moments = _Moments.of(rows)
    rank = min(n_components, n_features, max(n_samples - 1, 0))
    loadings, noise = torch.zeros(0, n_features).double(), moments.variance.clamp_min(1e-4)
    if rank and noise.max() > 1e-4:
        shrinkage = moments.shrinkage(rows)
        if rank == n_features:
            loadings, noise = _full_rank_factors(moments.matrix, shrinkage)
        else:
            directions = moments.directions(rank, random_state)
            factors = _factors(moments, rank, 1e-2 / n_samples, directions, max_iter)
            loadings, noise = _shrunk(*factors, shrinkage)
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
    moments: _Moments, n_components: int, tol: float, start: Tensor | None, max_iter: int
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


# --- Rows with missing cells ----------------------------------------------------------------------------------------


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


def _incomplete_factors(rows: np.ndarray, rank: int, *, n_rounds: int = _INCOMPLETE_ROUNDS) -> _Factors:
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
    loadings, noise = _shrunk(loadings, noise, _Moments.of(filled).shrinkage(filled))
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
    (chosen,) = some_rows(min(most, _INCOMPLETE_ROWS), random_state, present)
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
