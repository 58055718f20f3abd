"""Rows on their way into a graph's networks: scaled, with blocks of indicators for levels, and one number a cell."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from .._data.columns import Columns
from .._data.departures import Prices, new_level_costs
from .._data.inputs import InputLayer
from .._support.graph import Graph

__all__ = ["Rows", "Encoding"]


class Rows(NamedTuple):
    """Names of scaled rows, with codes of levels, and of which cells are missing, if any may be."""

    x: str
    missing: str | None


class Encoding:
    """Nodes of what `Columns` and `InputLayer` do to rows."""

    def __init__(self, graph: Graph, columns: Columns, layer: InputLayer) -> None:
        self.graph, self.columns, self.layer = graph, columns, layer
        self.n_columns = columns.n_features
        self.is_level = np.isin(np.arange(self.n_columns), layer.categorical)
        self.is_count = np.isin(np.arange(self.n_columns), [column for column, *_ in layer.counts])

    def scaled(self, raw: str, dtype: Any, *, scored: bool) -> Rows:
        """Scale raw rows of numbers and codes, of their own precision.

        A code from the number of levels on is a new level: where rows are ``scored`` the rarest one stands in for it,
        elsewhere its cell counts as missing.
        """
        g, columns = self.graph, self.columns
        if self.is_level.any():
            stand_in = np.full(self.n_columns, np.nan)
            codes, _, rarest = columns.levels
            if scored and len(codes):
                stand_in[codes.numpy()] = rarest.numpy()
            is_new = g.node("GreaterOrEqual", raw, g.constant(self._limits(), dtype))
            raw = g.node("Where", is_new, g.constant(stand_in, dtype), raw)
        multiplier = np.where(columns.constant, 0.0, 1.0 / columns.scale)
        x = g.node("Sub", raw, g.constant(columns.mean, dtype))
        x = g.cast(g.node("Mul", x, g.constant(multiplier, dtype)), g.dtype)
        masked = bool(self.layer.masked)
        if columns.known and masked:
            x = g.node("Where", g.constant(np.isin(np.arange(self.n_columns), columns.known), bool), 0.0, x)
        return Rows(x, g.node("IsNaN", x) if masked else None)

    def unscaled(self, decoded: str, dtype: Any, name: str | None = None) -> str:
        """The inverse, of expected rows."""
        g, columns = self.graph, self.columns
        scale = g.constant(np.where(columns.constant, 0.0, columns.scale), dtype)
        return g.node("Add", g.node("Mul", g.cast(decoded, dtype), scale), g.constant(columns.mean, dtype), name=name)

    def new_levels(self, raw: str, dtype: Any, prices: Prices) -> str | None:
        """What new levels in raw rows take off a score, of shape (n_samples,) in float64; None where nothing can be."""
        g, columns = self.graph, self.columns
        codes, *_ = columns.levels
        if not len(codes):
            return None
        price = new_level_costs(columns, prices)
        is_new = g.node("GreaterOrEqual", raw, g.constant(self._limits(), dtype))
        return g.row_sum(g.node("Where", is_new, g.constant(price, np.float64), g.constant(0.0, np.float64)))

    def _limits(self) -> np.ndarray:
        """The first code that is none of a column's levels."""
        return np.where(self.is_level, np.array(self.columns.n_levels or (0,)), np.inf)

    def inputs(self, rows: Rows) -> str:
        """What the encoder sees."""
        g, masked = self.graph, list(self.layer.masked)
        numbers = self._logarithms(rows.x)
        if rows.missing is not None:
            fill = np.asarray(self.layer.fill) if self.layer.fill else np.zeros(self.n_columns)
            fill = np.where(self.is_count, 0.0, fill)
            numbers = g.node("Where", rows.missing, self._told(fill), numbers)
        values = self._joined(numbers, rows.x, self._blocks())
        if rows.missing is None:
            return values
        seen = g.node("Sub", 1.0, g.cast(rows.missing, g.dtype))
        return g.node("Concat", values, g.node("Gather", seen, g.integers(*masked), axis=1), axis=-1)

    def scalars(self, x: str) -> str:
        """One number for each cell: numbers as they enter, and how rare a level is."""
        return self._joined(self._logarithms(x), x, {column: table[1] for column, table in self._tables().items()})

    def with_levels(self, rows: Rows, decoded: str) -> Rows:
        """Rows whose missing categories are the levels that the model finds likeliest; missing numbers stay missing."""
        g = self.graph
        if rows.missing is None:
            return rows
        blank = g.node("And", rows.missing, g.constant(self.is_level, bool))
        missing = g.node("And", rows.missing, g.constant(~self.is_level, bool))
        return Rows(g.node("Where", blank, decoded, rows.x), missing)

    def _told(self, values: np.ndarray) -> np.ndarray:
        """Numbers of columns in which the encoder is told of missing cells, NaN in others."""
        return np.where(np.isin(np.arange(self.n_columns), self.layer.masked), values, np.nan)

    def _logarithms(self, x: str) -> str:
        if not self.is_count.any():
            return x
        g, mean, scale = self.graph, np.zeros(self.n_columns), np.ones(self.n_columns)
        for column, *moments in self.layer.counts:
            mean[column], scale[column] = moments
        logs = g.node("Div", g.node("Sub", g.node("Log", g.node("Add", x, 1.0)), mean), scale)
        return g.node("Where", g.constant(self.is_count, bool), logs, x)

    def _tables(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """What the layer makes of each level of each categorical column: its block of indicators, and its scalar."""
        tables, first = {}, 0
        for column, levels in self.layer.probabilities:
            every = torch.zeros(len(levels), self.n_columns, dtype=torch.float64)
            every[:, column] = torch.arange(len(levels))
            start = column + first
            block = self.layer.values(every, None)[:, start : start + len(levels)]
            tables[column] = block.numpy(), self.layer.scalars(every)[:, column : column + 1].numpy()
            first += len(levels) - 1
        return tables

    def _blocks(self) -> dict[int, np.ndarray]:
        return {column: block for column, (block, _) in self._tables().items()}

    def _joined(self, numbers: str, codes: str, tables: dict[int, np.ndarray]) -> str:
        """Numbers, and a row of its table for each code, in the order of the columns."""
        if not tables:
            return numbers
        g, parts = self.graph, []
        for first, last in self._runs():
            if not self.is_level[first]:
                parts.append(g.columns(numbers, first, last))
                continue
            table = tables[first]
            # What a missing cell is to an encoder that is told of it, and to one that is not.
            blank = 0.0 if first in self.layer.masked else np.nan
            padded = np.concatenate([table, np.full((1, table.shape[1]), blank)])
            parts.append(g.node("Gather", padded, self._places(codes, first, len(table)), axis=0))
        return g.node("Concat", *parts, axis=-1)

    def _places(self, codes: str, column: int, n_levels: int) -> str:
        """The codes of a column as integers of shape (n_samples,), that of a missing cell beyond all levels."""
        g = self.graph
        code = g.node("Gather", codes, g.constant(column, np.int64), axis=1)
        return g.cast(g.node("Where", g.node("IsNaN", code), float(n_levels), code), np.int64)

    def _runs(self) -> Iterator[tuple[int, int]]:
        """First and last column, exclusive, of each stretch of numbers and of each column of levels."""
        first = 0
        for column in range(1, self.n_columns + 1):
            if column == self.n_columns or self.is_level[column] or self.is_level[first]:
                yield first, column
                first = column
