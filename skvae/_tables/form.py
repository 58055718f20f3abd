"""What a table looks like from outside: its library, the labels and dtypes of its columns; read and built alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .bins import bin_texts, bins_of, holds_bins
from .dates import DecodedDates, date_dtype_of
from .dtypes import arrow_type, column_type, dtype_name, in_dtype, is_missing, object_name, pandas_dtype, polars_dtype
from .number_texts import DecodedNumbers

__all__ = [
    "PLAIN_DTYPES",
    "Form",
    "as_source",
    "cells_of",
    "column_of",
    "dtypes_of",
    "is_arrow",
    "is_frame",
    "is_pandas",
    "is_polars",
    "labels_of",
    "missing_as_nan",
    "names_of",
    "unmasked",
    "with_columns",
]


def is_pandas(X: Any) -> bool:
    """Whether it is a DataFrame of pandas, in memory; nothing is imported to tell, and no column asked for its name."""
    cls = type(X)
    return hasattr(cls, "iloc") and hasattr(cls, "dtypes") and hasattr(cls, "columns") and not hasattr(cls, "compute")


def is_polars(X: Any) -> bool:
    """Whether it is a DataFrame of polars."""
    cls = type(X)
    return hasattr(cls, "to_series") and hasattr(cls, "with_columns") and hasattr(cls, "schema")


def is_arrow(X: Any) -> bool:
    """Whether it is a Table or a RecordBatch of Arrow."""
    cls = type(X)
    return hasattr(cls, "column_names") and hasattr(cls, "schema") and hasattr(cls, "to_pylist")


def is_frame(X: Any) -> bool:
    """Whether its columns have names and dtypes of their own."""
    return is_pandas(X) or is_polars(X) or is_arrow(X)


def unmasked(X: Any) -> Any:
    """An array whose masked cells, if it has a mask, are missing ones; anything else as it is."""
    if isinstance(X, (list, tuple)) and any(isinstance(row, np.ma.MaskedArray) for row in X):
        X = np.ma.stack([np.ma.asarray(row) for row in X])
    if not isinstance(X, np.ma.MaskedArray) or X.dtype.names is not None:
        return X
    mask = np.ma.getmaskarray(X)
    if not mask.any() or X.dtype.kind == "c":
        return np.asarray(X.data)
    dtype = X.dtype if X.dtype.kind == "f" else (np.float64 if X.dtype.kind in "iu" else object)
    whole = np.array(X.data, dtype=dtype)
    whole[mask] = None if whole.dtype == object else np.nan
    return whole


def missing_as_nan(X: Any) -> Any:
    """An array or lists of objects with NaN for pandas' missing values, which are no number to NumPy; else X itself."""
    source = as_source(X) if isinstance(X, (list, tuple)) else X
    if not isinstance(source, np.ndarray) or source.dtype != object:
        return X
    if not {"NAType", "NaTType"} & {cell.__name__ for cell in set(map(type, source.flat))}:
        return X
    return np.where(np.frompyfunc(is_missing, 1, 1)(source).astype(bool), np.nan, source)


def as_source(X: Any) -> Any:
    """What columns can be read from: a DataFrame or a two-dimensional array; None for anything else."""
    X = unmasked(X)
    if isinstance(X, (list, tuple)):
        try:
            array = np.asarray(X)
        except (TypeError, ValueError, OverflowError):
            return None  # ragged: scikit-learn says so
        # Integers beside fractions become floats, which beyond 2**53 are others.
        inexact = array.dtype.kind == "f" and bool((np.abs(array) >= 2.0**53).any())
        X = np.array(X, dtype=object) if (array.dtype.kind in "OUb" or inexact) and array.ndim == 2 else array
    elif _holds_text(X):
        X = np.asarray(X)
    if is_frame(X) or (isinstance(X, np.ndarray) and X.ndim == 2):
        return X
    return None


