"""Axes of second moments against NumPy's singular value decomposition."""

import numpy as np
import pytest
import torch
from rows import tensor

from skvae._support.spectrum import leading_axes, padded_axes, principal_axes


def assert_spans(axes, expected):
    """Both have orthonormal columns and span the same space."""
    np.testing.assert_allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=1e-9)
    np.testing.assert_allclose(axes @ (axes.T @ expected), expected, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 4, 20])
def test_principal_axes_equal_numpy(rank, rng):
    rows = rng.normal(size=(20, rank)) @ rng.normal(size=(rank, 90))
    variance, axes = principal_axes(tensor(rows))
    _, scale, expected = np.linalg.svd(rows, full_matrices=False)
    np.testing.assert_allclose(variance.numpy(), scale[:rank] ** 2, rtol=1e-6)
    assert axes.shape == (90, rank)
    assert_spans(axes.numpy(), expected[:rank].T)


def test_principal_axes_of_nothing():
    """Equal rows, centred: one axis without variance, so that there is one."""
    variance, axes = principal_axes(torch.zeros(3, 9, dtype=torch.float64))
    assert variance.tolist() == [0.0]
    assert axes.square().sum() == 1.0


@pytest.mark.parametrize("thin", [False, True])
def test_leading_axes_equal_numpy(thin, rng):
    rows = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 90)) + 0.01 * rng.normal(size=(30, 90))
    matrix = tensor(rows if thin else rows.T @ rows)
    values, axes = leading_axes(matrix, tensor(rng.normal(size=(90, 8))), 6, thin=thin)
    _, scale, expected = np.linalg.svd(rows, full_matrices=False)
    np.testing.assert_allclose(values[:4].numpy(), scale[:4] ** 2, rtol=1e-9)
    assert_spans(axes[:, :4].numpy(), expected[:4].T)


@pytest.mark.parametrize(("n_axes", "n_kept"), [(2, 2), (5, 5), (9, 7)])
def test_padded_axes_are_orthonormal(n_axes, n_kept, rng):
    given = np.linalg.qr(rng.normal(size=(7, 3)))[0]
    axes = padded_axes(tensor(given), n_axes, np.random.RandomState(0)).numpy()
    np.testing.assert_array_equal(axes[:, : min(3, n_axes)], given[:, :n_axes])
    np.testing.assert_allclose(axes.T @ axes, np.eye(n_kept), atol=1e-12)
