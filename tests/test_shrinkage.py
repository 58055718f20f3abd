"""The shrinkage of correlations against rows that are left out one by one."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from skvae._networks.incomplete_starts import incomplete_start
from skvae._networks.shrinkage import SHRINKAGES, covariance_shrinkage, held_out_shrinkage
from skvae._networks.starts import Moments, factor_analysis_start


def standardised(X):
    return (X - X.mean(axis=0)) / X.std(axis=0)


def of_loops(X, shrinkages):
    """The shrinkage under which SciPy finds rows likeliest, given means and correlations of the others."""
    X, total = standardised(X), np.zeros(len(shrinkages))
    for k in range(len(X)):
        others = np.delete(X, k, axis=0)
        moments = np.cov(others.T, bias=True)
        for index, s in enumerate(shrinkages):
            covariance = (1 - s) * moments + s * np.eye(X.shape[1])
            try:
                total[index] += multivariate_normal.logpdf(X[k], others.mean(axis=0), covariance)
            except np.linalg.LinAlgError:  # not to be told from a singular one
                total[index] = -np.inf
    return shrinkages[int(np.argmax(total))]


def table(n_samples, n_columns, noise, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n_samples, 2)) @ rng.standard_normal((2, n_columns)) + noise * rng.standard_normal(
        (n_samples, n_columns)
    )


@pytest.mark.parametrize("noise", [0.05, 1.0, 3.0])
@pytest.mark.parametrize(("n_samples", "n_columns"), [(12, 4), (9, 15)])
def test_rows_that_are_left_out_choose(n_samples, n_columns, noise, seed):
    X = table(n_samples, n_columns, noise, seed)
    rows = torch.from_numpy(standardised(X))
    values, axes = torch.linalg.eigh(rows.T @ rows / n_samples)
    kept = values > 1e-12  # of fewer rows than columns
    found = held_out_shrinkage(rows, values[kept], axes[:, kept], n_samples)
    assert found == of_loops(X, SHRINKAGES[1:] if n_columns > n_samples else SHRINKAGES)
    assert Moments.of(torch.from_numpy(X)).shrinkage(torch.from_numpy(X)) == found


@pytest.mark.slow
def test_wide_tables_take_the_same_rule():
    """From the inner products of the rows; a constant column has no correlation to shrink."""
    X = table(8, 205, 1.0, 0)
    with_constant = torch.from_numpy(np.hstack([X, np.full((8, 1), 5.0)]))
    assert Moments.of(with_constant).shrinkage(with_constant) == of_loops(X, SHRINKAGES[1:])


def test_of_independent_columns_no_correlation_is_left(rng):
    rows = torch.from_numpy(rng.standard_normal((30, 10)))
    start = factor_analysis_start(rows, 4, np.random.RandomState(0))
    # Without shrinkage the largest is 0.7 to 1: measured over seeds 0 to 9.
    common = start.decoder.T @ start.decoder
    assert np.abs(common - np.diag(np.diag(common))).max() < 0.25
    np.testing.assert_allclose(np.diag(common) + start.noise_variance, rows.var(dim=0, correction=0), rtol=0.02)


def test_many_rows_keep_their_correlations():
    rows = torch.from_numpy(table(3000, 8, 0.5, 0))
    assert Moments.of(rows).shrinkage(rows) <= 0.001


def test_incomplete_rows_keep_their_variances(rng):
    """What is taken from the loadings is given to the noise."""
    X = rng.standard_normal((40, 9))
    X[rng.random(X.shape) < 0.2] = np.nan
    rows = torch.from_numpy(X)
    start = incomplete_start(rows, torch.nan_to_num(rows), 3, np.random.RandomState(0))
    common = start.decoder.T @ start.decoder
    assert np.abs(common - np.diag(np.diag(common))).max() < 0.25
    np.testing.assert_allclose(np.diag(common) + start.noise_variance, np.nanvar(X, axis=0), rtol=0.25)


def of_loops_of_covariance(X, shrinkages):
    """The same of a covariance, shrunk towards the identity times its mean variance."""
    X = (X - X.mean(axis=0)) / np.sqrt(X.var(axis=0).mean())
    total = np.zeros(len(shrinkages))
    for k in range(len(X)):
        others = np.delete(X, k, axis=0)
        for index, s in enumerate(shrinkages):
            covariance = (1 - s) * np.cov(others.T, bias=True) + s * np.eye(X.shape[1])
            total[index] += multivariate_normal.logpdf(X[k], others.mean(axis=0), covariance)
    return shrinkages[int(np.argmax(total))]


UP_TO_A_TWENTIETH = (0.0, 3e-4, 1e-3, 3e-3, 0.01, 0.02, 0.05)


@pytest.mark.parametrize("spread", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("n_samples", [12, 40])
def test_rows_that_are_left_out_choose_for_a_covariance(n_samples, spread, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_samples, 5)) * np.array([1.0, 0.8, 0.5, spread, spread]) + 3.0
    assert covariance_shrinkage(torch.from_numpy(X), 0.05) == of_loops_of_covariance(X, UP_TO_A_TWENTIETH)


def test_copies_and_incomplete_rows_choose_nothing(rng):
    """Copies of a row that is left out would stay, and tell all of it."""
    X = rng.standard_normal((40, 5)) * np.array([1.0, 0.8, 0.5, 0.1, 0.1])
    holed = np.where(rng.random((30, 5)) < 0.3, np.nan, rng.standard_normal((30, 5)))
    holed[:, 0] = np.nan
    rows = torch.from_numpy(rng.permutation(np.concatenate([np.repeat(X, 3, axis=0), holed])))
    assert covariance_shrinkage(rows, 0.05) == of_loops_of_covariance(X, UP_TO_A_TWENTIETH)


@pytest.mark.parametrize("shape", [(1, 4), (50, 1), (6, 300)])
def test_a_covariance_of_which_nothing_is_known_is_shrunk_most(shape, rng):
    assert covariance_shrinkage(torch.from_numpy(rng.standard_normal(shape)), 0.04) == 0.04


def test_a_covariance_is_shrunk_by_no_less_than_the_least(rng):
    rows = torch.from_numpy(rng.standard_normal((200, 4)) * np.array([1.0, 1.0, 1.0, 1e-3]))
    assert (covariance_shrinkage(rows, 0.05), covariance_shrinkage(rows, 0.05, 0.003)) == (0.0, 0.003)


@pytest.mark.parametrize("value", [2.5, np.nan])
def test_rows_without_spread_are_shrunk_most(value):
    assert covariance_shrinkage(torch.full((9, 3), value, dtype=torch.float64), 0.05) == 0.05
