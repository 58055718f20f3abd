"""Known values of rows to be drawn, and the drawn rows as the user's table."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from .._data.arrays import to_tensor
from .._data.checks import check_is_table
from .._support.warnings import warn
from .._tables.form import is_frame, is_pandas, unmasked
from .._tables.known import as_table, check_levels, completed, decoded
from .._tables.table import Table
from .checks import check_names, check_rows

__all__ = ["Conditions", "read_conditions", "warn_of_few_codes"]

# Effective codes below which the draws of a given row hardly differ in what the columns have in common.
_MIN_CODES = 5.0


class Conditions(NamedTuple):
    """Rows of which some values are known."""

    X: Any  # the user's table, with all columns of the fit
    values: Tensor  # (n_given, n_expanded), raw and in float64; NaN where unknown
    own: np.ndarray  # (n_given, n_features), the same before dates were written in parts
    index: Any  # labels of the rows, of a table of pandas

    def in_form(self, table: Table | None, rows: Tensor) -> Any:
        """Drawn rows (n_given, n_draws, n_features) below each other, as the fit's table."""
        if table is None:
            return rows.flatten(0, 1).numpy()
        index = None if self.index is None else self.index.repeat(rows.shape[1])
        return decoded(table, rows.numpy(), self.X, self.own, index)


def read_conditions(estimator: Any, given: Any) -> Conditions:
    """Validate the values that rows shall agree with.

    Parameters
    ----------
    estimator : estimator
        A fitted one.
    given : array-like of shape (n_given, n_features), DataFrame of some columns, or mapping of them

    Returns
    -------
    conditions : Conditions

    Raises
    ------
    ValueError
        If there is no column, or another one than those of the fit, a new level, or a value that the model cannot
        hold.
    """
    fitted = estimator._fitted
    table = fitted.table
    library = "numpy" if table is None else table.form.library
    labels = fitted.columns.names if table is None else table.form.labels
    if isinstance(given, Mapping):
        if not given:
            raise ValueError(
                "'given' must name a column, but it is empty. Leave it out to draw rows of which nothing is known."
            )
        given = as_table({label: _as_list(values) for label, values in given.items()}, labels, library)
    check_is_table(given)
    X = completed(unmasked(given), labels, named=library != "numpy")
    if table is not None or is_frame(X):
        check_names(estimator, X)
    encoded = (table or Table.of_numbers(X)).encode(X, quiet=True, scored=True) if table or is_frame(X) else X
    values = to_tensor(estimator._checked_numbers(encoded, "sample")).double().cpu()
    own = values.numpy()
    if table is not None and table.expansion.cycles:
        own = check_rows(estimator, encoded).astype(np.float64)
    if table is not None:
        check_levels(table, X, own)
    return Conditions(X, values, own, X.index if is_pandas(X) else None)


def _as_list(values: Any) -> Any:
    """A column of any library as a list; a value for all rows as it is."""
    if isinstance(values, np.ndarray) and not values.ndim:
        return values[()]
    if hasattr(values, "to_pylist"):  # Arrow's own values are no plain ones
        return values.to_pylist()
    return list(values) if isinstance(values, Iterable) and not isinstance(values, (str, bytes)) else values


def warn_of_few_codes(size: Tensor) -> None:
    """Say of which given rows the draws rest on few codes.

    Parameters
    ----------
    size : Tensor of shape (n_given,)
        Effective number of codes behind the draws of each row.

    Warns
    -----
    UserWarning
    """
    few = (size < _MIN_CODES).nonzero().squeeze(1)
    if len(few):
        worst = int(size.argmin())
        warn(
            f"Fewer than {_MIN_CODES:g} codes carry the draws of {len(few)} of the {len(size)} given rows, least of "
            f"row {worst} (effective sample size {float(size[worst]):.1f}): they differ too little from each other. "
            "The model finds the given values hard to agree with; log_likelihood says how unlikely they are.",
            UserWarning,
        )
