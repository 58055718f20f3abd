"""A few rows of a frame as numbers and codes, read cell by cell where nothing in them is unlike the rows of the fit.

What a library and scikit-learn do for each column of a frame costs more than the score of a row. Whatever is not plain
here is left to `Table.encode`, which knows all dtypes and says what is wrong.
"""

from typing import Any

import numpy as np

from .form import is_pandas, is_polars
from .table import Table

__all__ = ["quick_rows"]

# Beyond, what is the same for every call is cheap beside reading the cells.
_MAX_ROWS = 64


def quick_rows(table: Table, X: Any) -> np.ndarray | None:
    """Read a few rows that look as those of the fit.

    Parameters
    ----------
    table : Table
        Of a frame.
    X : Any

    Returns
    -------
    rows : ndarray of shape (n_samples, n_features) in float64, or None
        What `Table.encode` and the checks after it would make of X; None where they must look at it themselves: at any
        other container or dtype, other columns, a level that is new.
    """
    if not (is_pandas(X) or is_polars(X)) or not 0 < len(X) <= _MAX_ROWS or not _alike(table, X):
        return None
    if table.is_plain:
        rows = X.to_numpy()
        return rows if rows.dtype == np.float64 else None
    rows, read = np.empty((len(X), len(table.columns))), [column.number for column in table.columns]
    try:
        for place, cells in enumerate(_cells(X)):
            rows[place] = [number(cell) for number, cell in zip(read, cells, strict=True)]
    except (TypeError, ValueError):
        return None
    return rows


def _alike(table: Table, X: Any) -> bool:
    """Whether the columns are those of the table, in dtypes of which their values become float64."""
    labels = X.columns if is_polars(X) else X.columns.tolist()
    if labels != list(table.form.labels):
        return False
    dtypes = X.dtypes if is_polars(X) else X.dtypes.tolist()
    names = [type(dtype).__name__ if is_polars(X) else dtype.name for dtype in dtypes]
    return all(name in column.quick_dtypes for name, column in zip(names, table.columns, strict=True))


def _cells(X: Any) -> list[Any]:
    """Rows of plain values."""
    if is_polars(X):
        return X.rows()
    if len(X) == 1:
        return [X.iloc[0].tolist()]
    return X.to_numpy(dtype=object).tolist()
