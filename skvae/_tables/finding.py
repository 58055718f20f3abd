"""What each column of a table is, learned in `fit`: numbers, or a category with the levels that it has."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._support.warnings import cut, warn
from .cells import Cells, column_types, is_number, raise_all, refused_columns
from .cycles import find_cycles
from .date_texts import as_iso, date_format, zone_of
from .dates import DateDtype, Dates, date_dtype_of, ticks_of
from .dtypes import is_missing, object_name, to_float
from .form import Form, as_source, cells_of, column_of, is_arrow, is_frame, labels_of, names_of
from .identifiers import find_keys, free_text, is_key, warn_of_left_out
from .kinds import Categorical, Column, LeftOut, Numeric, NumericText, Temporal
from .levels import split_levels, warn_of_rare_levels
from .number_texts import number_format
from .table import Table, chosen_columns, column_numbers
from .unread import LEAST_READ

__all__ = ["find_table", "with_cycles"]

# Different texts from which on dates are dates: a few of them are the names of periods.
_LEAST_DATES = 20
_WHOLE = re.compile(r"[Uu]?[Ii]nt(64|128)(\[arrow\])?")


def find_table(
    X: Any, *, categorical_features: Any, likelihood: Any, weight: np.ndarray | None = None
) -> "Table | None":
    """Learn the levels of the categorical columns of a table.

    Parameters
    ----------
    X : array-like or DataFrame of shape (n_samples, n_features)
    categorical_features : "from_dtype", None or array-like
        As in the estimators.
    likelihood : str or dict
        As in the estimators; it overrules the dtype of the columns that it names.
    weight : ndarray of shape (n_samples,), default=None
        Of the rows; None for 1 each. Levels of rows without any do not count.

    Returns
    -------
    table : Table, or None
        None for an array of numbers.

    Raises
    ------
    ValueError
        If columns mix kinds of values or hold what is neither number nor category, or if a parameter names no column.

    Warns
    -----
    UserWarning
        If integers of a column of numbers are so large that floats cannot tell them apart, if columns have more levels
        than are told apart, if identifiers are left out, or if columns of dates, or of numbers as text, hold texts that
        are none.
    """
    source = as_source(X)
    if source is None:
        _check_unread(X, categorical_features, likelihood)
        return None
    labels = labels_of(source)
    if not labels:
        return None  # a parameter cannot name a column: the check of the table says why
    as_category, named = _as_category(categorical_features, likelihood, labels)
    if isinstance(source, np.ndarray) and source.dtype.kind not in "OUb" and set(as_category) == {None}:
        _warn_of_merged(source, labels)
        return None
    found = _Found(source, labels, weight)
    numbers = found.learn(as_category)
    if is_frame(source):
        found.left_out |= find_keys(source, {i: labels[i] for i in numbers if i not in named}, weight)
    if len(found.left_out) == len(labels):  # or nothing would be left
        found.left_out.clear()
        for index in sorted(set(range(len(labels))) - set(numbers)):
            found.add_levels(index, Cells.of(source, index))
    table = found.table()
    found.warn(table)
    return None if isinstance(source, np.ndarray) and table.is_plain else table


def _check_unread(X: Any, categorical_features: Any, likelihood: Any) -> None:
    """Refuse categories in a container without columns to read, and warn of the integers of a tensor."""
    lists_none = categorical_features is None or np.size(categorical_features) == 0
    if likelihood == "categorical" or not (lists_none or isinstance(categorical_features, str)):
        raise TypeError(
            "The 'categorical_features' parameter needs a NumPy array or a DataFrame of pandas or polars, but a "
            f"{type(X).__name__} came. Convert it, or leave 'categorical_features' out."
        )
    if isinstance(X, Tensor) and X.ndim == 2 and X.dtype in (torch.int64, torch.uint64) and X.device.type == "cpu":
        _warn_of_merged(X.numpy(), labels_of(X.numpy()))


def _as_category(
    categorical_features: Any, likelihood: Any, labels: Sequence[Any]
) -> tuple[list[bool | None], Collection[int]]:
    """Whether each column is to be a category, None where its cells decide; and which ones ``likelihood`` names."""
    listed = chosen_columns(categorical_features, labels)
    if likelihood == "categorical":
        listed = set(range(len(labels)))
    named = likelihood if isinstance(likelihood, Mapping) else {}
    families = dict(zip(column_numbers(list(named), labels, "likelihood"), named.values(), strict=True))
    as_category = [None if listed is None else index in listed for index in range(len(labels))]
    for index, family in families.items():
        as_category[index] = family == "categorical"
    return as_category, families.keys()


def with_cycles(table: Table, values: np.ndarray, named: Any, weight: np.ndarray | None) -> Table:
    """Learn by which cycles of the calendar dates lie, or other columns depend on them.

    Parameters
    ----------
    table : Table
    values : ndarray of shape (n_samples, n_features)
        As `Table.encode` makes them.
    named : str or mapping
        The ``likelihood`` of the estimators; dates that a mapping names are one number.
    weight : ndarray of shape (n_samples,), or None
        Of the rows.

    Returns
    -------
    table : Table
    """
    named = column_numbers(list(named), table.form.labels, "likelihood") if isinstance(named, Mapping) else []
    temporal = table.of_kind(Temporal).items()
    asked = {index: column.dates for index, column in temporal if column.kind == "date" and index not in named}
    if not asked:
        return table
    coded, left_out = table.of_kind(Categorical), table.of_kind(LeftOut)
    kept = [index for index in range(len(table.columns)) if index not in left_out]
    amounts = np.column_stack(
        [_of_commonest(values[:, index], weight) if index in coded else values[:, index] for index in kept]
    )
    columns = list(table.columns)
    for index, dates in asked.items():
        others = amounts[:, [place for place, column in enumerate(kept) if column != index]]
        cycles = find_cycles(values[:, index].astype(np.float64), others, dates.per_day, weight)
        columns[index] = Temporal(replace(dates, cycles=cycles))
    return replace(table, columns=tuple(columns))


def _of_commonest(codes: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """1 for the level that most rows have, 0 for the others, NaN where missing."""
    seen = ~np.isnan(codes)
    mass = np.bincount(codes[seen].astype(int), None if weight is None else weight[seen])
    return np.where(seen, codes == (mass.argmax() if len(mass) else 0), np.nan)


@dataclass
class _Found:
    """What is known of the columns of a table so far, by their numbers."""

    X: Any
    labels: tuple[Any, ...]
    weight: np.ndarray | None
    columns: dict[int, Column] = field(default_factory=dict)  # but for those that are left out, and plain numbers
    left_out: dict[int, str] = field(default_factory=dict)  # why
    too_many: dict[Any, int] = field(default_factory=dict)  # number of levels by label
    unread: dict[int, list[str]] = field(default_factory=dict)  # texts that are no dates or numbers

    def table(self) -> Table:
        """What was learned, as a record."""
        columns = self.columns | dict.fromkeys(self.left_out, LeftOut())
        return Table(tuple(columns.get(index, Numeric()) for index in range(len(self.labels))), Form.of(self.X))

    def warn(self, table: Table) -> None:
        """Say what a user may not have meant."""
        table.warn_of_unread(self.unread)
        warn_of_left_out({self.labels[index]: self.left_out[index] for index in table.left_out})
        warn_of_rare_levels(self.too_many)
        _warn_of_merged(self.X, self.labels, {*table.of_kind(Categorical), *table.left_out})

    def learn(self, as_category: Sequence[bool | None]) -> list[int]:
        """Learn what all columns are; returns those that are numbers by their dtype."""
        problems = {} if isinstance(self.X, np.ndarray) else refused_columns(self.X, self.labels, dated=True)
        numbers = []
        for index, held in enumerate(column_types(self.X)):
            if index in problems:
                continue
            if held == "number" and not as_category[index]:
                numbers.append(index)
                continue
            try:
                self.learn_column(index, held, as_category=as_category[index])
            except ValueError as error:
                problems[index] = str(error)
        raise_all(problems[index] for index in sorted(problems))
        return numbers

    def learn_column(self, index: int, held: str, *, as_category: bool | None) -> None:
        """Learn what a column of some `column_type` is; by this and its cells if ``as_category`` is None."""
        if held in ("dates", "durations") and not as_category:
            self.columns[index] = self.dates_of(index)
            return
        cells = Cells.of(self.X, index)
        if held == "object" and not as_category and is_frame(self.X) and self.add_dates(index, cells):
            return
        if held == "category" and as_category is not False:
            self.add_levels(index, cells)
            return
        problem = cells.refused(self.labels[index])
        if problem is not None and not is_frame(self.X) and "nested values" in cells.present():
            return  # scikit-learn refuses it, and its checks ask for its own words
        if problem is not None:
            raise ValueError(problem)
        if as_category:
            self.add_levels(index, cells)
        elif held == "category" or not self.add_text(index, cells, plain=as_category is False):
            if as_category is None and _is_categorical(self.X, held, cells):
                self.add_levels(index, cells)
            else:
                self.check_numbers(index, cells)

    def add_levels(self, index: int, cells: Cells) -> None:
        """Keep the levels of a column."""
        label = self.labels[index]
        mass = cells.levels(label, self.weight)
        levels, rare = split_levels(mass)
        self.columns[index] = Categorical(levels, rare)
        if rare is not None:
            self.too_many[label] = len(mass)

    def add_text(self, index: int, cells: Cells, *, plain: bool) -> bool:
        """Keep what text holds that is no category, as the user says if ``plain``; False for any other column."""
        texts_only = not plain and cells.present() == {"text"}
        format = self.format_of_dates(cells) if texts_only and is_frame(self.X) else None
        if format is not None:
            self.columns[index] = self.dates_of(index, format)
            return True
        if self.add_numbers(index, cells, asked=plain):
            return True
        reason = free_text(self.labels[index], cells, self.weight) if texts_only else None
        if reason is not None:
            self.left_out[index] = reason
        return reason is not None

    def check_numbers(self, index: int, cells: Cells) -> None:
        """Refuse text in a column of numbers."""
        label = self.labels[index]
        cells.numbers(label)
        if "text" in cells.present() and is_frame(self.X):
            row, value = cells.first_of("text")
            raise ValueError(
                f"Column {label!r} must hold numbers, as it is no category of this model, but row {row} holds the text "
                f"{cut(repr(value))}. Turn the column into numbers first, for example by pandas.to_numeric, or fit "
                "with it in 'categorical_features'."
            )

    def add_dates(self, index: int, cells: Cells) -> bool:
        """Keep what a column of plain dates or durations is, a few texts among them; False for any other column."""
        if not any(cells.present() <= kinds for kinds in ({"times", "text"}, {"durations"})):
            return False
        plain = cells_of(self.X, index)
        if date_dtype_of(_name_of_times(plain)) is not None and 1.0 - self.share_of_text(cells) >= LEAST_READ:
            self.columns[index] = self.dates_of(index)
            return True
        label, zones = self.labels[index], [str(getattr(cell, "tzinfo", None)) for cell in plain]
        moments = [row for row, cell in enumerate(plain) if isinstance(cell, datetime) and not is_missing(cell)]
        other = next((row for row in moments if zones[row] != zones[moments[0]]), None)
        if other is not None:
            raise ValueError(
                f"Column {label!r} must hold times of one time zone, but row {moments[0]} holds {plain[moments[0]]} "
                f"(time zone {zones[moments[0]]}) and row {other} holds {plain[other]} (time zone {zones[other]}). "
                "Convert them to one, for example by pandas.to_datetime with utc=True."
            )
        return False

    def add_numbers(self, index: int, cells: Cells, *, asked: bool) -> bool:
        """Keep the format of numbers that are text, a few other texts among them; False for any other column."""
        kinds, format = cells.present(), None
        if is_frame(self.X) and "text" in kinds <= {"text", "number"} and (asked or not is_key(self.labels[index])):
            format = number_format(cells.mass(self.weight), asked=asked)
        if format is None:
            return False
        self.columns[index] = NumericText(format)
        _, self.unread[index] = cells.written_numbers(format)
        return True

    def share_of_text(self, cells: Cells) -> float:
        """Share of the values of a column that are text, by the weight of their rows."""
        mass = cells.mass(self.weight)
        known = sum(mass.values())
        return sum(count for cell, count in mass.items() if isinstance(cell, str)) / known if known else 0.0

    def format_of_dates(self, cells: Cells) -> str | None:
        """How the dates of a column of text are written; None if it holds other text, or few different ones."""
        mass = cells.mass(self.weight)
        format = date_format(list(mass), list(mass.values())) if len(mass) >= _LEAST_DATES else None
        if format is None:
            return None
        dates = (text for text, count in mass.items() if count > 0 and as_iso(text, format) is not None)
        return format if len(list(islice(dates, _LEAST_DATES))) == _LEAST_DATES else None

    def dates_of(self, index: int, format: str | None = None) -> Temporal:
        """What a column of dates or durations is, by the rows that count."""
        name = names_of(self.X)[index]
        dtype = date_dtype_of(name)
        counts = slice(None) if self.weight is None else self.weight > 0
        if dtype is not None:
            ticks, missing = ticks_of(column_of(self.X, index), dtype)
            return Temporal(Dates.of(ticks[counts][~missing[counts]], dtype))
        cells = cells_of(self.X, index)
        dtype = date_dtype_of(_name_of_times(cells)) or DateDtype("date", 86_400_000_000, zone_of(format))
        whole = Dates(dtype.kind, dtype.per_day, dtype.zone, format)
        days, self.unread[index] = whole.read(None, name, lambda: cells, self.labels[index])
        days = days[counts]
        ticks = np.rint(days[~np.isnan(days)] * dtype.per_day).astype(np.int64)
        return Temporal(Dates.of(ticks, dtype, format))


def _name_of_times(cells: list[Any]) -> str:
    """`object_name` of the cells that hold no text."""
    return object_name([cell for cell in cells if not isinstance(cell, str)])


def _is_categorical(X: Any, held: str, cells: Cells) -> bool:
    """Whether the cells make a column categorical that is no category by its dtype."""
    if isinstance(X, np.ndarray) and X.dtype.kind == "U" and all(map(is_number, cells.values)):
        return False
    kinds = cells.present()
    if not kinds:
        return held != "object" or not isinstance(X, np.ndarray)
    return "text" in kinds or kinds == {"bool"}


def _warn_of_merged(X: Any, labels: Sequence[Any], others: Collection[int] = ()) -> None:
    """Say which columns, ``others`` apart, hold integers that are one and the same as floats.

    Warns
    -----
    UserWarning
    """
    told = []
    names = names_of(X)
    whole = {name for name in set(names) if name == "object" or _WHOLE.fullmatch(name)}
    for index, name in enumerate(names):
        if index in others or name not in whole or not _may_be_merged(X, index, name):
            continue
        values = {cell for cell in cells_of(X, index) if isinstance(cell, int) and abs(cell) > 2**53}
        n_floats = len({to_float(value) for value in values})
        if n_floats < len(values):
            told.append(f"{labels[index]!r} ({len(values):,} of them become {n_floats:,})")
    if told:
        warn(
            f"Integers beyond 2**53 are rounded to the nearest floating-point number, which makes different ones equal "
            f"in column {', '.join(told)}. Drop identifiers, list them in 'categorical_features', or subtract a "
            "constant first.",
            UserWarning,
        )


def _may_be_merged(X: Any, index: int, name: str) -> bool:
    """Whether a column may hold integers beyond 2**53, for a closer look."""
    if name == "object":
        return True
    column = column_of(X, index)
    if is_arrow(X):
        column = np.asarray(column.drop_null())
    if not len(column):
        return False
    extremes = (
        [np.nanmin(column), np.nanmax(column)] if isinstance(column, np.ndarray) else [column.min(), column.max()]
    )
    return any(not is_missing(value) and abs(int(value)) > 2**53 for value in extremes)
