"""Tables to tables of numbers and back: a category becomes the code of its level, a date the days since 1970.

Everything behind this module sees numbers. A code counts the levels of its column, which are sorted, from 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .._support.warnings import cut, warn
from .bins import holds_bins
from .cells import Cells, raise_all, refused_columns
from .dates import Dates, DecodedDates
from .dtypes import dtype_name, is_missing
from .expansion import Expansion
from .form import Form, as_source, cells_of, column_of, is_arrow, is_frame, is_pandas, is_polars, names_of, with_columns
from .kinds import Categorical, Column, LeftOut, Numeric, NumericText, Temporal
from .levels import Rare
from .number_texts import NumberFormat
from .unread import warn_of_unread

__all__ = ["Table", "chosen_columns", "column_numbers"]

K = TypeVar("K", bound=Column)
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
    columns : tuple of Column
        What each column is.
    form : Form
        Of the table that it was learned from.
    """

    columns: tuple[Column, ...]
    form: Form

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
        return cls((Numeric(),) * len(form.labels), form)

    def of_kind(self, kind: type[K]) -> dict[int, K]:
        """Columns of one kind by their numbers."""
        return self._by_kind.get(kind, {})

    @cached_property
    def _by_kind(self) -> dict[type[Column], dict[int, Any]]:
        found: dict[type[Column], dict[int, Any]] = {}
        for index, column in enumerate(self.columns):
            found.setdefault(type(column), {})[index] = column
        return found

    @property
    def has_levels(self) -> bool:
        """Whether a column is categorical."""
        return bool(self.of_kind(Categorical))

    @property
    def is_plain(self) -> bool:
        """Whether all columns are numbers as they come."""
        return len(self.of_kind(Numeric)) == len(self.columns)

    @property
    def left_out(self) -> tuple[int, ...]:
        """Numbers of the columns that the model does not see."""
        return tuple(self.of_kind(LeftOut))

    @property
    def n_levels(self) -> tuple[int, ...] | None:
        """Number of levels of each column of expanded rows, 0 for numbers; None where all columns hold numbers."""
        further = self.expansion.n_levels
        own = [column.n_levels for column in self.columns]
        return tuple(own + further) if self.has_levels or any(further) else None

    @cached_property
    def expansion(self) -> Expansion:
        """How dates are written in the columns that a model sees: the further parts of those that are written by cycles
        of the calendar stand behind all columns of the table.
        """
        cycles = {index: column.dates.cycles for index, column in self.of_kind(Temporal).items()}
        return Expansion(len(self.columns), {index: one for index, one in cycles.items() if one is not None})

    @property
    def kinds(self) -> tuple[str | None, ...]:
        """What each column holds, as `Form.holding` has it; None where no level is known, or it is left out."""
        return tuple(column.kind for column in self.columns)

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
        if not quiet:
            _warn_of_new_levels(self._unread(new, "levels"), scored=scored)
            self.warn_of_unread(new)
        return encoded

    def warn_of_unread(self, unread: Mapping[int, list[Any]]) -> None:
        """Warn of texts of some columns that are no dates or numbers."""
        for called in ("dates", "numbers"):
            warn_of_unread(self._unread(unread, called), called)

    def _unread(self, unread: Mapping[int, list[Any]], called: str) -> dict[Any, list[Any]]:
        """The cells of columns of such values, by the labels of these."""
        told = (index for index in sorted(unread) if unread[index] and self.columns[index].called == called)
        return {self.form.labels[index]: unread[index] for index in told}

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
        if source.shape[1] != len(self.columns):
            raise ValueError(
                f"X has {source.shape[1]} columns, but the model was fitted on {len(self.columns)}. Pass the columns "
                "that it was fitted on, in the same order."
            )
        names = names_of(source)
        others = {*self.of_kind(Categorical), *self.of_kind(LeftOut)}
        numbers = [name.lower() for index, name in enumerate(names) if index not in others]
        single = bool(numbers) and all(name.startswith(("float32", "float16", "float[")) for name in numbers)
        read = self._columns(source, names, new, scored=scored)
        columns = {index: column.astype(np.float32 if single else np.float64) for index, column in read.items()}
        if isinstance(source, np.ndarray) and not numbers:
            return np.column_stack(list(columns.values()))
        return with_columns(source, columns)

    def _columns(
        self, X: Any, names: Sequence[str], new: dict[int, list[Any]], *, scored: bool
    ) -> dict[int, np.ndarray]:
        """The columns that numbers have to be made of."""
        columns: dict[int, np.ndarray] = {}
        problems: list[str] = []
        for index in self._unreadable(names, in_array=isinstance(X, np.ndarray)):
            try:
                columns[index], unread = self.columns[index].encoded(
                    X, index, names[index], self.form.labels[index], scored=scored
                )
                if unread:
                    new.setdefault(index, []).extend(unread)
            except ValueError as error:
                problems.append(str(error))
        raise_all(problems)
        return columns

    def _unreadable(self, names: Sequence[str], *, in_array: bool) -> list[int]:
        """Numbers of the columns of some dtypes, of which a wide table has few, that NumPy cannot read."""
        places: list[int] = []
        different = set(names)
        for kind, columns in self._by_kind.items():
            readable = {name for name in different if kind.is_readable(name, in_array=in_array)}
            places += [index for index in columns if names[index] not in readable]
        return sorted(places)

    def missing(self, X: Any) -> np.ndarray:
        """Which categorical cells of a table hold nothing, of shape (n_samples, n_features); True in other columns.

        A level that was new to `encode` is there all the same.
        """
        source = as_source(X)
        missing = np.ones((len(source), len(self.columns)), dtype=bool)
        for index in self.of_kind(Categorical):
            cells = Cells.of(source, index)
            missing[:, index] = np.array([kind == "missing" for kind in cells.kinds])[cells.positions]
        return missing

    def cells(self, values: np.ndarray) -> list[Any]:
        """Columns of cells, as `Column.decoded` makes them.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_expanded)
            As `Expansion.expanded` makes them, or `spread`. The code of rare levels is the most frequent one of them.

        Returns
        -------
        columns : list
        """
        values = self.expansion.joined(values)
        return [column.decoded(numbers) for column, numbers in zip(self.columns, values.T, strict=True)]

    def spread(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a rare level, in their shares, wherever values of shape (..., n_expanded) hold the code of all of them.

        The first rare level keeps that code, the others get those beyond it, which `cells` and `decode` know.
        """
        for index, column in self._with_rare.items():
            values = values.clone()
            values[..., index] = column.spread(values[..., index], generator)
        return values

    @cached_property
    def _with_rare(self) -> dict[int, Categorical]:
        """Columns with rare levels."""
        return {index: column for index, column in self.of_kind(Categorical).items() if column.rare is not None}

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
        listed = [column.kind is not None and not isinstance(column, Numeric) for column in self.columns]
        table = np.empty((len(columns[0]), len(columns)), dtype=object if any(listed) or self.has_levels else float)
        for place, column in enumerate(columns):
            table[:, place] = self.form.listed(place, column) if listed[place] else column
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
        for place, column in self._with_rare.items():
            columns[place] = column.with_own(columns[place], cells_of(source, place), values[:, place])
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
        form, formats = self.form.state(), self.of_kind(NumericText)
        if formats:
            form["number_texts"] = [[index, column.format.state()] for index, column in formats.items()]
        categories = self.of_kind(Categorical)
        rare = {index: category.rare for index, category in categories.items() if category.rare is not None}
        return {
            "levels": [list(categories[i].levels) if i in categories else None for i in range(len(self.columns))],
            "form": form,
            "rare": [[index, one.state()] for index, one in rare.items()],
            "left_out": list(self.left_out),
            "dates": [[index, column.dates.state()] for index, column in self.of_kind(Temporal).items()],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Table":
        """Inverse of `state`."""
        levels, form = state["levels"], Form.from_state(state["form"])
        if len(levels) != len(form.labels):
            raise ValueError(f"a table of {len(form.labels)} columns has levels of {len(levels)}")
        rare = {int(index): Rare.from_state(one) for index, one in state.get("rare", [])}
        if any(index >= len(levels) or not levels[index] for index in rare):
            raise ValueError("a column without levels has rare ones")
        formats = state["form"].get("number_texts", [])
        others: dict[str, dict[int, Column]] = {
            "of numbers as text has levels": {int(i): NumericText(NumberFormat.from_state(one)) for i, one in formats},
            "of dates has levels": {int(i): Temporal(Dates.from_state(one)) for i, one in state.get("dates", [])},
            "with levels is left out": {int(i): LeftOut() for i in state.get("left_out", [])},
        }
        columns: dict[int, Column] = {}
        for problem, found in others.items():
            if any(index >= len(levels) or levels[index] is not None for index in found):
                raise ValueError(f"a column {problem}")
            columns |= found
        own = [Numeric() if one is None else Categorical(tuple(one), rare.get(i)) for i, one in enumerate(levels)]
        return cls(tuple(columns.get(index, column) for index, column in enumerate(own)), form)


def _warn_of_new_levels(new: Mapping[Any, list[Any]], *, scored: bool) -> None:
    parts = []
    for label, cells in new.items():
        values = list(dict.fromkeys(cells))
        quoted = ", ".join(cut(repr(value)) for value in values[:_MAX_QUOTED])
        more = f" and {len(values) - _MAX_QUOTED:,} more" if len(values) > _MAX_QUOTED else ""
        parts.append(f"{label!r} ({quoted}{more})")
    fate = "are scored no higher than the rarest one" if scored else "count as missing"
    if parts:
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
