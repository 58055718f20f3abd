"""Dates as text: how those of a column are written, read as ISO 8601 and written so again."""

import re
from collections.abc import Sequence
from datetime import datetime, tzinfo
from functools import lru_cache
from typing import Any

from .unread import LEAST_READ, is_blank

__all__ = [
    "as_iso",
    "date_format",
    "iso_format_of",
    "offset_of",
    "written",
    "zone_of",
]

_TIME = r"[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?"
_CLOCK = f"(?P<clock>({_TIME}Z?)?)"
_OFFSET = r"(?P<offset>Z|[+-]([01]\d|2[0-3])(:?[0-5]\d)?)?"
_ISO = re.compile(rf"\d{{4}}-\d\d-\d\d({_TIME}{_OFFSET})?")
_OTHERS = (
    re.compile(r"(?P<year>\d{4})(?P<by>[/.])(?P<one>\d\d?)(?P=by)(?P<two>\d\d?)" + _CLOCK),
    re.compile(r"(?P<one>\d\d?)(?P<by>[-/.])(?P<two>\d\d?)(?P=by)(?P<year>\d{4})" + _CLOCK),
)
# What stands for the year, the month and the day in a format other than ISO's, and what they match in a text.
_FIELDS = {"YYYY": r"(?P<year>\d{4})", "MM": r"(?P<month>\d\d?)", "M": r"(?P<month>\d\d?)"}
_FIELDS |= {"DD": r"(?P<day>\d\d?)", "D": r"(?P<day>\d\d?)"}
_FIELD = re.compile("YYYY|MM?|DD?")


def date_format(cells: Sequence[Any], mass: Sequence[float] | None = None) -> str | None:
    """Format of dates as text; None if most texts are no dates, formats differ, or day and month cannot be told apart.

    Parameters
    ----------
    cells : sequence of str
        None or NaN where missing.
    mass : sequence of float of the same length, default=None
        Weight of each; None for 1.

    Returns
    -------
    format : str or None
        Of ISO 8601 with 0 for each digit, "0000-00-00", but for those of an offset from UTC, "0000-00-00T00:00+02:00":
        the one of all texts, or 0 where they have several. Or "DD.MM.YYYY", "M/D/YYYY 00:00" and the like, with one
        letter where no number has a zero in front. At least nine in ten texts are of it.
    """
    masses: dict[str, float] = {}
    for cell, weight in zip(cells, [1.0] * len(cells) if mass is None else mass, strict=True):
        if weight > 0 and not is_blank(cell):
            masses[cell] = masses.get(cell, 0.0) + weight
    left = sum(masses.values())
    least = LEAST_READ * left
    alike: dict[tuple[str, ...], list[str]] = {}
    for text, weight in masses.items():
        key = _likeness(text)
        if key is not None:
            alike.setdefault(key, []).append(text)
            continue
        left -= weight
        if left < least:
            return None
    for key, texts in alike.items():
        format = _iso_format(texts) if key[0] == "ISO" else _other_format(texts)
        if format is not None and sum(masses[text] for text in texts if as_iso(text, format) is not None) >= least:
            return format
    return None


def _likeness(text: str) -> tuple[str, ...] | None:
    """What texts of one format have in common; None for a text that is no date in any format."""
    iso = _ISO.fullmatch(text)
    if iso:
        return ("ISO", re.sub(r"\d", "0", text.replace("-", "+"))) if _is_moment(text) else None
    match = next(filter(None, (pattern.fullmatch(text) for pattern in _OTHERS)), None)
    if match is None:
        return None
    days = (f"{match['year']}-{match[month]:0>2}-{match[day]:0>2}" for month, day in (("one", "two"), ("two", "one")))
    if not any(_is_moment(day + _time(match["clock"])) for day in days):
        return None
    return (match["by"], "year first" if match.start("year") == 0 else "", re.sub(r"\d", "0", match["clock"]))


def _iso_format(texts: list[str]) -> str:
    """Format of ISO texts that are alike: in UTC if their offsets differ."""
    size = len(offset_of(texts[0]).removesuffix("Z"))
    ends = {text[len(text) - size :] for text in texts}
    end = ends.pop() if len(ends) == 1 else re.sub(r"\d", "0", texts[0][-size:].replace("-", "+"))
    return re.sub(r"\d", "0", texts[0][: len(texts[0]) - size]) + end


def _other_format(texts: list[str]) -> str | None:
    """Format of other texts that are alike; None if the day and the month cannot be told apart."""
    parts = [match for pattern in _OTHERS for match in map(pattern.fullmatch, texts) if match is not None]
    ones, twos = [match["one"] for match in parts], [match["two"] for match in parts]
    width, year_first = _width([*ones, *twos]), parts[0].start("year") == 0
    letters = "MD" if year_first else _order(ones, twos)
    if width is None or letters is None:
        return None
    one, two = (width * letter for letter in letters)
    whole = "YYYY{by}{one}{by}{two}" if year_first else "{one}{by}{two}{by}YYYY"
    return whole.format(by=parts[0]["by"], one=one, two=two) + re.sub(r"\d", "0", parts[0]["clock"])


