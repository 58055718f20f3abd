"""Columns that tell rows apart and nothing else: numbers of the rows, keys, names, free text."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._support.warnings import warn
from .cells import Cells, is_number, quoted
from .form import column_of, is_arrow, is_polars, names_of

__all__ = ["find_keys", "free_text", "is_key", "warn_of_left_out"]

# On fewer rows the values of a measurement may well all differ.
_MIN_ROWS = 50
# Least share of different values in a column of text that is no category, and the fewest rows that show it.
_LEAST_DISTINCT, _LEAST_TEXTS = 0.9, 20
# Integers in a range of so many times their number hardly all differ by chance: of 50 with a probability of 0.002.
_SPARSEST = 4
_INTEGER = re.compile(r"u?int(8|16|32|64)(\[arrow\])?")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# Last words of the names of keys, and whole names; and of measures that may be 1, 2, ..., n all the same.
_KEYS = {"id", "uid", "guid", "uuid", "rowid"}
_NUMBERS = {"number", "nr"}  # where the integers lie close together
_KEY_NAMES = {"index", "unnamed: 0", "rownames", "rownum", "seqno"}
_MEASURES = {"rank", "order", "time", "t", "age", "year", "month", "week", "day", "hour", "minute", "second", "period"}


def find_keys(X: Any, labels: Mapping[int, Any], weight: np.ndarray | None) -> dict[int, str]:
    """Find columns of integers that number the rows, or are keys by their name.

    A column numbers the rows if its values, in any order, are 0, 1, 2, ... or 1, 2, 3, ..., its name does not say
    otherwise, and no other column has them in another order: ranks come in company. A key by its name has another
    integer in each row.

    Parameters
    ----------
    X : DataFrame of shape (n_samples, n_features)
    labels : mapping of int to label
        Of the columns that come into question.
    weight : ndarray of shape (n_samples,), or None
        Of the rows; those without any do not count.

    Returns
    -------
    reasons : dict of int to str
        What each of these columns does, for a message.
    """
    keys: list[int] = []
    numberings: dict[int, np.ndarray] = {}
    if _n_rows(X.shape[0], weight) < _MIN_ROWS:
        return {}
    names = names_of(X)
    for index, label in labels.items():
        values = _integers(X, index, weight) if _INTEGER.fullmatch(names[index].lower()) else None
        if values is None or len(np.unique(values)) < len(values):
            continue
        low, width = int(values.min()), int(values.max()) - int(values.min())
        if low in (0, 1) and width == len(values) - 1 and _last_word(label) not in _MEASURES:
            numberings[index] = values.astype(np.int64) - low
        if is_key(label) or (_last_word(label) in _NUMBERS and width < _SPARSEST * len(values)):
            keys.append(index)
    orders = list(numberings.values())
    alike = all(np.array_equal(order, orders[0]) for order in orders)
    reasons = dict.fromkeys(numberings, "numbers the rows") if alike else {}
    return dict.fromkeys(keys, "holds another integer in each row") | reasons


def free_text(label: Any, cells: Cells, weight: np.ndarray | None) -> str | None:
    """Tell a column of text in which nearly all of at least 20 texts differ, and are no numbers.

    Parameters
    ----------
    label : label
        By which numbers as text may be keys.
    cells : Cells
        Of the column, whose values are text or missing.
    weight : ndarray of shape (n_samples,), or None

    Returns
    -------
    reason : str, or None
        What the column holds, for a message; None for any other column.
    """
    missing = np.array([kind == "missing" for kind in cells.kinds], dtype=bool)
    there = ~missing[cells.positions] & (True if weight is None else weight > 0)
    n_rows = _n_rows(int(there.sum()), None if weight is None else weight[there])
    used = np.unique(cells.positions[there])
    if n_rows < _LEAST_TEXTS or len(used) < _LEAST_DISTINCT * n_rows:
        return None
    if all(is_number(cells.values[place]) for place in used) and not is_key(label):
        return None
    one = cells.values[cells.positions[there.argmax()]]
    return f"{len(used):,} texts in {n_rows:,.0f} rows, such as {quoted(one)}"


def warn_of_left_out(reasons: Mapping[Any, str]) -> None:
    """Say which columns are left out of a model.

    Parameters
    ----------
    reasons : mapping of label to str

    Warns
    -----
    UserWarning
        If there is one.
    """
    if reasons:
        told = ", ".join(f"{label!r} ({reason})" for label, reason in reasons.items())
        warn(
            f"Identifiers are left out of the model: column {told}. Drop them, name them in 'categorical_features' "
            "or 'likelihood' to have them modelled, or make numbers of texts that hold some.",
            UserWarning,
        )


def _last_word(label: Any) -> str:
    words = _WORD.findall(str(label))
    return words[-1].lower() if words else ""


def is_key(label: Any) -> bool:
    """Whether the name of a column says that its values name the rows."""
    return _last_word(label) in _KEYS or str(label).lower() in _KEY_NAMES


def _n_rows(n_samples: int, weight: np.ndarray | None) -> float:
    """Rows that count; integer weights repeat them."""
    if weight is None:
        return n_samples
    return float(weight.sum() if (weight == np.floor(weight)).all() else (weight > 0).sum())


def _integers(X: Any, index: int, weight: np.ndarray | None) -> np.ndarray | None:
    """Integers of the rows that count; None if one of them has none, or rows repeat."""
    if weight is not None and _n_rows(len(weight), weight) > (weight > 0).sum():
        return None
    column = column_of(X, index)
    missing = column.null_count if is_arrow(X) else column.null_count() if is_polars(X) else column.isna().sum()
    if missing:
        return None
    values = column.to_numpy()
    return values if weight is None else values[weight > 0]
