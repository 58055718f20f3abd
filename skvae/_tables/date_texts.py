"""Dates as text: how those of a column are written, read as ISO 8601 and written so again."""

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np

from .dtypes import is_missing

__all__ = ["as_iso", "iso_form", "offset_of", "text_shape", "written", "zone_of"]

_TIME = r"[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?"
_CLOCK = f"(?P<clock>({_TIME}Z?)?)"
_OFFSET = r"(?P<offset>Z|[+-]([01]\d|2[0-3])(:?[0-5]\d)?)?"
_ISO = re.compile(rf"\d{{4}}-\d\d-\d\d({_TIME}{_OFFSET})?")
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
        Of ISO 8601 with 0 for each digit, "0000-00-00", but for those of an offset from UTC, "0000-00-00T00:00+02:00":
        the one of all texts, or 0 where they have several. Or "DD.MM.YYYY", "M/D/YYYY 00:00" and the like, with one
        letter where no number has a zero in front.
    """
    texts = [cell for cell in cells if not is_missing(cell)]
    if not texts:
        return None
    iso = _ISO.fullmatch(texts[0])
    shapes = _shapes(texts) if iso is None else _iso_shapes(texts, len((iso["offset"] or "").removesuffix("Z")))
    if len(shapes) != 1:
        return None
    (shape,) = shapes
    dates = [as_iso(text, shape) for text in texts]
    try:
        np.array(dates, dtype="datetime64[us]")
    except ValueError:
        return None
    return None if None in dates else shape


def _iso_shapes(texts: list[str], size: int) -> set[str]:
    """Shapes of texts that end in an offset from UTC of some characters, in UTC if the offsets differ."""
    if size == 0:
        return {re.sub(r"\d", "0", text) for text in texts}
    shapes = {re.sub(r"\d", "0", text[:-size]) + text[-size:] for text in texts}
    if len(shapes) == 1:
        return shapes
    return {re.sub(r"\d", "0", shape[:-size] + shape[-size:].replace("-", "+")) for shape in shapes}


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
    """A date as text in the one way that NumPy reads; None if it is neither ISO's nor of the shape.

    One with an offset from UTC is the same moment by the clock of the shape; none where the shape has no such clock.
    """
    iso = _ISO.fullmatch(text)
    if iso:
        return _by_clock(text, iso["offset"], shape) if iso["offset"] else text.replace(" ", "T")
    match = None if shape is None else _pattern(shape).fullmatch(text)
    if match is None:
        return None
    date = f"{match['year']}-{match['month']:0>2}-{match['day']:0>2}"
    return date + text[match.end("date") :].removesuffix("Z").replace(" ", "T")


def _by_clock(text: str, offset: str, shape: str | None) -> str | None:
    """A date of ISO's that ends in an offset from UTC, by the clock of a shape; "Z" says nothing where it has none."""
    own = "" if shape is None else offset_of(shape)
    if offset == own or (offset == "Z" and own == ""):
        return text.removesuffix(offset).replace(" ", "T")
    if own == "":
        return None
    try:
        clock = datetime.fromisoformat(f"2000-01-01T00:00{own}").tzinfo
        return datetime.fromisoformat(text).astimezone(clock).replace(tzinfo=None).isoformat()
    except (ValueError, OverflowError):  # no day, or beyond the years 1 to 9999
        return None


@lru_cache(maxsize=64)
def offset_of(shape: str) -> str:
    """With which offset from UTC the texts of a shape end: "Z", "+02:00", "+0200"; "" for none."""
    found = re.search(f"{_OFFSET}$", _split(shape)[1])
    return "" if found is None else found[0]


def zone_of(shape: str | None) -> str | None:
    """The time zone of texts that end in an offset from UTC, "+02:00"; None for others, "Z" included."""
    offset = "" if shape is None else offset_of(shape).removesuffix("Z")
    return f"{offset[:3]}:{offset[3:].removeprefix(':') or '00'}" if offset else None


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
