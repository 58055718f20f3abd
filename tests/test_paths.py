"""Paths between codes: ends, steps, norms."""

import math

import pytest
import torch

from skvae._model.paths import linear_path, spherical_path

PATHS = {"linear": linear_path, "spherical": spherical_path}
each_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@pytest.fixture
def ends(seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@each_path
@pytest.mark.parametrize("n_steps", [2, 3, 10])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_path_begins_and_ends_at_its_codes(path, n_steps, dtype, ends):
    start, end = (z.to(dtype) for z in ends)
    z = path(start, end, n_steps)
    assert z.shape == (5, n_steps, 3)
    assert z.dtype == dtype
    torch.testing.assert_close(z[:, 0], start)
    torch.testing.assert_close(z[:, -1], end)


@each_path
def test_path_back_is_the_path_reversed(path, ends):
    start, end = ends
    close(path(end, start, 7), path(start, end, 7).flip(1))


def test_linear_steps_are_equal(ends):
    steps = linear_path(*ends, 6).diff(dim=1)
    close(steps, ((ends[1] - ends[0]) / 5)[:, None].expand_as(steps))


def test_spherical_steps_keep_norm_and_angle(ends):
    """Between codes of one norm: a great circle, walked at a constant rate."""
    start, end = (2.0 * z / z.norm(dim=1, keepdim=True) for z in ends)
    z = spherical_path(start, end, 9)
    close(z.norm(dim=-1), torch.full((5, 9), 2.0, dtype=torch.float64))
    whole = torch.arccos((start * end).sum(1) / 4)
    angles = torch.arccos((z[:, 1:] * z[:, :-1]).sum(-1) / 4)
    torch.testing.assert_close(angles, (whole / 8)[:, None].expand_as(angles), rtol=1e-6, atol=1e-7)


def test_spherical_path_by_hand():
    """A quarter turn from (1, 0) to (0, 1): halfway at 45 degrees."""
    z = spherical_path(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 3)
    torch.testing.assert_close(z[0, 1], torch.tensor([math.sqrt(0.5), math.sqrt(0.5)]))


PAIRS = {
    "equal": ([1.0, 2.0], [1.0, 2.0]),
    "parallel": ([1.0, 2.0], [3.0, 6.0]),
    "opposite": ([1.0, 2.0], [-1.0, -2.0]),
    "zero": ([0.0, 0.0], [1.0, 2.0]),
    "both zero": ([0.0, 0.0], [0.0, 0.0]),
    "tiny": ([1e-30, 0.0], [0.0, 1e-30]),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_spherical_path_without_an_angle_is_linear(pair, dtype):
    start, end = (torch.tensor([z], dtype=dtype) for z in pair)
    z = spherical_path(start, end, 5)
    torch.testing.assert_close(z, linear_path(start, end, 5), rtol=1e-6, atol=1e-29)
