"""Likelihoods of scaled rows in which values have masses, exact: what a score stands for is an interval."""

import copy
from typing import Any

import torch
from torch import Generator, Tensor

from .._data.columns import Columns
from .._networks.modules import LatentModule
from ..likelihoods import Likelihood
from ..likelihoods.row_terms import RowTerms, with_row_terms

__all__ = ["with_masses"]


def with_masses(module: LatentModule, columns: Columns) -> LatentModule:
    """The same module, whose likelihood gives values with a mass the mass of their interval; itself where none has."""
    if columns.marginals is None or not columns.marginals.any_mass:
        return module
    twin = copy.copy(module)
    twin.likelihood = module.likelihood.with_cells(lambda cells: _Masses(cells, columns))
    return twin


class _Masses(Likelihood, RowTerms):
    """A likelihood whose cells are values with a mass here and there.

    References
    ----------
    Heitjan (1989), "Inference from grouped continuous data: a review", Statistical Science 4(2).
    """

    def __init__(self, likelihood: Likelihood, columns: Columns) -> None:
        super().__init__(likelihood.n_columns, likelihood.n_outputs, likelihood.n_free)
        self.inner, self.columns = likelihood, columns
        self._ends: tuple[Tensor, Tensor] | tuple[None, None] | None = None
        self.has_scale, self.mean_is_outputs = likelihood.has_scale, likelihood.mean_is_outputs

    def config(self) -> dict[str, Any]:
        return self.inner.config()

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        cells = self.inner.log_prob(x, outputs, free)
        low, high = self._intervals(x) if self._ends is None else self._ends
        if low is None or high is None:
            return cells
        return torch.where(low.isnan(), cells, self.inner.log_mass(low, high, outputs, free))

    def _intervals(self, x: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Ends of the intervals that cells stand for, NaN for cells without a mass; None where no cell has any."""
        marginals = self.columns.marginals
        if marginals is None:
            return None, None
        columns = list(marginals.columns)
        low, high = (x.new_full(x.shape, torch.nan) for _ in range(2))
        lowest, highest, has_mass = marginals.intervals(x[..., columns].flatten(0, -2))
        for ends, found in ((low, lowest), (high, highest)):
            ends[..., columns] = found.view_as(x[..., columns]).to(x)
        return (low, high) if has_mass.any() else (None, None)

    def _with_row_terms(self, x: Tensor, free: Tensor, mask: Tensor | None) -> "_Masses":
        twin = copy.copy(self)
        twin.inner = with_row_terms(self.inner, x, free, mask)
        twin._ends = self._intervals(x if mask is None else torch.where(mask, x, 0))
        return twin

    def _in_domain(self, column: Tensor, index: int) -> Tensor:
        return self.inner._in_domain(column, index)

    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self.inner.mean(outputs, free)

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        return self.inner.sample(outputs, free, generator)

    def scale(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self.inner.scale(outputs, free)

    def expected_log_prob(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self.inner.expected_log_prob(outputs, free)

    @property
    def owners(self) -> tuple[int, ...]:
        return self.inner.owners

    @property
    def columns_hold(self) -> tuple[str, ...]:
        return self.inner.columns_hold

    @property
    def widths(self) -> tuple[int, ...]:
        return self.inner.widths

    def expected(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self.inner.expected(outputs, free)

    def expected_beside(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        return self.inner.expected_beside(x, outputs, free)

    def cells(self, expected: Tensor) -> Tensor:
        return self.inner.cells(expected)
