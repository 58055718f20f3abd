"""What the cells of a column are: numbers, booleans, text, nothing, or what no model can learn from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from numbers import Complex, Real
from typing import Any

import numpy as np

from .._support.warnings import cut
from .bins import bin_texts, holds_bins
from .dtypes import column_type, is_missing, to_float
from .form import cells_of, column_of, dtypes_of, is_pandas, names_of
from .number_texts import NumberFormat
from .unread import is_blank

__all__ = [
    "MAX_LISTED",
    "Cells",
    "column_types",
    "is_number",
    "kind_of",
    "listed",
    "no_category",
    "quoted",
    "raise_all",
    "refused_cells",
    "refused_columns",
]

# Beyond so many columns a message names no more of them.
_MAX_NAMED = 50
# The same where one sentence speaks of all.
MAX_LISTED = 10
# What cannot be used, and what to do with it.
_REMEDIES = {
    "times": "Turn it into numbers first, for example into days since a fixed date.",
    "durations": "Turn it into numbers first, for example into seconds.",
    "periods": "Turn it into periods of one dtype by pandas.PeriodIndex, or into numbers.",
    "intervals": "Turn it into intervals of one dtype by pandas.arrays.IntervalArray, or into text.",
    "complex numbers": "Replace it by two columns, its real and its imaginary part, or by its absolute value.",
    "bytes": "Decode it into text first.",
    "nested values": "Make a column of each of their parts, or drop it.",
    "sparse": "Make it dense first: X[{label!r}].sparse.to_dense().",
    "other": "Turn it into text or numbers first, or drop it.",
}
_NESTED = (list, tuple, dict, set, frozenset, np.ndarray)


def kind_of(value: Any) -> str:
    """What a cell holds: "missing", "text", "bool", "number", or what cannot be used."""
    if is_missing(value):
        return "missing"
    if isinstance(value, str):
        return "text"
    if isinstance(value, (bool, np.bool_)):
        return "bool"
    if isinstance(value, (timedelta, np.timedelta64)):  # NumPy counts its own among the integers
        return "durations"
    if isinstance(value, (Real, Decimal)):
        return "number"
    if isinstance(value, (date, time, np.datetime64)):
        return "times"
    if isinstance(value, Complex):
        return "complex numbers"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "bytes"
    name = type(value).__name__
    named = {"Period": "periods", "Interval": "intervals", "Series": "nested values"}
    return "nested values" if isinstance(value, _NESTED) else named.get(name, "other")


def quoted(value: Any) -> str:
    """A value as a message shows it, cut where it is long."""
    return cut(repr(value) if isinstance(value, (str, bytes, *_NESTED)) else str(value))


def is_number(text: str | bytes) -> bool:
    """Whether a text can be read as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def listed(labels: Sequence[Any], *, begins: bool = False) -> str:
    """Columns as the singular subject of a clause, which may begin a sentence; labels are cut where they are many."""
    more = f" and {len(labels) - MAX_LISTED} more" if len(labels) > MAX_LISTED else ""
    words = "column" if len(labels) == 1 else "each of the columns"
    return f"{words.capitalize() if begins else words} {', '.join(map(repr, labels[:MAX_LISTED]))}{more}"


def raise_all(problems: Iterable[str]) -> None:
    """Raise one error for all columns that cannot be used.

    Raises
    ------
    ValueError
        If there is a problem.
    """
    problems = list(problems)
    if len(problems) > _MAX_NAMED:
        problems = [*problems[:_MAX_NAMED], f"The same holds for {len(problems) - _MAX_NAMED} more columns."]
    if problems:
        raise ValueError("\n".join(problems))


def column_types(X: Any) -> list[str]:
    """`column_type` of each column of a source."""
    names = names_of(X)
    types = {name: column_type(name) for name in set(names)}
    return [types[name] for name in names]


def refused_columns(X: Any, labels: tuple[Any, ...], *, dated: bool = False) -> dict[int, str]:
    """What is wrong with columns of a source whose dtype cannot be used, by number; dates can if ``dated``."""
    kinds = ["times" if kind == "dates" and not dated else kind for kind in column_types(X)]
    usable = {"durations"} if dated else set()
    return {
        index: _refused(X, index, labels[index], kind)
        for index, kind in enumerate(kinds)
        if kind in _REMEDIES.keys() - usable
    }


def _refused(X: Any, index: int, label: Any, kind: str) -> str:
    dtype = dtypes_of(X)[index]
    if kind == "sparse":
        return f"Column {label!r} must be dense, but its dtype is {dtype}. {_REMEDIES[kind].format(label=label)}"
    cells = cells_of(X, index) if kind != "other" else []
    row = next((row for row, value in enumerate(cells) if not is_missing(value)), None)
    if row is None:
        return f"Column {label!r} must hold numbers or categories, but its dtype is {dtype}. {_REMEDIES[kind]}"
    return refused_cells(label, kind, cells[row], row)


def refused_cells(label: Any, kind: str, value: Any, row: int) -> str:
    """Say what a column holds that cannot be used, in which row, and what to do."""
    what = f"values of type {type(value).__name__}" if kind == "other" else kind
    return (
        f"Column {label!r} must hold numbers or categories, but holds {what}, {quoted(value)} in row {row}. "
        f"{_REMEDIES[kind]}"
    )


