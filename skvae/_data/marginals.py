"""What the values of each column of numbers are, as a monotone map to normal scores and back.

A column is a continuum, a set of values with masses of their own, such as whole numbers, indicators and other grids, or
a continuum with spikes, such as zeros. The map takes it to a standard normal variable u: a continuum by a rational
spline, each value with a mass by an interval of u that has this mass. A density q of u becomes one of the column, with
the map's slope in a continuum, and with the mass of the interval on a value that has one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .monotone import Curve, Grid, fit_column

__all__ = ["Marginals"]

# What single precision leaves of a value.
_ROUNDING = 2.0**-22
_LOG_2PI = float(np.log(2.0 * np.pi))


@dataclass(frozen=True)
class Marginals:
    r"""Monotone maps u_j of columns to normal scores.

    .. math:: p(y) = q(u(y)) u'(y), \qquad P(y = a) = \int_{u(a-)}^{u(a+)} q(u) \, du

    for a density q of the scores, the second for a value a with a mass of its own.

    Attributes
    ----------
    columns : tuple of int
        Columns of the table that are mapped.
    y, u, slope : ndarray of shape (n_mapped, n_knots)
        Knots, ascending, the last ones of a column repeated as often as others have more. Two knots of one y are a
        value with a mass.
    tails : ndarray of shape (n_mapped, 2)
        Slopes below and above all knots.
    limits : ndarray of shape (n_mapped, 2)
        Least and greatest value without a mass that is given back: next to 0 where the training rows end before it.
    n_knots : ndarray of int of shape (n_mapped,)
    discrete : ndarray of bool of shape (n_mapped,)
        Columns in which every value has a mass: what lies between is given back as the nearest of them.
    grid : ndarray of shape (n_mapped, 3)
        Origin, step and denominator of the grid on which values are given back; a step of 0 for none.
    log_width : ndarray of shape (n_mapped,)
        Mean over the training rows of `log_width_at`: what stands for it where a cell is missing.

    References
    ----------
    Dunn & Smyth (1996), "Randomized quantile residuals", Journal of Computational and Graphical Statistics 5(3), for
    the scores of values with a mass; Gregory & Delbourgo (1982), "Piecewise rational quadratic interpolation to
    monotonic data", IMA Journal of Numerical Analysis 2(2), for the spline between the knots.
    """

    columns: tuple[int, ...]
    y: np.ndarray
    u: np.ndarray
    slope: np.ndarray
    tails: np.ndarray
    limits: np.ndarray
    n_knots: np.ndarray
    discrete: np.ndarray
    grid: np.ndarray
    log_width: np.ndarray

    @classmethod
    def fit(
        cls,
        column: Callable[[int], np.ndarray],
        columns: Sequence[int],
        weight: np.ndarray | None = None,
    ) -> "Marginals | None":
        """Learn what the values of columns are.

        Parameters
        ----------
        column : callable
            Values of a column in float64, of shape (n_samples,) and in random order, by its number; NaN where missing.
        columns : sequence of int
            Columns to map; one of fewer than two values is left out.
        weight : ndarray of shape (n_samples,), or None
            Weights with mean 1.

        Returns
        -------
        marginals : Marginals, or None
            None where no column can be mapped.
        """
        fitted: dict[int, tuple[Curve, bool, Grid]] = {}
        for index in columns:
            values = np.asarray(column(index), dtype=np.float64)
            seen = ~np.isnan(values)
            mass = np.ones(int(seen.sum())) if weight is None else np.asarray(weight, dtype=np.float64)[seen]
            if len(values[seen]) and values[seen].min() < values[seen].max():
                fitted[int(index)] = fit_column(values[seen], mass)
        if not fitted:
            return None
        marginals = cls._joined(
            tuple(fitted),
            [found for found, *_ in fitted.values()],
            *zip(*(found[1:] for found in fitted.values()), strict=True),
        )
        return marginals._with_widths(column, weight)

    @classmethod
    def _joined(
        cls, columns: tuple[int, ...], curves: list[Curve], discrete: Sequence[bool], grids: Sequence[Grid]
    ) -> "Marginals":
        n_knots = np.array([len(curve.y) for curve in curves])

        def filled(parts: list[np.ndarray]) -> np.ndarray:
            return np.stack([np.pad(part, (0, n_knots.max() - len(part)), mode="edge") for part in parts])

        return cls(
            columns, filled([c.y for c in curves]), filled([c.u for c in curves]), filled([c.slope for c in curves]),
            np.array([c.tails for c in curves]), np.array([c.limits for c in curves]), n_knots, np.array(discrete),
            np.array(grids, dtype=np.float64), np.zeros(len(curves)),
        )  # fmt: skip

    def _with_widths(self, column: Callable[[int], np.ndarray], weight: np.ndarray | None) -> "Marginals":
        means = []
        for place, index in enumerate(self.columns):
            one = self.restricted([place])
            values = torch.from_numpy(np.asarray(column(index), dtype=np.float64)).unsqueeze(1)
            widths = one.log_width_at(one.scores(values)).squeeze(1).numpy()
            seen = ~np.isnan(widths)
            means.append(np.average(widths[seen], weights=None if weight is None else weight[seen]))
        return replace(self, log_width=np.array(means))

    def restricted(self, places: Sequence[int]) -> "Marginals":
        """The maps of some of the mapped columns, by their places."""
        chosen = {name: getattr(self, name)[list(places)] for name in _FIELDS}
        return Marginals(tuple(self.columns[place] for place in places), **chosen)

    def state(self) -> dict[str, Any]:
        """Plain values for a pickle."""
        return {"columns": list(self.columns)} | {name: getattr(self, name) for name in _FIELDS}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Marginals":
        """Inverse of `state`."""
        # An older file says at which ends no value is given back beyond the knots, or nothing.
        ends, none = np.array(state["y"])[:, [0, -1]], np.array([-np.inf, np.inf])
        state = {"limits": np.where(state.get("bounded", False), ends, none)} | state
        return cls(tuple(int(column) for column in state["columns"]), **{n: np.array(state[n]) for n in _FIELDS})

    @cached_property
    def _tables(self) -> dict[torch.device, "_Tables"]:
        return {}

    def _on(self, device: torch.device) -> "_Tables":
        if device not in self._tables:
            with torch.inference_mode(mode=False):
                self._tables[device] = _Tables.of(self, device)
        return self._tables[device]

    @property
    def any_mass(self) -> bool:
        """Whether some value of some column has a mass."""
        return bool(self._on(torch.device("cpu")).vertical.any())

    def scores(self, y: Tensor) -> Tensor:
        """Normal scores of values, both of shape (n_samples, n_mapped), in float64; NaN where missing.

        A value with a mass gets the score that halves its mass.
        """
        tables = self._on(y.device)
        y = tables.nearby(y.T.double().contiguous())
        left, right = torch.searchsorted(tables.y, y), torch.searchsorted(tables.y, y, right=True)
        inside = tables.spline(y, (right - 1).clamp_min(0))
        u = torch.where(y < tables.low_y, tables.low_u + (y - tables.low_y) * tables.tails[0], inside)
        u = torch.where(y > tables.high_y, tables.high_u + (y - tables.high_y) * tables.tails[1], u)
        middle = tables.middle.gather(1, left.clamp_max(tables.y.shape[1] - 1))
        return torch.where((right - left >= 2) & (y <= tables.high_y), middle, torch.where(y.isnan(), y, u)).T

    def values(self, u: Tensor) -> Tensor:
        """Inverse of `scores`, in float64: exact on values with a mass and on grids.

        It ends where the lowest or highest value has a mass, and at 0 where all values lie on one side of it.
        """
        tables, double = self._on(u.device), u.T.double().contiguous()
        place = tables.place(double)
        y = tables.inverse(double, place)
        # No row lies beyond an end that many share: it is a bound.
        below, above = (double < tables.low_u) & ~tables.bounded[0], (double > tables.high_u) & ~tables.bounded[1]
        y = torch.where(below, tables.low_y + (double - tables.low_u) / tables.tails[0], y)
        y = torch.where(above, tables.high_y + (double - tables.high_u) / tables.tails[1], y)
        has_mass = tables.vertical.gather(1, place) & ~below & ~above
        # Nor beyond a 0 that they end before; the density says so only where they are crowded there.
        y = torch.where(has_mass, y, y.clamp(*tables.limits))
        y = torch.where(tables.discrete, tables.nearest_end(y, place), y)
        rounded = (tables.origin + ((y * tables.denominator - tables.origin) / tables.step).round() * tables.step) / (
            tables.denominator
        )
        exact = has_mass | tables.discrete | (tables.step == 0)
        return torch.where(double.isnan(), double, torch.where(exact, y, rounded)).T

    def intervals(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ends of the interval of the value with a mass that each score stands for, and whether there is one.

        Parameters
        ----------
        u : Tensor of shape (n_samples, n_mapped)

        Returns
        -------
        low, high : Tensor of shape (n_samples, n_mapped)
            In float64; NaN where the score belongs to a continuum or is missing.
        has_mass : Tensor of bool of shape (n_samples, n_mapped)
        """
        tables, double = self._on(u.device), u.T.double().contiguous()
        place = tables.place(double)
        inside = tables.vertical.gather(1, place) & (double >= tables.low_u) & (double <= tables.high_u)
        low, high = tables.u.gather(1, place), tables.u.gather(1, place + 1)
        nan = torch.nan
        return torch.where(inside, low, nan).T, torch.where(inside, high, nan).T, inside.T

    def randomised(self, u: Tensor, generator: torch.Generator) -> Tensor:
        """Scores with those of values with a mass drawn anew from the normal distribution within their intervals."""
        low, high, has_mass = self.intervals(u)
        part = torch.rand(u.shape, generator=generator, dtype=torch.float64, device=u.device)
        return torch.where(has_mass, _between(low, high, part).to(u), u)

    def log_slope_at(self, u: Tensor) -> Tensor:
        """Logarithm of du/dy at scores of shape (n_samples, n_mapped), in float64; 0 at values with a mass."""
        tables, double = self._on(u.device), u.T.double().contiguous()
        place = tables.place(double)
        slope = tables.slope_at(tables.inverse(double, place), place)
        slope = torch.where(double < tables.low_u, tables.tails[0], slope)
        slope = torch.where(double > tables.high_u, tables.tails[1], slope)
        slope = torch.where(double.isnan(), double, slope)
        return torch.where(self.intervals(u)[2], 0.0, slope.T.log())

    def log_width_at(self, u: Tensor) -> Tensor:
        """The same, and at values with a mass the logarithm of mass / normal density at the middle score.

        Where a continuum stands beside them, by a typical step of it: both change alike with the unit of the column.
        """
        low, high, has_mass = self.intervals(u)
        middle = _between(low, high, torch.full_like(low, 0.5))
        log_mass = torch.where(has_mass, _mass(low, high), 1.0).log()
        width = log_mass + 0.5 * (middle.square() + _LOG_2PI) + self._on(u.device).mean_log_slope.T
        return torch.where(has_mass, width, self.log_slope_at(u))


