"""The density of rows some of which are anomalies, against SciPy; when it sees modes, and what it looks past."""

import numpy as np
import pytest
import torch
from rows import correlated, tensor
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm, ortho_group
from sklearn.metrics import roc_auc_score

from skvae._densities.gaussian import FactoredGaussian, GaussianDensity
from skvae._densities.modes import ModalDensity, unclean_density
from skvae._densities.trimming import central_density


def clusters(rng, n_samples, n_clusters=6, n_columns=4):
    """Rows around centres that are always the same, at random distances from each other."""
    centres = 3.0 * np.random.default_rng(7).normal(size=(n_clusters, n_columns))
    return centres[np.arange(n_samples) % n_clusters] + 0.3 * rng.normal(size=(n_samples, n_columns))


def of_rows(X, weight=None):
    """The density of rows and of residuals that have nothing to do with them, and [rows; whitened residuals]."""
    x = tensor(X)
    residual = tensor(np.random.default_rng(1).normal(size=X.shape))
    density = GaussianDensity.fit(residual)
    rows = torch.cat([x, density.whiten(residual)], dim=1)
    weight = None if weight is None else tensor(weight)
    return unclean_density(x, density, residual, weight, np.random.RandomState(0)), rows


def test_modal_density_is_the_mean_of_two_log_densities_of_scipy(rng):
    n_joint, n_mixture = 6, 5
    root = rng.normal(size=(n_joint, n_joint))
    covariance = root @ root.T + 0.1 * np.eye(n_joint)
    variance, axes = np.linalg.eigh(covariance)
    whitener, mean = (axes * variance**-0.5) @ axes.T, rng.normal(size=n_joint)
    weights, means = rng.dirichlet(np.ones(n_mixture)), rng.normal(size=(n_mixture, n_joint))
    scales = rng.uniform(0.3, 2.0, (n_mixture, n_joint))
    constant = np.log(weights) + norm.logpdf(0.0, means, scales).sum(axis=1)
    turn = ortho_group(n_joint, seed=3).rvs()
    parts = (mean, whitener, 0.5 * np.log(variance).sum(), turn, scales.T**-2.0, (means / scales**2).T, constant)
    modal = ModalDensity(*(tensor(part) for part in parts))
    u = rng.normal(size=(64, n_joint)) * 3.0
    v = (u - mean) @ turn
    each = np.log(weights) + norm.logpdf(v[:, None], means, scales).sum(axis=2)
    expected = 0.5 * multivariate_normal(mean, covariance).logpdf(u) + 0.5 * logsumexp(each, axis=1)
    np.testing.assert_allclose(modal.log_prob(tensor(u)), expected, rtol=1e-10)
    again = ModalDensity.from_state(modal.state())
    assert torch.equal(again.log_prob(tensor(u)), modal.log_prob(tensor(u)))
    assert torch.equal(modal.log_prob(tensor(u[16:48])), modal.log_prob(tensor(u))[16:48])


@pytest.mark.parametrize("n_samples", [500, 1000, 6000])
def test_one_group_gets_one_gaussian(n_samples, rng):
    """Of columns that depend on each other, which uncorrelated Gaussians do not express."""
    X = rng.normal(size=(n_samples, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(n_samples, 6))
    density, rows = of_rows(X)
    assert isinstance(density, GaussianDensity)
    assert torch.equal(density.log_prob(rows), central_density(rows, floor=0.1).log_prob(rows))


@pytest.mark.parametrize("n_samples", [200, 1000, 6000])
def test_rows_between_groups_are_less_likely_than_theirs(n_samples, rng):
    """One Gaussian takes them for the most normal of all."""
    density, rows = of_rows(clusters(rng, n_samples))
    between = rows.clone()
    between[:, :4] = 0.5 * (rows + rows.roll(1, dims=0))[:, :4]
    assert isinstance(density, ModalDensity)
    normal = np.repeat([True, False], n_samples)
    one_group = central_density(rows, floor=0.1)
    ranked, as_one = (roc_auc_score(normal, d.log_prob(torch.cat([rows, between]))) for d in (density, one_group))
    assert ranked > 0.7
    assert as_one < 0.4


def test_a_clump_of_anomalies_is_no_mode(rng):
    """One row of 20 in one place away from six groups: none of them is as likely as the rows of a group."""
    X = clusters(rng, 1000)
    X[:50] = X.mean(axis=0) + 12.0 + 0.1 * rng.normal(size=(50, 4))
    density, rows = of_rows(X)
    assert isinstance(density, ModalDensity)
    scores = density.log_prob(rows)
    assert scores[:50].max() < scores[50:].min()


def test_rows_of_no_weight_make_no_mode(rng):
    """A cloud between the groups that counts for nothing."""
    X = np.concatenate([clusters(rng, 600), 0.1 * rng.normal(size=(600, 4))])
    weight = np.repeat([1.0, 0.0], 600)
    alone, rows = of_rows(X, weight)
    every, _ = of_rows(X)
    assert isinstance(alone, ModalDensity)
    assert alone.log_prob(rows[600:]).median() < every.log_prob(rows[600:]).median() - 2.0


@pytest.mark.parametrize(("n_samples", "n_columns", "kind"), [(19, 2, GaussianDensity), (300, 201, FactoredGaussian)])
def test_few_rows_and_wide_ones_have_one_gaussian(n_samples, n_columns, kind, rng):
    density, rows = of_rows(clusters(rng, n_samples, n_columns=n_columns))
    assert isinstance(density, GaussianDensity if n_columns <= 200 else kind)
    assert density.log_prob(rows).isfinite().all()


@pytest.mark.parametrize("rows", [np.zeros((40, 2)), np.eye(4).repeat(15, axis=0), np.arange(4.0)[:, None]])
def test_degenerate_tables(rows):
    density, joint = of_rows(rows)
    assert density.log_prob(joint).isfinite().all()


def test_the_same_rows_have_the_same_density(rng):
    X = correlated(rng, 300)
    first, rows = of_rows(X)
    again, _ = of_rows(X)
    assert torch.equal(first.log_prob(rows), again.log_prob(rows))
