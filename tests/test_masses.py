"""Estimators whose columns are mapped to normal scores: masses, units, grids, and every verb."""

import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from scipy import stats

from skvae import VAETransformer
from skvae.likelihoods import ColumnGroups, Gaussian, Poisson, StudentT

# A small network in few epochs: these tests are about what stands around it.
SMALL = {"hidden_layer_sizes": (16,), "max_iter": 15, "tol": 1e3, "marginals": "auto", "random_state": 0}
# Where p(z) is not the matter: to choose one among mixtures takes longer than so short a training.
PLAIN = {**SMALL, "latent_density": 1}


def people(seed, size=400):
    """Zeros with amounts, whole numbers, an indicator, a skewed continuum and a category that go together."""
    rng = np.random.default_rng(seed)
    cause = rng.normal(size=size)
    return pd.DataFrame(
        {
            "gain": np.where(cause + rng.normal(size=size) < 1.0, 0.0, np.exp(7.0 + rng.normal(size=size)).round()),
            "age": np.clip(45 + 10 * cause + 5 * rng.normal(size=size), 17, 90).round().astype(int),
            "smokes": (rng.random(size) < stats.norm.cdf(cause - 1.0)).astype(int),
            "time": np.exp(cause + 0.3 * rng.normal(size=size)),
            "kind": np.where(cause + rng.normal(size=size) > 0.0, "a", "b"),
        }
    )


@pytest.fixture(scope="module")
def model():
    return VAETransformer(2, **SMALL).fit(people(0))


# --- Likelihoods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["constant", "dependent"])
@pytest.mark.parametrize("family", [Gaussian, StudentT])
def test_the_mass_of_an_interval_is_that_of_scipy(family, scale, rng):
    """Wide and narrow, at the location and in both tails, and without an end."""
    low = np.array([-1.0, 0.3, 12.0, -40.0, 0.2, -1e3, 2.0])
    high = np.array([2.0, 0.300001, 13.0, -39.0, 1e3, 0.1, 2.5])
    likelihood = family(len(low), scale=scale)
    outputs = torch.from_numpy(rng.normal(size=(1, likelihood.n_outputs)))
    free = torch.from_numpy(rng.normal(size=likelihood.n_free))
    ends = (torch.from_numpy(end).unsqueeze(0) for end in (low, high))
    found = likelihood.log_mass(*ends, outputs, free).squeeze(0).numpy()
    location = outputs[0, : len(low)].numpy()
    spread = likelihood._variance(outputs, free).sqrt().expand(1, len(low))[0].numpy()
    law = stats.norm(location, spread)
    if family is StudentT:
        law = stats.t(2.0 + np.logaddexp(0.0, free[len(low) :].numpy()), location, spread)
    upper = low > location
    mass = np.where(upper, law.sf(low) - law.sf(high), law.cdf(high) - law.cdf(low))
    narrow = high - low < 1e-3 * spread
    mass = np.where(narrow, law.pdf(0.5 * (low + high)) * (high - low), mass)
    expected = np.where(mass > 0.0, np.log(np.maximum(mass, 1e-300)), found)  # below the range of float64
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-15)
    assert np.isfinite(found).all()


def test_groups_ask_each_family_of_real_numbers():
    groups = ColumnGroups([Gaussian(1, scale="unit"), Poisson(1)], [[1], [0]])
    ends = torch.tensor([[torch.nan, -1.0]]), torch.tensor([[torch.nan, 1.0]])
    found = groups.log_mass(*ends, torch.zeros(1, 2), torch.zeros(0))
    assert found[0, 1].item() == pytest.approx(np.log(0.6826894921))
    with pytest.raises(NotImplementedError) as error:
        Poisson(1).log_mass(*ends, torch.zeros(1, 1), torch.zeros(0))
    assert str(error.value) == (
        "log_mass needs a family of real numbers, but 'poisson' is none. Ask for log_prob instead."
    )


# --- Densities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["auto", "gaussian"])
def test_likelihoods_of_all_rows_sum_to_one(family, seed):
    """Two indicators and a count, in all combinations."""
    rng = np.random.default_rng(seed)
    cause = rng.normal(size=500)
    X = np.stack([cause + rng.normal(size=500) > 1.0, cause > -0.5, np.floor(np.exp(0.5 * cause))], axis=1) * 1.0
    model = VAETransformer(2, likelihood=family, n_draws=300, **SMALL).fit(X)
    rows = np.array(list(itertools.product([0.0, 1.0], [0.0, 1.0], np.arange(X[:, 2].max() + 1))))
    # One part in 451 is kept for other values of each column; the draws estimate within 1 %.
    assert np.exp(model.log_likelihood(rows)).sum() == pytest.approx(1.0, abs=0.02)