def _holds_text(X: Any) -> bool:
    """Whether it is an array or a frame of a library that is not known here, of more than numbers."""
    if isinstance(X, (np.ndarray, Mapping)) or is_frame(X) or not hasattr(X, "__array__"):
        return False
    dtype = X.dtype if hasattr(X, "dtype") else np.asarray(X).dtype  # where it has one, nothing is computed to tell
    return getattr(dtype, "kind", None) in ("O", "U")


def labels_of(X: Any) -> tuple[Any, ...]:
    """Labels of the columns, which must differ; x0, x1, ... for an array."""
    if isinstance(X, np.ndarray):
        return tuple(f"x{index}" for index in range(X.shape[1]))
    labels = list(X.column_names if is_arrow(X) else X.columns)
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
    if is_pandas(X):
        return X.iloc[:, index]
    return X.column(index) if is_arrow(X) else X.to_series(index)


def cells_of(X: Any, index: int) -> list[Any]:
    """The plain values of one column of a source; text for intervals."""
    column = column_of(X, index)
    if holds_bins(column):
        return bin_texts(column)
    if is_arrow(X):
        return column.to_pylist()
    return column.to_list() if is_polars(X) else column.tolist()


def dtypes_of(X: Any) -> list[Any]:
    """Dtypes of the columns of a source."""
    if isinstance(X, np.ndarray):
        return [X.dtype] * X.shape[1]
    return list(X.schema.types if is_arrow(X) else X.dtypes)


def names_of(X: Any) -> list[str]:
    """Names of the dtypes of the columns of a source; a wide table has few different ones."""
    known: dict[Any, str] = {}
    return [known.get(dtype) or known.setdefault(dtype, dtype_name(dtype)) for dtype in dtypes_of(X)]


def with_columns(X: Any, columns: Mapping[int, Any]) -> Any:
    """A source with other columns in some places."""
    if isinstance(X, np.ndarray):
        X = X.astype(object)
        for index, column in columns.items():
            X[:, index] = column
        return X
    if is_polars(X):
        import polars

        return X.with_columns([polars.Series(X.columns[index], column) for index, column in columns.items()])
    if is_arrow(X):
        import pyarrow

        for index, column in columns.items():
            ready = (
                column
                if isinstance(column, (pyarrow.Array, pyarrow.ChunkedArray))
                else pyarrow.array(column, from_pandas=True)
            )
            X = X.set_column(index, X.column_names[index], ready)
        return X
    X = X.copy(deep=False)
    for index, column in columns.items():
        X.isetitem(index, column)
    return X


