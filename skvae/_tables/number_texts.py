"""Numbers as text: which columns of text hold them, their format, read as floats and written so again."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
# Currency signs of Unicode, and the spaces that may stand between one and its number.
_CURRENCY, _SPACE = r"[$\u00a2-\u00a5\u0e3f\u20a0-\u20cf]", r"[ \u00a0\u202f]"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?P<before>(?:{_CURRENCY}{_SPACE}?)?)"
    r"((?P<whole>[0-9]+|[1-9][0-9]{0,2}(,[0-9]{3})+)(\.(?P<digits>[0-9]*))?|\.(?P<few>[0-9]+))"
    rf"(?P<power>[eE][+-]?[0-9]{{1,3}})?(?P<after>(?:{_SPACE}?(?:%|{_CURRENCY}))?)"
)
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
        Whether commas separate thousands.
    has_comma : bool
        Whether the decimal mark is a comma, and points separate thousands.
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

    def read(self, cell: Any) -> float:
        """A cell as a number; NaN if it is missing, or text that is no number in this format or a plain one."""
        if is_missing(cell) or not isinstance(cell, str):
            return np.nan if is_missing(cell) else to_float(cell)
        found = _NUMBER.fullmatch(self._pointed(cell.strip()))
        own = self.before.strip(), self.after.strip()
        if found is None or any(sign not in ("", one) for sign, one in zip(_signs(found), own, strict=True)):
            return np.nan
        digits = found["digits"] or found["few"] or ""
        whole = (found["whole"] or "").replace(",", "")
        return float(f"{found['sign']}{whole}.{digits}{found['power'] or ''}")

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
        sign, comma = "-" if value < 0.0 else "", "," if self.is_grouped else ""
        if self.digits is None or not np.isfinite(value):
            return f"{sign}{self.before}{self._pointed(f'{abs(value):.10g}')}{self.after}"
        text = f"{abs(value):{comma}.{self.digits}f}"
        text = text if self.is_padded or self.digits == 0 else text.rstrip("0").rstrip(".")
        return f"{sign if text.strip('0.') else ''}{self.before}{self._pointed(text)}{self.after}"

    def state(self) -> dict[str, Any]:
        """Plain values for a pickle."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "NumberFormat":
        """Inverse of `state`.

        Raises
        ------
        ValueError
            If there is no such number of digits.
        """
        digits, before, after = state["digits"], str(state["before"]), str(state["after"])
        if digits is not None and not 0 <= digits <= _MOST_DIGITS:
            raise ValueError(f"numbers are written with {digits} digits behind the point")
        is_padded, is_grouped, is_mixed = (bool(state[name]) for name in ("is_padded", "is_grouped", "is_mixed"))
        return cls(digits, is_padded, before, after, is_grouped, is_mixed, bool(state.get("has_comma", False)))


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
        decimal commas, a currency sign, a percent sign or points between thousands must show that a cell is one number
        and not a pair.

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
    found = {cell: match for cell, text in texts.items() if (match := _NUMBER.fullmatch(text))}
    others = {cell: text for cell, text in texts.items() if cell not in found}
    n_numbers = len(cells) - len(others)
    if n_numbers == 0 or any(character.isdigit() for text in others.values() for character in text):
        return None
    wrong = sum(cells[cell] for cell in others)
    if wrong > (1.0 - LEAST_READ) * sum(cells.values()) and not {text.lower() for text in others.values()} <= _MARKS:
        return None
    format = _format_of_numbers(list(found.values()), is_mixed=len(found) < n_numbers, comma=comma)
    if format is None or asked:
        return format
    has_code = any(_CODE.match(match["whole"] or "") for match in found.values())
    is_clear = any(map(_is_no_pair, found.values())) if comma else format != _INTEGERS or len(others) > 0 or has_blank
    return format if n_numbers >= _LEAST_NUMBERS and is_clear and not has_code else None


def plain_numbers(cells: Sequence[Any]) -> np.ndarray | None:
    """Texts that are numbers, or numbers and such texts, as floats, NaN where missing; None for anything else."""
    if not all(isinstance(cell, (str, Real)) or is_missing(cell) for cell in cells):
        return None
    format = number_format(Counter(cell for cell in cells if not is_missing(cell)))
    return None if format is None else np.array([format.read(cell) for cell in cells])


def _format_of_numbers(found: list[re.Match[str]], *, is_mixed: bool, comma: bool) -> NumberFormat | None:
    """Format of some numbers; None if their signs differ, or if no decimal comma is found where one is asked for."""
    widths = {len(match["digits"] or match["few"] or "") for match in found} or {0}
    if len({_signs(match) for match in found}) > 1 or (comma and widths == {0}):
        return None
    digits = None if any(match["power"] for match in found) else min(max(widths), _MOST_DIGITS)
    before, after = min([(match["before"], match["after"]) for match in found], default=("", ""))
    is_grouped = any("," in (match["whole"] or "") for match in found)
    return NumberFormat(digits, len(widths) == 1, before, after, is_grouped, is_mixed, comma)


def _is_no_pair(match: re.Match[str]) -> bool:
    """Whether a number with a comma cannot be two numbers."""
    return bool(match["digits"] and (any(_signs(match)) or "," in match["whole"]))


def _signs(match: re.Match[str]) -> tuple[str, str]:
    """What stands before and after a number, without spaces."""
    return match["before"].strip(), match["after"].strip()
