"""The linear starts against scikit-learn's PCA and factor analysis, and against the model behind rows with gaps."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.linear_model import Ridge

from skvae._data.inputs import InputLayer
from skvae._networks.incomplete_starts import _incomplete_factors, incomplete_start
from skvae._networks.starts import Moments, factor_analysis_start, pca_start

STARTS = {"pca": pca_start, "factor analysis": factor_analysis_start}
each_start = pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)


@pytest.fixture
def X(seed):
    """400 rows of 6 columns about 2, with three factors and noise of different scales."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((400, 3)) @ rng.standard_normal((3, 6))
    return 2.0 + factors + rng.uniform(0.3, 0.8, 6) * rng.standard_normal((400, 6))


def begin(start, X, n_components, seed=0):
    return start(torch.as_tensor(np.asarray(X)), n_components, np.random.RandomState(seed))


def shrunk_factors(oracle, X):
    """Loadings and noise of scikit-learn's factor analysis, with correlations shrunk as those of the rows."""
    rows = torch.from_numpy(X)
    shrinkage = Moments.of(rows).shrinkage(rows)
    noise = oracle.noise_variance_ + shrinkage * (oracle.components_**2).sum(axis=0)
    return np.sqrt(1 - shrinkage) * oracle.components_, noise


def reconstructed(linear, X):
    return (X - linear.mean) @ linear.encoder @ linear.decoder + linear.mean


# --- PCA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_components", [1, 3, 6])
def test_pca_start_reconstructs_as_pca(n_components, X):
    pca = PCA(n_components).fit(X)
    linear = begin(pca_start, X, n_components)
    np.testing.assert_allclose(reconstructed(linear, X), pca.inverse_transform(pca.transform(X)), atol=1e-10)
    np.testing.assert_allclose(linear.noise_variance, ((X - reconstructed(linear, X)) ** 2).mean(axis=0), atol=2e-6)
    assert not linear.log_variance.any()


@pytest.mark.parametrize("n_components", [7, 20])
def test_surplus_components_do_not_decode_yet(n_components, X):
    """The reconstruction stays PCA's (here: exact), but their codes vary, so that training can use them."""
    linear = begin(pca_start, X, n_components)
    assert linear.encoder.shape == (6, n_components)
    np.testing.assert_allclose(reconstructed(linear, X), X, atol=1e-10)
    assert not linear.decoder[6:].any()
    assert (((X - linear.mean) @ linear.encoder).std(axis=0) > 0).all()


# --- Factor analysis ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_components", [1, 2, 3])
def test_factor_analysis_start_gives_its_posterior(n_components, X):
    """Means up to a rotation of the factors, covariance up to the same one, noise and mean as they are."""
    X = X[:40]
    loadings, noise = shrunk_factors(FactorAnalysis(n_components, max_iter=5000).fit(X), X)
    linear = begin(factor_analysis_start, X, n_components)
    covariance = np.linalg.inv(np.eye(n_components) + loadings / noise @ loadings.T)
    codes, expected = (X - linear.mean) @ linear.encoder, (X - X.mean(axis=0)) @ (covariance @ (loadings / noise)).T
    rotation = np.linalg.lstsq(expected, codes, rcond=None)[0]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(n_components), atol=1e-8)
    np.testing.assert_allclose(expected @ rotation, codes, atol=1e-8)
    np.testing.assert_allclose(rotation.T @ covariance @ rotation, np.diag(np.exp(linear.log_variance)), atol=1e-8)
    np.testing.assert_allclose(linear.decoder, rotation.T @ loadings, atol=1e-8)
    np.testing.assert_allclose(linear.noise_variance, noise)
    np.testing.assert_allclose(linear.mean, X.mean(axis=0))


