"""A saved estimator: plain values and arrays, and the version that wrote them; a fitted model as such, and back."""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import InconsistentVersionWarning
from torch import Tensor

from .._data.columns import Columns
from .._data.inputs import InputLayer
from .._data.patterns import Patterns
from .._data.quantiles import Quantiles
from .._data.stream import Stream
from .._densities.density import Density
from .._densities.gaussian import FactoredGaussian, GaussianDensity
from .._densities.latent import LatentMixture
from .._densities.neighbors import DistanceRatio
from .._support.warnings import warn
from .._tables.table import Table
from .._training.rows import Settings
from ..likelihoods import make_likelihood
from .design import Design
from .fitted import Fitted
from .labelled import Labelled
from .member import Member
from .saved_checks import check_attributes, check_densities, check_state
from .scores import SCORES
from .thresholds import Calibration

__all__ = ["VersionWarning", "from_state", "restored", "saved", "to_state"]

_VERSION_KEY = "_skvae_version"
# Records of a version without one are older than the key itself.
_UNKNOWN = "before 0.1.0"
# Plain values of a calibration that are younger than some files.
_LATER = ("false_alarm_rate", "contamination", "n_draws", "departure_cost")
# What it keeps of rows.
_ROWS = ("rows", "row_scores", "row_departures")


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
        state["_fitted"] = to_state(state["_fitted"])
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
            state["_fitted"] = fitted = from_state(state["_fitted"])
            names = fitted.columns.names
            check_attributes(state, names if fitted.table is None else names[: len(fitted.table.columns)])
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


def to_state(fitted: Fitted) -> dict[str, Any]:
    """Arrays and plain values of a fitted model, for a pickle without torch."""
    design = {name: value for name, value in vars(fitted.design).items() if name != "fixed"}
    design = _renamed(design, "model", "kind") | {
        "likelihood": fitted.design.likelihood.config(),
        "settings": dict(vars(fitted.design.settings)),
        "layer": None if fitted.design.layer is None else fitted.design.layer.config(),
    }
    calibration = fitted.calibration
    return {
        "columns": fitted.columns.state(),
        "design": design,
        "fixed": None if fitted.design.fixed is None else dict(fitted.design.fixed),
        "flat": fitted.module.flat.detach().cpu().numpy(),
        "optimiser_state": {k: v.cpu().numpy() for k, v in (fitted.optimiser_state or {}).items()},
        "densities": [
            {k: {"class": type(d).__name__, **d.state()} for k, d in member.densities.items()}
            for member in fitted.members
        ],
        "bounds": fitted.bounds.numpy(),
        "cell_range": fitted.scaled_bounds.float().numpy(),  # what versions without "bounds" read
        "quantiles": None if fitted.quantiles is None else fitted.quantiles.state(),
        "calibration": calibration.scores if calibration.count else None,
        "calibration_rows": {k: getattr(calibration, k) for k in _ROWS} if len(calibration.rows) else None,
        "labelled": None if fitted.labelled is None else _labelled_state(fitted.labelled),
        "stream": None if fitted.stream is None else fitted.stream.state(),
        "table": None if fitted.table is None else fitted.table.state(),
        "patterns": None if fitted.patterns is None else fitted.patterns.state(),
        "plain": {
            "seeds": fitted.seeds,
            "noise_seed": fitted.noise_seed,
            "score_method": fitted.score_method,
            "n_calibration": calibration.count,
            "attained_rate": calibration.attained_rate,
            "false_alarm_rate": calibration.false_alarm_rate,
            "contamination": calibration.contamination,
            "n_draws": calibration.n_draws,
            "departure_cost": calibration.departure_cost,
            "reliability": fitted.reliability,
        },
    }


