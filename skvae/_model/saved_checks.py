"""Whether the parts of a saved model are what a fit leaves: types, shapes and values."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from .._data.columns import values_of
from .._densities.density import Density
from ..likelihoods import LIKELIHOODS
from .labelled import RATIO
from .scores import SCORES, has_residual_density, score_names

__all__ = ["check_attributes", "check_densities", "check_state"]

# Of the record of the columns; what is younger may be left out.
_COLUMNS = {"mean", "scale", "constant", "missing_share", "centre", "names", "families", "n_levels"}
_MOMENTS = {"first", "second", "n_steps"}
_COUNTS = {"n_components_", "n_features_in_", "n_iter_", "n_samples_seen_"}


def check_state(state: Mapping[str, Any]) -> None:
    """Refuse what `to_state` does not write.

    Parameters
    ----------
    state : dict
        Of a fitted model.

    Raises
    ------
    ValueError
        If a part is of another type or shape, or holds what cannot be; the message names it.
    """
    columns, design, plain = state["columns"], state["design"], state["plain"]
    n_features = _check_columns(columns)
    _check_design(design, n_features)
    _check_plain(plain, design)
    _check_fixed(state.get("fixed"))
    likelihood = design["likelihood"]
    while "likelihood" in likelihood:  # a family within a mixture, within columns that see each other
        likelihood = likelihood["likelihood"]
    named = columns["families"] is not None or likelihood["name"] in LIKELIHOODS
    _must(named, "columns.families", "name the likelihood of each column")
    n_parameters = len(_array(state["flat"], "flat", (None,), "f"))
    _must(state["optimiser_state"].keys() in (set(), _MOMENTS), "optimiser_state", f"hold {sorted(_MOMENTS)}")
    for name, part in state["optimiser_state"].items():
        shape: tuple[int, ...] = () if name == "n_steps" else (n_parameters,)
        _array(part, f"optimiser_state.{name}", shape, "f")
    for name in ("bounds", "cell_range"):
        if name in state:
            low, high = _array(state[name], name, (2, n_features), "f")
            _must((low <= high).all(), name, "hold no lowest value above the highest one")
    if state.get("quantiles") is not None:
        _check_quantiles(state["quantiles"], n_features)
    scores = state["calibration"]
    if scores is not None:
        _must((np.diff(_array(scores, "calibration", (None,), "f")) >= 0.0).all(), "calibration", "be in order")
    n_scores = 0 if scores is None else len(scores)
    _check_labelled(state, n_features)
    _must(n_scores == plain["n_calibration"], "plain.n_calibration", f"be {n_scores}, the number of scores")
    _must(len(state["densities"]) == design["n_networks"], "densities", "be as many as the networks")
    for index, levels in enumerate([] if state["table"] is None else state["table"]["levels"]):
        blank = columns["missing_share"] is not None and columns["missing_share"][index] == 1.0
        _must(levels is None or len(levels) > 0 or blank, "table.levels", "hold some of each column of categories")
    if state.get("patterns") is not None:
        missing = _array(state["patterns"]["missing"], "patterns.missing", (None, n_features), "b")
        share = _array(state["patterns"]["share"], "patterns.share", (len(missing),), "f")
        _must((share > 0.0).all() and abs(share.sum() - 1.0) < 1e-6, "patterns.share", "be positive and sum to 1")
    if state["stream"] is not None:
        _check_stream(state["stream"], n_features)


def check_densities(members: Sequence[Mapping[str, Density]], design: Any, n_features: int, score_method: str) -> None:
    """Refuse densities that are not those that the score needs, or do not fit the model.

    Parameters
    ----------
    members : sequence of dict
        The densities of each network, by name.
    design : Design
    n_features : int
    score_method : str

    Raises
    ------
    ValueError
    """
    score = SCORES[score_method]
    needed = {"residual"} if has_residual_density(design.model, score) else set()
    needed |= {score_method} if score.densities else set()
    needed |= {"latent"} if design.latent_density != "normal" else set()
    sizes = {"d": n_features, "c": design.n_components, "e": 2 * n_features}
    for densities in members:
        _must(set(densities) >= needed, "densities", f"hold {sorted(needed)}")
        for name, density in densities.items():
            width = {"residual": n_features, "latent": design.n_components}.get(name, density.n_features())
            _must(density.n_features() == width, f"densities.{name}", f"be one of {width} columns")
            known = dict(sizes)
            for field, shape in density.shapes.items():
                _named_shape(getattr(density, field).shape, f"densities.{name}.{field}", shape, known)
            for field, tensor in vars(density).items():
                _array(tensor.numpy(), f"densities.{name}.{field}", (None,) * tensor.ndim, "fi")


def check_attributes(state: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Refuse fitted attributes of an estimator that are of another type or shape.

    Parameters
    ----------
    state : dict
        Attributes by name.
    names : tuple of str
        What messages call the columns.

    Raises
    ------
    ValueError
    """
    _number(state["offset_"], "offset_")
    _number(state["best_loss_"], "best_loss_")
    for name in _COUNTS:
        _number(state[name], name, Integral, low=0)
    _must(state["n_features_in_"] == len(names), "n_features_in_", f"be {len(names)}, the number of columns")
    numbered = [f"x{index}" for index in range(len(names))]
    _must(list(state.get("feature_names_in_", numbered)) == list(names), "feature_names_in_", "name each column")
    _must("validation_curve_" in state, "validation_curve_", "be there")
    for name in ("loss_curve_", "validation_curve_", "kl_per_component_", "active_components_"):
        if state.get(name) is not None:
            _must(isinstance(state[name], list), name, "be a list")
            for value in state[name]:
                _number(value, name, finite=False)
    _must(len(state["loss_curve_"]) == state["n_iter_"], "loss_curve_", "hold a loss for each epoch")


