"""The tables of several processes as one table, of bounded size, in every process."""

import sys
from typing import Any, NamedTuple

import numpy as np
import torch

from .._support.team import Team
from .._tables.form import (
    as_source,
    column_of,
    dtypes_of,
    is_arrow,
    is_frame,
    is_pandas,
    is_polars,
    labels_of,
    with_columns,
)
from . import large

__all__ = ["Shared", "check_budget", "described_table", "gather_table"]


class Shared(NamedTuple):
    """A table that every process has."""

    X: Any
    weight: np.ndarray | None
    sampled: bool  # whether it is a sample of the rows, since all of them would be too many


def described_table(X: Any) -> dict[str, str | None]:
    """What must agree between the tables of all processes, by subject; None where it may be anything.

    A column of numbers may be of integers in one process and, because of a gap, of floats in another one.
    """
    if not is_frame(X):
        source = as_source(X)
        if source is None:
            return {"X": f"a {type(X).__name__}"}
        return {"X": "an array", "the kind of X": _KINDS.get(source.dtype.kind, source.dtype.name)}
    labels = labels_of(X)
    described: dict[str, str | None] = {
        "X": "a pandas DataFrame" if is_pandas(X) else "a polars DataFrame" if is_polars(X) else "a pyarrow table",
        "the number of columns": str(len(labels)),
    }
    described |= {f"the name of column {place}": repr(label) for place, label in enumerate(labels)}
    return described | {
        f"the kind of column {label!r}": _kind(column_of(X, place)) for place, label in enumerate(labels)
    }


_KINDS = {"b": "booleans", "O": "objects", "U": "objects", "S": "objects"} | dict.fromkeys("iuf", "numbers")
# First letters of the names of dtypes of pandas, polars and Arrow.
_NAMES = {
    ("int", "uint", "float", "double", "halffloat", "decimal"): "numbers",
    ("bool",): "booleans",
    ("object", "str", "utf8", "text", "large_string"): "text",
    ("cat", "enum", "dictionary"): "categories",
}


def _kind(column: Any) -> str | None:
    """What a column holds; None if it holds nothing."""
    if hasattr(column, "iloc"):
        empty = bool(column.isna().all())
    elif hasattr(column, "to_pylist"):
        empty = bool(np.all(column.is_null(nan_is_null=True)))
    else:
        cells = column.drop_nulls()
        empty = len(cells.drop_nans() if column.dtype.is_float() else cells) == 0
    if empty:
        return None
    name = str(column.type if hasattr(column, "to_pylist") else column.dtype).lower()
    return next((kind for starts, kind in _NAMES.items() if name.startswith(starts)), name)


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
    X : array, DataFrame or Table of shape (n_samples, n_features)
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
    team.agree({"the precision of X": str(X.dtype)} if hasattr(X, "dtype") else {})
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
    if is_arrow(X):
        return X.take(rows)
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def _joined(tables: list[Any]) -> Any:
    if isinstance(tables[0], torch.Tensor):
        return torch.cat(tables)
    if not is_frame(tables[0]):
        return np.concatenate(tables)
    # Its library is loaded already.
    if is_pandas(tables[0]):
        return sys.modules["pandas"].concat(tables)
    if any(dtypes_of(X) != dtypes_of(tables[0]) for X in tables):
        tables = [_without_dtypes_of_nothing(X) for X in tables]
    if is_polars(tables[0]):
        return sys.modules["polars"].concat(tables, how="vertical_relaxed")
    arrow = sys.modules["pyarrow"]
    whole = [arrow.Table.from_batches([X]) if isinstance(X, arrow.RecordBatch) else X for X in tables]
    return arrow.concat_tables(whole, promote_options="permissive")


def _without_dtypes_of_nothing(X: Any) -> Any:
    """A table of polars or Arrow in which columns without a value are of the dtype that joins any other."""
    columns = ((place, column_of(X, place)) for place in range(X.shape[1]))
    return with_columns(X, {place: [None] * len(X) for place, column in columns if _kind(column) is None})
