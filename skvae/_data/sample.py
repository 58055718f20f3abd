"""The rows of one fit as a record: values, weights, names, what the columns' codes stand for, which rows are held."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._tables.table import Table
from .checks import check_finite
from .columns import chunk_rows
from .large import Large

__all__ = ["Part", "Sample", "Split", "canonical_rows"]


# Steps between a column's extremes: so coarse that float32 rarely moves a value to another one, and so fine that those
# of heavy tails have many. No value of a grid of its own, such as whole numbers, lies where two steps meet.
_COARSE, _FINE = 1000.0 * math.pi, 1e7 * math.pi
_OFFSET = (math.sqrt(5.0) - 1.0) / 2.0
# Pairs of neighbours among which there must be equal ones, for a closer look at all rows.
_PROBED = 2048
# Rows that come more often, and in more than one of a hundred places, are values that many rows have by nature: zeros.
_MOST_COPIES = 10
# Equal rows are copies where a column has a value of its own in so large a share of the different rows, and its range
# so many of its least steps for each of them.
_LEAST_OWN, _LEAST_STEPS = 0.9, 10
_FIRST_SHIFT, _SECOND_SHIFT, _MULTIPLIER = np.uint64(29), np.uint64(32), np.uint64(0xBF58476D1CE4E5B9)


class Part(NamedTuple):
    """Some of the rows of a sample."""

    rows: Tensor  # (n_rows,) of int, numbers among the rows that are held
    weight: Tensor | None  # (n_rows,)

    def chosen(self, places: Tensor) -> "Part":
        """Those at some places."""
        return Part(self.rows[places], None if self.weight is None else self.weight[places])


class Split(NamedTuple):
    """Three parts that have no row in common."""

    held: Part  # sets the threshold, does not train
    validation: Part
    training: Part


@dataclass(frozen=True)
class Sample:
    """The rows that a fit works on, validated and in the user's units.

    Attributes
    ----------
    values : Tensor of shape (n_held, n_features)
        The rows that are held: all of them, or a sample of a table beyond memory. NaN where a value is missing.
    weight : ndarray of shape (n_held,), or None
        Theirs, as the user gave them.
    names : tuple of str
        What messages call the columns.
    table : Table, or None
        What the codes of categorical columns stand for.
    large : Large, or None
        The table that ``values`` are a sample of.
    complete : bool
        Whether no value of the whole table is missing.
    rows : ndarray of int
        Numbers of the held rows that count, repeated as often as they count, in random order.
    row_weight : ndarray of the shape of ``rows``, or None
    repeated : float
        Share of these rows that hold what an earlier one holds and yet are no copies of it, as those of a few whole
        numbers or categories do.
    seed : int
        Of the split of the rows, and of the noise that scoring averages over; it stays when a fit goes on.
    """

    values: Tensor
    weight: np.ndarray | None
    names: tuple[str, ...]
    table: Table | None
    large: Large | None
    complete: bool
    rows: np.ndarray
    row_weight: np.ndarray | None
    seed: int
    repeated: float = 0.0

    @classmethod
    def of(
        cls, values: Tensor, weight: np.ndarray | None, names: tuple[str, ...], table: Table | None, seed: int
    ) -> "Sample":
        """Check the values of a table, choose the rows to hold, and order those that count.

        Raises
        ------
        ValueError
            If a value is infinite.
        """
        complete = check_finite(values, names)
        large = Large.of(values, weight, seed, complete=complete)
        if large is not None:
            values, weight = large.sample()
        X = values.cpu().numpy()
        rows, row_weight = canonical_rows(X, weight)
        # From the seed that stays: rows that were held out are held out again when training goes on with them.
        order, repeated = _shuffled(X, rows, seed)
        row_weight = None if row_weight is None else row_weight[order]
        return cls(values, weight, names, table, large, complete, rows[order], row_weight, seed, repeated)

    @property
    def own_names(self) -> tuple[str, ...]:
        """Names of the user's columns, without those that dates are written in beside them."""
        return self.names if self.table is None else self.names[: len(self.table.columns)]

    @property
    def n_total(self) -> int:
        """Rows of the whole table."""
        return len(self.values if self.large is None else self.large.values)

    def without(self, places: np.ndarray) -> "Sample":
        """The sample less the rows at some places of ``rows``."""
        weight = None if self.row_weight is None else np.delete(self.row_weight, places)
        return replace(self, rows=np.delete(self.rows, places), row_weight=_mean_one(weight))

    def split(self, n_held_out: int, n_validation: int) -> Split:
        """The first rows are held out, the next ones validate, the others train."""
        ends = [n_held_out, n_held_out + n_validation]
        weights = [None] * 3 if self.row_weight is None else np.split(self.row_weight, ends)
        parts = zip(np.split(self.rows, ends), weights, strict=True)
        return Split(*(Part(torch.from_numpy(rows), _tensor(weight)) for rows, weight in parts))


def _mean_one(weight: np.ndarray | None) -> np.ndarray | None:
    return None if weight is None else weight / weight.mean()


def _tensor(weight: np.ndarray | None) -> Tensor | None:
    return None if weight is None else torch.from_numpy(weight)


def _content_order(X: np.ndarray) -> np.ndarray:
    """Numbers of the rows, sorted by their places between the extremes of the columns; where no grid tells, by bits.

    Units change no place.
    """
    coarse = _place_hash(X, _COARSE)
    order = np.argsort(coarse, kind="stable")
    if (np.diff(coarse[order]) > 0).all():
        return order
    return np.lexsort((_row_hash(X), _place_hash(X, _FINE), coarse))


