"""Missing cells: a fit with them, what each verb makes of them, and how they are filled."""

import pickle
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from marks import slow_for_vae
from scipy.stats import multivariate_normal
from sklearn.base import clone

from skvae import AutoencoderTransformer, VAETransformer
from skvae._densities.gaussian import GaussianDensity
from skvae._densities.residuals import completed, mean_square

# A few epochs do not converge, and need not here.
pytestmark = pytest.mark.filterwarnings("ignore:The loss still improved")

ESTIMATORS = {"autoencoder": AutoencoderTransformer, "vae": VAETransformer}
NAN = float("nan")


@pytest.fixture(params=ESTIMATORS)
def make(request):
    """Both estimators, with a training that takes a moment; the choice among mixtures would take half of it."""
    own = {"latent_density": 1} if request.param == "vae" else {}
    return lambda: ESTIMATORS[request.param](2, hidden_layer_sizes=(8,), max_iter=5, random_state=0, **own)


@pytest.fixture
def estimator(make):
    return make()


@pytest.fixture
def complete(seed):
    """Six columns that are two, in units of their own."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(300, 6))
    return X * [1.0, 10.0, 0.1, 1.0, 1e4, 1.0] + [0.0, 5.0, 0.0, 0.0, -1e5, 3.0]


@pytest.fixture
def incomplete(complete, seed):
    """The same with a fifth of the cells missing."""
    X = complete.copy()
    X[np.random.default_rng(seed + 1).random(X.shape) < 0.2] = np.nan
    return X


def exactly(message):
    """A pattern for the whole message."""
    return f"^{re.escape(message)}$"


VERBS = ("transform", "reconstruct", "score_samples", "decision_function", "predict", "p_values")


# --- Missing cells --------------------------------------------------------------------------------------------------


@slow_for_vae
def test_missing_cells_give_finite_answers(estimator, complete, incomplete):
    """In training, in prediction, or in both."""
    for training, tables in ((incomplete, (incomplete, complete)), (complete, (incomplete,))):
        estimator.fit(training)
        for rows in tables:
            finite = {verb: np.isfinite(getattr(estimator, verb)(rows)).all() for verb in VERBS}
            assert finite == dict.fromkeys(VERBS, True)


@slow_for_vae
def test_scores_with_missing_cells_do_not_depend_on_the_other_rows(estimator, complete, incomplete):
    """Not even on whether any of them is incomplete."""
    rows = np.vstack([complete[:20], incomplete[:20]])
    for method in ("joint", "residual", "reconstruction", "neighbor"):
        scores = estimator.set_params(score_method=method).fit(incomplete).score_samples(rows)
        assert (estimator.score_samples(rows[::-1])[::-1] == scores).all()
        assert (estimator.score_samples(rows[:16]) == scores[:16]).all()
        assert (estimator.score_samples(rows[20:36]) == scores[20:36]).all()


def test_model_with_missing_cells_survives_a_pickle(estimator, incomplete):
    estimator.fit(incomplete)
    assert (
        pickle.loads(pickle.dumps(estimator)).score_samples(incomplete) == estimator.score_samples(incomplete)
    ).all()


def test_missing_cells_are_explained_by_what_they_should_hold_and_never_blamed(estimator, incomplete):
    estimator.fit(incomplete)
    rows = incomplete[:8]
    contributions, expected = estimator.explain(rows)
    np.testing.assert_allclose(contributions.sum(axis=1), estimator.score_samples(rows))
    assert np.isfinite(expected).all()
    for row, missing in zip(contributions, np.isnan(rows), strict=True):
        assert (row[missing] >= row.max() - 1e-9).all()


@pytest.mark.parametrize("kind", ["autoencoder", pytest.param("vae", marks=pytest.mark.slow)])
def test_order_of_rows_does_not_change_a_fit_with_missing_cells(kind, incomplete):
    estimator = ESTIMATORS[kind](2, hidden_layer_sizes=(8,), max_iter=5, random_state=0)
    scores = estimator.fit(incomplete).score_samples(incomplete)
    assert (estimator.fit(incomplete[::-1]).score_samples(incomplete) == scores).all()


@pytest.mark.parametrize("score_method", ["joint", "residual", "auto"])
def test_rescaling_a_column_shifts_scores_by_its_logarithm(estimator, incomplete, score_method):
    """Also where it is missing: such a cell counts as expected, in the user's units. A mean density leaves it out."""
    estimator.set_params(score_method=score_method).fit(incomplete)
    scores, density = estimator.score_samples(incomplete), estimator.score(incomplete)
    columns = estimator._fitted.columns
    factor = np.array([1.0, 8.0, 1.0, 1.0, 1.0, 1.0])
    columns = replace(columns, mean=columns.mean * factor, scale=columns.scale * factor)
    estimator._fitted = replace(estimator._fitted, columns=columns)
    np.testing.assert_allclose(estimator.score_samples(incomplete * factor), scores - np.log(8.0), rtol=1e-9)
    share = 1.0 - np.isnan(incomplete[:, 1]).mean()
    assert estimator.score(incomplete * factor) == pytest.approx(density - share * np.log(8.0))


