"""The only file that touches scikit-learn's private or experimental names, with fallbacks for older versions."""

import inspect
from collections.abc import Sequence
from datetime import date, timedelta
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

import numpy as np
import torch
from sklearn import get_config
from sklearn.base import _fit_context
from sklearn.utils import check_array
from sklearn.utils._array_api import get_namespace_and_device
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from ._form import is_pandas, is_polars, labels_of
from ._large import as_tensor, check_mapped, release

try:  # scikit-learn >= 1.9
    from sklearn.callback import CallbackSupportMixin
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's callbacks before 1.9: no callback can be set, so none is called."""


try:
    from sklearn.utils._array_api import check_same_namespace
except ImportError:

    def check_same_namespace(X: Any, estimator: Any, *, attribute: str, method: str) -> None:
        """Refuse an array of another library than that of ``fit``; only array-API dispatch can bring one."""
        if not get_config()["array_api_dispatch"]:
            return
        if get_namespace_and_device(X)[0] != get_namespace_and_device(getattr(estimator, attribute))[0]:
            raise ValueError(
                f"Inputs passed to {type(estimator).__name__}.{method}() must use the same namespace and the same "
                "device as those passed to fit()."
            )


__all__ = [
    "CallbackSupportMixin",
    "DocumentationLinkMixin",
    "FitProgress",
    "Interval",
    "StrOptions",
    "check_finite",
    "check_is_fitted",
    "check_names",
    "check_rows",
    "check_same_namespace",
    "check_weights",
    "documentation_address",
    "filled_table",
    "fit_context",
    "like_input",
    "like_table",
    "to_tensor",
]

fit_context = _fit_context
_KNOWS_ZERO_WEIGHTS = "allow_all_zero_weights" in inspect.signature(_check_sample_weight).parameters  # from 1.9 on


class DocumentationLinkMixin:
    """The question mark in an estimator's HTML picture leads to its page on our site.

    The address is the project URL "Documentation" of the package's metadata, hence of ``pyproject.toml``. A package
    without one, or run from its source, has no link: one that leads nowhere would be worse.
    """

    _doc_link_module = "skvae"

    @property
    def _doc_link_template(self) -> str:
        address = documentation_address()
        return address and address.rstrip("/") + "/api/generated/skvae.{estimator_name}.html"


def documentation_address() -> str:
    """Address of the site, or "" where the package's metadata name none."""
    try:
        entries = metadata("skvae").get_all("Project-URL") or []
    except PackageNotFoundError:  # run from the source
        return ""
    addresses = dict(entry.split(", ", 1) for entry in entries)
    return addresses.get("Documentation", "")


def check_weights(sample_weight: Any, X: Any) -> np.ndarray | None:
    """Validate ``sample_weight`` against ``X``.

    Returns
    -------
    weight : ndarray of shape (n_samples,) in float64, or None if there is none or all are one

    Raises
    ------
    ValueError
        If a weight is negative, or all are zero.
    """
    if sample_weight is None:
        return None
    like = np.empty((X.shape[0], 1))
    if isinstance(sample_weight, torch.Tensor):
        sample_weight = sample_weight.detach().cpu().numpy()
    elif not isinstance(sample_weight, np.ndarray) and hasattr(sample_weight, "__array_namespace__"):
        sample_weight = np.from_dlpack(sample_weight)
    if isinstance(sample_weight, str):
        raise ValueError(
            f"'sample_weight' must hold one number for each row, but the text {sample_weight!r} came. Pass an array, "
            "or leave it out to count every row once."
        )
    options = {"allow_all_zero_weights": True} if _KNOWS_ZERO_WEIGHTS else {}
    weight = _check_sample_weight(sample_weight, like, dtype=np.float64, **options)
    if not weight.any():
        raise ValueError(
            "Sample weights must contain at least one non-zero number, but all are zero. Leave 'sample_weight' out to "
            "count every row once."
        )
    if (weight < 0).any():
        row = int(np.argmax(weight < 0))
        raise ValueError(
            f"Sample weights must not be negative, but row {row} has {weight[row]:g}. Use 0 to leave a row out."
        )
    return None if (weight == 1.0).all() else weight


def to_tensor(X: Any) -> Tensor:
    """View a validated array of any supported library as a tensor, without a copy where there can be one."""
    if isinstance(X, Tensor):
        return X.detach()
    return as_tensor(X if isinstance(X, np.ndarray) else np.from_dlpack(X))


