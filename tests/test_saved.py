"""Models that an earlier version saved: they load, say the same, train on, and are saved again as they were.

`tests/saved/make.py` made the files, with the commit before the modules went into folders.
"""

import io
import pickle
import re
import zipfile

import numpy as np
import pytest
import skops.io
import torch
from saved.make import CASES, FOLDER, fitted, read_table
from sklearn.base import clone

from skvae._data import sample
from skvae._data.inputs import InputLayer
from skvae._densities import residuals
from skvae._model import vae_plan
from skvae._networks import starts
from skvae._training import feeder

pytestmark = [
    pytest.mark.filterwarnings("ignore::skvae._model.persistence.VersionWarning"),  # that is the case
    pytest.mark.filterwarnings("ignore:The loss still improved"),  # twelve epochs are meant to be too few
    pytest.mark.filterwarnings("ignore:No component of the latent space"),  # likewise
]

FOREIGN = {"numpy", "builtins", "copyreg"}
# Keys that a later version adds. The version that wrote the files looks up its own keys, and does not see them.
LATER = {
    "bounds": set(),
    "calibration_rows": set(),
    "fixed": set(),
    "labelled": set(),
    "patterns": set(),
    "quantiles": set(),
    "columns": {"rarest", "rarest_rows", "new_share"},
    "table": {"rare", "left_out", "dates"},
    "plain": {"false_alarm_rate", "contamination", "n_draws", "departure_cost", "reliability"},
}
# Parameters that a later version has, and what they are in a model that was made without.
LATER_PARAMETERS = {"max_time": None, "marginals": None, "n_jobs": None, "decoder": "independent"}
# What "auto" meant as the score of a VAE then: a model says so by name once it is loaded.
EARLIER_SCORES = {name: "log_likelihood" for name in CASES if name.startswith("vae")}
WAYS = ["pickle", "skops"]


@pytest.fixture(params=CASES)
def name(request):
    return request.param


@pytest.fixture
def stored(name):
    """Tables and what was said of them."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def X(stored):
    return read_table(stored, "X")


@pytest.fixture
def fresh(stored):
    return read_table(stored, "fresh")


@pytest.fixture
def order_by_bits(monkeypatch):
    """The order of the rows in the version that wrote the files: another order is another fit."""
    monkeypatch.setattr(sample, "_content_order", lambda X: np.argsort(sample._row_hash(X), kind="stable"))


@pytest.fixture
def whole_correlations(monkeypatch):
    """The version that wrote the files started at factor analysis as it is."""
    monkeypatch.setattr(starts.Moments, "shrinkage", lambda self, rows: 0.0)


@pytest.fixture
def same_dropout(name):
    """The version that wrote the files drew its dropout by torch 2.13; the generator of 2.4 has another stream."""
    drawn = torch.empty(1000).bernoulli_(0.5, generator=torch.Generator().manual_seed(0)).sum()
    if name.startswith("vae") and drawn != 500:
        pytest.skip(f"torch {torch.__version__} draws another dropout than the version that wrote the files")


@pytest.fixture
def earlier_draws(monkeypatch):
    """The version that wrote the files drew dropout and the noise of categories in other ways, of the same law."""

    def toss(factors, keep, generator):
        factors.bernoulli_(keep, generator=generator).div_(keep)

    def noisy(self, x, mask, scale, generator):
        hit = torch.rand(len(x), len(self.probabilities), generator=generator) < 0.5 * scale
        swapped = x.clone()
        for index, (column, shares) in enumerate(self.probabilities):
            drawn = torch.multinomial(torch.tensor(shares), len(x), replacement=True, generator=generator)
            swapped[:, column] = torch.where(hit[:, index] & ~x[:, column].isnan(), drawn.to(x), x[:, column])
        values = self.values(swapped, mask)
        noise = torch.empty_like(values).normal_(generator=generator).mul_(scale)
        return self.join(values + noise.mul_(torch.from_numpy(self._layout.numeric)), mask)

    monkeypatch.setattr(feeder, "toss", toss)
    monkeypatch.setattr(InputLayer, "noisy", noisy)


@pytest.fixture
def earlier_floor(monkeypatch):
    """The least noise scale of a VAE in the version that wrote the files."""
    monkeypatch.setattr(vae_plan, "_FLOOR", 0.03)


@pytest.fixture
def one_mixture(monkeypatch):
    """The version that wrote the files fitted one mixture to the rows and their residuals."""
    monkeypatch.setattr(residuals, "_N_STARTS", 1)


@pytest.fixture
def any_length(monkeypatch):
    """The version that wrote the files asked for no noise in a row."""
    monkeypatch.setattr(residuals.JointDensity, "typical", lambda self, *rows: self)


@pytest.fixture
def one_shrinkage(monkeypatch):
    """The version that wrote the files shrank the covariance of all residuals alike."""
    monkeypatch.setattr("skvae._model.finishing.covariance_shrinkage", lambda rows, most, least: most)


@pytest.fixture
def earlier_noise(monkeypatch):
    """The noise scales that the training ends with."""
    monkeypatch.setattr("skvae._model.finishing.with_noise_of", lambda fitted, _: fitted)


def class_path(name):
    return f"{CASES[name][0].__module__}.{CASES[name][0].__name__}"


def load(name, way):
    if way == "pickle":
        return pickle.loads((FOLDER / f"{name}.pkl").read_bytes())
    return skops.io.load(FOLDER / f"{name}.skops", trusted=[class_path(name)])


def readable(name, table):
    """Rows without a blank category. A blank one is read as its likeliest level now, which moves its row's score."""
    if name != "ae_mixed":
        return np.ones(len(table), dtype=bool)
    return ~table[["colour", "large", "grade"]].isna().any(axis=1).to_numpy()