def _check_columns(columns: Mapping[str, Any]) -> int:
    """Means, scales, names; how many columns there are."""
    n_features = len(_array(columns["mean"], "columns.mean", (None,), "f"))
    _must((_array(columns["scale"], "columns.scale", (n_features,), "f") > 0.0).all(), "columns.scale", "be positive")
    _array(columns["constant"], "columns.constant", (n_features,), "b")
    missing = columns["missing_share"]
    if missing is not None:
        missing = _array(missing, "columns.missing_share", (n_features,), "f")
        _must(((missing >= 0.0) & (missing <= 1.0 + 1e-9)).all(), "columns.missing_share", "lie in [0, 1]")
    if columns["centre"] is not None:
        _array(columns["centre"], "columns.centre", (n_features,), "f")
    if columns.get("marginals") is not None:
        _check_marginals(columns["marginals"], n_features)
    for name in columns.keys() - _COLUMNS - {"marginals"}:
        if columns[name] is not None:
            part = _array(columns[name], f"columns.{name}", (n_features,), "f", finite=name != "tolerance")
            _must(not np.isnan(part).any(), f"columns.{name}", "hold no NaN")
    for name in ("names", "families", "n_levels"):
        if columns[name] is not None or name == "names":
            part = columns[name]
            _must(isinstance(part, (tuple, list)) and len(part) == n_features, f"columns.{name}", "have one per column")
    for family in columns["families"] or ():
        values_of(family)
    for levels in columns["n_levels"] or ():
        _number(levels, "columns.n_levels", Integral, low=0)
    return n_features


def _check_quantiles(quantiles: Mapping[str, Any], n_features: int) -> None:
    """Numbers of columns, and quantiles that ascend."""
    n_columns = _check_numbers(quantiles["columns"], "quantiles.columns", n_features)
    levels = _array(quantiles["levels"], "quantiles.levels", (n_columns, None), "f")
    values = _array(quantiles["values"], "quantiles.values", levels.shape, "f")
    for name, part in {"levels": levels, "values": values}.items():
        _must((np.diff(part) >= 0.0).all(), f"quantiles.{name}", "be in order")
    _must((levels[:, [0, -1]] == [0.0, 1.0]).all(), "quantiles.levels", "go from 0 to 1")
    grid = _array(quantiles["grid"], "quantiles.grid", (n_columns, 3), "f")
    _must((grid[:, 1] >= 0.0).all() and (grid[:, 2] > 0.0).all(), "quantiles.grid", "have steps and denominators")


def _check_numbers(columns: Sequence[Any], where: str, n_features: int) -> int:
    """How many columns are named, each once."""
    for column in columns:
        _number(column, where, Integral, low=0, high=n_features - 1)
    _must(len(columns) == len(set(columns)) > 0, where, "name some columns once")
    return len(columns)


