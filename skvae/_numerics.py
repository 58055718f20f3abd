"""Arithmetic with care: products that round a row alike wherever it stands, differences of log-gammas."""

import torch
from torch import Tensor

__all__ = ["WIDTH", "clamp_log_rate", "log_rising_ratio", "residual_of", "rounded_width", "row_product", "softplus"]

# Matrix products are fastest where the result's width is a multiple of this: a result of width 8 takes 2.5 times as
# long as one of 16, of 30 1.6 times as long as one of 32 (benchmarks/README.md, widths).
WIDTH = 16
# softplus(t) equals t to the last bit of float64 above 37; torch's own switch at 20 is wrong by 2e-9.
_SOFTPLUS_SWITCH = 40.0
# exp(30) = 1e13 counts: beyond any table, and its products with a batch still fit into float32.
_LOG_RATE_RANGE = 30.0
# Four terms of Stirling's series are exact to 1e-12 from here on.
_STIRLING_MIN = 10.0


def rounded_width(width: int) -> int:
    """The next multiple of ``WIDTH``."""
    return -(-width // WIDTH) * WIDTH


def row_product(x: Tensor, matrix: Tensor) -> Tensor:
    """x @ matrix, in float64 equal to the bit for a row at any place of a batch.

    MKL's kernel for float64 treats the rows of a tile differently where the product has an odd number of columns, and
    all its kernels are slow at widths that are no multiple of 16, so the matrix is filled up with columns of zeros.

    Parameters
    ----------
    x : Tensor of shape (..., n_rows, n_inputs)
        A multiple of 16 rows: the last tile must be full.
    matrix : Tensor of shape (..., n_inputs, n_outputs)

    Returns
    -------
    product : Tensor of shape (..., n_rows, n_outputs)
    """
    n_outputs = matrix.shape[-1]
    surplus = rounded_width(n_outputs) - n_outputs
    if surplus == 0:
        return x @ matrix
    return (x @ torch.nn.functional.pad(matrix, (0, surplus)))[..., :n_outputs]


def _stirling_remainder(y: Tensor) -> Tensor:
    """log Gamma(y) - ((y - 1/2) log y - y + log(2 pi) / 2); https://dlmf.nist.gov/5.11.E1, four terms."""
    inverse_square = y.square().reciprocal()
    series = 1 / 1260 - inverse_square / 1680
    return (1 / 12 - inverse_square * (1 / 360 - inverse_square * series)) / y


def log_rising_ratio(x: Tensor, size: Tensor) -> Tensor:
    """log Gamma(x + size) - log Gamma(size) - x log(size), which goes to 0 as the size grows.

    The two log-gammas cancel to nothing for large sizes: from ``_STIRLING_MIN`` on their difference is expanded.
    """
    small, large = size.clamp(max=_STIRLING_MIN), size.clamp(min=_STIRLING_MIN)
    direct = (x + small).lgamma() - small.lgamma() - x * small.log()
    remainder = _stirling_remainder(x + large) - _stirling_remainder(large)
    expanded = (x + large - 0.5) * (x / large).log1p() - x + remainder
    return torch.where(size < _STIRLING_MIN, direct, expanded)


def residual_of(location: Tensor, x: Tensor, mask: Tensor | None, out: Tensor | None = None) -> Tensor:
    """location - x, and 0 where x is missing."""
    residual = torch.sub(location, x, out=out)
    return residual if mask is None else residual.masked_fill_(~mask, 0)


def softplus(t: Tensor) -> Tensor:
    """log(1 + exp(t)), exact to the last bit of float64."""
    return torch.nn.functional.softplus(t, threshold=_SOFTPLUS_SWITCH)


def clamp_log_rate(outputs: Tensor) -> Tensor:
    """Outputs as logarithms of rates that neither vanish nor overflow."""
    return outputs.clamp(-_LOG_RATE_RANGE, _LOG_RATE_RANGE)