def test_surplus_factors_start_next_to_the_prior(X):
    """Posterior N(small, 1), and no say in the reconstruction."""
    linear, exact = begin(factor_analysis_start, X, 10), begin(factor_analysis_start, X, 6)
    np.testing.assert_array_equal(linear.log_variance[6:], np.zeros(4))
    assert not linear.decoder[6:].any()
    surplus = ((X - linear.mean) @ linear.encoder)[:, 6:]
    assert (surplus.std(axis=0) > 0).all()
    assert (surplus.std(axis=0) < 1).all()
    np.testing.assert_allclose(reconstructed(linear, X), reconstructed(exact, X), atol=1e-8)


# --- Both -----------------------------------------------------------------------------------------------------------

TABLES = {
    "one row": np.array([[1.0, -2.0, 3.0]]),
    "two rows": np.array([[1.0, -2.0, 3.0], [0.0, 1.0, 3.0]]),
    "one column": np.arange(9.0)[:, None],
    "equal rows": np.full((8, 3), 4.0),
    "a constant column": np.stack([np.arange(9.0), np.full(9, 2.0), np.arange(9.0) % 4], axis=1),
    "equal columns": np.repeat(np.arange(9.0)[:, None], 3, axis=1),
    "more columns than rows": np.random.default_rng(0).standard_normal((4, 30)),
    "zeros": np.zeros((5, 2)),
}


@each_start
@pytest.mark.parametrize("n_components", [1, 2, 5])
@pytest.mark.parametrize("X", TABLES.values(), ids=TABLES)
def test_small_tables_have_a_start(start, n_components, X):
    linear = begin(start, X, n_components)
    n_features = X.shape[1]
    assert linear.encoder.shape == (n_features, n_components)
    assert linear.decoder.shape == (n_components, n_features)
    assert linear.log_variance.shape == (n_components,)
    assert all(np.isfinite(part).all() for part in linear)
    assert (linear.noise_variance > 0).all()
    np.testing.assert_allclose(linear.mean, X.mean(axis=0))
    error = ((X - reconstructed(linear, X)) ** 2).sum()
    # No worse than the mean of the rows; a millionth of the sum of squares for rounding.
    assert error <= ((X - X.mean(axis=0)) ** 2).sum() * (1 + 1e-6) + 1e-12


@each_start
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_of_the_rows_only_rounds(start, dtype, X):
    linear = start(torch.as_tensor(X).to(dtype), 2, np.random.RandomState(0))
    exact = begin(start, X, 2)
    assert all(part.dtype == np.float64 for part in linear)
    # Measured with the seeds 0 to 2: 6e-8, the rounding of float32.
    np.testing.assert_allclose(reconstructed(linear, X), reconstructed(exact, X), atol=1e-5)


@each_start
@pytest.mark.parametrize("n_samples", [200, 20_500])
def test_start_is_a_function_of_the_seed(start, n_samples, seed):
    """Above 20,000 rows a sample of them; NumPy's own state stays as it was."""
    X = np.random.default_rng(seed).standard_normal((n_samples, 3))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again = begin(start, X, 5), begin(start, X, 5)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert (begin(start, X, 5, seed=1).encoder != first.encoder).any()


# --- More columns than rows -----------------------------------------------------------------------------------------


@pytest.fixture
def wide(seed):
    """60 rows of 900 columns with five factors, the last of which explain little."""
    rng = np.random.default_rng(seed)
    return (
        2.0
        + rng.standard_normal((60, 5)) * [9, 7, 5, 3, 2] @ rng.standard_normal((5, 900))
        + rng.standard_normal((60, 900))
    )


@pytest.mark.parametrize("n_components", [4, 40])
def test_pca_start_of_wide_rows_is_pca(n_components, wide):
    """By subspace iteration, and, where so many components are asked for, from the inner products of the rows."""
    pca = PCA(n_components, svd_solver="full").fit(wide)
    linear = begin(pca_start, wide, n_components)
    np.testing.assert_allclose(reconstructed(linear, wide), pca.inverse_transform(pca.transform(wide)), atol=1e-4)
    np.testing.assert_allclose(
        linear.noise_variance, ((wide - reconstructed(linear, wide)) ** 2).mean(axis=0), atol=1e-3
    )


