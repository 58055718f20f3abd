"""Small groups of components: the distance by quadrature, groups by hand on a line."""

import numpy as np
import pytest
import torch
from rows import correlated
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from skvae import AutoencoderTransformer
from skvae._densities.clumps import _bhattacharyya, clumps
from skvae._densities.mixture import DiagonalMixture


def on_a_line(places, weights, scale=1.0):
    means = torch.tensor(places, dtype=torch.float64).unsqueeze(1)
    return DiagonalMixture(torch.tensor(weights, dtype=torch.float64), means, torch.full_like(means, scale**2))


def test_distance_is_minus_the_logarithm_of_the_overlap():
    """Bhattacharyya: - log of the integral of sqrt(p q); columns are independent, so theirs add."""
    means, scales = np.array([[0.0, 1.0], [2.0, -1.0]]), np.array([[1.0, 0.5], [3.0, 0.2]])
    mixture = DiagonalMixture(torch.ones(2) / 2, torch.from_numpy(means), torch.from_numpy(scales**2))

    def overlap(column):
        first, second = (norm(means[k, column], scales[k, column]).pdf for k in (0, 1))
        return quad(lambda t: np.sqrt(first(t) * second(t)), -20.0, 20.0, points=[-1.0, 0.0, 1.0, 2.0])[0]

    distance = _bhattacharyya(mixture)
    expected = -np.log(overlap(0)) - np.log(overlap(1))
    assert float(distance[0, 1]) == pytest.approx(expected, rel=1e-6)
    assert float(distance[1, 0]) == float(distance[0, 1])
    assert distance.diagonal().isinf().all()


@pytest.mark.parametrize(("weight", "expected"), [(0.04, True), (0.06, False)])
def test_a_far_component_of_few_rows_is_a_clump(weight, expected):
    rest = (1.0 - weight) / 4
    found = clumps(on_a_line([0.0, 1.0, 2.0, 3.0, 20.0], [rest] * 4 + [weight]))
    assert found.tolist() == [False] * 4 + [expected]


def test_components_that_are_near_each_other_make_one_group():
    """Two of 3 % each lie together, two of 3 % apart; distances to the nearest are .125, .125, 1.1 and more."""
    found = clumps(
        on_a_line([0.0, 1.0, 2.0, 3.0, 20.0, 21.0, 40.0, 60.0], [0.22, 0.22, 0.22, 0.22, 0.03, 0.03, 0.03, 0.03])
    )
    assert found.tolist() == [False] * 6 + [True] * 2


@pytest.mark.parametrize("places", [[0.0], [100.0 * (k // 2) + k % 2 for k in range(50)]], ids=["one", "pairs"])
def test_where_all_groups_are_small_none_is_left_out(places):
    assert not clumps(on_a_line(places, [1.0 / len(places)] * len(places))).any()


def test_a_component_shared_among_several_stays_the_same_density():
    mixture = on_a_line([0.0, 5.0, 9.0], [0.5, 0.3, 0.2])
    at = np.linspace(-3.0, 12.0, 40)[:, None]
    repeated = mixture.repeated(7)
    density = (norm.pdf(at, repeated.means[:, 0], 1.0) * repeated.weights.numpy()).sum(axis=1)
    np.testing.assert_allclose(density, norm.pdf(at, [0.0, 5.0, 9.0]) @ [0.5, 0.3, 0.2], rtol=1e-12)


@pytest.mark.parametrize("n_networks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_robust_scores_see_anomalies_that_are_alike_in_the_training_rows(n_networks, seed):
    """Of 600 rows 18 lie in a clump: the most normal ones to "joint", by a Gaussian of their own."""
    rng = np.random.default_rng(seed)
    X = correlated(rng, 1182, 6)
    odd = X.mean(axis=0) + 6.0 * X.std(axis=0) * rng.choice([-1.0, 1.0], 6) + 0.1 * rng.normal(size=(118, 6))
    train, fresh, label = np.vstack([X[:582], odd[:18]]), np.vstack([X[582:], odd[18:]]), np.repeat([1, 0], [600, 100])

    def ranking(score_method):
        model = AutoencoderTransformer(score_method=score_method, n_networks=n_networks, random_state=seed)
        return roc_auc_score(label, model.fit(train).score_samples(fresh))

    assert ranking("joint") < 0.05
    assert ranking("robust") > 0.95
