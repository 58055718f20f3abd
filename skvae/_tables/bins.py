"""Columns of intervals, as `pandas.cut` makes them: as text on the way in, in their dtype on the way out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .dtypes import is_missing, pandas_dtype

__all__ = ["bin_texts", "bins_of", "holds_bins"]


def holds_bins(column: Any) -> bool:
    """Whether the dtype of a column of pandas has intervals, or categories that are some."""
    dtype = getattr(column, "dtype", None)
    categories = getattr(dtype, "categories", None)
    return hasattr(dtype if categories is None else getattr(categories, "dtype", None), "closed")


def bin_texts(column: Any) -> list[Any]:
    """Intervals as text, None where missing: "(0, 10]" says all that there is to one.

    Parameters
    ----------
    column : Series or Index of pandas
        As `holds_bins` asks for.
    """
    if not hasattr(column.dtype, "categories"):
        return [None if is_missing(value) else str(value) for value in column]
    # By their codes: beside a missing value pandas lists integers as floats.
    texts = [*bin_texts(column.dtype.categories), None]
    return [texts[code] for code in column.cat.codes]


def bins_of(texts: Sequence[Any], name: str) -> Any:
    """Inverse of `bin_texts`.

    Parameters
    ----------
    texts : sequence of str or None
    name : str
        Of the dtype, as "interval[int64, right]".

    Returns
    -------
    bins : pandas.arrays.IntervalArray
    """
    import pandas as pd

    dtype = pandas_dtype(name)
    known = list(dict.fromkeys(text for text in texts if text is not None))
    ends = [text[1:-1].split(", ") for text in known]
    left, right = (pd.Index([end[side] for end in ends], dtype=object).astype(dtype.subtype) for side in (0, 1))
    bins = pd.arrays.IntervalArray.from_arrays(left, right, closed=dtype.closed)
    places = {text: place for place, text in enumerate(known)}
    return bins.take(np.array([places.get(text, -1) for text in texts], dtype=np.intp), allow_fill=True)
