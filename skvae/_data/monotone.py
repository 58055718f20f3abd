"""What the values of one column of numbers are: a continuum, values with masses of their own, or both."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

__all__ = ["Curve", "Grid", "fit_column", "grid_of", "grids_of"]

# Values that may have a mass of their own: bounds what is stored of a column.
_MOST_VALUES = 512
# A value among a continuum has a mass if it is so frequent, and not by the chance of a few ties.
_SPIKE_SHARE, _SPIKE_ROWS = 0.01, 5.0
# Values are all that a column has if a row seldom brings a new one, and each has several rows.
_NEW_SHARE, _ROWS_PER_VALUE = 0.05, 5.0
# Knots of a spline that are tried, and values that choose among them.
_KNOTS = (5, 9, 17, 33, 65)
_CHOOSING_VALUES = 4000
# Where values are all on one side of 0, none is drawn beyond so small a part of the last one's distance from it.
_NEAR_ZERO = 1e-3
# Where they are crowded there, the density ends with them: the score of that point lies so far beyond the last value's.
# They are crowded if a unit of the scores there spans less than this part of a standard deviation. A score farther
# beyond costs rows at or beyond 0 more than those before it gain.
_BEYOND, _CROWDED = 1.0, 0.5
# Nats per value that more knots have to bring: bends that say little blur what columns have to do with each other.
_LEAST_GAIN = 0.03
# Digits after the point that make a grid, and integers that are looked at for a common divisor.
_MOST_DIGITS, _MOST_STEPS = 5, 2.0**40
# Values of a column that are looked at before all are.
_FIRST_VALUES = 16
_LOG_2PI = float(np.log(2.0 * np.pi))


class Curve(NamedTuple):
    """The map of one column: knots in ascending order, two of one y where a value has a mass."""

    y: np.ndarray  # (n_knots,)
    u: np.ndarray  # (n_knots,), strictly ascending
    slope: np.ndarray  # (n_knots,), du/dy towards the neighbour that has another y
    tails: tuple[float, float]  # du/dy below and above all knots
    limits: tuple[float, float] = (-np.inf, np.inf)  # of drawn values that have no mass


class Grid(NamedTuple):
    """Values (origin + i step) / denominator with a whole i; no grid where the step is 0."""

    origin: float = 0.0
    step: float = 0.0
    denominator: float = 1.0

    @property
    def width(self) -> float:
        """Distance of neighbours."""
        return self.step / self.denominator

    def values(self, low: float, high: float) -> np.ndarray:
        """All values of a range."""
        first, last = (round((end * self.denominator - self.origin) / self.step) for end in (low, high))
        return (self.origin + np.arange(first, last + 1) * self.step) / self.denominator


def fit_column(values: np.ndarray, weight: np.ndarray) -> tuple[Curve, bool, Grid]:
    """Curve of a column's values, whether each has a mass, and the grid of those that have none."""
    distinct, place = np.unique(values, return_inverse=True)
    counts = np.bincount(place, weight)
    total, scale = counts.sum(), _scale(values, weight)
    new = (counts[counts <= 1.0 + 1e-9].sum() + 1.0) / (total + 1.0)  # Good & Turing: the chance of a new value
    grid = grid_of(distinct)
    if grid.step and (distinct[-1] - distinct[0]) / grid.width < _MOST_VALUES - 0.5:
        return _on_grid(values, weight, grid, new), True, Grid()
    few = len(distinct) <= _MOST_VALUES and new <= _NEW_SHARE
    if few and (grid.step or total >= _ROWS_PER_VALUE * len(distinct)):
        return _of_values(distinct, counts / total, 1.0 / (total + 1.0), scale), True, Grid()
    spikes = counts >= max(_SPIKE_SHARE * total, _SPIKE_ROWS)
    rest = ~spikes[place]
    if rest.sum() < 2 or values[rest].min() == values[rest].max():
        return _of_values(distinct, counts / total, 1.0 / (total + 1.0), scale), True, Grid()
    ends = _natural_ends(distinct[~spikes], 0.5 * grid.width)
    continuum = _continuum(_spread(values[rest], grid.width), weight[rest], ends)
    return _with_spikes(continuum, distinct[spikes], counts[spikes] / total, total), False, grid


