"""The linear starts against scikit-learn's PCA and factor analysis."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, FactorAnalysis

from skvae._networks.starts import factor_analysis_start, pca_start

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
    oracle = FactorAnalysis(n_components).fit(X)
    linear = begin(factor_analysis_start, X, n_components)
    codes, expected = (X - linear.mean) @ linear.encoder, oracle.transform(X)
    rotation = np.linalg.lstsq(expected, codes, rcond=None)[0]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(n_components), atol=1e-8)
    np.testing.assert_allclose(expected @ rotation, codes, atol=1e-8)
    loadings, noise = oracle.components_, oracle.noise_variance_
    covariance = np.linalg.inv(np.eye(n_components) + loadings / noise @ loadings.T)
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
