"""The autoencoder: what its scores are, what its parameters do, and that a network is worth more than a line."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from skvae import AutoencoderTransformer

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:false_alarm_rate=:UserWarning"),
]

METHODS = ["joint", "residual", "neighbor", "reconstruction"]


def circle(n_samples, seed):
    """Rows around a closed curve in five columns: one cause, but no line holds it."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0.0, 2.0 * np.pi, size=(n_samples, 1))
    return np.sin(angle * [1.0, 1.0, 2.0, 1.0, 2.0] + [0.0, 1.6, 0.3, 0.8, 2.0]) + 0.05 * rng.normal(
        size=(n_samples, 5)
    )


@pytest.fixture(scope="module")
def rows(seed):
    return circle(600, seed), circle(300, seed + 1)


def make(**parameters):
    return AutoencoderTransformer(**({"n_components": 2, "hidden_layer_sizes": (32,), "random_state": 0} | parameters))


def test_network_reconstructs_what_pca_cannot(rows):
    X, fresh = rows
    model, line = make(noise=0.0, max_iter=150).fit(X), PCA(2).fit(X)
    own = ((model.reconstruct(fresh) - fresh) ** 2).mean()
    best = ((line.inverse_transform(line.transform(fresh)) - fresh) ** 2).mean()
    assert own < 0.6 * best


def test_start_is_pca(rows):
    """Without noise on the input: before training has moved anything, rows are rebuilt as by PCA of scaled columns."""
    X, fresh = rows
    model = make(max_iter=1, learning_rate_init=1e-12, alpha=0.0, noise=0.0, calibration_fraction=0.0).fit(X)
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    line = PCA(2).fit(scaled)
    inner = (fresh - X.mean(axis=0)) / X.std(axis=0)
    expected = line.inverse_transform(line.transform(inner)) * X.std(axis=0) + X.mean(axis=0)
    # The weights are float32.
    np.testing.assert_allclose(model.reconstruct(fresh), expected, atol=1e-5)


def test_residual_score_is_a_gaussian_log_density(rows):
    """Of the residual in the units of X, with the covariance of the training residuals, shrunk as far as rows ask for
    that are left out one by one.
    """
    X, fresh = rows
    model = make(score_method="residual", max_iter=5, calibration_fraction=0.0).fit(X)
    residual = (X - model.reconstruct(X)) / model.scale_

    def shrunk(residual, share, target):
        return (1 - share) * np.cov(residual.T, bias=True) + share * target * np.eye(5)

    spread = residual.var(axis=0).mean()
    likelihoods = dict.fromkeys((0.01, 0.02, 0.05), 0.0)
    for k in range(len(residual)):
        others = np.delete(residual, k, axis=0)
        for share in likelihoods:
            density = multivariate_normal(others.mean(axis=0), shrunk(others, share, spread))
            likelihoods[share] += density.logpdf(residual[k])
    covariance = shrunk(residual, max(likelihoods, key=likelihoods.get), spread) + 1e-6 * np.eye(5)
    density = multivariate_normal(residual.mean(axis=0), covariance)
    expected = density.logpdf((fresh - model.reconstruct(fresh)) / model.scale_) - np.log(model.scale_).sum()
    # 3e-8: the training residuals come from float32 rows.
    np.testing.assert_allclose(model.score_samples(fresh), expected, atol=1e-5)


def test_reconstruction_score_is_the_mean_squared_error(rows):
    X, fresh = rows
    model = make(score_method="reconstruction", max_iter=3).fit(X)
    expected = -(((fresh - model.reconstruct(fresh)) / model.scale_) ** 2).mean(axis=1)
    np.testing.assert_allclose(model.score_samples(fresh), expected, rtol=1e-9)


