"""The only file that touches scikit-learn's private or experimental names, with fallbacks for older versions."""

from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from sklearn import get_config
from sklearn.base import _fit_context
from sklearn.utils._array_api import get_namespace_and_device
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

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
    "Interval",
    "StrOptions",
    "check_is_fitted",
    "check_same_namespace",
    "documentation_address",
    "fit_context",
]

fit_context = _fit_context


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
