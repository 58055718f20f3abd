"""The likelihood family of each column, and how the encoder sees it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._support.numerics import observed
from .._tables.cells import raise_all
from .._tables.table import column_numbers
from ..likelihoods import LIKELIHOODS, Categorical, ColumnGroups, Likelihood, make_likelihood
from .columns import Columns, Schema, values_of
from .inputs import InputLayer

__all__ = [
    "check_domain",
    "column_families",
    "comparable_rows",
    "group_likelihoods",
    "input_layer",
    "least_spread",
    "make_schema",
]


def make_schema(
    likelihood: Any,
    names: tuple[str, ...],
    n_levels: tuple[int, ...] | None,
    *,
    standardize: bool,
    marginals: bool = False,
) -> Schema:
    """What is known of the columns before their values are looked at: only columns of real numbers are scaled.

    Parameters
    ----------
    likelihood : str or mapping of column to str
        As in the estimators.
    names : tuple of str
        What the columns are called.
    n_levels : tuple of int, or None
        Levels of each categorical column, 0 for others; None where no column is categorical.
    standardize : bool
        Whether columns are scaled at all.
    marginals : bool, default=False
        Whether they are mapped to normal scores instead.

    Returns
    -------
    schema : Schema
    """
    families = column_families(likelihood, names, n_levels, ("auto", *LIKELIHOODS))
    some_real = families is not None or values_of(likelihood) == "real"
    return Schema(names, standardize and some_real, families, n_levels, marginals and some_real)


def check_domain(likelihood: Any, values: Tensor, columns: Columns) -> None:
    """Refuse rows outside the domain of a column's family.

    Parameters
    ----------
    likelihood : str
        Family of all columns, read where none has its own.
    values : Tensor of shape (n_samples, n_features)
        Raw rows of finite numbers, NaN where missing. Levels are codes, which the table has checked.
    columns : Columns

    Raises
    ------
    ValueError
        If a value lies outside; the message names each such column and its first such row.
    """
    if columns.families is None and values_of(likelihood) in ("real", "level"):
        return
    problems = []
    for index, family in enumerate(columns.families or (likelihood,) * columns.n_features):
        if values_of(family) not in ("real", "level"):
            one = make_likelihood({"name": family, "n_columns": 1})
            try:
                one.check(values[:, index].cpu().numpy(), columns.names[index])
            except ValueError as error:
                problems.append(str(error))
    raise_all(problems)


def column_families(
    likelihood: Any, names: Sequence[str], n_levels: tuple[int, ...] | None, known: Sequence[str]
) -> tuple[str, ...] | None:
    """Name the family of each column.

    Parameters
    ----------
    likelihood : str or mapping of column to str
        As in the estimators.
    names : sequence of str
        What the columns are called.
    n_levels : tuple of int, or None
        Levels of each categorical column, 0 for others; None where no column is categorical.
    known : sequence of str
        Families that may be named.

    Returns
    -------
    families : tuple of str, or None
        "auto" where the estimator chooses; None where one name speaks for all columns.

    Raises
    ------
    ValueError
        If the mapping names no column, or no family.
    """
    if n_levels is None and not isinstance(likelihood, Mapping):
        return None
    named = likelihood if isinstance(likelihood, Mapping) else {}
    families = ["auto" if isinstance(likelihood, Mapping) else likelihood] * len(names)
    for column, family in zip(column_numbers(list(named), list(names), "likelihood"), named.values(), strict=True):
        if family not in known:
            raise ValueError(
                f"The 'likelihood' parameter must name one of {', '.join(map(repr, known))} for each column, but "
                f"{family!r} came for column {names[column]!r}."
            )
        families[column] = family
    for column, count in enumerate(n_levels or ()):
        if count:
            families[column] = Categorical.name
        elif families[column] == Categorical.name:  # a column without any value
            families[column] = "auto"
    return tuple(families)


def group_likelihoods(columns: Columns, build: Callable[[str, int], Likelihood], name: str) -> Likelihood:
    """Put one likelihood for each family together.

    Parameters
    ----------
    columns : Columns
    build : callable
        Makes the likelihood of a family for a number of columns.
    name : str
        The family where one speaks for all columns.

    Returns
    -------
    likelihood : Likelihood
        A single family, or `ColumnGroups`.
    """
    if columns.families is None:
        return build(name, columns.n_features)
    members: dict[Likelihood, list[int]] = {}
    for column, family in enumerate(columns.families):
        if family != Categorical.name:
            members.setdefault(build(family, 1), []).append(column)
    names = {one: columns.families[numbers[0]] for one, numbers in members.items()}
    groups = [(build(names[one], len(numbers)), numbers) for one, numbers in members.items()]
    levels = [(column, count) for column, count in enumerate(columns.n_levels or ()) if count]
    if levels:
        groups.append((Categorical([count for _, count in levels]), [column for column, _ in levels]))
    if len(groups) == 1:
        return groups[0][0]
    return ColumnGroups([group for group, _ in groups], [numbers for _, numbers in groups])


def input_layer(columns: Columns, x: Tensor, weight: Tensor | None) -> InputLayer:
    """What the encoder sees of scaled rows.

    Parameters
    ----------
    columns : Columns
    x : Tensor of shape (n_samples, n_features)
        Scaled training rows.
    weight : Tensor of shape (n_samples,), or None

    Returns
    -------
    layer : InputLayer
    """
    fill = () if columns.centre is None else tuple(float(value) for value in columns.centre)
    families = columns.families or ()
    probabilities = tuple(
        (column, _frequencies(x[:, column], count, weight))
        for column, count in enumerate(columns.n_levels or ())
        if count
    )
    counts = tuple(
        (column, *_log_moments(x[:, column], weight))
        for column, family in enumerate(families)
        if values_of(family) == "count" and not columns.constant[column]
    )
    return InputLayer(columns.n_features, columns.masked, fill, probabilities, counts)


def least_spread(columns: Columns) -> float | Tensor:
    """Least scale that columns are divided by where rows are compared; 1 for levels, which may be rare."""
    if columns.n_levels is None:
        return 1e-9
    return torch.where(torch.tensor(columns.n_levels) > 0, 1.0, 1e-9).double()


def comparable_rows(x: Tensor, columns: Columns, layer: InputLayer) -> Tensor:
    """Scaled rows in float64 with one number for each cell, and the column's mean in missing cells."""
    scalars, mask = layer.scalars(x), observed(x)
    if mask is not None:
        centre = torch.zeros(columns.n_features) if columns.centre is None else torch.from_numpy(columns.centre.copy())
        centre[list(layer.discrete)] = 0.0
        scalars = torch.where(mask, scalars, centre.to(x))
    return scalars.cpu().double()


def _observed(column: Tensor, weight: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    values = column.cpu().double().numpy()
    mass = np.ones(len(values)) if weight is None else weight.cpu().double().numpy()
    seen = ~np.isnan(values)
    return values[seen], mass[seen]


def _frequencies(codes: Tensor, n_levels: int, weight: Tensor | None) -> tuple[float, ...]:
    """Frequency of each level, half a row added to each: a level may be in none of the rows that train."""
    values, mass = _observed(codes, weight)
    counts = np.bincount(values.astype(int), mass, n_levels) + 0.5
    return tuple((counts / counts.sum()).tolist())


def _log_moments(counts: Tensor, weight: Tensor | None) -> tuple[float, float]:
    """Mean and scale of log(1 + count)."""
    values, mass = _observed(counts, weight)
    if not mass.sum():
        return 0.0, 1.0
    logs = np.log1p(np.minimum(values, np.finfo(np.float32).max))  # larger ones came as infinity
    mean = float(np.average(logs, weights=mass))
    scale = float(np.sqrt(np.average((logs - mean) ** 2, weights=mass)))
    return mean, scale if scale > 1e-6 else 1.0
