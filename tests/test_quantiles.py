"""Drawn values moved to the distribution of the training rows, and what a model keeps for that."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ks_2samp, norm

from skvae import VAETransformer
from skvae._data.quantiles import Quantiles

N = 4000


def moved(column, drawn, reference, weight=None):
    """Values of one column, moved from the distribution of reference rows to that of a column."""
    quantiles = Quantiles.fit(torch.from_numpy(np.asarray(column, dtype=float))[:, None], [0], weight)
    rows = torch.from_numpy(np.asarray(drawn, dtype=float))[:, None]
    return quantiles.matched(rows, lambda: torch.from_numpy(reference)[:, None])[:, 0].numpy()


@pytest.fixture
def normal(seed):
    return np.random.default_rng(seed).normal(size=(2, N))


def test_a_continuum_is_moved_by_its_quantile_function(normal, seed):
    """Normal to exponential: -log(1 - Phi(x)), within the error of quantiles of 4,000 rows."""
    drawn, reference = normal
    column = np.random.default_rng(seed + 1).exponential(size=N)
    got, wanted = moved(column, drawn, reference), -norm.logsf(drawn)
    assert np.abs(got - wanted)[np.abs(drawn) < 2].max() < 0.25  # near x = 2: sqrt(p q / n) / density = 0.11
    assert ks_2samp(got, column).statistic < 0.05
    assert (np.diff(got[np.argsort(drawn)]) >= 0.0).all()
    assert column.min() <= got.min() < got.max() <= column.max()
    assert np.isin(got, column).mean() < 0.01  # what is drawn is no copy


def test_repeated_values_keep_their_shares_and_have_nothing_beside_them(normal, seed):
    """78 % zeros, and amounts from 114 on, as of capital gains."""
    drawn, reference = normal
    rng = np.random.default_rng(seed)
    column = np.where(rng.random(N) < 0.78, 0.0, 114.0 + rng.lognormal(7, 1, N))
    got = moved(column, drawn, reference)
    below = drawn <= np.quantile(reference, (column == 0).mean())
    assert (got == 0).mean() == pytest.approx(below.mean(), abs=0.004)  # 300 seeds: 0.002 at most
    assert ((got == 0) | (got >= 114)).all()


@pytest.mark.parametrize("values", [[0.0, 1.0], [-1.5, 0.25, 3.0, 7.125], list(np.arange(300) / 4)])
def test_few_values_are_given_back_in_their_shares(values, normal, seed):
    drawn, reference = normal
    share = np.random.default_rng(seed).dirichlet(np.ones(len(values)))
    column = np.random.default_rng(seed).choice(values, size=N, p=share)
    got = moved(column, drawn, reference)
    assert np.isin(got, values).all()
    assert ks_2samp(got, column).statistic < 0.05


def test_quantiles_between_the_values_of_a_grid_give_none_of_their_own(normal, seed):
    """More cents than quantiles, some of them repeated: what is drawn beside a repeated one is rounded to one."""
    drawn, reference = normal
    for rng in np.random.default_rng(seed).spawn(3):
        got = moved(rng.lognormal(2.0, 0.5, 3000).round(2), drawn, reference)
        np.testing.assert_allclose(got, got.round(2), rtol=1e-12)


@pytest.mark.parametrize("digits", [0, 1, 2])
def test_grids_of_decimal_numbers_are_kept(digits, normal, seed):
    """More values than quantiles are kept: those between lie on the grid."""
    drawn, reference = normal
    column = np.round(np.random.default_rng(seed).normal(0.0, 10.0 ** (3 - digits), N), digits)
    got = moved(column, drawn, reference)
    np.testing.assert_array_equal(got, np.round(got, digits))
    assert ks_2samp(got, column).statistic < 0.05


def test_weights_count_and_missing_values_do_not(normal):
    drawn, reference = normal
    column = np.repeat([1.0, 2.0, np.nan, 3.0], 10)
    weight = np.repeat([1.0, 3.0, 50.0, 0.0], 10)
    got = moved(column, [*drawn, np.nan], reference, weight)
    assert np.isnan(got[-1])
    assert set(got[:-1]) == {1.0, 2.0}
    np.testing.assert_array_equal(got[:-1] == 1.0, drawn <= np.quantile(reference, 0.25))  # 1 of 1 + 3


def test_the_way_back_finds_what_was_moved(normal, seed):
    """A continuum comes back; a repeated value as the middle of what is moved to it; beyond it goes on straight."""
    drawn, reference = normal
    rng = np.random.default_rng(seed)
    columns = np.column_stack([rng.exponential(size=N), rng.choice([0.0, 1.0], size=N, p=[0.8, 0.2])])
    quantiles = Quantiles.fit(torch.from_numpy(columns), [0, 1])
    rows = torch.from_numpy(np.column_stack([drawn, drawn]))

    def draw():
        return torch.from_numpy(np.column_stack([reference, reference]))

    back = quantiles.unmatched(quantiles.matched(rows, draw), draw).numpy()
    inner = np.abs(drawn) < 2
    np.testing.assert_allclose(back[inner, 0], drawn[inner], atol=1e-6)
    shares = [(columns[:, 1] == 0).mean() / 2, 1 - (columns[:, 1] == 1).mean() / 2]  # the middles, as levels
    np.testing.assert_allclose(np.unique(back[:, 1]), np.quantile(reference, shares), atol=0.05)
    far = torch.tensor([[columns[:, 0].max() + 5.0, torch.nan]])
    end = quantiles.unmatched(torch.tensor([[columns[:, 0].max(), torch.nan]]), draw)
    assert float(quantiles.unmatched(far, draw)[0, 0] - end[0, 0]) == pytest.approx(5.0, rel=1e-6)
    assert quantiles.unmatched(far, draw)[0, 1].isnan()


@pytest.mark.parametrize("n_samples", [1, 2, 15, 40, 700, 3000])
def test_columns_that_are_looked_at_together_have_the_quantiles_of_weighted_ones(n_samples, seed):
    """Weights of 1 take the columns one by one: to the bit the same, whatever else a table holds."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, 300))
    X[:, 1], X[:, 2], X[:, 3] = np.round(X[:, 1], 2), np.arange(n_samples) / 8, 1e13 + np.arange(n_samples)
    X[0, 4], X[:, 5], X[:, 6] = np.nan, 1.0, np.round(X[:, 6], 3) + 1e-5
    X[:, 7] = np.round(X[:, 7], 1)
    X[-1, 8] = X[0, 8]
    columns = [*range(200, 300), *range(20)]
    together, alone = (Quantiles.fit(torch.from_numpy(X), columns, weight) for weight in (None, np.ones(n_samples)))
    assert (together is None) == (alone is None) == (n_samples == 1)
    if together is not None:
        assert together.columns == alone.columns
        for name in ("levels", "values", "grid"):
            np.testing.assert_array_equal(getattr(together, name), getattr(alone, name))


