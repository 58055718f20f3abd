"""Dates in several columns: their parts, as cycles of the calendar ask for them, behind the columns of a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .cycles import Cycles, Part

__all__ = ["Expansion"]


@dataclass(frozen=True)
class Expansion:
    """Where the parts of dates stand in expanded rows; without such dates these are the rows of the table.

    Attributes
    ----------
    n_columns : int
        Columns of the table.
    cycles : dict of int to Cycles
        By column the cycles that dates are written by.
    """

    n_columns: int
    cycles: dict[int, Cycles]

    @cached_property
    def _parts(self) -> tuple[tuple[int, Part], ...]:
        """Further parts of dates, in the order of expanded rows, each with its column."""
        return tuple((index, part) for index, cycles in self.cycles.items() for part in cycles.parts)

    @property
    def n_expanded(self) -> int:
        """Number of columns of expanded rows."""
        return self.n_columns + len(self._parts)

    @property
    def n_levels(self) -> list[int]:
        """Number of levels of each further part, 0 for numbers."""
        return [part.n_levels for _, part in self._parts]

    def part_names(self, labels: Sequence[Any]) -> tuple[str, ...]:
        """What messages call the further parts of columns of some labels."""
        return tuple(f"{labels[index]} ({part.name})" for index, part in self._parts)

    def _places(self, index: int) -> list[int]:
        """Places of all parts of a date in expanded rows."""
        return [index, *(self.n_columns + place for place, (column, _) in enumerate(self._parts) if column == index)]

    def expanded(self, values: np.ndarray) -> np.ndarray:
        """Write dates in the parts that their cycles ask for.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_columns)
            As `Table.encode` makes them.

        Returns
        -------
        values : ndarray of shape (n_samples, n_expanded)
            What every part of the model sees; the same array where no date is written by cycles.
        """
        if not self.cycles:
            return values
        wide = np.empty((len(values), self.n_expanded), dtype=values.dtype)
        wide[:, : self.n_columns] = values
        for index, cycles in self.cycles.items():
            wide[:, self._places(index)] = cycles.split(values[:, index].astype(np.float64))
        return wide

    def joined(self, values: np.ndarray) -> np.ndarray:
        """Inverse of `expanded`, of rows of shape (..., n_expanded)."""
        if not self.cycles:
            return values
        rows = values.reshape(-1, self.n_expanded).astype(np.float64)
        joined = rows[:, : self.n_columns].copy()
        for index, cycles in self.cycles.items():
            joined[:, index] = cycles.join(rows[:, self._places(index)])
        return joined.reshape(*values.shape[:-1], self.n_columns)

    def within(self, values: np.ndarray) -> np.ndarray:
        """Expanded rows of shape (..., n_expanded) with dates moved into the range of the rows that were fitted."""
        rows = values.reshape(-1, self.n_expanded).copy()
        for index, cycles in self.cycles.items():
            rows[:, self._places(index)] = cycles.within(rows[:, self._places(index)])
        return rows.reshape(values.shape)

    def with_own(self, values: np.ndarray, own: np.ndarray, changed: np.ndarray) -> np.ndarray:
        """Expanded rows in which dates of which a part has changed keep the other parts of their ``own`` rows."""
        values = values.copy()
        for index in self.cycles:
            places = self._places(index)
            partly = changed[:, places].any(axis=1, keepdims=True) & ~changed[:, places] & ~np.isnan(own[:, places])
            values[:, places] = np.where(partly, own[:, places], values[:, places])
        return values

    def summed(self, values: np.ndarray, power: float = 1.0, *, in_days: bool = False) -> np.ndarray:
        """Numbers of the columns of expanded rows, (..., n_expanded), as such of the table's columns.

        Those of the parts of a date are summed, (sum x^power)^(1/power), ``in_days`` as so many days, without weekdays.
        """
        if not self.cycles:
            return values
        summed = values[..., : self.n_columns].copy()
        for index, cycles in self.cycles.items():
            units = np.array([cycles.elapsed_unit, *(0.0 if part.n_levels else part.unit for part in cycles.parts)])
            parts = values[..., self._places(index)]
            parts = np.where(units > 0.0, units * parts, 0.0) if in_days else parts
            summed[..., index] = (parts**power).sum(axis=-1) ** (1.0 / power)
        return summed

    def divided(self, values: np.ndarray) -> np.ndarray:
        """Contributions of the columns of expanded rows, (n_samples, n_expanded), as such of the table's columns.

        What no column is to blame for was divided evenly over expanded rows, and is so over the table's columns.
        """
        n_further = np.array([len(self._places(index)) - 1 for index in range(self.n_columns)])
        even = values.max(axis=1, keepdims=True)
        return self.summed(values) + even * (n_further.mean() - n_further)
