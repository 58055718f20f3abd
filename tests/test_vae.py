"""The variational autoencoder: its posterior, its draws, its noise, its bounds."""

import inspect
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import torch

from skvae import VAETransformer
from skvae._data.columns import Columns
from skvae._densities.bounds import surplus_kl
from skvae._model.fitted import bounds_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:false_alarm_rate=:UserWarning"),
]

UNITS = np.array([1.0, 100.0, 0.01, 1.0, 5.0, 1.0, 0.1, 1.0])
NOISE = UNITS * [0.3, 0.3, 0.4, 0.5, 0.4, 0.4, 0.3, 0.5]
LOADINGS = UNITS * [[1.0, 0.8, 1.0, 0.9, -0.2, 0.3, 0.1, -0.3], [-0.3, 0.1, 0.2, -0.1, 1.2, 0.9, 1.0, 0.8]]


@pytest.fixture(scope="module")
def X(seed):
    """Two causes in eight columns of different units, with known noise."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(1500, 2)) @ LOADINGS + NOISE * rng.normal(size=(1500, 8)) + [0, 50, 0, -3, 7, 0, 0, 1]


def make(**parameters):
    small = {"n_components": 2, "hidden_layer_sizes": (16,), "max_iter": 10, "random_state": 0}
    if "scale" in inspect.signature(VAETransformer).parameters:
        small["scale"] = "constant"
    return VAETransformer(**(small | parameters))


@pytest.fixture(scope="module")
def model(X):
    """A fit that no test changes."""
    return make().fit(X)


@pytest.fixture(scope="module")
def linear(X):
    """A linear fit that has converged; no test changes it."""
    return make(hidden_layer_sizes=(), max_iter=40).fit(X)


# --- Posterior ------------------------------------------------------------------------------------------------------


def test_features_are_the_posterior_means(model, X):
    mean, scale = model.latent_distribution(X[:40])
    np.testing.assert_array_equal(mean, model.transform(X[:40]))
    assert scale.shape == (40, 2)
    assert (scale > 0).all()


def test_divergence_of_each_component_equals_torch_distributions(X):
    """Over the training rows, which calibration_fraction=0 makes all."""
    model = make(calibration_fraction=0.0).fit(X)
    mean, scale = (torch.from_numpy(part) for part in model.latent_distribution(X))
    posterior, prior = torch.distributions.Normal(mean, scale), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(posterior, prior).mean(dim=0)
    # 1e-4: the attribute is computed in float32.
    np.testing.assert_allclose(model.kl_per_component_, expected.numpy(), rtol=1e-4)


def test_components_beyond_the_causes_carry_little(X):
    model = make(n_components=6, max_iter=40, hidden_layer_sizes=()).fit(X)
    kl = model.kl_per_component_
    assert len(model.active_components_) == 2
    assert sum(sorted(kl)[-2:]) > 5 * sum(sorted(kl)[:-2])


@pytest.mark.slow
@pytest.mark.parametrize("n_causes", [0, 3])
@pytest.mark.parametrize("n_samples", [200, 600, 3000])
def test_active_components_are_as_many_as_the_causes(n_causes, n_samples, seed):
    """Sixteen components of twenty columns: noise alone gives the others 0.1 to 0.8 nats."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_samples, n_causes)) @ rng.normal(size=(n_causes, 20)) + rng.normal(size=(n_samples, 20))
    model = VAETransformer(16, random_state=0).fit(rows)
    assert len(model.active_components_) == n_causes


def test_weights_count_in_what_the_rows_say(X):
    """Divergence of each component and noise of each column, from what each row has."""
    rows, weight = X[:400], np.where(np.arange(400) < 200, 0.25, 3.5)
    model = make(calibration_fraction=0.0, scale="dependent").fit(rows, sample_weight=weight)
    mean, scale = model.latent_distribution(rows)
    kl = 0.5 * (mean**2 + scale**2 - 1.0) - np.log(scale)
    np.testing.assert_allclose(model.kl_per_component_, weight @ kl / weight.sum(), rtol=1e-4)
    x = torch.from_numpy((rows - model.mean_) / model.scale_).float()
    with torch.no_grad():
        noise = model.module_.likelihood.scale(model.module_.decode(model.module_.encode(x)), model.module_.free())
    expected = model.scale_ * np.sqrt(weight @ noise.double().numpy() ** 2 / weight.sum())
    np.testing.assert_allclose(model.noise_scale_, expected, rtol=1e-4)


