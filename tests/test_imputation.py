"""Conditional means and draws, held against a linear Gaussian model in closed form."""

import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from skvae import AutoencoderTransformer, VAETransformer
from skvae._model.imputation import conditional_mean, reliability
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import VAEModule
from skvae.likelihoods import Gaussian


@pytest.fixture
def module():
    """x1 = x2 = z + noise of scale 0.5, with a crude but wide posterior: the weights must do the work."""
    module = VAEModule(SkipMLP(2, 2), SkipMLP(1, 2), Gaussian(2, floor=0.0), None).converted(torch.float64)
    encoder, decoder, free = module.parts(module.flat.data)
    decoder.skip.fill_(1.0)
    free.fill_(torch.tensor(0.5).log())
    encoder.skip[:, 0] = 0.3
    return module


# Given x1, z is normal with mean x1 / 1.25 and variance 0.2; x2 adds a variance of 0.25.
ROWS = torch.tensor([[1.0, torch.nan], [-0.5, torch.nan]], dtype=torch.float64)


def test_conditional_mean_is_the_closed_form(module, seed):
    noise = torch.randn(20_000, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = conditional_mean(module, ROWS, noise)
    # 0.03: five standard errors of 20,000 weighted draws.
    torch.testing.assert_close(expected[:, 1], ROWS[:, 0] / 1.25, atol=0.03, rtol=0.0)


def test_later_rounds_find_what_a_wrong_posterior_misses(module, seed):
    """400 draws of a posterior far from the truth are off by 0.77 to 1.07, in rounds by up to 0.28."""
    encoder, _, _ = module.parts(module.flat.data)
    encoder.skip.zero_()
    encoder.biases[-1][0], encoder.biases[-1][1] = -1.5, -1.4
    noise = torch.randn(400, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = conditional_mean(module, ROWS[:1], noise)
    torch.testing.assert_close(expected[:, 1], ROWS[:1, 0] / 1.25, atol=0.5, rtol=0.0)


# --- How far filled values may go -----------------------------------------------------------------------------------


def sparse_table(rng, n_samples=400, n_columns=40):
    """Columns that are 0 in four rows of five and skewed beyond, next to unrelated; half of the values are missing."""
    full = np.exp(rng.normal(size=(n_samples, n_columns))) * (rng.random((n_samples, n_columns)) > 0.8)
    return full, np.where(rng.random(full.shape) < 0.5, np.nan, full)


def error(filled, full, missing):
    """Root mean square over the missing values, in standard deviations of their columns."""
    return np.sqrt(np.square((filled - full) / full.std(axis=0))[missing].mean())


def test_reliability_is_the_slope_of_hidden_values(rng):
    """What doubles the truth keeps a half, what knows nothing next to nothing, what is timid keeps all.

    As if 50 values more had been borne out: of 1,200 and a half it makes (0.5 * 1200 + 50) / 1250.
    """
    values = torch.as_tensor(0.2 * rng.standard_normal((200, 6)))
    centre, scale = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    noise = torch.as_tensor(0.2 * rng.standard_normal(values.shape))
    assert reliability(values, centre, scale, lambda rows: 2.0 * values) == pytest.approx(0.52)
    assert reliability(values, centre, scale, lambda rows: 0.5 * values) == 1.0
    assert reliability(values, centre, scale, lambda rows: -values) == 0.0
    assert reliability(values, centre, scale, lambda rows: values + noise) == pytest.approx(0.52, abs=0.06)
    assert reliability(values, centre, scale, lambda rows: noise) < 0.12


def test_reliability_of_few_values_changes_little(rng):
    values = torch.as_tensor(0.2 * rng.standard_normal((5, 6)))  # 30 values
    centre, scale = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    assert reliability(values, centre, scale, lambda rows: -values) == pytest.approx((50 - 30) / 80)
    assert reliability(values, centre, scale, lambda rows: 2.0 * values) == pytest.approx((50 + 15) / 80)
    assert reliability(values[:0], centre, scale, lambda rows: values[:0]) == 1.0
    assert reliability(values, centre, scale, lambda rows: torch.zeros_like(values)) == 1.0


def test_reliability_hides_each_value_once_and_knows_no_missing_one(rng):
    values = torch.as_tensor(rng.standard_normal((30, 5)))
    values[::3, 1], seen = torch.nan, []

    def fill(rows):
        seen.append(rows.isnan() & ~values.isnan())
        return torch.ones_like(rows)

    centre = torch.tensor([0.0, 0.0, torch.nan, 0.0, 0.0], dtype=torch.float64)  # the third column counts for nothing
    assert 0.0 <= reliability(values, centre, torch.ones(5, dtype=torch.float64), fill) <= 1.0
    hidden = torch.stack(seen).sum(dim=0)
    np.testing.assert_array_equal(hidden, (~values.isnan() & ~centre.isnan()).int())


@pytest.mark.parametrize("cls", [AutoencoderTransformer, VAETransformer])
@pytest.mark.slow
def test_no_table_fills_worse_than_its_means(cls, seed):
    """Sparse, skewed and next to unrelated columns: without the shrinkage 1.1 to 1.2 standard deviations, not 1.0."""
    full, X = sparse_table(np.random.default_rng(seed))
    model = cls(random_state=0).fit(X)
    missing = np.isnan(X)
    means = np.where(missing, np.nanmean(X, axis=0), X)
    # 1 %: the means of the model are those of the nine tenths of the rows that trained.
    assert error(model.impute(X), full, missing) < 1.01 * error(means, full, missing)


def test_filled_values_stay_in_the_range_of_the_training_rows(make, seed):
    full, X = sparse_table(np.random.default_rng(seed), 200, 12)
    X[:, 0] = np.round(X[:, 0], 1)
    model = make(calibration_fraction=0.0, tol=1e9).fit(X)
    missing = np.isnan(X)
    low, high = np.nanmin(X, axis=0), np.nanmax(X, axis=0)
    tables = [model.impute(X)]
    if isinstance(model, VAETransformer):
        tables += model.impute(X, n_draws=3)
        free = model.impute(X, n_draws=1, bounded=False)[0]
        assert (free < low)[missing].any()
        np.testing.assert_array_equal(model.impute(X, n_draws=1)[0], np.clip(free, low, high))
    for filled in tables:
        assert not np.isnan(filled).any()
        assert ((filled >= low) & (filled <= high)).all()
        np.testing.assert_array_equal(filled[~missing], X[~missing])
    beyond = np.full((2, 12), np.nan)
    beyond[:, 3] = 1e6  # what is there stays, whatever it is
    assert (model.impute(beyond)[:, 3] == 1e6).all()


@pytest.mark.parametrize(("value", "dtype"), [(1e300, "float64"), (-1e30, "float32")])
def test_a_value_whose_square_overflows_leaves_the_others_to_be_filled(make, value, dtype, seed):
    X = np.random.default_rng(seed).normal(size=(200, 3)).astype(dtype)
    model, rows = make(tol=1e9).fit(X), X[:3].copy()
    rows[1] = value, np.nan, 0.0
    draws = isinstance(model, VAETransformer)
    for table in [model.impute(rows), *(model.impute(rows, n_draws=2) if draws else [])]:
        assert np.isfinite(table).all()
        assert table[1, 0] == rows[1, 0]
    if draws:
        assert np.isfinite(model.sample(2, given=rows[1:2], random_state=0)).all()


@pytest.mark.filterwarnings("ignore:false_alarm_rate=:UserWarning")
def test_a_column_whose_values_were_all_held_out_spoils_no_other(make):
    """A tenth of three rows is one; nothing is learned of what it alone holds, and the other columns are filled."""
    for row in range(3):
        X = np.array([[np.nan, -0.5, np.nan, -2.4], [np.nan, 1.1, 0.3, np.nan], [np.nan, np.nan, 1.0, -0.3]])
        X[row, 0] = 1.8
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            model = make(tol=1e9).fit(X)
        told_of_it = any("Column 'x0' holds no value in any training row" in str(one.message) for one in told)
        filled = pickle.loads(pickle.dumps(model)).impute(X)
        assert np.isnan(filled[:, 0]).any() == told_of_it
        assert not np.isnan(filled[:, 1:]).any()


def test_reliability_is_saved(make, seed):
    _, X = sparse_table(np.random.default_rng(seed), 200, 12)
    model = make(tol=1e9).fit(X)
    before = model.impute(X)
    model._fitted = replace(model._fitted, reliability=(model._fitted.reliability + 0.5) % 1.0)
    assert not np.array_equal(model.impute(X), before)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).impute(X), model.impute(X))
