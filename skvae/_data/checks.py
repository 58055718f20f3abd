"""Checks of a user's table: its shape, its names, its weights, its values; each error names the column and the row."""

from collections.abc import Iterator, Mapping, Sequence, Set
from math import isfinite
from numbers import Number
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .._support.compat import check_sample_weight
from .._tables.cells import (
    MAX_LISTED,
    Cells,
    is_number,
    kind_of,
    no_category,
    raise_all,
    refused_cells,
    refused_columns,
)
from .._tables.form import as_source, is_frame, labels_of, unmasked
from .large import release

__all__ = ["check_finite", "check_is_table", "check_real", "check_weights", "plainer"]

_COMPLEX = (
    "Complex data not supported: columns must hold real numbers, but X is complex. Pass "
    "numpy.hstack([X.real, X.imag]), or numpy.abs(X)."
)
# Calls of other libraries that give a table in memory: xarray's, many, DuckDB's, and of Arrow's readers and datasets.
_TO_TABLE = ("to_dataframe", "to_pandas", "df", "read_all", "to_table")
_ARRAY_LIKE = ("__array__", "__array_interface__", "__array_namespace__", "__dlpack__", "__len__")
# What an array of objects may hold without a second look.
_PLAIN_CELLS = {int, float, bool, str, type(None)}


def check_weights(sample_weight: Any, n_samples: int) -> np.ndarray | None:
    """Validate ``sample_weight`` for a number of rows.

    Returns
    -------
    weight : ndarray of shape (n_samples,) in float64, or None if there is none or all are one

    Raises
    ------
    ValueError
        If a weight is negative, or all are zero.
    """
    if sample_weight is None:
        return None
    if isinstance(sample_weight, torch.Tensor):
        sample_weight = sample_weight.detach().cpu().numpy()
    elif not isinstance(sample_weight, np.ndarray) and hasattr(sample_weight, "__array_namespace__"):
        sample_weight = np.from_dlpack(sample_weight)
    if isinstance(sample_weight, str):
        raise ValueError(
            f"'sample_weight' must hold one number for each row, but the text {sample_weight!r} came. Pass an array, "
            "or leave it out to count every row once."
        )
    weight = check_sample_weight(unmasked(sample_weight), np.empty((n_samples, 1)))
    if not weight.any():
        raise ValueError(
            "Sample weights must contain at least one non-zero number, but all are zero. Leave 'sample_weight' out to "
            "count every row once."
        )
    if (weight < 0).any():
        row = int(np.argmax(weight < 0))
        raise ValueError(
            f"Sample weights must not be negative, but row {row} has {weight[row]:g}. Use 0 to leave a row out."
        )
    return None if (weight == 1.0).all() else weight


def check_real(X: Any) -> None:
    """Refuse an array of complex numbers, before a column of it is asked for its levels."""
    if isinstance(X, np.ndarray) and X.dtype.kind == "c":
        raise ValueError(_COMPLEX)


def check_is_table(X: Any) -> None:
    """Refuse what becomes a table by one call of its own, which the message names."""
    if hasattr(type(X), "collect_schema") and hasattr(type(X), "collect"):
        raise ValueError(f"X must be a table in memory, but a {type(X).__name__} came. Pass X.collect().")
    told = _no_table(X)
    if told is not None:
        came, remedy = told
        raise ValueError(f"X must be a table, but {came} came. Pass {remedy}.")
    if is_frame(X):  # scikit-learn's word for names that repeat depends on its version
        raise_all(refused_columns(X, labels_of(X), dated=True).values())
        return
    source = as_source(X)
    if source is not None and source.dtype.kind == "c":
        raise ValueError(_COMPLEX)
    if source is not None and source.dtype == object and not set(map(type, source.flat)) <= _PLAIN_CELLS:
        _check_cells(source)


