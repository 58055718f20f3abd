"""Several tables of the same rows as one: what draws of missing values agree on."""

from collections import Counter
from datetime import date, timedelta
from typing import Any

import numpy as np

from .dtypes import is_missing
from .form import Form, as_source, cells_of, is_frame, is_pandas, with_columns

__all__ = ["average_tables"]


def average_tables(tables: list[Any]) -> Any:
    """Average draws of a table: means of numbers, nearly so of dates, commonest levels; values they share stay as is.

    Parameters
    ----------
    tables : list of (array or table), each of shape (n_samples, n_features)
        As `impute` gives them; NumPy arrays of objects hold levels.

    Returns
    -------
    table : array or table of shape (n_samples, n_features)
        Of the library and the dtypes of the first; means of integers are rounded.
    """
    first, *others = tables
    if not others:
        return first
    if not is_frame(first) and not (isinstance(first, np.ndarray) and first.dtype.kind == "O"):
        # By differences, so that equal values are kept to the bit.
        return first + sum(table - first for table in others) / len(tables)
    form, sources = Form.of(first), [as_source(table) for table in tables]
    columns = {}
    for index in range(len(form.labels)):
        draws = list(zip(*(cells_of(source, index) for source in sources), strict=True))
        if any(_differ(cells) for cells in draws):
            columns[index] = _average_column(draws, form, index)
    if is_frame(first):
        row_labels = first.index if is_pandas(first) else None
        columns = {place: form.series(place, cells, row_labels) for place, cells in columns.items()}
    return with_columns(sources[0], columns)


def _differ(cells: tuple[Any, ...]) -> bool:
    """Whether draws of a cell differ; one that is missing is so in all of them."""
    return not is_missing(cells[0]) and any(cell != cells[0] for cell in cells)


def _average_column(draws: list[tuple[Any, ...]], form: Form, index: int) -> list[Any]:
    """Cells of a column, averaged where the draws differ; of dates the one that is next to their mean."""
    is_number = not any(isinstance(cell, (str, bool)) for cells in draws for cell in cells[:1])
    merged = []
    for cells in draws:
        value = cells[0]
        if _differ(cells) and isinstance(value, (date, timedelta)):
            mean = value + sum((cell - value for cell in cells), timedelta()) / len(cells)
            value = min(cells, key=lambda cell: abs(cell - mean))
        elif _differ(cells) and hasattr(value, "ordinal"):  # a period
            mean = np.mean([cell.ordinal for cell in cells])
            value = min(cells, key=lambda cell: abs(cell.ordinal - mean))
        elif _differ(cells) and is_number:
            value = form.cast(index, np.array([np.mean([float(cell) for cell in cells])]))[0]
            value = value.item() if isinstance(value, np.generic) else value
        elif _differ(cells):
            value = Counter(cells).most_common(1)[0][0]
        merged.append(value)
    return merged