def test_noise_has_the_greatest_variance_that_random_matrices_have(seed):
    """A third of the threshold, 0.168 nats for 600 rows of 20 columns, is that of the first principal component."""
    rng = np.random.default_rng(seed)
    greatest = [np.linalg.svd(rng.normal(size=(600, 20)), compute_uv=False)[0] ** 2 / 600 for _ in range(50)]
    assert surplus_kl(600, 20) / 3.0 == pytest.approx(0.1676, abs=1e-4)
    # The law is one of ever larger tables: finite ones stay below it.
    assert 0.5 * np.mean(np.log(greatest)) == pytest.approx(0.152, abs=0.01)


def test_aggregate_posterior_resembles_the_prior(X):
    mean, scale = make(max_iter=20).fit(X).latent_distribution(X)
    np.testing.assert_allclose(mean.mean(axis=0), 0.0, atol=0.2)
    np.testing.assert_allclose(mean.var(axis=0) + (scale**2).mean(axis=0), 1.0, atol=0.25)


@pytest.mark.slow
def test_heavier_divergence_weight_gives_a_rougher_reconstruction(linear, X):
    heavier = make(beta=20.0, max_iter=40, hidden_layer_sizes=()).fit(X)
    errors = [(((fitted.reconstruct(X) - X) / X.std(axis=0)) ** 2).mean() for fitted in (linear, heavier)]
    assert errors[0] < errors[1]


# --- Noise ----------------------------------------------------------------------------------------------------------


def test_noise_scale_is_that_of_the_columns_in_their_units(linear):
    # 0.12: the largest relative difference over six seeds; the estimate from 1,200 rows varies by itself.
    np.testing.assert_allclose(linear.noise_scale_, NOISE, rtol=0.25)


def test_noise_scale_of_a_constant_column_is_zero(X):
    rows = X.copy()
    rows[:, 3] = 8.0
    model = make().fit(rows)
    assert model.noise_scale_[3] == 0.0
    assert (model.noise_scale_[[0, 1, 2, 4, 5, 6, 7]] > 0).all()
    assert (model.sample(20, random_state=0)[:, 3] == 8.0).all()


def test_columns_of_which_nothing_is_learned_have_no_noise_scale(X):
    """Those without a value, and identifiers."""
    table = pd.DataFrame(X, columns=list("abcdefgh")).assign(c=np.nan, g=[f"row {row}" for row in range(len(X))])
    with pytest.warns(UserWarning, match="^(Column 'c' holds no value|Identifiers are left out .* column 'g')"):
        model = make().fit(table)
    assert np.isnan(model.noise_scale_).nonzero()[0].tolist() == [2, 6]


def test_noise_scale_is_absent_where_the_likelihood_has_none(X):
    model = make().fit(X)
    assert hasattr(model, "noise_scale_")
    model.set_params(likelihood="bernoulli").fit((X > X.mean(axis=0)).astype(float))
    assert not hasattr(model, "noise_scale_")


# --- Density --------------------------------------------------------------------------------------------------------


def test_score_is_the_mean_log_likelihood(model, X):
    X = X[:400]
    np.testing.assert_allclose(model.score(X), model.log_likelihood(X).mean(), rtol=1e-12)
    weight = np.arange(len(X), dtype=float)
    np.testing.assert_allclose(
        model.score(X, sample_weight=weight), np.average(model.log_likelihood(X), weights=weight), rtol=1e-12
    )


def test_automatic_draws_are_eight_for_scores_and_32_for_densities(X):
    """The number tells every verb; the threshold knows by how many draws it was placed."""
    X, model = X[:400], make(max_iter=2, score_method="log_likelihood").fit(X)
    assert model.n_draws == "auto"
    verbs = ("score_samples", "log_likelihood", "effective_sample_size", "score")
    scores, density, size, mean = (getattr(model, verb)(X) for verb in verbs)
    labels, contributions = model.predict(X), model.explain(X[:3])[0]
    np.testing.assert_allclose(contributions.sum(axis=1), scores[:3], rtol=1e-9)
    model.set_params(n_draws=8)
    np.testing.assert_array_equal(model.score_samples(X), scores)
    np.testing.assert_array_equal(model.log_likelihood(X), scores)
    np.testing.assert_array_equal(model.predict(X), labels)  # without a warning: as many as placed the threshold
    model.set_params(n_draws=32)
    np.testing.assert_array_equal(model.log_likelihood(X), density)
    np.testing.assert_array_equal(model.score_samples(X), density)
    np.testing.assert_array_equal(model.effective_sample_size(X), size)
    assert model.score(X) == mean
    assert (scores != density).any()


