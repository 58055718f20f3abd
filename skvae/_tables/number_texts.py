"""Numbers as text: which columns of text hold them, how they are written, read as floats and written so again."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import numpy as np

from .dtypes import is_missing, to_float
from .unread import LEAST_READ, is_blank

__all__ = ["NumberTexts", "number_texts", "plain_numbers"]

# Different numbers from which on texts are numbers: a few of them are the names of levels.
_LEAST_NUMBERS = 20
# What other programs write where there is no value, in lower case.
_MARKS = {"?", ".", "-", "--", "na", "n/a", "#n/a", "nan", "null", "nil", "none", "missing", "unknown"}
# Unicode's signs of currencies, and spaces that may part one from its number.
_CURRENCY, _SPACE = r"[$\u00a2-\u00a5\u0e3f\u20a0-\u20cf]", r"[ \u00a0\u202f]"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?P<before>(?:{_CURRENCY}{_SPACE}?)?)"
    r"((?P<whole>[0-9]+|[1-9][0-9]{0,2}(,[0-9]{3})+)(\.(?P<digits>[0-9]*))?|\.(?P<few>[0-9]+))"
    rf"(?P<power>[eE][+-]?[0-9]{{1,3}})?(?P<after>(?:{_SPACE}?(?:%|{_CURRENCY}))?)"
)
_CODE = re.compile("0[0-9]")  # loses its zero as a number
_SWAPPED = str.maketrans(".,", ",.")
# Digits behind the point that a float of 64 bits can hold.
_MOST_DIGITS = 15


@dataclass(frozen=True)
class NumberTexts:
    """How the numbers of a column are written.

    Attributes
    ----------
    digits : int, or None
        The most behind the point; None where powers of ten are written.
    is_padded : bool
        Whether every number has as many.
    before, after : str
        A sign of a currency or "%", of every number.
    is_grouped : bool
        Whether commas stand between thousands.
    has_comma : bool
        Whether a comma stands where others have the point, and points between thousands.
    is_mixed : bool
        Whether the column holds numbers that are no text, as which values then come back.
    """

    digits: int | None
    is_padded: bool
    before: str = ""
    after: str = ""
    is_grouped: bool = False
    is_mixed: bool = False
    has_comma: bool = False

    def read(self, cell: Any) -> float:
        """A cell as a number, NaN where it is missing or no number that is written so, or plainly."""
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
        """Cells as the column holds them, text as it is and numbers with all their digits; None where missing."""
        return [None if is_missing(cell) else self._exact(cell) for cell in cells]

    def _exact(self, cell: Any) -> Any:
        value = self.read(cell)
        if self.is_mixed or isinstance(cell, str):
            return value if self.is_mixed else cell
        text = self._text(value)
        return text if self.read(text) == value else str(cell)

    def _pointed(self, text: str) -> str:
        """With a point before the decimals, or such a text as the column has it."""
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
    def from_state(cls, state: dict[str, Any]) -> "NumberTexts":
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


_INTEGERS = NumberTexts(0, is_padded=True)


def number_texts(mass: Mapping[Any, float], *, asked: bool = False) -> NumberTexts | None:
    """How numbers are written in a column of text, or of numbers and text; None if it holds something else.

    Parameters
    ----------
    mass : mapping of str or number to float
        Weight of each different cell.
    asked : bool, default=False
        Whether the column is known to be none of categories, so that texts are enough of which most are numbers. If
        not, there must be 20 different ones, none with a zero in front as codes have it, and something must tell that
        they are no codes: digits behind a point, a percent sign, or a cell for which numbers came as text: a blank,
        "n/a". With commas before the decimals, where these cannot part thousands, a sign of a currency, a percent sign
        or points between thousands must tell that a cell is no pair.

    Returns
    -------
    texts : NumberTexts or None
        What is no number must be one cell in ten at most, or any number of marks of missing values, and hold no digit.
    """
    known = {cell: weight for cell, weight in mass.items() if weight > 0}
    cells = {cell: weight for cell, weight in known.items() if not is_blank(cell)}
    has_blank = len(cells) < len(known)
    return _found(cells, asked=asked, has_blank=has_blank) or _found(
        cells, asked=asked, has_blank=has_blank, comma=True
    )


def _found(cells: Mapping[Any, float], *, asked: bool, has_blank: bool, comma: bool = False) -> NumberTexts | None:
    """`number_texts` of cells that are not blank, with a point before the decimals, or a comma."""
    texts = {cell: cell.strip().translate(_SWAPPED if comma else {}) for cell in cells if isinstance(cell, str)}
    found = {cell: match for cell, text in texts.items() if (match := _NUMBER.fullmatch(text))}
    others = {cell: text for cell, text in texts.items() if cell not in found}
    n_numbers = len(cells) - len(others)
    if n_numbers == 0 or any(character.isdigit() for text in others.values() for character in text):
        return None
    wrong = sum(cells[cell] for cell in others)
    if wrong > (1.0 - LEAST_READ) * sum(cells.values()) and not {text.lower() for text in others.values()} <= _MARKS:
        return None
    way = _way(list(found.values()), is_mixed=len(found) < n_numbers, comma=comma)
    if way is None or asked:
        return way
    is_code = any(_CODE.match(match["whole"] or "") for match in found.values())
    is_told = any(map(_is_no_pair, found.values())) if comma else way != _INTEGERS or len(others) > 0 or has_blank
    return way if n_numbers >= _LEAST_NUMBERS and is_told and not is_code else None


def plain_numbers(cells: Sequence[Any]) -> np.ndarray | None:
    """Texts that are numbers, or numbers and such texts, as floats, NaN where missing; None for anything else."""
    if not all(isinstance(cell, (str, Real)) or is_missing(cell) for cell in cells):
        return None
    texts = number_texts(Counter(cell for cell in cells if not is_missing(cell)))
    return None if texts is None else np.array([texts.read(cell) for cell in cells])


def _way(found: list[re.Match[str]], *, is_mixed: bool, comma: bool) -> NumberTexts | None:
    """How some numbers are written; None if they have several signs, or a comma is asked for and stands nowhere."""
    widths = {len(match["digits"] or match["few"] or "") for match in found} or {0}
    if len({_signs(match) for match in found}) > 1 or (comma and widths == {0}):
        return None
    digits = None if any(match["power"] for match in found) else min(max(widths), _MOST_DIGITS)
    before, after = min([(match["before"], match["after"]) for match in found], default=("", ""))
    is_grouped = any("," in (match["whole"] or "") for match in found)
    return NumberTexts(digits, len(widths) == 1, before, after, is_grouped, is_mixed, comma)


def _is_no_pair(match: re.Match[str]) -> bool:
    """Whether a number cannot be two, with its comma between them."""
    return bool(match["digits"] and (any(_signs(match)) or "," in match["whole"]))


def _signs(match: re.Match[str]) -> tuple[str, str]:
    """What stands before and after a number, without spaces."""
    return match["before"].strip(), match["after"].strip()
