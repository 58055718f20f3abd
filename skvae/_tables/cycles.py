"""Cycles of the calendar that a column of dates shows, and its days written in parts that follow them.

The parts are digits of a number of mixed radix: year, week of the year, weekday, time of day. They say the same as the
days do, and a density of them is one of the days.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

__all__ = ["Cycles", "Part", "find_cycles"]

_WEEK, _YEAR = 7, 365.2425
# 1970-01-01 was a Thursday.
_THURSDAY = 3
# Days of the years 1 to 9999, but for the weeks at both ends.
_FARTHEST = (-719_100, 2_932_800)
# How far a time may lie from a step of its column for rounding to be the reason.
_NEXT_TO_STEP = 1e-3


class Part(NamedTuple):
    """A part of a date beside the time that has elapsed."""

    name: str
    unit: float  # in days
    n_levels: int = 0  # of a category


@dataclass(frozen=True)
class Cycles:
    """Which cycles a column of dates is written by.

    Attributes
    ----------
    hours, weekdays, seasons : bool
        Of the day, of the week, of the year.
    per_day : int
        Steps of a day on which the times lie.
    low, high : float
        First and last day of the rows that were fitted, in days since 1970.
    """

    hours: bool
    weekdays: bool
    seasons: bool
    per_day: int
    low: float
    high: float

    @property
    def elapsed_unit(self) -> float:
        """What the time that has elapsed is counted in, in days."""
        return _YEAR if self.seasons else _WEEK if self.weekdays else 1.0

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts behind the first one, which is the time that has elapsed."""
        parts = []
        if self.seasons:
            parts.append(Part("week of the year", _WEEK) if self.weekdays else Part("day of the year", 1.0))
        if self.weekdays:
            parts.append(Part("weekday", 1.0, _WEEK))
        if self.hours:
            parts.append(Part("time of day", 1.0))
        return tuple(parts)

    def split(self, days: np.ndarray) -> np.ndarray:
        """Write days since 1970 in parts.

        Parameters
        ----------
        days : ndarray of shape (n_samples,)
            NaN where missing.

        Returns
        -------
        parts : ndarray of shape (n_samples, 1 + n_parts)
            Years, weeks or days first; weekdays count from Monday on, times are fractions of a day. NaN where missing.
        """
        day, time = self._whole(np.nan_to_num(days))
        first, further = day, []
        weekday = (day + _THURSDAY) % _WEEK
        if self.weekdays:
            first = (day + _THURSDAY - weekday) // _WEEK
            further.append(weekday)
        if self.seasons:
            middle = day + _THURSDAY - weekday if self.weekdays else day  # a week belongs to the year of its Thursday
            first = _years(middle)
            place = (middle - _first_day(first)) // (_WEEK if self.weekdays else 1)
            further.insert(0, place)
        if self.hours:
            further.append(time)
        parts = np.column_stack([first, *further]).astype(float)
        parts[np.isnan(days)] = np.nan
        return parts

    def join(self, parts: np.ndarray) -> np.ndarray:
        """Inverse of `split`; parts that are drawn, or expected, are moved to the nearest that can be."""
        missing = np.isnan(parts).any(axis=1)
        columns = list(np.where(missing[:, None], 0.0, parts).T)
        time = 0.0
        if self.hours:
            time = np.clip(np.rint(columns.pop() * self.per_day), 0, self.per_day - 1) / self.per_day
        weekday = np.clip(np.rint(columns.pop()), 0, _WEEK - 1) if self.weekdays else 0.0
        first = np.rint(columns[0])
        if self.seasons:
            start = _first_day(np.clip(first, -1969, 8029).astype(np.int64))
            if self.weekdays:
                start += (-start) % _WEEK  # the first Thursday: days since 1970 are then whole weeks
                day = start - _THURSDAY + _WEEK * np.clip(np.rint(columns[1]), 0, 52) + weekday
            else:
                day = start + np.clip(np.rint(columns[1]), 0, 365)
        else:
            day = _WEEK * first - _THURSDAY + weekday if self.weekdays else first
        return np.where(missing, np.nan, np.clip(day, *_FARTHEST) + time)

    def within(self, parts: np.ndarray) -> np.ndarray:
        """Parts of dates, of those beyond the first and the last day that of these days."""
        days = self.join(parts)
        moved = (days < self.low) | (days > self.high)
        parts = parts.copy()
        parts[moved] = self.split(np.clip(days[moved], self.low, self.high))
        return parts

    def _whole(self, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whole days and times of day, on the steps of the column where these are met but for rounding."""
        steps = np.clip(days, *_FARTHEST) * self.per_day
        near = np.rint(steps)
        steps = np.where((np.abs(steps - near) < _NEXT_TO_STEP) | (np.abs(steps) > 2.0**48), near, steps)
        day = np.floor(steps / self.per_day)
        return day.astype(np.int64), np.clip(steps - day * self.per_day, 0.0, None) / self.per_day

    def state(self) -> dict[str, Any]:
        """Plain values for a pickle."""
        return dict(vars(self))

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Cycles":
        """Inverse of `state`.

        Raises
        ------
        ValueError
            If there is no cycle, or no range.
        """
        which = [bool(state[name]) for name in ("hours", "weekdays", "seasons")]
        low, high = float(state["low"]), float(state["high"])
        made = cls(which[0], which[1], which[2], int(state["per_day"]), low, high)
        if not any(which) or not made.low <= made.high or made.per_day < 1:
            raise ValueError(f"the cycles of a date are {state}")
        return made


def _years(days: np.ndarray) -> np.ndarray:
    """Years since 1970 of days."""
    return days.astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64)


def _first_day(years: np.ndarray) -> np.ndarray:
    return years.astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)


# --- Which cycles rows show -----------------------------------------------------------------------------------------

# How much has to depend on a cycle for it to be worth columns of its own: the share of the rows that lie elsewhere than
# evenly, and the share of a column's variance.
_LEAST_UNEVEN, _LEAST_EXPLAINED = 0.02, 0.005
# Values of other columns that are looked at, on no fewer days: bounds the time.
_MOST_VALUES, _LEAST_DAYS = 2**19, 150
# Probability of finding that rows crowd where they do not.
_LEVEL = 1e-3
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
# What may be missing of the last period for it to count.
_UNFINISHED = 0.1


class _Clock(NamedTuple):
    """Periods of a cycle and places in them."""

    unit: float  # days of a period
    step: float  # days between its places
    place: Callable[[np.ndarray], np.ndarray]  # of days since 1970
    share: np.ndarray  # of each place in a period
    least: int  # periods with rows that are needed
    level: float  # probability of finding that a column depends on it where none does


def _hour(days: np.ndarray) -> np.ndarray:
    return np.floor((days - np.floor(days)) * 24.0 + 1e-6).clip(0, 23).astype(np.int64)


def _month(days: np.ndarray) -> np.ndarray:
    return np.floor(days).astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12


_MONTHS = np.array([31, 28.2425, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_CLOCKS = {
    "hours": _Clock(1.0, 1.0 / 24.0, _hour, np.full(24, 1.0 / 24.0), 10, 1e-3),
    "weekdays": _Clock(7.0, 1.0, lambda days: np.floor(days).astype(np.int64) % _WEEK, np.full(7, 1.0 / 7.0), 10, 1e-3),
    # Few periods say less: tables hold few years.
    "seasons": _Clock(_YEAR, 1.0, _month, _MONTHS / _YEAR, 3, 5e-3),
}


def find_cycles(days: np.ndarray, others: np.ndarray, per_day: int, weight: np.ndarray | None = None) -> Cycles | None:
    r"""Tell by which cycles dates lie unevenly, or other columns depend on them.

    What the other periods of a cycle have in common is compared with each period by a scalar product. Its mean over the
    periods is tested by Student's t: rows of one period may depend on each other, as those of time series do.

    Parameters
    ----------
    days : ndarray of shape (n_samples,)
        Since 1970; NaN where missing.
    others : ndarray of shape (n_samples, n_others)
        Numbers, and 0 or 1; NaN where missing.
    per_day : int
        Steps of a day on which the days lie.
    weight : ndarray of shape (n_samples,), or None
        Of the rows; those without any do not count.

    Returns
    -------
    cycles : Cycles, or None
        None where no cycle shows.
    """
    seen = ~np.isnan(days) if weight is None else ~np.isnan(days) & (weight > 0)
    if not seen.any():
        return None
    days, others = days[seen], others[seen]
    mass = np.ones(len(days)) if weight is None else weight[seen].astype(float)
    low, high = float(days.min()), float(days.max())
    clocks = {name: clock for name, clock in _CLOCKS.items() if name != "hours" or per_day > 1}
    found = {name: _Cells.of(clock, days, (low, high)) for name, clock in clocks.items()}
    shown = {name for name, cells in found.items() if cells is not None and _uneven(cells, mass)}
    chosen = _chosen(days, others.shape[1])
    if chosen is not None:
        days, others, mass = days[chosen], others[chosen], mass[chosen]
        found = {name: _Cells.of(clock, days, (low, high)) for name, clock in clocks.items()}
    asked = {name: cells for name, cells in found.items() if cells is not None and name not in shown}
    for column in others.T if asked else ():
        ranks = _ranks(column, mass)
        shown |= {name for name, cells in asked.items() if _depends(cells, ranks, mass, others.shape[1])}
        asked = {name: cells for name, cells in asked.items() if name not in shown}
    if not shown:
        return None
    return Cycles(per_day > 1, "weekdays" in shown, "seasons" in shown, per_day, low, high)


def _chosen(days: np.ndarray, n_others: int) -> np.ndarray | None:
    """Rows of some whole days, whatever their order; None for all."""
    step = len(days) * n_others // _MOST_VALUES
    if step <= 1:
        return None
    whole = np.floor(days)
    step = max(1, min(step, len(np.unique(whole)) // _LEAST_DAYS))
    return np.flatnonzero((whole * _GOLDEN) % 1.0 <= 1.0 / step)


class _Cells(NamedTuple):
    """Where rows lie: which of the cells that are not empty, and the period and the place of each of those."""

    kept: np.ndarray  # rows of whole periods
    row: np.ndarray  # the cell of each of them
    period: np.ndarray
    place: np.ndarray
    clock: _Clock

    @classmethod
    def of(cls, clock: _Clock, days: np.ndarray, span: tuple[float, float]) -> "_Cells | None":
        """Cells of the periods of a cycle from the first date of a span on; None if these are too few."""
        low = span[0] if clock.unit == 1.0 else np.floor(span[0])
        period = np.floor((days - low) / clock.unit + 1e-9).astype(np.int64)
        kept = np.flatnonzero(period < int((span[1] - low + clock.step) / clock.unit + _UNFINISHED))
        n_places = len(clock.share)
        cell, row = np.unique(period[kept] * n_places + clock.place(days[kept]), return_inverse=True)
        found, numbered = np.unique(cell // n_places, return_inverse=True)
        return cls(kept, row, numbered, cell % n_places, clock) if len(found) >= clock.least else None

    def by_place(self, of_cells: np.ndarray) -> np.ndarray:
        return np.bincount(self.place, of_cells, len(self.clock.share))

    def by_period(self, of_cells: np.ndarray) -> np.ndarray:
        return np.bincount(self.period, of_cells)


def _uneven(cells: _Cells, mass: np.ndarray) -> bool:
    """Whether rows crowd at the same places in all periods."""
    share, count = cells.clock.share, np.bincount(cells.row, mass[cells.kept])
    of_period = cells.by_period(count)
    excess = cells.by_place(count) - count.sum() * share
    if np.abs(excess).sum() < 2.0 * _LEAST_UNEVEN * count.sum():
        return False
    # Each period's own excess, e_b, against that of all others, E - e_b: empty cells have an excess, too.
    square = cells.by_period(count**2 - 2.0 * count * of_period[cells.period] * share[cells.place])
    square += of_period**2 * (share @ share)
    product = cells.by_period(count * excess[cells.place]) - of_period * (share @ excess)
    return _is_positive((product - square) / np.sqrt(of_period), _LEVEL)


def _depends(cells: _Cells, ranks: np.ndarray, mass: np.ndarray, n_columns: int) -> bool:
    """Whether a column has high and low ranks at the same places in all periods."""
    ranks = ranks[cells.kept]
    weight = np.where(np.isnan(ranks), 0.0, mass[cells.kept])
    ranks = np.nan_to_num(ranks)
    total, count = np.bincount(cells.row, weight * ranks), np.bincount(cells.row, weight)
    all_total, all_count, of_period = cells.by_place(total), cells.by_place(count), cells.by_period(count)
    explained = (all_total**2 / np.maximum(all_count, 1e-300)).sum()
    if explained <= _LEAST_EXPLAINED * (weight @ ranks**2) or (of_period > 0).sum() < cells.clock.least:
        return False
    rest = all_count[cells.place] - count
    profile = np.where(rest > 0, all_total[cells.place] - total, 0.0) / np.where(rest > 0, rest, 1.0)
    products = cells.by_period(profile * total)[of_period > 0]
    return _is_positive(products / np.sqrt(of_period[of_period > 0]), cells.clock.level / n_columns)


def _is_positive(products: np.ndarray, level: float) -> bool:
    """Whether the mean of some numbers is above zero, by Student's t."""
    mean, scale = products.mean(), products.std(ddof=1)
    if scale <= 1e-9 * abs(mean):
        return bool(mean > 0.0)
    return bool(student_t.sf(np.sqrt(len(products)) * mean / scale, len(products) - 1) < level)


def _ranks(column: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Ranks of values, as twice their distance from the middle, by the weights of the rows; NaN where missing."""
    ranks, seen = np.full(len(column), np.nan), ~np.isnan(column)
    values, places = np.unique(column[seen], return_inverse=True)
    if len(values):
        of_values = np.bincount(places, mass[seen])
        below = np.cumsum(of_values)
        ranks[seen] = (2.0 * below - of_values - below[-1])[places]
    return ranks