def test_log_density_of_a_row_without_cells_is_zero(estimator, incomplete):
    """The marginal of nothing is one."""
    assert estimator.fit(incomplete).score(np.full((3, 6), np.nan)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_marginal_likelihood_integrates_the_missing_cell_out(complete):
    """exp(log p(x1)) is the integral of exp(log p(x1, x2)) over x2, for a linear model whose posterior is exact."""
    X = complete[:, :2]
    vae = VAETransformer(1, hidden_layer_sizes=(), n_draws=2000, random_state=0).fit(X)
    low, high = X[:, 1].min() - 60.0, X[:, 1].max() + 60.0
    grid = np.linspace(low, high, 2001)
    row = X[0, 0]
    joint = vae.log_likelihood(np.column_stack([np.full(2001, row), grid]))
    integral = np.log(np.exp(joint).sum() * (grid[1] - grid[0]))
    marginal = vae.log_likelihood(np.array([[row, np.nan]]))[0]
    # 0.05: the encoder trained on complete rows is not the posterior given one cell; 2,000 draws make up for it.
    assert marginal == pytest.approx(integral, abs=0.05)


def test_column_without_values_is_kept_and_said(estimator, incomplete):
    incomplete[:, 3] = np.nan
    message = (
        "Column 'x3' holds no value in any training row: it is kept, but nothing is learned of it, and its cells come "
        "back as NaN. Drop the column if this is not meant."
    )
    with pytest.warns(UserWarning, match=exactly(message)):
        estimator.fit(incomplete)
    reconstruction = estimator.reconstruct(incomplete)
    assert np.isnan(reconstruction[:, 3]).all()
    assert np.isfinite(np.delete(reconstruction, 3, axis=1)).all()
    filled = incomplete.copy()
    filled[:, 3] = 17.0
    assert (estimator.score_samples(filled) == estimator.score_samples(incomplete)).all()


def test_all_columns_without_values_are_told_at_once():
    rows = np.full((5, 14), np.nan)
    rows[:, 0], rows[:, 13] = np.arange(5.0), 1.0
    message = (
        "Each of the columns 'x1', 'x2', 'x3', 'x4', 'x5', 'x6', 'x7', 'x8', 'x9', 'x10' and 2 more holds no value in "
        "any training row: it is kept, but nothing is learned of it, and its cells come back as NaN. Drop the column "
        "if this is not meant."
    )
    with pytest.warns(UserWarning, match="holds no value") as caught:
        AutoencoderTransformer(max_iter=1, tol=1e3).fit(rows)
    assert [str(warning.message) for warning in caught] == [message]


def test_infinite_cells_are_refused_by_name(estimator, incomplete):
    incomplete[4, 2] = -np.inf
    message = (
        "Columns must hold finite or missing values, but column 'x2' holds -inf in row 4. Drop such rows, or replace "
        "the value by NaN to mark it as missing."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        estimator.fit(incomplete)


@slow_for_vae
def test_every_kind_of_missing_marker_is_one(estimator, incomplete):
    """NaN, None and pandas.NA; NumPy, nullable and Arrow dtypes; polars nulls: the same bits."""
    names = list("abcdef")
    frame = pd.DataFrame(incomplete, columns=names)
    scores = estimator.fit(frame).score_samples(frame)
    objects = frame.astype(object).where(frame.notna(), None)
    tables = {
        "nullable": frame.astype("Float64"),
        "arrow": frame.astype("float64[pyarrow]"),
        "objects": objects,
        "polars": pl.DataFrame({name: [None if v != v else v for v in frame[name]] for name in names}),
    }
    for table in tables.values():
        assert (estimator.fit(table).score_samples(table) == scores).all()


@pytest.mark.filterwarnings("ignore:Column 'x.' holds no value")
def test_few_rows_with_missing_cells_fit(estimator):
    for X in ([[1.0, NAN]], [[NAN, 1.0], [2.0, NAN]], [[NAN, 1.0], [NAN, 2.0], [3.0, NAN]]):
        assert np.isfinite(estimator.fit(X).score_samples(X)).all()


def test_partial_fit_takes_incomplete_chunks_after_complete_ones(estimator, complete, incomplete):
    estimator.partial_fit(complete).partial_fit(incomplete)
    assert np.isfinite(estimator.score_samples(incomplete)).all()


@pytest.mark.slow
def test_missing_cells_are_learned_from_the_others(complete, incomplete):
    """Six columns made of two: a missing cell follows from the rest, to a small share of the column's variance."""
    missing = np.isnan(incomplete)
    # The mean of the column gives 1, the conditional mean under the true covariance 0.03. Measured 0.05 and 0.14.
    for estimator, most in ((VAETransformer(2, random_state=0), 0.1), (AutoencoderTransformer(random_state=0), 0.3)):
        for training in (incomplete, complete):
            error = (estimator.fit(training).reconstruct(incomplete) - complete) / complete.std(axis=0)
            assert np.square(error[missing]).mean() < most


# --- Filling missing cells ------------------------------------------------------------------------------------------


def test_impute_leaves_observed_cells_to_the_bit(estimator, incomplete):
    filled = estimator.fit(incomplete).impute(incomplete)
    seen = ~np.isnan(incomplete)
    assert (filled[seen] == incomplete[seen]).all()
    assert np.isfinite(filled).all()
    assert np.isnan(incomplete).any()


def test_impute_returns_complete_tables_as_they_are(estimator, complete, incomplete):
    estimator.fit(incomplete)
    assert (estimator.impute(complete) == complete).all()


def test_impute_keeps_the_kind_of_table_and_its_dtypes(estimator, incomplete):
    frame = pd.DataFrame(incomplete, columns=list("abcdef"), index=range(7, 307))
    frame["b"] = frame["b"].round().astype("Int64")
    frame["c"] = frame["c"].astype("float32")
    frame["d"] = frame["d"].astype("Float64")
    frame["e"] = frame["e"].astype("double[pyarrow]")
    filled = estimator.fit(frame).impute(frame)
    assert (filled.dtypes == frame.dtypes).all()
    assert (filled.index == frame.index).all()
    assert not filled.isna().any(axis=None)
    assert filled.where(frame.notna()).equals(frame)
    polars = pl.from_pandas(frame.astype({"e": "float64"}))
    filled_polars = estimator.fit(polars).impute(polars)
    assert filled_polars.schema == polars.schema
    assert sum(filled_polars.null_count().row(0)) == 0
    assert filled_polars["b"].to_list() == filled["b"].to_list()


@pytest.mark.filterwarnings("ignore:Column .* holds no value in any training row:UserWarning")  # that is the case
@pytest.mark.parametrize("kind", ["float64", "float32", "Int64", "Float64", "double[pyarrow]", "polars"])
def test_impute_leaves_a_column_without_any_value_missing(estimator, incomplete, kind):
    """There is nothing to fill it with, whatever stands for a missing cell there."""
    frame = pd.DataFrame(incomplete, columns=list("abcdef")).assign(b=np.nan)
    if kind == "polars":
        frame = pl.from_pandas(frame).with_columns(pl.lit(None, pl.Int64).alias("b"))
    else:
        frame = frame.astype({"b": kind})
    filled = estimator.fit(frame).impute(frame[:40])
    assert list(filled.columns) == list("abcdef")
    assert filled["b"].dtype == frame["b"].dtype
    if kind == "polars":
        assert filled["b"].null_count() == 40
        filled = filled.to_pandas()
    assert filled["b"].isna().all()
    assert not filled.drop(columns="b").isna().any(axis=None)


@pytest.mark.slow
def test_draws_spread_as_the_conditional_distribution():
    """Two columns of correlation 0.8: given the first, the second is normal with variance 0.36."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])
    rows = X[:400].copy()
    rows[:, 1] = np.nan
    X[rng.random(4000) < 0.2, 1] = np.nan  # an encoder that knows only complete rows may take the second for the code
    vae = VAETransformer(1, hidden_layer_sizes=(), random_state=0).fit(X)
    draws = np.stack(vae.impute(rows, n_draws=20))[:, :, 1]
    # Measured: 0.36 within 0.02 and a slope of 0.8 within 0.04, three tables with three seeds each.
    assert np.var(draws - 0.8 * rows[:, 0]) == pytest.approx(0.36, abs=0.08)
    assert np.polyfit(rows[:, 0], draws.mean(axis=0), 1)[0] == pytest.approx(0.8, abs=0.08)
    assert (np.stack(vae.impute(rows, n_draws=20))[:, :, 1] == draws).all()
    # Beyond three deviations 4,000 rows teach little: there the model's own mean is 0.6 off.
    near = np.abs(rows[:, 0]) < 3.0
    np.testing.assert_allclose(vae.impute(rows)[near, 1], 0.8 * rows[near, 0], atol=0.3)


def test_impute_refuses_numbers_of_draws(estimator, incomplete):
    estimator.fit(incomplete)
    for n_draws in (0, 1.5, True):
        message = f"The 'n_draws' parameter must be a positive int or None. Got {n_draws!r} instead."
        with pytest.raises(ValueError, match=exactly(message)):
            estimator.impute(incomplete, n_draws)


def test_autoencoder_has_nothing_to_draw_from(incomplete):
    message = (
        "Drawing cells needs a model of their distribution, but an autoencoder has none and n_draws=2 came. Use "
        "VAETransformer, or leave 'n_draws' at None."
    )
    autoencoder = AutoencoderTransformer(2, max_iter=1).fit(incomplete)
    with pytest.raises(ValueError, match=exactly(message)):
        autoencoder.impute(incomplete, n_draws=2)


# --- Densities of incomplete rows -----------------------------------------------------------------------------------


def test_gaussian_density_of_incomplete_rows_is_the_marginal(seed):
    rng = np.random.default_rng(seed)
    covariance = np.cov(rng.normal(size=(4, 20)))
    mean = rng.normal(size=4)
    factor = torch.from_numpy(np.linalg.cholesky(covariance))
    density = GaussianDensity(
        torch.from_numpy(mean), torch.linalg.inv(factor).T.contiguous(), factor.diagonal().log().sum()
    )
    rows = rng.normal(size=(2, 4))
    rows[1, [0, 2]] = np.nan
    expected = [
        multivariate_normal(mean, covariance).logpdf(rows[0]),
        multivariate_normal(mean[[1, 3]], covariance[np.ix_([1, 3], [1, 3])]).logpdf(rows[1, [1, 3]]),
    ]
    np.testing.assert_allclose(density.log_prob(torch.from_numpy(rows)), expected, rtol=1e-10)
    conditional = covariance - covariance[:, [1, 3]] @ np.linalg.solve(
        covariance[np.ix_([1, 3], [1, 3])], covariance[[1, 3]]
    )
    entropy = multivariate_normal(np.zeros(2), conditional[np.ix_([0, 2], [0, 2])]).entropy()
    full = density.expected_log_prob(torch.from_numpy(rows))
    np.testing.assert_allclose(full, [expected[0], expected[1] - entropy], rtol=1e-10)


def test_gaussian_density_is_learned_from_the_cells_that_are_there(seed):
    rng = np.random.default_rng(seed)
    factor = np.array([[1.0, 0.0], [0.8, 0.6]])
    rows = rng.normal(size=(20_000, 2)) @ factor.T
    rows[rng.random(rows.shape) < 0.3] = np.nan
    density = GaussianDensity.fit(torch.from_numpy(rows), shrinkage=0.0)
    whitener = density.whitener.numpy()
    # 0.05: five standard errors of a covariance from 10,000 pairs.
    np.testing.assert_allclose(np.linalg.inv(whitener @ whitener.T), factor @ factor.T, atol=0.05)


def test_missing_residuals_neither_count_nor_dilute():
    x = torch.tensor([[1.0, NAN], [NAN, NAN], [2.0, 4.0]])
    reconstruction = torch.tensor([[0.0, 5.0], [6.0, 7.0], [2.0, 2.0]])
    residual = x - reconstruction
    assert mean_square(residual).tolist() == [1.0, 0.0, 2.0]
    filled, residual = completed(x, residual, reconstruction)
    assert filled.tolist() == [[1.0, 5.0], [6.0, 7.0], [2.0, 4.0]]
    assert residual.tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]


@pytest.mark.parametrize("blank", [pd.NA, pd.NaT], ids=str)
def test_missing_values_of_pandas_in_an_array(estimator, complete, blank):
    """As `DataFrame.to_numpy` leaves them where a dtype is nullable."""
    known, objects = complete.copy(), complete.astype(object)
    known[3, 1], objects[3, 1] = np.nan, blank
    scores = clone(estimator).fit(known).score_samples(known)
    np.testing.assert_array_equal(estimator.fit(objects).score_samples(objects), scores)
    np.testing.assert_array_equal(estimator.fit(objects.tolist()).score_samples(objects.tolist()), scores)
    filled = estimator.impute(objects)
    assert np.isfinite(filled.astype(float)).all()
    np.testing.assert_array_equal(np.delete(filled, 3, axis=0).astype(float), np.delete(complete, 3, axis=0))
