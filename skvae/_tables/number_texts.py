"""Numbers as text: which columns of text hold them, their format, read as floats and written so again."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

from .dtypes import is_missing, to_float
from .unread import LEAST_READ, is_blank

__all__ = ["DecodedNumbers", "NumberFormat", "number_format", "plain_numbers"]

# Fewer different numbers than these are names of levels.
_LEAST_NUMBERS = 20
# What other programs write for a missing value, in lower case.
_MARKS = {"?", ".", "-", "--", "na", "n/a", "#n/a", "nan", "null", "nil", "none", "missing", "unknown"}
# Currency signs of Unicode, and the spaces that may stand between one and its number, or between thousands.
_CURRENCY, _SPACES, _MINUS = r"[$\u00a2-\u00a5\u0e3f\u20a0-\u20cf]", " \u00a0\u202f", "-\u2212"
_SPACE = f"[{_SPACES}]"
# What stands between thousands, where the decimal mark is a point.
_GROUPS = f",'\u2019{_SPACES}"
_NUMBER = re.compile(
    rf"(?P<first>(?:[{_MINUS}]{_SPACE}?|[+(])?)(?P<before>(?:{_CURRENCY}{_SPACE}?)?)(?P<second>[{_MINUS}(]?)"
    rf"((?P<whole>[0-9]+|[1-9][0-9]{{0,2}}(?P<group>[{_GROUPS}])[0-9]{{3}}((?P=group)[0-9]{{3}})*)"
    r"(\.(?P<digits>[0-9]*))?|\.(?P<few>[0-9]+))(?P<power>[eE][+-]?[0-9]{1,3})?"
    rf"(?P<third>[{_MINUS})]?)(?P<after>(?:{_SPACE}?(?:%|{_CURRENCY}))?)(?P<last>[{_MINUS})]?)"
)
# A number, and one below zero: "#" stands for its digits, and the currency sign of Unicode for what is around them.
_PLAIN, _NEGATIVE = "\u00a4#\u00a4", "-\u00a4#\u00a4"
_SIGNS = {"", "+", *_MINUS, "()"}
_CODE = re.compile("0[0-9]")  # loses its zero as a number
_SWAPPED = str.maketrans(".,", ",.")
# Decimals that a float of 64 bits can hold.
_MOST_DIGITS = 15


@dataclass(frozen=True)
class NumberFormat:
    """How the numbers of a column are written.

    Attributes
    ----------
    digits : int, or None
        The most decimals of a number; None where powers of ten are written.
    is_padded : bool
        Whether every number has as many.
    before, after : str
        A currency sign or "%" around every number.
    is_grouped : bool
        Whether thousands are separated.
    has_comma : bool
        Whether the decimal mark is a comma, and points separate thousands where commas would.
    negative : str
        Pattern of a number below zero: "-¤#¤", "(¤#)¤", "¤#-¤" and the like, where "#" stands for the digits, and the
        first and the second "¤" for ``before`` and ``after``.
    group : str
        What separates thousands: a comma, an apostrophe or a space.
    is_mixed : bool
        Whether the column also holds numbers that are no text; values then come back as such.
    """

    digits: int | None
    is_padded: bool
    before: str = ""
    after: str = ""
    is_grouped: bool = False
    is_mixed: bool = False
    has_comma: bool = False
    negative: str = _NEGATIVE
    group: str = ","

    def read(self, cell: Any) -> float:
        """A cell as a number; NaN if it is missing, or text that is no number in this format or a plain one."""
        if is_missing(cell) or not isinstance(cell, str):
            return np.nan if is_missing(cell) else to_float(cell)
        found = _match(self._pointed(cell.strip()))
        own = self.before.strip(), self.after.strip()
        if found is None or any(unit not in ("", one) for unit, one in zip(_units(found), own, strict=True)):
            return np.nan
        if _group(found) not in ("", ",", _alike(self.group)) or (_sign(found) == "()" and not self.knows_brackets):
            return np.nan
        digits = found["digits"] or found["few"] or ""
        whole = (found["whole"] or "").replace(found["group"] or ",", "")
        value = float(f"{whole}.{digits}{found['power'] or ''}")
        return value if _sign(found) in ("", "+") else -value

    @property
    def knows_brackets(self) -> bool:
        """Whether a number in brackets is below zero: where one was, or where the numbers are amounts or shares."""
        return "(" in self.negative or self.is_grouped or bool(self.before or self.after)

    def written(self, values: np.ndarray) -> list[str | None]:
        """Numbers as text, None where missing."""
        return [None if value != value else self._text(value) for value in values.tolist()]

    def exact(self, cells: Sequence[Any]) -> list[Any]:
        """Cells as the column holds them: text as it is, numbers with all their digits, None where missing."""
        return [None if is_missing(cell) else self._exact(cell) for cell in cells]

    def _exact(self, cell: Any) -> Any:
        value = self.read(cell)
        if self.is_mixed or isinstance(cell, str):
            return value if self.is_mixed else cell
        text = self._text(value)
        return text if self.read(text) == value else str(cell)

    def _pointed(self, text: str) -> str:
        """Text with a decimal point, or back: points and commas swap places where the column has a comma."""
        return text.translate(_SWAPPED) if self.has_comma else text

    def _text(self, value: float) -> str:
        text = self._unsigned(abs(value))
        first, middle, last = (self.negative if value < 0.0 and text.strip("0.") else _PLAIN).split("\u00a4")
        return f"{first}{self.before}{middle.replace('#', self._pointed(text))}{self.after}{last}"

    def _unsigned(self, value: float) -> str:
        if self.digits is None or not np.isfinite(value):
            return f"{value:.10g}"
        text = f"{value:{',' if self.is_grouped else ''}.{self.digits}f}".replace(",", self.group)
        return text if self.is_padded or self.digits == 0 else text.rstrip("0").rstrip(".")

    def state(self) -> dict[str, Any]:
        """Plain values for a pickle."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "NumberFormat":
        """Inverse of `state`.

        Raises
        ------
        ValueError
            If there is no such number of digits, or no such sign.
        """
        digits, before, after = state["digits"], str(state["before"]), str(state["after"])
        if digits is not None and not 0 <= digits <= _MOST_DIGITS:
            raise ValueError(f"numbers are written with {digits} digits behind the point")
        negative, group = str(state.get("negative", _NEGATIVE)), str(state.get("group", ","))
        found = _match(negative.replace("\u00a4", "").replace("#", "0"))
        if negative.count("\u00a4") != 2 or "#" not in negative or found is None or group not in set(_GROUPS):
            raise ValueError(f"numbers below zero are written as {negative!r}, and thousands with {group!r}")
        is_padded, is_grouped, is_mixed = (bool(state[name]) for name in ("is_padded", "is_grouped", "is_mixed"))
        has_comma = bool(state.get("has_comma", False))
        return cls(digits, is_padded, before, after, is_grouped, is_mixed, has_comma, negative, group)