_FIELDS = ("y", "u", "slope", "tails", "limits", "n_knots", "discrete", "grid", "log_width")


@dataclass(frozen=True)
class _Tables:
    """The arrays of `Marginals` on a device, with what follows from them; a row for each mapped column."""

    y: Tensor  # infinite beyond the last knot, as u
    u: Tensor
    slope: Tensor
    vertical: Tensor  # whether a value with a mass lies between a knot and the next
    middle: Tensor  # score of that value
    tails: tuple[Tensor, Tensor]
    low_y: Tensor
    high_y: Tensor
    low_u: Tensor
    high_u: Tensor
    last: Tensor
    bounded: tuple[Tensor, Tensor]  # whether the lowest value has a mass, and the highest
    limits: tuple[Tensor, Tensor]
    discrete: Tensor
    mean_log_slope: Tensor  # over the continuum, by its mass; 0 where every value has a mass
    origin: Tensor
    step: Tensor
    denominator: Tensor

    @classmethod
    def of(cls, marginals: Marginals, device: torch.device) -> "_Tables":
        y, u, slope = (torch.from_numpy(part).to(device) for part in (marginals.y, marginals.u, marginals.slope))
        last = torch.from_numpy(marginals.n_knots).to(device).unsqueeze(1) - 1
        beyond = torch.arange(y.shape[1], device=device) > last
        low_y, low_u, high_y, high_u = y[:, :1], u[:, :1], y.gather(1, last), u.gather(1, last)
        vertical = torch.zeros_like(beyond)
        vertical[:, :-1] = (y[:, 1:] == y[:, :-1]) & ~beyond[:, 1:]
        following = torch.cat([u[:, 1:], u[:, -1:]], dim=1)
        middle = torch.where(vertical, _between(u, following, torch.full_like(u, 0.5)), torch.nan)
        below, above = torch.from_numpy(marginals.tails).to(device).T.unsqueeze(-1).unbind()
        grid = torch.from_numpy(marginals.grid).to(device).T.unsqueeze(-1).unbind()
        discrete = torch.from_numpy(marginals.discrete).to(device).unsqueeze(1)
        rise = torch.where(beyond, 0.0, _mass(u, following)) * ~vertical * ~discrete
        secant = (following - u) / (torch.cat([y[:, 1:], y[:, -1:]], dim=1) - y)
        weighted = torch.where(rise > 0.0, rise * secant.log(), 0.0).sum(dim=1, keepdim=True)
        mean_log_slope = weighted / rise.sum(dim=1, keepdim=True).clamp_min(1e-300)
        y, u = (torch.where(beyond, torch.inf, part) for part in (y, u))
        ends = (low_y, high_y, low_u, high_u)
        bounded = vertical[:, :1], vertical.gather(1, last - 1)
        least, greatest = torch.from_numpy(marginals.limits).to(device).T.unsqueeze(-1).unbind()
        return cls(
            y, u, slope, vertical, middle, (below, above), *ends, last, bounded, (least, greatest), discrete,
            mean_log_slope, *grid,
        )  # fmt: skip

    def nearby(self, y: Tensor) -> Tensor:
        """Values, but those with a mass where no more than the rounding of single precision lies between."""
        right = torch.searchsorted(self.y, y)
        for place in (right.clamp_max(self.y.shape[1] - 1), (right - 1).clamp_min(0)):
            knot = self.y.gather(1, place)
            has_mass = self.vertical.gather(1, place) | self.vertical.gather(1, (place - 1).clamp_min(0))
            y = torch.where(has_mass & ((y - knot).abs() <= _ROUNDING * knot.abs()), knot, y)
        return y

    def place(self, u: Tensor) -> Tensor:
        """The knot below each score; the first one where none is, the last but one where no other is above."""
        right = torch.searchsorted(self.u, u, right=True)
        return torch.minimum((right - 1).clamp_min(0), self.last - 1)

    def _segment(self, place: Tensor) -> tuple[Tensor, ...]:
        """Ends of the segments from the knots at some places on, and the slopes at both."""
        place = torch.minimum(place, self.last - 1)
        return tuple(part.gather(1, p) for part in (self.y, self.u, self.slope) for p in (place, place + 1))

    def spline(self, y: Tensor, place: Tensor) -> Tensor:
        """The rational quadratic of Gregory & Delbourgo, equation 3."""
        y0, y1, u0, u1, d0, d1 = self._segment(place)
        secant, t = (u1 - u0) / (y1 - y0), (y - y0) / (y1 - y0)
        bend = t * (1.0 - t)
        return u0 + (u1 - u0) * (secant * t.square() + d0 * bend) / (secant + (d0 + d1 - 2.0 * secant) * bend)

    def slope_at(self, y: Tensor, place: Tensor) -> Tensor:
        """Its derivative."""
        y0, y1, u0, u1, d0, d1 = self._segment(place)
        secant, t = (u1 - u0) / (y1 - y0), ((y - y0) / (y1 - y0)).clamp(0.0, 1.0)
        bend = t * (1.0 - t)
        upper = d1 * t.square() + 2.0 * secant * bend + d0 * (1.0 - t).square()
        return (secant / (secant + (d0 + d1 - 2.0 * secant) * bend)).square() * upper

    def inverse(self, u: Tensor, place: Tensor) -> Tensor:
        """Its inverse, by the root that does not cancel; the value itself where it has a mass."""
        y0, y1, u0, u1, d0, d1 = self._segment(place)
        secant, rise = (u1 - u0) / (y1 - y0), u - u0
        d0, d1 = d0 / secant, d1 / secant  # without a unit, whose square may be beyond the range of floats
        bend = rise * (d0 + d1 - 2.0)
        a, b, c = (u1 - u0) * (1.0 - d0) + bend, (u1 - u0) * d0 - bend, -rise
        t = 2.0 * c / (-b - (b.square() - 4.0 * a * c).clamp_min(0.0).sqrt())
        return torch.where(y0 == y1, y0, y0 + t.clamp(0.0, 1.0) * (y1 - y0))

    def nearest_end(self, y: Tensor, place: Tensor) -> Tensor:
        """The nearer end of the segment."""
        y0, y1, *_ = self._segment(place)
        return torch.where(y - y0 <= y1 - y, y0, y1)


def _between(low: Tensor, high: Tensor, part: Tensor) -> Tensor:
    """The score up to which an interval has a part of its mass; from the side where probabilities are small."""
    flip = (low + high) > 0.0
    start, end = torch.where(flip, -high, low), torch.where(flip, -low, high)
    part = torch.where(flip, 1.0 - part, part)
    below = torch.special.ndtr(start)
    found = torch.special.ndtri(below + part * (torch.special.ndtr(end) - below))
    return torch.where(flip, -found, found).clamp(low, high)


def _mass(low: Tensor, high: Tensor) -> Tensor:
    flip = (low + high) > 0.0
    start, end = torch.where(flip, -high, low), torch.where(flip, -low, high)
    return torch.special.ndtr(end) - torch.special.ndtr(start)
