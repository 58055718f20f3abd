"""Noise scales of a VAE's columns that hold on rows that did not train."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Generator, Tensor

from .._densities.bounds import importance_weighted_bound
from .._networks.modules import VAEModule
from .._support.device import make_generator
from .._support.numerics import observed
from .._training.rows import Rows
from ..likelihoods import Autoregressive
from .fitted import Fitted
from .member import Member

__all__ = ["with_noise_of"]

# A smaller one brings more nats on thousands of rows, a larger one costs few rows none; no results file compares.
_RIDGE = 40.0
_LARGEST, _ROUNDS = 1.5, 8  # logarithm of a factor; more rounds change factors little
# Rows times draws times columns, which bounds the time. Over many columns rows tell more than draws do; no results file
# compares.
_CELLS, _FEWEST_ROWS, _DRAWS, _FEWEST_DRAWS = 2**17, 32, 16, 2


def with_noise_of(fitted: Fitted, unseen: Rows | None) -> Fitted:
    r"""The same model with noise scales by the likelihood of rows that did not train.

    A training maximises a lower bound of log p(x), under dropout, on rows that it comes to know: where the code tells a
    column closely, its noise scale ends too large, and elsewhere too small. Each scale of a column j is multiplied by
    :math:`e^{c + d_j}`, the maximum of

    .. math:: \sum_i \log p(x_i) - \tfrac{\lambda}{2} \Big(c^2 + \sum_j d_j^2\Big)

    over the rows, each log-density by importance weighting, with the decoder's locations as they are.

    Parameters
    ----------
    fitted : Fitted
        With its densities of codes.
    unseen : Rows, or None
        Scaled. None changes nothing.

    Returns
    -------
    fitted : Fitted
        With a module of its own.

    References
    ----------
    Guo, Pleiss, Sun & Weinberger (2017), "On calibration of modern neural networks", https://arxiv.org/abs/1706.04599,
    section 4.2, which scales logits by held-out likelihood; Burda, Grosse & Salakhutdinov (2016),
    https://arxiv.org/abs/1509.00519, for the log-densities.
    """
    if unseen is None or not len(unseen.x) or not fitted.module.likelihood.has_scale:
        return fitted
    module = fitted.module.copied()
    free, likelihood = module.free().detach().view(len(fitted.members), -1), module.likelihood
    for own, member in zip(free, fitted.members, strict=True):
        own.copy_(likelihood.with_noise(own.double(), _log_factors(member, unseen, fitted.seeds[0])))
    return fitted.with_module(module)


def _log_factors(member: Member, unseen: Rows, seed: int) -> Tensor:
    """Logarithms of the factors of one network's scales, of shape (n_columns,)."""
    n_columns = unseen.x.shape[1]
    n_rows = max(_FEWEST_ROWS, _CELLS // (_FEWEST_DRAWS * n_columns))
    x, weight = unseen.x[:n_rows].double(), unseen.weight
    n_draws = max(_FEWEST_DRAWS, min(_DRAWS, _CELLS // x.numel()))
    if weight is not None:
        weight = weight[:n_rows].double() / weight[:n_rows].double().mean()
    log_density = _log_density(member, x, n_draws, unseen.spread, seed)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.enable_grad():
            point = torch.from_numpy(parameters).to(x.device).requires_grad_()
            rows = log_density(point[0] + point[1:])
            total = (rows if weight is None else rows * weight).sum()
            total = 0.5 * _RIDGE * point.square().sum() - total
            (gradient,) = torch.autograd.grad(total, point)
        return total.item(), gradient.cpu().numpy()

    bounds, start = [(-_LARGEST, _LARGEST)] * (n_columns + 1), np.zeros(n_columns + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ROUNDS})
    factors = found.x if np.isfinite(found.fun) and np.isfinite(found.x).all() else start
    return torch.from_numpy(factors[0] + factors[1:]).to(x.device)


def _log_density(
    member: Member, x: Tensor, n_draws: int, spread: Callable[[Tensor, Generator], Tensor] | None, seed: int
) -> Callable[[Tensor], Tensor]:
    """The log-density of scaled rows, but for a number for each row, by the logarithms of the factors."""
    double, generator = member.converted(x), make_generator(seed, x.device)
    module, mask, prior = cast(VAEModule, double.module), observed(x), double.densities.get("latent")
    with torch.no_grad():
        mean, log_variance = module.posterior(x)
        # Draws of their own, for each row: scores share theirs, by which the factors must not be chosen.
        noise = torch.empty((n_draws, *mean.shape), dtype=x.dtype, device=x.device).normal_(generator=generator)
        z = mean + torch.exp(0.5 * log_variance) * noise
        log_prior = -0.5 * z.square().sum(dim=-1) if prior is None else prior.log_prob(z)
        log_ratio = log_prior + 0.5 * noise.square().sum(dim=-1)
        outputs, free, likelihood = module.decode(z), module.free().detach(), module.likelihood
        # A value with a mass is drawn within its interval, as in the training: the mass itself has no derivative here.
        x = x if spread is None else spread(x, generator)
        cells, n_free = likelihood, likelihood.n_free
        if isinstance(likelihood, Autoregressive):  # what a column knows of others does not change with the noise
            cells = likelihood.likelihood
            known = x if mask is None else torch.where(mask, x, 0)
            outputs, n_free = likelihood.outputs_given(known, outputs, free, mask), cells.n_free

    def log_density(log_factor: Tensor) -> Tensor:
        own = likelihood.with_noise(free, log_factor)[:n_free]
        return importance_weighted_bound(cells.row_log_prob(x, outputs, own, mask) + log_ratio)

    return log_density