def _check_marginals(marginals: Mapping[str, Any], n_features: int) -> None:
    """Numbers of columns, and knots that ascend."""
    where = "columns.marginals"
    n_mapped = _check_numbers(marginals["columns"], f"{where}.columns", n_features)
    n_knots = _array(marginals["n_knots"], f"{where}.n_knots", (n_mapped,), "i")
    y = _array(marginals["y"], f"{where}.y", (n_mapped, None), "f")
    _must(((n_knots >= 2) & (n_knots <= y.shape[1])).all(), f"{where}.n_knots", "be from 2 to the number of knots")
    u, slope = (_array(marginals[name], f"{where}.{name}", y.shape, "f") for name in ("u", "slope"))
    inside = np.arange(y.shape[1] - 1) < n_knots[:, None] - 1
    _must((np.diff(y)[inside] >= 0.0).all(), f"{where}.y", "ascend")
    _must((np.diff(u)[inside] > 0.0).all(), f"{where}.u", "ascend")
    _must((slope > 0.0).all(), f"{where}.slope", "be positive")
    _must(
        (_array(marginals["tails"], f"{where}.tails", (n_mapped, 2), "f") > 0.0).all(), f"{where}.tails", "be positive"
    )
    if "limits" in marginals:  # older files have none, or say where there are bounds
        limits = _array(marginals["limits"], f"{where}.limits", (n_mapped, 2), "f", finite=False)
        _must((limits[:, 0] < limits[:, 1]).all(), f"{where}.limits", "ascend")
    elif "bounded" in marginals:
        _array(marginals["bounded"], f"{where}.bounded", (n_mapped, 2), "b")
    _array(marginals["discrete"], f"{where}.discrete", (n_mapped,), "b")
    _array(marginals["grid"], f"{where}.grid", (n_mapped, 3), "f")
    _array(marginals["log_width"], f"{where}.log_width", (n_mapped,), "f")


def _check_design(design: Mapping[str, Any], n_features: int) -> None:
    for name in ("n_components", "n_networks"):
        _number(design[name], f"design.{name}", Integral, low=1)
    for width in design["hidden"]:
        _number(width, "design.hidden", Integral, low=1)
    size = design["latent_density"]
    if size not in ("normal", "mixture", "learned"):
        _number(size, "design.latent_density", Integral, low=1)
    for name, value in design["settings"].items():
        if name in ("one_cycle", "binarize", "learns_prior"):
            _must(isinstance(value, bool), f"design.settings.{name}", "be true or false")
        elif name == "noise":
            _must(len(value) == 2, "design.settings.noise", "be two scales")
            for scale in value:
                _number(scale, "design.settings.noise", low=0.0)
        elif not (name == "patience" and value is None):
            whole = name in ("batch_size", "n_epochs", "n_draws", "patience")
            _number(value, f"design.settings.{name}", Integral if whole else Real, low=int(whole), finite=False)
    layer = design["layer"]
    if layer is not None:
        _check_layer(layer, n_features)


def _check_layer(layer: Mapping[str, Any], n_features: int) -> None:
    _must(layer["n_columns"] == n_features, "design.layer.n_columns", f"be {n_features}, the number of columns")
    _must(len(layer["fill"]) in (0, n_features), "design.layer.fill", "hold a number for each column")
    for value in layer["fill"]:
        _number(value, "design.layer.fill")
    for column in layer["masked"]:
        _number(column, "design.layer.masked", Integral, low=0, high=n_features - 1)
    for column, probabilities in layer.get("shares", ()):
        _number(column, "design.layer.shares", Integral, low=0, high=n_features - 1)
        for probability in probabilities:
            _number(probability, "design.layer.shares", low=0.0, high=1.0)
    for column, mean, scale in layer.get("counts", ()):
        _number(column, "design.layer.counts", Integral, low=0, high=n_features - 1)
        _number(mean, "design.layer.counts")
        _number(scale, "design.layer.counts", low=0.0)


def _check_fixed(fixed: Mapping[str, Any] | None) -> None:
    """Parameters that cannot change in a training that goes on; older files do not hold them."""
    if fixed is None:
        return
    _must(isinstance(fixed, Mapping), "fixed", "hold parameters by name")
    for name, value in fixed.items():
        parts = value if isinstance(value, list) else [*value.values()] if isinstance(value, Mapping) else [value]
        plain = all(part is None or isinstance(part, str | bool | Integral) for part in parts)
        _must(plain, f"fixed.{name}", "be a plain value, or hold such")


def _check_plain(plain: Mapping[str, Any], design: Mapping[str, Any]) -> None:
    _must(plain["score_method"] in score_names(design["kind"]) - {"auto"}, "plain.score_method", "name a score")
    _must(len(plain["seeds"]) == design["n_networks"], "plain.seeds", "be as many as the networks")
    for seed in (*plain["seeds"], plain["noise_seed"]):
        _number(seed, "plain.seeds", Integral, low=0, high=2**63)
    _number(plain["n_calibration"], "plain.n_calibration", Integral, low=0)
    _number(plain["attained_rate"], "plain.attained_rate", low=0.0, high=1.0)
    _number(plain.get("reliability", 1.0), "plain.reliability", low=0.0, high=1.0)
    _number(plain.get("departure_cost", 0.0), "plain.departure_cost", low=0.0)
    for name in ("false_alarm_rate", "contamination"):
        if plain.get(name) is not None:
            _number(plain[name], f"plain.{name}", low=0.0, high=1.0)
    if plain.get("n_draws") is not None:
        _number(plain["n_draws"], "plain.n_draws", Integral, low=1)


