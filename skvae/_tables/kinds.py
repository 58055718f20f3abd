"""What a column of a table is: each kind reads cells as numbers, and makes cells of numbers."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .._support.warnings import cut
from .cells import Cells, kind_of
from .dates import Dates, DecodedDates
from .dtypes import is_missing
from .form import cells_of, column_of
from .levels import Rare, codes_of
from .number_texts import DecodedNumbers, NumberFormat
from .unread import is_blank

__all__ = ["Categorical", "Column", "LeftOut", "Numeric", "NumericText", "Temporal"]

_PLURAL = {"text": "text", "number": "numbers", "bool": "booleans"}
# Dtypes of numbers that become float64 in any frame which has one of them, and of what categories may be held in.
_NUMBERS = frozenset({"float64", "int64", "int32", "Float64", "Int64", "Int32"})
_TEXTS = frozenset({"object", "str", "string", "String"})
_CATEGORIES = _TEXTS | {"category", "bool", "boolean", "Categorical", "Enum", "Boolean"}
# Dtypes that NumPy reads as numbers, missing ones included; pandas' nullable ones by scikit-learn.
_READABLE = re.compile(
    r"[Uu]?[Ii]nt(8|16|32|64)(\[arrow\])?|[Ff]loat(32|64)|float16|double\[arrow\]|float\[arrow\]|bool"
)

# Numbers of a column, and the cells that are none: new levels, and texts that cannot be read.
Encoded = tuple[np.ndarray, list[Any]]


class Column(ABC):
    """What a column is.

    Attributes
    ----------
    called : str
        What messages call its values.
    quick_dtypes : frozenset of str
        Dtypes of pandas and polars whose cells `number` reads.
    """

    called: ClassVar[str] = "numbers"
    quick_dtypes: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def kind(self) -> str | None:
        """What its cells hold, as `Form.holding` has it; None where that is nothing, or not known."""

    @property
    def n_levels(self) -> int:
        """Number of codes of a category, 0 of numbers."""
        return 0

    @classmethod
    def is_readable(cls, name: str, *, in_array: bool) -> bool:
        """Whether such columns hold the numbers already in a dtype of some name, which NumPy then reads."""
        return False

    @abstractmethod
    def encoded(self, X: Any, index: int, name: str, label: Any, *, scored: bool) -> Encoded:
        """Read the column of a source, whose dtype has a ``name``; new levels are missing unless ``scored``.

        Raises
        ------
        ValueError
            If a cell is of another kind.
        """

    @abstractmethod
    def decoded(self, numbers: np.ndarray) -> Any:
        """Cells: a list, None where missing, or what `Form.cast` brings into a dtype."""

    def number(self, cell: Any) -> float:
        """A cell of a quick dtype, NaN where missing.

        Raises
        ------
        TypeError, ValueError
            If `encoded` has to look at it.
        """
        raise ValueError(cell)


@dataclass(frozen=True)
class Numeric(Column):
    """Numbers as they come."""

    kind = "number"
    quick_dtypes = _NUMBERS

    @classmethod
    def is_readable(cls, name: str, *, in_array: bool) -> bool:
        return in_array or _is_number_dtype(name)

    def encoded(self, X: Any, index: int, name: str, label: Any, *, scored: bool) -> Encoded:
        return _usable_cells(X, index, label).numbers(label), []

    def decoded(self, numbers: np.ndarray) -> np.ndarray:
        return numbers

    def number(self, cell: Any) -> float:
        return _as_float(cell)


@dataclass(frozen=True)
class NumericText(Column):
    """Numbers that are text, or with text among them."""

    format: NumberFormat

    kind = "number text"
    quick_dtypes = _NUMBERS | _TEXTS

    @classmethod
    def is_readable(cls, name: str, *, in_array: bool) -> bool:
        return _is_number_dtype(name)

    def encoded(self, X: Any, index: int, name: str, label: Any, *, scored: bool) -> Encoded:
        return _usable_cells(X, index, label).written_numbers(self.format)

    def decoded(self, numbers: np.ndarray) -> DecodedNumbers:
        return DecodedNumbers(numbers, self.format)

    def number(self, cell: Any) -> float:
        if not isinstance(cell, str):
            return _as_float(cell)
        number = self.format.read(cell)
        if np.isnan(number) and not is_blank(cell):
            raise ValueError(cell)
        return number


@dataclass(frozen=True)
class Categorical(Column):
    """Levels, whose numbers are their codes.

    Attributes
    ----------
    levels : tuple
        Sorted. A column of text without any value has none.
    rare : Rare, or None
        Levels that count as one, whose code is the last.
    """

    levels: tuple[Any, ...]
    rare: Rare | None = None

    called = "levels"
    quick_dtypes = _CATEGORIES

    @property
    def kind(self) -> str | None:
        return kind_of(self.levels[0]) if self.levels else None

    @property
    def n_levels(self) -> int:
        return len(self.levels) + (self.rare is not None)

    @cached_property
    def codes(self) -> dict[Any, int]:
        """Code of each level."""
        return codes_of(self.levels, self.rare)

    def encoded(self, X: Any, index: int, name: str, label: Any, *, scored: bool) -> Encoded:
        cells = Cells.of(X, index)
        if not self.levels:
            return np.full(len(cells.positions), np.nan), []
        self._check(cells, label)
        unknown = -1 if self.rare is None or self.rare.complete else len(self.levels)
        codes = np.array([
            np.nan if kind == "missing" else self.codes.get(value, unknown)
            for value, kind in zip(cells.values, cells.kinds, strict=True)
        ])  # fmt: skip
        new = [cells.values[position] for position in np.unique(cells.positions) if codes[position] < 0]
        return np.where(codes < 0, self.n_levels if scored else np.nan, codes)[cells.positions], new

    def _check(self, cells: Cells, label: Any) -> None:
        """Refuse cells of another kind than the levels."""
        known = kind_of(self.levels[0])
        for kind in sorted(cells.present() - ({"text"} if known == "text" else {"bool", "number"})):
            row, value = cells.first_of(kind)
            raise ValueError(
                f"Column {label!r} must hold {_PLURAL[known]}, as in the rows that were fitted, but row {row} holds "
                f"{cut(repr(value))}. Pass the column as it was fitted."
            )

    def decoded(self, numbers: np.ndarray) -> list[Any]:
        cells = [*self.levels, *(() if self.rare is None else self.rare.levels), None]
        codes = np.where(np.isnan(numbers), len(cells) - 1, numbers).astype(int)
        return [cells[code] for code in codes.tolist()]

    def number(self, cell: Any) -> float:
        code = self.codes.get(cell)
        if code is None and not is_missing(cell):
            raise ValueError(cell)
        return np.nan if code is None else code

    def spread(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a rare level, in their shares, for the code of all of them; the first of them keeps that code."""
        if self.rare is None:
            return codes
        places = codes == len(self.levels)
        codes = codes.clone()
        codes[places] += self.rare.drawn(int(places.sum()), generator).to(codes)
        return codes

    def with_own(self, cells: list[Any], own: list[Any], codes: np.ndarray) -> list[Any]:
        """Decoded cells, rare ones as these were where the codes still say that they are rare."""
        pairs = zip(cells, own, (codes == len(self.levels)).tolist(), strict=True)
        return [one if same and self._is_rare(one) else cell for cell, one, same in pairs]

    def _is_rare(self, cell: Any) -> bool:
        if self.rare is None or is_missing(cell):
            return False
        return cell in self.rare.known or (not self.rare.complete and cell not in self.codes)


