"""Dates as text: how those of a column are written, read as ISO 8601 and written so again."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .dtypes import is_missing

__all__ = ["as_iso", "iso_form", "text_shape", "written"]

_CLOCK = r"(?P<clock>([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?Z?)?)"
_ISO = re.compile(r"\d{4}-\d\d-\d\d" + _CLOCK)
_OTHERS = (
    re.compile(r"(?P<year>\d{4})(?P<by>[/.])(?P<one>\d\d?)(?P=by)(?P<two>\d\d?)" + _CLOCK),
    re.compile(r"(?P<one>\d\d?)(?P<by>[-/.])(?P<two>\d\d?)(?P=by)(?P<year>\d{4})" + _CLOCK),
)
# What stands for the year, the month and the day in a shape other than ISO's, and what may stand there in a text.
_FIELDS = {"YYYY": r"(?P<year>\d{4})", "MM": r"(?P<month>\d\d?)", "M": r"(?P<month>\d\d?)"}
_FIELDS |= {"DD": r"(?P<day>\d\d?)", "D": r"(?P<day>\d\d?)"}
_FIELD = re.compile("YYYY|MM?|DD?")


def text_shape(cells: Sequence[Any]) -> str | None:
    """How dates are written as text; None if texts are none, not alike, or may be read with day or month first.

    Parameters
    ----------
    cells : sequence of str
        None or NaN where missing.

    Returns
    -------
    shape : str or None
        Of ISO 8601 with 0 for each digit, "0000-00-00"; or "DD.MM.YYYY", "M/D/YYYY 00:00" and the like, with one letter
        where no number has a zero in front.
    """
    texts = [cell for cell in cells if not is_missing(cell)]
    if not texts:
        return None
    shapes = {re.sub(r"\d", "0", text) for text in texts} if _ISO.fullmatch(texts[0]) else _shapes(texts)
    if len(shapes) != 1:
        return None
    (shape,) = shapes
    dates = [as_iso(text, shape) for text in texts]
    try:
        np.array(dates, dtype="datetime64[us]")
    except ValueError:
        return None
    return None if None in dates else shape


def _shapes(texts: list[str]) -> set[str]:
    """Shapes of texts that are not ISO's: one if they are alike, none if they are no dates."""
    for pattern in _OTHERS:
        found = [pattern.fullmatch(text) for text in texts]
        parts = [match for match in found if match is not None]
        if len(parts) < len(texts):
            continue
        ones, twos = [match["one"] for match in parts], [match["two"] for match in parts]
        width = _width([*ones, *twos])
        year_first = parts[0].start("year") == 0
        letters = "MD" if year_first else _order(ones, twos)
        if width is None or letters is None:
            return set()
        one, two = (width * letter for letter in letters)
        whole = "YYYY{by}{one}{by}{two}" if year_first else "{one}{by}{two}{by}YYYY"
        return {whole.format(by=match["by"], one=one, two=two) + re.sub(r"\d", "0", match["clock"]) for match in parts}
    return set()


def _width(numbers: list[str]) -> int | None:
    """2 if all numbers have two digits, 1 if none has a zero in front; None for both ways in one column."""
    if all(len(number) == 2 for number in numbers):
        return 2
    return None if any(number.startswith("0") for number in numbers) else 1


def _order(ones: list[str], twos: list[str]) -> str | None:
    """Which of two numbers is the month, and which the day: beyond 12, or always the first."""
    first, second = {int(one) for one in ones}, {int(two) for two in twos}
    day_first, month_first = max(first) > 12, max(second) > 12
    if not day_first and not month_first:
        day_first, month_first = first == {1}, second == {1}
    return None if day_first == month_first else "DM" if day_first else "MD"


def as_iso(text: str, shape: str | None) -> str | None:
    """A date as text in the one way that NumPy reads; None if it is neither ISO's nor of the shape."""
    if _ISO.fullmatch(text):
        return text.removesuffix("Z").replace(" ", "T")
    match = None if shape is None else _pattern(shape).fullmatch(text)
    if match is None:
        return None
    date = f"{match['year']}-{match['month']:0>2}-{match['day']:0>2}"
    return date + text[match.end("date") :].removesuffix("Z").replace(" ", "T")


@lru_cache(maxsize=64)
def _pattern(shape: str) -> re.Pattern[str]:
    """Texts of a shape that is not ISO's; none has that of one that is."""
    date, clock = _split(shape)
    if "YYYY" not in date:
        return re.compile("(?!)")
    fields = _FIELD.sub(lambda field: _FIELDS[field[0]], re.escape(date))
    return re.compile(f"(?P<date>{fields}){re.escape(clock).replace('0', '[0-9]')}")


def _split(shape: str) -> tuple[str, str]:
    """The date and the clock of a shape."""
    date = re.match(r"[\dYMD./-]+", shape)
    end = 0 if date is None else date.end()
    return shape[:end], shape[end:]


def iso_form(shape: str) -> str:
    """The shape of ISO's that holds as much as a shape, for `written`."""
    return f"0000-00-00{_split(shape)[1]}"


def written(iso: str, shape: str) -> str:
    """A date of the `iso_form` of a shape in the shape itself."""
    date, _ = _split(shape)
    parts = {"YYYY": iso[:4], "MM": iso[5:7], "M": str(int(iso[5:7])), "DD": iso[8:10], "D": str(int(iso[8:10]))}
    return (_FIELD.sub(lambda field: parts[field[0]], date) if "YYYY" in date else iso[:10]) + iso[10:]