def test_factor_analysis_start_of_wide_rows_is_factor_analysis(wide):
    """The covariance that scikit-learn finds of the same rows; it takes the same rounds, from the same noise."""
    oracle = FactorAnalysis(5, svd_method="lapack", max_iter=50, noise_variance_init=np.ones(900)).fit(wide)
    linear = begin(factor_analysis_start, wide, 5)
    loadings, noise = shrunk_factors(oracle, wide)
    np.testing.assert_allclose(linear.noise_variance, noise, rtol=0.02)
    expected = loadings.T @ loadings
    assert np.abs(linear.decoder.T @ linear.decoder - expected).max() < 0.02 * np.abs(expected).max()


def test_wide_rows_are_never_squared():
    """20,000 columns: the matrix of their products would take 3 GiB."""
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((10, 20_000)))
    for start in STARTS.values():
        linear = start(rows, 3, np.random.RandomState(0))
        assert linear.decoder.shape == (3, 20_000)
        assert np.isfinite(linear.decoder).all()


# --- Missing cells --------------------------------------------------------------------------------------------------

LOADINGS = np.array([[2.0, 1.0, 0.0, -1.0, 1.0, 0.5], [0.0, 1.0, 2.0, 1.0, -1.0, 0.5]])
LAYER = InputLayer(6, masked=tuple(range(6)))


@pytest.fixture
def rows(seed):
    """Two factors in six columns, noise of variance 0.25; a third of the cells missing."""
    rng = np.random.default_rng(seed)
    X = 3.0 + rng.normal(size=(2000, 2)) @ LOADINGS + 0.5 * rng.normal(size=(2000, 6))
    X[rng.random(X.shape) < 1 / 3] = np.nan
    return torch.from_numpy(X)


def test_factor_analysis_finds_the_model_behind_incomplete_rows(rows):
    start = incomplete_start(rows, LAYER(rows), 2, np.random.RandomState(0))
    # Measured over seeds 0 to 3: at most 0.13, 0.09 and 0.09.
    np.testing.assert_allclose(start.decoder.T @ start.decoder, LOADINGS.T @ LOADINGS, atol=0.5)
    np.testing.assert_allclose(start.noise_variance, np.full(6, 0.25), atol=0.12)
    np.testing.assert_allclose(start.mean, np.full(6, 3.0), atol=0.25)


@pytest.mark.parametrize("noise_variance", [None, 0.0])
def test_linear_model_fills_cells_better_than_the_mean(rows, noise_variance):
    inputs = LAYER(rows)
    start = incomplete_start(rows, inputs, 2, np.random.RandomState(0), noise_variance=noise_variance)
    reconstruction = (inputs.numpy() @ start.encoder + start.bias) @ start.decoder + start.mean
    error = np.nanmean((reconstruction - rows.numpy()) ** 2)
    # Filling with the mean leaves all of the variance; measured 0.13 of it at most.
    assert error < 0.25 * np.nanvar(rows.numpy())


@pytest.mark.parametrize("n_components", [1, 4, 9])
@pytest.mark.parametrize("noise_variance", [None, 0.4])
@pytest.mark.parametrize("n_samples", [1, 2, 3, 50])
def test_start_is_finite_and_fits_the_network(rows, n_components, noise_variance, n_samples):
    rows = rows[:n_samples].clone()
    rows[:, 4] = torch.nan
    start = incomplete_start(rows, LAYER(rows), n_components, np.random.RandomState(0), noise_variance=noise_variance)
    assert all(np.isfinite(part).all() for part in start)
    assert start.encoder.shape == (12, n_components)
    assert start.decoder.shape == (n_components, 6)
    assert start.bias.shape == start.log_variance.shape == (n_components,)


