"""Several likelihoods side by side, each for some of the columns."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from .._support.graph import Graph
from .likelihood import Buffers, Likelihood
from .row_terms import RowTerms, with_row_terms

__all__ = ["ColumnGroups"]


class ColumnGroups(Likelihood, RowTerms):
    """Groups of columns, each with a likelihood of its own; outputs and free parameters come group after group.

    *Domain*, *Link* and *Formula*: those of each group.

    ``scale`` is NaN in the columns of a group without one. The groups, which are in ``likelihoods``, say what their
    values are and which ONNX form they have; all together have one where each group has.

    Parameters
    ----------
    likelihoods : sequence of Likelihood
        The groups.
    columns : sequence of sequences of int, default=None
        The columns of each group, in ascending order. None means that they follow each other, group after group.

    Examples
    --------
    >>> from skvae.likelihoods import Bernoulli, ColumnGroups, Gaussian
    >>> groups = ColumnGroups([Gaussian(3), Bernoulli(2)])
    >>> groups.n_columns, groups.n_outputs, groups.n_free
    (5, 5, 3)
    >>> ColumnGroups([Gaussian(3), Bernoulli(2)], [[0, 2, 3], [1, 4]]).n_columns
    5
    """

    name = "column_groups"

    def __init__(self, likelihoods: Sequence[Likelihood], columns: Sequence[Sequence[int]] | None = None):
        self.likelihoods = tuple(likelihoods)
        n_columns = sum(group.n_columns for group in self.likelihoods)
        super().__init__(
            n_columns,
            sum(group.n_outputs for group in self.likelihoods),
            sum(group.n_free for group in self.likelihoods),
        )
        self.has_scale = any(group.has_scale for group in self.likelihoods)
        ends = [0, *itertools.accumulate(group.n_columns for group in self.likelihoods)]
        successive = [tuple(range(*ends_of_group)) for ends_of_group in itertools.pairwise(ends)]
        self.columns = successive if columns is None else [tuple(map(int, numbers)) for numbers in columns]
        if [len(numbers) for numbers in self.columns] != [group.n_columns for group in self.likelihoods] or sorted(
            itertools.chain(*self.columns)
        ) != list(range(n_columns)):
            raise ValueError(
                f"columns must hold each of the {n_columns} columns once, as many for each group as it describes, but "
                f"{self.columns} came. Leave 'columns' out where the groups follow each other."
            )
        self._in_order = self.columns == successive
        self._indices: dict[torch.device, list[Tensor]] = {}
        self._orders: dict[tuple[bool, torch.device], Tensor] = {}
        widths = dict(zip(itertools.chain(*self.columns), (w for g in self.likelihoods for w in g.widths), strict=True))
        self._widths = tuple(widths[column] for column in range(n_columns))

    def config(self) -> dict[str, Any]:
        config = {"name": self.name, "likelihoods": [group.config() for group in self.likelihoods]}
        return config if self._in_order else config | {"columns": [list(numbers) for numbers in self.columns]}

    @property
    def widths(self) -> tuple[int, ...]:
        return self._widths

    @property
    def owners(self) -> tuple[int, ...]:
        groups = zip(self.likelihoods, self.columns, strict=True)
        return tuple(columns[owner] for group, columns in groups for owner in group.owners)

    @property
    def columns_hold(self) -> tuple[str, ...]:
        groups = zip(self.likelihoods, self.columns, strict=True)
        held = {
            column: kind for group, columns in groups for column, kind in zip(columns, group.columns_hold, strict=True)
        }
        return tuple(held[column] for column in range(self.n_columns))

    def initial_free(self) -> list[float]:
        return [value for group in self.likelihoods for value in group.initial_free()]

    def linear_free(self, noise_variance: Tensor) -> Tensor:
        parts = zip(self.likelihoods, self._expected_parts(noise_variance), strict=True)
        return torch.cat([group.linear_free(part) for group, part in parts])

    def with_noise(self, free: Tensor, log_factor: Tensor) -> Tensor:
        parts = zip(self.likelihoods, self._free_parts(free), self._columns(log_factor), strict=True)
        return torch.cat([group.with_noise(*part) for group, *part in parts])

    def linear_outputs(self, mean: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        columns = zip(self.likelihoods, self._expected_parts(mean), self._expected_parts(loadings), strict=True)
        bias, weight = zip(*(group.linear_outputs(*part) for group, *part in columns), strict=True)
        return torch.cat(bias), torch.cat(weight, -1)

    def _parts(self, outputs: Tensor, free: Tensor) -> Iterator[tuple[Likelihood, Tensor, Tensor]]:
        output_parts = outputs.split([group.n_outputs for group in self.likelihoods], -1)
        return zip(self.likelihoods, output_parts, self._free_parts(free), strict=True)

    def _free_parts(self, free: Tensor) -> Sequence[Tensor]:
        return free.split([group.n_free for group in self.likelihoods], -1)

    def _positions(self) -> list[list[int]]:
        """Where each group's numbers lie in a row of expectations."""
        ends = [0, *itertools.accumulate(self._widths)]
        spans = [range(first, last) for first, last in itertools.pairwise(ends)]
        return [[place for column in numbers for place in spans[column]] for numbers in self.columns]

    def _expected_parts(self, values: Tensor) -> list[Tensor]:
        return [values[..., places] for places in self._positions()]

    def _columns(self, cells: Tensor) -> Sequence[Tensor]:
        if self._in_order:
            return cells.split([group.n_columns for group in self.likelihoods], -1)
        if cells.device not in self._indices:  # made once: a step of the training spends more on lists than on cells
            with torch.inference_mode(mode=False):
                self._indices[cells.device] = [torch.tensor(numbers, device=cells.device) for numbers in self.columns]
        return [cells.index_select(-1, numbers) for numbers in self._indices[cells.device]]

    def _join(self, compute: Callable[[Likelihood, Tensor, Tensor], Tensor], outputs: Tensor, free: Tensor) -> Tensor:
        return self._merge([compute(*part) for part in self._parts(outputs, free)])

    def _merge(self, parts: Sequence[Tensor], *, expected: bool = False) -> Tensor:
        """Put what the groups gave, numbers of columns or of expectations, in the order of the columns."""
        joined = torch.cat(list(parts), -1)
        if self._in_order:
            return joined
        if (order := self._orders.get((expected, joined.device))) is None:
            places = itertools.chain(*(self._positions() if expected else self.columns))
            with torch.inference_mode(mode=False):
                order = torch.tensor(list(places)).argsort().to(joined.device)
            self._orders[expected, joined.device] = order
        return joined.index_select(-1, order)

    def expected(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self._merge([group.expected(*part) for group, *part in self._parts(outputs, free)], expected=True)

    def expected_beside(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        parts = zip(self._columns(x), self._parts(outputs, free), strict=True)
        return self._merge([group.expected_beside(known, *part) for known, (group, *part) in parts], expected=True)

    def cells(self, expected: Tensor) -> Tensor:
        parts = zip(self.likelihoods, self._expected_parts(expected), strict=True)
        return self._merge([group.cells(part) for group, part in parts])

    def _with_row_terms(self, x: Tensor, free: Tensor, mask: Tensor | None) -> "ColumnGroups":
        twin, masks = copy.copy(self), [None] * len(self.likelihoods) if mask is None else self._columns(mask)
        parts = zip(self.likelihoods, self._columns(x), self._free_parts(free), masks, strict=True)
        twin.likelihoods = tuple(with_row_terms(*part) for part in parts)
        return twin

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        if len(self.likelihoods) == 1:
            return self.likelihoods[0].log_prob(x, outputs, free)
        columns = iter(self._columns(x))
        return self._join(lambda group, *parameters: group.log_prob(next(columns), *parameters), outputs, free)

    def log_mass(self, low: Tensor, high: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        ends = zip(self._columns(low), self._columns(high), strict=True)

        def of_group(group: Likelihood, outputs: Tensor, free: Tensor) -> Tensor:
            lowest, highest = next(ends)
            if group.values != "real":  # none of its cells stands for an interval
                return outputs.new_full((*outputs.shape[:-1], group.n_columns), math.nan)
            return group.log_mass(lowest, highest, outputs, free)

        return self._join(of_group, outputs, free)

    def row_log_prob(self, x: Tensor, outputs: Tensor, free: Tensor, mask: Tensor | None = None) -> Tensor:
        if len(self.likelihoods) == 1:
            return self.likelihoods[0].row_log_prob(x, outputs, free, mask)
        return super().row_log_prob(x, outputs, free, mask)

    def loss_gradient(
        self,
        x: Tensor,
        outputs: Tensor,
        free: Tensor,
        row_weight: Tensor | None = None,
        mask: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if len(self.likelihoods) == 1:
            return self.likelihoods[0].loss_gradient(x, outputs, free, row_weight, mask, out)
        d_outputs = torch.empty_like(outputs) if out is None else out
        masks = [None] * len(self.likelihoods) if mask is None else self._columns(mask)
        losses, d_free = [], []
        parts = zip(self._columns(x), self._parts(outputs, free), self._parts(d_outputs, free), masks, strict=True)
        for x_part, (group, output_part, free_part), (_, d_output_part, _), mask_part in parts:
            loss, _, d_free_part = group.loss_gradient(
                x_part, output_part, free_part, row_weight, mask_part, d_output_part
            )
            losses.append(loss)
            d_free.append(d_free_part)
        return torch.stack(losses).sum(0), d_outputs, torch.cat(d_free, -1)

    def gradient_in(self, buffers: Buffers) -> Callable[[Tensor], object] | None:
        return self.likelihoods[0].gradient_in(buffers) if len(self.likelihoods) == 1 else None

    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self._join(lambda group, *parameters: group.mean(*parameters), outputs, free)

    def graph_mean(self, graph: Graph, outputs: str) -> str:
        parts = zip(self.likelihoods, self._graph_outputs(graph, outputs), strict=True)
        return self._graph_merge(graph, [group.graph_mean(graph, part) for group, part in parts])

    def graph_log_prob(self, graph: Graph, x: str, outputs: str, free: Tensor) -> str:
        columns = [graph.node("Gather", x, graph.integers(*numbers), axis=-1) for numbers in self.columns]
        parts = zip(self.likelihoods, columns, self._graph_outputs(graph, outputs), self._free_parts(free), strict=True)
        return self._graph_merge(graph, [group.graph_log_prob(graph, cell, out, f) for group, cell, out, f in parts])

    def graph_expected_log_prob(self, graph: Graph, outputs: str, free: Tensor) -> str:
        parts = zip(self.likelihoods, self._graph_outputs(graph, outputs), self._free_parts(free), strict=True)
        return self._graph_merge(graph, [group.graph_expected_log_prob(graph, out, f) for group, out, f in parts])

    def _graph_outputs(self, graph: Graph, outputs: str) -> list[str]:
        ends = [0, *itertools.accumulate(group.n_outputs for group in self.likelihoods)]
        return [graph.columns(outputs, *bounds) for bounds in itertools.pairwise(ends)]

    def _graph_merge(self, graph: Graph, parts: Sequence[str]) -> str:
        """Put what the groups gave in the order of the columns."""
        order = np.argsort(list(itertools.chain(*self.columns)))
        return graph.node("Gather", graph.node("Concat", *parts, axis=-1), graph.integers(*order), axis=-1)

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        return self._join(lambda group, *parameters: group.sample(*parameters, generator), outputs, free)

    def expected_log_prob(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self._join(lambda group, *parameters: group.expected_log_prob(*parameters), outputs, free)

    def scale(self, outputs: Tensor, free: Tensor) -> Tensor:
        if not self.has_scale:
            return super().scale(outputs, free)

        def scale_or_nan(group: Likelihood, outputs: Tensor, free: Tensor) -> Tensor:
            if group.has_scale:
                return group.scale(outputs, free)
            return outputs.new_full((*outputs.shape[:-1], group.n_columns), math.nan)

        return self._join(scale_or_nan, outputs, free)

    def check(self, column: Any, name: str, *, index: int = 0) -> None:
        for group, numbers in zip(self.likelihoods, self.columns, strict=True):
            if index in numbers:
                group.check(column, name, index=numbers.index(index))
                return
        raise ValueError(
            f"index must be below n_columns={self.n_columns}, but {index} came. Count the columns of all groups from 0."
        )

    def _in_domain(self, column: Tensor, index: int) -> Tensor:
        raise NotImplementedError("check asks the column's own group.")