# The grid goes where no row is and few draws tell.
@pytest.mark.filterwarnings("ignore:Fewer than 2 of the n_draws:UserWarning")
@pytest.mark.slow
def test_a_density_beside_a_mass_integrates_to_one(seed):
    rng = np.random.default_rng(seed)
    ones = (rng.random(500) < 0.3) * 1.0
    X = np.stack([ones, ones + np.exp(0.5 * rng.normal(size=500))], axis=1)
    model = VAETransformer(1, n_draws=4000, latent_density="mixture", **SMALL).fit(X)  # with fewer a lower bound
    grid = np.linspace(-10.0, 20.0, 751)
    total = sum(
        np.exp(model.log_likelihood(np.stack([np.full_like(grid, one), grid], axis=1))).sum() * 0.04 for one in (0, 1)
    )
    assert total == pytest.approx(1.0, abs=0.02)


def test_a_unit_moves_densities_by_its_logarithm_and_masses_not(seed):
    X = people(seed)[["age", "time", "gain"]].to_numpy(float)
    model = VAETransformer(2, **SMALL).fit(X)
    units = np.array([1.0, 1024.0, 1.0])
    shift = VAETransformer(2, **SMALL).fit(X * units).score_samples(X * units) - model.score_samples(X)
    np.testing.assert_allclose(shift, -np.log(1024.0), atol=1e-6)
    units = np.array([2.0, 1.0, 1.0])  # whole numbers have masses, whatever they count
    shift = VAETransformer(2, **SMALL).fit(X * units).score_samples(X * units) - model.score_samples(X)
    np.testing.assert_allclose(shift, 0.0, atol=1e-6)


def test_values_that_no_row_had_are_scored_low_and_finite(model):
    row = people(1).head(1).astype({"age": float, "smokes": float})
    usual = model.score_samples(row)[0]
    for name, value in {"age": 44.5, "smokes": 0.5, "gain": -1e9, "time": 1e12}.items():
        score = model.score_samples(row.assign(**{name: value}))[0]
        assert np.isfinite(score)
        assert score < usual - 2.0


# --- Draws and decoded rows -----------------------------------------------------------------------------------------


def test_draws_have_zeros_whole_numbers_and_indicators(model):
    X, drawn = people(0), model.sample(5000, random_state=0)
    assert (drawn["gain"] == 0.0).mean() == pytest.approx((X["gain"] == 0.0).mean(), abs=0.1)
    assert (drawn["gain"] >= 0.0).all()
    assert (drawn["gain"] == drawn["gain"].round()).all()
    assert drawn["smokes"].mean() == pytest.approx(X["smokes"].mean(), abs=0.07)
    assert set(drawn["smokes"]) == {0, 1}
    assert drawn["age"].between(X["age"].min(), X["age"].max()).all()
    assert (drawn.dtypes == X.dtypes).all()


@pytest.mark.slow
def test_an_indicator_keeps_its_share_with_the_defaults():
    """By mean and standard deviation one in five is drawn as one in a hundred: the noise collapses on the zeros."""
    rng = np.random.default_rng(0)
    X = np.column_stack([(rng.random((800, 4)) < 0.2) * 1.0, rng.normal(size=(800, 4))])
    X[:, 5] = X[:, 4] + 0.1 * X[:, 5]
    drawn = VAETransformer(marginals="auto", random_state=0).fit(X).sample(5000, random_state=0)
    np.testing.assert_allclose(drawn[:, :4].mean(axis=0), X[:, :4].mean(axis=0), atol=0.05)
    assert np.isin(drawn[:, :4], [0.0, 1.0]).all()


def test_decoded_and_filled_cells_are_values_of_their_columns(model):
    X = people(1, 60)
    gaps = X.astype({"age": float, "smokes": float})
    gaps.iloc[::3, 0] = gaps.iloc[1::3, 1] = gaps.iloc[2::3, 2] = np.nan
    for rows in (
        model.reconstruct(X),
        model.inverse_transform(model.transform(X)),
        model.impute(gaps),
        model.impute(gaps, n_draws=1)[0],
        model.explain(X.head(20)).expected,
    ):
        assert (rows["gain"] == rows["gain"].round()).all()
        assert (rows["age"] == rows["age"].round()).all()
        assert rows["smokes"].isin([0, 1]).all()
    filled = model.impute(gaps)
    assert filled.notna().all(axis=None)
    assert filled.where(gaps.notna()).equals(gaps)


def test_gaps_in_the_training_rows_are_missing_values(seed):
    X = people(seed, 150).astype({"age": float, "smokes": float})
    X = X.mask(np.random.default_rng(seed).random(X.shape) < 0.2)
    model = VAETransformer(2, **PLAIN).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    filled = model.impute(X)
    assert filled.notna().all(axis=None)
    assert filled["age"].dropna().eq(filled["age"].round()).all()


# --- Other verbs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score_method", ["auto", "log_likelihood", "elbo", "residual", "reconstruction"])
def test_contributions_sum_to_the_score(score_method):
    X = people(0).drop(columns="kind")
    model = VAETransformer(2, score_method=score_method, **PLAIN).fit(X)
    rows = X.tail(12).copy()
    rows["age"] = rows["age"].astype(float)
    rows.iloc[0, 1] = np.nan
    contributions = model.explain(rows).contributions
    np.testing.assert_allclose(contributions.to_numpy().sum(axis=1), model.score_samples(rows), rtol=1e-9, atol=1e-9)


