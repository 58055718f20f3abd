"""What `explain` returns: contributions and expected values, and a table of those that matter."""

from collections import namedtuple
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np

from .._data.arrays import to_tensor
from .._tables.form import as_source, cells_of, is_pandas, labels_of

__all__ = ["Explanation"]

# Of the columns of the long table.
_NAMES = ("row", "column", "value", "expected", "share")


class Explanation(namedtuple("Explanation", ["contributions", "expected"])):  # noqa: PYI024
    """What `explain` returns: a pair, with a table of what matters in it.

    Parameters
    ----------
    contributions : array or table of shape (n_samples, n_features)
        What each value adds to the row's score; they sum to it. The lowest is the most anomalous.
    expected : array or table of shape (n_samples, n_features)
        Value of each cell that the rest of its row implies, in the units of ``X``.
    shares : ndarray of shape (n_samples, n_features), default=None
        Fraction that each value has of what separates its row from a normal one: those of a row sum to 1, or to 0
        where `predict` finds it normal, or where no other value in one of its cells would raise its score.
    X : array or table of shape (n_samples, n_features), default=None
        The rows that were explained.
    """

    def __new__(cls, contributions: Any, expected: Any, *, shares: Any = None, X: Any = None) -> "Explanation":
        pair = super().__new__(cls, contributions, expected)
        pair.shares, pair.X = shares, X
        return pair

    shares: Any
    X: Any

    def to_frame(self, top=3):
        """List the values that make rows anomalous, the worst of each row first.

        Parameters
        ----------
        top : int or None, default=3
            At most so many values of a row; None for all that had to change until the row counts as normal.

        Returns
        -------
        table : pandas.DataFrame
            A line for each such value: ``row`` (its label in a pandas table, else its number), ``column``, ``value``
            and ``expected`` as that column holds them, and ``share``, the fraction that the value has of what
            separates the row from a normal one. A normal row has no line, nor has one whose score no other value in
            one of its cells would raise.

        Raises
        ------
        ValueError
            If ``top`` is not a positive int.
        ImportError
            If there is no pandas.
        """
        if top is not None and (not isinstance(top, Integral) or isinstance(top, bool) or top < 1):
            raise ValueError(f"The 'top' parameter must be a positive int or None. Got {top!r} instead.")
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_frame needs pandas. Install it with: pip install pandas") from error
        lines = list(zip(*self._lines(None if top is None else int(top)), strict=True)) or [()] * len(_NAMES)
        table = dict(zip(_NAMES, map(list, lines), strict=True))
        held = {name: pd.Series(table[name], dtype=_dtype(table[name])) for name in ("value", "expected")}
        return pd.DataFrame(table | held)

    def _lines(self, top: int | None) -> Iterator[tuple[Any, ...]]:
        """Row, column, value, expected value and share of each listed value."""
        source, expected = as_source(self.X), as_source(self.expected)
        if expected is None:  # an array of another library
            expected = to_tensor(self.expected).cpu().numpy()
        order = np.argsort(-self.shares, axis=1, kind="stable")[:, :top]
        taken = np.take_along_axis(self.shares, order, axis=1) > 0.0
        labels = self.X.index.tolist() if is_pandas(self.X) else range(len(self.shares))
        names = labels_of(source)
        cells = {i: (cells_of(source, i), cells_of(expected, i)) for i in np.unique(order[taken]).tolist()}
        for row, column in zip(taken.nonzero()[0].tolist(), order[taken].tolist(), strict=True):
            value, implied = (side[row] for side in cells[column])
            yield labels[row], names[column], value, implied, float(self.shares[row, column])


def _dtype(cells: list[Any]) -> Any:
    """Dtype of a column of the long table: the cells' own where they share one."""
    types = {type(cell) for cell in cells}
    return {float: "float64", int: "int64"}.get(types.pop(), object) if len(types) == 1 else object