def _natural_ends(distinct: np.ndarray, half: float) -> tuple[float, float]:
    """Where values end that are all positive or all negative: at 0, with its cell on a grid where a value is 0."""
    low, high = distinct[0], distinct[-1]
    return (
        -np.inf if low < 0.0 else half if low > 0.0 else -half,
        np.inf if high > 0.0 else -half if high < 0.0 else half,
    )


def _limits(values: np.ndarray, ends: tuple[float, float]) -> tuple[float, float]:
    """Where drawn values end, next to the natural ends."""
    low, high = (
        end + _NEAR_ZERO * (last - end) if np.isfinite(end) else end
        for end, last in zip(ends, (values.min(), values.max()), strict=True)
    )
    return low, high


def _scale(values: np.ndarray, weight: np.ndarray) -> float:
    """Standard deviation; not 0, however near to each other the values are."""
    middle = 0.5 * values.min() + 0.5 * values.max()
    mean = np.average(values - middle, weights=weight)
    return max(float(np.sqrt(np.average((values - middle - mean) ** 2, weights=weight))), np.ptp(values) * 1e-6)


def grid_of(distinct: np.ndarray) -> Grid:
    """The coarsest grid of decimal numbers that holds all values, which are ascending."""
    return grids_of(distinct[np.newaxis])[0]


def grids_of(distinct: np.ndarray) -> list[Grid]:
    """The same of each of some columns, of shape (n_columns, n_values)."""
    grids, left = [Grid()] * len(distinct), np.arange(len(distinct))
    for digits in range(_MOST_DIGITS):
        denominator = 10.0**digits
        ends = np.round(distinct[left][:, [0, -1]] * denominator)
        left = left[np.abs(ends).max(axis=1) <= _MOST_STEPS]
        held = _are_whole(distinct[left, :_FIRST_VALUES] * denominator)  # most columns fail with these
        held[held] = _are_whole(distinct[left[held]] * denominator)
        for index in left[held]:
            whole = np.round(distinct[index] * denominator)
            step = int(np.gcd.reduce((whole - whole[0]).astype(np.int64)))
            grids[index] = Grid(float(whole[0]), float(step), denominator)
        left = left[~held]
    return grids


def _are_whole(scaled: np.ndarray) -> np.ndarray:
    """Whether all values of a row are whole numbers, but for rounding."""
    return (np.abs(scaled - np.round(scaled)) <= np.minimum(1e-7 * np.abs(scaled), 0.01)).all(axis=1)


def _spread(values: np.ndarray, width: float) -> np.ndarray:
    """Values of a grid, those of one value at equal distances over its cell."""
    if width == 0.0:
        return values
    order = np.argsort(values, kind="stable")
    _, first, count = np.unique(values[order], return_index=True, return_counts=True)
    rank = np.arange(len(values)) - np.repeat(first, count)
    spread = np.empty_like(values)
    spread[order] = values[order] + width * ((rank + 0.5) / np.repeat(count, count) - 0.5)
    return spread


def _on_grid(values: np.ndarray, weight: np.ndarray, grid: Grid, new: float) -> Curve:
    """All values of a grid, those without rows by their neighbours, with the chance of a value without rows."""
    distinct, place = np.unique(values, return_inverse=True)
    ladder = grid.values(distinct[0], distinct[-1])
    # The values themselves, as they were rounded: single precision differs from the grid's.
    step = np.rint((distinct * grid.denominator - grid.origin) / grid.step).astype(int)
    ladder[step] = distinct
    total = weight.sum()
    mass = np.zeros(len(ladder))
    mass[step] = np.bincount(place, weight) / total
    if len(distinct) < len(ladder):
        smooth = _continuum(_spread(values, grid.width), weight)
        edges = np.append(ladder - 0.5 * grid.width, ladder[-1] + 0.5 * grid.width)
        cells = np.diff(ndtr(_scores(smooth, edges)))
        mass = (1.0 - new) * mass + new * cells / cells.sum()
    least = 1.0 / (total + 1.0)
    mass = (1.0 - least) * mass + least / len(mass)
    return _of_values(ladder, mass, least, _scale(values, weight))


