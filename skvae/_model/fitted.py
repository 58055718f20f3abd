"""The two states of a model: prepared to train, and fitted; both are frozen and change by ``replace``."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._data.columns import Columns, values_of
from .._data.departures import Prices
from .._data.patterns import Patterns
from .._data.quantiles import Quantiles
from .._data.stream import Stream
from .._networks.modules import LatentModule
from .._support.numerics import column_range
from .._tables.expansion import Expansion
from .._tables.table import Table
from .._training.rows import Rows, Settings
from .design import Design
from .labelled import Labelled
from .masses import with_masses
from .member import Member
from .scores import SCORES, Score, Scoring
from .thresholds import Calibration

__all__ = ["Data", "Fitted", "Prepared", "bounds_of", "quantiles_of"]

# Of the exponent of the largest float: the square of such a value may be divided by a small variance, and summed.
_REACH = 0.4


@dataclass(frozen=True)
class Data:
    """The rows of one fit; they leave with the end of it.

    Attributes
    ----------
    training : Rows
    validation : Rows, or None
    rows : Tensor of int
        Numbers of the training rows among the rows that are held.
    calibration_rows : Tensor of shape (n_calibration, n_features)
        The rows that place the threshold, raw: those that are held out or cross-fitted, else rows that train.
    bounds : Tensor of shape (2, n_features)
        As in `Fitted`.
    calibration_weight : ndarray of shape (n_calibration,), or None
    n_held_out : int
        How many of those did not train, or not the network that scores them: all or none.
    quantiles : Quantiles, or None
        As in `Fitted`.
    density_rows : Tensor of shape (n_calibration, n_features), or None
        The held-out rows, scaled, where the densities of the score learn from them as well as from those that train.
    unseen : Rows, or None
        The first rows that are held out, scaled, and then those that validate, by which a VAE's noise scales are set.
    """

    training: Rows
    validation: Rows | None
    rows: Tensor
    calibration_rows: Tensor
    bounds: Tensor
    calibration_weight: np.ndarray | None = None
    n_held_out: int = 0
    quantiles: Quantiles | None = None
    density_rows: Tensor | None = None
    unseen: Rows | None = None


@dataclass(frozen=True)
class Prepared:
    """A module at its starting point, with all that training needs.

    Attributes
    ----------
    columns : Columns
    design : Design
    module : LatentModule
        Training changes its parameters in place.
    seeds : list of int
        One for each network: order of the rows, noise.
    noise_seed : int
        Of the noise that scoring averages over; it stays when a fit goes on.
    score_method : str
    table : Table, or None
        None where every column holds numbers.
    data : Data
    optimiser_state : dict of str to Tensor, or None
    stream : Stream, or None
    """

    columns: Columns
    design: Design
    module: LatentModule
    seeds: list[int]
    noise_seed: int
    score_method: str
    table: Table | None
    data: Data
    optimiser_state: dict[str, Tensor] | None = None
    stream: Stream | None = None

    @property
    def settings(self) -> Settings:
        """How the module is trained."""
        return self.design.settings


@dataclass(frozen=True)
class Fitted:
    """A fitted model: tensors and plain values only.

    Attributes
    ----------
    members : tuple of Member
        The networks with the densities that score by them.
    bounds : Tensor of shape (2, n_features)
        Least and greatest value of each column in the training rows, in float64 and in the user's units; first and last
        code of a categorical column.
    calibration : Calibration
        What places the threshold.
    quantiles : Quantiles, or None
        Of the training rows, where rows can be drawn.
    reliability : float
        How much of a filled value's distance from its column's mean is kept.
    patterns : Patterns, or None
        Of the missing values of the training rows; None where none was missing, and for autoencoders.
    labelled : Labelled, or None
        What is known of anomalies.
    columns, design, module, seeds, noise_seed, score_method, table, optimiser_state, stream
        As in `Prepared`.
    """

    columns: Columns
    design: Design
    module: LatentModule
    seeds: list[int]
    noise_seed: int
    score_method: str
    members: tuple[Member, ...]
    bounds: Tensor
    calibration: Calibration = Calibration()
    table: Table | None = None
    optimiser_state: dict[str, Tensor] | None = None
    stream: Stream | None = None
    reliability: float = 1.0
    quantiles: Quantiles | None = None
    patterns: Patterns | None = None
    labelled: Labelled | None = None

    @classmethod
    def of(cls, prepared: Prepared, members: tuple[Member, ...], bounds: Tensor, patterns: Patterns | None) -> "Fitted":
        """A trained module with the densities of its score."""
        return cls(
            columns=prepared.columns,
            design=prepared.design,
            module=prepared.module,
            seeds=prepared.seeds,
            noise_seed=prepared.noise_seed,
            score_method=prepared.score_method,
            members=members,
            bounds=bounds,
            table=prepared.table,
            optimiser_state=prepared.optimiser_state,
            stream=prepared.stream,
            quantiles=prepared.data.quantiles,
            patterns=patterns,
        )

    def with_module(self, module: LatentModule) -> "Fitted":
        """The same densities beside the networks of another module."""
        members = (Member(module.network(index), member.densities) for index, member in enumerate(self.members))
        return replace(self, module=module, members=tuple(members))

    @property
    def settings(self) -> Settings:
        """How the module was trained."""
        return self.design.settings

    @property
    def score(self) -> Score:
        """What `score_samples` returns."""
        return SCORES[self.score_method]

    @property
    def prices(self) -> Prices:
        """What departures take off a score."""
        return self.score.prices(self.calibration.departure_cost)

    @property
    def features(self) -> LatentModule:
        """The network that encodes and decodes."""
        return self.members[0].module

    @property
    def scaled_bounds(self) -> Tensor:
        """``bounds`` in the units of the scaled space, on the CPU; 0 for a column that never varied or held nothing."""
        return self.columns.exact_scaler(self.bounds).nan_to_num(nan=0.0)

    @property
    def centre(self) -> Tensor:
        """Means of the columns of numbers, in the user's units; NaN for categories and for columns without a value."""
        columns = self.columns
        centre = columns.mean if columns.centre is None else columns.mean + columns.scale * columns.centre
        centre = np.where(np.array(columns.n_levels or (0,)) > 0, np.nan, centre)
        centre[list(columns.empty)] = np.nan
        return torch.as_tensor(centre)

    def drawn_in(self, values: Tensor) -> Tensor:
        """Filled values of shape (..., n_features), as near to their columns' means as they are unreliable."""
        centre = self.centre.to(values)
        near = centre + self.reliability * (values - centre)
        if self.reliability == 1.0:
            return values
        return self.columns.on_grids(torch.where(centre.isnan(), values, near))

    def within_bounds(self, values: Tensor) -> Tensor:
        """Values of shape (..., n_features) in the user's units, moved into the range of the training rows."""
        if self.settings.binarize:  # it has learned from shares, and speaks of rows of 0 and 1
            return values
        low, high = self.bounds.to(values)
        values = values.clamp(low, high)
        if self._expansion is None:
            return values
        return torch.from_numpy(self._expansion.within(values.cpu().numpy())).to(values)

    def within_reach(self, values: Tensor) -> Tensor:
        """Raw rows moved so near to the columns' means that the squares of their distances stay finite."""
        reach = torch.finfo(values.dtype).max ** _REACH * self.columns.scale
        low, high = (torch.from_numpy(self.columns.mean + end).to(values) for end in (-reach, reach))
        return values.clamp(low, high)

    @property
    def _expansion(self) -> Expansion | None:
        """How dates are written in several columns; None where each column of the model is one of the user's."""
        return self.table.expansion if self.table is not None and self.table.expansion.cycles else None

    def by_column(self, values: Tensor, power: float = 1.0, *, in_days: bool = False) -> Tensor:
        """Numbers of the model's columns as such of the user's, as `Expansion.summed` makes them."""
        if self._expansion is None:
            return values
        return torch.from_numpy(self._expansion.summed(values.cpu().numpy(), power, in_days=in_days))

    def divided(self, contributions: Tensor) -> Tensor:
        """Contributions of the model's columns to scores as such of the user's, as `Expansion.divided` makes them.

        Columns that are left out contribute nothing: what no column is to blame for is divided over the others.
        """
        if self._expansion is not None:
            contributions = torch.from_numpy(self._expansion.divided(contributions.cpu().numpy()))
        if self.table is None or not self.table.left_out:
            return contributions
        left_out = torch.zeros(contributions.shape[1], dtype=torch.bool)
        left_out[list(self.table.left_out)] = True
        part = contributions[:, left_out].sum(dim=1, keepdim=True) / (~left_out).sum()
        return torch.where(left_out, 0.0, contributions + part)

    def with_own(self, expected: Tensor, values: Tensor, changed: Tensor) -> Tensor:
        """Expected rows in which a date that is wrong in some parts keeps the others: a Sunday's hour may be right."""
        if self._expansion is None:
            return expected
        return torch.from_numpy(self._expansion.with_own(*(part.cpu().numpy() for part in (expected, values, changed))))

    def scoring(self, member: Member, module: LatentModule, x: Tensor, n_draws: int) -> Scoring:
        """Scaled rows for a score, with the model's own noise."""
        return Scoring(member, with_masses(module, self.columns), x, self.noise_seed, n_draws)


