"""How short residuals may be: the gamma distribution against SciPy's, and rows without the noise that others have."""

import numpy as np
import pytest
import torch
from rows import correlated, tensor
from scipy.stats import gamma, norm

from skvae._densities import lengths as module
from skvae._densities.gaussian import GaussianDensity
from skvae._densities.lengths import fit_lengths, shortfall
from skvae._densities.residuals import JointDensity


def test_low_quantile_is_that_of_a_normal_distribution():
    assert pytest.approx(norm.ppf(module._LOW), abs=1e-7) == module._LOW_NORMAL


@pytest.mark.parametrize(("shape", "scale"), [(4.0, 0.3), (16.0, 2.0), (100.0, 7.0)])
def test_gamma_distribution_is_found_again(shape, scale, rng):
    """By two quantiles of 100,000 squares, within 4 %: cube roots are not quite normal."""
    squares = tensor(rng.gamma(shape, scale, 100_000))
    found = fit_lengths(squares, n_columns=1000)
    np.testing.assert_allclose(found, [shape, scale], rtol=0.04)


@pytest.mark.parametrize("n_columns", [4, 30])
def test_shape_is_at_most_that_of_gaussian_residuals(n_columns, rng):
    squares = tensor(50.0 + 0.1 * rng.standard_normal(1000))
    shape, scale = fit_lengths(squares, n_columns)
    assert float(shape) == pytest.approx(0.5 * n_columns)
    assert gamma(float(shape), scale=float(scale)).median() == pytest.approx(50.0, rel=0.01)


@pytest.mark.parametrize(
    "squares",
    [
        np.zeros(50),
        np.ones(1) * 0.0,
        np.r_[np.zeros(10), np.full(90, 7.0)],
        np.random.default_rng(0).gamma(0.5, 2.0, 500),
    ],
    ids=["none", "one", "some", "short ones are common"],
)
def test_where_short_residuals_are_common_none_is_too_short(squares):
    assert len(fit_lengths(tensor(squares), 30)) == 0


def test_shortfall_is_what_the_gamma_density_falls_below_its_mode():
    shape, scale = 16.0, 2.0
    squares = np.array([0.5, 3.0, 20.0, 30.0, 31.0, 90.0])
    density = gamma(shape, scale=scale)
    expected = np.where(squares < 30.0, density.logpdf(squares) - density.logpdf(30.0), 0.0)
    np.testing.assert_allclose(shortfall(tensor(squares), tensor([shape, scale])), expected, rtol=1e-12, atol=1e-12)


def test_shortfall_of_no_residual_at_all_is_finite():
    """That of a thousandth of the mean."""
    lengths = tensor([16.0, 2.0])
    loss = shortfall(tensor([0.0, 1e-30, 0.032]), lengths)
    torch.testing.assert_close(loss, loss[2].expand(3))


@pytest.mark.parametrize("n_columns", [4, 230])
def test_joint_density_of_rows_without_noise(n_columns, rng):
    """Wide tables have it on the axes that they keep; rows with usual residuals keep their density."""
    X = rng.normal(size=(300, 3)) @ rng.normal(size=(3, n_columns))
    x, residual = tensor(X), tensor(rng.normal(size=X.shape))
    density = GaussianDensity.fit(residual)
    joint = JointDensity.fit(x, density, residual, np.random.RandomState(0))
    typical = joint.typical(x, density, residual)
    whitened = density.whiten(residual) if n_columns == 4 else (residual - density.mean) @ joint.whitener
    expected = joint.log_prob_of(x, residual, density) + shortfall(whitened.square().sum(dim=1), typical.lengths)
    torch.testing.assert_close(typical.log_prob_of(x, residual, density), expected)
    quiet = 0.05 * residual
    assert (typical.log_prob_of(x, quiet, density) < joint.log_prob_of(x, quiet, density) - 1.0).all()
    again = JointDensity.from_state(typical.state())
    assert torch.equal(again.log_prob_of(x, residual, density), typical.log_prob_of(x, residual, density))


def test_missing_cells_are_as_long_as_others(rng):
    """Half of them missing count as half of the mean squared length."""
    x = tensor(correlated(rng, 400))
    residual = tensor(rng.normal(size=x.shape))
    density = GaussianDensity.fit(residual)
    typical = JointDensity.fit(x, density, residual, np.random.RandomState(0)).typical(x, density, residual)
    none, half, every = (
        typical.log_prob_of(x, 0.0 * x, density, torch.full((400,), share).to(x)) for share in (0.0, 0.5, 1.0)
    )
    assert (none < half - 1.0).all()
    assert (half <= every).all()
    usual = typical.lengths.prod()
    torch.testing.assert_close(
        half - none,
        shortfall(0.5 * usual + _at_zero(density), typical.lengths)
        - shortfall(_at_zero(density), typical.lengths)
        + torch.zeros(400).to(x),
    )


def _at_zero(density):
    """Squared length of a residual of zeros, which is not quite the mean one."""
    return density.whiten(torch.zeros(1, density.n_features()).double()).square().sum()
