"""Dtypes of pandas, polars and Arrow by name: what a column of one can hold, and plain values brought into one."""

import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

import numpy as np

__all__ = [
    "arrow_type",
    "column_type",
    "dtype_name",
    "in_dtype",
    "is_missing",
    "object_name",
    "pandas_dtype",
    "polars_dtype",
    "to_float",
]

_TEXT = {"str", "string", "large_string", "string_view", "utf8", "large_utf8", "string_object"}
_MOMENTS = {date, datetime, timedelta}
_MOMENT = {"Timestamp": datetime, "Timedelta": timedelta}  # pandas' own
_NUMBER = re.compile(r"u?int\d+|float\d*|double|half(float)?|decimal\d*(\(.*\))?")
# Other types of columns, by how the names of their dtypes begin; the first that fits counts.
_BEGINNINGS = {
    "timedelta": "durations",
    "duration": "durations",
    "date": "dates",
    "timestamp": "dates",
    "time": "times",
    "period": "dates",
    "interval": "category",
    "complex": "complex numbers",
    "sparse": "sparse",
    "binary": "bytes",
    "large_binary": "bytes",
    "fixed_size_binary": "bytes",
    "list": "nested values",
    "large_list": "nested values",
    "fixed_size_list": "nested values",
    "array": "nested values",
    "struct": "nested values",
    "map": "nested values",
}


def dtype_name(dtype: Any) -> str:
    """A text from which a dtype of any library is found again.

    Parameters
    ----------
    dtype : dtype
        Of NumPy, pandas, polars, or a type of Arrow.

    Returns
    -------
    name : str
        Types of Arrow end with "[arrow]".
    """
    module = type(dtype).__module__.partition(".")[0]
    if hasattr(dtype, "pyarrow_dtype"):
        return _arrow_name(dtype.pyarrow_dtype)
    if module == "pyarrow":
        return _arrow_name(dtype)
    if hasattr(dtype, "storage"):  # pandas' text dtypes differ in their missing value
        return f"text:{dtype.storage}:{'nan' if isinstance(dtype.na_value, float) else 'NA'}"
    if module == "polars":
        name = str(dtype).split("(")[0]
        if name in ("Datetime", "Duration"):
            zone = getattr(dtype, "time_zone", None)
            return f"{name}({dtype.time_unit}{'' if zone is None else f', {zone}'})"
        return f"{name}({dtype.precision}, {dtype.scale})" if name == "Decimal" else name
    return str(dtype)


def _arrow_name(dtype: Any) -> str:
    if hasattr(dtype, "index_type"):
        inner = _arrow_name(dtype.value_type).removesuffix("[arrow]")
        return f"dictionary({dtype.index_type}, {inner}, {int(dtype.ordered)})[arrow]"
    return f"{dtype}[arrow]"


def arrow_type(name: str) -> Any:
    """The type of Arrow of a name."""
    import pyarrow

    name = name.removesuffix("[arrow]")
    if name.startswith("dictionary("):
        index, inner = name.removeprefix("dictionary(").removesuffix(")").split(", ", 1)
        inner, ordered = inner.rsplit(", ", 1)
        return pyarrow.dictionary(arrow_type(index), arrow_type(inner), ordered == "1")
    if name.startswith("decimal"):
        function, precision, scale = _decimal(name)
        return getattr(pyarrow, function)(precision, scale)
    if name.startswith("timestamp["):
        unit, _, zone = name.removeprefix("timestamp[").removesuffix("]").partition(", tz=")
        return pyarrow.timestamp(unit, zone or None)
    return pyarrow.type_for_alias(name)


def pandas_dtype(name: str) -> Any:
    """The dtype of pandas of a name."""
    import pandas as pd

    if name.startswith("text:"):
        _, storage, missing = name.split(":")
        return pd.StringDtype(storage, na_value=np.nan) if missing == "nan" else pd.StringDtype(storage)
    if name.endswith("[arrow]"):
        return pd.ArrowDtype(arrow_type(name))
    return pd.api.types.pandas_dtype("object" if name.startswith("object") else name)


def polars_dtype(name: str) -> Any:
    """The dtype of polars of a name, but for the categories of an Enum."""
    import polars as pl

    if name.startswith(("Datetime(", "Duration(")):
        kind, _, inside = name.removesuffix(")").partition("(")
        return getattr(pl, kind)(*inside.split(", "))
    return pl.Decimal(*_decimal(name)[1:]) if name.startswith("Decimal(") else getattr(pl, name)


