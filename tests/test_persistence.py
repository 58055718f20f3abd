"""Saved models: nothing to trust but the two classes, versions on record, a clear word where they do not fit."""

import contextlib
import copy
import io
import itertools
import json
import operator
import pickle
import sys
import types
import warnings
import zipfile
from functools import reduce

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import AutoencoderTransformer, VAETransformer
from skvae._model import persistence
from skvae._model.persistence import VersionWarning

CLASSES = {
    "skvae.autoencoder.AutoencoderTransformer": AutoencoderTransformer,
    "skvae.vae.VAETransformer": VAETransformer,
}


@pytest.fixture(params=CLASSES)
def path(request):
    return request.param


@pytest.fixture
def X(seed):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(80, 2)) @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(80, 4))
    return pd.DataFrame(table, columns=["age", "height", "weight", "pulse"])


@pytest.fixture
def model(path, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one epoch is meant to be too few
        return CLASSES[path](2, max_iter=1, random_state=0).fit(X)


def pretend(monkeypatch, number):
    """Let the package be of another version."""
    monkeypatch.setattr(persistence, "version", lambda name: number)


@pytest.fixture
def told_each_time():
    """Torch tells of a tensor on read-only memory only once in a process."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.usefixtures("told_each_time")
def test_a_model_loads_from_a_mapped_file(model, X, tmp_path):
    joblib.dump(model, tmp_path / "model")
    twin = joblib.load(tmp_path / "model", mmap_mode="r")
    np.testing.assert_array_equal(twin.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(twin.reconstruct(X), model.reconstruct(X))


@pytest.mark.parametrize("contamination", ["auto", 0.1])
def test_wide_models_come_back_from_either_file(path, contamination, seed):
    """Few rows of many columns have densities of a class of their own."""
    X = np.random.default_rng(seed).normal(size=(40, 230))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CLASSES[path](2, max_iter=1, random_state=0, score_method="joint", contamination=contamination).fit(X)
    for again in (pickle.loads(pickle.dumps(model)), skops.io.loads(skops.io.dumps(model), trusted=[path])):
        np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    # 230 numbers in each of 40 rows are 72 KiB, a square of 230 columns 413 KiB.
    residual = model.__getstate__()["_fitted"]["densities"][0]["residual"]
    assert sum(np.asarray(part).nbytes for part in residual.values()) < 80 * 1024


# --- skops ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["alone", "last", "middle"])
def test_skops_needs_trust_in_the_class_alone(path, model, X, place):
    inner = type(model)(2, hidden_layer_sizes=(8,), max_iter=2, tol=1e3, random_state=0)
    if place == "last":
        model = make_pipeline(StandardScaler(), inner).fit(X)
    if place == "middle":
        inner.set_output(transform="pandas")
        model = make_pipeline(StandardScaler(), inner, PCA(1)).fit(X)
    data = skops.io.dumps(model)
    assert skops.io.get_untrusted_types(data=data) == [path]
    again = skops.io.loads(data, trusted=[path])
    verb = "transform" if place == "middle" else "score_samples"
    np.testing.assert_array_equal(getattr(again, verb)(X), getattr(model, verb)(X))


def test_skops_refuses_an_untrusted_model(model):
    with pytest.raises(skops.io.exceptions.UntrustedTypesFoundException):
        skops.io.loads(skops.io.dumps(model))


def test_altered_bytes_never_pass_unseen(path, model, X, seed):
    """Each loads as it was, or raises; the archive's checksums see what changes a number."""
    data, scores = skops.io.dumps(model), model.score_samples(X)
    rng = np.random.default_rng(seed)
    outcomes = []
    for i in range(30):
        broken = bytearray(data)
        if i % 3:
            broken[rng.integers(len(data))] ^= 1 << rng.integers(8)
        else:
            del broken[rng.integers(len(data)) :]
        try:
            again = skops.io.loads(bytes(broken), trusted=[path])
        except Exception as error:
            outcomes.append(type(error).__name__)
        else:
            np.testing.assert_array_equal(again.score_samples(X), scores)
    assert outcomes


LOADERS = ["ObjectNode", "FunctionNode", "TypeNode", "MethodNode", "ReduceNode"]


def test_skops_runs_no_code_of_an_altered_file(path, model, monkeypatch):
    """A class of the file's own choice is not called, wherever in the file it stands, and refused at the top."""
    calls = []
    canary = types.ModuleType("canary")
    canary.Canary = type("Canary", (), {"__new__": lambda *args: calls.append("new"), "__module__": "canary"})
    canary.sing = lambda *args: calls.append("called")
    monkeypatch.setitem(sys.modules, "canary", canary)
    archive = zipfile.ZipFile(io.BytesIO(skops.io.dumps(model)))
    schema = json.loads(archive.read("schema.json"))
    for place in _one_node_of_each_kind(schema):
        kept = {key: place[key] for key in ("__module__", "__class__", "__loader__")}
        for name, loader in itertools.product(["Canary", "sing"], [place["__loader__"], *LOADERS]):
            place |= {"__module__": "canary", "__class__": name, "__loader__": loader}
            with contextlib.suppress(Exception):  # of many types, and all of them skops's
                skops.io.loads(_repacked(archive, schema), trusted=[path])
        place |= kept
    assert calls == []
    schema |= {"__module__": "canary", "__class__": "Canary"}
    with pytest.raises(skops.io.exceptions.UntrustedTypesFoundException):
        skops.io.loads(_repacked(archive, schema), trusted=[path])


def _one_node_of_each_kind(schema):
    found, waiting = {}, [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            found |= {node["__loader__"]: node} if "__loader__" in node else {}
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return list(found.values())


def _repacked(archive, schema):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as other:
        for name in archive.namelist():
            other.writestr(name, json.dumps(schema) if name == "schema.json" else archive.read(name))
    return buffer.getvalue()


def test_a_device_object_is_saved_by_its_name(path, X):
    model = CLASSES[path](2, device=torch.device("cpu"))
    assert skops.io.get_untrusted_types(data=skops.io.dumps(model)) == [path]
    assert pickle.loads(pickle.dumps(model)).device == "cpu"
    assert model.device == torch.device("cpu")


# --- Versions -------------------------------------------------------------------------------------------------------


def test_same_version_loads_in_silence(model, X):
    again = pickle.loads(pickle.dumps(model))
    assert "_skvae_version" not in vars(again)
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))