def like_input(values: Tensor, X: Any, *, dtype: str | None = None) -> Any:
    """Give a tensor back as an array of the library, the device and (by default) the dtype of ``X``.

    Parameters
    ----------
    values : Tensor
    X : array
    dtype : {"float64", "int64"} or None
    """
    if isinstance(X, Tensor):
        return values.to(device=X.device, dtype=X.dtype if dtype is None else getattr(torch, dtype))
    array = values.cpu().numpy()
    if isinstance(X, np.ndarray):
        return array.astype(X.dtype if dtype is None else dtype, copy=False)
    xp, _, device = get_namespace_and_device(X)
    return xp.asarray(array, dtype=X.dtype if dtype is None else getattr(xp, dtype), device=device)


def like_table(values: Any, X: Any) -> Any:
    """Give an array the form of ``X``: a table of its kind and its labels if it is one."""
    columns = getattr(X, "columns", None)
    if columns is None:
        return values
    if hasattr(X, "iloc"):
        return type(X)(values, index=X.index, columns=columns)
    return type(X)({name: values[:, index] for index, name in enumerate(columns)})


def filled_table(X: Any, values: np.ndarray, missing: np.ndarray) -> Any:
    """Put numbers into the missing cells of a table and leave everything else as it is, dtypes included.

    Parameters
    ----------
    X : DataFrame
        Of pandas or polars.
    values : ndarray of shape (n_samples, n_features)
    missing : ndarray of bool of shape (n_samples, n_features)
        Cells to fill. A cell of an integer column gets the nearest integer; one for which there is no number stays
        missing.

    Returns
    -------
    table : DataFrame
    """
    filled = {}
    missing = missing & np.asarray(values == values, dtype=bool)
    for index in np.flatnonzero(missing.any(axis=0)):
        column = X.iloc[:, index] if hasattr(X, "iloc") else X.to_series(int(index))
        kind = str(column.dtype).lower()
        whole = kind.startswith(("int", "uint"))
        new = [None if number != number else (round(number) if whole else number) for number in values[:, index]]
        if hasattr(X, "iloc"):
            own = column.copy()
            if kind == "category":  # a level that the fit knew and these rows do not have
                known = set(own.cat.categories)
                own = own.cat.add_categories(sorted({n for n in new if n is not None} - known))
            holes = np.flatnonzero(missing[:, index])
            own.iloc[holes] = [new[row] for row in holes]
            filled[index] = own if kind == "category" else own.astype(column.dtype)
        else:
            cells = column.to_list()
            both = [number if hole else cell for number, hole, cell in zip(new, missing[:, index], cells, strict=True)]
            filled[index] = type(column)(column.name, both, dtype=column.dtype)
    if not hasattr(X, "iloc"):
        return X.with_columns(list(filled.values()))
    table = X.copy()
    for index, column in filled.items():
        table.isetitem(index, column)
    return table


class FitProgress:
    """Reports a fit's epochs to scikit-learn's callbacks, where they exist.

    Parameters
    ----------
    estimator : estimator
    n_epochs : int
    X : array
        Shown to the callbacks, also as the target: an autoencoder's target is its input.
    attributes : callable
        Returns the fitted attributes of the moment, for callbacks that ask for a usable estimator.
    """

    def __init__(self, estimator: Any, n_epochs: int, X: Any, attributes: Any) -> None:
        self._estimator, self._X, self._attributes = estimator, X, attributes
        self._context = None
        if hasattr(estimator, "_init_callback_context"):
            self._context = estimator._init_callback_context(max_subtasks=n_epochs)
            self._context.call_on_fit_task_begin(estimator=estimator, X=X, y=X, metadata={})

    def epoch(self) -> bool:
        """Report one epoch; True asks to stop."""
        if self._context is None:
            return False
        epoch = self._context.subcontext(task_name="epoch")
        epoch.call_on_fit_task_begin(estimator=self._estimator, X=self._X, y=self._X)
        return bool(
            epoch.call_on_fit_task_end(
                estimator=self._estimator, X=self._X, y=self._X, reconstruction_attributes=self._attributes
            )
        )

    def end(self) -> None:
        """Report the end of the fit."""
        if self._context is not None:
            self._context.call_on_fit_task_end(
                estimator=self._estimator, X=self._X, y=self._X, reconstruction_attributes=self._attributes
            )


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
    check_mapped(X)
    _check_is_table(X)
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
        message = _plainer(str(error), X, estimator)
        if message is None:
            raise
        raise ValueError(message) from None


