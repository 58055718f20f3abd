"""Scores by name: each says all that others need to know of it, and one more needs no other file."""

import inspect
import pickle
import re

import numpy as np
import pytest
import torch

from skvae import AutoencoderTransformer, VAETransformer
from skvae._data import sample
from skvae._densities.density import Density
from skvae._densities.gaussian import GaussianDensity, fit_gaussian
from skvae._model.comparison import compare
from skvae._model.plan import Plan
from skvae._model.scores import SCORES, Score, score_names

KINDS = {"autoencoder": AutoencoderTransformer, "vae": VAETransformer}
SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
pytestmark = pytest.mark.filterwarnings("ignore:The loss still improved:sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("name", SCORES)
def test_a_score_declares_all(name):
    """No other file asks for its name."""
    score = SCORES[name]
    assert score.name == name
    assert set(score.models) <= set(KINDS)
    assert len(score.models) > 0
    assert {type(score.is_density), type(score.by_likelihood), type(score.needs_residuals)} == {bool}
    assert all(issubclass(density, Density) for density in score.densities)
    assert bool(score.densities) == (type(score).fit is not Score.fit)
    assert not inspect.isabstract(type(score))


@pytest.mark.parametrize("plan", Plan.__subclasses__())
def test_the_default_is_a_score_of_the_model(plan):
    assert plan.default_scores == ("joint", "local")
    assert {*plan.default_scores, *plan.earlier_default_scores} <= score_names(plan.model)
    # Rules that ask before rows are known ask for what both need.
    kinds = {(s.is_density, s.by_likelihood, s.needs_residuals) for s in map(SCORES.get, plan.default_scores)}
    assert len(kinds) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_score_method_names_those_of_the_model(kind, rng):
    """In the message too, whatever the registry holds."""
    estimator = KINDS[kind](score_method="likelihood")
    with pytest.raises(ValueError, match=r"\AThe 'score_method' parameter of .* must be a str among") as caught:
        estimator.fit(rng.standard_normal((30, 2)))
    assert set(re.findall(r"'(\w+)'", str(caught.value))) - {"score_method", "likelihood"} == score_names(kind)


@pytest.fixture
def in_order(monkeypatch):
    """The order in which rows train follows from their content; here, from their place in the table."""
    monkeypatch.setattr(sample, "canonical_rows", lambda X, weight: (np.arange(len(X)), weight))


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", SCORES)
def test_a_log_density_moves_with_the_units_and_nothing_else_does(kind, method, rng):
    """By minus the logarithm of the factor for each column."""
    if method not in score_names(kind):
        return
    X = rng.standard_normal((200, 3))
    model = KINDS[kind](**SMALL, score_method=method)
    before, after = (model.fit(factor * X).score_samples(factor * X) for factor in (1.0, 8.0))
    moved = -3 * np.log(8.0) if SCORES[method].is_density else 0.0
    # 8: the scaled rows are the same to the bit. Measured over five seeds: 3e-15.
    np.testing.assert_allclose(after - before, moved, atol=1e-12)


# --- One more score ------------------------------------------------------------------------------------------------


class Mahalanobis(Score):
    """Minus the Mahalanobis distance of the residual: needs the density of the residuals and none of its own."""

    name = "mahalanobis"
    is_density = False
    needs_residuals = True

    def compute(self, scoring):
        residual = compare(scoring.module, scoring.x).residual
        return -scoring.member.densities["residual"].to(residual).whiten(residual).norm(dim=-1)


@pytest.fixture
def mahalanobis(monkeypatch):
    monkeypatch.setitem(SCORES, "mahalanobis", Mahalanobis())


@pytest.mark.usefixtures("mahalanobis", "in_order")
@pytest.mark.parametrize("kind", KINDS)
def test_one_more_score(kind, rng):
    """Fitted, scaled, saved and refused by name, from this file alone."""
    X = rng.standard_normal((300, 2)) @ rng.standard_normal((2, 5)) + 0.1 * rng.standard_normal((300, 5))
    model = KINDS[kind](**SMALL, score_method="mahalanobis").fit(X)
    scores = model.score_samples(X)
    fitted = model._fitted
    residual = (X - model.reconstruct(X)) / model.scale_
    density = fitted.members[0].densities["residual"]
    covariance = np.linalg.inv((density.whitener @ density.whitener.T).numpy())
    centred = residual - density.mean.numpy()
    expected = -np.sqrt(np.einsum("ij,jk,ik->i", centred, np.linalg.inv(covariance), centred))
    # Measured over five seeds: 1e-13.
    np.testing.assert_allclose(scores, expected, rtol=1e-9)
    assert set(fitted.members[0].densities) - {"latent"} == {"residual"}
    # No log-density: the units of the columns do not move it.
    np.testing.assert_allclose(model.fit(8.0 * X).score_samples(8.0 * X), scores, rtol=1e-9)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.score_samples(8.0 * X), model.score_samples(8.0 * X))
    np.testing.assert_allclose(model.explain(X[:2] * 8.0).contributions.sum(axis=1), model.score_samples(X[:2] * 8.0))
    assert 0.0 < (model.predict(8.0 * X) == -1).mean() < 0.5


@pytest.mark.usefixtures("mahalanobis")
def test_a_graph_refuses_the_score_that_it_does_not_know(rng):
    from skvae.onnx import to_onnx

    model = AutoencoderTransformer(**SMALL, score_method="mahalanobis").fit(rng.standard_normal((100, 3)))
    message = (
        "to_onnx cannot express score_method='mahalanobis'. Fit with another one, such as 'joint', or serve the "
        "estimator itself."
    )
    with pytest.raises(ValueError, match=rf"\A{re.escape(message)}\Z"):
        to_onnx(model)


class Other(GaussianDensity):
    """A density that graphs have no form for."""


class OfOther(type(SCORES["joint"])):
    """A score by it."""

    densities = (Other,)

    def fit(self, evidence):
        return Other(**vars(fit_gaussian(evidence.joint, evidence.weight)))


def test_a_graph_refuses_the_density_that_it_does_not_know(rng, monkeypatch):
    from skvae.onnx import to_onnx

    monkeypatch.setitem(SCORES, "joint", OfOther())
    model = AutoencoderTransformer(**SMALL, score_method="joint").fit(rng.standard_normal((100, 3)))
    message = (
        "to_onnx cannot express the density Other. Fit with score_method='residual', or serve the estimator itself."
    )
    with pytest.raises(ValueError, match=rf"\A{re.escape(message)}\Z"):
        to_onnx(model)


def test_the_registry_is_as_it_was():
    assert "mahalanobis" not in SCORES
    with pytest.raises(ValueError, match="must be a str among"):
        AutoencoderTransformer(score_method="mahalanobis").fit(torch.zeros(30, 2).numpy())
