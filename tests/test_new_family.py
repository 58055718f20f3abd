"""A family is one class and its line in the registry: nothing else in the package knows a family by its name."""

import inspect
import math
import pickle

import numpy as np
import onnx
import pytest
import torch

from skvae import AutoencoderTransformer, VAETransformer
from skvae._data import sample
from skvae._support.compat import StrOptions
from skvae._support.graph import Graph
from skvae.likelihoods import LIKELIHOODS, Likelihood, make_likelihood
from skvae.onnx import to_onnx

FLOOR = 0.125
KINDS = {"autoencoder": AutoencoderTransformer, "vae": VAETransformer}
SMALL = {"hidden_layer_sizes": (8,), "max_iter": 3, "tol": 1e3, "calibration_fraction": 0.0, "random_state": 0}


class Laplace(Likelihood):
    """Noise of density exp(-|x - m| / b) / (2 b), with b = exp(s) + floor learned for each column."""

    name = "laplace"
    values = "real"
    takes_scale = True
    domain = "hold finite numbers"
    remedy = "Remove the row."
    has_scale = True

    def __init__(self, n_columns, *, scale="constant", floor=FLOOR):
        super().__init__(n_columns, n_columns, n_columns)
        self.scale_form, self.floor = scale, floor

    def config(self):
        return {"name": self.name, "n_columns": self.n_columns, "scale": self.scale_form, "floor": self.floor}

    def initial_free(self):
        return [-1.0] * self.n_free

    def _spread(self, free):
        return free.exp().unsqueeze(-2) + self.floor

    def _log_prob(self, x, outputs, free):
        return -(x - outputs).abs() / self._spread(free) - (2.0 * self._spread(free)).log()

    def _in_domain(self, column, index):
        return column.isfinite()

    def mean(self, outputs, free):
        return outputs

    def scale(self, outputs, free):
        return (math.sqrt(2.0) * self._spread(free)).expand_as(outputs)

    def sample(self, outputs, free, generator):
        uniform = torch.rand(outputs.shape, generator=generator, dtype=outputs.dtype, device=outputs.device) - 0.5
        return outputs - self._spread(free) * uniform.sign() * torch.log1p(-2.0 * uniform.abs())


@pytest.fixture
def register(monkeypatch):
    """Enters a family for one test, and its name in what the estimators take."""

    def enter(family):
        monkeypatch.setitem(LIKELIHOODS, family.name, family)
        for kind in KINDS.values():
            allowed = [StrOptions({"auto", *LIKELIHOODS}), dict]
            monkeypatch.setitem(kind._parameter_constraints, "likelihood", allowed)

    return enter


@pytest.fixture(params=["all", "one"])
def fitted(request, make_laplace):
    return make_laplace("laplace" if request.param == "all" else {1: "laplace"})


@pytest.fixture(params=KINDS)
def make_laplace(request, register, X):
    """An estimator of each class, fitted with the new family for all columns or some."""
    register(Laplace)
    own = {"scale": "constant", "min_scale": FLOOR, "latent_density": "normal"} if request.param == "vae" else {}
    return lambda likelihood, rows=X: KINDS[request.param](2, likelihood=likelihood, **SMALL, **own).fit(rows)


@pytest.fixture
def X(rng):
    z = rng.normal(size=(200, 2))
    return 1000.0 + 100.0 * (z @ rng.normal(size=(2, 4)) + 0.3 * rng.laplace(size=(200, 4)))


# --- A family that is registered later ------------------------------------------------------------------------------


def test_its_columns_are_scaled(fitted, X):
    np.testing.assert_allclose(fitted.scale_, X.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fitted.mean_, X.mean(axis=0), rtol=1e-12)


def test_units_move_its_score_by_their_logarithms(make_laplace, X, monkeypatch):
    """Powers of two leave the scaled rows as they are to the bit; the order of the rows follows their content."""
    monkeypatch.setattr(sample, "canonical_rows", lambda X, weight: (np.arange(len(X)), weight))
    units = np.array([2.0**3, 2.0**-2, 1.0, 2.0**10])
    for likelihood in ("laplace", {1: "laplace"}):
        plain, other = make_laplace(likelihood), make_laplace(likelihood, X * units)
        moved = other.score_samples(X * units) - plain.score_samples(X)
        # 3 - 2 + 0 + 10 times log(2); measured with the seeds 0 to 5: 8e-15
        np.testing.assert_allclose(moved, -11.0 * math.log(2.0), rtol=1e-12)


def test_its_noise_scale_is_in_the_units_of_the_columns(register, X):
    register(Laplace)
    vae = VAETransformer(2, likelihood="laplace", scale="constant", min_scale=FLOOR, **SMALL).fit(X)
    assert vae.module_.likelihood.config() == {
        "name": "laplace", "n_columns": 4, "scale": "constant", "floor": FLOOR,
    }  # fmt: skip
    spread = np.exp(vae.module_.free().detach().numpy()) + FLOOR
    np.testing.assert_allclose(vae.noise_scale_, math.sqrt(2.0) * spread * X.std(axis=0), rtol=1e-6)


