"""The only file that touches scikit-learn's private or experimental names, with fallbacks for older versions."""

import inspect
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, metadata
from types import FrameType
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import _fit_context
from sklearn.utils._array_api import get_namespace_and_device
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import _check_n_features as check_n_features
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from sklearn.utils.validation import _num_samples as num_samples

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
    "HasMethods",
    "Interval",
    "NamesOf",
    "StrOptions",
    "check_is_fitted",
    "check_n_features",
    "check_sample_weight",
    "check_same_namespace",
    "documentation_address",
    "fit_context",
    "get_namespace_and_device",
    "num_samples",
    "searched_parameters",
    "validate_data",
]

fit_context = _fit_context
_KNOWS_ZERO_WEIGHTS = "allow_all_zero_weights" in inspect.signature(_check_sample_weight).parameters  # from 1.9 on


class NamesOf(StrOptions):
    """Constraint of a parameter to the names of a registry, which may have grown since the class was made.

    Parameters
    ----------
    names : callable
        Returns the set of names.
    """

    def __init__(self, names: Callable[[], set[str]]) -> None:
        self._names = names
        super().__init__(names())

    @property
    def options(self) -> set[str]:
        """The names of the moment."""
        return self._names()

    @options.setter
    def options(self, value: set[str]) -> None:
        """Nothing to keep: scikit-learn's constructor writes what it was given."""


def check_sample_weight(sample_weight: Any, X: np.ndarray) -> np.ndarray:
    """scikit-learn's own check, where all weights may be zero, in float64."""
    options = {"allow_all_zero_weights": True} if _KNOWS_ZERO_WEIGHTS else {}
    return _check_sample_weight(sample_weight, X, dtype=np.float64, **options)


def searched_parameters() -> tuple[str, ...]:
    """Names of the parameters that the search of scikit-learn which is calling sets; none where no search calls.

    Read off the arguments of the function in which its searches fit and score. Where that has another name nothing is
    found, and nothing depends on it but a warning.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_fit_and_score" and frame.f_globals.get("__name__", "").startswith("sklearn."):
            return tuple(frame.f_locals.get("parameters") or ())
        frame = frame.f_back
    return ()


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
