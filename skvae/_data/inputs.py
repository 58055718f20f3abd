"""What the encoder sees of scaled rows: a missing cell is NaN in ``x``, and nothing downstream of here meets a NaN."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._support.numerics import observed

__all__ = ["InputLayer"]


@dataclass(frozen=True)
class InputLayer:
    r"""Scaled rows turned into the inputs of an encoder, [values | which are there].

    .. math:: u_{ij} = m_{ij} x_{ij} + (1 - m_{ij}) f_j, \quad \mathrm{inputs}_i = [u_i \mid m_{iM}]

    A categorical column j with the probabilities p of its levels becomes a block of indicators, a column of counts its
    logarithm, both with mean 0 and a variance of 1 in all, so that each column counts once:

    .. math:: u_{ijl} = \frac{[x_{ij} = l] - p_l}{\sqrt{\sum_k p_k (1 - p_k)}}, \quad
        u_{ij} = \frac{\log(1 + x_{ij}) - a_j}{b_j}

    For a table of complete rows of numbers, rows are their own inputs.

    Parameters
    ----------
    n_columns : int
        Columns of the scaled rows.
    masked : tuple of int
        Columns M that had missing cells in training: the encoder is told where they hold a value.
    fill : tuple of float
        What stands in for a missing cell of each column of numbers, f, in scaled units; empty for zeros.
    probabilities : tuple of (int, tuple of float)
        Categorical columns with the probability of each level, in the order of the columns.
    counts : tuple of (int, float, float)
        Columns of counts with the mean a and the scale b of log(1 + count), in the order of the columns.

    References
    ----------
    Mattei & Frellsen (2019), "MIWAE: deep generative modelling and imputation of incomplete data sets",
    https://arxiv.org/abs/1812.02633, section 3.1: a constant fill is as good as any. Pages (2015), "Multiple factor
    analysis by example using R", chapter 3: categories and numbers side by side.
    """

    n_columns: int
    masked: tuple[int, ...] = ()
    fill: tuple[float, ...] = ()
    probabilities: tuple[tuple[int, tuple[float, ...]], ...] = ()
    counts: tuple[tuple[int, float, float], ...] = ()

    @cached_property
    def n_values(self) -> int:
        """Inputs that carry values."""
        return self.n_columns + sum(len(levels) - 1 for _, levels in self.probabilities)

    @property
    def n_inputs(self) -> int:
        """Width of the inputs."""
        return self.n_values + len(self.masked)

    @cached_property
    def is_plain(self) -> bool:
        """Whether every column is one of numbers that enter as they are."""
        return not self.probabilities and not self.counts

    @cached_property
    def categorical(self) -> tuple[int, ...]:
        """Columns of categories."""
        return tuple(column for column, _ in self.probabilities)

    @cached_property
    def discrete(self) -> tuple[int, ...]:
        """Columns of categories and counts."""
        return tuple(sorted((*self.categorical, *(column for column, *_ in self.counts))))

    @property
    def is_identity(self) -> bool:
        """Whether complete rows are their own inputs."""
        return self.is_plain and not self.masked

    def config(self) -> dict[str, Any]:
        """Plain values for a pickle."""
        return {
            "n_columns": self.n_columns,
            "masked": list(self.masked),
            "fill": list(self.fill),
            "shares": [[column, list(levels)] for column, levels in self.probabilities],
            "counts": [list(count) for count in self.counts],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "InputLayer":
        """Inverse of `config`."""
        probabilities = tuple((column, tuple(levels)) for column, levels in config.get("shares", ()))
        counts = tuple((column, mean, scale) for column, mean, scale in config.get("counts", ()))
        return cls(config["n_columns"], tuple(config["masked"]), tuple(config["fill"]), probabilities, counts)

    @cached_property
    def _layout(self) -> "_Layout":
        return _Layout.of(self)

    def __call__(self, x: Tensor) -> Tensor:
        """Turn scaled rows of shape (..., n_samples, n_columns) into inputs of shape (..., n_samples, n_inputs)."""
        mask = observed(x)
        return self.join(self.values(x, mask), mask)

    def values(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The values alone, missing cells filled; (..., n_samples, n_values)."""
        return self._filled(self._layout.expand(x), mask)

    def incomplete_values(self, x: Tensor) -> Tensor:
        """The values alone, NaN where missing; (..., n_samples, n_values)."""
        if self.is_plain:
            return x
        mask = observed(x)
        values = self._layout.expand(x)
        if mask is None:
            return values
        return torch.where(mask.index_select(-1, self._layout.constants(x).owner), values, torch.nan)

    def uncorrelated(self, values: Tensor, random_state: np.random.RandomState) -> Tensor:
        """Values with noise that takes away how the indicators of one column exclude each other.

        A linear model would otherwise spend its components on what every row fulfils. Noise of one draw for each block,
        in proportion to the probabilities, makes the covariance of the block diagonal.
        """
        if not self.probabilities:
            return values
        values = values.clone()
        for column, levels in self.probabilities:
            first = self._layout.first[column]
            noise = torch.from_numpy(random_state.standard_normal((len(values), 1))).to(values)
            steps = values.new_tensor(levels) / self._layout.spread[first]
            values[:, first : first + len(levels)] += noise * steps
        return values

    def join(self, values: Tensor, mask: Tensor | None) -> Tensor:
        """Put which cells are there beside the values; where values carry noise, missing cells lose it again."""
        values = self._filled(values, mask)
        if not self.masked:
            return values
        if mask is None:
            return torch.cat([values, values.new_ones(*values.shape[:-1], len(self.masked))], dim=-1)
        return torch.cat([values, mask[..., list(self.masked)].to(values)], dim=-1)

    def _filled(self, values: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return values
        if self.is_plain:
            return torch.where(mask, values, values.new_tensor(self.fill) if self.fill else 0.0)
        made = self._layout.constants(values)
        return torch.where(mask.index_select(-1, made.owner), values, made.fill if self.fill else 0.0)

    def swapped(self, x: Tensor, chance: Tensor, generator: torch.Generator) -> Tensor:
        """The codes of rows, drawn anew from their column's probabilities here and there, each with some chance.

        Noise for categories: a denoiser has to doubt the cell that it sees.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_columns)
        chance : Tensor of shape (n_samples, 1)
        generator : torch.Generator

        Returns
        -------
        codes : Tensor of shape (n_samples, n_categorical)
            Of the categorical columns, NaN where missing.
        """
        made = self._layout.constants(x)
        codes = x.index_select(-1, made.categorical)
        coin, share = torch.rand(2, *codes.shape, generator=generator, dtype=x.dtype, device=x.device)
        shares = share.mul_(made.n_levels)
        levels = shares.floor()
        places = levels.long().add_(made.surprisals[0])
        drawn = torch.where(shares - levels < made.kept.take(places), levels, made.aliases.take(places))
        return torch.where((coin < chance).logical_and_(codes == codes), drawn, codes)  # NaN differs from itself

    def noisy(self, x: Tensor, mask: Tensor | None, scale: Tensor, generator: torch.Generator) -> Tensor:
        """Inputs of rows with noise: Gaussian for numbers, and categories that are `swapped` with half its scale.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_columns)
        mask : Tensor of bool of shape (n_samples, n_columns), or None
        scale : Tensor of shape (n_samples, 1)
        generator : torch.Generator

        Returns
        -------
        inputs : Tensor of shape (n_samples, n_inputs)
        """
        codes = self.swapped(x, 0.5 * scale, generator)
        numbers = self._layout.numbers(x)
        noise = torch.empty_like(numbers).normal_(generator=generator)
        return self.join(self._layout.spread_out(numbers.addcmul(noise, scale), codes), mask)

    def scalars(self, x: Tensor) -> Tensor:
        """One number for each cell, for densities of rows: numbers as they enter, and how rare a level is.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_columns)

        Returns
        -------
        scalars : Tensor of shape (n_samples, n_columns)
            NaN where a cell is missing. A level becomes its surprisal, -log p, standardised.
        """
        if self.is_plain:
            return x
        scalars = self.logarithms(x)
        if self.probabilities:
            made = self._layout.constants(x)
            columns, (first, surprisals) = made.categorical, made.surprisals
            codes = x[:, columns]
            scalars[:, columns] = torch.where(codes.isnan(), codes, surprisals[codes.nan_to_num(0.0).long() + first])
        return scalars

    def logarithms(self, x: Tensor) -> Tensor:
        """A copy of scaled rows with standardised logarithms for counts."""
        x = x.clone()
        for column, mean, scale in self.counts:
            x[..., column] = (torch.log1p(x[..., column]) - mean) / scale
        return x

    def to_cells(self, mean: np.ndarray, loadings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn a linear model of the values into one of expected cells: probabilities of levels, and counts.

        Parameters
        ----------
        mean : ndarray of shape (n_values,)
        loadings : ndarray of shape (n_components, n_values)

        Returns
        -------
        mean : ndarray of shape (n_values,)
        loadings : ndarray of shape (n_components, n_values)
        """
        if self.is_plain:
            return mean, loadings
        layout = self._layout
        mean, loadings = layout.centre + layout.spread * mean, layout.spread * loadings
        for place in layout.count_places:
            mean[place] = np.expm1(min(mean[place], 30.0))
            loadings[:, place] *= 1.0 + mean[place]
        return mean, loadings


@dataclass(frozen=True)
class _Layout:
    """Where the columns of an `InputLayer` go, worked out once."""

    first: np.ndarray  # (n_columns,), place of each column's first value
    owners: np.ndarray  # (n_values,), column of each value
    numeric: np.ndarray  # (n_values,), False for indicators
    centre: np.ndarray  # (n_values,), what is subtracted
    spread: np.ndarray  # (n_values,), what it is divided by then
    categorical: list[int]
    count_places: list[int]
    surprisals: list[np.ndarray]
    fill: np.ndarray  # (n_values,)
    layer: InputLayer
    made: dict[tuple[torch.dtype, torch.device], "_Constants"] = field(default_factory=dict)

    @classmethod
    def of(cls, layer: InputLayer) -> "_Layout":
        widths = np.ones(layer.n_columns, dtype=int)
        for column, levels in layer.probabilities:
            widths[column] = len(levels)
        first = np.concatenate([[0], np.cumsum(widths)[:-1]]).astype(int)
        owners = np.repeat(np.arange(layer.n_columns), widths)
        centre, spread, numeric = np.zeros(len(owners)), np.ones(len(owners)), np.ones(len(owners), dtype=bool)
        surprisals = []
        for column, levels in layer.probabilities:
            p = np.array(levels)
            block = slice(first[column], first[column] + len(p))
            centre[block], numeric[block] = p, False
            spread[block] = max(np.sqrt((p * (1.0 - p)).sum()), 1e-3)
            rarity = -np.log(p)
            mean = p @ rarity
            surprisals.append((rarity - mean) / max(np.sqrt(p @ (rarity - mean) ** 2), 1e-3))
        for column, mean, scale in layer.counts:
            centre[first[column]], spread[first[column]] = mean, scale
        special = [column for column, *_ in (*layer.probabilities, *layer.counts)]
        fill = np.zeros(len(owners))
        if layer.fill:
            fill = np.where(np.isin(owners, special), 0.0, np.array(layer.fill)[owners])
        categorical = list(layer.categorical)
        counts = [int(first[column]) for column, *_ in layer.counts]
        return cls(first, owners, numeric, centre, spread, categorical, counts, surprisals, fill, layer)

    def constants(self, like: Tensor) -> "_Constants":
        """The layout as tensors in the precision and on the device of ``like``, made once."""
        found = self.made.get((like.dtype, like.device))
        if found is None:
            with torch.inference_mode(mode=False):
                found = self.made[like.dtype, like.device] = _Constants.of(self, like)
        return found

    def expand(self, x: Tensor) -> Tensor:
        """Values (..., n_samples, n_values) of scaled rows; those of missing cells mean nothing."""
        if self.layer.is_plain:
            return x
        if not self.categorical:
            return self.layer.logarithms(x)
        return self.spread_out(self.numbers(x), x.index_select(-1, self.constants(x).categorical))

    def numbers(self, x: Tensor) -> Tensor:
        """Values of the columns that are no categories, (..., n_samples, n_numbers)."""
        values = self.layer.logarithms(x) if self.layer.counts else x
        return values.index_select(-1, self.constants(x).numeric[0])

    def spread_out(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """Values (..., n_samples, n_values) of numbers and of the codes (..., n_samples, n_categorical) of levels."""
        made = self.constants(numbers)
        values = numbers.new_empty(*numbers.shape[:-1], len(made.base)).copy_(made.base)
        values.index_copy_(-1, made.numeric[1], numbers)
        places = codes.nan_to_num(0.0).long().add_(made.first)
        return values.scatter_add_(-1, places, made.steps.expand(places.shape))


class _Constants(NamedTuple):
    """What an `InputLayer` adds, multiplies and looks up, in one precision on one device."""

    owner: Tensor  # (n_values,), column of each value
    numeric: tuple[Tensor, Tensor]  # columns that are no categories, and the place of each one's value
    base: Tensor  # (n_values,), values of indicators that are 0
    categorical: Tensor  # (n_categorical,), columns of categories
    n_levels: Tensor  # (n_categorical,)
    kept: Tensor  # of each level of each categorical column, as `_alias` returns it
    aliases: Tensor  # the same
    first: Tensor  # (n_categorical,), place of each categorical column's first value
    steps: Tensor  # (n_categorical,), what an indicator that is 1 adds
    fill: Tensor  # (n_values,)
    surprisals: tuple[Tensor, Tensor]  # place of each categorical column's first level, all levels'

    @classmethod
    def of(cls, layout: _Layout, like: Tensor) -> "_Constants":
        first = layout.first[layout.categorical]
        ends = np.cumsum([0, *(len(levels) for levels in layout.surprisals)], dtype=int)

        def index(numbers: Any) -> Tensor:
            return torch.as_tensor(np.asarray(numbers, dtype=int), device=like.device)

        levels = like.new_tensor(np.concatenate([np.zeros(0), *layout.surprisals]))
        aliases = [_alias(np.array(levels)) for _, levels in layout.layer.probabilities]
        return cls(
            index(layout.owners),
            (index(layout.owners[layout.numeric]), index(layout.numeric.nonzero()[0])),
            like.new_tensor(-layout.centre / layout.spread),
            index(layout.categorical),
            like.new_tensor([len(levels) for _, levels in layout.layer.probabilities]),
            like.new_tensor(np.concatenate([np.zeros(0), *(kept for kept, _ in aliases)])),
            like.new_tensor(np.concatenate([np.zeros(0), *(other for _, other in aliases)])),
            index(first),
            like.new_tensor(1.0 / layout.spread[first]),
            like.new_tensor(layout.fill),
            (index(ends[:-1]), levels),
        )


def _alias(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws from n levels by one number: a level of equal chances is kept with some chance, or replaced by its alias.

    Parameters
    ----------
    probabilities : ndarray of shape (n_levels,)

    Returns
    -------
    kept : ndarray of shape (n_levels,)
        With which chance a level is kept.
    aliases : ndarray of shape (n_levels,)

    References
    ----------
    Walker (1977), "An efficient method for generating discrete random variables with general distributions", ACM TOMS
    3. Vose (1991), "A linear algorithm for generating random numbers with a given distribution", IEEE TSE 17.
    """
    kept = probabilities * (len(probabilities) / probabilities.sum())
    aliases = np.arange(len(probabilities))
    small, large = np.flatnonzero(kept < 1.0).tolist(), np.flatnonzero(kept >= 1.0).tolist()
    while small and large:
        level, other = small.pop(), large[-1]
        aliases[level] = other
        kept[other] -= 1.0 - kept[level]
        if kept[other] < 1.0:
            small.append(large.pop())
    kept[[*small, *large]] = 1.0  # but for rounding they are
    return kept, aliases