def _decimal(name: str) -> tuple[str, int, int]:
    function, inside = name.removesuffix(")").split("(")
    precision, scale = inside.split(", ")
    return function, int(precision), int(scale)


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing."""
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, (float, np.floating)):
        return bool(value != value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def to_float(value: Any) -> float:
    """The nearest float, infinite where a number is beyond all of them."""
    try:
        return float(value)
    except OverflowError:  # refused as any infinite value
        return float("inf") if value > 0 else float("-inf")


def object_name(cells: Sequence[Any]) -> str:
    """Name of a dtype of objects, with the one type of number that its cells have, if it is one."""
    types = {_MOMENT.get(type(value).__name__, type(value)) for value in cells if not is_missing(value)}
    for name, number in (("bool", (bool, np.bool_)), ("int", (int, np.integer)), ("decimal", (Decimal,))):
        if types and all(issubclass(one, number) and (name == "bool" or one is not bool) for one in types):
            return f"object:{name}"
    return f"object:{_moments_name(cells, types)}" if types <= _MOMENTS and types else "object"


def _moments_name(cells: Sequence[Any], types: set[type]) -> str:
    """The one kind of dates, with their time zone, or durations that cells hold; "times" for several."""
    if types == {date} or types == {timedelta}:
        return types.pop().__name__
    zones = {cell.tzinfo for cell in cells if isinstance(cell, datetime) and not is_missing(cell)}
    if timedelta in types or len(set(map(str, zones))) > 1:
        return "times"
    zone = zones.pop()
    return "datetime" if zone is None else f"datetime, {zone}"


def column_type(name: str) -> str:
    """Type of the columns of a dtype: what they hold.

    Parameters
    ----------
    name : str
        As `dtype_name` gives it.

    Returns
    -------
    column_type : str
        "number", "bool", "text", "category", "dates", "durations", "nothing", or "object" where only the cells tell;
        anything else cannot be used, and is what messages call it.
    """
    if name.startswith("object"):
        return "object"
    base = name.removesuffix("[arrow]").lower()
    if base.startswith("text:") or base in _TEXT:
        return "text"
    if base in ("bool", "boolean"):
        return "bool"
    if _NUMBER.fullmatch(base):
        return "number"
    if base in ("category", "categorical", "enum") or base.startswith("dictionary("):
        return "category"
    if base == "null":
        return "nothing"
    return next((held for beginning, held in _BEGINNINGS.items() if base.startswith(beginning)), "other")


# --- Values ---------------------------------------------------------------------------------------------------------


def in_dtype(column: Any, name: str, categories: Sequence[Any] | None = None) -> Any:
    """Bring numbers into a dtype: rounded and into its range; a list of other values stays as it is.

    Parameters
    ----------
    column : list or ndarray of float
        An array holds numbers, NaN where missing.
    name : str
        As `dtype_name` gives it.
    categories : sequence, default=None
        The only values that the dtype has.

    Returns
    -------
    column : list or ndarray
        None where missing, in a list.
    """
    if not isinstance(column, np.ndarray):
        return _levels_in(column, name)
    if column_type(name) in ("category", "nothing", "text") and np.isnan(column).all():
        return [None] * len(column)
    if categories is not None and len(categories):
        return _nearest(column, categories)
    base = name.removesuffix("[arrow]").lower()
    if base.startswith("dictionary("):
        base = base.removesuffix(")").split(", ", 1)[1].rsplit(", ", 1)[0]
    base = base.removeprefix("object:")
    if base == "null":
        return [None] * len(column)
    if base.startswith("bool"):
        return [None if number != number else number >= 0.5 for number in column.tolist()]
    if base.startswith("decimal"):
        return _decimals(column, base)
    if base == "int":
        return [None if number != number else round(number) for number in column.tolist()]
    if base.startswith(("int", "uint")):
        return _integers(column, base)
    if base in ("float16", "halffloat", "float32", "float"):
        bounds = np.finfo(np.float16 if base in ("float16", "halffloat") else np.float32)
        return np.clip(column, bounds.min, bounds.max)
    return column


def _levels_in(column: list[Any], name: str) -> list[Any]:
    """Levels that are numbers or booleans, in a dtype that wants them of its own type."""
    base = name.removesuffix("[arrow]").lower()
    if base.startswith("decimal") or base == "object:decimal":
        return [value if value is None else Decimal(str(value)) for value in column]
    if base.startswith("bool"):
        return [value if value is None else bool(value) for value in column]
    if column_type(name) == "number":
        return [value if value is None else value + 0 for value in column]  # a boolean becomes 0 or 1
    return column


def _nearest(column: np.ndarray, categories: Sequence[Any]) -> list[Any]:
    known = np.array([float(value) for value in categories])
    order = np.argsort(known)
    middles = 0.5 * (known[order][1:] + known[order][:-1])
    places = order[np.searchsorted(middles, column)] if len(known) > 1 else np.zeros(len(column), dtype=int)
    return [
        None if missing else categories[place]
        for place, missing in zip(places.tolist(), np.isnan(column).tolist(), strict=True)
    ]


def _integers(column: np.ndarray, name: str) -> Any:
    bits, signed = int(name.lstrip("uint")), name.startswith("i")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if bits > 64 or np.isnan(column).any():
        return [None if number != number else min(max(_whole(number), low), high) for number in column.tolist()]
    # Of the highest integers of 64 bits only every 1,024th or 2,048th is a float.
    most = float(high) if bits < 64 else np.nextafter(float(high), 0.0)
    return np.clip(np.rint(column), float(low), most).astype(name)


def _whole(number: float) -> int:
    return round(number) if np.isfinite(number) else (2**200 if number > 0 else -(2**200))


def _decimals(column: np.ndarray, name: str) -> list[Any]:
    if "(" not in name:
        return [None if number != number else Decimal(str(number)) for number in column.tolist()]
    _, precision, scale = _decimal(name)
    unit, context = Decimal(1).scaleb(-scale), Context(prec=400, rounding=ROUND_HALF_EVEN)
    most = Decimal(10**precision - 1).scaleb(-scale, context)
    return [
        None if number != number else min(max(Decimal(number).quantize(unit, context=context), -most), most)
        for number in np.clip(column, -1e300, 1e300).tolist()
    ]
