"""From what a user hands over to validated rows: checked here, then put together where several processes fit."""

from typing import Any, NamedTuple

import numpy as np

from .._data.checks import check_real, check_weights
from .._data.shards import gather_table
from .._model.fitted import Fitted
from .._support.compat import num_samples
from .._support.team import Team
from .._tables.finding import find_table, with_cycles
from .._tables.form import as_source
from .._tables.table import Table
from .checks import check_names, check_rows

__all__ = ["Given", "read_table"]


class Given(NamedTuple):
    """A validated table of all processes."""

    X: Any  # (n_samples, n_expanded), numbers, codes of categories, and parts of dates
    weight: np.ndarray | None  # (n_samples,)
    table: Table | None  # what the codes stand for
    sampled: bool = False  # whether it is a sample of the rows, since those of all processes would be too many


def read_table(estimator: Any, X: Any, sample_weight: Any, earlier: Fitted | None, team: Team, *, reset: bool) -> Given:
    """Validate a table and its weights before anything else sees them, and gather those of all processes.

    Parameters
    ----------
    estimator : estimator
        Gets ``n_features_in_`` and ``feature_names_in_``.
    X : array-like of shape (n_samples, n_features)
    sample_weight : array-like of shape (n_samples,), or None
    earlier : Fitted, or None
        Whose categories count.
    team : Team
    reset : bool
        Whether the table defines width and names.

    Returns
    -------
    given : Given
    """
    weight = None if sample_weight is None else check_weights(sample_weight, num_samples(X))
    given = _encoded(estimator, X, weight, earlier, reset=reset)
    if team.size == 1:
        return given
    with_levels = any(team.gather(given.table is not None))
    shared = gather_table(team, as_source(X) if with_levels else given.X, weight)
    if with_levels:  # levels of all processes
        given = _encoded(estimator, shared.X, shared.weight, earlier, reset=reset)
    return Given(shared.X if not with_levels else given.X, shared.weight, given.table, shared.sampled)


def _encoded(estimator: Any, X: Any, weight: np.ndarray | None, earlier: Fitted | None, *, reset: bool) -> Given:
    """Numbers, and codes for categories: with the levels of an earlier fit, or of the rows that have some weight."""
    check_real(X)
    if earlier is None:
        table = find_table(
            X,
            categorical_features=estimator.categorical_features,
            likelihood=estimator.likelihood,
            weight=weight,
        )
    else:
        table = earlier.table
    if table is not None:
        if not reset:
            check_names(estimator, X)
        X = table.encode(X, quiet=earlier is None)
    X = check_rows(estimator, X, reset=reset)
    if table is not None:
        table = with_cycles(table, X, estimator.likelihood, weight) if earlier is None else table
        X = table.expansion.expanded(X)
    return Given(X, weight, table)