@dataclass(frozen=True)
class DecodedNumbers:
    """Numbers of a column with a format, on their way into a dtype.

    Attributes
    ----------
    numbers : ndarray of shape (n_samples,)
        NaN where missing.
    format : NumberFormat
    """

    numbers: np.ndarray
    format: NumberFormat

    def objects(self) -> np.ndarray:
        """What an array of objects holds."""
        return self.numbers

    def cells(self, held: str) -> Any:
        """Texts or numbers, as the type of a column has them."""
        is_text = held in ("text", "object") and not self.format.is_mixed
        return self.format.written(self.numbers) if is_text else self.numbers


_INTEGERS = NumberFormat(0, is_padded=True)


def number_format(mass: Mapping[Any, float], *, asked: bool = False) -> NumberFormat | None:
    """Format of the numbers in a column of text, or of numbers and text; None if it holds something else.

    Parameters
    ----------
    mass : mapping of str or number to float
        Weight of each different cell.
    asked : bool, default=False
        Whether the user says that the column is no category: then it is enough that most texts are numbers. If not,
        there must be 20 different numbers, none with a leading zero as codes have, and a sign that they are no codes:
        decimals, a percent sign, or a cell that explains why numbers came as text, such as a blank or "n/a". With
        decimal commas, a currency sign, a percent sign or marks between thousands must show that a cell is one number
        and not a pair; so they must that brackets mean a number below zero. Where spaces or apostrophes stand between
        thousands, decimals or such a sign must show that it is no code.

    Returns
    -------
    format : NumberFormat or None
        Other texts must be one cell in ten at most, or any number of marks of missing values, and hold no digit.
    """
    known = {cell: weight for cell, weight in mass.items() if weight > 0}
    cells = {cell: weight for cell, weight in known.items() if not is_blank(cell)}
    has_blank = len(cells) < len(known)
    formats = (_format_of_cells(cells, asked=asked, has_blank=has_blank, comma=comma) for comma in (False, True))
    return next(filter(None, formats), None)


