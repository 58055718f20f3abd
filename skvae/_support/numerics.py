"""Arithmetic with care: products that round a row alike wherever it stands, differences of log-gammas."""

import math
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Affine",
    "LOG_RATE_RANGE",
    "WIDTH",
    "cell_weight",
    "clamp_log_rate",
    "column_range",
    "filled_up",
    "log_rising_ratio",
    "log_sum_exp2",
    "observed",
    "plain_number",
    "recordable",
    "residual_of",
    "rounded_width",
    "row_product",
    "softplus",
    "unexpanded",
]

# Matrix products are fastest where the result's width is a multiple of this: a result of width 8 takes 2.5 times as
# long as one of 16, of 30 1.6 times as long as one of 32 (benchmarks/README.md, widths).
WIDTH = 16
# softplus(t) equals t to the last bit of float64 above 37; torch's own switch at 20 is wrong by 2e-9.
_SOFTPLUS_SWITCH = 40.0
# exp(30) = 1e13 counts: beyond any table, and its products with a batch still fit into float32.
LOG_RATE_RANGE = 30.0
# Four terms of Stirling's series are exact to 1e-12 from here on.
_STIRLING_MIN = 10.0

# Rows whose masks are held at once.
_RANGE_ROWS = 65_536


class Affine(NamedTuple):
    """The map x @ weight + bias."""

    weight: Tensor  # (n_inputs, n_outputs)
    bias: Tensor  # (n_outputs,)


def rounded_width(width: int) -> int:
    """The next multiple of ``WIDTH``."""
    return -(-width // WIDTH) * WIDTH


def plain_number(value: Any) -> Any:
    """A number as Python's own, and anything else as it is.

    NumPy's compute in their own precision, overflow, and compare to a boolean that is no index.
    """
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        return int(value) if isinstance(value, Integral) else float(value)
    return value


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
    product = x @ filled_up(matrix)
    return product if product.shape[-1] == n_outputs else product[..., :n_outputs]


def filled_up(matrix: Tensor) -> Tensor:
    """A matrix with columns of zeros up to a multiple of ``WIDTH``, as `row_product` multiplies by; itself if it is."""
    surplus = rounded_width(matrix.shape[-1]) - matrix.shape[-1]
    return torch.nn.functional.pad(matrix, (0, surplus)) if surplus else matrix


def log_sum_exp2(exponents: Tensor) -> Tensor:
    r"""Natural logarithm of sums of powers of two, :math:`\log \sum_k 2^{a_k}`; overwrites its argument.

    torch computes powers of two faster than powers of e.

    Parameters
    ----------
    exponents : Tensor of shape (..., n_terms)

    Returns
    -------
    sums : Tensor of shape (...)
    """
    top = exponents.amax(dim=-1, keepdim=True)
    return exponents.sub_(top).exp2_().sum(dim=-1).log2_().add_(top.squeeze(-1)).mul_(math.log(2.0))


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


def unexpanded(t: Tensor) -> Tensor:
    """A view without what `torch.Tensor.expand` repeats, which broadcasts to the same."""
    return t[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in t.stride())]


def softplus(t: Tensor) -> Tensor:
    """log(1 + exp(t)), exact to the last bit of float64."""
    return torch.nn.functional.softplus(t, threshold=_SOFTPLUS_SWITCH)


def clamp_log_rate(outputs: Tensor) -> Tensor:
    """Outputs as logarithms of rates that neither vanish nor overflow."""
    return outputs.clamp(-LOG_RATE_RANGE, LOG_RATE_RANGE)


def observed(x: Tensor) -> Tensor | None:
    """Tell which cells of scaled rows hold a value.

    Parameters
    ----------
    x : Tensor of shape (n_samples, n_features)
        NaN where a cell is missing.

    Returns
    -------
    mask : Tensor of bool of shape (n_samples, n_features), or None
        None where every cell holds one, so that complete tables pay one sum.
    """
    if not torch.isnan(x.sum()):
        return None
    mask = ~torch.isnan(x)
    return None if mask.all() else mask


def column_range(x: Tensor, rows: Tensor | None = None) -> Tensor:
    """Least and greatest observed value of each column, of all rows or of those of some numbers; 0 where none is."""
    low, high = x.new_full((x.shape[1],), torch.inf), x.new_full((x.shape[1],), -torch.inf)
    parts = x.split(_RANGE_ROWS) if rows is None else (x[some.to(x.device)] for some in rows.split(_RANGE_ROWS))
    for part in parts:  # bounds the memory of the masks
        mask = observed(part)
        below, above = (part, part) if mask is None else (torch.where(mask, part, end) for end in (low, high))
        low, high = torch.minimum(low, below.amin(dim=0)), torch.maximum(high, above.amax(dim=0))
    return torch.where(low <= high, torch.stack([low, high]), 0.0)


def recordable(tensor: Tensor) -> Tensor:
    """A tensor that autograd may save: tensors made under ``inference_mode`` have to be copied."""
    return tensor.clone() if tensor.is_inference() else tensor


def cell_weight(outputs: Tensor, row_weight: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Weight of each cell, 0 where it is missing; (..., n_samples, 1 or n_columns), None where all are 1."""
    if row_weight is None:
        return None if mask is None else mask.to(outputs.dtype)
    return row_weight.unsqueeze(-1) if mask is None else row_weight.unsqueeze(-1) * mask
