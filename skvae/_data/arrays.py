"""Arrays and tables of any supported library to tensors and back."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._support.compat import get_namespace_and_device
from .._tables.form import Form
from .large import as_tensor

__all__ = ["like_input", "like_table", "to_tensor"]


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


def like_table(values: np.ndarray, X: Any) -> Any:
    """Give an array of numbers the form of the frame ``X``: a table of its library, its labels, in float64."""
    form = Form.of(X)
    number = {"pandas": "float64", "polars": "Float64", "pyarrow": "double[arrow]"}[form.library]
    form = replace(form, dtypes=(number,) * len(form.dtypes), categories={})
    pandas = form.library == "pandas"
    return form.build(list(values.T), X.index if pandas else None, X.columns if pandas else None)