def test_a_wrong_cell_is_to_blame(rng):
    """One of six columns that all follow one cause says otherwise."""
    cause = rng.normal(size=(400, 1))
    X = np.exp(cause + 0.2 * rng.normal(size=(400, 6)))
    X[:, 0] = X[:, 0].round()
    model = VAETransformer(2, **SMALL).fit(X)
    rows = X[np.argsort(cause[:, 0])][-10:]
    rows[:, 1] = np.median(X[:, 1]) / 3.0
    assert (model.explain(rows).contributions.argmin(axis=1) == 1).mean() >= 0.8


def test_a_row_scores_alike_alone_and_in_any_table(model):
    X = people(1)
    scores = model.score_samples(X)
    assert (model.score_samples(X.iloc[[7]]) == scores[7]).all()
    assert (model.score_samples(X.iloc[::-1])[::-1] == scores).all()


def test_single_precision_scores_nearly_alike():
    X = people(0).drop(columns="kind").to_numpy(float)
    model = VAETransformer(2, **SMALL).fit(X)
    # 5e-3 measured, of a row in the tail: single precision rounds the score, and what follows from it.
    np.testing.assert_allclose(model.score_samples(X.astype(np.float32)), model.score_samples(X), atol=0.05)


def test_fits_are_alike_to_the_bit_and_saved_ones_too(model):
    X = people(1)
    scores = model.score_samples(X)
    assert (VAETransformer(2, **SMALL).fit(people(0)).score_samples(X) == scores).all()
    name = "skvae.vae.VAETransformer"
    for again in (pickle.loads(pickle.dumps(model)), skops.io.loads(skops.io.dumps(model), trusted=[name])):
        assert (again.score_samples(X) == scores).all()
        assert again.sample(50, random_state=0).equals(model.sample(50, random_state=0))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("columns", [0, 1, 2, 9], "columns.marginals.columns must lie in [0, 4], not be 9"),
        ("n_knots", np.array([1, 9, 4, 9]), "columns.marginals.n_knots must be from 2 to the number of knots"),
        ("slope", None, "columns.marginals.slope must be positive"),
        ("u", None, "columns.marginals.u must ascend"),
    ],
)
def test_altered_maps_are_refused(model, part, value, message):
    state = model.__getstate__()
    maps = state["_fitted"]["columns"]["marginals"]
    maps[part] = -maps[part] if value is None else value
    with pytest.raises(ValueError, match="cannot be read by skvae") as error:
        VAETransformer().__setstate__(state)
    assert message in str(error.value)


def test_integer_weights_equal_repeated_rows():
    X, weight = people(0, 150).drop(columns="kind"), np.random.default_rng(0).integers(1, 4, 150)
    weighted = VAETransformer(2, **SMALL).fit(X, sample_weight=weight)
    repeated = VAETransformer(2, **SMALL).fit(X.loc[X.index.repeat(weight)])
    assert (weighted.score_samples(X) == repeated.score_samples(X)).all()


def test_training_goes_on_with_the_first_maps():
    X = people(0)
    model = VAETransformer(2, warm_start=True, **PLAIN).fit(X)
    first = model.transform(X.head(3))
    model.fit(people(1))
    assert not np.array_equal(first, model.transform(X.head(3)))
    series = VAETransformer(2, **PLAIN)
    for seed in range(3):
        series.partial_fit(people(seed).drop(columns="kind"))
    assert np.isfinite(series.score_samples(X.drop(columns="kind"))).all()


@pytest.mark.parametrize(
    "options", [{"contamination": 0.1}, {"early_stopping": True}, {"n_networks": 2}, {"noise": 0.1}], ids=str
)
def test_options_of_the_training_take_maps(options):
    X = people(0)
    model = VAETransformer(2, **(PLAIN | options)).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert (model.sample(200, random_state=0)["gain"] == 0.0).mean() > 0.3


def test_noise_scales_of_mapped_columns_are_none_of_the_users_units(model):
    assert np.isnan(model.noise_scale_).all()


def test_maps_stand_in_for_the_scaling(model):
    unscaled = VAETransformer(2, standardize=False, **SMALL).fit(people(0))
    assert (unscaled.score_samples(people(1)) == model.score_samples(people(1))).all()


def test_columns_with_a_family_of_counts_stay_counts():
    X = np.random.default_rng(0).poisson(2.0, (300, 3)) * 1.0
    plain = VAETransformer(2, **(PLAIN | {"marginals": None, "likelihood": "poisson"})).fit(X)
    mapped = VAETransformer(2, likelihood="poisson", **PLAIN).fit(X)
    assert (plain.score_samples(X) == mapped.score_samples(X)).all()