def test_default_score_draws_nothing(X):
    """Draws of the posterior count in the densities alone, which are those of a model that scores by them."""
    rows, model = X[:200], make(max_iter=2).fit(X)
    verbs = ("score_samples", "predict", "log_likelihood", "score")
    scores, labels, density, mean = (getattr(model, verb)(rows) for verb in verbs)
    joint, by_density = (make(max_iter=2, score_method=method).fit(X) for method in ("joint", "log_likelihood"))
    np.testing.assert_array_equal(joint.score_samples(rows), scores)
    np.testing.assert_array_equal(by_density.log_likelihood(rows), density)
    np.testing.assert_allclose(mean, density.mean(), rtol=1e-12)
    model.set_params(n_draws=2)
    np.testing.assert_array_equal(model.score_samples(rows), scores)
    np.testing.assert_array_equal(model.predict(rows), labels)  # without a warning
    assert model.score(rows) < mean


@pytest.mark.parametrize("method", ["elbo", "log_likelihood", "residual", "neighbor", "reconstruction"])
def test_score_for_model_selection_does_not_depend_on_the_score_method(X, method):
    X = X[:400]
    assert make(score_method=method, max_iter=2).fit(X).score(X) == make(max_iter=2).fit(X).score(X)


def test_elbo_is_below_the_log_likelihood_in_every_row(X):
    """Both come from the same log-weights: a mean cannot exceed the log of the mean of exponentials."""
    model = make(score_method="elbo", max_iter=2, n_draws=32).fit(X)
    assert (model.score_samples(X) <= model.log_likelihood(X) + 1e-9).all()


def test_chunks_of_draws_do_not_change_the_bound(X):
    """41 draws do not divide into the chunks in which they are weighed."""
    model = make(n_draws=41, latent_density="normal").fit(X)
    fitted, rows = model._fitted, torch.from_numpy((X[:30] - model.mean_) / model.scale_)
    noise = torch.empty(41, 1, 2, dtype=torch.float64)
    noise.normal_(generator=torch.Generator().manual_seed(fitted.noise_seed))
    with torch.no_grad():
        log_weights = fitted.features.converted(torch.float64).log_weights(rows, rows, noise)
    expected = torch.logsumexp(log_weights, dim=0) - np.log(41) - np.log(model.scale_).sum()
    np.testing.assert_allclose(model.log_likelihood(X[:30]), expected.numpy(), rtol=1e-9)


@pytest.mark.slow
def test_search_prefers_the_true_number_of_causes(X):
    scores = [make(n_components=k, hidden_layer_sizes=(), max_iter=40).fit(X[:1000]).score(X[1000:]) for k in (1, 2)]
    assert scores[1] > scores[0] + 0.1


# --- Draws ----------------------------------------------------------------------------------------------------------


def test_draws_have_the_moments_of_the_data(linear, X):
    draws = linear.sample(20_000, random_state=1)
    assert draws.shape == (20_000, 8)
    np.testing.assert_allclose((draws.mean(axis=0) - X.mean(axis=0)) / X.std(axis=0), 0.0, atol=0.1)
    np.testing.assert_allclose(draws.std(axis=0) / X.std(axis=0), 1.0, atol=0.1)
    np.testing.assert_allclose(np.corrcoef(draws.T), np.corrcoef(X.T), atol=0.1)


def test_draws_depend_on_the_seed_alone(model):
    np.testing.assert_array_equal(model.sample(5, random_state=3), model.sample(5, random_state=3))
    assert not np.array_equal(model.sample(5, random_state=3), model.sample(5, random_state=4))
    assert not np.array_equal(model.sample(5), model.sample(5))
    assert model.sample().shape == (1, 8)


