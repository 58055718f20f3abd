"""The tables of several processes as one table, of bounded size, in every process."""

import sys
from typing import Any, NamedTuple

import numpy as np
import torch

from .._support.team import Team
from . import large

__all__ = ["Shared", "check_budget", "gather_table"]


class Shared(NamedTuple):
    """A table that every process has."""

    X: Any
    weight: np.ndarray | None
    sampled: bool  # whether it is a sample of the rows, since all of them would be too many


def check_budget(*, spent: bool) -> None:
    """Refuse a sample of the rows of all processes where it is not enough.

    Raises
    ------
    ValueError
        If the sample does not take all steps that are due.
    """
    if not spent:
        raise ValueError(
            f"Beyond {large.MAX_CELLS:,} cells in all processes, a sample of the rows must take all the steps that "
            "are due, but passes over all rows are asked for, or more steps than three passes over the sample. "
            "Leave 'max_iter' at 'auto', call fit in one process, or pass smaller chunks to partial_fit."
        )


def gather_table(team: Team, X: Any, weight: np.ndarray | None) -> Shared:
    """Put the rows of all processes together, by rank; beyond ``MAX_CELLS`` the same fraction of each process's.

    Parameters
    ----------
    team : Team
    X : array or DataFrame of shape (n_samples, n_features)
        This process's rows.
    weight : ndarray of shape (n_samples,), or None

    Returns
    -------
    shared : Shared

    Raises
    ------
    ValueError
        If the tables do not fit together.
    """
    shapes = team.gather(tuple(X.shape))
    if len({shape[1:] for shape in shapes}) > 1:
        told = ", ".join(f"that of process {rank} has shape {shape}" for rank, shape in enumerate(shapes))
        raise ValueError(f"The tables of all processes must have the same columns, but {told}. Pass rows of one table.")
    n_rows, n_kept = sum(shape[0] for shape in shapes), large.MAX_CELLS // max(1, X.shape[1])
    sampled = n_rows > n_kept
    if sampled:
        rows = large.spread_rows(len(X), n_kept * len(X) // n_rows, team.rank)
        X, weight = _chosen(X, rows), None if weight is None else weight[rows]
    weights, tables = team.gather(weight), team.gather(X)
    if any(part is not None for part in weights):
        pairs = zip(weights, tables, strict=True)
        weight = np.concatenate([np.ones(len(table)) if part is None else part for part, table in pairs])
    return Shared(_joined(tables), weight, sampled)


def _chosen(X: Any, rows: np.ndarray) -> Any:
    if isinstance(X, np.ndarray):
        return large.read_rows(large.as_tensor(X), rows).numpy()
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def _joined(tables: list[Any]) -> Any:
    if isinstance(tables[0], torch.Tensor):
        return torch.cat(tables)
    if hasattr(tables[0], "columns"):  # a table of pandas or polars, whose library is loaded already
        return sys.modules[type(tables[0]).__module__.partition(".")[0]].concat(tables)
    return np.concatenate(tables)
