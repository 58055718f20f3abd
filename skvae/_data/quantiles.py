"""How the values of each column of numbers are distributed, as quantiles, and drawn rows moved to that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .monotone import Grid, grid_of, grids_of

__all__ = ["QUANTILE_ROWS", "Quantiles"]

# Rows that quantiles are taken of: bounds the time.
QUANTILE_ROWS = 10_000
# Quantiles of a column at most, and of all columns: bounds what is stored.
_MOST, _LEAST, _IN_ALL = 1024, 32, 2**19
_HALVINGS = 6
# What single precision leaves of a value.
_ROUNDING = 2.0**-22
# Cells of columns that are looked at together: bounds the memory.
_CELLS = 2**18


@dataclass(frozen=True)
class Quantiles:
    r"""Quantiles Q of the columns of numbers in the training rows.

    Drawn values of a column with the distribution function G are moved to :math:`Q(G(x))`: they keep their order, and
    are then distributed as the training values.

    Attributes
    ----------
    columns : tuple of int
        The columns of the table that vary.
    levels, values : ndarray of shape (n_columns, n_points)
        Shares of the rows below the quantiles, ascending from 0 to 1, and the quantiles, from the least value to the
        greatest; the last ones of a column repeated as often as others have more.
    grid : ndarray of shape (n_columns, 3)
        Origin, step and denominator of the grid of decimal numbers that holds all values; a step of 0 for none.

    References
    ----------
    Panofsky & Brier (1958), "Some Applications of Statistics to Meteorology": quantile mapping.
    """

    columns: tuple[int, ...]
    levels: np.ndarray
    values: np.ndarray
    grid: np.ndarray

    @classmethod
    def fit(cls, values: Tensor, columns: Sequence[int], weight: np.ndarray | None = None) -> "Quantiles | None":
        """Take the quantiles of some columns of rows.

        Parameters
        ----------
        values : Tensor of shape (n_samples, n_features)
            NaN where missing.
        columns : sequence of int
        weight : ndarray of shape (n_samples,), or None

        Returns
        -------
        quantiles : Quantiles, or None
            None if no column has two values.
        """
        found: dict[int, tuple[np.ndarray, np.ndarray, Grid]] = {}
        n_most = max(_LEAST, min(_MOST, _IN_ALL // max(1, len(columns))))
        n_together = max(1, _CELLS // max(1, len(values)))
        for first in range(0, len(columns), n_together):
            some = list(columns[first : first + n_together])
            rows = np.ascontiguousarray(values[:, some].double().cpu().numpy().T)
            simple = _distributions(rows, n_most) if weight is None else {}
            for place, index in enumerate(some):
                distribution = simple.get(place) or _distribution(rows[place], weight, n_most)
                if distribution is not None:
                    found[int(index)] = distribution
        if not found:
            return None
        levels, quantiles, grids = zip(*found.values(), strict=True)
        return cls(tuple(found), _padded(levels), _padded(quantiles), np.array(grids, dtype=np.float64))

    def state(self) -> dict[str, Any]:
        """Plain values for a pickle."""
        return {"columns": list(self.columns), "levels": self.levels, "values": self.values, "grid": self.grid}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Quantiles":
        """Inverse of `state`."""
        arrays = (np.array(state[name]) for name in ("levels", "values", "grid"))
        return cls(tuple(int(column) for column in state["columns"]), *arrays)

    @cached_property
    def _drawn(self) -> dict[str, np.ndarray]:
        """Quantiles of the model's own draws, once they have been asked for."""
        return {}

    def matched(self, rows: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        """Rows whose values are moved from the distribution of the model's draws to the training rows'.

        Parameters
        ----------
        rows : Tensor of shape (n_samples, n_features)
            Drawn by the model; missing values stay.
        draw : callable
            Gives rows of the model, the same at each call; asked for once.

        Returns
        -------
        rows : Tensor of shape (n_samples, n_features)
        """
        return self._moved(rows, draw, lambda place, own, x: self._at(place, np.interp(x, own, _levels(_MOST))))

    def unmatched(self, rows: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        """Inverse of `matched`: of a repeated value the middle of what is moved to it.

        Beyond the training rows it goes on in straight lines.
        """

        def moved(place: int, own: np.ndarray, x: np.ndarray) -> np.ndarray:
            low, high = self.values[place, [0, -1]]
            found = np.interp(self._level(place, x), _levels(_MOST), own)
            return found + np.minimum(x - low, 0.0) + np.maximum(x - high, 0.0)

        return self._moved(rows, draw, moved)

    def _moved(
        self, rows: Tensor, draw: Callable[[], Tensor], move: Callable[[int, np.ndarray, np.ndarray], np.ndarray]
    ) -> Tensor:
        if "values" not in self._drawn:
            reference = draw()[:, list(self.columns)].double().cpu().numpy()
            self._drawn["values"] = np.quantile(reference, _levels(_MOST), axis=0).T
        moved = rows.clone()
        for place, (index, own) in enumerate(zip(self.columns, self._drawn["values"], strict=True)):
            column = rows[:, index].double().numpy()
            found = np.where(np.isnan(column), column, move(place, own, column))
            moved[:, index] = torch.from_numpy(found).to(rows)
        return moved

    def _level(self, place: int, values: np.ndarray) -> np.ndarray:
        """Shares of the training rows below values, half of those that hold the same value included."""
        known, levels = self.values[place], self.levels[place]
        left, right = np.searchsorted(known, values), np.searchsorted(known, values, side="right") - 1
        ends = levels[left.clip(max=len(known) - 1)], levels[right.clip(min=0)]
        return np.where(right > left, 0.5 * (ends[0] + ends[1]), np.interp(values, known, levels))

    def _at(self, place: int, levels: np.ndarray) -> np.ndarray:
        """Quantiles of a column between the stored ones; none between a repeated value and its neighbour."""
        known, values, (origin, step, denominator) = self.levels[place], self.values[place], self.grid[place]
        left = np.clip(np.searchsorted(known, levels, side="right") - 1, 0, len(known) - 2)
        low, high, width = values[left], values[left + 1], known[left + 1] - known[left]
        part = np.where(width > 0.0, (levels - known[left]) / np.where(width > 0.0, width, 1.0), 1.0)
        repeated = np.zeros(len(values), dtype=bool)
        repeated[1:] = values[1:] == values[:-1]
        repeated[:-1] |= repeated[1:]
        part = np.where(repeated[left] | repeated[left + 1], np.round(part), part)
        found = np.where(part < 1.0, low + part * (high - low), high)
        if step == 0.0:
            return found
        on_grid = (origin + np.round((found * denominator - origin) / step) * step) / denominator
        # Values themselves come back as they were rounded; of many values, quantiles may lie between.
        own = ((part == 0.0) | (part == 1.0)) & (np.abs(found - on_grid) <= _ROUNDING * np.abs(found))
        return np.where(own, found, on_grid)


def _levels(n_most: int) -> np.ndarray:
    """Shares of rows at equal steps from 0 to 1, and at ever smaller ones towards the ends."""
    n_steps = n_most // 2
    ends = 0.5 ** np.arange(_HALVINGS, 0, -1) / n_steps
    return np.concatenate([[0.0], ends, np.arange(1, n_steps) / n_steps, 1.0 - ends[::-1], [1.0]])


def _distributions(columns: np.ndarray, n_most: int) -> dict[int, tuple[np.ndarray, np.ndarray, Grid]]:
    """`_distribution` of columns, of shape (n_columns, n_samples), but those with a repeated or a missing value.

    All of them have the same levels, so that they are looked at together.
    """
    n_samples = columns.shape[1]
    distinct = np.sort(columns, axis=1)  # NaN goes last, and is greater than nothing
    simple = np.flatnonzero(
        (distinct[:, 1:] > distinct[:, :-1]).all(axis=1) & np.isfinite(distinct[:, -1:]).all(axis=1)
    )
    if n_samples < 2:
        return {}
    up_to = np.arange(1.0, n_samples + 1.0) / n_samples
    own = _ended(0.5 * (np.append(0.0, up_to[:-1]) + up_to))
    grids = grids_of(distinct[simple])
    return {int(i): (*_bounded(own, distinct[i], n_most), grid) for i, grid in zip(simple, grids, strict=True)}


def _distribution(
    column: np.ndarray, weight: np.ndarray | None, n_most: int
) -> tuple[np.ndarray, np.ndarray, Grid] | None:
    """Levels and quantiles of a column, and the grid of its values; None if it does not vary.

    A repeated value has two levels, the shares of the rows below it and up to it; any other has the middle of the two.
    """
    seen = np.isfinite(column)
    mass = np.ones(int(seen.sum())) if weight is None else weight[seen]
    column, mass = column[seen][mass > 0], mass[mass > 0]
    if not len(column) or column.min() == column.max():
        return None
    distinct, place, count = np.unique(column, return_inverse=True, return_counts=True)
    up_to = np.bincount(place, mass).cumsum() / mass.sum()
    below = np.append(0.0, up_to[:-1])
    lone = count == 1
    middle = np.where(lone, 0.5 * (below + up_to), below)
    order = np.sort(np.append(np.arange(len(distinct)), np.flatnonzero(~lone)))
    is_second = np.append(False, order[1:] == order[:-1])
    levels = _ended(np.where(is_second, up_to[order], middle[order]))
    return *_bounded(levels, distinct[order], n_most), grid_of(distinct)


def _ended(levels: np.ndarray) -> np.ndarray:
    levels[0], levels[-1] = 0.0, 1.0
    return levels


def _bounded(levels: np.ndarray, values: np.ndarray, n_most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many quantiles."""
    if len(levels) <= n_most:
        return levels, values
    return _levels(n_most), np.interp(_levels(n_most), levels, values)


def _padded(parts: tuple[np.ndarray, ...]) -> np.ndarray:
    """The last number of each repeated as often as others have more."""
    longest = max(map(len, parts))
    return np.stack([np.append(part, np.repeat(part[-1], longest - len(part))) for part in parts])