@pytest.mark.parametrize(
    ("n_samples", "shown"),
    [(0, "0"), (-2, "-2"), (1.5, "1.5"), ("all", "'all'"), (None, "None"), (True, "True")],
)
def test_wrong_number_of_draws_is_told(model, n_samples, shown):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole message follows
        model.sample(n_samples)
    assert str(caught.value) == f"The 'n_samples' parameter must be an int of at least 1. Got {shown} instead."


def test_bounded_samples_stay_in_the_range_of_the_training_rows(seed):
    """Squares are never negative; a Gaussian draws some below zero."""
    rng = np.random.default_rng(seed)
    X = np.square(rng.normal(size=(300, 1)) + 0.5 * rng.normal(size=(300, 2)))
    small = {"hidden_layer_sizes": (8,), "max_iter": 10, "tol": 1e3, "random_state": 0}
    model = VAETransformer(1, likelihood="gaussian", calibration_fraction=0.0, **small).fit(X)
    free, bounded = (
        model.sample(500, random_state=0, match_marginals=False, bounded=bounded) for bounded in (False, True)
    )
    assert (free < 0).any()
    np.testing.assert_array_equal(bounded, np.clip(free, X.min(axis=0), X.max(axis=0)))


@pytest.mark.parametrize("partial", [False, True])
def test_bounds_keep_the_precision_of_the_rows(seed, partial):
    """A fifth of the rows hold 0.0 exactly, another column ends at 0.1 and 1e9 + 0.1: bounded draws reach them."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.uniform(0.2, 2.0, 300) * (rng.random(300) > 0.2), rng.uniform(0.1, 0.3, 300)])
    X[:2, 1], big = [0.1, 0.3], 1e9 + 0.1 + np.arange(300) % 7
    X = np.column_stack([X, big])
    model = VAETransformer(1, likelihood="gaussian", calibration_fraction=0.0, max_iter=5, tol=1e9, random_state=0)
    model = model.partial_fit(X) if partial else model.fit(X)
    model = pickle.loads(pickle.dumps(model))
    drawn = model.sample(3000, random_state=0, match_marginals=False, bounded=True)
    assert (drawn.min(axis=0) == X.min(axis=0)).all()
    assert (drawn.max(axis=0) == X.max(axis=0)).all()
    far = X[:4].copy()
    far[:, 0] = 50.0
    expected = model.explain(far).expected
    assert (expected >= X.min(axis=0)).all()
    assert (expected <= X.max(axis=0)).all()


def test_bounds_leave_a_level_that_only_held_out_rows_have():
    """A code is no amount: its ends are the first and the last level, whatever the rows that trained hold."""
    values = torch.tensor([[0.0, 1.0], [1.0, 5.0], [0.0, 3.0]], dtype=torch.float64)
    columns = Columns(np.zeros(2), np.ones(2), np.zeros(2, dtype=bool), ("a", "b"), n_levels=(4, 0))
    np.testing.assert_array_equal(bounds_of(values, columns, torch.tensor([0, 2])), [[0, 1], [3, 3]])


# --- Parameters -----------------------------------------------------------------------------------------------------

BAD = {
    "beta": (-1.0, "must be a float in the range [0.0, inf). Got -1.0 instead."),
    "kl_warmup": (1.0, "must be a float in the range [0.0, 1.0). Got 1.0 instead."),
    "dropout": (1.0, "must be a str among {'auto'} or a float in the range [0.0, 1.0). Got 1.0 instead."),
    "n_draws": (0, "must be a str among {'auto'} or an int in the range [1, inf). Got 0 instead."),
    "n_training_draws": (0, "must be an int in the range [1, inf) or a str among {'auto'}. Got 0 instead."),
    "min_scale": (-0.1, "must be a str among {'auto'} or a float in the range [0.0, inf). Got -0.1 instead."),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_parameter_is_named_with_its_value(X, name):
    value, expected = BAD[name]
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole message follows
        make(**{name: value}).fit(X)
    assert str(caught.value) == f"The '{name}' parameter of VAETransformer {expected}"


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
@pytest.mark.parametrize(("count", "shown"), [(-3.0, "-3.0"), (0.5, "0.5")])
def test_what_is_no_count_is_told(likelihood, count, shown):
    X = np.arange(20.0).reshape(10, 2)
    X[4, 1] = count
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole message follows
        VAETransformer(likelihood=likelihood).fit(X)
    assert str(caught.value) == (
        f"Column 'x1' must hold integers of at least 0 for likelihood '{likelihood}', but row 4 holds {shown}. "
        "Use 'gaussian', or encode the column first."
    )


def test_rows_outside_the_domain_are_told_when_they_are_scored():
    X = np.arange(20.0).reshape(10, 2)
    model = VAETransformer(2, likelihood="poisson", max_iter=1, random_state=0).fit(X)
    for method in ("score_samples", "score", "log_likelihood"):
        with pytest.raises(
            ValueError, match=r"^Column 'x0' must hold integers of at least 0 .* but row 1 holds -2\.0\."
        ):
            getattr(model, method)(np.array([[1.0, 2.0], [-2.0, 1.0]]))


@pytest.mark.parametrize("n_draws", [0, -3, 2.5, True, "32"], ids=repr)
def test_draws_that_are_no_count_are_told_after_the_fit(X, n_draws):
    model = make(max_iter=1).fit(X).set_params(n_draws=n_draws)
    shown = re.escape(repr(n_draws))
    expected = f"^The 'n_draws' parameter must be an int of at least 1, or 'auto'\\. Got {shown} instead\\.$"
    for method in ("log_likelihood", "effective_sample_size", "score_samples", "score", "predict", "explain"):
        with pytest.raises(ValueError, match=expected):
            getattr(model, method)(X[:5])


@pytest.fixture(scope="module")
def plain_score(X):
    return make(max_iter=20).fit(X).score(X)


@pytest.mark.parametrize(
    "parameters",
    [{"dropout": 0.3}, *(pytest.param(own, marks=pytest.mark.slow) for own in [{"kl_warmup": 0.5}, {"noise": 0.2}])]
    + [pytest.param({"n_networks": 2}, marks=pytest.mark.slow)],
    ids=str,
)
def test_options_train_to_a_sound_density(X, plain_score, parameters):
    assert abs(make(max_iter=20, **parameters).fit(X).score(X) - plain_score) < 0.3


@pytest.mark.parametrize(
    ("n_samples", "n_features", "score_method", "expected"),
    [(40, 1, "auto", 2), (40, 5, "elbo", 4), (600, 5, "elbo", 5), (600, 5, "auto", 4), (40, 100, "auto", 16)],
)
def test_automatic_width_of_the_code(n_samples, n_features, score_method, expected, seed):
    rows = np.random.default_rng(seed).normal(size=(n_samples, n_features))
    model = make(n_components="auto", score_method=score_method, max_iter=1).fit(rows)
    assert model.n_components_ == expected


# --- Missing cells ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_missing", "scale", "dropout"),
    [(0, "dependent", 0.25), (1, "dependent", 0.25), pytest.param(60, "constant", 0.0, marks=pytest.mark.slow)],
)
def test_one_missing_cell_leaves_the_model_as_it_is(n_missing, scale, dropout, seed):
    X = np.random.default_rng(seed).normal(size=(400, 4))
    X.reshape(-1)[:n_missing] = np.nan
    model = VAETransformer(2, max_iter=1, tol=1e3, calibration_fraction=0, latent_density=1, random_state=0).fit(X)
    likelihood = model.module_.likelihood
    assert (likelihood.name, likelihood.scale_form) == ("student_t", scale)
    assert model._fitted.settings.dropout == dropout


@pytest.mark.slow
def test_one_missing_cell_costs_no_likelihood(seed):
    """Heavy tails, of which a Gaussian with one scale for each column makes single rows of a thousand nats."""
    rng = np.random.default_rng(seed)
    X = rng.standard_t(3, size=(900, 3)) @ rng.normal(size=(3, 8)) + 0.3 * rng.standard_t(3, size=(900, 8))
    complete = VAETransformer(random_state=0).fit(X[:600]).score(X[600:])
    X[0, 0] = np.nan
    assert abs(VAETransformer(random_state=0).fit(X[:600]).score(X[600:]) - complete) < 0.5


@pytest.mark.parametrize("random_state", ["one", -1, 2**32, 1.5])
def test_sample_refuses_what_is_no_seed(random_state):
    model = VAETransformer(1, max_iter=1, random_state=0).fit(np.random.default_rng(0).normal(size=(60, 2)))
    message = (
        "The 'random_state' parameter must be an int in the range [0, 4294967295], an instance of "
        f"'numpy.random.RandomState' or None. Got {random_state!r} instead."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.sample(2, random_state=random_state)