@dataclass(frozen=True)
class Form:
    """What a table looks like from outside: its library, labels and dtypes.

    Attributes
    ----------
    library : {"numpy", "pandas", "polars", "pyarrow"}
    labels : tuple
    dtypes : tuple of str
        As `dtype_name` gives them.
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
        names: list[str] = []
        categories: dict[int, dict[str, Any]] = {}
        special = {name for name in set(names_of(X)) if column_type(name) in ("category", "object")}
        for index, name in enumerate(names_of(X)):
            names.append(object_name(cells_of(X, index)) if name in special and name == "object" else name)
            category = _categories(X, index, name) if name in special else None
            if category:
                categories[index] = category
        library = "numpy" if isinstance(X, np.ndarray) else "pandas" if is_pandas(X) else "polars"
        return cls("pyarrow" if is_arrow(X) else library, labels, tuple(names), categories)

    def holding(self, kinds: Sequence[str | None], blank: Sequence[bool], other: "Form") -> "Form":
        """The same with another dtype where a column cannot hold what it will be given.

        Parameters
        ----------
        kinds : sequence of {"text", "bool", "number", "number text", "date", "duration"} or None
            What each column will be given; None for nothing.
        blank : sequence of bool
            Whether every value of the column is missing in the table that this describes.
        other : Form
            Of the table that was fitted, whose dtype a column then gets, or the plain one of its library.

        Returns
        -------
        form : Form
        """
        form = self
        for index, kind in enumerate(kinds):
            if kind is None:
                continue
            # A column of numbers whose dtype held none was empty in the fit, and nothing comes of it.
            empty = kind == "number" and not (_holds_numbers(form, index) or _holds_numbers(other, index))
            fits = empty or _holds(form, index, kind)
            unread = blank[index] and kind == "bool" and column_type(self.dtypes[index]) == "number"
            if fits and not unread:
                continue
            if self.library == other.library and _holds(other, index, kind):
                form = form.with_dtype(index, other.dtypes[index], other.categories.get(index))
            elif not fits:
                form = form.with_dtype(index, PLAIN_DTYPES[self.library][kind])
        return form

    def with_dtype(self, place: int, dtype: str, category: dict[str, Any] | None = None) -> "Form":
        """The same with another dtype, and what it lists, of one column."""
        dtypes, categories = list(self.dtypes), {key: one for key, one in self.categories.items() if key != place}
        dtypes[place] = dtype
        return replace(self, dtypes=tuple(dtypes), categories=categories | ({place: category} if category else {}))

    def cast(self, place: int, column: Any) -> Any:
        """Bring one column, a list of levels or an array of numbers, into what its dtype can hold, but for dates."""
        dtype, column = self.dtypes[place], _objects(column) if self.library == "numpy" else column
        if isinstance(column, DecodedDates):
            return column
        if isinstance(column, DecodedNumbers):
            column = column.cells(column_type(dtype))
        return in_dtype(column, dtype, self.categories.get(place, {}).get("values"))

    def build(self, columns: list[Any], index: Any = None, labels: Any = None) -> Any:
        """Make a table of columns of plain values, None or NaN where missing.

        Parameters
        ----------
        columns : list of (list or ndarray)
        index : Index, default=None
            Row labels of a pandas table.
        labels : Index, default=None
            Column labels of a pandas table, where they are more than a list.

        Returns
        -------
        table : ndarray, pandas.DataFrame, polars.DataFrame or pyarrow.Table
        """
        if self.library == "numpy":
            return self._numpy(columns)
        ready = [self.series(place, self.cast(place, column), index) for place, column in enumerate(columns)]
        if self.library == "pyarrow":
            import pyarrow

            return pyarrow.Table.from_arrays(ready, names=list(self.labels))
        if self.library == "polars":
            import polars as pl

            return pl.DataFrame(ready)
        import pandas as pd

        table = pd.DataFrame(dict(enumerate(ready)), index=index)
        if labels is None:
            in_levels = all(isinstance(label, tuple) for label in self.labels)
            labels = pd.MultiIndex.from_tuples(self.labels) if in_levels else list(self.labels)
        table.columns = labels
        return table

    def series(self, place: int, column: Any, index: Any = None) -> Any:
        """One column of values that its dtype can hold, as the library has it."""
        dtype, category = self.dtypes[place], self.categories.get(place)
        if isinstance(column, DecodedDates):
            if date_dtype_of(dtype) is not None:
                return column.series(self.library, dtype, self.labels[place], index)
            column = column.texts() if column_type(dtype) == "text" else column.objects(dtype)
        if self.library == "pyarrow":
            return _arrow_array(column, arrow_type(dtype))
        if self.library == "polars":
            return _polars_series(self.labels[place], column, dtype, category)
        return _pandas_series(column, dtype, category, index)

    def listed(self, place: int, column: Any) -> list[Any]:
        """Plain values of one column as its dtype has them: periods and intervals are such, not dates and text."""
        if self.library == "numpy":
            return list(column)
        made = self.series(place, self.cast(place, column))
        return made.to_pylist() if self.library == "pyarrow" else made.to_list()

    def _numpy(self, columns: list[Any]) -> Any:
        columns = [_objects(column) for column in columns]
        dtype = np.dtype(self.dtypes[0].split(":")[0])
        if all(isinstance(column, np.ndarray) for column in columns):
            return np.column_stack(columns)
        if dtype.kind == "f":
            return np.column_stack([np.array(column, dtype=float) for column in columns]).astype(self.dtypes[0])
        table = np.empty((len(columns[0]), len(columns)), dtype=object)
        for place, column in enumerate(columns):
            table[:, place] = column
        whole = dtype.kind == "b" or (
            dtype.kind in "iu" and not any(isinstance(column, np.ndarray) for column in columns)
        )
        complete = whole and not any(value is None for column in columns for value in column)
        return table.astype(self.dtypes[0]) if complete else table

    def state(self) -> dict[str, Any]:
        """Plain values for a pickle."""
        return {
            "library": self.library,
            "labels": [_plain(label) for label in self.labels],
            "dtypes": list(self.dtypes),
            "categories": [[place, category] for place, category in self.categories.items()],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Form":
        """Inverse of `state`.

        Raises
        ------
        ValueError
            If its parts do not fit together.
        """
        categories = {int(place): dict(category) for place, category in state["categories"]}
        labels = tuple(_label(label) for label in state["labels"])
        form = cls(state["library"], labels, tuple(state["dtypes"]), categories)
        if len(form.labels) != len(form.dtypes) or form.library not in ("numpy", *PLAIN_DTYPES):
            raise ValueError(f"a table of {form.library!r} has {len(labels)} labels and {len(form.dtypes)} dtypes")
        return form


# What columns of text, booleans, numbers, dates and durations are where the dtype of the table itself cannot hold them.
PLAIN_DTYPES = {
    "numpy": {
        "text": "object", "bool": "object", "number": "float64", "number text": "float64",
        "date": "object", "duration": "object",
    },
    "pandas": {
        "text": "object", "bool": "boolean", "number": "float64", "number text": "float64",
        "date": "datetime64[us]", "duration": "timedelta64[us]",
    },
    "polars": {
        "text": "String", "bool": "Boolean", "number": "Float64", "number text": "Float64",
        "date": "Datetime(us)", "duration": "Duration(us)",
    },
    "pyarrow": {
        "text": "string[arrow]", "bool": "bool[arrow]", "number": "double[arrow]", "number text": "double[arrow]",
        "date": "timestamp[us][arrow]", "duration": "duration[us][arrow]",
    },
}  # fmt: skip


def _objects(column: Any) -> Any:
    """A decoded column for an array, in which days are dates, and numbers no text."""
    return column.objects() if isinstance(column, (DecodedDates, DecodedNumbers)) else column


def _holds(form: Form, place: int, kind: str) -> bool:
    """Whether the dtype of a column can hold text, booleans, numbers, dates or durations."""
    held = column_type(form.dtypes[place])
    if kind in ("date", "duration"):
        return held in (f"{kind}s", "object") or (kind == "date" and held == "text")
    if held == "object":
        return True
    if held == "category":
        values = form.categories.get(place, {}).get("values")
        if values == []:  # of a blank column, whose dtype says nothing
            return False
        inside = {"text" if isinstance(value, str) else "number" for value in values or [""]}
        return inside == {"text" if kind == "text" else "number"}
    if held == "text":
        return kind in ("text", "number text")
    return kind != "text" and held in ("bool", "number")


def _holds_numbers(form: Form, place: int) -> bool:
    """Whether the dtype of a column has held a number or may do so."""
    held = column_type(form.dtypes[place])
    return held not in ("nothing", "text") and (held != "category" or _holds(form, place, "number"))


def _categories(X: Any, index: int, name: str) -> dict[str, Any] | None:
    """What a dtype of categories lists; for a dictionary of Arrow the values that it has."""
    dtype: Any = getattr(column_of(X, index), "dtype", None)
    if is_pandas(X) and name == "category":
        levels = dtype.categories
        values = bin_texts(levels) if holds_bins(levels) else levels.tolist()
        return {"values": values, "dtype": dtype_name(levels.dtype), "ordered": bool(dtype.ordered)}
    if name == "Enum":
        return {"values": dtype.categories.to_list()}
    if name == "Categorical":
        named = getattr(dtype, "categories", None)
        if named is None:  # before polars 1.32
            return {"ordering": dtype.ordering} if getattr(dtype, "ordering", "physical") == "lexical" else None
        if named.is_global():
            return None
        return {"named": [named.name(), named.namespace(), str(named.physical())]}
    if name.startswith("dictionary("):
        return {"values": list(dict.fromkeys(cell for cell in cells_of(X, index) if not is_missing(cell)))}
    return None


def _pandas_series(column: Any, dtype: str, category: dict[str, Any] | None, index: Any) -> Any:
    import pandas as pd

    if category is not None and "dtype" in category:
        levels, name = _with(category["values"], column), category["dtype"]
        if name.startswith("interval"):
            column, levels = bins_of(column, name), bins_of(levels, name)
        levels = pd.Index(levels, dtype=pandas_dtype(name))
        return pd.Series(pd.Categorical(column, categories=levels, ordered=category["ordered"]), index=index)
    if dtype.startswith("interval"):
        return pd.Series(bins_of(column, dtype), index=index)
    resolved = pandas_dtype(dtype)
    if dtype.endswith("[arrow]"):
        return pd.Series(pd.arrays.ArrowExtensionArray(_arrow_array(column, resolved.pyarrow_dtype)), index=index)
    if isinstance(resolved, np.dtype) and resolved.kind in "biu" and any(value is None for value in column):
        resolved = np.dtype(object if resolved.kind == "b" else float)  # as pandas itself does where a cell is missing
    return pd.Series(column, index=index, dtype=resolved)


def _polars_series(label: str, column: Any, dtype: str, category: dict[str, Any] | None) -> Any:
    import polars as pl

    category = category or {}
    if "values" in category:
        resolved: Any = pl.Enum(_with(category["values"], column))
    elif "named" in category:
        name, namespace, physical = category["named"]
        resolved = pl.Categorical(pl.Categories(name, namespace=namespace, physical=getattr(pl, physical)))
    else:
        resolved = pl.Categorical(category["ordering"]) if "ordering" in category else polars_dtype(dtype)
    if isinstance(column, np.ndarray):
        return pl.Series(label, column, nan_to_null=False).cast(resolved)
    return pl.Series(label, column, dtype=resolved, strict=False)


def _arrow_array(column: Any, arrow_dtype: Any) -> Any:
    import pyarrow

    if hasattr(arrow_dtype, "index_type"):
        plain = pyarrow.array(column, type=arrow_dtype.value_type, from_pandas=True).dictionary_encode()
        codes = plain.indices.cast(arrow_dtype.index_type)
        return pyarrow.DictionaryArray.from_arrays(codes, plain.dictionary, ordered=arrow_dtype.ordered)
    return pyarrow.array(column, type=arrow_dtype, from_pandas=True)


def _with(categories: list[Any], column: Any) -> list[Any]:
    """Categories of a dtype, followed by the other values of a column."""
    known = set(categories)
    return [*categories, *sorted({value for value in column if not is_missing(value)} - known)]


def _plain(label: Any) -> Any:
    """A column's label as a plain value: times as text, any other object too."""
    if isinstance(label, tuple):
        return [_plain(part) for part in label]
    if label is None or isinstance(label, (str, bool, int, float)):
        return label
    if isinstance(label, np.generic):
        return label.item()
    return {"time": label.isoformat()} if type(label).__name__ == "Timestamp" else str(label)


def _label(label: Any) -> Any:
    if isinstance(label, list):
        return tuple(_label(part) for part in label)
    if isinstance(label, dict):
        import pandas as pd

        return pd.Timestamp(label["time"])
    return label
