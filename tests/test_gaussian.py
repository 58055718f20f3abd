"""Gaussians of wide rows against scipy's, and against the form that keeps a whitener."""

import numpy as np
import pytest
import torch
from rows import correlated, tensor
from scipy.stats import multivariate_normal

from skvae._densities.gaussian import FactoredGaussian, GaussianDensity, fit_gaussian

# Rows and columns: fewer rows than columns, as many, more.
SHAPES = [(20, 60), (60, 60), (150, 60)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=["few rows", "as many", "more"])


def shrunk(X, shrinkage=0.05, floor=1e-6, weight=None):
    covariance = np.cov(X.T, bias=True, aweights=weight)
    return (1 - shrinkage) * covariance + (shrinkage * np.trace(covariance) / len(covariance) + floor) * np.eye(
        X.shape[1]
    )


@each_shape
@pytest.mark.parametrize("weighted", [False, True])
def test_factored_gaussian_equals_scipy(shape, weighted, rng):
    """Measured 1e-14 of the log-density."""
    X, fresh = correlated(rng, *shape), 3.0 * correlated(rng, 10, shape[1])
    weight = rng.exponential(size=len(X)) if weighted else None
    density = FactoredGaussian.fit(tensor(X), None if weight is None else tensor(weight))
    oracle = multivariate_normal(np.average(X, axis=0, weights=weight), shrunk(X, weight=weight))
    np.testing.assert_allclose(density.log_prob(tensor(fresh)).numpy(), oracle.logpdf(fresh), rtol=1e-9)
    assert float(density.log_scale) == pytest.approx(0.5 * np.linalg.slogdet(oracle.cov)[1], rel=1e-9)


@each_shape
def test_whitening_is_by_the_symmetric_root(shape, rng):
    X, fresh = correlated(rng, *shape), tensor(correlated(rng, 10, shape[1]))
    factored, full = FactoredGaussian.fit(tensor(X)), GaussianDensity.fit(tensor(X))
    torch.testing.assert_close(factored.whiten(fresh), full.whiten(fresh), rtol=1e-8, atol=1e-8)
    squares = factored.whiten(fresh).square().sum(dim=1)
    torch.testing.assert_close(factored.square_distance(fresh), squares, rtol=1e-8, atol=0.0)


@each_shape
def test_missing_cells_leave_the_marginal(shape, rng):
    """Of rows with gaps, by Woodbury's identity, as scipy has it of the cells that are there."""
    X, fresh = correlated(rng, *shape), correlated(rng, 6, shape[1])
    density, covariance = FactoredGaussian.fit(tensor(X)), shrunk(X)
    mask = rng.random(fresh.shape) < 0.6
    marginals = [
        multivariate_normal(X.mean(axis=0)[seen], covariance[np.ix_(seen, seen)]).logpdf(row[seen])
        for row, seen in zip(fresh, mask, strict=True)
    ]
    hidden = tensor(np.where(mask, fresh, np.nan))
    np.testing.assert_allclose(density.log_prob(hidden).numpy(), marginals, rtol=1e-8)
    full = GaussianDensity.fit(tensor(X)).expected_log_prob(hidden)
    torch.testing.assert_close(density.expected_log_prob(hidden), full, rtol=1e-8, atol=0.0)


@each_shape
def test_restricted_density_is_the_marginal(shape, rng):
    X, columns = correlated(rng, *shape), [0, 7, 30]
    density = FactoredGaussian.fit(tensor(X)).restricted(columns)
    oracle = multivariate_normal(X.mean(axis=0)[columns], shrunk(X)[np.ix_(columns, columns)])
    np.testing.assert_allclose(density.log_prob(tensor(X[:, columns])).numpy(), oracle.logpdf(X[:, columns]), rtol=1e-8)


def test_few_rows_with_gaps_keep_each_column_s_variance(rng):
    """That of the cells that are there, on the diagonal; the covariances of two columns come out smaller."""
    X = correlated(rng, 20, 60)
    X[rng.random(X.shape) < 0.2] = np.nan
    density = FactoredGaussian.fit(tensor(X), shrinkage=0.0, floor=0.0)
    covariance = (density.axes * density.variance) @ density.axes.T
    np.testing.assert_allclose(density.mean.numpy(), np.nanmean(X, axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance.diagonal().numpy(), np.nanvar(X, axis=0), rtol=1e-6)


@pytest.mark.parametrize("rows", [[[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]] * 2], ids=["one row", "equal rows"])
def test_factored_gaussian_of_a_point(rows):
    """What is left is the millionth in each direction."""
    density = FactoredGaussian.fit(tensor(rows))
    at = [[1.0, 2.0, 3.0], [1.001, 2.0, 3.0]]
    oracle = multivariate_normal([1.0, 2.0, 3.0], 1e-6)
    np.testing.assert_allclose(density.log_prob(tensor(at)).numpy(), oracle.logpdf(at), rtol=1e-9)


@pytest.mark.parametrize(("n_columns", "kind"), [(200, GaussianDensity), (201, FactoredGaussian)])
def test_wide_rows_are_factored(n_columns, kind, rng):
    assert type(fit_gaussian(tensor(rng.normal(size=(10, n_columns))))) is kind


def test_wide_rows_of_full_rank_agree_with_the_whole_covariance(rng):
    """300 columns, whose products are summed in float32: measured 4.7e-7 of the log-density."""
    X, fresh = correlated(rng, 900, 300), correlated(rng, 50, 300)
    oracle = multivariate_normal(X.mean(axis=0), shrunk(X))
    np.testing.assert_allclose(fit_gaussian(tensor(X)).log_prob(tensor(fresh)).numpy(), oracle.logpdf(fresh), rtol=1e-6)


@each_shape
def test_leading_axes_come_by_descending_variance(shape, rng):
    X = correlated(rng, *shape)
    density = FactoredGaussian.fit(tensor(X))
    axes, whitener = density.leading(40, np.random.RandomState(0))
    assert axes.shape == whitener.shape == (60, 40)
    torch.testing.assert_close(axes.T @ axes, torch.eye(40, dtype=torch.float64), rtol=0.0, atol=1e-9)
    torch.testing.assert_close(whitener.T @ tensor(shrunk(X)) @ whitener, torch.eye(40).double(), rtol=0.0, atol=1e-7)
    variance = np.diag(axes.numpy().T @ shrunk(X) @ axes.numpy())
    assert (np.diff(variance) < 1e-9 * variance[0]).all()


def test_factored_gaussian_takes_as_much_room_as_its_rows(rng):
    """200 rows of 5,000 columns: 199 axes, where a whitener would take 200 MB."""
    density = FactoredGaussian.fit(tensor(rng.normal(size=(200, 5_000))))
    assert density.axes.shape == (5_000, 199)
    assert {name: value.ndim for name, value in density.state().items()} == {
        "mean": 1, "axes": 2, "variance": 1, "rest": 0, "log_scale": 0
    }  # fmt: skip
