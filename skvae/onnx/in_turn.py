"""Columns that see those before them: the masked network of an autoregressive decoder in a graph."""

from itertools import chain
from typing import Any

import numpy as np
import torch

from .._support.graph import Graph
from ..likelihoods import Autoregressive, Likelihood, Mixture
from ..likelihoods.autoregressive import FARTHEST, columns_of, masked_network

__all__ = ["ColumnsInTurn"]


class ColumnsInTurn:
    """The network of one likelihood, with the numbers of one of the networks side by side.

    Parameters
    ----------
    graph : Graph
    likelihood : Autoregressive
    free : Tensor of shape (likelihood.n_free,)
        Free parameters, in float64.
    """

    def __init__(self, graph: Graph, likelihood: Autoregressive, free: torch.Tensor) -> None:
        cells, network = likelihood.likelihood, masked_network(likelihood, free)
        self._graph, self._free, self._kinds = graph, free[: cells.n_free].numpy(), cells.columns_hold
        self._columns, self._n_outputs = columns_of(cells), cells.n_outputs
        sizes = [*(mask.numel() for mask in network.masks), *likelihood.hidden]
        parts = free[cells.n_free :].split(sizes)
        self._weights = [(part.view_as(mask) * mask).numpy() for part, mask in zip(parts, network.masks, strict=False)]
        self._biases = [part.numpy() for part in parts[len(self._weights) :]]
        self._owners, self._known = network.columns, [list(network.columns), *network.known]
        self._levels: list[list[int]] = [[] for _ in self._columns]
        for column, level in zip(network.columns, network.levels, strict=True):
            self._levels[column].append(level)
        self._places: list[list[int]] = [[] for _ in self._columns]
        for place, column in enumerate(cells.owners):
            self._places[column].append(place)

    def expected(self, outputs: str) -> tuple[str, str]:
        """Expected cells of the decoder's outputs, each given what those before it are expected to be.

        Beside them, the outputs of all columns that say so.
        """
        values: list[list[str]] = [[] for _ in self._known]  # the inputs first
        means, given = [], []
        for column, (family, _, _, of_free) in enumerate(self._columns):
            given.append(self._outputs_of(column, values, outputs))
            means.append(self._mean_of(family, given[-1], self._free[of_free]))
            values[0].append(self._inputs_of(column, means[-1]))
        g, order = self._graph, np.argsort(list(chain(*self._places)))
        joined = g.node("Gather", g.node("Concat", *given, axis=-1), g.integers(*order), axis=-1)
        return g.node("Concat", *means, axis=-1), joined

    def mean_given(self, given: str) -> str:
        """Expected cells, from the outputs that `given` makes."""
        g, parts = self._graph, []
        for (family, _, _, of_free), places in zip(self._columns, self._places, strict=True):
            outputs = g.node("Gather", given, g.integers(*places), axis=-1)
            parts.append(self._mean_of(family, outputs, self._free[of_free]))
        return g.node("Concat", *parts, axis=-1)

    def _outputs_of(self, column: int, values: list[list[str]], outputs: str) -> str:
        """Outputs of one column; adds the hidden units that know the column before and none after."""
        g, places = self._graph, self._places[column]
        given = g.node("Gather", outputs, g.integers(*places), axis=-1)
        if column == 0:
            return given
        known = g.node("Concat", *values[0], axis=-1)
        n_known = sum(owner < column for owner in self._owners)
        given = g.node("Add", given, g.node("MatMul", known, self._weights[0][:n_known, places]))
        for layer, bias in enumerate(self._biases):
            units = [unit for unit, last in enumerate(self._known[layer + 1]) if last == column - 1]
            if units:
                weight = self._weights[layer + 1][:n_known, units]
                values[layer + 1].append(self._hidden(known, weight, bias[units], outputs, layer, units))
            known = g.node("Concat", *values[layer + 1], axis=-1)
            n_known = sum(last < column for last in self._known[layer + 1])
        if self._biases:
            given = g.node("Add", given, g.node("MatMul", known, self._weights[-1][:n_known, places]))
        return given

    def _hidden(self, known: str, weight: Any, bias: Any, outputs: str, layer: int, units: list[int]) -> str:
        """Hidden units that follow each other; the decoder adds to those of the first layer."""
        g = self._graph
        sums = g.node("Add", g.node("MatMul", known, weight), bias)
        if layer == 0:
            first = self._n_outputs + units[0]
            sums = g.node("Add", sums, g.columns(outputs, first, first + len(units)))
        return g.activation("silu", sums)

    def _mean_of(self, family: Likelihood, outputs: str, free: Any) -> str:
        g = self._graph
        if not isinstance(family, Mixture):
            return family.graph_mean(g, outputs)
        n, n_outputs = family.n_members, family.n_outputs
        locations = g.node("Add", g.columns(outputs, 0, n), free[-n:])
        share = g.node("Softmax", g.columns(outputs, n_outputs - n, n_outputs), axis=-1)
        return g.node("ReduceSum", g.node("Mul", share, locations), g.integers(-1), keepdims=1)

    def _inputs_of(self, column: int, cells: str) -> str:
        """What the network sees of a column's cells of shape (n_samples, 1)."""
        g, kind = self._graph, self._kinds[column]
        if kind == "level":
            return g.cast(g.node("Equal", cells, g.constant(self._levels[column])), g.dtype)
        if kind == "count":
            return g.node("Log", g.node("Add", g.node("Max", cells, 0.0), 1.0))
        return g.clip(cells, -FARTHEST, FARTHEST)

    def given(self, x: str, missing: str | None, outputs: str) -> str:
        """Outputs of all columns of rows, given the cells that are there.

        Parameters
        ----------
        x : str
            Scaled rows, with any number in a cell that is missing.
        missing : str or None
            Which cells are missing; None where none can be.
        outputs : str
            Of the decoder.

        Returns
        -------
        given : str
            Outputs that parametrise the likelihood of the columns.
        """
        g, n_values = self._graph, len(self._owners)
        parts = [self._inputs_of(column, g.columns(x, column, column + 1)) for column in range(len(self._columns))]
        known, n_known = g.node("Concat", *parts, axis=-1), n_values
        if missing is not None:
            hidden = g.node("Gather", missing, g.integers(*self._owners), axis=-1)
            known = g.node("Where", hidden, 0.0, known)
            known, n_known = g.node("Concat", known, g.cast(missing, g.dtype), axis=-1), n_values + len(self._columns)
        given = g.node(
            "Add", g.columns(outputs, 0, self._n_outputs), g.node("MatMul", known, self._weights[0][:n_known])
        )
        for layer, bias in enumerate(self._biases):
            weight = self._weights[layer + 1][: n_known if layer == 0 else None]
            known = self._hidden(known, weight, bias, outputs, layer, list(range(len(bias))))
        return g.node("Add", given, g.node("MatMul", known, self._weights[-1])) if self._biases else given