def _check_labelled(state: Mapping[str, Any], n_features: int) -> None:
    """Rows that placed the threshold, and known anomalies; older files have neither."""
    rows, labelled = state.get("calibration_rows"), state.get("labelled")
    if rows is not None:
        x = _array(rows["rows"], "calibration_rows.rows", (None, n_features), "f", finite=False)
        _must(not np.isinf(x).any(), "calibration_rows.rows", "hold no infinite value")
        for name in ("row_scores", "row_departures"):
            _array(rows[name], f"calibration_rows.{name}", (len(x),), "f")
    for densities in state["densities"]:
        _must((RATIO in densities) == (labelled is not None), "labelled", "be there where the densities hold anomalies")
    if labelled is None:
        return
    x = _array(labelled["x"], "labelled.x", (None, n_features), "f", finite=False)
    _must(len(x) > 0 and not np.isinf(x).any(), "labelled.x", "hold some rows and no infinite value")
    for name in ("centre", "offset"):
        _number(labelled[name], f"labelled.{name}")
    _must(labelled["scale"] > 0.0, "labelled.scale", "be positive")
    _number(labelled["scale"], "labelled.scale")
    _number(labelled["attained_rate"], "labelled.attained_rate", low=0.0, high=1.0)
    before = _array(labelled["calibration"], "labelled.calibration", (None,), "f")
    _must((np.diff(before) >= 0.0).all(), "labelled.calibration", "be in order")


def _check_stream(stream: Mapping[str, Any], n_features: int) -> None:
    for which in ("training", "held"):
        rows = _array(stream[which]["rows"], f"stream.{which}.rows", (None, n_features), "f", finite=False)
        _must(not np.isinf(rows).any(), f"stream.{which}.rows", "hold no infinite value")
        for name in ("weight", "keys"):
            _array(stream[which][name], f"stream.{which}.{name}", (len(rows),), "f")
    for chunk in stream["chunks"]:
        _number(chunk, "stream.chunks", Integral)
    _number(stream["n_awaited"], "stream.n_awaited", Integral, low=0)


def _must(holds: Any, where: str, what: str) -> None:
    if not holds:
        raise ValueError(f"{where} must {what}")


def _array(value: Any, where: str, shape: Iterable[int | None], dtype_kinds: str, *, finite: bool = True) -> np.ndarray:
    """An array of dtypes of some of the kinds "f", "i" and "b"; in its shape None stands for any length."""
    names = {"f": "floats", "i": "integers", "b": "booleans"}
    allowed = " or ".join(names[letter] for letter in dtype_kinds)
    _must(isinstance(value, np.ndarray), where, f"be an array, not a {type(value).__name__}")
    _must(value.dtype.kind in dtype_kinds, where, f"hold {allowed}, not {value.dtype}")
    expected = tuple(shape)
    fits = value.ndim == len(expected) and all(e in (None, n) for e, n in zip(expected, value.shape, strict=True))
    shown = ", ".join("any" if length is None else str(length) for length in expected)
    _must(fits, where, f"have the shape ({shown}), not {value.shape}")
    _must(not finite or np.isfinite(value).all(), where, "be finite")
    return value


def _named_shape(found: Sequence[int], where: str, letters: str, sizes: dict[str, int]) -> None:
    """Compare a shape with letters; a letter that is not known yet stands for the length found first."""
    _must(len(found) == len(letters), where, f"have {len(letters)} axes, not {len(found)}")
    for letter, length in zip(letters, found, strict=True):
        known = sizes.setdefault(letter, length)
        _must(known == length, where, f"have {known} entries where it has {length}")


def _number(
    value: Any, where: str, number: type = Real, *, low: float = -np.inf, high: float = np.inf, finite: bool = True
) -> None:
    """A number that is no boolean, real or integer, and in a range."""
    is_number = isinstance(value, number) and not isinstance(value, (bool, np.bool_))
    _must(is_number, where, f"be {'an integer' if number is Integral else 'a number'}, not {value!r}")
    _must(not finite or np.isfinite(value), where, f"be finite, not {value!r}")
    _must(low <= value <= high, where, f"lie in [{low}, {high}], not be {value!r}")