def _format_of_cells(cells: Mapping[Any, float], *, asked: bool, has_blank: bool, comma: bool) -> NumberFormat | None:
    """`number_format` of cells that are not blank, with a decimal point or a decimal comma."""
    texts = {cell: cell.strip().translate(_SWAPPED if comma else {}) for cell in cells if isinstance(cell, str)}
    found = {cell: match for cell, text in texts.items() if (match := _match(text))}
    others = {cell: text for cell, text in texts.items() if cell not in found}
    n_numbers = len(cells) - len(others)
    if n_numbers == 0 or any(character.isdigit() for text in others.values() for character in text):
        return None
    wrong = sum(cells[cell] for cell in others)
    if wrong > (1.0 - LEAST_READ) * sum(cells.values()) and not all(map(_is_mark, others.values())):
        return None
    format = _format_of_numbers(list(found.values()), is_mixed=len(found) < n_numbers, comma=comma)
    if format is None or asked:
        return format
    has_code = any(_CODE.match(match["whole"] or "") for match in found.values())
    explained = len(others) > 0 or has_blank
    is_clear = any(map(_is_no_pair, found.values())) if comma else _is_clear(format, explained=explained)
    return format if n_numbers >= _LEAST_NUMBERS and is_clear and not has_code else None


def _is_mark(text: str) -> bool:
    """Whether a text stands for a missing value, beside a currency sign or not."""
    return re.sub(_CURRENCY, "", text).strip().lower() in _MARKS


def _is_clear(format: NumberFormat, *, explained: bool) -> bool:
    """Whether cells of a format with a decimal point are no codes; others may have explained why they are text."""
    has_unit = bool(format.before or format.after)
    if "(" in format.negative and not (has_unit or format.is_grouped):
        return False
    if format.group != ",":
        return has_unit or format.digits != 0
    return explained or replace(format, negative=_NEGATIVE) != _INTEGERS


def plain_numbers(cells: Sequence[Any]) -> np.ndarray | None:
    """Texts that are numbers, or numbers and such texts, as floats, NaN where missing; None for anything else."""
    if not all(isinstance(cell, (str, Real)) or is_missing(cell) for cell in cells):
        return None
    format = number_format(Counter(cell for cell in cells if not is_missing(cell)))
    return None if format is None else np.array([format.read(cell) for cell in cells])


def _format_of_numbers(found: list[re.Match[str]], *, is_mixed: bool, comma: bool) -> NumberFormat | None:
    """Format of some numbers; None if they are written in several ways, or without the comma that is asked for."""
    widths = {len(match["digits"] or match["few"] or "") for match in found} or {0}
    below = {_pattern(match): _sign(match) for match in found if _sign(match) not in ("", "+")}
    ways = ({_units(match) for match in found}, {_group(m) for m in found} - {""}, {s == "()" for s in below.values()})
    if any(len(way) > 1 for way in ways) or (comma and widths == {0}):
        return None
    digits = None if any(match["power"] for match in found) else min(max(widths), _MOST_DIGITS)
    before, after = min([(match["before"], match["after"]) for match in found], default=("", ""))
    groups = {match["group"] for match in found} - {None}
    negative, group = min(below, default=_NEGATIVE), min(groups, default=",")
    return NumberFormat(digits, len(widths) == 1, before, after, bool(groups), is_mixed, comma, negative, group)


def _is_no_pair(match: re.Match[str]) -> bool:
    """Whether a number with a comma cannot be two numbers."""
    return bool(match["digits"] and (any(_units(match)) or match["group"]))


def _match(text: str) -> re.Match[str] | None:
    """Match of a number with a decimal point; None where there is none, or more than one sign."""
    match = _NUMBER.fullmatch(text)
    return match if match and _sign(match) in _SIGNS else None


def _sign(match: re.Match[str]) -> str:
    """The sign of a number, or both brackets around it."""
    return f"{match['first'][:1]}{match['second']}{match['third']}{match['last']}"


def _pattern(match: re.Match[str]) -> str:
    """How the sign stands, as in `NumberFormat.negative`."""
    return f"{match['first']}\u00a4{match['second']}#{match['third']}\u00a4{match['last']}"


def _group(match: re.Match[str]) -> str:
    """What separates thousands, as `_alike` has it; "" for nothing."""
    return _alike(match["group"] or "")


def _alike(group: str) -> str:
    return " " if group and group in _SPACES else group


def _units(match: re.Match[str]) -> tuple[str, str]:
    """What stands before and after a number, without spaces and signs."""
    return match["before"].strip(), match["after"].strip()
