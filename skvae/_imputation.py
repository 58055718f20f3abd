"""Missing cells of scaled rows given the others: their conditional mean, and draws from their distribution."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["conditional_draws", "conditional_mean"]

# Draws that are decoded at once: bounds the memory.
_DRAWS_AT_ONCE = 16


def _proposals(module: Any, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log importance weights of posterior draws, (n_draws, n_samples), and the posterior's mean and scale."""
    inputs, mask = module.inputs(x), ~torch.isnan(x)
    log_weights = [module.log_weights(x, inputs, part, mask) for part in noise.split(_DRAWS_AT_ONCE)]
    mean, log_variance = module.posterior(x)
    return torch.cat(log_weights), mean, torch.exp(0.5 * log_variance)


def conditional_mean(module: Any, x: Tensor, noise: Tensor) -> Tensor:
    r"""Expected cells of a row given those that are there, by self-normalised importance weights.

    .. math:: E[x_m \mid x_o] \approx \sum_k \tilde w_k E[x_m \mid z_k], \quad \tilde w_k \propto
        \frac{p(x_o \mid z_k) p(z_k)}{q(z_k \mid x_o)}

    Parameters
    ----------
    module : VAEModule
    x : Tensor of shape (n_samples, n_features)
        Scaled rows, NaN where missing.
    noise : Tensor of shape (n_draws, 1, n_components)
        Standard normal numbers, the same for every row.

    Returns
    -------
    expected : Tensor of shape (n_samples, sum(widths))
        As the likelihood's ``expected`` gives it: a mean, or the probabilities of a column's levels.

    References
    ----------
    Mattei & Frellsen (2019), "MIWAE: deep generative modelling and imputation of incomplete data sets",
    https://arxiv.org/abs/1812.02633, equation 12.
    """
    log_weights, mean, scale = _proposals(module, x, noise)
    weights = torch.softmax(log_weights, dim=0).split(_DRAWS_AT_ONCE)
    expected = x.new_zeros(len(x), sum(module.likelihood.widths))
    for part, weight in zip(noise.split(_DRAWS_AT_ONCE), weights, strict=True):
        cells = module.likelihood.expected(module.decode(mean + scale * part), module.parts()[2])
        expected += (weight.unsqueeze(-1) * cells).sum(dim=0)
    return expected


def conditional_draws(module: Any, x: Tensor, noise: Tensor, n_draws: int, generator: torch.Generator) -> Tensor:
    """Draw the cells of a row given those that are there, by sampling importance resampling.

    Parameters
    ----------
    module : VAEModule
    x : Tensor of shape (n_samples, n_features)
        Scaled rows, NaN where missing.
    noise : Tensor of shape (n_proposals, 1, n_components)
        Standard normal numbers, the same for every row.
    n_draws : int
    generator : torch.Generator

    Returns
    -------
    draws : Tensor of shape (n_samples, n_draws, n_features)

    References
    ----------
    Rubin (1988), "Using the SIR algorithm to simulate posterior distributions", Bayesian Statistics 3;
    Mattei & Frellsen (2019), https://arxiv.org/abs/1812.02633, section 3.3.
    """
    log_weights, mean, scale = _proposals(module, x, noise)
    chosen = torch.multinomial(torch.softmax(log_weights, dim=0).T, n_draws, replacement=True, generator=generator)
    draws = x.new_empty(len(x), n_draws, x.shape[1])
    for index in range(n_draws):
        z = mean + scale * noise[chosen[:, index], 0]
        draws[:, index] = module.likelihood.sample(module.decode(z), module.parts()[2], generator)
    return draws