def test_a_constant_column_and_an_empty_one_are_left_out():
    values = torch.tensor([[1.0, 5.0, torch.nan], [2.0, 5.0, torch.nan]])
    assert Quantiles.fit(values, [0, 1, 2]).columns == (0,)
    assert Quantiles.fit(values, [1, 2]) is None
    assert Quantiles.fit(values, []) is None


def test_what_is_kept_is_bounded_and_survives_a_pickle(seed):
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(3000, 40)))
    quantiles = Quantiles.fit(values, range(40))
    assert quantiles.values.shape == quantiles.levels.shape == (40, 512 - 1 + 2 + 12)
    again = Quantiles.from_state(pickle.loads(pickle.dumps(quantiles.state())))
    rows = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(50, 40)))
    assert torch.equal(again.matched(rows, lambda: values), quantiles.matched(rows, lambda: values))


# --- In the estimator -----------------------------------------------------------------------------------------------


@pytest.fixture
def table(seed):
    """Zeros among amounts, an indicator, whole hours with a common value, a continuum, levels."""
    rng, n = np.random.default_rng(seed), 600
    hours = np.where(rng.random(n) < 0.47, 40, rng.integers(1, 99, n))
    return pd.DataFrame({
        "gain": np.where(rng.random(n) < 0.8, 0.0, rng.lognormal(7, 1, n).round()),
        "owns": (rng.random(n) < 0.2).astype(int),
        "hours": hours,
        "height": rng.normal(170, 8, n) + 0.1 * hours,
        "kind": rng.choice(["x", "y"], n),
    })  # fmt: skip


SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 10, "tol": 1e9, "random_state": 0}


def test_drawn_columns_are_those_of_the_training_rows(table):
    drawn = VAETransformer(calibration_fraction=0.0, **SMALL).fit(table).sample(2000, random_state=0)
    assert list(drawn.dtypes) == list(table.dtypes)
    for name in ("gain", "owns", "hours", "height"):
        assert ks_2samp(drawn[name], table[name]).statistic < 0.06
        assert drawn[name].between(table[name].min(), table[name].max()).all()
    assert (drawn.gain == 0).mean() == pytest.approx((table.gain == 0).mean(), abs=0.03)
    assert (drawn.hours == 40).mean() == pytest.approx((table.hours == 40).mean(), abs=0.03)
    assert set(drawn.owns) == {0, 1}


@pytest.mark.slow
def test_without_it_rows_are_those_of_the_density(table):
    model = VAETransformer(likelihood="gaussian", **SMALL).fit(table[["gain", "owns", "height"]])
    free = model.sample(2000, random_state=0, match_marginals=False)
    assert (free.gain < 0).mean() > 0.05
    assert len(set(model.sample(2000, random_state=0).gain) - set(table.gain)) < 400


@pytest.mark.slow
def test_a_row_does_not_depend_on_how_many_are_drawn_nor_on_what_was_drawn_before(table):
    """The model's own distribution is that of 8,192 draws of its own, in every process."""
    model = VAETransformer(**SMALL).fit(table)
    loaded = pickle.loads(pickle.dumps(model))
    loaded.sample(3, random_state=5)
    pd.testing.assert_frame_equal(model.sample(50, random_state=0), loaded.sample(50, random_state=0))


def test_counts_and_shares_stay_as_they_are_drawn(seed):
    X = np.random.default_rng(seed).poisson(3.0, size=(200, 3)).astype(float)
    model = VAETransformer(likelihood="poisson", **SMALL).fit(X)
    free, matched = (model.sample(100, random_state=0, match_marginals=match) for match in (False, True))
    np.testing.assert_array_equal(free, matched)


@pytest.mark.slow
def test_chunks_are_remembered(table):
    model = VAETransformer(**SMALL)
    for first in range(0, 600, 200):
        model.partial_fit(table.drop(columns="kind")[first : first + 200])
    drawn = model.sample(2000, random_state=0)
    assert (drawn.gain == 0).mean() == pytest.approx((table.gain == 0).mean(), abs=0.04)


@pytest.mark.slow
def test_unknown_values_of_given_rows_are_moved_and_known_ones_stay(table):
    model = VAETransformer(**SMALL).fit(table)
    drawn = model.sample(300, random_state=0, given=pd.DataFrame({"gain": [12.5], "kind": ["y"]}))
    assert (drawn.gain == 12.5).all()
    assert set(drawn.owns) <= {0, 1}
    assert drawn.hours.between(table.hours.min(), table.hours.max()).all()
