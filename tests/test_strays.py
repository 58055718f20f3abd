"""Points far from all rows but a few: by hand on a line, and never among rows of one cloud."""

import numpy as np
import pytest
import torch

from skvae._densities import strays as module
from skvae._densities.mixture import DiagonalMixture
from skvae._densities.strays import few_rows, lone_rows, strays


def on_a_line(*places):
    return torch.tensor(places, dtype=torch.float64).unsqueeze(1)


def evenly(n):
    return torch.full((n,), 1.0 / n, dtype=torch.float64)


@pytest.mark.parametrize(("n_samples", "expected"), [(1, 1), (40, 1), (41, 2), (360, 9), (400, 10), (10**6, 10)])
def test_few_rows_are_a_fortieth_and_ten_at_most(n_samples, expected):
    assert few_rows(n_samples) == expected


@pytest.mark.parametrize(("distance", "expected"), [(5.0, False), (5.5, True), (1e6, True)])
def test_a_point_is_far_off_from_five_standard_deviations_on(distance, expected):
    """The second nearest of 40 rows at 0 to 3.9 counts, and others have theirs 0.1 or 0.2 away."""
    rows = torch.cat([on_a_line(*(0.1 * k for k in range(39))), on_a_line(3.8 + distance)])
    points = on_a_line(0.0, 1.0, 2.0, 3.0, 3.8 + distance)
    assert strays(points, rows, evenly(5)).tolist() == [False] * 4 + [expected]


def test_the_fences_of_points_that_differ_are_wide():
    """Distances 1, 10, 100 and 1000 to the second nearest row: three quartile ranges lie beyond any of them."""
    rows = on_a_line(0.0, 1.0, 100.0, 110.0, 1000.0, 1100.0, 1e4, 1.1e4)
    assert not strays(rows, rows, evenly(8)).any()


def test_many_dimensions_ask_for_twice_the_squared_distance(seed):
    """Squared distances of normal rows in d dimensions are 2 d, give or take little; a cell at z adds z^2."""
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.standard_normal((200, 400)))
    rows[0, 0], rows[1, 0] = 15.0, 60.0
    assert strays(rows, rows, evenly(200)).nonzero().flatten().tolist() == [1]


@pytest.mark.parametrize("n_columns", [1, 3, 20, 300])
def test_rows_of_one_cloud_have_no_strays(n_columns, seed):
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((300, n_columns)))
    assert not strays(rows, rows, evenly(300)).any()


def test_a_group_of_more_than_a_few_stays(seed):
    """Ten of 400 rows are few, eleven are a group."""
    cloud = torch.from_numpy(np.random.default_rng(seed).standard_normal((390, 2)))
    for n, expected in ((10, True), (11, False)):
        rows = torch.cat([cloud[: 400 - n], torch.full((n, 2), 50.0, dtype=torch.float64)])
        assert strays(rows, rows, evenly(400))[-n:].all() == expected
        assert not strays(rows, rows, evenly(400))[:-n].any()


def test_a_stray_that_a_farther_one_hides_is_found(seed):
    """Row 1 lies 4 from the others, near in the units that row 0 has inflated, but 4,000 times their spread."""
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((400, 2)) * [1.0, 0.001])
    rows[1, 1] = 4.0
    assert not strays(rows, rows, evenly(400)).any()
    rows[0, 1] = 20.0
    assert strays(rows, rows, evenly(400)).nonzero().flatten().tolist() == [0, 1]


def test_at_most_a_quarter_are_strays(monkeypatch):
    """Were each round to find another tenth, the second would be the last."""
    tenths = iter(torch.eye(10).repeat_interleave(4, dim=1).bool())
    monkeypatch.setattr(module, "_far", lambda *_: next(tenths))
    rows = on_a_line(*range(40))
    assert strays(rows, rows, evenly(40)).nonzero().flatten().tolist() == list(range(8))


@pytest.mark.parametrize("n_samples", [1, 2, 3])
def test_too_few_rows_have_none(n_samples):
    rows = on_a_line(*(1e3 * k * k for k in range(n_samples)))
    assert not strays(rows, rows, evenly(n_samples)).any()


@pytest.mark.parametrize("n_samples", [10, 20, 40, 100])
@pytest.mark.parametrize("size", [50.0, 1e6])
def test_one_of_few_rows_does_not_hide_itself(n_samples, size, seed):
    """Of n values none lies more than (n - 1) / sqrt(n) standard deviations from their mean: 4.2 of 20."""
    values = np.random.default_rng(seed).uniform(-1.0, 1.0, (n_samples, 2))
    values[2, 1] = size
    rows = torch.from_numpy((values - values.mean(axis=0)) / values.std(axis=0))
    assert lone_rows(rows).nonzero().flatten().tolist() == [2]
    if n_samples <= 20:
        assert not strays(rows, rows, evenly(n_samples)).any()


@pytest.mark.parametrize("n_columns", [1, 3, 40])
@pytest.mark.parametrize("n_samples", [10, 40, 150])
def test_few_rows_of_one_cloud_have_no_lone_ones(n_samples, n_columns, seed):
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((n_samples, n_columns)))
    assert not lone_rows(rows).any()


@pytest.mark.parametrize("n_samples", [1, 2, 3])
def test_of_three_rows_none_is_lone(n_samples):
    assert not lone_rows(on_a_line(*(1e3 * k * k for k in range(n_samples)))).any()


def test_components_that_are_left_share_the_weight():
    mixture = DiagonalMixture(torch.tensor([0.5, 0.2, 0.3]), torch.eye(3), torch.ones(3, 3))
    rest = mixture.chosen(torch.tensor([True, False, True]))
    np.testing.assert_allclose(rest.weights, [0.625, 0.375])
    np.testing.assert_array_equal(rest.means, np.eye(3)[[0, 2]])
    assert mixture.chosen(torch.ones(3, dtype=torch.bool)) is mixture
