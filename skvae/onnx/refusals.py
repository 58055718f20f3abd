"""What a graph cannot express, named before a node is written."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._densities.gaussian import FactoredGaussian, GaussianDensity
from .._densities.modes import ModalDensity
from .._densities.neighbors import NeighborDistance
from .._densities.residuals import JointDensity
from .._model.scores import SCORES
from ..likelihoods import Autoregressive, ColumnGroups, Likelihood, Mixture

__all__ = ["ACTIVATIONS", "refuse"]

ACTIVATIONS = {"identity", "logistic", "tanh", "relu", "elu", "silu", "gelu"}
_DENSITIES = {
    density.__name__ for density in (GaussianDensity, FactoredGaussian, JointDensity, ModalDensity, NeighborDistance)
}


def refuse(likelihood: Likelihood, state: dict[str, Any], dtype: np.dtype, methods: set[str]) -> None:
    """Name what the graph cannot express.

    Parameters
    ----------
    likelihood : Likelihood
    state : dict
        Of a fitted model, as it is saved.
    dtype : dtype
        Precision of the graph.
    methods : set of str
        Scores that have a form.

    Raises
    ------
    ValueError
        With the first thing that has none, and what to do.
    """
    method = state["plain"]["score_method"]
    for refused, what, remedy in (*_reasons(likelihood, state, dtype), *_missing_cells(state, method)):
        if refused:
            raise ValueError(f"to_onnx cannot express {what}. {remedy}, or serve the estimator itself.")
    if method not in methods:
        raise ValueError(
            f"to_onnx cannot express score_method={method!r}. Fit with another one, such as 'joint', or serve the "
            "estimator itself."
        )


def _reasons(likelihood: Likelihood, state: dict[str, Any], dtype: np.dtype) -> list[tuple[Any, str, str]]:
    method, activation = state["plain"]["score_method"], state["design"]["activation"]
    without = _families_without(likelihood, "mean")
    by_likelihood = method in SCORES and SCORES[method].by_likelihood
    massless = _families_without(likelihood, "log_prob") if by_likelihood else []
    own = {densities[method]["class"] for densities in state["densities"] if method in densities}
    dates = _dates(state)
    return [
        (dates, f"dates or durations, in column {', '.join(dates)}", "Turn them into numbers before the fit"),
        (
            state["columns"].get("marginals") is not None,
            "the maps that marginals='auto' learns",
            "Fit with marginals=None",
        ),
        (
            any(group.config().get("scale") == "shared" for group in _groups(likelihood)) and likelihood.sees_columns,
            "scale='shared' with decoder='autoregressive'",
            "Fit with scale='dependent'",
        ),
        (
            state["labelled"] is not None,
            "learned anomalies",
            "Forget them by learn_anomalies(X[:0])",
        ),
        (without, f"likelihood={', '.join(without)}", "Fit with likelihood='gaussian'"),
        (
            massless,
            f"score_method={method!r} with likelihood={', '.join(massless)}",
            "Fit with score_method='joint'",
        ),
        (
            not own <= _DENSITIES,
            f"the density {', '.join(own)}",
            "Fit with score_method='residual'",
        ),
        (activation not in ACTIVATIONS, f"activation={activation!r}", "Fit with another one, such as 'silu'"),
        (
            activation == "gelu" and dtype == np.float64,
            "activation='gelu' in float64, for which runtimes have no error function",
            "Fit with another one, such as 'silu', export with dtype='float32'",
        ),
    ]


def _dates(state: dict[str, Any]) -> list[str]:
    """Quoted names of the columns of dates and durations."""
    if state["table"] is None:
        return []
    return [repr(state["table"]["form"]["labels"][index]) for index, _ in state["table"].get("dates", [])]


def _missing_cells(state: dict[str, Any], method: str) -> list[tuple[Any, str, str]]:
    share = state["columns"].get("missing_share")
    share = np.zeros(1) if share is None else np.asarray(share)
    return [
        (
            np.any(share > 0) and method == "residual",
            "score_method='residual' with missing cells in the training rows",
            "Fit with score_method='joint'",
        ),
        (np.any(share == 1), "a column without any value in the training rows", "Drop the column before the fit"),
    ]


def _families_without(likelihood: Likelihood, term: str) -> list[str]:
    """Quoted names of the families that have no ONNX form of "mean" or "log_prob"."""
    # What sees columns has forms of its own for the means of mixtures.
    groups = [group for group in _groups(likelihood) if not (likelihood.sees_columns and isinstance(group, Mixture))]
    return sorted({repr(family.name) for family in groups if term not in family.graph_terms})


def _groups(likelihood: Likelihood) -> Sequence[Likelihood]:
    cells = likelihood.likelihood if isinstance(likelihood, Autoregressive) else likelihood
    return cells.likelihoods if isinstance(cells, ColumnGroups) else (cells,)
