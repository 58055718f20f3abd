"""Texts that cannot be read in a column of dates or numbers: how many there may be, and the warning of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from .._support.warnings import cut, warn
from .dtypes import is_missing

__all__ = ["LEAST_READ", "is_blank", "warn_of_unread"]

# Least share of readable texts in a column of dates or numbers: the others then count as missing.
LEAST_READ = 0.9
# Texts that a warning quotes of each column.
_MAX_QUOTED = 3


def is_blank(cell: Any) -> bool:
    """Whether a cell of a column of text holds nothing, or nothing that shows."""
    return is_missing(cell) or (isinstance(cell, str) and not cell.strip())


def warn_of_unread(unread: Mapping[Any, Sequence[str]], what: str) -> None:
    """Say which columns of dates, or of numbers as text, hold texts that cannot be read.

    Parameters
    ----------
    unread : mapping of label to sequence of str
        Of each cell.
    what : {"dates", "numbers"}

    Warns
    -----
    UserWarning
        If there is one.
    """
    parts = []
    for label, texts in unread.items():
        kinds = list(dict.fromkeys(texts))
        more = f" and {len(kinds) - _MAX_QUOTED:,} more" if len(kinds) > _MAX_QUOTED else ""
        parts.append(f"{label!r} ({len(texts):,}: {', '.join(cut(repr(text)) for text in kinds[:_MAX_QUOTED])}{more})")
    if parts:
        warn(
            f"Texts that cannot be read as the {what} of their column count as missing: column {', '.join(parts)}. "
            "Correct them, mark the cells as missing, or name the column in 'categorical_features' when fitting.",
            UserWarning,
        )
