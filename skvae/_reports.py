"""What a fit says of the columns it meets: those without values, those that do not vary, the one that diverges."""

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
from torch import Tensor

from ._fitting import Data, Fitted

__all__ = ["named_divergence", "warn_of_empty_columns", "warn_of_inert_columns"]


def warn_of_empty_columns(fitted: Fitted) -> None:
    """Say which columns hold nothing to learn from."""
    for index in fitted.columns.empty:
        warnings.warn(
            f"Column {fitted.columns.names[index]!r} holds no value in any training row: it is kept, but nothing is "
            "learned of it, and its cells come back as NaN. Drop the column if this is not meant.",
            UserWarning,
            stacklevel=4,
        )


def warn_of_inert_columns(fitted: Fitted, values: Tensor) -> None:
    """Say which columns a chunk varies in although the first chunk did not."""
    columns = fitted.columns
    for index in np.flatnonzero(columns.constant):
        cells = values[:, index]
        if index not in columns.empty and bool((cells != columns.mean[index]).logical_and(~cells.isnan()).any()):
            warnings.warn(
                f"Column {columns.names[index]!r} was constant in the first chunk, {columns.mean[index]:g}, and is "
                "ignored since, but this chunk holds other values. Start with a chunk in which every column varies.",
                UserWarning,
                stacklevel=5,
            )


@contextlib.contextmanager
def named_divergence(fitted: Fitted, data: Data) -> Iterator[None]:
    """Name the column behind a loss that is not finite."""
    try:
        yield
    except FloatingPointError:
        largest = data.training.x.abs().nan_to_num(0.0).amax(dim=0)
        column = int(largest.argmax())
        raise ValueError(
            f"Training did not stay finite, even at 1/32 of the learning rate. Column {fitted.columns.names[column]!r} "
            f"has the largest scaled value, {float(largest[column]):.3g}. Lower 'learning_rate_init', or clip or "
            "transform that column."
        ) from None