@pytest.mark.parametrize("way", ["pickle", "skops"])
def test_other_version_warns_and_loads(path, model, X, way, monkeypatch):
    pretend(monkeypatch, "0.2.0")
    data = pickle.dumps(model) if way == "pickle" else skops.io.dumps(model)
    pretend(monkeypatch, "0.3.1")
    with pytest.warns(VersionWarning) as caught:
        again = pickle.loads(data) if way == "pickle" else skops.io.loads(data, trusted=[path])
    name = path.rsplit(".", 1)[1]
    assert str(caught[0].message) == (
        f"This {name} was saved by skvae 0.2.0 and is loaded by skvae 0.3.1. Its scores may differ: fit it anew, or "
        "load it with the version that saved it."
    )
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))


def test_version_warning_is_one_of_scikit_learns(model, monkeypatch):
    """Who turns scikit-learn's warning into an error means ours too."""
    pretend(monkeypatch, "0.2.0")
    data = pickle.dumps(model)
    pretend(monkeypatch, "0.3.1")
    with pytest.warns(InconsistentVersionWarning) as caught:
        pickle.loads(data)
    message = caught[0].message
    assert (message.estimator_name, message.original_version, message.current_version) == (
        type(model).__name__,
        "0.2.0",
        "0.3.1",
    )


def test_unfitted_models_record_their_version_too(path, monkeypatch):
    pretend(monkeypatch, "0.2.0")
    state = CLASSES[path]().__getstate__()
    assert state["_skvae_version"] == "0.2.0"


# --- States that do not fit -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::skvae._model.persistence.VersionWarning")  # tested above
@pytest.mark.parametrize(
    ("loading", "advice"),
    [("0.3.0", "Load it with the version that saved it"), ("0.2.0", "Take another copy of the file")],
    ids=["other version", "same version"],
)
def test_state_that_cannot_be_read_is_refused(loading, advice, path, model, monkeypatch):
    pretend(monkeypatch, "0.2.0")
    state = model.__getstate__()
    state["_fitted"] = {key: value for key, value in state["_fitted"].items() if key != "flat"}
    name = path.rsplit(".", 1)[1]
    pretend(monkeypatch, loading)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        CLASSES[path].__new__(CLASSES[path]).__setstate__(state)
    assert str(caught.value) == (
        f"This {name}, saved by skvae 0.2.0, cannot be read by skvae {loading} (KeyError: 'flat'). {advice}, or fit it "
        "anew."
    )


def test_any_missing_part_is_refused(path, model):
    complete = model.__getstate__()
    young = {
        "bounds",
        "calibration_rows",
        "fixed",
        "labelled",
        "patterns",
        "quantiles",
    }  # without them it is a file of an earlier version
    for key in complete["_fitted"].keys() - young:
        state = copy.copy(complete)
        state["_fitted"] = {k: v for k, v in complete["_fitted"].items() if k != key}
        with pytest.raises(ValueError, match="cannot be read by skvae"):
            CLASSES[path].__new__(CLASSES[path]).__setstate__(state)


def test_weights_of_another_size_are_refused(path, model):
    state = model.__getstate__()
    state["_fitted"] = state["_fitted"] | {"flat": np.zeros(7, dtype=np.float32)}
    with pytest.raises(ValueError, match="cannot be read by skvae"):
        CLASSES[path].__new__(CLASSES[path]).__setstate__(state)


def test_altered_parts_are_refused_or_harmless(path, model, X, seed):
    """Whatever one part of a state becomes: loading says that it cannot be read, or the model scores."""
    state = model.__getstate__()
    parts = list(_parts(state["_fitted"]))
    rng = np.random.default_rng(seed)
    outcomes = []
    for index in rng.permutation(len(parts))[:12]:
        keys, value = parts[index]
        shorter = value[:-1] if isinstance(value, np.ndarray) and value.ndim else -1
        for other in (None, "x", shorter):
            altered = copy.deepcopy(state)
            reduce(operator.getitem, keys[:-1], altered["_fitted"])[keys[-1]] = other
            again = CLASSES[path].__new__(CLASSES[path])
            try:
                again.__setstate__(altered)
            except ValueError as error:
                assert "cannot be read by skvae" in str(error)  # noqa: PT017
                outcomes.append("refused")
            else:
                assert np.isfinite(again.score_samples(X)).all()
                outcomes.append("harmless")
    assert set(outcomes) == {"refused", "harmless"}


def _parts(state, keys=()):
    """What a nested state holds, with the keys that lead there."""
    nested = isinstance(state, dict) or (isinstance(state, list) and state and isinstance(state[0], dict))
    if not nested:
        yield keys, state
        return
    for key, value in state.items() if isinstance(state, dict) else enumerate(state):
        yield from _parts(value, (*keys, key))
