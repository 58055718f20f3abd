"""Which rows of a large table train, and how they are scaled on their way from the file."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .._data.columns import Columns
from .._data.large import Large, Passes
from .._densities.trimming import MAX_TRIMMED, trimmed_rows

__all__ = ["passes_over"]


def passes_over(
    large: Large,
    columns: Columns,
    training: Tensor,
    device: torch.device,
    *,
    contamination: str | float,
    comparable: Callable[[Tensor], Tensor],
    least: float | Tensor,
) -> Passes:
    """Let all rows train that are not held out; where some are anomalous, the worst of each part not.

    Parameters
    ----------
    large : Large
    columns : Columns
        Learned of the rows that are held.
    training : Tensor of int
        Which of the rows that are held train: of those, the others do not.
    device : torch.device
    contamination : "auto" or float
        Share of anomalous rows.
    comparable : callable
        Scaled rows as `trimmed_rows` takes them.
    least : float or Tensor
        Spread of a column below which `trimmed_rows` takes it for constant.

    Returns
    -------
    passes : Passes
    """
    encode = columns.encoder(torch.float32, device)
    passes = Passes(
        large.values,
        None if large.weight is None else torch.from_numpy(large.weight / large.weight.mean()).float(),
        np.sort(np.delete(large.rows, training.numpy())),
        lambda rows: encode(rows.to(device)),
        large.complete,
    )
    if not isinstance(contamination, str):
        passes.keep = lambda x: trimmed_rows(comparable(x), contamination, least)
        passes.kept_fraction = 1.0 - min(contamination, MAX_TRIMMED)
    return passes
