"""Tables to tables of numbers and back: a category becomes the code of its level, a date the days since 1970.

Everything behind this module sees numbers. A code counts the levels of its column, which are sorted, from 0.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._support.warnings import cut, warn
from .bins import holds_bins
from .cells import Cells, kind_of, raise_all, refused_columns
from .dates import Dates, DecodedDates
from .dtypes import dtype_name, is_missing
from .expansion import Expansion
from .form import Form, as_source, cells_of, column_of, is_arrow, is_frame, is_pandas, is_polars, names_of, with_columns
from .levels import Rare, codes_of, is_rare
from .unread import warn_of_unread

__all__ = ["Table", "chosen_columns", "column_numbers"]

_PLURAL = {"text": "text", "number": "numbers", "bool": "booleans"}
# New levels that a warning quotes of each column.
_MAX_QUOTED = 3


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


def chosen_columns(features: Any, labels: Sequence[Any]) -> set[int] | None:
    """Numbers of the columns that ``categorical_features`` lists.

    Parameters
    ----------
    features : "from_dtype", None or array-like
        As in the estimators.
    labels : sequence
        Labels of all columns.

    Returns
    -------
    numbers : set of int, or None
        None for "from_dtype".

    Raises
    ------
    ValueError
        If there is no such column, or not one boolean for each.
    """
    if isinstance(features, str) and features == "from_dtype":
        return None
    if features is None or np.size(features) == 0:  # lists no column
        return set()
    given = np.asarray(features)
    if given.dtype == bool and given.shape == (len(labels),):
        return {int(index) for index in np.flatnonzero(given)}
    if given.dtype == bool:
        raise ValueError(
            f"The 'categorical_features' parameter must hold a boolean for each of the {len(labels)} columns, but "
            f"its shape is {given.shape}. Give names or numbers of columns to list only some."
        )
    return set(column_numbers(given.reshape(-1).tolist(), labels, "categorical_features"))


@dataclass(frozen=True)
class Table:
    """How a table with categories becomes numbers and numbers become such a table.

    Attributes
    ----------
    levels : tuple of (tuple or None)
        Sorted levels of each column; None for numbers. A column of text without any value has none.
    form : Form
        Of the table that it was learned from.
    rare : dict of int to Rare
        By column the levels that count as one, whose code is the last of the column.
    left_out : tuple of int
        Columns that the model does not see: they are encoded as zeros, decoded as missing values, and where rows are
        at hand as what these hold.
    dates : dict of int to Dates
        Columns of dates and durations, which are encoded as days. The further parts of those that are written by
        cycles of the calendar stand behind all columns of the table, in rows that `expansion` expands.
    """

    levels: tuple[tuple[Any, ...] | None, ...]
    form: Form
    rare: dict[int, Rare] = field(default_factory=dict)
    left_out: tuple[int, ...] = ()
    dates: dict[int, Dates] = field(default_factory=dict)

    @classmethod
    def of_numbers(cls, X: Any) -> "Table":
        """That of a frame whose columns all hold numbers.

        Raises
        ------
        ValueError
            If a column can hold none.
        """
        form = Form.of(X)
        raise_all(refused_columns(X, form.labels).values())
        return cls((None,) * len(form.labels), form)

    @cached_property
    def has_levels(self) -> bool:
        """Whether a column is categorical."""
        return any(levels is not None for levels in self.levels)

    @property
    def is_plain(self) -> bool:
        """Whether all columns are numbers as they come."""
        return not (self.has_levels or self.left_out or self.dates or self.form.number_formats)

    @cached_property
    def codes(self) -> tuple[dict[Any, int] | None, ...]:
        """Code of each level, by column; None for numbers."""
        return tuple(
            None if levels is None else codes_of(levels, self.rare.get(index))
            for index, levels in enumerate(self.levels)
        )

    @property
    def n_levels(self) -> tuple[int, ...] | None:
        """Number of levels of each column of expanded rows, 0 for numbers; None where all columns hold numbers."""
        own = [0 if levels is None else len(levels) + (index in self.rare) for index, levels in enumerate(self.levels)]
        further = self.expansion.n_levels
        return tuple(own + further) if self.has_levels or any(further) else None

    @cached_property
    def expansion(self) -> Expansion:
        """How dates are written in the columns that a model sees."""
        cycles = {index: dates.cycles for index, dates in self.dates.items() if dates.cycles is not None}
        return Expansion(len(self.levels), cycles)

    @property
    def kinds(self) -> tuple[str | None, ...]:
        """What each column holds, as `Form.holding` has it; None where no level is known, or it is left out."""
        first = [(0,) if levels is None else levels[:1] for levels in self.levels]
        kinds = [kind_of(one[0]) if one else None for one in first]
        kinds = [self.dates[index].kind if index in self.dates else kind for index, kind in enumerate(kinds)]
        return tuple(None if index in self.left_out else kind for index, kind in enumerate(kinds))

    def encode(self, X: Any, *, quiet: bool = False, scored: bool = False) -> Any:
        """Replace categories by codes, NaN where missing; the table stays of its kind, with its labels.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            With the columns of the table that this was learned from.
        quiet : bool, default=False
            Whether new levels are passed over in silence.
        scored : bool, default=False
            Whether new levels get the first code beyond those of their column. If not, their cells count as missing.

        Returns
        -------
        X : ndarray or DataFrame of shape (n_samples, n_features)
            Columns of a frame hold numbers that NumPy can read; what is no frame stays as it is without levels.

        Raises
        ------
        ValueError
            If columns hold another kind of value than they did.

        Warns
        -----
        UserWarning
            If levels are new, or texts among dates or numbers are none.
        """
        return self.encode_together([X], quiet=quiet, scored=scored)[0]

    def encode_together(self, tables: Sequence[Any], *, quiet: bool = False, scored: bool = False) -> list[Any]:
        """`encode` several tables; one warning tells of the new levels of all of them, others of texts."""
        new: dict[int, list[Any]] = {}
        encoded = [self._encoded(X, new, scored=scored) for X in tables]
        told = {index: self.form.labels[index] for index in sorted(new) if new[index]}
        if quiet:
            return encoded
        levels = {label: list(dict.fromkeys(new[i])) for i, label in told.items() if self.levels[i] is not None}
        if levels:
            _warn_of_new_levels(levels, scored=scored)
        warn_of_unread({label: new[index] for index, label in told.items() if index in self.dates}, "dates")
        warn_of_unread({label: new[i] for i, label in told.items() if i in self.form.number_formats}, "numbers")
        return encoded

    def _encoded(self, X: Any, new: dict[int, list[Any]], *, scored: bool) -> Any:
        """A table with codes in place of categories; what no fitted row has is added to that of the columns."""
        if self.is_plain and not is_frame(X):
            return X
        source = as_source(X)
        if source is None:
            raise TypeError(
                "The model has columns of other than numbers, so that X must be a NumPy array or a DataFrame of pandas "
                f"or polars, but a {type(X).__name__} came. Convert it first."
            )
        if source.shape[1] != len(self.levels):
            raise ValueError(
                f"X has {source.shape[1]} columns, but the model was fitted on {len(self.levels)}. Pass the columns "
                "that it was fitted on, in the same order."
            )
        names = names_of(source)
        numbers = [
            names[i].lower() for i, levels in enumerate(self.levels) if levels is None and i not in self.left_out
        ]
        single = bool(numbers) and all(name.startswith(("float32", "float16", "float[")) for name in numbers)
        read = self._columns(source, names, new, scored=scored)
        columns = {index: column.astype(np.float32 if single else np.float64) for index, column in read.items()}
        if isinstance(source, np.ndarray) and not numbers:
            return np.column_stack(list(columns.values()))
        return with_columns(source, columns)

    def _columns(
        self, X: Any, names: Sequence[str], new: dict[int, list[Any]], *, scored: bool
    ) -> dict[int, np.ndarray]:
        """The columns that numbers have to be made of: codes of levels, and numbers that NumPy cannot read."""
        columns: dict[int, np.ndarray] = {}
        problems: list[str] = []
        array, formats = isinstance(X, np.ndarray), self.form.number_formats
        readable = {name for name in set(names) if _READABLE.fullmatch(name)}
        for index, levels in enumerate(self.levels):
            is_number = names[index] in readable or (array and index not in formats)
            if index in self.left_out:
                columns[index] = np.zeros(X.shape[0])
            elif levels is not None or index in self.dates or not is_number:
                try:
                    columns[index], unknown = self._read(X, index, names[index], scored=scored)
                    new.setdefault(index, []).extend(unknown)
                except ValueError as error:
                    problems.append(str(error))
        raise_all(problems)
        return columns

    def _read(self, X: Any, index: int, name: str, *, scored: bool) -> tuple[np.ndarray, list[Any]]:
        """A column as codes, days or numbers, and what of it cannot be: new levels, and texts that cannot be read."""
        label, formats = self.form.labels[index], self.form.number_formats
        if index in self.dates:
            return self.dates[index].read(column_of(X, index), name, partial(cells_of, X, index), label)
        cells = Cells.of(X, index)
        if self.levels[index] is not None:
            return self._codes(cells, index, scored=scored)
        problem = cells.refused(label)
        if problem is not None:
            raise ValueError(problem)
        return cells.written_numbers(formats[index]) if index in formats else (cells.numbers(label), [])

    def _codes(self, cells: Cells, index: int, *, scored: bool) -> tuple[np.ndarray, list[Any]]:
        """Codes of the cells of a column, NaN where missing, and the new levels."""
        levels, label, place = self.levels[index] or (), self.form.labels[index], self.codes[index] or {}
        if not levels:
            return np.full(len(cells.positions), np.nan), []
        known = kind_of(levels[0])
        same = {"text"} if known == "text" else {"bool", "number"}
        for kind in sorted(cells.present() - same):
            row, value = cells.first_of(kind)
            raise ValueError(
                f"Column {label!r} must hold {_PLURAL[known]}, as in the rows that were fitted, but row {row} holds "
                f"{cut(repr(value))}. Pass the column as it was fitted."
            )
        rare = self.rare.get(index)
        unknown = -1 if rare is None or rare.complete else len(levels)
        codes = np.array([
            np.nan if kind == "missing" else place.get(value, unknown)
            for value, kind in zip(cells.values, cells.kinds, strict=True)
        ])  # fmt: skip
        used = np.unique(cells.positions)
        new = [cells.values[position] for position in used if codes[position] < 0]
        new_code = len(levels) + (rare is not None) if scored else np.nan
        codes = np.where(codes < 0, new_code, codes)[cells.positions]
        return codes, new

    def missing(self, X: Any) -> np.ndarray:
        """Which categorical cells of a table hold nothing, of shape (n_samples, n_features); True in other columns.

        A level that was new to `encode` is there all the same.
        """
        source = as_source(X)
        missing = np.ones((len(source), len(self.levels)), dtype=bool)
        for index in compress(range(len(self.levels)), [levels is not None for levels in self.levels]):
            cells = Cells.of(source, index)
            missing[:, index] = np.array([kind == "missing" for kind in cells.kinds])[cells.positions]
        return missing

    def cells(self, values: np.ndarray) -> list[Any]:
        """Columns of plain values: lists of levels, None where missing, and arrays of numbers.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_expanded)
            As `Expansion.expanded` makes them, or `spread`. The code of rare levels is the most frequent one of them.

        Returns
        -------
        columns : list of (list or ndarray)
        """
        columns: list[Any] = []
        values = self.expansion.joined(values)
        for index, (levels, column) in enumerate(zip(self.levels, values.T, strict=True)):
            if index in self.left_out:
                columns.append([None] * len(column))
            elif index in self.dates:
                columns.append(DecodedDates(column, self.dates[index]))
            elif levels is None:
                columns.append(column)
            else:
                table = [*levels, *(self.rare[index].levels if index in self.rare else ()), None]
                codes = np.where(np.isnan(column), len(table) - 1, column).astype(int)
                columns.append([table[code] for code in codes.tolist()])
        return columns

    def spread(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a rare level, in their shares, wherever values of shape (..., n_expanded) hold the code of all of them.

        The first rare level keeps that code, the others get those beyond it, which `cells` and `decode` know.
        """
        for index, rare in self.rare.items():
            first = self._first_rare(index)
            places = values[..., index] == first
            drawn = rare.drawn(int(places.sum()), generator)
            values = values.clone()
            values[..., index][places] = (first + drawn).to(values)
        return values

    def _first_rare(self, index: int) -> int:
        return len(self.levels[index] or ())

    def filled(self, X: Any, values: np.ndarray, missing: np.ndarray) -> Any:
        """Put levels and numbers into the missing cells of a table; all others stay as they are, dtypes included.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_features)
        values : ndarray of shape (n_samples, n_expanded)
            Codes and numbers; a cell without one stays missing.
        missing : ndarray of bool of shape (n_samples, n_features)
            Cells to fill.

        Returns
        -------
        table : array or DataFrame
        """
        source, columns = as_source(X), self.cells(values)
        form = self._form_of(source)
        if isinstance(source, np.ndarray):
            columns = [new.objects() if isinstance(new, DecodedDates) else new for new in columns]
            merged = [_merged(cells_of(source, i), form.cast(i, new), missing[:, i]) for i, new in enumerate(columns)]
            return form.build(merged)
        replaced = {}
        for index in np.flatnonzero(missing.any(axis=0)):
            new = form.cast(int(index), columns[index])
            replaced[int(index)] = _filled_column(source, int(index), form, new, missing[:, index])
        return with_columns(source, replaced)

    def array(self, values: np.ndarray) -> np.ndarray:
        """Codes and numbers of shape (..., n_expanded) as numbers, and what columns of their dtype list."""
        columns = self.cells(values.reshape(-1, values.shape[-1]))
        own = {*self.dates, *self.form.number_formats, *(i for i, levels in enumerate(self.levels) if levels)}
        table = np.empty((len(columns[0]), len(columns)), dtype=object if own or self.has_levels else float)
        for place, column in enumerate(columns):
            table[:, place] = self.form.listed(place, column) if place in own else column
        return table.reshape(*values.shape[:-1], len(columns))

    def decode(self, values: np.ndarray, like: Any = None, *, index: Any = None) -> Any:
        """Make a table of codes and numbers.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_expanded)
        like : array or DataFrame, default=None
            Whose form the table gets, and whose rows keep what they hold in columns that are left out, and a rare level
            where the values say that it is one; None for the form of the table that this was learned from.
        index : Index, default=None
            Row labels of a pandas table, where ``like`` is none.

        Returns
        -------
        table : ndarray, pandas.DataFrame, polars.DataFrame or pyarrow.Table
            In the dtypes of the form: integers are rounded, and no number leaves the range of its dtype.
        """
        if like is None:
            return self.form.build(self.cells(values), index)
        source, columns, labels = as_source(like), self.cells(values), None
        form = self._form_of(source)
        for place, rare in self.rare.items():
            group, codes = values[:, place] == self._first_rare(place), self.codes[place] or {}
            kept = zip(columns[place], cells_of(source, place), group.tolist(), strict=True)
            columns[place] = [own if same and is_rare(own, rare, codes) else cell for cell, own, same in kept]
        if form.library == "pandas":
            index, labels = like.index, like.columns
        own = {place: column_of(source, place) for place in self.left_out}
        return with_columns(form.build(columns, index, labels), own) if own else form.build(columns, index, labels)

    def _form_of(self, X: Any) -> Form:
        """The form of a table, with dtypes that can hold what this makes of it."""
        form, kinds = Form.of(X), self.kinds
        if form.library == "numpy":
            return form
        blank = [kind == "bool" and all(map(is_missing, cells_of(X, index))) for index, kind in enumerate(kinds)]
        return form.holding(kinds, blank, self.form)

    def state(self) -> dict[str, Any]:
        """Plain values for a pickle."""
        return {
            "levels": [None if levels is None else list(levels) for levels in self.levels],
            "form": self.form.state(),
            "rare": [[index, rare.state()] for index, rare in self.rare.items()],
            "left_out": list(self.left_out),
            "dates": [[index, dates.state()] for index, dates in self.dates.items()],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Table":
        """Inverse of `state`."""
        levels = tuple(None if column is None else tuple(column) for column in state["levels"])
        form = Form.from_state(state["form"])
        if len(levels) != len(form.labels):
            raise ValueError(f"a table of {len(form.labels)} columns has levels of {len(levels)}")
        rare = {int(index): Rare.from_state(one) for index, one in state.get("rare", [])}
        if any(index >= len(levels) or not levels[index] for index in rare):
            raise ValueError("a column without levels has rare ones")
        left_out = tuple(int(index) for index in state.get("left_out", []))
        if any(index >= len(levels) or levels[index] is not None for index in left_out):
            raise ValueError("a column with levels is left out")
        if any(index >= len(levels) or levels[index] is not None for index in form.number_formats):
            raise ValueError("a column of numbers as text has levels")
        dates = {int(index): Dates.from_state(one) for index, one in state.get("dates", [])}
        if any(index >= len(levels) or levels[index] is not None for index in dates):
            raise ValueError("a column of dates has levels")
        return cls(levels, form, rare, left_out, dates)


# Dtypes that NumPy reads as numbers, missing ones included; pandas' nullable ones by scikit-learn.
_READABLE = re.compile(
    r"[Uu]?[Ii]nt(8|16|32|64)(\[arrow\])?|[Ff]loat(32|64)|float16|double\[arrow\]|float\[arrow\]|bool"
)


def _warn_of_new_levels(new: Mapping[Any, list[Any]], *, scored: bool) -> None:
    parts = []
    for label, values in new.items():
        quoted = ", ".join(cut(repr(value)) for value in values[:_MAX_QUOTED])
        more = f" and {len(values) - _MAX_QUOTED:,} more" if len(values) > _MAX_QUOTED else ""
        parts.append(f"{label!r} ({quoted}{more})")
    fate = "are scored no higher than the rarest one" if scored else "count as missing"
    warn(
        f"Levels that no fitted row has {fate}: column {', '.join(parts)}. Fit on rows with all levels, or replace "
        "them by NaN.",
        UserWarning,
    )


def _merged(cells: list[Any], new: Any, missing: np.ndarray) -> list[Any]:
    """Cells of a column with new values where some are missing and there is a value."""
    pairs = zip(cells, new, missing.tolist(), strict=True)
    return [value if hole and not is_missing(value) else cell for cell, value, hole in pairs]


def _filled_column(X: Any, index: int, form: Form, new: Any, missing: np.ndarray) -> Any:
    """A column of a frame with new values in its missing cells."""
    if isinstance(new, DecodedDates):
        return _filled_dates(X, index, form, new, missing)
    if not is_pandas(X) or holds_bins(column_of(X, index)):
        return form.series(index, _merged(cells_of(X, index), new, missing), X.index if is_pandas(X) else None)
    column, name = X.iloc[:, index], form.dtypes[index]
    is_other = dtype_name(column.dtype) != name.split(":int")[0].split(":bool")[0].split(":decimal")[0]
    if is_other or name.endswith("[arrow]"):
        return form.series(index, _merged(column.tolist(), new, missing), X.index)
    filled = column.copy()
    if name == "category":  # a level that the fit knew and these rows do not have
        added = {value for value in new if not is_missing(value)} - set(filled.cat.categories)
        if added and not len(filled.cat.categories):  # a blank column, whose dtype says nothing: that of the fit
            return form.series(index, new, X.index)
        filled = filled.cat.add_categories(sorted(added)) if added else filled  # none would change an empty one's dtype
    holes = [row for row in np.flatnonzero(missing).tolist() if not is_missing(new[row])]
    filled.iloc[holes] = [new[row] for row in holes]
    return filled if name == "category" else filled.astype(column.dtype)


def _filled_dates(X: Any, index: int, form: Form, new: DecodedDates, missing: np.ndarray) -> Any:
    """The same of a column of dates or durations."""
    column, made = column_of(X, index), form.series(index, new, X.index if is_pandas(X) else None)
    if dtype_name(column.type if is_arrow(X) else column.dtype) != dtype_name(made.type if is_arrow(X) else made.dtype):
        return made  # a blank column, whose dtype says nothing
    if is_arrow(X):
        import pyarrow.compute as pc

        return pc.if_else(missing, made, column)
    if is_polars(X):
        import polars as pl

        return column.zip_with(pl.Series(~missing), made)
    return column.where(~missing, made)
