"""Saved states: each part that is altered is refused at once, by its name, or does no harm."""

import copy
import operator
import os
import pickle
import warnings
from functools import reduce

import numpy as np
import pandas as pd
import pytest

from skvae import AutoencoderTransformer, VAETransformer

# Parts of a state that are altered by the fast and by the slow test; SKVAE_ALTERED=1000 takes all.
N_ALTERED = (8, int(os.environ.get("SKVAE_ALTERED", "40")))
SMALL = {"n_components": 2, "hidden_layer_sizes": (4,), "max_iter": 2, "tol": 1e9, "random_state": 0}
BY_DRAWS = {"score_method": "log_likelihood", "n_draws": 3}


def table(seed, n_samples=60):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n_samples, 2)) @ rng.normal(size=(2, 3)), columns=["a", "b", "c"])
    return frame.mask(rng.random(frame.shape) < 0.1)


def mixed(seed):
    rng = np.random.default_rng(seed)
    return table(seed).assign(n=rng.poisson(3.0, 60), kind=rng.choice(["u", "v"], 60))


def groups(seed, n_samples=60):
    """Rows of six groups, which have modes."""
    rng = np.random.default_rng(seed)
    centres = 5.0 * np.random.default_rng(7).normal(size=(6, 3))
    return pd.DataFrame(
        centres[np.arange(n_samples) % 6] + 0.2 * rng.normal(size=(n_samples, 3)), columns=["a", "b", "c"]
    )


CASES = {
    "joint": (lambda: AutoencoderTransformer(**SMALL), table),
    "joint_of_dirty_rows": (lambda: AutoencoderTransformer(**SMALL, contamination=0.1), table),
    "joint_of_groups": (lambda: AutoencoderTransformer(**SMALL, contamination=0.1), groups),
    "neighbor": (lambda: AutoencoderTransformer(**SMALL, score_method="neighbor"), table),
    "local": (lambda: AutoencoderTransformer(**SMALL, score_method="local"), table),
    "mixed": (lambda: AutoencoderTransformer(**SMALL, likelihood={"n": "poisson"}), mixed),
    "log_likelihood": (lambda: VAETransformer(**SMALL, **BY_DRAWS, latent_density=2), table),
    "mixed_vae": (lambda: VAETransformer(**SMALL, likelihood={"n": "poisson"}), mixed),
}


# Where a case alters what others do as well, it runs with the slow tests.
SLOW = ("joint_of_dirty_rows", "joint_of_groups", "local", "mixed", "log_likelihood")
some_cases = pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES],
    indirect=True,
)


