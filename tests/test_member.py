"""One network and its densities, and what the scores read of them, on a network that says the same of every row."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from skvae._data.inputs import InputLayer
from skvae._densities.gaussian import GaussianDensity
from skvae._densities.neighbors import NeighborDistance
from skvae._model.comparison import Comparison, compare
from skvae._model.member import Member
from skvae._model.scores import SCORES, Scoring
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import AutoencoderModule
from skvae.likelihoods import Categorical, ColumnGroups, Gaussian

NAN = float("nan")
EXPECTED = np.array([0.5, -1.0, 2.0])  # what the network makes of every row
MEAN = np.array([0.1, 0.0, -0.2])  # of the residuals
COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 2.0, -0.3], [0.2, -0.3, 0.5]])
METHODS = ["reconstruction", "residual", "joint", "neighbor"]


def whitener(covariance):
    """The symmetric root of the inverse."""
    variance, axes = np.linalg.eigh(covariance)
    return (axes / np.sqrt(variance)) @ axes.T


def gaussian(mean, covariance):
    log_scale = torch.tensor(0.5 * np.linalg.slogdet(covariance)[1])
    return GaussianDensity(torch.tensor(mean), torch.tensor(whitener(covariance)), log_scale)


@pytest.fixture
def module():
    module = AutoencoderModule(SkipMLP(3, 1), SkipMLP(1, 3), Gaussian(3, scale="unit")).converted(torch.float64)
    module.parts(module.flat.data)[1].biases[-1].copy_(torch.tensor(EXPECTED))
    return module


@pytest.fixture
def joint_moments(rng):
    """Mean and covariance of [row; whitened residual]."""
    factor = rng.normal(size=(6, 6))
    return rng.normal(size=6), factor @ factor.T + np.eye(6)


@pytest.fixture
def references(rng):
    return rng.normal(size=(20, 6))


@pytest.fixture
def member(module, joint_moments, references):
    return Member(
        module,
        {
            "residual": gaussian(MEAN, COVARIANCE),
            "joint": gaussian(*joint_moments),
            "neighbor": NeighborDistance(torch.tensor(references), torch.tensor(3)),
        },
    )


@pytest.fixture
def X(rng):
    return rng.normal(size=(7, 3)) * 2.0


def beside(X, residual):
    """[row; whitened residual]."""
    return np.hstack([X, (residual - MEAN) @ whitener(COVARIANCE)])


@torch.no_grad()
def scores(member, method, X, dtype=torch.float64):
    return SCORES[method].compute(Scoring(member, member.module, torch.tensor(X, dtype=dtype), 0, 1)).numpy()


# --- Scores ---------------------------------------------------------------------------------------------------------


def test_reconstruction_is_minus_the_mean_square(member, X):
    np.testing.assert_allclose(scores(member, "reconstruction", X), -((X - EXPECTED) ** 2).mean(axis=1))


def test_residual_is_the_log_density_of_the_residual(member, X):
    expected = multivariate_normal(MEAN, COVARIANCE).logpdf(X - EXPECTED)
    np.testing.assert_allclose(scores(member, "residual", X), expected, rtol=1e-12)


def test_joint_is_the_log_density_of_the_row_beside_its_residual(member, joint_moments, X):
    expected = multivariate_normal(*joint_moments).logpdf(beside(X, X - EXPECTED))
    np.testing.assert_allclose(scores(member, "joint", X), expected, rtol=1e-12)


def test_neighbor_is_minus_the_distance_to_the_kth(member, references, X):
    distances = np.linalg.norm(beside(X, X - EXPECTED)[:, None] - references, axis=2)
    np.testing.assert_allclose(scores(member, "neighbor", X), -np.sort(distances, axis=1)[:, 2], rtol=1e-12)


# --- Missing cells --------------------------------------------------------------------------------------------------


@pytest.fixture
def gaps(X):
    """Where each row holds a value: some rows everywhere, one nowhere."""
    seen = np.ones(X.shape, dtype=bool)
    seen[1, 0] = seen[2, [0, 2]] = seen[3] = False
    return seen


def test_reconstruction_is_the_mean_over_the_observed_cells(member, X, gaps):
    squares = (X - EXPECTED) ** 2
    expected = [-squares[row][seen].mean() if seen.any() else 0.0 for row, seen in enumerate(gaps)]
    np.testing.assert_allclose(scores(member, "reconstruction", np.where(gaps, X, NAN)), expected)


def test_residual_is_the_expectation_over_the_missing_cells(member, X, gaps):
    r"""The marginal of the observed cells, less the entropy of the others given them."""
    expected = []
    for residual, seen in zip(X - EXPECTED, gaps, strict=True):
        n_missing = (~seen).sum()
        given, rest = COVARIANCE[np.ix_(seen, seen)], COVARIANCE[np.ix_(~seen, ~seen)]
        between = COVARIANCE[np.ix_(~seen, seen)]
        conditional = rest - between @ np.linalg.solve(given, between.T) if seen.any() else rest
        entropy = 0.5 * (n_missing * math.log(2.0 * math.pi * math.e) + np.linalg.slogdet(conditional)[1])
        marginal = multivariate_normal(MEAN[seen], given).logpdf(residual[seen]) if seen.any() else 0.0
        expected.append(marginal - (entropy if n_missing else 0.0))
    np.testing.assert_allclose(scores(member, "residual", np.where(gaps, X, NAN)), expected, rtol=1e-12)


@pytest.mark.parametrize("method", ["joint", "neighbor"])
def test_missing_cell_counts_as_the_network_expects_it(member, method, X, gaps):
    completed = scores(member, method, np.where(gaps, X, EXPECTED))
    np.testing.assert_allclose(scores(member, method, np.where(gaps, X, NAN)), completed, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_row_scores_alike_beside_rows_with_missing_cells(member, method, X, gaps):
    alone, beside_others = scores(member, method, X), scores(member, method, np.where(gaps, X, NAN))
    np.testing.assert_array_equal(beside_others[gaps.all(axis=1)], alone[gaps.all(axis=1)])


# --- Log-density ----------------------------------------------------------------------------------------------------


def test_log_density_of_numbers_is_that_of_the_observed_cells(member, X, gaps):
    with torch.no_grad():
        compared = compare(member.module, torch.tensor(np.where(gaps, X, NAN)))
        actual = member.log_density(compared).numpy()
    expected = [
        multivariate_normal(MEAN[seen], COVARIANCE[np.ix_(seen, seen)]).logpdf(residual[seen]) if seen.any() else 0.0
        for residual, seen in zip(X - EXPECTED, gaps, strict=True)
    ]
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def mixed(n_numbers):
    """A network of categories, of numbers after the first of them, and the density of residuals of MEAN's width."""
    n_words = 3 - n_numbers
    likelihoods = [Categorical([2] * n_words), *([Gaussian(n_numbers, scale="unit")] if n_numbers else [])]
    places = [list(range(n_words)), *([list(range(n_words, 3))] if n_numbers else [])]
    layer = InputLayer(3, probabilities=tuple((column, (0.5, 0.5)) for column in range(n_words)))
    n_outputs = 2 * n_words + n_numbers
    network = AutoencoderModule(
        SkipMLP(layer.n_inputs, 1), SkipMLP(1, n_outputs), ColumnGroups(likelihoods, places), None, layer
    )
    return Member(network.converted(torch.float64), {"residual": gaussian(MEAN, COVARIANCE)})


