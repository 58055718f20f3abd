"""A few rows of a frame as numbers and codes, read cell by cell where nothing in them is unlike the rows of the fit.

What a library and scikit-learn do for each column of a frame costs more than the score of a row. Whatever is not plain
here is left to `Table.encode`, which knows all dtypes and says what is wrong.
"""

from typing import Any

import numpy as np

from .dtypes import is_missing
from .form import is_pandas, is_polars
from .number_texts import NumberFormat
from .table import Table
from .unread import is_blank

__all__ = ["quick_rows"]

# Beyond, what is the same for every call is cheap beside reading the cells.
_MAX_ROWS = 64
# Dtypes of numbers that become float64 in any frame which has one of them, and of what categories may be held in.
_NUMBERS = {"float64", "int64", "int32", "Float64", "Int64", "Int32"}
_TEXTS = {"object", "str", "string", "String"}
_CATEGORIES = _TEXTS | {"category", "bool", "boolean", "Categorical", "Enum", "Boolean"}


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
    if table.left_out or table.dates:
        return None
    formats = table.form.number_formats
    if not table.has_levels and not formats:
        rows = X.to_numpy()
        return rows if rows.dtype == np.float64 else None
    rows, written = np.empty((len(X), len(table.levels))), [formats.get(index) for index in range(len(table.levels))]
    try:
        for place, cells in enumerate(_cells(X)):
            rows[place] = list(map(_number, cells, table.codes, written))
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
    allowed = [_NUMBERS if levels is None else _CATEGORIES for levels in table.levels]
    for index in table.form.number_formats:
        allowed[index] = _NUMBERS | _TEXTS
    return all(name in some for name, some in zip(names, allowed, strict=True))


def _cells(X: Any) -> list[Any]:
    """Rows of plain values."""
    if is_polars(X):
        return X.rows()
    if len(X) == 1:
        return [X.iloc[0].tolist()]
    return X.to_numpy(dtype=object).tolist()


def _number(value: Any, codes: dict[Any, int] | None, written: NumberFormat | None) -> float:
    """A number, of a text where numbers may be written, or the code of a level; NaN where missing.

    Raises
    ------
    TypeError, ValueError
        If it is neither.
    """
    if written is not None and isinstance(value, str):
        number = written.read(value)
        if np.isnan(number) and not is_blank(value):
            raise ValueError(value)
        return number
    code = value if codes is None else codes.get(value)
    if code is None or type(code).__name__ == "NAType":
        if not is_missing(value):
            raise ValueError(value)
        return np.nan
    return float(code)
