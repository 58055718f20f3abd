"""Known values of rows to be drawn: from a table of some columns, and exact in the result."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .._support.warnings import cut
from .cells import raise_all
from .dtypes import is_missing
from .form import PLAIN_DTYPES, Form, as_source, cells_of, is_frame, is_pandas, is_polars, labels_of
from .kinds import Categorical, LeftOut, Numeric, NumericText, Temporal
from .table import Table, column_numbers
from .unread import is_blank

__all__ = ["as_table", "check_levels", "completed", "decoded"]

# Beyond it not every integer is a float.
_EXACT = 2.0**53


def as_table(given: Mapping[Any, Any], labels: tuple[Any, ...], library: str) -> Any:
    """Make a table of columns by name: lists of values, or one value for all rows.

    Parameters
    ----------
    given : mapping
        Of labels; where the fit has seen none also of numbers of columns.
    labels : tuple
        Of the columns that were fitted.
    library : {"numpy", "pandas", "polars", "pyarrow"}
        Of the table that was fitted.

    Returns
    -------
    table : ndarray of shape (n_given, n_features), or DataFrame of the columns that are named

    Raises
    ------
    ValueError
        If lists differ in length, or name no column.
    """
    lists = {key: list(value) for key, value in given.items() if isinstance(value, (list, tuple, np.ndarray))}
    lengths = {key: len(values) for key, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The lists of 'given' must have one length, but they have {lengths}. Pass one for each row.")
    n_rows = next(iter(lengths.values()), 1)
    columns = {key: lists.get(key, [value] * n_rows) for key, value in given.items()}
    if library == "pandas":
        import pandas as pd

        return pd.DataFrame(columns)
    if library == "polars":
        import polars as pl

        return pl.DataFrame(columns)
    if library == "pyarrow":
        import pyarrow

        return pyarrow.table(columns)
    table = np.full((n_rows, len(labels)), np.nan, dtype=object)
    for place, values in zip(column_numbers(list(columns), labels, "given"), columns.values(), strict=True):
        table[:, place] = values
    return table


def completed(given: Any, labels: tuple[Any, ...], *, named: bool) -> Any:
    """A table with all columns of the fit in their order, blank where ``given`` lacks one.

    Parameters
    ----------
    given : array or DataFrame of shape (n_given, n_some)
    labels : tuple
        Of the columns that were fitted.
    named : bool
        Whether the fit has seen these labels.

    Returns
    -------
    table : array or DataFrame of shape (n_given, n_features)

    Raises
    ------
    ValueError
        If columns are unknown, or columns without names are not all there.
    """
    source = as_source(given)
    if source is None:
        return given
    if not is_frame(source) or not named:
        if source.shape[1] != len(labels):
            remedy = "Or name some of them by a DataFrame." if named else "The fit has seen no names to go by."
            raise ValueError(
                f"'given' must have all {len(labels)} columns of the fit, NaN where a value is not known, but it has "
                f"{source.shape[1]}. {remedy}"
            )
        return given
    found = labels_of(source)
    unknown = [label for label in found if label not in labels]
    if unknown:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        shown = ", ".join(cut(repr(label)) for label in unknown[:10]) + more
        raise ValueError(
            f"'given' must hold columns of the fit, but also has {shown}. The fit has the columns "
            f"{', '.join(cut(repr(label)) for label in labels[:10])}{', ...' if len(labels) > 10 else ''}."
        )
    return source if found == labels else _rearranged(source, found, labels)


def _rearranged(source: Any, found: tuple[Any, ...], labels: tuple[Any, ...]) -> Any:
    """A frame with columns of other labels in their places, blank ones of floats among them."""
    if is_pandas(source):
        return source.reindex(columns=list(labels))
    if is_polars(source):
        import polars as pl

        empty = pl.Series("blank", [None] * len(source), dtype=pl.Float64)
        return pl.DataFrame([source[label] if label in found else empty.alias(label) for label in labels])
    import pyarrow

    nothing = pyarrow.nulls(len(source), pyarrow.float64())
    columns = [source.column(label) if label in found else nothing for label in labels]
    return pyarrow.Table.from_arrays(columns, names=list(labels))


def check_levels(table: Table, given: Any, values: np.ndarray) -> None:
    """Refuse levels that no fitted row has, and texts that are no dates or numbers, by the names of their columns.

    Parameters
    ----------
    table : Table
    given : array or DataFrame
    values : ndarray of shape (n_given, n_features)
        As `Table.encode` makes them with ``scored``.

    Raises
    ------
    ValueError
    """
    problems = []
    for index, column in (table.of_kind(Temporal) | table.of_kind(NumericText)).items():
        cells = cells_of(as_source(given), index)
        row = next(
            (row for row in np.flatnonzero(np.isnan(values[:, index])).tolist() if not is_blank(cells[row])), None
        )
        if row is not None:
            problems.append(
                f"Column {table.form.labels[index]!r} of 'given' must hold {column.called}, but row {row} holds "
                f"{cut(repr(cells[row]))}. Leave it blank to have one drawn."
            )
    for index, category in table.of_kind(Categorical).items():
        new, levels = values[:, index] >= category.n_levels, category.levels
        if not new.any():
            continue
        row = int(np.argmax(new))
        value = cells_of(as_source(given), index)[row]
        shown = ", ".join(cut(repr(level)) for level in levels[:5]) + (", ..." if len(levels) > 5 else "")
        problems.append(
            f"Column {table.form.labels[index]!r} of 'given' must hold levels of the fit ({shown}), but row {row} "
            f"holds {cut(repr(value))}. Leave it blank to have one drawn."
        )
    raise_all(problems)


def decoded(table: Table, values: np.ndarray, given: Any, known: np.ndarray, index: Any) -> Any:
    """Make a table of drawn rows that holds given values exactly.

    Parameters
    ----------
    table : Table
    values : ndarray of shape (n_given, n_draws, n_expanded)
        Codes and numbers, the given ones among them.
    given : array or DataFrame of shape (n_given, n_features)
    known : ndarray of shape (n_given, n_features)
        Codes and numbers of ``given``, NaN where unknown.
    index : Index, or None
        Row labels of a pandas table.

    Returns
    -------
    table : ndarray or DataFrame of shape (n_given * n_draws, n_features)
        All draws of the first given row come first. In the dtypes of the fit, but for columns of numbers whose dtype
        cannot hold what is given: these are of float64. Columns that are left out are in the dtype that is given.
    """
    form, n_draws, source = table.form, values.shape[1], as_source(given)
    columns = table.cells(values.reshape(-1, values.shape[-1]))
    for place, column in enumerate(table.columns):
        there, own = ~np.isnan(known[:, place]), partial(cells_of, source, place)
        if isinstance(column, Temporal):
            drawn = columns[place].days.reshape(-1, n_draws)
            days = np.where(there[:, None], known[:, [place]], drawn).reshape(-1)
            columns[place] = replace(columns[place], days=days).with_given(known[:, place])
        elif isinstance(column, LeftOut):
            there = np.array([not is_missing(cell) for cell in own()])
            columns[place] = _with_cells(columns[place], own(), there, n_draws)
            form = _with_dtype_of(form, source, place) if there.any() else form
        elif not there.any():
            continue
        elif isinstance(column, NumericText):
            cells = column.format.exact(own())
            columns[place] = _with_cells(form.cast(place, columns[place]), cells, there, n_draws)
        elif isinstance(column, Categorical) and column.rare is not None:
            columns[place] = _with_cells(columns[place], own(), there, n_draws)
        elif isinstance(column, Numeric) and form.library != "numpy":
            numbers = known[there, place]
            if not np.array_equal([float(value) for value in form.cast(place, numbers)], numbers):
                form = form.with_dtype(place, PLAIN_DTYPES[form.library]["number"])
            elif (np.abs(numbers) >= _EXACT).any() and "int" in form.dtypes[place].lower():
                whole = [int(cell) if here else None for cell, here in zip(own(), there, strict=True)]
                columns[place] = _with_cells(form.cast(place, columns[place]), whole, there, n_draws)
    return form.build(columns, index)


def _with_dtype_of(form: Form, source: Any, place: int) -> Form:
    """The same form with one column as in a table of its library."""
    own = Form.of(source)
    return form.with_dtype(place, own.dtypes[place], own.categories.get(place)) if own.library == form.library else form


def _with_cells(drawn: Any, cells: list[Any], there: np.ndarray, n_draws: int) -> list[Any]:
    """Drawn values with the given ones in their places."""
    values = list(drawn)
    for row in np.flatnonzero(there).tolist():
        values[row * n_draws : (row + 1) * n_draws] = [cells[row]] * n_draws
    return values