def _place_hash(X: np.ndarray, n_steps: float) -> np.ndarray:
    """A 64-bit number of each row's places, in steps between the extremes of each column."""
    with np.errstate(all="ignore"):
        low = np.fmin.reduce(X, axis=0).astype(np.float64)[:, None]
        step = (np.fmax.reduce(X, axis=0)[:, None] - low) / n_steps

        def places(columns: np.ndarray) -> np.ndarray:
            columns -= low
            columns /= step
            columns += _OFFSET
            return np.floor(columns, out=columns)

        return _hashed(X, places)


def _row_hash(X: np.ndarray) -> np.ndarray:
    """A 64-bit number of each row's bits."""
    return _hashed(X, lambda columns: np.add(columns, 0.0, out=columns))  # no minus zero


def _hashed(X: np.ndarray, content: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A 64-bit number of what each row holds, of columns in chunks of shape (n_features, n_rows) that are its own."""
    hashed = np.full(len(X), 0x9E3779B97F4A7C15, dtype=np.uint64)
    n_chunk_rows = chunk_rows(X.shape[1])
    for first in range(0, len(X), n_chunk_rows):
        columns = content(np.array(X[first : first + n_chunk_rows].T, dtype=np.float64, order="C"))
        _mix(hashed[first : first + n_chunk_rows], columns)
    return hashed


def _mix(hashed: np.ndarray, columns: np.ndarray) -> None:
    """Mix values of shape (n_features, n_rows) into a 64-bit number for each row."""
    if np.isnan(columns.sum()):
        columns[np.isnan(columns)] = np.nan  # one missing value, whatever bits it came with
    bits, shifted = columns.view(np.uint64), np.empty_like(hashed)
    bits ^= bits >> _FIRST_SHIFT
    for column in bits:
        hashed ^= column
        hashed *= _MULTIPLIER
        hashed ^= np.right_shift(hashed, _SECOND_SHIFT, out=shifted)


def canonical_rows(X: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Order rows by content, so that a fit depends on the rows and not on their order; integer weights repeat rows.

    Nor does it depend on units, but for rounding, nor mostly on the precision.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,), or None

    Returns
    -------
    rows : ndarray of int
        Row numbers; repeated, or missing where the weight is zero.
    weight : ndarray of the shape of ``rows`` with mean 1, or None
        None where repetition already says everything.
    """
    if weight is None:
        return _content_order(X), None
    counting = np.flatnonzero(weight > 0)  # the others decide nothing, not even how far a column reaches
    order = counting[_content_order(X if len(counting) == len(X) else X[counting])]
    weight = weight[order]
    # 10: beyond it repetition costs more memory than it is worth; the weighted loss has the same optimum.
    if (weight == np.floor(weight)).all() and weight.sum() <= 10 * len(X):
        return np.repeat(order, weight.astype(np.int64)), None
    return order, _mean_one(weight)


def _shuffled(X: np.ndarray, rows: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Places of canonical rows in random order, and the share of rows that repeat others without being copies.

    Copies of a row stay together, so that no split parts them: rows that are held out would have copies among those
    that train, and count as normal for that.
    """
    order, repeated = np.random.RandomState(seed).permutation(len(rows)), _repeated(X, rows)
    firsts = _first_copies(X, rows) if repeated else None
    if firsts is None:
        return order, repeated
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return order[np.argsort(position[firsts[order]], kind="stable")], 0.0


def _repeated(X: np.ndarray, rows: np.ndarray) -> float:
    """About the share of canonical rows that hold what an earlier one holds."""
    n_pairs = len(rows) - 1
    probe = np.arange(n_pairs) if n_pairs < _PROBED else np.linspace(0, n_pairs - 1, _PROBED, dtype=np.int64)
    return float(_are_equal(X, rows[probe], rows[probe + 1]).mean()) if n_pairs > 0 else 0.0


def _first_copies(X: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """For each of canonical rows of which some are equal, the place of the first one it is a copy of; None for none."""
    places = np.arange(len(rows))
    same = np.concatenate([[False], *(_are_equal(X, rows[part], rows[part + 1]) for part in _parts(places[:-1], X))])
    kinds = np.flatnonzero(~same)
    if not _tells_rows_apart(X[rows[kinds[:: max(1, len(kinds) // _PROBED)]]]):
        return None
    firsts, counts = np.repeat(kinds, np.diff(kinds, append=len(rows))), np.diff(kinds, append=len(rows))
    many = np.repeat(counts, counts) > max(_MOST_COPIES, len(rows) // 100)
    return np.where(many, places, firsts)


def _parts(places: np.ndarray, X: np.ndarray) -> list[np.ndarray]:
    return np.split(places, range(chunk_rows(X.shape[1]), len(places), chunk_rows(X.shape[1])))


def _are_equal(X: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether rows hold the same, missing values too."""
    one, other = X[first], X[second]
    return ((one == other) | (np.isnan(one) & np.isnan(other))).all(axis=1)


def _tells_rows_apart(X: np.ndarray) -> bool:
    """Whether a column has another value in nearly each of some different rows, and room for many more between them.

    Then equal rows are no coincidence, as those of one column of whole numbers are.
    """
    return any(_is_own(column[~np.isnan(column)], len(X)) for column in X.T)


def _is_own(column: np.ndarray, n_rows: int) -> bool:
    values = np.unique(column).astype(np.float64)
    if len(values) < max(2, _LEAST_OWN * n_rows):
        return False
    return bool(values[-1] - values[0] > _LEAST_STEPS * n_rows * np.diff(values).min())