def _width(numbers: list[str]) -> int | None:
    """2 if numbers have a zero in front, or none needs one, 1 if they have none; None for both ways in one column."""
    padded, short = (sum(fits(number) for number in numbers) for fits in (lambda n: n[0] == "0", lambda n: len(n) == 1))
    return 2 if short == 0 else {True: 2, False: 1, None: None}[_prevails(padded, short)]


def _order(ones: list[str], twos: list[str]) -> str | None:
    """Which of two numbers is the month, and which the day: beyond 12, or always the first."""
    days_first, months_first = (sum(int(number) > 12 for number in numbers) for numbers in (ones, twos))
    if not days_first and not months_first:
        days_first, months_first = ({int(number) for number in numbers} == {1} for numbers in (ones, twos))
    return {True: "DM", False: "MD", None: None}[_prevails(days_first, months_first)]


def _prevails(first: int, second: int) -> bool | None:
    """Whether the first of two numbers of texts holds nearly all of them; None if neither does."""
    least = LEAST_READ * (first + second)
    return None if max(first, second) < max(least, 1) else first >= least


def as_iso(text: str, format: str | None, clock: tzinfo | None = None) -> str | None:
    """A date as ISO text, which NumPy reads; None if it is no date, or neither in ISO 8601 nor in the format.

    One with an offset from UTC is the same moment by a clock, or that of the format; None where there is no clock.
    """
    iso = _ISO.fullmatch(text)
    if iso:
        return _by_clock(text, iso["offset"], format, clock) if _is_moment(text) else None
    match = None if format is None else _pattern(format).fullmatch(text)
    if match is None:
        return None
    found = f"{match['year']}-{match['month']:0>2}-{match['day']:0>2}" + _time(text[match.end("date") :])
    return found if _is_moment(found) else None


def _time(clock: str) -> str:
    return clock.removesuffix("Z").replace(" ", "T")


def _is_moment(iso: str) -> bool:
    """Whether ISO text is a date and a time that exist, in the years 1 to 9999."""
    try:
        datetime.fromisoformat(iso)
    except ValueError:
        return False
    return True


def _by_clock(text: str, offset: str | None, format: str | None, clock: tzinfo | None) -> str | None:
    """An ISO date by a clock, if it ends in an offset from UTC; "Z" says nothing where there is no clock."""
    own = "" if format is None else offset_of(format)
    if not offset or (clock is None and offset == (own or "Z")):
        return text.removesuffix(offset or "").replace(" ", "T")
    if clock is None and own == "":
        return None
    try:
        clock = clock or datetime.fromisoformat(f"2000-01-01T00:00{own}").tzinfo
        return datetime.fromisoformat(text).astimezone(clock).replace(tzinfo=None).isoformat()
    except OverflowError:  # beyond the years 1 to 9999
        return None


@lru_cache(maxsize=64)
def offset_of(format: str) -> str:
    """The offset from UTC at the end of a format: "Z", "+02:00", "+0200"; "" for none."""
    found = re.search(f"{_OFFSET}$", _split(format)[1])
    return "" if found is None else found[0]


def zone_of(format: str | None) -> str | None:
    """The time zone of texts that end in an offset from UTC, "+02:00"; None for others."""
    offset = "" if format is None else offset_of(format).replace("Z", "+00:00")
    return f"{offset[:3]}:{offset[3:].removeprefix(':') or '00'}" if offset else None


@lru_cache(maxsize=64)
def _pattern(format: str) -> re.Pattern[str]:
    """Pattern of the texts of a format; of an ISO one it matches none."""
    date, clock = _split(format)
    if "YYYY" not in date:
        return re.compile("(?!)")
    fields = _FIELD.sub(lambda field: _FIELDS[field[0]], re.escape(date))
    return re.compile(f"(?P<date>{fields}){re.escape(clock).replace('0', '[0-9]')}")


def _split(format: str) -> tuple[str, str]:
    """The date and the time of a format."""
    date = re.match(r"[\dYMD./-]+", format)
    end = 0 if date is None else date.end()
    return format[:end], format[end:]


def iso_format_of(format: str) -> str:
    """The ISO format with the same parts as a format, for `written`."""
    return f"0000-00-00{_split(format)[1]}"


def written(iso: str, format: str) -> str:
    """A date in the ISO format that `iso_format_of` gives, in the format itself."""
    date, _ = _split(format)
    parts = {"YYYY": iso[:4], "MM": iso[5:7], "M": str(int(iso[5:7])), "DD": iso[8:10], "D": str(int(iso[8:10]))}
    return (_FIELD.sub(lambda field: parts[field[0]], date) if "YYYY" in date else iso[:10]) + iso[10:]