@dataclass(frozen=True)
class Temporal(Column):
    """Dates or durations, as days."""

    dates: Dates

    called = "dates"

    @property
    def kind(self) -> str:
        return self.dates.kind

    def encoded(self, X: Any, index: int, name: str, label: Any, *, scored: bool) -> Encoded:
        return self.dates.read(column_of(X, index), name, partial(cells_of, X, index), label)

    def decoded(self, numbers: np.ndarray) -> DecodedDates:
        return DecodedDates(numbers, self.dates)


@dataclass(frozen=True)
class LeftOut(Column):
    """What the model does not see: zeros, decoded as missing values, and where rows are at hand as what these hold."""

    kind = None

    def encoded(self, X: Any, index: int, name: str, label: Any, *, scored: bool) -> Encoded:
        return np.zeros(X.shape[0]), []

    def decoded(self, numbers: np.ndarray) -> list[None]:
        return [None] * len(numbers)


@lru_cache(maxsize=256)
def _is_number_dtype(name: str) -> bool:
    return _READABLE.fullmatch(name) is not None


def _as_float(cell: Any) -> float:
    return np.nan if cell is None or type(cell).__name__ == "NAType" else float(cell)


def _usable_cells(X: Any, index: int, label: Any) -> Cells:
    """Cells of a column of numbers, none of which is a value that no column may hold."""
    cells = Cells.of(X, index)
    problem = cells.refused(label)
    if problem is not None:
        raise ValueError(problem)
    return cells
