"""Tables with categories to tables of numbers and back: a category becomes the code of its level.

Everything behind this module sees numbers. A code counts the levels of its column, which are sorted, from 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from numbers import Real
from typing import Any

import numpy as np

from .._support.warnings import warn
from .form import Form, as_source, column_of, is_pandas, is_polars, labels_of

__all__ = ["Table", "column_numbers", "find_table"]

# As in HistGradientBoosting; a column of more is an identifier or free text more often than a category.
_MAX_LEVELS = 255
_NUMBERS = ("float", "int", "uint", "double", "half", "decimal", "complex", "date", "time", "period", "duration")
_PLURAL = {"text": "text", "number": "numbers", "bool": "truth values"}


def _dtype(X: Any, index: int) -> str:
    return str(column_of(X, index).dtype).lower()


def _kind(value: Any) -> str:
    """What a cell holds: "missing", "text", "bool", "number", or the name of another type."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return "missing"
    if isinstance(value, str):
        return "text"
    if isinstance(value, (bool, np.bool_)):
        return "bool"
    if isinstance(value, Real):
        return "missing" if value != value else "number"
    return type(value).__name__


@dataclass(frozen=True)
class _Cells:
    """The distinct values of a column, and which one each row holds."""

    values: list[Any]
    positions: np.ndarray
    kinds: list[str]

    @classmethod
    def of(cls, X: Any, index: int) -> "_Cells | None":
        """Read a column; None if it holds what cannot be compared."""
        column = column_of(X, index)
        if is_pandas(X) and str(column.dtype) == "category":
            values = [*column.cat.categories.tolist(), None]
            positions = column.cat.codes.to_numpy().astype(np.int64) % len(values)
        else:
            cells = column.tolist() if hasattr(column, "tolist") else column.to_list()
            try:
                first = {value: place for place, value in enumerate(dict.fromkeys(cells))}
            except TypeError:
                return None
            values = list(first)
            positions = np.fromiter((first[cell] for cell in cells), dtype=np.int64, count=len(cells))
        return cls(values, positions, [_kind(value) for value in values])

    def present(self, rows: np.ndarray | None) -> set[str]:
        """Kinds that rows hold, apart from missing cells."""
        positions = self.positions if rows is None else self.positions[rows]
        return {self.kinds[place] for place in np.unique(positions)} - {"missing"}

    def first_of(self, kind: str) -> tuple[int, Any]:
        """The first row that holds a kind of value, and that value."""
        row = int(np.argmax(np.array([own == kind for own in self.kinds])[self.positions]))
        return row, self.values[self.positions[row]]

    def levels(self, label: Any, rows: np.ndarray | None) -> tuple[Any, ...]:
        """The sorted values of a categorical column."""
        kinds = sorted(self.present(rows))
        if len(kinds) > 1:
            (first, one), (second, other) = sorted(
                (self.first_of(kind) for kind in kinds[:2]), key=lambda cell: cell[0]
            )
            raise ValueError(
                f"Column {label!r} must hold one kind of value, but row {first} holds {one!r} and row {second} holds "
                f"{other!r}. Make them one kind, for example with astype(str), or mark one of them as missing."
            )
        if kinds and kinds[0] not in _PLURAL:
            row, value = self.first_of(kinds[0])
            raise ValueError(
                f"Column {label!r} must hold text, truth values or numbers to be categorical, but row {row} holds "
                f"{value!r}, a {kinds[0]}. Turn it into text or numbers first."
            )
        convert = {"text": str, "number": float, "bool": bool}
        used = np.unique(self.positions if rows is None else self.positions[rows])
        found = {convert[kinds[0]](self.values[place]) for place in used if self.kinds[place] != "missing"}
        if len(found) > _MAX_LEVELS:
            raise ValueError(
                f"Column {label!r} must hold at most {_MAX_LEVELS} levels to be categorical, but {len(found)} came. "
                "Group rare levels into one, turn the column into numbers, or drop it."
            )
        return tuple(sorted(found))


def column_numbers(keys: Sequence[Any], labels: Sequence[Any], parameter: str) -> list[int]:
    """Numbers of the columns that a parameter names, by their labels or by their numbers.

    Parameters
    ----------
    keys : sequence of str or int
    labels : sequence
        Labels of all columns.
    parameter : str
        Named in messages.

    Returns
    -------
    numbers : list of int

    Raises
    ------
    ValueError
        If there is no such column.
    """
    numbers = []
    for key in keys:
        if isinstance(key, (int, np.integer)) and not isinstance(key, bool) and 0 <= key < len(labels):
            numbers.append(int(key))
        elif isinstance(key, str) and key in labels:
            numbers.append(labels.index(key))
        else:
            raise ValueError(
                f"The {parameter!r} parameter must name columns of X, by label or by number from 0 to "
                f"{len(labels) - 1}, but {key!r} came. X has the columns {', '.join(map(repr, labels[:10]))}."
            )
    return numbers


