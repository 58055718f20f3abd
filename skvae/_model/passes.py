"""Which rows of a large table train, and how they are scaled on their way from the file."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .._data.columns import Columns
from .._data.families import comparable_rows, least_spread
from .._data.inputs import InputLayer
from .._data.large import Passes
from .._data.sample import Sample
from .._densities.trimming import MAX_TRIMMED, trimmed_rows
from .._training.rows import Rows
from .fitted import Data
from .plan import Plan

__all__ = ["passes_over"]


def passes_over(plan: Plan, sample: Sample, columns: Columns, data: Data, layer: InputLayer) -> Rows:
    """Let all rows train that are not held out; where some are anomalous, the worst of each part not.

    Parameters
    ----------
    plan : Plan
    sample : Sample
        Of a large table.
    columns : Columns
        Learned of the rows that are held.
    data : Data
        Of the rows that are held, those that do not train are left out.
    layer : InputLayer

    Returns
    -------
    rows : Rows
        The training rows that are held, with passes over the whole table.
    """
    large, encode = sample.large, columns.scaler(torch.float32, plan.device)
    if large is None:
        return data.training

    def kept(x: Tensor) -> Tensor:
        return trimmed_rows(comparable_rows(x, columns, layer), plan.contamination, least_spread(columns))

    passes = Passes(
        values=large.values,
        weight=None if large.weight is None else torch.from_numpy(large.weight / large.weight.mean()).float(),
        held_out=np.sort(np.delete(large.rows, data.rows.numpy())),
        encode=lambda rows: encode(rows.to(plan.device)),
        complete=large.complete,
        keep=None if plan.clean else kept,
        kept_fraction=1.0 if plan.clean else 1.0 - min(plan.contamination, MAX_TRIMMED),
    )
    return replace(data.training, passes=passes)