def _check_is_table(X: Any) -> None:
    """Refuse what becomes a table by one call of its own, which the message names."""
    if type(X) is dict:  # a sparse array of keys is a dict too
        raise ValueError("X must be a table, but a dict came. Pass pandas.DataFrame(X).")
    if hasattr(X, "collect_schema") and hasattr(X, "collect"):
        raise ValueError(f"X must be a table in memory, but a {type(X).__name__} came. Pass X.collect().")
    if is_pandas(X):
        labels_of(X)  # scikit-learn's word for names that repeat depends on its version
    if is_polars(X):  # NumPy would take times for numbers
        for label, dtype in X.schema.items():
            row = X[label].is_not_null().arg_max() if dtype.is_temporal() else None
            if row is not None:
                raise ValueError(_holds_times(label, X[label][row], row))


def check_names(estimator: Any, X: Any) -> None:
    """Refuse a table whose columns are not those of the fit, before anything reads its cells."""
    _check_is_table(X)
    try:
        validate_data(estimator, X, reset=False, skip_check_array=True)
    except ValueError as error:
        message = _plainer(str(error), X, estimator)
        if message is None:
            raise
        raise ValueError(message) from None


def _cpu_tensor(X: Tensor) -> Any:
    if X.device.type != "cpu":
        raise ValueError(
            f"X is a tensor on {X.device}. Call sklearn.set_config(array_api_dispatch=True) to compute there, or pass "
            "X.cpu()."
        )
    X = X.detach()
    return (X.float() if X.dtype in (torch.bfloat16, torch.float16) else X).numpy()


def _plainer(message: str, X: Any, estimator: Any) -> str | None:
    """Say of scikit-learn's or NumPy's complaint what must hold, what came and what to do; None if it says so."""
    if "Complex data not supported" in message:
        return (
            "Complex data not supported: columns must hold real numbers, but X is complex. Pass "
            "numpy.hstack([X.real, X.imag]), or numpy.abs(X)."
        )
    if "must be in the same order" in message:
        pairs = enumerate(zip(estimator.feature_names_in_, X.columns, strict=True))
        place, (known, given) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
        return (
            f"{message.rstrip()}\nColumn {place} is {given!r}, but was {str(known)!r}. Pass the columns in the order "
            "of feature_names_in_."
        )
    if "features, but" in message:
        return f"{message.rstrip('.')}. Pass the columns that it was fitted on, in the same order."
    not_numbers = ("could not convert string", "could not be promoted", "datetime64", "a string or a real number")
    if any(part in message for part in not_numbers):
        return _wrong_cell(X)
    return None


def _wrong_cell(X: Any) -> str | None:
    """Name the first cell that holds text or a time; None if there is none."""
    if isinstance(X, str):
        return f"X must be a table of numbers, but the text {X!r} came. Read the file first: pandas.read_csv({X!r})."
    columns = getattr(X, "columns", None)
    table = np.asarray(X, dtype=object)
    for index in range(table.shape[1] if table.ndim == 2 else 0):
        label = repr(f"x{index}" if columns is None else columns[index])
        for row, value in enumerate(table[:, index]):
            if isinstance(value, (str, bytes)) and not _is_number(value):
                return (
                    f"Columns must hold numbers or categories, but column {label}, no category of this model, holds "
                    f"{value!r} in row {row}. Mark the cell as missing, or fit with the column in "
                    "'categorical_features'."
                )
            if isinstance(value, (date, timedelta, np.datetime64, np.timedelta64)):
                return _holds_times(f"x{index}" if columns is None else columns[index], value, row)
    return None


def _holds_times(label: Any, value: Any, row: int) -> str:
    return (
        f"Columns must hold numbers, but column {label!r} holds times, {value} in row {row}. Turn it into numbers "
        "first, for example into days since a fixed date."
    )


def _is_number(text: str | bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_finite(values: Tensor, names: Sequence[str]) -> bool:
    """Refuse infinite values, naming the first one; NaN is a missing cell.

    Returns
    -------
    complete : bool
        Whether no cell is missing.

    Raises
    ------
    ValueError
    """
    complete = True
    for first in range(0, len(values), 65536):
        rows = values[first : first + 65536]
        # One sum finds almost every chunk finite; a missing cell or an overflow makes a second look necessary.
        total = rows.sum()
        release(values)
        if torch.isfinite(total):
            continue
        complete = complete and not torch.isnan(rows).any()
        wrong = torch.isinf(rows)
        if wrong.any():
            row, column = (int(i) for i in wrong.nonzero()[0])
            shown = "inf" if float(rows[row, column]) > 0 else "-inf"
            raise ValueError(
                f"Columns must hold finite or missing values, but column {names[column]!r} holds {shown} in row "
                f"{first + row}. Drop such rows, or replace the value by NaN to mark it as missing."
            )
    return complete