def _no_table(X: Any) -> tuple[str, str] | None:
    """What came in place of a table, and what to pass; None for what may be one."""
    name = type(X).__name__
    frame = "pandas.DataFrame(X)"
    own = next((f"X.{method}()" for method in _TO_TABLE if hasattr(type(X), method)), None)
    if isinstance(X, Mapping) and not hasattr(X, "shape"):  # a sparse array of keys is one, too
        return f"a {name}", own or ("X.data" if hasattr(X, "data") else frame)
    if isinstance(X, (list, tuple)) and X and isinstance(X[0], Mapping):
        return f"a {type(X).__name__} of {type(X[0]).__name__}s", frame
    if isinstance(X, np.ndarray) and X.dtype.names is not None:
        return "an array of records", frame
    if name == "Series" and hasattr(X, "dtype"):
        one_row = "X.to_frame().T if it is one row, " if hasattr(X, "iloc") else ""
        return "a Series", f"a DataFrame: {one_row}X.to_frame() if it is one column"
    if isinstance(X, DataLoader):
        return f"a {name}", "all its rows as one array, or each of its batches to partial_fit"
    if isinstance(X, Dataset):
        return f"a {name}", "all its rows as one array, such as X.tensors[0] of a TensorDataset"
    if hasattr(type(X), "compute") and hasattr(type(X), "iloc"):
        return f"a {name} that is not in memory", "X.compute()"
    if hasattr(type(X), "__arrow_c_stream__"):
        own = own or "pyarrow.table(X)"
    if own and not is_frame(X) and not hasattr(X, "__array__"):
        return f"a {name}", own
    if isinstance(X, (Iterator, Set)):
        return f"a {name}", "numpy.array(list(X))"
    if isinstance(X, PathLike):
        return f"the path {str(X)!r}", f"what the file holds, such as pandas.read_csv({str(X)!r})"
    if not isinstance(X, Number | None) and not any(hasattr(X, method) for method in _ARRAY_LIKE):
        return f"a {name}", "an array or a DataFrame"
    return None


def _check_cells(X: np.ndarray) -> None:
    """Refuse an array of objects that are neither numbers nor text, naming the columns."""
    columns = [Cells.of(X, index) for index in range(X.shape[1])]
    problems = [cells.refused(f"x{index}") for index, cells in enumerate(columns)]
    told = [problem for problem in problems if problem is not None]
    if any("nested values" in cells.present() for cells in columns):
        # In the words and of the type that scikit-learn's checks ask for.
        raise TypeError("\n".join(["Each argument must be a string or a real number.", *told]))
    raise_all(told)


def plainer(message: str, X: Any, names: Any) -> str | None:
    """Say of scikit-learn's or NumPy's complaint what must hold, what came and what to do; None if it says so."""
    if "Complex data not supported" in message:
        return _COMPLEX
    if "must be in the same order" in message:
        pairs = enumerate(zip(names, labels_of(X), strict=True))
        place, (known, given) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
        return (
            f"{message.rstrip()}\nColumn {place} is {given!r}, but was {str(known)!r}. Pass the columns in the order "
            "of feature_names_in_."
        )
    if "at least one array or dtype" in message:
        return f"X must have at least 1 column, but its shape is {X.shape}. Pass the columns to learn from."
    if "features, but" in message:
        return f"{message.rstrip('.')}. Pass the columns that it was fitted on, in the same order."
    not_numbers = ("could not convert string", "could not be promoted", "datetime64")
    if any(part in message for part in not_numbers):
        return _wrong_cell(X)
    return None


def _wrong_cell(X: Any) -> str | None:
    """Name the first cell that holds text or a time; None if there is none."""
    if isinstance(X, str):
        return f"X must be a table of numbers, but the text {X!r} came. Read the file first: pandas.read_csv({X!r})."
    table, columns = np.asarray(X, dtype=object), labels_of(X) if is_frame(X) else None
    for index in range(table.shape[1] if table.ndim == 2 else 0):
        label = f"x{index}" if columns is None else columns[index]
        for row, value in enumerate(table[:, index]):
            kind = kind_of(value)
            if kind == "text" and not is_number(value):
                return no_category(label, value, row)
            if kind not in ("text", "number", "bool", "missing"):
                return refused_cells(label, kind, value, row)
    return None


def check_finite(values: Tensor, names: Sequence[str]) -> bool:
    """Refuse infinite values, naming the first one of each column; NaN is a missing cell.

    Returns
    -------
    complete : bool
        Whether no cell is missing.

    Raises
    ------
    ValueError
    """
    complete = True
    first_wrong: dict[int, tuple[int, float]] = {}  # row and value by column
    for first in range(0, len(values), 65536):
        rows = values[first : first + 65536]
        # One sum finds almost every chunk finite; a missing cell or an overflow makes a second look necessary.
        total = float(rows.sum())
        release(values)
        if isfinite(total):
            continue
        complete = complete and not torch.isnan(rows).any()
        wrong = torch.isinf(rows)
        for column in wrong.any(dim=0).nonzero().flatten().tolist():
            row = int(wrong[:, column].nonzero()[0])
            first_wrong.setdefault(column, (first + row, float(rows[row, column])))
    if first_wrong:
        found = sorted(first_wrong.items())
        cells = [f"column {names[column]!r} holds {value} in row {row}" for column, (row, value) in found]
        more = f"; the same holds for {len(cells) - MAX_LISTED} more" if len(cells) > MAX_LISTED else ""
        raise ValueError(
            f"Columns must hold finite or missing values, but {', '.join(cells[:MAX_LISTED])}{more}. Drop such rows, "
            "or replace the value by NaN to mark it as missing."
        )
    return complete