def test_its_samples_lie_where_the_rows_do(register, X):
    register(Laplace)
    vae = VAETransformer(2, likelihood="laplace", scale="constant", **SMALL).fit(X)
    rows = vae.sample(2000, random_state=0)
    np.testing.assert_allclose(rows.mean(axis=0), X.mean(axis=0), atol=0.3 * X.std(axis=0).max())
    np.testing.assert_allclose(rows.std(axis=0), X.std(axis=0), rtol=0.5)


def test_pickle_returns_it_to_the_bit(fitted, X):
    twin = pickle.loads(pickle.dumps(fitted))
    assert twin.module_.likelihood == fitted.module_.likelihood
    for verb in ("score_samples", "transform", "reconstruct"):
        np.testing.assert_array_equal(getattr(twin, verb)(X), getattr(fitted, verb)(X))


def test_graphs_refuse_it_by_name(fitted):
    with pytest.raises(ValueError, match="laplace") as caught:
        to_onnx(fitted)
    assert str(caught.value) == (
        "to_onnx cannot express likelihood='laplace'. Fit with likelihood='gaussian', or serve the estimator itself."
    )


def test_its_onnx_form_is_none():
    with pytest.raises(NotImplementedError) as caught:
        Laplace(2).graph_mean(Graph(onnx, "float64"), "outputs")
    assert str(caught.value) == (
        "graph_mean needs a family with an ONNX form, but 'laplace' has none of it. Ask graph_terms first, or "
        "implement it."
    )


def test_a_model_of_a_family_that_left_the_registry_is_refused(monkeypatch):
    monkeypatch.setitem(LIKELIHOODS, "laplace", Laplace)
    config = make_likelihood({"name": "laplace", "n_columns": 2}).config()
    monkeypatch.delitem(LIKELIHOODS, "laplace")
    with pytest.raises(ValueError, match="laplace") as caught:
        make_likelihood(config)
    assert str(caught.value) == (
        "The name of a likelihood must be one of 'gaussian', 'student_t', 'bernoulli', 'categorical', 'poisson', "
        "'negative_binomial', but 'laplace' came. Pick one of them."
    )


# --- Laws of the registry -------------------------------------------------------------------------------------------

each_family = pytest.mark.parametrize("name", LIKELIHOODS)
# "auto" and "gaussian" are one for the autoencoder, and levels are found by the table, which knows one family of them.
RENAMED = [
    (kind, name)
    for kind in KINDS
    for name in LIKELIHOODS
    if name != "categorical" and (kind, name) != ("autoencoder", "gaussian")
]


@each_family
def test_every_family_declares_what_it_is(name):
    family = LIKELIHOODS[name]
    assert family.name == name
    assert family.values in {"real", "count", "share", "level"}
    assert isinstance(family.takes_scale, bool)
    assert set(family.graph_terms) <= {"mean", "log_prob"}
    for text in (family.domain, family.remedy):
        assert isinstance(text, str)
        assert text
    assert family.remedy.endswith(".")


@each_family
def test_a_family_takes_the_scale_that_it_declares(name):
    family = LIKELIHOODS[name]
    takes = {"scale", "floor"} & set(inspect.signature(family).parameters)
    assert takes == ({"scale", "floor"} if family.takes_scale else set())


@each_family
def test_a_family_has_the_onnx_form_that_it_declares(name):
    family = LIKELIHOODS[name]
    written = {term for term in ("mean", "log_prob") if has_its_own(family, f"graph_{term}")}
    assert written == set(family.graph_terms)


def has_its_own(family, method):
    return getattr(family, method) is not getattr(Likelihood, method)


@pytest.mark.parametrize(("kind", "name"), RENAMED)
@pytest.mark.parametrize(
    ("which", "missing"),
    [
        ("all", True),
        ("each", False),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in [("all", False), ("each", True)]),
    ],
)
def test_a_family_of_another_name_is_the_same_to_the_bit(kind, name, missing, which, register, rng, monkeypatch):
    """Scaled or not, checked, encoded and scored by what it says; a family that C knows is trained by torch here."""
    monkeypatch.setenv("SKVAE_NATIVE", "0")
    register(type("Twin", (LIKELIHOODS[name],), {"name": "twin"}))
    X = rng.poisson(2.0, (80, 3)).clip(0, 1 if LIKELIHOODS[name].values == "share" else None).astype(float)
    if missing:
        X[::7, 1] = np.nan
    own = {"latent_density": 1, "n_draws": 4} if kind == "vae" else {}
    first, second = (
        KINDS[kind](2, likelihood=given if which == "all" else dict.fromkeys(range(3), given), **SMALL, **own).fit(X)
        for given in (name, "twin")
    )
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))
    np.testing.assert_array_equal(first.scale_, second.scale_)
    assert refusal(first, X) == refusal(second, X).replace("twin", name)


def refusal(estimator, X):
    """What is said of a value that no family covers but those of real numbers."""
    try:
        estimator.score_samples(np.where(np.arange(3) == 1, -0.5, X))
    except ValueError as error:
        return str(error)
    return ""