def test_neighbor_score_of_a_stored_row_is_zero(rows):
    X, _ = rows
    model = make(score_method="neighbor", max_iter=2, calibration_fraction=0.0).fit(X)
    # 5e-7: references were scaled in float32, queries in float64.
    np.testing.assert_allclose(model.score_samples(X), 0.0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_score_for_model_selection_does_not_depend_on_the_score_method(rows, method):
    X, fresh = rows
    assert make(score_method=method, max_iter=3).fit(X).score(fresh) == make(max_iter=3).fit(X).score(fresh)


def test_automatic_score_is_joint(rows):
    X, fresh = rows
    scores = [make(score_method=method, max_iter=3).fit(X).score_samples(fresh) for method in ("auto", "joint")]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("method", METHODS)
def test_every_score_finds_rows_off_the_curve(rows, method, seed):
    X, fresh = rows
    away = np.random.default_rng(seed).uniform(-1.0, 1.0, size=fresh.shape)
    model = make(score_method=method, noise=0.0, max_iter=30).fit(X)
    scores = model.score_samples(np.vstack([fresh, away]))
    truth = np.repeat([1, 0], len(fresh))
    # Over five seeds 0.95 and more for the plain error, 0.98 and more for the others.
    assert roc_auc_score(truth, scores) > 0.9


def test_score_of_several_networks_is_their_mean_and_features_are_the_first_ones(rows):
    X, fresh = rows
    model = make(n_networks=3, max_iter=3, score_method="reconstruction").fit(X)
    errors = []
    for member in model._fitted.members:
        x = (fresh - model.mean_) / model.scale_
        module = member.module.converted(torch.float64)
        errors.append(((x - module.reconstruct(torch.from_numpy(x)).detach().numpy()) ** 2).mean(axis=1))
    np.testing.assert_allclose(model.score_samples(fresh), -np.mean(errors, axis=0), rtol=1e-9)
    assert np.std(errors, axis=0).max() > 0


@pytest.mark.parametrize(("contamination", "expected"), [("auto", 12), (0.1, 2)])
def test_automatic_width_of_the_code(contamination, expected, seed):
    """All columns where noise keeps the network from copying, 15 % of them where none does."""
    rows = np.random.default_rng(seed).normal(size=(60, 12))
    model = make(n_components="auto", contamination=contamination, max_iter=1).fit(rows)
    assert model.n_components_ == expected
    assert model.transform(rows).shape == (60, expected)


def test_trimming_keeps_gross_rows_out_of_the_training(rows, seed):
    X, fresh = rows
    dirty = np.vstack([X, np.random.default_rng(seed).normal(size=(30, 5)) * 20.0])
    flagged = make(contamination=0.1, max_iter=20).fit(dirty).predict(dirty) < 0
    assert flagged[-30:].all()
    assert flagged.sum() == 63


@pytest.mark.parametrize(("likelihood", "draw"), [("bernoulli", "binomial"), ("poisson", "poisson")])
def test_likelihood_decides_the_range_of_the_reconstruction(likelihood, draw, seed):
    rng = np.random.default_rng(seed)
    rows = rng.binomial(1, 0.3, size=(200, 4)) if draw == "binomial" else rng.poisson(3.0, size=(200, 4))
    decoded = make(likelihood=likelihood, max_iter=3).fit(rows.astype(float)).reconstruct(rows.astype(float))
    assert decoded.min() >= 0
    if likelihood == "bernoulli":
        assert decoded.max() <= 1


def test_value_outside_the_domain_is_named(rows):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole message follows
        make(likelihood="bernoulli").fit(np.array([[0.0, 1.0], [1.0, 3.0], [0.5, 0.0]]))
    assert str(caught.value) == (
        "Column 'x1' must lie in [0, 1] for likelihood 'bernoulli', but row 1 holds 3.0. Use 'gaussian', or encode the "
        "column first."
    )


def test_p_values_need_held_out_rows(rows):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole message follows
        make(contamination=0.1, max_iter=1).fit(rows[0]).p_values(rows[1])
    assert str(caught.value) == (
        "p_values needs normal rows that did not train, and this fit kept none. Fit with contamination='auto' on more "
        "rows, or call calibrate(X_normal) first."
    )


def test_loss_curve_falls(rows):
    model = make(noise=0.0, max_iter=40).fit(rows[0])
    assert len(model.loss_curve_) == model.n_iter_ == 40
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_few_rows_that_may_be_anomalous_are_not_learned_by_heart(seed):
    """Twelve columns of four causes and a category of forty levels: what is flagged of rows to come stays bounded."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(1200, 4)) @ rng.normal(size=(4, 12)) + 0.5 * rng.normal(size=(1200, 12))
    table = pd.DataFrame(numbers, columns=[f"x{j}" for j in range(12)])
    table["place"] = [f"p{k % 40:02d}" for k in range(1200)]
    model = AutoencoderTransformer(contamination=0.05, random_state=0).fit(table[:200])
    assert (model.predict(table[200:]) == -1).mean() < 0.5
