"""Rows kept by trimming against planted outliers, and the central density against scikit-learn's robust covariance."""

import numpy as np
import pytest
import torch
from rows import correlated, tensor
from scipy.stats import multivariate_normal
from sklearn.covariance import MinCovDet

from skvae._densities.gaussian import GaussianDensity
from skvae._densities.trimming import central_density, trimmed_rows


@pytest.mark.parametrize("n_features", [1, 2, 5, 20])
@pytest.mark.parametrize("kind", ["scattered", "cluster", "one cell"])
def test_planted_outliers_are_trimmed(n_features, kind, rng):
    """Ten of 200 rows, 12 standard deviations out: exactly these go."""
    X = rng.standard_normal((200, n_features))
    planted = np.sort(rng.choice(200, 10, replace=False))
    if kind == "scattered":
        direction = rng.standard_normal((10, n_features))
        X[planted] = 12.0 * np.sqrt(n_features) * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    elif kind == "cluster":
        X[planted] = 12.0 + 0.1 * rng.standard_normal((10, n_features))
    else:
        X[planted, 0] = 1e30
    kept = trimmed_rows(tensor(X), 0.05)
    np.testing.assert_array_equal(kept.numpy(), np.setdiff1d(np.arange(200), planted))


def test_trimming_sees_correlation(rng):
    """Rows off a diagonal, each of whose cells is usual."""
    shared = rng.standard_normal((200, 1))
    X = shared + 0.05 * rng.standard_normal((200, 2))
    X[:6] = [1.5, -1.5]
    assert trimmed_rows(tensor(X), 0.03).tolist() == list(range(6, 200))


@pytest.mark.parametrize(("contamination", "n_kept"), [(0.001, 100), (0.02, 98), (0.1, 90), (0.3, 90), (0.5, 90)])
def test_trimming_keeps_nine_tenths(contamination, n_kept, rng):
    kept = trimmed_rows(tensor(correlated(rng, 100)), contamination)
    assert len(kept) == n_kept
    assert kept.tolist() == sorted(set(kept.tolist()))


def test_trimming_does_not_depend_on_units_or_order(rng):
    X = correlated(rng, 150)
    X[:8] *= 6.0
    kept = set(trimmed_rows(tensor(X), 0.08).tolist())
    assert set(trimmed_rows(tensor(X * [1e-3, 1.0, 50.0, 7.0] + 30.0), 0.08).tolist()) == kept
    order = rng.permutation(150)
    assert {int(order[i]) for i in trimmed_rows(tensor(X[order]), 0.08)} == kept


@pytest.mark.parametrize("rows", [np.zeros((30, 3)), np.eye(3).repeat(10, axis=0), np.arange(3.0)[:, None]])
def test_trimming_of_degenerate_tables(rows):
    kept = trimmed_rows(tensor(rows), 0.1)
    assert len(kept) == round(0.9 * len(rows))


# --- The central density --------------------------------------------------------------------------------------------


def test_central_density_equals_the_concentration_steps_of_numpy(rng):
    X = correlated(rng, 400)
    kept = np.arange(400)
    for _ in range(3):
        covariance = np.cov(X[kept].T, bias=True) + 0.1 * np.eye(4)
        centred = X - X[kept].mean(axis=0)
        kept = np.argsort(np.einsum("ij,jk,ik->i", centred, np.linalg.inv(covariance), centred))[:300]
    expected = GaussianDensity.fit(tensor(X[kept]), shrinkage=0.0, floor=0.1).log_prob(tensor(X))
    torch.testing.assert_close(central_density(tensor(X), floor=0.1).log_prob(tensor(X)), expected)


def test_central_density_looks_past_a_cluster(rng):
    """A tenth of the rows in one far place: their log-density is as low as with scikit-learn's estimate, or lower."""
    X = correlated(rng, 300)
    X[:30] = X.mean(axis=0) + 6.0 * X.std(axis=0) * rng.choice([-1.0, 1.0], 4) + 0.1 * rng.standard_normal((30, 4))
    scores = central_density(tensor(X), floor=1e-9).log_prob(tensor(X)).numpy()
    assert scores[:30].max() < scores[30:].min()
    plain = GaussianDensity.fit(tensor(X), shrinkage=0.0, floor=1e-9).log_prob(tensor(X)).numpy()
    robust = -MinCovDet(support_fraction=0.75, random_state=0).fit(X).mahalanobis(X)
    assert robust[:30].max() < robust[30:].min()
    assert plain[:30].max() > plain[30:].min()


def test_weights_of_the_central_density_count_rows(rng):
    X, weight = correlated(rng, 60), rng.integers(0, 4, 60)
    weighted = central_density(tensor(X), tensor(weight), floor=0.1)
    repeated = central_density(tensor(np.repeat(X, weight, axis=0)), floor=0.1)
    # A row that straddles the limit is out with all of its weight.
    torch.testing.assert_close(weighted.mean, repeated.mean, atol=0.2, rtol=0.0)


@pytest.mark.parametrize("rows", [np.zeros((1, 2)), np.zeros((20, 2)), np.eye(3) * 1e12, np.arange(4.0)[:, None]])
def test_central_density_of_degenerate_tables(rows):
    assert central_density(tensor(rows), floor=0.1).log_prob(tensor(rows)).isfinite().all()


def test_central_density_of_few_wide_rows(rng):
    """Concentration steps by NumPy's inverse of a covariance that the density never forms; measured 6e-13."""
    X = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 420)) + rng.normal(size=(60, 420))
    X[:6] += 20.0 * rng.normal(size=(6, 420))
    kept = np.arange(60)
    for _ in range(3):
        covariance = np.cov(X[kept].T, bias=True) + 0.1 * np.eye(420)
        centred = X - X[kept].mean(axis=0)
        distance = np.einsum("ij,jk,ik->i", centred, np.linalg.inv(covariance), centred)
        kept = np.sort(np.argsort(distance, kind="stable")[:45])
    oracle = multivariate_normal(X[kept].mean(axis=0), np.cov(X[kept].T, bias=True) + 0.1 * np.eye(420))
    density = central_density(tensor(X), floor=0.1)
    assert density.axes.shape == (420, 44)
    np.testing.assert_allclose(density.log_prob(tensor(X)).numpy(), oracle.logpdf(X), rtol=1e-8)


def test_trimming_few_wide_rows_finds_the_strange_ones(rng):
    X = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 300)) + rng.normal(size=(60, 300))
    X[[3, 30, 50]] = 5.0 * rng.normal(size=(3, 300))
    assert not {3, 30, 50} & set(trimmed_rows(tensor(X), 0.1).tolist())
