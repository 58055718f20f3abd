"""Arrays and tables of any supported library to tensors and back."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._support.compat import get_namespace_and_device
from .large import as_tensor

__all__ = ["filled_table", "like_input", "like_table", "to_tensor"]


def to_tensor(X: Any) -> Tensor:
    """View a validated array of any supported library as a tensor, without a copy where there can be one."""
    if isinstance(X, Tensor):
        return X.detach()
    return as_tensor(X if isinstance(X, np.ndarray) else np.from_dlpack(X))


def like_input(values: Tensor, X: Any, *, dtype: str | None = None) -> Any:
    """Give a tensor back as an array of the library, the device and (by default) the dtype of ``X``.

    Parameters
    ----------
    values : Tensor
    X : array
    dtype : {"float64", "int64"} or None
    """
    if isinstance(X, Tensor):
        return values.to(device=X.device, dtype=X.dtype if dtype is None else getattr(torch, dtype))
    array = values.cpu().numpy()
    if isinstance(X, np.ndarray):
        return array.astype(X.dtype if dtype is None else dtype, copy=False)
    xp, _, device = get_namespace_and_device(X)
    return xp.asarray(array, dtype=X.dtype if dtype is None else getattr(xp, dtype), device=device)


def like_table(values: Any, X: Any) -> Any:
    """Give an array the form of ``X``: a table of its kind and its labels if it is one."""
    columns = getattr(X, "columns", None)
    if columns is None:
        return values
    if hasattr(X, "iloc"):
        return type(X)(values, index=X.index, columns=columns)
    return type(X)({name: values[:, index] for index, name in enumerate(columns)})


def filled_table(X: Any, values: np.ndarray, missing: np.ndarray) -> Any:
    """Put numbers into the missing cells of a table and leave everything else as it is, dtypes included.

    Parameters
    ----------
    X : DataFrame
        Of pandas or polars.
    values : ndarray of shape (n_samples, n_features)
    missing : ndarray of bool of shape (n_samples, n_features)
        Cells to fill. A cell of an integer column gets the nearest integer; one for which there is no number stays
        missing.

    Returns
    -------
    table : DataFrame
    """
    filled = {}
    missing = missing & np.asarray(values == values, dtype=bool)
    for index in np.flatnonzero(missing.any(axis=0)):
        column = X.iloc[:, index] if hasattr(X, "iloc") else X.to_series(int(index))
        kind = str(column.dtype).lower()
        whole = kind.startswith(("int", "uint"))
        new = [None if number != number else (round(number) if whole else number) for number in values[:, index]]
        if hasattr(X, "iloc"):
            own = column.copy()
            if kind == "category":  # a level that the fit knew and these rows do not have
                known = set(own.cat.categories)
                own = own.cat.add_categories(sorted({n for n in new if n is not None} - known))
            holes = np.flatnonzero(missing[:, index])
            own.iloc[holes] = [new[row] for row in holes]
            filled[index] = own if kind == "category" else own.astype(column.dtype)
        else:
            cells = column.to_list()
            both = [number if hole else cell for number, hole, cell in zip(new, missing[:, index], cells, strict=True)]
            filled[index] = type(column)(column.name, both, dtype=column.dtype)
    if not hasattr(X, "iloc"):
        return X.with_columns(list(filled.values()))
    table = X.copy()
    for index, column in filled.items():
        table.isetitem(index, column)
    return table