def test_start_of_rows_without_cells():
    rows = torch.full((3, 6), torch.nan, dtype=torch.float64)
    start = incomplete_start(rows, LAYER(rows), 2, np.random.RandomState(0))
    assert all(np.isfinite(part).all() for part in start)


def test_rows_that_share_their_gaps_start_as_each_alone(seed, monkeypatch):
    """A covariance for each pattern of gaps, not for each row: rows twice are the same evidence twice.

    How far correlations shrink depends on how many rows there are.
    """
    monkeypatch.setattr(Moments, "shrinkage", lambda self, rows: 0.0)
    rng = np.random.default_rng(seed)
    X = 3.0 + rng.normal(size=(300, 2)) @ LOADINGS + 0.5 * rng.normal(size=(300, 6))
    X[:200, 4] = X[100:250, 0] = np.nan  # four patterns
    once, twice = torch.from_numpy(X), torch.from_numpy(np.repeat(X, 2, axis=0))
    first, second = (incomplete_start(x, LAYER(x), 2, np.random.RandomState(0)) for x in (once, twice))
    # The prior of the loadings weighs half as much against twice the rows: measured 0.015 and 0.001.
    np.testing.assert_allclose(second.decoder.T @ second.decoder, first.decoder.T @ first.decoder, atol=0.1)
    np.testing.assert_allclose(second.noise_variance, first.noise_variance, atol=0.02)


@pytest.mark.parametrize("n_samples", [20, 200])
def test_encoder_is_the_ridge_regression(n_samples, rng):
    """Of whitened principal components on 60 inputs, by scikit-learn; of complete rows those are known."""
    X = rng.normal(size=(n_samples, 60))
    start = incomplete_start(torch.from_numpy(X), torch.from_numpy(X), 3, np.random.RandomState(0), noise_variance=0.0)
    codes = PCA(3, whiten=True).fit_transform(X) * np.sqrt(n_samples / (n_samples - 1))
    oracle = Ridge(alpha=1e-3 * n_samples).fit(X, codes)
    sign = np.sign((start.encoder * oracle.coef_.T).sum(axis=0))
    np.testing.assert_allclose(start.encoder * sign, oracle.coef_.T, atol=1e-9)
    np.testing.assert_allclose(start.bias * sign, oracle.intercept_, atol=1e-9)


@pytest.mark.slow
def test_columns_far_apart_in_size_have_a_start(rng):
    """Unscaled ones: 1e20 beside 0, so that rounding takes ridge and prior out of the moments."""
    rows = np.zeros((4, 6))
    rows[1:3, 5], rows[0, 1], rows[1, 2] = 1e20, np.nan, np.nan
    tables = [rows, 10.0 ** rng.uniform(-20, 24, size=(16, 6))]
    tables[1][rng.random((16, 6)) < 0.3] = np.nan
    for table in tables:
        x = torch.tensor(table)
        start = incomplete_start(x, x.nan_to_num(), 3, np.random.RandomState(0), noise_variance=0.1)
        assert all(np.isfinite(part).all() for part in start)


def test_many_levels_bound_the_factors():
    """More columns than 2**20 pairs of 64 loadings allow: fewer factors, and a start within seconds."""
    X = np.random.default_rng(0).normal(size=(40, 2_000))
    X[0, 0] = np.nan
    x = torch.from_numpy(X)
    start = incomplete_start(x, InputLayer(2_000, masked=(0,))(x), 64, np.random.RandomState(0))
    assert np.count_nonzero(np.abs(start.decoder).sum(axis=1)) == 22  # the root of 2**20 / 2000


def test_gaps_beside_one_column_of_huge_values_have_a_start():
    rows = np.zeros((5, 8))
    rows[:, 5] = [1e38, 1e38, 0.0, 1e38, 1e38]
    rows[1:4, 7] = np.nan
    factors = _incomplete_factors(rows, 2)
    assert all(np.isfinite(part).all() for part in factors)
    np.testing.assert_allclose(factors.mean[5], 0.8e38, rtol=1e-6)
