"""The diagonal mixture against scikit-learn's k-means and expectation maximisation."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from skvae._densities.latent import MixturePrior
from skvae._densities.mixture import DiagonalMixture, fit_diagonal_mixture, k_means, refine


@pytest.fixture
def rows(seed):
    """600 rows about five centres that lie far apart, in a known order."""
    rng = np.random.default_rng(seed)
    centres = 20.0 * np.eye(5)
    return np.repeat(centres, 120, axis=0) + rng.normal(size=(600, 5)) * rng.uniform(0.5, 2.0, 5)


def partition(labels):
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


def test_k_means_finds_what_is_apart(rows):
    labels = k_means(torch.from_numpy(rows), 5, np.random.RandomState(0)).numpy()
    assert partition(labels) == partition(np.repeat(np.arange(5), 120))


def test_k_means_is_no_worse_than_scikit_learn(seed):
    """On rows without groups, where every start ends elsewhere; measured with the seeds 0 to 7: at most 1.012 of it."""
    X = np.random.default_rng(seed).normal(size=(1000, 8))
    labels = k_means(torch.from_numpy(X), 20, np.random.RandomState(0)).numpy()
    spread = sum(((X[labels == k] - X[labels == k].mean(axis=0)) ** 2).sum() for k in range(20))
    assert spread <= 1.06 * KMeans(20, n_init=1, random_state=0).fit(X).inertia_


@pytest.mark.parametrize("n_rows", [1, 3, 40])
def test_equal_rows_make_one_group(n_rows):
    labels = k_means(torch.ones(n_rows, 2).double(), min(n_rows, 3), np.random.RandomState(0))
    assert len(labels.unique()) == 1


def test_mixture_equals_scikit_learn(rows):
    labels = np.arange(600) % 7 // 2
    groups = [rows[labels == k] for k in range(4)]
    mixture = fit_diagonal_mixture(torch.from_numpy(rows), torch.from_numpy(labels), 4, floor=0.1, max_iter=20)
    model = GaussianMixture(
        4, covariance_type="diag", reg_covar=0.1, max_iter=20, tol=1e-3, random_state=0,
        weights_init=[len(group) / 600 for group in groups],
        means_init=[group.mean(axis=0) for group in groups],
        precisions_init=[1.0 / (group.var(axis=0) + 0.1) for group in groups],
    ).fit(rows)  # fmt: skip
    np.testing.assert_allclose(mixture.weights, model.weights_, rtol=1e-8)
    np.testing.assert_allclose(mixture.means, model.means_, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(mixture.variances, model.covariances_, rtol=1e-8)


def test_mixture_of_several_starts_is_the_mean_of_theirs(rows):
    """Each start goes its own way: as many rounds, as no other start was there."""
    x, starts = torch.from_numpy(rows), [torch.arange(600) % 7 // 2, torch.arange(600) // 150, torch.arange(600) % 4]
    alone = [fit_diagonal_mixture(x, labels, 4, floor=0.1, max_iter=3) for labels in starts]
    both = fit_diagonal_mixture(x, torch.stack(starts, dim=1), 4, floor=0.1, max_iter=3)
    assert both.means.shape == (12, rows.shape[1])
    expected = torch.stack([torch_density(mixture).log_prob(x).exp() for mixture in alone]).mean(dim=0)
    torch.testing.assert_close(torch_density(both).log_prob(x).exp(), expected, rtol=1e-9, atol=0.0)
    assert not torch.allclose(*(torch_density(mixture).log_prob(x) for mixture in alone[:2]), atol=0.01)


def test_terms_give_the_log_density(rows):
    x = torch.from_numpy(rows)
    mixture = fit_diagonal_mixture(x, torch.arange(600) % 3, 3, floor=0.1)
    precision, linear, constant = mixture.terms()
    actual = (x @ linear - 0.5 * x.square() @ precision + constant).logsumexp(1)
    components = torch.distributions.Independent(torch.distributions.Normal(mixture.means, mixture.variances.sqrt()), 1)
    expected = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(mixture.weights), components
    ).log_prob(x)
    torch.testing.assert_close(actual, expected)


def torch_density(mixture):
    components = torch.distributions.Independent(torch.distributions.Normal(mixture.means, mixture.variances.sqrt()), 1)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(mixture.weights), components)


def test_prior_has_the_density_and_its_derivative(seed):
    """One mixture and several side by side; the derivative by autograd of torch's density."""
    draws = np.random.default_rng(seed)
    mixtures = [
        DiagonalMixture(
            torch.from_numpy(draws.dirichlet(np.ones(4))),
            torch.from_numpy(draws.normal(size=(4, 3))),
            torch.from_numpy(draws.uniform(0.1, 2.0, size=(4, 3))),
        )
        for _ in range(2)
    ]
    z = torch.from_numpy(draws.normal(size=(2, 7, 3))).requires_grad_()
    expected = torch.stack([torch_density(mixture).log_prob(own) for mixture, own in zip(mixtures, z, strict=True)])
    gradient = torch.autograd.grad(expected.sum(), z)[0]
    for prior, index in ((MixturePrior(mixtures, z), ...), (MixturePrior(mixtures[:1], z), 0)):
        actual, d_actual = prior.log_prob_gradient(z[index].detach())
        torch.testing.assert_close(actual, expected[index].detach())
        torch.testing.assert_close(d_actual, gradient[index])
        torch.testing.assert_close(prior.log_prob(z[index]), expected[index])


def test_refining_goes_on_as_scikit_learn_does(rows):
    model = GaussianMixture(3, covariance_type="diag", reg_covar=0.1, max_iter=1, tol=0.0, random_state=0)
    with pytest.warns(ConvergenceWarning):
        model.fit(rows)
    start = DiagonalMixture(*map(torch.from_numpy, (model.weights_, model.means_, model.covariances_)))
    refined = refine(start, torch.from_numpy(rows), floor=0.1, n_iter=3)
    model.set_params(warm_start=True, max_iter=3)
    with pytest.warns(ConvergenceWarning):
        model.fit(rows)
    np.testing.assert_allclose(refined.weights, model.weights_, rtol=1e-8)
    np.testing.assert_allclose(refined.means, model.means_, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(refined.variances, model.covariances_, rtol=1e-8)