def from_state(state: dict[str, Any]) -> Fitted:
    """Inverse of `to_state`, on the CPU."""
    check_state(state)
    columns = Columns.from_state(state["columns"])
    design, plain = replace(_design(state["design"]), fixed=state.get("fixed")), state["plain"]
    module = design.module(columns.n_features, torch.from_numpy(np.array(state["flat"])))
    members = tuple(
        Member(module.network(i), {k: _density(d) for k, d in densities.items()})
        for i, densities in enumerate(state["densities"])
    )
    check_densities([member.densities for member in members], design, columns.n_features, plain["score_method"])
    table = None if state["table"] is None else Table.from_state(state["table"])
    if table is not None and (table.expansion.n_expanded, table.n_levels) != (columns.n_features, columns.n_levels):
        raise ValueError(f"the categories of {len(table.columns)} columns are not those of the model")
    calibration = _calibration(state)
    return Fitted(
        columns=columns,
        design=design,
        module=module,
        seeds=plain["seeds"],
        noise_seed=plain["noise_seed"],
        score_method=plain["score_method"],
        members=members,
        bounds=_bounds(state, columns),
        calibration=calibration,
        table=table,
        optimiser_state={k: torch.from_numpy(np.array(v)) for k, v in state["optimiser_state"].items()} or None,
        stream=None if state["stream"] is None else Stream.from_state(state["stream"]),
        reliability=plain.get("reliability", 1.0),
        quantiles=None if state.get("quantiles") is None else Quantiles.from_state(state["quantiles"]),
        patterns=None if state.get("patterns") is None else Patterns(**state["patterns"]),
        labelled=_labelled(state.get("labelled"), calibration),
    )


def _calibration(state: dict[str, Any]) -> Calibration:
    """Calibration of a saved state; all but the rate that was attained is younger than some files."""
    plain, rows = state["plain"], state.get("calibration_rows")  # younger, too
    scores = np.empty(0) if state["calibration"] is None else np.array(state["calibration"])
    later = {name: plain[name] for name in _LATER if name in plain}
    if rows is not None:
        later |= {name: np.array(rows[name]) for name in _ROWS}
    return Calibration(scores, plain["attained_rate"], **later)


def _labelled_state(labelled: Labelled) -> dict[str, Any]:
    """Known anomalies, and how the calibration was without them: in its scores alone."""
    return {
        "x": labelled.x.numpy(),
        "centre": labelled.centre,
        "scale": labelled.scale,
        "offset": labelled.offset,
        "calibration": labelled.unlearned.scores,
        "attained_rate": labelled.unlearned.attained_rate,
    }


def _labelled(state: dict[str, Any] | None, calibration: Calibration) -> Labelled | None:
    """Inverse of `_labelled_state`."""
    if state is None:
        return None
    scores = np.array(state["calibration"])
    unlearned = replace(calibration, scores=scores, attained_rate=state["attained_rate"])
    x = torch.from_numpy(np.array(state["x"]))
    return Labelled(x, state["centre"], state["scale"], unlearned, state["offset"])


def _bounds(state: dict[str, Any], columns: Columns) -> Tensor:
    """In the user's units; an older file holds them in scaled ones, and in single precision."""
    scaled = torch.from_numpy(np.array(state["cell_range"]))
    return torch.from_numpy(np.array(state["bounds"])) if "bounds" in state else columns.decode(scaled.double())


def _renamed(state: dict[str, Any], before: str, after: str) -> dict[str, Any]:
    """With another name for one of the keys: files have called a design's model its kind from the first on."""
    return {after if key == before else key: value for key, value in state.items()}


def _design(state: dict[str, Any]) -> Design:
    layer = state["layer"]
    resolved = {
        "likelihood": make_likelihood(state["likelihood"]),
        "settings": Settings(**{k: _tuple(v) for k, v in state["settings"].items()}),
        "hidden": tuple(state["hidden"]),
        "layer": None if layer is None else InputLayer.from_config(layer),
    }
    return Design(**_renamed(state, "kind", "model") | resolved)


def _density(state: dict[str, Any]) -> Density:
    known: list[type[Density]] = [GaussianDensity, FactoredGaussian, LatentMixture, DistanceRatio]
    known += [density for score in SCORES.values() for density in score.densities]
    classes = {density.__name__: density for density in known}
    return classes[state["class"]].from_state({k: v for k, v in state.items() if k != "class"})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
