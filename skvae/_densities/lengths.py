"""How long residuals are: a row whose residual is much shorter than those of training rows is not typical."""

import math

import torch
from torch import Tensor

__all__ = ["LEAST_LENGTH", "fit_lengths", "shortfall"]

# The quantile that tells how short residuals get, and its place in a standard normal distribution.
_LOW, _LOW_NORMAL = 0.02, -2.0537489
# Shorter residuals than this part of the scale count as so short: their squares are what rounding leaves.
LEAST_LENGTH = 1e-3


def fit_lengths(squares: Tensor, n_columns: int) -> Tensor:
    r"""Fit a gamma distribution to squared lengths of whitened residuals, by their median and a low quantile.

    Their cube roots are nearly normal, with mean :math:`(k\theta)^{1/3}(1 - 1/9k)` and variance
    :math:`(k\theta)^{2/3}/9k`. Of Gaussian residuals k is half the number of columns, and it counts as no more; where
    short residuals are common, as those of a row's likeliest categories, it is small.

    Parameters
    ----------
    squares : Tensor of shape (n_samples,)
    n_columns : int
        Of the residuals.

    Returns
    -------
    lengths : Tensor of shape (2,), or of shape (0,)
        Shape k and scale; none where k is at most 1, for which no length is too short.

    References
    ----------
    Wilson & Hilferty (1931), "The distribution of chi-square", PNAS 17(12).
    """
    roots = squares.double() ** (1.0 / 3.0)
    median, low = (float(roots.quantile(level)) for level in (0.5, _LOW))
    if median <= 0.0 or low <= 0.0:
        return squares.new_empty(0)
    ratio = (low - median) / (_LOW_NORMAL * median)
    width = 3.0 * math.sqrt(0.5 * n_columns)
    inverse = min((1.0 + math.sqrt(1.0 + 4.0 * ratio**2)) / (2.0 * ratio), width) if ratio > 0.0 else width
    shape = inverse**2 / 9.0
    if shape <= 1.0:
        return squares.new_empty(0)
    scale = (median / (1.0 - 1.0 / inverse**2)) ** 3 / shape
    return squares.new_tensor([shape, scale])


def shortfall(squares: Tensor, lengths: Tensor) -> Tensor:
    r"""What rows lose whose residuals are shorter than the mode of lengths, in nats; otherwise 0.

    Of a gamma distribution's log-density, with m its mode and l a squared length below it,
    :math:`(k - 1) \log (l / m) + (m - l) / \theta \le 0`. A density of all columns has its mode where there is no noise
    at all, where no row lies that has as much of it as the others: it is not typical.

    Parameters
    ----------
    squares : Tensor of shape (n_samples,)
    lengths : Tensor of shape (2,)
        Of `fit_lengths`.

    Returns
    -------
    loss : Tensor of shape (n_samples,)

    References
    ----------
    Nalisnick, Matsukawa, Teh & Lakshminarayanan (2019), "Detecting out-of-distribution inputs to deep generative models
    using typicality", arXiv:1906.02994.
    """
    shape, scale = lengths
    mode = (shape - 1.0) * scale
    short = torch.minimum(squares.clamp_min(LEAST_LENGTH * shape * scale), mode)
    return (shape - 1.0) * (short / mode).log() + (mode - short) / scale