def _chosen(features: Any, labels: tuple[Any, ...]) -> set[int] | None:
    """Columns that ``categorical_features`` lists; None for "from_dtype"."""
    if isinstance(features, str) and features == "from_dtype":
        return None
    if features is None:
        return set()
    given = np.asarray(features)
    if given.dtype == bool and given.shape == (len(labels),):
        return {int(index) for index in np.flatnonzero(given)}
    if given.dtype == bool:
        raise ValueError(
            f"The 'categorical_features' parameter must hold a truth value for each of the {len(labels)} columns, but "
            f"its shape is {given.shape}. Give names or numbers of columns to list only some."
        )
    return set(column_numbers(given.reshape(-1).tolist(), labels, "categorical_features"))


def _levels_by_dtype(X: Any, index: int, label: Any, rows: np.ndarray | None) -> tuple[Any, ...] | None:
    """Levels of a column whose dtype or cells make it categorical; None if it holds numbers."""
    dtype = _dtype(X, index)
    if dtype.startswith(_NUMBERS):
        return None
    cells = _Cells.of(X, index)
    if cells is None:
        return None
    kinds = cells.present(None)
    if dtype.startswith("category"):
        return cells.levels(label, rows)
    if isinstance(X, np.ndarray) and X.dtype.kind == "U" and all(map(_is_number, cells.values)):
        return None
    if not kinds:
        return None if dtype == "object" and isinstance(X, np.ndarray) else ()
    return cells.levels(label, rows) if "text" in kinds or kinds == {"bool"} else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def find_table(X: Any, *, categorical_features: Any, likelihood: Any, rows: np.ndarray | None = None) -> "Table | None":
    """Learn the levels of the categorical columns of a table.

    Parameters
    ----------
    X : array-like or DataFrame of shape (n_samples, n_features)
    categorical_features : "from_dtype", None or array-like
        As in the estimators.
    likelihood : str or dict
        As in the estimators; it overrules the dtype of the columns that it names.
    rows : ndarray of bool of shape (n_samples,), default=None
        The rows that count; None for all.

    Returns
    -------
    table : Table, or None
        None if all columns hold numbers.

    Raises
    ------
    ValueError
        If a column mixes kinds of values or holds too many levels, or a parameter names no column.
    """
    source = as_source(X)
    if source is None:
        if likelihood == "categorical" or not (categorical_features is None or isinstance(categorical_features, str)):
            raise TypeError(
                "The 'categorical_features' parameter needs a NumPy array or a DataFrame of pandas or polars, but a "
                f"{type(X).__name__} came. Convert it, or leave 'categorical_features' out."
            )
        return None
    labels = labels_of(source)
    if not labels:
        return None  # a parameter cannot name a column: the check of the table says why
    chosen = _chosen(categorical_features, labels)
    if likelihood == "categorical":
        chosen = set(range(len(labels)))
    named = likelihood if isinstance(likelihood, Mapping) else {}
    families = dict(zip(column_numbers(list(named), labels, "likelihood"), named.values(), strict=True))
    if chosen is None and isinstance(source, np.ndarray) and source.dtype.kind not in "OUb" and not families:
        return None
    levels: list[tuple[Any, ...] | None] = []
    for index, label in enumerate(labels):
        own = None
        if families.get(index, "categorical" if chosen is not None and index in chosen else "") == "categorical":
            cells = _Cells.of(source, index)
            own = None if cells is None else cells.levels(label, rows)
        elif chosen is None and index not in families:
            own = _levels_by_dtype(source, index, label, rows)
        levels.append(own)
    return None if all(own is None for own in levels) else Table(tuple(levels), Form.of(source))