@dataclass(frozen=True)
class Cells:
    """The distinct values of a column, and which one each row holds."""

    values: list[Any]
    positions: np.ndarray
    kinds: list[str]

    @classmethod
    def of(cls, X: Any, index: int) -> "Cells":
        """Read a column; values that cannot be compared count as distinct."""
        column = column_of(X, index)
        if is_pandas(X) and str(column.dtype) == "category":
            categories = column.cat.categories
            listed_bins = bin_texts(categories) if holds_bins(categories) else categories.tolist()
            values = [*listed_bins, None]
            positions = column.cat.codes.to_numpy().astype(np.int64) % len(values)
        else:
            values, positions = _distinct(cells_of(X, index))
        return cls(values, positions, [kind_of(value) for value in values])

    def present(self, rows: np.ndarray | None = None) -> set[str]:
        """Kinds that rows hold, apart from missing cells."""
        positions = self.positions if rows is None else self.positions[rows]
        return {self.kinds[place] for place in np.unique(positions)} - {"missing"}

    def first_of(self, kind: str) -> tuple[int, Any]:
        """The first row that holds a kind of value, and that value."""
        row = int(np.argmax(np.array([other == kind for other in self.kinds])[self.positions]))
        return row, self.values[self.positions[row]]

    def refused(self, label: Any) -> str | None:
        """What is wrong with the cells, whatever the column is used for; None if nothing."""
        found = [(self.first_of(kind), kind) for kind in self.present() & set(_REMEDIES)]
        if not found:
            return None
        (row, value), kind = min(found, key=lambda cell: cell[0][0])
        return refused_cells(label, kind, value, row)

    def levels(self, label: Any, weight: np.ndarray | None) -> dict[Any, float]:
        """The sorted values of a categorical column, with the weight of the rows that hold them.

        Raises
        ------
        ValueError
            If they are of several kinds, or of one that has no order.
        """
        kinds = sorted(self.present(None if weight is None else weight > 0))
        if len(kinds) > 1:
            cells = sorted((self.first_of(kind) for kind in kinds[:2]), key=lambda cell: cell[0])
            (first, one), (second, other) = ((row, cut(repr(value))) for row, value in cells)
            raise ValueError(
                f"Column {label!r} must hold one kind of value, but row {first} holds {one} and row {second} "
                f"holds {other}. Make them one kind, for example with astype(str), or mark one of them as missing."
            )
        if kinds and kinds[0] not in _LEVEL:
            row, value = self.first_of(kinds[0])
            raise ValueError(
                f"Column {label!r} must hold text, booleans or numbers to be categorical, but row {row} holds "
                f"{cut(repr(value))}, a {type(value).__name__}. Turn it into text or numbers first."
            )
        mass: dict[Any, float] = {}
        for value, count in self.mass(weight).items():
            if count > 0:
                level = _LEVEL[kind_of(value)](value)
                mass[level] = mass.get(level, 0.0) + count
        return {level: mass[level] for level in sorted(mass)}

    def mass(self, weight: np.ndarray | None) -> dict[Any, float]:
        """The different values, missing ones apart, with the weight of the rows that hold them."""
        counts = np.bincount(self.positions, weight, len(self.values)).tolist()
        cells = zip(self.values, self.kinds, counts, strict=True)
        return {value: count for value, kind, count in cells if kind != "missing"}

    def written_numbers(self, format: NumberFormat) -> tuple[np.ndarray, list[str]]:
        """The cells as floats, NaN where missing or no number, and the texts that are none and not blank."""
        floats = np.array([format.read(value) for value in self.values], dtype=float)
        unread = [place for place in np.flatnonzero(np.isnan(floats)).tolist() if not is_blank(self.values[place])]
        places = self.positions[np.isin(self.positions, unread)]
        return floats[self.positions], [self.values[place] for place in places.tolist()]

    def numbers(self, label: Any) -> np.ndarray:
        """The cells as floats, NaN where missing.

        Raises
        ------
        ValueError
            If one holds text that is no number.
        """
        wrong = [kind == "text" and not is_number(value) for kind, value in zip(self.kinds, self.values, strict=True)]
        if any(np.array(wrong)[np.unique(self.positions)]):
            row = int(np.argmax(np.array(wrong)[self.positions]))
            raise ValueError(no_category(label, self.values[self.positions[row]], row))
        floats = [
            np.nan if kind == "missing" or text else to_float(value)
            for kind, value, text in zip(self.kinds, self.values, wrong, strict=True)
        ]
        return np.array(floats, dtype=float)[self.positions]


def no_category(label: Any, value: Any, row: int) -> str:
    """Say that a column of numbers holds text."""
    return (
        f"Columns must hold numbers or categories, but column {label!r}, no category of this model, holds "
        f"{cut(repr(value))} in row {row}. Mark the cell as missing, or fit with the column in 'categorical_features'."
    )


def _distinct(cells: list[Any]) -> tuple[list[Any], np.ndarray]:
    try:
        # Every NaN is an object of its own, and equal to none.
        cells = [None if type(cell) is float and cell != cell else cell for cell in cells]
        first = {value: place for place, value in enumerate(dict.fromkeys(cells))}
    except TypeError:
        return cells, np.arange(len(cells))
    return list(first), np.fromiter((first[cell] for cell in cells), dtype=np.int64, count=len(cells))


def _number(value: Any) -> int | float:
    """Exactly, where it is an integer: beyond 2**53 floats are others."""
    return int(value) if isinstance(value, (int, np.integer)) else float(value)


# What an enumeration of text calls its members is not the text that they are equal to.
_LEVEL: dict[str, Any] = {"text": str.__str__, "number": _number, "bool": bool}