@pytest.fixture(scope="module", params=CASES)
def case(request, seed):
    """A model after a chunk, so that there is a stream, and its table; no test changes them."""
    make, rows = CASES[request.param]
    X = rows(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few rows, one pass
        return make().partial_fit(X), X


def parts(state, keys=()):
    """Whatever a nested state holds, with the keys that lead there."""
    if isinstance(state, dict) or (isinstance(state, list | tuple) and any(isinstance(p, dict | list) for p in state)):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from parts(value, (*keys, key))
    else:
        yield keys, state


def load(model, state):
    return type(model).__new__(type(model)).__setstate__(state)


def altered(state, keys, value):
    state = copy.deepcopy(state)
    reduce(operator.getitem, keys[:-1], state)[keys[-1]] = value
    return state


def use(model, X):
    """Every verb that reads the state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for verb in ("score_samples", "predict", "transform", "reconstruct", "score", "impute"):
            getattr(model, verb)(X[:20])
        model.explain(X[:2])
        model.inverse_transform(model.transform(X[:2]))
        if isinstance(model, VAETransformer):
            model.sample(2, random_state=0, bounded=True)
        copy.deepcopy(model).partial_fit(X[:20])


def reading(model, state):
    """A new model with the state, or the error that refuses it."""
    again = type(model).__new__(type(model))
    try:
        again.__setstate__(state)
    except ValueError as error:
        return str(error)
    return again


def spoilt_arrays(array):
    """The same array as no fit leaves it: one shape less, one more, another dtype, a value that is none."""
    yield "objects", array.astype(object)
    yield "text", array.astype(str)
    yield "another axis", array[np.newaxis]
    if array.ndim:
        yield "shorter", array[:-1]
        yield "twice", np.concatenate([array, array])
    if array.ndim > 1:
        yield "flat", array.reshape(-1)
    if array.dtype.kind == "f" and array.size:
        for value in (np.nan, np.inf):
            spoilt = array.copy()
            spoilt.flat[spoilt.size // 2] = value
            yield str(value), spoilt


def arrays_of(state):
    return [(keys, part) for keys, part in parts(state["_fitted"]) if isinstance(part, np.ndarray)]


@some_cases
def test_no_spoilt_array_is_loaded(case):
    """Of any part: shape, dtype, values; the rows of a stream may be missing, and its length is free."""
    model, _ = case
    state, passed = model.__getstate__(), []
    for keys, array in arrays_of(state):
        assert (array.size > 0) or "axes" in keys[-1] or keys[-1] == "whitener"
        for name, spoilt in spoilt_arrays(array):
            if isinstance(reading(model, altered(state, ("_fitted", *keys), spoilt)), str):
                continue
            passed.append((*keys, name))
    allowed = {  # what is a lawful state as well: gaps in rows, other references, no axes at all
        ("stream", "training", "rows", "nan"), ("stream", "held", "rows", "nan"), ("calibration_rows", "rows", "nan"),
        *((*keys, name) for keys, _ in arrays_of(state) if keys[-1] == "references" for name in ("shorter", "twice")),
        *((*keys, name) for keys, part in arrays_of(state) if not part.size for name in ("text", "objects", "twice")),
    }  # fmt: skip
    assert set(passed) <= allowed


@pytest.mark.parametrize("n_altered", [N_ALTERED[0], pytest.param(N_ALTERED[1], marks=pytest.mark.slow)])
@some_cases
def test_any_part_that_is_altered_is_refused_or_harmless(case, n_altered, seed):
    """None, text, numbers out of range, other lengths: loading says which part, or every verb works."""
    model, X = case
    state = model.__getstate__()
    rng = np.random.default_rng(seed)
    found = [(keys, part) for keys, part in parts(state["_fitted"]) if not isinstance(part, np.ndarray)]
    found = [(keys, part) for keys, part in found if keys[0] != "fixed"]  # other parameters, with which none goes on
    outcomes, broken = set(), []
    for index in rng.permutation(len(found))[:n_altered]:
        keys, part = found[index]
        for other in (None, "x", -1, 2.5, [], part[:-1] if isinstance(part, list | tuple | str) and part else {}):
            if type(other) is type(part) and other == part:
                continue
            again = reading(model, altered(state, ("_fitted", *keys), other))
            if isinstance(again, str):
                assert "cannot be read by skvae" in again
                outcomes.add("refused")
            else:
                try:
                    use(again, X)
                except Exception as error:  # whatever it is, it comes too late
                    broken.append(f"{keys} = {other!r} is loaded and fails in use: {error!r}")
                outcomes.add("harmless")
    assert broken == []
    assert "refused" in outcomes


def test_missing_keys_are_refused(case):
    """Every one that all versions write; what is younger has a value without it."""
    model, _ = case
    state, passed = model.__getstate__(), set()
    nested = {(): state["_fitted"]}
    nested |= {(key,): part for key, part in state["_fitted"].items() if isinstance(part, dict)}
    for keys, part in nested.items():
        for key in part:
            without = copy.deepcopy(state)
            del reduce(operator.getitem, keys, without["_fitted"])[key]
            if not isinstance(reading(model, without), str):
                passed.add((*keys, key))
    later = ("false_alarm_rate", "contamination", "n_draws", "departure_cost", "reliability")
    young = {("plain", name) for name in later}
    young |= {("fixed", name) for name in state["_fitted"]["fixed"]}
    young |= {
        ("fixed",),
        ("bounds",),
        ("calibration_rows",),
        ("labelled",),
        ("patterns",),
        ("quantiles",),
        ("design", "latent_density"),
        ("table", "rare"),
        ("table", "left_out"),
        ("table", "dates"),
    }
    assert passed <= young | {("columns", name) for name in ("tolerance", "rarest", "rarest_rows", "new_share")}


ATTRIBUTES = {
    "offset_": [None, "x", np.nan, np.array([1.0, 2.0])],
    "n_iter_": [None, -1, 2.5, True],
    "n_samples_seen_": [None, "many", -1],
    "n_components_": [None, "x"],
    "n_features_in_": [None, 2],
    "feature_names_in_": [np.array(["a"], dtype=object), None],
    "loss_curve_": [None, [1.0, "x"], []],
    "best_loss_": [None, "x"],
    "validation_curve_": [3, ["x"]],
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_altered_attributes_are_refused(case, name):
    model, _ = case
    for value in ATTRIBUTES[name]:
        found = reading(model, altered(model.__getstate__(), (name,), value))
        assert isinstance(found, str), (name, value)
        assert "cannot be read by skvae" in found


MESSAGES = {
    ("flat",): (lambda a: a.astype(object), "flat must hold floats, not object"),
    ("columns", "scale"): (lambda a: a[:-1], "columns.scale must have the shape (3), not (2,)"),
    ("columns", "mean"): (lambda a: a * np.nan, "columns.mean must be finite"),
    ("bounds",): (lambda a: a[::-1], "bounds must hold no lowest value above the highest one"),
    ("calibration",): (lambda a: a[::-1], "calibration must be in order"),
    ("plain", "attained_rate"): (lambda a: 1.5, "plain.attained_rate must lie in [0.0, 1.0], not be 1.5"),
    ("plain", "noise_seed"): (lambda a: "1", "plain.seeds must be an integer, not '1'"),
    ("design", "n_components"): (lambda a: 2.5, "design.n_components must be an integer, not 2.5"),
    ("fixed", "standardize"): (lambda a: 0.5, "fixed.standardize must be a plain value, or hold such"),
    ("densities", 0, "residual", "mean"): (lambda a: a[:-1], "densities.residual must be one of 3 columns"),
    ("densities", 0, "joint", "constant"): (
        lambda a: a[:-1],
        "densities.joint.constant must have {} entries where it has {}",
    ),
}


@pytest.mark.parametrize("keys", MESSAGES, ids=lambda keys: ".".join(map(str, keys)))
def test_message_names_the_part(keys, seed):
    X = table(seed)
    model = AutoencoderTransformer(**SMALL).fit(X)
    state = model.__getstate__()
    change, problem = MESSAGES[keys]
    part = reduce(operator.getitem, keys, state["_fitted"])
    spoilt = change(part)
    if "{}" in problem:
        problem = problem.format(len(part), len(spoilt))
    assert reading(model, altered(state, ("_fitted", *keys), spoilt)) == (
        "This AutoencoderTransformer, saved by skvae 0.1.0, cannot be read by skvae 0.1.0 (ValueError: "
        f"{problem}). Take another copy of the file, or fit it anew."
    )


def test_what_was_not_altered_is_loaded(case):
    """After `use`, too: what the verbs leave is what a fit leaves."""
    model, X = case
    use(model, X)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