def quantiles_of(values: Tensor, columns: Columns, likelihood: Any, weight: Tensor | None) -> Quantiles | None:
    """Quantiles of the columns of real numbers, in the user's units.

    Parameters
    ----------
    values : Tensor of shape (n_samples, n_features)
        Raw rows that train.
    columns : Columns
    likelihood : str
        Family of all columns, read where none has its own.
    weight : Tensor of shape (n_samples,), or None

    Returns
    -------
    quantiles : Quantiles, or None
        None where no column holds real numbers that vary.
    """
    families = columns.families or (likelihood,) * columns.n_features
    mapped = () if columns.marginals is None else columns.marginals.columns
    real = [i for i, family in enumerate(families) if values_of(family) == "real" and i not in mapped]
    return Quantiles.fit(values, real, None if weight is None else weight.double().cpu().numpy())


def bounds_of(values: Tensor, columns: Columns, rows: Tensor | None = None) -> Tensor:
    """What `Fitted` keeps of the range of raw rows, of shape (2, n_features).

    Parameters
    ----------
    values : Tensor of shape (n_samples, n_features)
    columns : Columns
    rows : Tensor of int, or None
        Rows that count; None for all.
    """
    bounds = column_range(values, rows).double().cpu()
    for column, levels in enumerate(columns.n_levels or ()):
        if levels:  # a code is no amount, and a level may be rarer than the rows that trained
            bounds[:, column] = torch.tensor([0.0, levels - 1.0])
    return bounds
