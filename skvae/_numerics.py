"""Matrix products that round a row alike wherever it stands in a batch."""

import torch
from torch import Tensor

__all__ = ["row_product"]


def row_product(x: Tensor, matrix: Tensor) -> Tensor:
    """x @ matrix, in float64 equal to the bit for a row at any place of a batch.

    MKL's kernel for float64 treats the rows of a tile differently where the product has an odd number of columns, so
    an odd matrix gets a column of zeros.

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
    if x.dtype != torch.float64 or n_outputs % 2 == 0:
        return x @ matrix
    return (x @ torch.nn.functional.pad(matrix, (0, 1)))[..., :n_outputs]