def _of_values(values: np.ndarray, mass: np.ndarray, other: float, scale: float) -> Curve:
    """Curve of values that have all the mass but that of others, which lies between them and beyond."""
    gaps = 0.5 * (np.append(mass, 0.0) + np.append(0.0, mass)) * other
    segments = np.empty(2 * len(values) + 1)
    segments[::2], segments[1::2] = gaps, mass * (1.0 - other)
    y = np.repeat(values, 2)
    return _curve(y, segments, (1.0 / scale, 1.0 / scale))


def _curve(y: np.ndarray, masses: np.ndarray, tails: tuple[float, float]) -> Curve:
    """Knots at y with the mass of each segment, the first and last beyond all knots."""
    # What has next to no mass gets some: scores stay apart, and finite.
    masses = np.maximum(masses / masses.sum(), 1e-12)
    masses = masses / masses.sum()
    below, above = np.cumsum(masses)[:-1], np.cumsum(masses[::-1])[::-1][1:]
    u = np.where(below < 0.5, ndtri(below), -ndtri(above))
    return Curve(y, u, _slopes(y, u), tails)


def _slopes(y: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Slopes at the knots: harmonic means of the two beside a knot, weighted by the other's width; ends take the one.

    Where two knots have one y, each belongs to the stretch on its own side.
    """
    width, rise = np.diff(y), np.diff(u)
    with np.errstate(divide="ignore", invalid="ignore"):
        secant = rise / width  # infinite where a value has a mass
        left, right, before, after = secant[:-1], secant[1:], width[:-1], width[1:]
        both = before + after
        mean = 3.0 / ((1.0 + after / both) / left + (1.0 + before / both) / right)
    slope = np.concatenate([secant[:1], mean, secant[-1:]])
    inner = slope[1:-1]
    np.copyto(inner, right, where=np.isinf(left))
    np.copyto(inner, left, where=np.isinf(right))
    return np.where(np.isfinite(slope), slope, 1.0)  # a lone value has no stretch


def _continuum(values: np.ndarray, weight: np.ndarray, ends: tuple[float, float] = (-np.inf, np.inf)) -> Curve:
    """Spline of values without a mass, of as few knots as the likelihood of values left out allows."""
    half = np.arange(min(len(values), _CHOOSING_VALUES)) % 2 == 0
    parts = []
    for numbers in (np.flatnonzero(half), np.flatnonzero(~half)):
        numbers = numbers[np.argsort(values[numbers], kind="stable")]
        parts.append((values[numbers], weight[numbers]))
    best, chosen = -np.inf, 0
    for n_knots in (0, *_KNOTS):
        if n_knots > len(half) // 4 or min(len(np.unique(part)) for part, _ in parts) < 2:
            break
        gain = 0.0
        for (some, mass), (others, other_mass) in (parts, parts[::-1]):
            curve = _spline(some, mass, n_knots, ends)
            gain += float(other_mass @ _log_density(curve, others))
        if gain > best + _LEAST_GAIN * len(half):
            best, chosen = gain, n_knots
    return _spline(values, weight, chosen, ends)


def _spline(values: np.ndarray, weight: np.ndarray, n_knots: int, ends: tuple[float, float]) -> Curve:
    """Curve through quantiles; a straight line where there are no knots."""
    scale, limits = _scale(values, weight), _limits(values, ends)
    if n_knots == 0:
        mean, u = np.average(values, weights=weight), np.array([-1.0, 1.0])
        return Curve(mean + scale * u, u, np.full(2, 1 / scale), (1 / scale,) * 2, limits)
    order = np.argsort(values, kind="stable")
    ordered, mass = values[order], weight[order] / weight.sum()
    places = np.cumsum(mass) - 0.5 * mass  # of the values in the distribution function
    low, high = float(places[0]), float(places[-1])
    # Half as many in the tails as scores at equal distances would have, half as many in the middle as equal shares.
    levels = 0.5 * np.linspace(low, high, n_knots) + 0.5 * ndtr(np.linspace(ndtri(low), ndtri(high), n_knots))
    y, first = np.unique(np.interp(levels, places, ordered), return_index=True)
    u = ndtri(levels[first])
    keep = np.append(True, np.diff(y) > 1e-9 * np.ptp(y))
    y, u = y[keep], u[keep]
    if len(y) < 2:
        return _spline(values, weight, 0, ends)
    # Beyond the ends as over the last unit of the scores, and not steeper than the standard deviation says: an end may
    # be a wall.
    below, above = np.interp(u[0] + 1.0, u, y) - y[0], y[-1] - np.interp(u[-1] - 1.0, u, y)
    room, tails = (y[0] - ends[0], ends[1] - y[-1]), (1.0 / max(below, scale), 1.0 / max(above, scale))
    below_ends, above_ends = (
        width < _CROWDED * scale and 0.0 < left < scale for width, left in zip((below, above), room, strict=True)
    )
    slope = _slopes(y, u)
    if below_ends:
        y, u, slope = np.append(limits[0], y), np.append(u[0] - _BEYOND, u), np.append(0.0, slope)
    if above_ends:
        y, u, slope = np.append(y, limits[1]), np.append(u, u[-1] + _BEYOND), np.append(slope, 0.0)
    # Rare values beyond the last one make it no flatter there.
    return Curve(y, u, np.maximum(slope, _slopes(y, u)), tails, limits)


def _with_spikes(curve: Curve, spikes: np.ndarray, shares: np.ndarray, total: float) -> Curve:
    """A continuum that leaves room for values with a mass."""
    if not len(spikes):
        return curve
    y = np.sort(np.concatenate([np.setdiff1d(curve.y, spikes), spikes, spikes]))
    below = ndtr(_scores(curve, y)) * (1.0 - shares.sum())
    # A stretch without any value may still have one.
    masses = np.maximum(np.diff(np.concatenate([[0.0], below, [1.0 - shares.sum()]])), 1e-3 / (total + 1.0) / len(y))
    masses[np.flatnonzero(np.diff(y) == 0.0) + 1] = shares
    return _curve(y, masses, curve.tails)._replace(limits=curve.limits)


def _scores(curve: Curve, values: np.ndarray) -> np.ndarray:
    """Scores of values by a curve without masses."""
    return _evaluated(curve, values)[0]


def _log_density(curve: Curve, values: np.ndarray) -> np.ndarray:
    """Log-density by a curve without masses."""
    u, slope = _evaluated(curve, values)
    return np.log(slope) - 0.5 * (u**2 + _LOG_2PI)


def _evaluated(curve: Curve, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and slopes, as `_Tables` has them for many columns."""
    y, u, slope, (below, above), _ = curve
    place = np.clip(np.searchsorted(y, values, side="right") - 1, 0, len(y) - 2)
    width, rise, d0, d1 = np.diff(y)[place], np.diff(u)[place], slope[place], slope[place + 1]
    secant, t = rise / width, np.clip((values - y[place]) / width, 0.0, 1.0)
    bend = t * (1.0 - t)
    base = secant + (d0 + d1 - 2.0 * secant) * bend
    scores = u[place] + rise * (secant * t**2 + d0 * bend) / base
    slopes = (secant / base) ** 2 * (d1 * t**2 + 2.0 * secant * bend + d0 * (1.0 - t) ** 2)
    low, high = values < y[0], values > y[-1]
    scores += np.where(low, below * (values - y[0]), 0.0) + np.where(high, above * (values - y[-1]), 0.0)
    return scores, np.where(low, below, np.where(high, above, slopes))
