"""Raw rows to scaled rows and back: means and scales of the columns, their log-Jacobian, chunks of rows.

Networks, densities and scores see scaled rows alone; who holds raw ones asks here for the other form.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._support.numerics import observed
from ..likelihoods import LIKELIHOODS
from .marginals import Marginals

__all__ = ["NEXT_TO_ZERO", "Columns", "Scaler", "Schema", "chunk_rows", "row_chunks", "values_of"]

# Rows that are encoded and scored at once: bounds the memory of scoring.
_CHUNK_ROWS = 1024
# Chunks are multiples of this, so that a row meets the same kernels wherever it stands.
_ROW_MULTIPLE = 16
_STATISTICS_ROWS = 8192
# Relative error of float32 sums.
_ROUNDING = 1e-6
# A level whose rows weigh less than this has one row.
_ALONE = 1.5
# What float64 leaves of a zero: a zero has no size that says how far rounding can lead.
NEXT_TO_ZERO = 1e-10
_STATISTICS_CELLS = 2**18  # 2 MiB in float64: a wide table in longer chunks falls out of the cache


class Schema(NamedTuple):
    """What is known of the columns before their values are looked at."""

    names: tuple[str, ...]  # what error messages call them
    standardize: bool = True  # whether columns of real numbers are scaled
    families: tuple[str, ...] | None = None  # likelihood of each column; None where one speaks for all
    n_levels: tuple[int, ...] | None = None  # of each categorical column, 0 for others; None where none is categorical
    marginals: bool = False  # whether columns that are scaled are mapped to normal scores instead


@dataclass(frozen=True)
class Columns:
    """How the columns of X become a tensor and the tensor becomes columns again.

    Attributes
    ----------
    mean : ndarray of shape (n_features,)
        In the units of X.
    scale : ndarray of shape (n_features,)
        Standard deviation in the units of X; 1 without standardising.
    constant : ndarray of shape (n_features,)
        True where the column did not vary in training. Such a column is inert: it is encoded as zero whatever it
        holds later, and decoded as its mean. Scores see what it holds by `departures` alone.
    names : tuple of str
        What error messages call the columns.
    missing_share : ndarray of shape (n_features,), or None
        Share of the cells that were missing in training; None where none was. A column without any value is inert
        and decoded as NaN.
    centre : ndarray of shape (n_features,), or None
        Means of the scaled columns; None where standardising makes them 0.
    families : tuple of str, or None
        Likelihood of each column; None where one speaks for all.
    n_levels : tuple of int, or None
        Levels of each categorical column, 0 for the others; None where no column is categorical.
    tolerance : ndarray of shape (n_features,), or None
        How far a value of a constant column may lie from its mean and still pass for it, in the units of X; infinite
        for other columns. None where no column is constant.
    rarest, rarest_rows : ndarray of shape (n_features,), or None
        Code of the level that the fewest rows have, and the weight of those rows; -1 and 0 for numbers. None where no
        column is categorical, or not known.
    new_share : ndarray of shape (n_features,), or None
        About the share of rows to come whose level no training row had; 0 for numbers. None as for ``rarest``.
    marginals : Marginals, or None
        Maps of columns that become normal scores rather than being centred and scaled; None where none does.
    """

    mean: np.ndarray
    scale: np.ndarray
    constant: np.ndarray
    names: tuple[str, ...]
    missing_share: np.ndarray | None = None
    centre: np.ndarray | None = None
    families: tuple[str, ...] | None = None
    n_levels: tuple[int, ...] | None = None
    tolerance: np.ndarray | None = None
    rarest: np.ndarray | None = None
    rarest_rows: np.ndarray | None = None
    new_share: np.ndarray | None = None
    marginals: Marginals | None = None

    @classmethod
    def fit(
        cls,
        values: Tensor,
        rows: Tensor,
        schema: Schema,
        weight: Tensor | None = None,
        whole: "Columns | None" = None,
    ) -> "Columns":
        """Learn means and scales, in float64 and in chunks.

        Parameters
        ----------
        values : Tensor of shape (n_samples, n_features)
        rows : Tensor of int
            Rows that count.
        schema : Schema
        weight : Tensor of the shape of ``rows``, or None
        whole : Columns, or None
            Learned of more rows, some of which are left out here: a column that varies only in those keeps the scale
            that it has there.

        Returns
        -------
        columns : Columns
        """
        n_chunk_rows = chunk_rows(values.shape[1])
        chunks = rows.split(n_chunk_rows)
        weights = [None] * len(chunks) if weight is None else weight.double().unsqueeze(1).split(n_chunk_rows)

        def parts() -> Iterator[tuple[Tensor, Tensor | None]]:
            for chunk, part_weight in zip(chunks, weights, strict=True):
                yield values[chunk.to(values.device)].double().cpu(), part_weight

        found = _Statistics.of(parts, float(len(rows) if weight is None else weight.sum()))
        low, high, scale, n_levels = found.low, found.high, found.scale, schema.n_levels
        # Rounding alone gives a constant column a spread of this order.
        rounding = 10.0 * torch.finfo(values.dtype).eps * torch.maximum(low.abs(), high.abs())
        constant = (scale <= rounding) | (low == high)
        if n_levels is not None:
            constant &= torch.tensor(n_levels) == 0  # a code is no amount
        if whole is not None:
            varies = torch.from_numpy(~whole.constant)
            scale = torch.where(constant & varies, torch.from_numpy(whole.scale), scale)
            constant &= ~varies
        families = schema.families or [None]
        unscaled = torch.tensor([not schema.standardize or values_of(family) != "real" for family in families])
        lone, mapped = constant & ~found.empty, ~unscaled & ~constant & scale.isfinite() & ~found.empty
        of_levels = (None, None, None) if n_levels is None else _of_levels(parts(), n_levels)
        marginals = None
        if schema.marginals:
            marginals = _marginals(values, rows, weight, mapped.nonzero().squeeze(1).tolist())
        return cls(
            mean=torch.where(constant, low, torch.where(unscaled, 0.0, found.mean)).numpy(),
            scale=torch.where(constant | unscaled, 1.0, scale).numpy(),
            constant=constant.numpy(),
            names=schema.names,
            missing_share=found.missing_share,
            centre=torch.where(constant | ~unscaled, 0.0, found.mean).numpy() if unscaled.any() else None,
            families=schema.families,
            n_levels=n_levels,
            tolerance=torch.where(lone, _tolerance(low, high), torch.inf).numpy() if lone.any() else None,
            rarest=of_levels[0],
            rarest_rows=of_levels[1],
            new_share=of_levels[2],
            marginals=marginals,
        )

    def gather(self, values: Tensor, rows: Tensor, device: torch.device) -> Tensor:
        """Scale chosen rows into one resident float32 tensor, chunk by chunk."""
        encode = self.scaler(torch.float32, device)
        x = torch.empty(len(rows), self.n_features, device=device)
        for first in range(0, len(rows), _STATISTICS_ROWS):
            chosen = rows[first : first + _STATISTICS_ROWS].to(values.device)
            x[first : first + len(chosen)] = encode(values[chosen])
        return x

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return len(self.mean)

    @property
    def n_degrees(self) -> int:
        """Numbers that can vary in a row: one for each column, and for a categorical one its levels but one."""
        return self.n_features + sum(max(levels - 2, 0) for levels in self.n_levels or ())

    @property
    def masked(self) -> tuple[int, ...]:
        """Columns that had missing cells in training, and some value."""
        share = np.zeros(self.n_features) if self.missing_share is None else self.missing_share
        return tuple(int(column) for column in np.flatnonzero((share > 0) & (share < 1)))

    @cached_property
    def known(self) -> tuple[int, ...]:
        """Columns that held one value in every training row: a missing one there is no question."""
        constant = self.constant if self.missing_share is None else self.constant & (self.missing_share == 0)
        return tuple(int(column) for column in np.flatnonzero(constant))

    @cached_property
    def tolerant(self) -> Tensor:
        """Numbers of the columns that have one value, from which rows may depart by their tolerance."""
        none = torch.empty(0, dtype=torch.long)
        return none if self.tolerance is None else torch.from_numpy(np.flatnonzero(np.isfinite(self.tolerance)))

    @cached_property
    def empty(self) -> tuple[int, ...]:
        """Columns without any value in training."""
        return () if self.missing_share is None else tuple(int(c) for c in np.flatnonzero(self.missing_share == 1))

    @property
    def missing_fraction(self) -> float:
        """Share of the cells that were missing in training, in the columns that have some value."""
        share = np.zeros(0) if self.missing_share is None else self.missing_share[self.missing_share < 1]
        return float(share.mean()) if share.size else 0.0

    @cached_property
    def log_jacobian(self) -> float:
        """What turns a log-density of the scaled row into one of the row in the user's units, in nats."""
        return -float(np.log(self.scale).sum())

    def log_jacobian_of(self, values: Tensor) -> Tensor:
        """The same for the observed cells of each raw row, of shape (n_samples,) in float64."""
        if self.marginals is not None:
            return self._of_scaled(values, self._log_slopes_of_observed)
        mask = observed(values)
        if mask is None:
            return torch.full((len(values),), self.log_jacobian, dtype=torch.float64)
        mask = mask.cpu().contiguous()
        of_each = -(mask * torch.from_numpy(np.log(self.scale))).sum(dim=1)
        # A complete row's number is the same whatever stands beside it.
        return torch.where(mask.all(dim=1), self.log_jacobian, of_each)

    def log_jacobian_of_whole(self, values: Tensor, *, by_mass: bool) -> Tensor | float:
        """The same with what missing cells are expected to add, for scores in which they count as expected.

        ``by_mass`` tells whether the density of the scaled rows is one of masses where values have a mass; where it is
        that of a score, the width of the score's interval stands for it.
        """
        if self.marginals is None:
            return self.log_jacobian
        return self._of_scaled(values, lambda x: torch.as_tensor(self.log_slopes_at(x, by_mass=by_mass)))

    def log_slopes_at(self, x: Tensor, *, by_mass: bool) -> Tensor | float:
        """`log_jacobian_of_whole` of scaled rows, of shape (n_samples,), as a function of what they hold."""
        if self.marginals is None:
            return self.log_jacobian
        columns, maps = list(self.marginals.columns), self.marginals
        slopes = (maps.log_slope_at if by_mass else maps.log_width_at)(x[:, columns])
        slopes = torch.where(slopes.isnan(), torch.from_numpy(maps.log_width).to(slopes), slopes)
        others = np.delete(np.log(self.scale), columns)  # of columns that are only centred and scaled
        return slopes.contiguous().sum(dim=1) - float(others.sum())

    def _log_slopes_of_observed(self, x: Tensor) -> Tensor:
        of_each = torch.where(x.isnan(), 0.0, -torch.from_numpy(np.log(self.scale)))
        if self.marginals is not None:
            columns = list(self.marginals.columns)
            of_each[:, columns] = self.marginals.log_slope_at(x[:, columns]).nan_to_num(nan=0.0)
        return of_each.sum(dim=1)

    def _of_scaled(self, values: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of scaled rows, of raw ones: in float64, on the CPU, some rows at a time."""
        encode = self.exact_scaler
        parts = (values[first : first + size] for first, size in row_chunks(len(values)))
        return torch.cat([function(encode(part.cpu().double())) for part in parts])

    @cached_property
    def levels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Categorical columns, how many levels each has, and which is the rarest; empty where that is not known."""
        if self.rarest is None or self.n_levels is None:
            return torch.empty(0, dtype=torch.long), torch.empty(0), torch.empty(0)
        codes = torch.from_numpy(np.flatnonzero(np.asarray(self.n_levels)))
        return codes, torch.tensor(self.n_levels)[codes], torch.from_numpy(self.rarest)[codes]

    def scaler(self, dtype: torch.dtype, device: torch.device) -> "Scaler":
        """Make the map from raw rows to scaled ones, in a precision and on a device."""
        multiplier = np.where(self.constant, 0.0, 1.0 / self.scale)
        if self.empty:
            multiplier[list(self.empty)] = np.nan  # nothing was learned of such a column: its cells count as missing
        mean, exact = torch.as_tensor(self.mean), torch.as_tensor(multiplier)
        codes, limits, rarest = self.levels
        new = (codes.to(device), limits.to(device, dtype), rarest.to(device, dtype))
        return Scaler(mean.to(device, dtype), exact.to(device, dtype), mean, exact, self.known, new, self.marginals)

    @property
    def exact_scaler(self) -> "Scaler":
        """That map in float64 on the CPU."""
        return self.scaler(torch.float64, torch.device("cpu"))

    def decode(self, x: Tensor) -> Tensor:
        """Turn scaled rows of shape (n_samples, n_features) into the user's units."""
        scale = torch.as_tensor(np.where(self.constant, 0.0, self.scale))
        mean = self.mean
        if self.empty:
            mean = np.where(self.missing_share == 1, np.nan, mean)
        rows = x * scale.to(x) + torch.as_tensor(mean).to(x)
        if self.marginals is not None:
            columns = list(self.marginals.columns)
            rows[..., columns] = self.marginals.values(x[..., columns].flatten(0, -2)).view_as(x[..., columns]).to(x)
        return rows

    def on_grids(self, rows: Tensor) -> Tensor:
        """Rows of shape (..., n_features) in the user's units with values that their columns may hold."""
        if self.marginals is None:
            return rows
        columns = list(self.marginals.columns)
        cells = rows[..., columns].flatten(0, -2)
        rows = rows.clone()
        rows[..., columns] = self.marginals.values(self.marginals.scores(cells)).view_as(rows[..., columns]).to(rows)
        return rows

    @property
    def spread(self) -> Callable[[Tensor, torch.Generator], Tensor] | None:
        """What draws the scores of values with a mass anew in scaled rows; None where no value has one."""
        return None if self.marginals is None or not self.marginals.any_mass else self._spread

    def _spread(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.marginals is None:
            return x
        x, columns = x.clone(), list(self.marginals.columns)
        x[:, columns] = self.marginals.randomised(x[:, columns], generator)
        return x

    def state(self) -> dict[str, Any]:
        """Plain values for a pickle; without what does not apply, as earlier versions read it."""
        later = ("tolerance", "rarest", "rarest_rows", "new_share", "marginals")
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        state = {name: value for name, value in held.items() if value is not None or name not in later}
        return state if self.marginals is None else state | {"marginals": self.marginals.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Columns":
        """Inverse of `state`, with arrays of its own; lists are tuples in it."""
        state = {name: tuple(value) if isinstance(value, list) else value for name, value in state.items()}
        state |= {name: np.array(value) for name, value in state.items() if isinstance(value, np.ndarray)}
        if state.get("marginals") is not None:
            state["marginals"] = Marginals.from_state(state["marginals"])
        return cls(**state)


class _Statistics(NamedTuple):
    """What the observed cells of each column are, 0 where there is none; tensors of shape (n_features,) in float64."""

    low: Tensor
    high: Tensor
    mean: Tensor
    scale: Tensor  # standard deviation
    empty: Tensor  # of bool: whether no cell is observed
    missing_share: np.ndarray | None  # (n_features,); None where no cell is missing

    @classmethod
    def of(cls, parts: Callable[[], Iterator[tuple[Tensor, Tensor | None]]], weight: float) -> "_Statistics":
        """From rows and their weights of shape (n_rows, 1), part by part, and the weight of all rows."""
        extremes = [_extremes(part) for part, _ in parts()]
        low, high = torch.stack([e[0] for e in extremes]).amin(0), torch.stack([e[1] for e in extremes]).amax(0)
        gaps = torch.stack([e[2] for e in extremes]).any(0)
        complete = not gaps.any()
        empty = low > high
        low, high = (torch.where(empty, 0.0, extreme) for extreme in (low, high))

        def total(term: Callable[[Tensor], Tensor]) -> Tensor:
            """Weighted sum over the observed cells of each column."""
            sums = []
            for part, part_weight in parts():
                cells = term(part) if complete else term(part).nan_to_num_(0.0)
                sums.append((cells if part_weight is None else part_weight * cells).sum(0))
            return torch.stack(sums).sum(0)

        shift = 0.5 * low + 0.5 * high  # keeps the sums small where a column is far from zero
        mass: Any = weight if complete else total(lambda part: part - part + 1.0).clamp_min(1e-300)
        mean = shift + total(lambda part: part.sub_(shift)) / mass
        scale = (total(lambda part: part.sub_(mean).square_()) / mass).sqrt()
        missing_share = None
        if not complete:
            # Sums of weights round: a complete column has no gaps, and only an empty one nothing else.
            share = torch.where(gaps, (1.0 - mass / weight).clamp(0.0, 1.0 - 1e-15), 0.0)
            missing_share = torch.where(empty, 1.0, share).numpy()
        return cls(low, high, mean, scale, empty, missing_share)


@dataclass(frozen=True)
class Scaler:
    """Centre and scale raw rows.

    Attributes
    ----------
    mean, multiplier : Tensor of shape (n_features,)
        In the precision and on the device of the results.
    exact_mean, exact_multiplier : Tensor of shape (n_features,)
        In float64, on the CPU.
    known : tuple of int
        Columns that are zero whatever they hold, missing values included.
    new : tuple of Tensor of shape (n_categorical,)
        Categorical columns, the codes from which on their levels are new, and those that stand in for new ones.
    marginals : Marginals, or None
        Maps of columns that are not centred and scaled.
    """

    mean: Tensor
    multiplier: Tensor
    exact_mean: Tensor
    exact_multiplier: Tensor
    known: tuple[int, ...] = ()
    new: tuple[Tensor, Tensor, Tensor] = (torch.empty(0, dtype=torch.long), torch.empty(0), torch.empty(0))
    marginals: Marginals | None = None

    def __call__(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Scale rows of shape (n_samples, n_features), into ``out`` where given, of the results' precision."""
        x = self._scaled(rows, out)
        if self.marginals is not None:
            columns = list(self.marginals.columns)
            x[:, columns] = self.marginals.scores(rows[:, columns].to(x.device)).to(x)
        codes, limits, rarest = self.new
        if len(codes):
            x[:, codes] = torch.where(x[:, codes] >= limits, rarest, x[:, codes])
        if self.known:
            x[:, list(self.known)] = 0.0
        return x

    def _scaled(self, rows: Tensor, out: Tensor | None) -> Tensor:
        like = self.mean
        if rows.dtype == torch.float64 != like.dtype:
            # Centre before rounding, by the mean itself: a column far from zero would lose its digits, or shift.
            x = (rows - self.exact_mean.to(rows.device)) * self.exact_multiplier.to(rows.device)
            return x.to(like) if out is None else out.copy_(x)
        return torch.sub(rows.to(like), self.mean, out=out).mul_(self.multiplier)


def values_of(family: str | None) -> str:
    """What the cells of a column hold, as its family says in ``Likelihood.values``.

    Parameters
    ----------
    family : str or None
        A key of ``LIKELIHOODS``; "auto" and None stand for a family of real numbers that the estimator chooses.

    Returns
    -------
    values : {"real", "count", "share", "level"}
    """
    return "real" if family in (None, "auto") else LIKELIHOODS[family].values


def _marginals(values: Tensor, rows: Tensor, weight: Tensor | None, columns: list[int]) -> Marginals | None:
    """Maps of some columns, of the rows that count."""

    def column(index: int) -> np.ndarray:
        return values[:, index][rows.to(values.device)].double().cpu().numpy()

    return Marginals.fit(column, columns, None if weight is None else weight.double().numpy())


def _of_levels(
    parts: Iterator[tuple[Tensor, Tensor | None]], n_levels: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Code of each column's rarest level, the weight of its rows, and the share of rows to come with a new level.

    That is estimated by the share of rows whose level no other row has, with one such row added to what was seen.

    References
    ----------
    Good (1953), "The population frequencies of species and the estimation of population parameters", Biometrika 40.
    """
    mass = [torch.zeros(count, dtype=torch.float64) for count in n_levels]
    for part, part_weight in parts:
        weight = torch.ones(len(part), dtype=torch.float64) if part_weight is None else part_weight.squeeze(1)
        for column in np.flatnonzero(n_levels):
            seen = ~part[:, column].isnan()
            mass[column].index_add_(0, part[seen, column].long(), weight[seen])
    rarest = [int(one.argmin()) if len(one) else -1 for one in mass]
    alone = [int((one < _ALONE).sum()) for one in mass]
    new = [(n + 1.0) / (float(one.sum()) + 1.0) if len(one) else 0.0 for n, one in zip(alone, mass, strict=True)]
    rows = [float(one.min()) if len(one) else 0.0 for one in mass]
    return np.array(rarest, dtype=float), np.array(rows), np.minimum(new, 1.0)


def _tolerance(low: Tensor, high: Tensor) -> Tensor:
    """How far from ``low`` rounding can lead, of columns that hold nothing else.

    Sums in float32 differ by about a millionth of their size; whole numbers that float32 holds do not.
    """
    size = torch.maximum(low.abs(), high.abs())
    exact = (low == low.round()) & (size <= 2.0**24)
    rounding = torch.where(exact, (_ROUNDING * size).clamp_max(0.1), _ROUNDING * size)
    return torch.maximum(rounding, 2.0 * (high - low)).clamp_min(NEXT_TO_ZERO)


def _extremes(part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least and greatest value of each column, and whether a cell of it is missing."""
    mask = observed(part)
    if mask is None:
        return part.amin(0), part.amax(0), torch.zeros(part.shape[1], dtype=torch.bool)
    return torch.where(mask, part, torch.inf).amin(0), torch.where(mask, part, -torch.inf).amax(0), ~mask.all(0)


def row_chunks(n_samples: int) -> list[tuple[int, int]]:
    """Cut rows into chunks of one size, so that a row's result does not depend on its place.

    Parameters
    ----------
    n_samples : int

    Returns
    -------
    chunks : list of (int, int)
        First row and size; the last chunk may reach beyond ``n_samples`` and is then padded.
    """
    n_chunks = -(-n_samples // _CHUNK_ROWS)
    size = -(-n_samples // (n_chunks * _ROW_MULTIPLE)) * _ROW_MULTIPLE
    return [(first, size) for first in range(0, n_samples, size)]


def chunk_rows(n_columns: int) -> int:
    return max(256, min(_STATISTICS_ROWS, _STATISTICS_CELLS // n_columns))