class State:
    """Stands in for a class of ours: takes what a pickle holds, and reads nothing of it."""

    def __setstate__(self, state):
        self.state = state


class Reader(pickle.Unpickler):
    """Reads a pickle without the package, and notes whose classes it names."""

    def __init__(self, file):
        super().__init__(file)
        self.paths = set()

    def find_class(self, module, name):
        self.paths.add((module, name))
        return State if module.startswith("skvae") else super().find_class(module, name)


def state_in(data):
    """The state of a pickle, and the paths that it names."""
    reader = Reader(io.BytesIO(data))
    return reader.load().state, reader.paths


def differences(a, b, place="state"):
    """Where two states are not the same, in types, keys, order, values or bits."""
    if type(a) is not type(b):
        return [f"{place}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, dict):
        if list(a) != list(b):
            return [f"{place}: keys {list(a)} and {list(b)}"]
        return [found for key in a for found in differences(a[key], b[key], f"{place}[{key!r}]")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{place}: {len(a)} and {len(b)} entries"]
        return [found for i, pair in enumerate(zip(a, b, strict=True)) for found in differences(*pair, f"{place}[{i}]")]
    if isinstance(a, np.ndarray):
        same = (a.dtype, a.shape) == (b.dtype, b.shape) and (a.tolist() == b.tolist() or a.tobytes() == b.tobytes())
        return [] if same else [f"{place}: {a} and {b}"]
    return [] if a == b or (a != a and b != b) else [f"{place}: {a!r} and {b!r}"]


def as_before(state):
    """A state without the keys that came later."""
    state = {k: v for k, v in state.items() if k not in LATER_PARAMETERS or v != LATER_PARAMETERS[k]}
    fitted = {key: value for key, value in state["_fitted"].items() if key not in LATER}
    for part, keys in LATER.items():
        whole = state["_fitted"].get(part)
        if keys:
            fitted[part] = None if whole is None else {key: value for key, value in whole.items() if key not in keys}
    return state | {"_fitted": {key: fitted[key] for key in state["_fitted"] if key in fitted}}


def test_differences_are_found():
    """Otherwise the laws below would say nothing."""
    a = {"x": [1, (2.0, None)], "y": np.zeros(2)}
    assert differences(a, {"x": [1, (2.0, None)], "y": np.zeros(2)}) == []
    assert differences(a, {"x": [1, (2.0, None)], "y": np.zeros(2, np.float32)}) == ["state['y']: [0. 0.] and [0. 0.]"]
    assert differences(a, {"x": [1, [2.0, None]], "y": np.zeros(2)}) == ["state['x'][1]: tuple and list"]
    assert differences(a, {"x": [True, (2.0, None)], "y": np.zeros(2)}) == ["state['x'][0]: int and bool"]
    assert differences(a, {"y": np.zeros(2), "x": [1, (2.0, None)]}) == ["state: keys ['x', 'y'] and ['y', 'x']"]


@pytest.mark.parametrize("way", WAYS)
def test_says_what_it_said(name, way, stored, fresh):
    """The weights are the same, and scores are computed in float64: another processor adds 1e-14."""
    model = load(name, way)
    np.testing.assert_array_equal(model.offset_, stored["offset_"])
    np.testing.assert_allclose(model.transform(fresh), stored["transform"], rtol=1e-9, atol=1e-9)
    same = readable(name, fresh)
    assert (~same).sum() == (1 if name == "ae_mixed" else 0)
    np.testing.assert_array_equal(model.predict(fresh)[same], stored["predict"][same])
    for verb in ("score_samples", "p_values"):
        if verb in stored:
            np.testing.assert_allclose(getattr(model, verb)(fresh)[same], stored[verb][same], rtol=1e-9, atol=1e-9)
    contributions = np.asarray(model.explain(fresh)[0])
    np.testing.assert_allclose(contributions[same], stored["explain"][same], rtol=1e-9, atol=1e-9)


def test_a_score_that_was_the_default_is_told_by_name():
    """So that the parameters, a clone and a fit anew say what the loaded model does."""
    assert {name: load(name, "pickle").score_method for name in EARLIER_SCORES} == EARLIER_SCORES
    assert load("ae", "pickle").score_method == "auto"


def test_p_values_are_stored_but_for_contamination():
    assert {name for name in CASES if "p_values" not in np.load(FOLDER / f"{name}.npz")} == {"ae_contamination"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("order_by_bits", "same_dropout", "earlier_draws", "earlier_floor", "any_length")
@pytest.mark.usefixtures("one_mixture", "one_shrinkage")
def test_trains_on_as_it_would_have(name, way, stored, X, fresh):
    """From the same state of the optimiser. A step in float32 rounds with the processor: by 1.6e-6, measured."""
    model = load(name, way).partial_fit(X)
    same = readable(name, fresh)
    np.testing.assert_allclose(model.score_samples(fresh)[same], stored["later"][same], rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_goes_on_with_a_warm_fit(name, way, stored, X, fresh):
    """In tiny steps, which leave the codes where a start anew would not."""
    model = load(name, way).set_params(warm_start=True, learning_rate_init=1e-9).fit(X)
    np.testing.assert_allclose(model.transform(fresh), stored["transform"], rtol=1e-5, atol=1e-5)
    assert np.isfinite(model.score_samples(fresh)).all()


@pytest.mark.parametrize("way", WAYS)
def test_is_saved_as_it_was(name, way):
    """Key for key and bit for bit, so that a file can also go back to the version that wrote the first."""
    state, _ = state_in((FOLDER / f"{name}.pkl").read_bytes())
    version = {"_skvae_version": load(name, way).__getstate__()["_skvae_version"]}  # the one thing that may change
    assert state["score_method"] == CASES[name][1].get("score_method", "auto")
    version["score_method"] = EARLIER_SCORES.get(name, state["score_method"])  # but for this
    assert differences(state | version, as_before(load(name, way).__getstate__())) == []
    again = skops.io.dumps(load(name, way))
    assert skops.io.get_untrusted_types(data=again) == [class_path(name)]
    again = skops.io.loads(again, trusted=[class_path(name)])
    assert differences(state | version, as_before(pickle.loads(pickle.dumps(again)).__getstate__())) == []


@pytest.mark.parametrize("when", ["stored", "saved again"])
def test_pickle_names_no_private_path(name, when):
    """A module that moves takes no saved model with it."""
    data = (FOLDER / f"{name}.pkl").read_bytes()
    _, paths = state_in(data if when == "stored" else pickle.dumps(pickle.loads(data)))
    ours = {path for path in paths if path[0].startswith("skvae")}
    assert ours == {(CASES[name][0].__module__, CASES[name][0].__name__)}
    assert {module.split(".")[0] for module, _ in paths - ours} <= FOREIGN


def test_skops_file_names_no_private_path(name):
    path = FOLDER / f"{name}.skops"
    assert skops.io.get_untrusted_types(file=path) == [class_path(name)]
    with zipfile.ZipFile(path) as archive:
        words = archive.read("schema.json").decode()
    assert set(re.findall(r"\bskvae[\w.]*", words)) == {CASES[name][0].__module__}


@pytest.mark.usefixtures("order_by_bits", "same_dropout", "whole_correlations", "earlier_draws", "earlier_floor")
@pytest.mark.usefixtures("one_mixture", "one_shrinkage", "any_length", "earlier_noise")
def test_a_fit_anew_gives_the_same_model(name, stored, X, fresh):
    """The same rows and parameters, fitted by this version in the same order, end where the earlier one did.

    This is what shows that the results of the benchmarks do not move: what decides them, the losses on the way, the
    best one and how rows are ranked, comes out the same for each kind of model. Other instructions of the processor
    change the losses by 2.5e-5 and the correlation of the scores by 2e-8, measured.
    """
    old = load(name, "pickle")
    model = fitted(name, clone(old), X)
    np.testing.assert_allclose(model.loss_curve_, old.loss_curve_, atol=1e-3)
    assert abs(model.best_loss_ - stored["best_loss_"]) < 1e-3
    same = readable(name, fresh)
    correlation = np.corrcoef(model.score_samples(fresh)[same], stored["score_samples"][same])[0, 1]
    # A seventh of the mixed rows that trained has a blank category, which the density of rows reads otherwise: 0.967.
    assert correlation > (0.95 if name == "ae_mixed" else 0.999)
    before, after = (_shape(as_before(estimator.__getstate__())) for estimator in (old, model))
    if old._fitted.table is None:  # a frame of numbers left no trace then
        before["_fitted"]["table"] = after["_fitted"]["table"]
    for state in (before, after):  # which components count as active knows the number of rows since then
        state.pop("active_components_", None)
    assert differences(before, after) == []


def _shape(state):
    """Keys, types, sizes of a state, without its values."""
    if isinstance(state, dict):
        return {key: _shape(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_shape(value) for value in state)
    return (state.dtype.str, state.shape) if isinstance(state, np.ndarray) else type(state).__name__


def test_every_case_has_its_files():
    files = {path.stem for path in FOLDER.iterdir() if path.suffix in (".pkl", ".skops", ".npz")}
    assert files == set(CASES)
    assert sum(path.stat().st_size for path in FOLDER.glob("*.*")) < 300 * 1024
