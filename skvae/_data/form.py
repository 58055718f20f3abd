"""What a table looks like from outside: its library, the labels and dtypes of its columns; read and built alike."""

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Form", "as_source", "column_of", "is_pandas", "is_polars", "labels_of"]


def is_pandas(X: Any) -> bool:
    """Whether it is a DataFrame of pandas; nothing is imported to tell."""
    return hasattr(X, "iloc") and hasattr(X, "dtypes") and hasattr(X, "columns")


def is_polars(X: Any) -> bool:
    """Whether it is a DataFrame of polars."""
    return hasattr(X, "to_series") and hasattr(X, "with_columns") and hasattr(X, "schema")


def as_source(X: Any) -> Any:
    """What columns can be read from: a DataFrame or a two-dimensional array; None for anything else."""
    if isinstance(X, (list, tuple)):
        try:
            array = np.asarray(X)
        except (TypeError, ValueError):
            return None  # ragged: scikit-learn says so
        X = np.array(X, dtype=object) if array.dtype.kind in "OUb" and array.ndim == 2 else array
    if is_pandas(X) or is_polars(X) or (isinstance(X, np.ndarray) and X.ndim == 2):
        return X
    return None


def labels_of(X: Any) -> tuple[Any, ...]:
    """Labels of the columns, which must differ; x0, x1, ... for an array."""
    if isinstance(X, np.ndarray):
        return tuple(f"x{index}" for index in range(X.shape[1]))
    labels = list(X.columns)
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(
            f"Columns must have names of their own, but {labels.count(twice)} are called {twice!r}. Rename or drop "
            "some of them."
        )
    return tuple(labels)


def column_of(X: Any, index: int) -> Any:
    """One column of a source."""
    if isinstance(X, np.ndarray):
        return X[:, index]
    return X.iloc[:, index] if is_pandas(X) else X.to_series(index)


@dataclass(frozen=True)
class Form:
    """What a table looks like from outside: its library, labels and dtypes.

    Attributes
    ----------
    library : {"numpy", "pandas", "polars"}
    labels : tuple
    dtypes : tuple of str
    categories : dict of int to dict
        Levels, order and dtype of the columns whose dtype lists them.
    """

    library: str
    labels: tuple[Any, ...]
    dtypes: tuple[str, ...]
    categories: dict[int, dict[str, Any]]

    @classmethod
    def of(cls, X: Any) -> "Form":
        """Describe a table."""
        X = as_source(X)
        labels = labels_of(X)
        if isinstance(X, np.ndarray):
            return cls("numpy", labels, (str(X.dtype),) * len(labels), {})
        dtypes, categories = [], {}
        for index in range(len(labels)):
            dtype = column_of(X, index).dtype
            dtypes.append(_dtype_name(dtype))
            if is_pandas(X) and str(dtype) == "category":
                own = dtype.categories
                categories[index] = {
                    "values": own.tolist(), "dtype": _dtype_name(own.dtype), "ordered": bool(dtype.ordered)
                }  # fmt: skip
            elif dtypes[-1] == "Enum":
                categories[index] = {"values": dtype.categories.to_list()}
        return cls("pandas" if is_pandas(X) else "polars", labels, tuple(dtypes), categories)

    def build(self, columns: list[Any], index: Any = None) -> Any:
        """Make a table of columns of plain values, None or NaN where missing.

        Parameters
        ----------
        columns : list of (list or ndarray)
        index : Index, default=None
            Row labels of a pandas table.

        Returns
        -------
        table : ndarray, pandas.DataFrame or polars.DataFrame
        """
        if self.library == "numpy":
            if all(isinstance(column, np.ndarray) for column in columns):
                return np.column_stack(columns)
            table = np.empty((len(columns[0]), len(columns)), dtype=object)
            for place, column in enumerate(columns):
                table[:, place] = column
            whole = self.dtypes[0] == "bool" and not any(value is None for column in columns for value in column)
            return table.astype(bool) if whole else table
        ready = [_in_dtype(column, dtype) for column, dtype in zip(columns, self.dtypes, strict=True)]
        return self._pandas(ready, index) if self.library == "pandas" else self._polars(ready)

    def _pandas(self, columns: list[Any], index: Any) -> Any:
        import pandas as pd

        parts = {}
        for place, (column, dtype) in enumerate(zip(columns, self.dtypes, strict=True)):
            own = self.categories.get(place)
            if own is not None:
                levels = pd.Index(_with(own["values"], column), dtype=_pandas_dtype(own["dtype"]))
                parts[place] = pd.Series(pd.Categorical(column, categories=levels, ordered=own["ordered"]), index=index)
            else:
                parts[place] = pd.Series(column, index=index, dtype=_pandas_dtype(dtype))
        table = pd.DataFrame(parts, index=index)
        table.columns = list(self.labels)
        return table

    def _polars(self, columns: list[Any]) -> Any:
        import polars as pl

        parts = []
        for place, (label, column, dtype) in enumerate(zip(self.labels, columns, self.dtypes, strict=True)):
            own = self.categories.get(place)
            kind = getattr(pl, dtype) if own is None else pl.Enum(_with(own["values"], column))
            parts.append(pl.Series(label, column, dtype=kind, strict=False))
        return pl.DataFrame(parts)

    def state(self) -> dict[str, Any]:
        """Plain values for a pickle."""
        return {
            "library": self.library,
            "labels": list(self.labels),
            "dtypes": list(self.dtypes),
            "categories": [[place, own] for place, own in self.categories.items()],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Form":
        """Inverse of `state`."""
        categories = {int(place): dict(own) for place, own in state["categories"]}
        return cls(state["library"], tuple(state["labels"]), tuple(state["dtypes"]), categories)


def _with(categories: list[Any], column: list[Any]) -> list[Any]:
    """Categories of a dtype, and those that a column holds beside."""
    known = set(categories)
    return categories + sorted({value for value in column if value is not None} - known)


def _dtype_name(dtype: Any) -> str:
    """A text from which `_pandas_dtype`, or a class of polars, is found again."""
    arrow = getattr(dtype, "pyarrow_dtype", None)
    if arrow is not None:
        return f"{getattr(arrow, 'value_type', arrow)}[arrow]"
    if hasattr(dtype, "storage"):  # pandas' text dtypes differ in their missing value
        return f"text:{dtype.storage}:{'nan' if isinstance(dtype.na_value, float) else 'NA'}"
    return str(dtype).split("(")[0]


def _pandas_dtype(name: str) -> Any:
    import pandas as pd

    if name.startswith("text:"):
        _, storage, missing = name.split(":")
        return pd.StringDtype(storage, na_value=np.nan) if missing == "nan" else pd.StringDtype(storage)
    if name.endswith("[arrow]"):
        import pyarrow

        return pd.ArrowDtype(pyarrow.type_for_alias(name.removesuffix("[arrow]")))
    return pd.api.types.pandas_dtype(name)


def _in_dtype(column: Any, dtype: str) -> Any:
    """Round numbers where a column holds integers or booleans; lists otherwise as they are."""
    name = dtype.lower().removesuffix("[arrow]")
    if not isinstance(column, np.ndarray) or not name.startswith(("int", "uint", "bool")):
        return column
    if name.startswith("bool"):
        return [None if number != number else number >= 0.5 for number in column.tolist()]
    bounds = np.iinfo(name)
    return [None if number != number else min(max(round(number), bounds.min), bounds.max) for number in column.tolist()]
