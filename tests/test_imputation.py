"""Conditional means and draws, held against a linear Gaussian model in closed form."""

import pytest
import torch

from skvae._model.imputation import conditional_draws, conditional_mean
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import VAEModule
from skvae.likelihoods import Gaussian


@pytest.fixture
def module():
    """x1 = x2 = z + noise of scale 0.5, with a crude but wide posterior: the weights must do the work."""
    module = VAEModule(SkipMLP(2, 2), SkipMLP(1, 2), Gaussian(2, floor=0.0), None).converted(torch.float64)
    encoder, decoder, free = module.parts(module.flat.data)
    decoder.skip.fill_(1.0)
    free.fill_(torch.tensor(0.5).log())
    encoder.skip[:, 0] = 0.3
    return module


# Given x1, z is normal with mean x1 / 1.25 and variance 0.2; x2 adds a variance of 0.25.
ROWS = torch.tensor([[1.0, torch.nan], [-0.5, torch.nan]], dtype=torch.float64)


def test_conditional_mean_is_the_closed_form(module, seed):
    noise = torch.randn(20_000, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = conditional_mean(module, ROWS, noise)
    # 0.03: five standard errors of 20,000 weighted draws.
    torch.testing.assert_close(expected[:, 1], ROWS[:, 0] / 1.25, atol=0.03, rtol=0.0)


@pytest.mark.slow
def test_draws_have_the_mean_and_the_variance_of_the_closed_form(module, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(4000, 1, 1, generator=generator, dtype=torch.float64)
    draws = conditional_draws(module, ROWS, noise, 4000, generator)[:, :, 1]
    # 0.08: five standard errors of 4,000 draws from 4,000 proposals.
    torch.testing.assert_close(draws.mean(dim=1), ROWS[:, 0] / 1.25, atol=0.08, rtol=0.0)
    torch.testing.assert_close(draws.var(dim=1), torch.full((2,), 0.45, dtype=torch.float64), atol=0.08, rtol=0.0)


def test_later_rounds_find_what_a_wrong_posterior_misses(module, seed):
    """400 draws of a posterior far from the truth are off by 0.77 to 1.07, in rounds by up to 0.28."""
    encoder, _, _ = module.parts(module.flat.data)
    encoder.skip.zero_()
    encoder.biases[-1][0], encoder.biases[-1][1] = -1.5, -1.4
    noise = torch.randn(400, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = conditional_mean(module, ROWS[:1], noise)
    torch.testing.assert_close(expected[:, 1], ROWS[:1, 0] / 1.25, atol=0.5, rtol=0.0)