@dataclass(frozen=True)
class Table:
    """How a table with categories becomes numbers and numbers become such a table.

    Attributes
    ----------
    levels : tuple of (tuple or None)
        Sorted levels of each column; None for numbers. A column of text without any value has none.
    form : Form
        Of the table that it was learned from.
    """

    levels: tuple[tuple[Any, ...] | None, ...]
    form: Form

    @property
    def n_levels(self) -> tuple[int, ...]:
        """Number of levels of each column; 0 for numbers."""
        return tuple(0 if own is None else len(own) for own in self.levels)

    def encode(self, X: Any, *, quiet: bool = False) -> Any:
        """Replace categories by codes, NaN where missing; the table stays of its kind, with its labels.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            With the columns of the table that this was learned from.
        quiet : bool, default=False
            Whether a new level is passed over in silence.

        Returns
        -------
        X : ndarray or DataFrame of shape (n_samples, n_features)

        Raises
        ------
        ValueError
            If a column holds another kind of value than it did.

        Warns
        -----
        UserWarning
            If a level is new. Its cell then counts as missing.
        """
        source = as_source(X)
        if source is None:
            raise TypeError(
                "The model has categorical columns, so that X must be a NumPy array or a DataFrame of pandas or "
                f"polars, but a {type(X).__name__} came. Convert it first."
            )
        if source.shape[1] != len(self.levels):
            raise ValueError(
                f"X has {source.shape[1]} columns, but the model was fitted on {len(self.levels)}. Pass the columns "
                "that it was fitted on, in the same order."
            )
        categorical = [index for index, own in enumerate(self.levels) if own is not None]
        others = [_dtype(source, index) for index, own in enumerate(self.levels) if own is None]
        single = bool(others) and all(dtype.startswith(("float32", "float16", "float[")) for dtype in others)
        dtype = np.float32 if single else np.float64
        codes = {index: self._codes(source, index, quiet=quiet).astype(dtype) for index in categorical}
        if isinstance(source, np.ndarray):
            if not others:
                return np.column_stack(list(codes.values()))
            coded = source.astype(object)
            for index, column in codes.items():
                coded[:, index] = column
            return coded
        if is_polars(source):
            series = type(source.to_series(0))
            return source.with_columns([series(source.columns[index], column) for index, column in codes.items()])
        coded = source.copy(deep=False)
        for index, column in codes.items():
            coded.isetitem(index, column)
        return coded

    def _codes(self, X: Any, index: int, *, quiet: bool) -> np.ndarray:
        label, levels, cells = self.form.labels[index], self.levels[index] or (), _Cells.of(X, index)
        if cells is None:
            raise ValueError(
                f"Column {label!r} must hold categories, but some of its cells cannot be compared. Turn them into text."
            )
        if not levels:
            return np.full(len(cells.positions), np.nan)
        own = _kind(levels[0])
        same = {"text"} if own == "text" else {"bool", "number"}
        for kind in sorted(cells.present(None) - same):
            row, value = cells.first_of(kind)
            raise ValueError(
                f"Column {label!r} must hold {_PLURAL[own]}, as in the rows that were fitted, but row {row} holds "
                f"{value!r}. Pass the column as it was fitted."
            )
        place = {level: code for code, level in enumerate(levels)}
        codes = np.array([
            np.nan if kind == "missing" else place.get(value, -1)
            for value, kind in zip(cells.values, cells.kinds, strict=True)
        ])[cells.positions]  # fmt: skip
        new = codes < 0
        if new.any() and not quiet:
            row = int(np.argmax(new))
            warn(
                f"Column {label!r} holds {cells.values[cells.positions[row]]!r} in row {row}, a level that no fitted "
                "row has: such cells count as missing. Fit on rows with all levels, or replace them by NaN.",
                UserWarning,
            )
        return np.where(new, np.nan, codes)

    def missing(self, X: Any) -> np.ndarray:
        """Which categorical cells of a table hold nothing, of shape (n_samples, n_features); True in other columns.

        A level that was new to `encode` is there all the same.
        """
        source = as_source(X)
        missing = np.ones((len(source), len(self.levels)), dtype=bool)
        for index in compress(range(len(self.levels)), [own is not None for own in self.levels]):
            cells = _Cells.of(source, index)
            if cells is not None:
                missing[:, index] = np.array([kind == "missing" for kind in cells.kinds])[cells.positions]
        return missing

    def cells(self, values: np.ndarray) -> list[Any]:
        """Columns of plain values: lists of levels, None where missing, and arrays of numbers.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_features)
            As `encode` makes them.

        Returns
        -------
        columns : list of (list or ndarray)
        """
        columns: list[Any] = []
        for own, column in zip(self.levels, values.T, strict=True):
            if own is None:
                columns.append(column)
            else:
                table = np.array([*own, None], dtype=object)
                codes = np.where(np.isnan(column), len(own), column).astype(int)
                columns.append(table[codes].tolist())
        return columns

    def filled(self, X: Any, values: np.ndarray, missing: np.ndarray) -> np.ndarray:
        """Cells of a table with codes and numbers put where some are missing, of shape (n_samples, n_features)."""
        cells = np.empty(missing.shape, dtype=object)
        source = as_source(X)
        for index, column in enumerate(self.cells(values)):
            there = column_of(source, index)
            cells[:, index] = there.tolist() if hasattr(there, "tolist") else there.to_list()
            cells[missing[:, index], index] = list(compress(column, missing[:, index]))
        return cells

    def array(self, values: np.ndarray) -> np.ndarray:
        """Codes and numbers of shape (..., n_features) as levels and numbers."""
        columns = self.cells(values.reshape(-1, values.shape[-1]))
        table = np.empty((len(columns[0]), len(columns)), dtype=object)
        for place, column in enumerate(columns):
            table[:, place] = column
        return table.reshape(values.shape)

    def decode(self, values: np.ndarray, like: Any = None) -> Any:
        """Make a table of codes and numbers.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_features)
        like : array or DataFrame, default=None
            Whose form the table gets; None for that of the table that this was learned from.

        Returns
        -------
        table : ndarray, pandas.DataFrame or polars.DataFrame
            In the dtypes of the form: integers are rounded.
        """
        form = self.form if like is None else Form.of(like)
        return form.build(self.cells(values), getattr(like, "index", None) if form.library == "pandas" else None)

    def state(self) -> dict[str, Any]:
        """Plain values for a pickle."""
        return {
            "levels": [None if own is None else list(own) for own in self.levels],
            "form": self.form.state(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Table":
        """Inverse of `state`."""
        levels = tuple(None if own is None else tuple(own) for own in state["levels"])
        return cls(levels, Form.from_state(state["form"]))