@pytest.mark.parametrize("n_numbers", [1, 2])
def test_log_density_counts_numbers_by_their_marginal_and_categories_by_their_mass(n_numbers, rng):
    residual, mass = rng.normal(size=(5, 3)), rng.normal(size=5)
    compared = Comparison(*[torch.tensor(residual)] * 3, log_mass=torch.tensor(mass))
    numbers = slice(3 - n_numbers, 3)
    marginal = multivariate_normal(MEAN[numbers], COVARIANCE[numbers, numbers])
    expected = marginal.logpdf(residual[:, numbers]) + mass
    np.testing.assert_allclose(mixed(n_numbers).log_density(compared).numpy(), expected, rtol=1e-10)


def test_log_density_of_categories_alone_is_their_mass(rng):
    mass = torch.tensor(rng.normal(size=5))
    compared = Comparison(*[torch.zeros(5, 3, dtype=torch.float64)] * 3, log_mass=mass)
    assert torch.equal(mixed(0).log_density(compared), mass)


# --- Precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_converted_scores_in_the_precision_of_the_rows(member, method, X):
    single = member.converted(torch.zeros(1))
    actual = scores(single, method, X, torch.float32)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, scores(member, method, X), rtol=1e-4)
    assert {density.mean.dtype for name, density in single.densities.items() if name != "neighbor"} == {torch.float32}
    assert member.densities["residual"].mean.dtype == torch.float64
