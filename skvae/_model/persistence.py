"""A saved estimator: plain values and arrays, and the version that wrote them."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from sklearn.exceptions import InconsistentVersionWarning

from .._support.warnings import warn
from .preparing import Fitted

__all__ = ["VersionWarning", "restored", "saved"]

_VERSION_KEY = "_skvae_version"
# Records of a version without one are older than the key itself.
_UNKNOWN = "before 0.1.0"


class VersionWarning(InconsistentVersionWarning):
    """An estimator was saved by another version of skvae than the one that loads it.

    Parameters
    ----------
    estimator_name : str
    current_version : str
        The version that loads.
    original_version : str
        The version that saved.
    """

    def __init__(self, *, estimator_name: str, current_version: str, original_version: str) -> None:
        self.estimator_name = estimator_name
        self.current_version = current_version
        self.original_version = original_version
        # Read by those who handle scikit-learn's warning.
        self.current_sklearn_version, self.original_sklearn_version = current_version, original_version

    def __str__(self) -> str:
        """Name the estimator and the two versions."""
        return (
            f"This {self.estimator_name} was saved by skvae {self.original_version} and is loaded by skvae "
            f"{self.current_version}. Its scores may differ: fit it anew, or load it with the version that saved it."
        )


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """Turn the attributes of an estimator into what a pickle or a skops file holds.

    Parameters
    ----------
    state : dict
        Attributes by name.

    Returns
    -------
    state : dict
        The same without torch objects, with the version of skvae.
    """
    state = dict(state)
    if isinstance(state.get("device"), torch.device):
        state["device"] = str(state["device"])
    if "_fitted" in state:
        state.pop("module_")
        state["_fitted"] = state["_fitted"].state()
    return state | {_VERSION_KEY: version("skvae")}


def restored(state: dict[str, Any], estimator_name: str, probe: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Inverse of `saved`.

    Parameters
    ----------
    state : dict
    estimator_name : str
        Name that messages use.
    probe : callable
        Uses a fitted estimator with the restored attributes, so that parts that do not fit together fail here.

    Returns
    -------
    state : dict
        Attributes by name; the module lies on the CPU.

    Raises
    ------
    ValueError
        If this version cannot read what another one saved, or if what it saved itself was altered.
    """
    state = dict(state)
    current, original = version("skvae"), state.pop(_VERSION_KEY, _UNKNOWN)
    if original != current:
        warn(
            VersionWarning(estimator_name=estimator_name, current_version=current, original_version=original),
        )
    if "_fitted" in state:
        try:
            state["_fitted"] = fitted = Fitted.from_state(state["_fitted"])
            state["module_"], state["device_"] = fitted.module, str(fitted.module.flat.device)
            probe(state)
        except Exception as error:
            elsewhere = "Load it with the version that saved it"
            advice = elsewhere if original != current else "Take another copy of the file"
            raise ValueError(
                f"This {estimator_name}, saved by skvae {original}, cannot be read by skvae {current} "
                f"({type(error).__name__}: {error}). {advice}, or fit it anew."
            ) from error
    return state
