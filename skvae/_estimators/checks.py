"""Checks that need to know the estimator: the width and the names of its fit."""

from typing import Any

import numpy as np
import torch
from sklearn import get_config
from sklearn.utils import check_array
from torch import Tensor

from .._data.checks import check_is_table, plainer
from .._data.large import check_mapped
from .._support.compat import check_n_features, get_namespace_and_device, validate_data
from .._tables.form import is_frame, is_polars, missing_as_nan, unmasked

__all__ = ["check_names", "check_rows", "is_empty"]

_PRECISIONS = (np.dtype(np.float64), np.dtype(np.float32))  # of this machine's byte order


def check_rows(estimator: Any, X: Any, *, reset: bool = False, name: str = "X") -> Any:
    """Validate the shape and the type of a table; values are looked at by `check_finite`.

    Parameters
    ----------
    estimator : estimator or None
        Whose width and column names apply; None for an array that is not in the input space.
    X : array-like of shape (n_samples, n_features)
    reset : bool
        Whether the table defines width and names.
    name : str
        What messages call the array.

    Returns
    -------
    X : array of shape (n_samples, n_features)
        In float64 or float32.
    """
    if not reset and _is_plain(estimator, X):
        return X
    X = missing_as_nan(unmasked(X))
    check_mapped(X)
    check_is_table(X)
    dispatch = get_config()["array_api_dispatch"]
    if isinstance(X, Tensor) and not dispatch:
        X = _cpu_tensor(X)
    xp = get_namespace_and_device(X)[0] if dispatch else np
    precisions = [xp.float64, xp.float32]
    if is_polars(X) and {str(dtype) for dtype in X.dtypes} == {"Float32"}:  # scikit-learn does not look at its dtypes
        precisions.reverse()
    options = {"dtype": precisions, "ensure_all_finite": False}
    try:
        if estimator is None:
            return check_array(X, input_name=name, **options)
        return validate_data(estimator, X, reset=reset, **options)
    except (TypeError, ValueError) as error:
        message = plainer(str(error), X, getattr(estimator, "feature_names_in_", None))
        if message is None:
            raise
        raise ValueError(message) from None


def _is_plain(estimator: Any, X: Any) -> bool:
    """Whether scikit-learn's checks, which take longer than the score of a row, would let an array pass as it is."""
    return (
        type(X) is np.ndarray
        and X.dtype in _PRECISIONS
        and X.ndim == 2
        and len(X) > 0
        and X.shape[1] == getattr(estimator, "n_features_in_", 0) > 0
        and not hasattr(estimator, "feature_names_in_")
        and not get_config()["array_api_dispatch"]
    )


def check_names(estimator: Any, X: Any) -> None:
    """Refuse a table whose columns are not those of the fit, before anything reads its cells."""
    check_is_table(X)
    if not is_frame(X):
        return
    try:
        if hasattr(estimator, "feature_names_in_"):
            validate_data(estimator, X, reset=False, skip_check_array=True)
        else:  # `check_rows` warns that these have names
            check_n_features(estimator, X, reset=False)
    except ValueError as error:
        message = plainer(str(error), X, getattr(estimator, "feature_names_in_", None))
        if message is None:
            raise
        raise ValueError(message) from None


def is_empty(estimator: Any, X: Any) -> bool:
    """Whether a table has no rows; one of other columns than those of the fit is refused all the same."""
    shape: tuple[int, ...] = getattr(X, "shape", (len(X),) if isinstance(X, (list, tuple)) else ())
    if not shape or shape[0]:
        return False
    if is_frame(X):
        check_names(estimator, X)
    elif len(shape) > 1:
        validate_data(estimator, X, reset=False, skip_check_array=True)
    return True


def _cpu_tensor(X: Tensor) -> Any:
    if X.device.type != "cpu":
        raise ValueError(
            f"X is a tensor on {X.device}. Call sklearn.set_config(array_api_dispatch=True) to compute there, or pass "
            "X.cpu()."
        )
    X = X.detach()
    return (X.float() if X.dtype in (torch.bfloat16, torch.float16) else X).numpy()
