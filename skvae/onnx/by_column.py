"""Tables with a graph input for each column: text, booleans and numbers to rows of numbers and codes, and back."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._support.graph import ML, Graph
from .._tables.cells import kind_of, raise_all
from .._tables.dtypes import column_type
from .._tables.kinds import Categorical, LeftOut
from .._tables.levels import Rare, codes_of
from .._tables.table import Table

__all__ = [
    "Column",
    "Expected",
    "columns_of_array",
    "columns_of_frame",
    "is_by_column",
    "read",
    "text_columns",
    "write_back",
]


class Column(NamedTuple):
    """One column of the table that a model was fitted on."""

    name: str
    dtype: np.dtype  # of its input: object for text
    levels: tuple[Any, ...] | None  # None for numbers
    whole: tuple[float, float] | None = None  # the range of integers and booleans that are numbers
    rare: Rare | None = None
    left_out: bool = False

    @property
    def is_text(self) -> bool:
        """Whether its cells are text."""
        return self.dtype == object

    @property
    def codes(self) -> dict[Any, int]:
        """Code of each level that has to be looked up: of rare ones none where all others are rare."""
        rare = None if self.rare is None or not self.rare.complete else self.rare
        return codes_of(self.levels or (), rare)

    @property
    def other(self) -> int:
        """The code of every other level: of rare ones, or of new ones."""
        return len(self.levels or ()) + (self.rare is not None and self.rare.complete)


def is_by_column(table: Table) -> bool:
    """Whether rows come as columns rather than as one array of numbers."""
    return bool(text_columns(table)) or (table.has_levels and table.form.library != "numpy")


def text_columns(table: Table) -> list[int]:
    """Numbers of the columns that hold text, those that are left out included."""
    types = [column_type(name) for name in table.form.dtypes]
    return [
        index
        for index, column in enumerate(table.columns)
        if column.kind == "text" or (isinstance(column, LeftOut) and types[index] != "number")
    ]


def columns_of_array(table: Table, dtype: np.dtype) -> list[Column]:
    """Columns of an array of numbers, some of which are levels.

    Raises
    ------
    ValueError
        If the precision cannot tell levels apart.
    """
    columns = [_column(table, index, dtype) for index in range(len(table.columns))]
    raise_all(filter(None, map(_merged, columns)))
    return columns


def columns_of_frame(table: Table, gaps: Sequence[bool], dtype: np.dtype, taken: Sequence[str]) -> list[Column]:
    """Columns of a frame with an input each.

    Parameters
    ----------
    table : Table
    gaps : sequence of bool
        Whether cells of each column were missing in training.
    dtype : dtype
        Of numbers with a fraction.
    taken : sequence of str
        Names of other outputs.

    Returns
    -------
    columns : list of Column

    Raises
    ------
    ValueError
        With all columns that a graph cannot hold, by name.
    """
    columns = []
    for index, (held, name) in enumerate(zip(table.columns, table.form.dtypes, strict=True)):
        levels = held.levels if isinstance(held, Categorical) else None
        given = _dtype_of(levels, name, dtype, gap=gaps[index])
        columns.append(_column(table, index, given, _range_of(name)))
    names = [name for column in columns for name in (column.name, f"reconstruction_{column.name}")]
    problems = []
    for column, gap in zip(columns, gaps, strict=True):
        twice = names.count(column.name) > 1 or names.count(f"reconstruction_{column.name}") > 1
        if twice or column.name in taken or f"reconstruction_{column.name}" in taken:
            problems.append(
                f"Column {column.name!r} must have a name of its own in the graph, but another input or output is "
                "called so. Rename the column before the fit."
            )
        elif gap and "" in column.codes:
            problems.append(
                f"Column {column.name!r} must not hold the empty text beside missing cells, which the empty text "
                "stands for in a graph. Replace it by another text before the fit."
            )
        elif (problem := _merged(column)) is not None:
            problems.append(problem)
    raise_all(problems)
    return columns


def _column(table: Table, index: int, dtype: np.dtype, whole: tuple[float, float] | None = None) -> Column:
    held, label = table.columns[index], str(table.form.labels[index])
    levels, rare = (held.levels, held.rare) if isinstance(held, Categorical) else (None, None)
    return Column(label, dtype, levels, whole, rare, isinstance(held, LeftOut))


def _dtype_of(levels: tuple[Any, ...] | None, name: str, dtype: np.dtype, *, gap: bool) -> np.dtype:
    """Dtype of an input: one that has a missing value, where the column has a gap."""
    kind = column_type(name) if levels is None else kind_of(levels[0])
    if kind == "text" and levels is not None:
        return np.dtype(object)
    if gap:
        return dtype
    if kind == "bool":
        return np.dtype(bool)
    whole = _range_of(name) is not None if levels is None else all(type(level) is int for level in levels)
    return np.dtype(np.int64) if whole else dtype


def _range_of(name: str) -> tuple[float, float] | None:
    """Least and greatest value of a dtype of integers or booleans, None for others."""
    base = name.removesuffix("[arrow]").lower().removeprefix("object:")
    if base.startswith("bool"):
        return 0.0, 1.0
    base = "int64" if base == "int" else base
    if not base.lstrip("u").startswith("int") or not base.lstrip("uint").isdigit():
        return None
    bits = min(int(base.lstrip("uint")), 64)
    low, high = (0.0, 2.0**bits - 1.0) if base.startswith("u") else (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1.0)
    # No float64 lies between the greatest integer of 64 bits and this one.
    return low, min(high, np.nextafter(2.0**63, 0.0))


def _merged(column: Column) -> str | None:
    """What is wrong with levels that are one and the same in the precision of the graph."""
    levels = list(column.codes)
    if not levels or column.is_text:
        return None
    if column.dtype == np.int64:
        limits = np.iinfo(np.int64)
        inside = all(limits.min <= level <= limits.max for level in levels)
        return None if inside else _unheld(column, "int64")
    values = np.array(levels, dtype=np.float64).astype(column.dtype)
    return None if len(np.unique(values)) == len(values) else _unheld(column, str(column.dtype))


def _unheld(column: Column, dtype: str) -> str:
    remedy = "Turn them into text before the fit" + (", or export with dtype='float64'." if dtype == "float32" else ".")
    return f"Column {column.name!r} must hold levels that {dtype} tells apart. {remedy}"


# --- From inputs to rows --------------------------------------------------------------------------------------------


def read(graph: Graph, columns: Sequence[Column], inputs: Sequence[str], dtype: Any) -> str:
    """Rows of numbers and codes, of shape (n_samples, n_columns), of columns of shape (n_samples, 1).

    A missing cell is NaN; a level that no fitted row has gets the first code beyond those of its column. Columns that
    are left out, whose inputs are not read, hold 0.
    """
    named = [(column, name) for column, name in zip(columns, inputs, strict=True) if not column.left_out]
    values = [name if column.levels is None else _codes_of(graph, column, name) for column, name in named]
    rows = graph.node("Concat", *(graph.cast(value, dtype) for value in values), axis=1)
    left_out = np.array([column.left_out for column in columns])
    if not left_out.any():
        return rows
    places = np.maximum(np.cumsum(~left_out) - 1, 0)
    whole = graph.node("Gather", rows, graph.integers(*places), axis=1)
    return graph.node("Where", graph.constant(left_out, bool), graph.constant(0.0, dtype), whole)


def _codes_of(graph: Graph, column: Column, name: str) -> str:
    """Codes of the levels of a column as floats."""
    codes, other = column.codes, column.other
    values: dict[str, Any] = {"domain": ML, "default_float": float(other)}
    if column.is_text:
        keys = {"": -1} | codes
        values["values_floats"] = list(map(float, keys.values()))
        found = graph.node("LabelEncoder", name, keys_strings=list(keys), **values)
        nothing = graph.constant(np.nan, np.float32)
        return graph.node("Where", graph.node("Less", found, graph.constant(0.0, np.float32)), nothing, found)
    if column.dtype.kind != "f":
        whole = graph.cast(name, np.int64)
        values["values_floats"] = list(map(float, codes.values()))
        return graph.node("LabelEncoder", whole, keys_int64s=list(map(int, codes)), **values)
    same = graph.cast(graph.node("Equal", name, graph.constant(list(codes), column.dtype)), np.float64)
    steps = graph.constant(np.array(list(codes.values()))[:, None] - other, np.float64)
    found = graph.node("Add", graph.node("MatMul", same, steps), graph.constant(float(other), np.float64))
    return graph.node("Where", graph.node("IsNaN", name), graph.constant(np.nan, np.float64), found)


# --- And back -------------------------------------------------------------------------------------------------------


class Expected(NamedTuple):
    """Expected rows, beside those that came."""

    rows: str  # numbers and codes, of some precision
    dtype: Any
    raw: str  # the rows that came, of the same precision
    nothing: str  # whether a row could not be decoded, of shape (n_samples, 1)


def write_back(graph: Graph, columns: Sequence[Column], expected: Expected, inputs: Sequence[str]) -> list[str]:
    """Columns of shape (n_samples, 1) in the dtypes of the inputs; those that are left out as they came.

    Of rows that could not be decoded text is empty; other levels, integers and booleans mean nothing. A rare level
    stays where a rare one is expected.
    """
    made = []
    for index, (column, name) in enumerate(zip(columns, inputs, strict=True)):
        if column.left_out:
            made.append(name)
            continue
        value = graph.columns(expected.rows, index, index + 1)
        if column.levels is None:
            made.append(_number(graph, column, value, expected))
            continue
        level = _level(graph, column, value, expected.nothing)
        if column.rare is not None:
            group = graph.constant(float(len(column.levels)), expected.dtype)
            came = graph.node("Equal", graph.columns(expected.raw, index, index + 1), group)
            both = graph.node("And", came, graph.node("Equal", value, group))
            level = graph.node("Where", both, name, level)
        made.append(level)
    return made


def _level(graph: Graph, column: Column, code: str, nothing: str) -> str:
    levels = [*(column.levels or ()), *(column.rare.levels[:1] if column.rare else ())]
    blank: Any = "" if column.is_text else np.nan if column.dtype.kind == "f" else False
    place = graph.node("Where", nothing, graph.constant(len(levels), np.int64), graph.cast(code, np.int64))
    table = np.empty(len(levels) + 1, dtype=column.dtype)
    table[:] = [*levels, blank]
    return graph.node("Gather", graph.constant(table, column.dtype), place, axis=0)


def _number(graph: Graph, column: Column, value: str, expected: Expected) -> str:
    dtype = expected.dtype
    if column.dtype == bool:
        return graph.node("GreaterOrEqual", value, graph.constant(0.5, dtype))
    if column.whole is not None:
        low, high = (graph.constant(end, dtype) for end in column.whole)
        value = graph.node("Max", graph.node("Min", graph.node("Round", value), high), low)
    if column.dtype == np.int64:
        value = graph.node("Where", expected.nothing, graph.constant(0.0, dtype), value)
    return graph.cast(value, column.dtype)
