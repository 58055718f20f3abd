"""Missing cells of scaled rows given the others: their conditional mean, and how reliable it is."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._support.numerics import observed
from ..likelihoods.row_terms import with_row_terms

__all__ = ["conditional_mean", "expected_of_missing", "reliability"]

# Draws that are decoded at once, and rows whose draws are kept: bound the memory.
_DRAWS_AT_ONCE = 16
_ROWS_AT_ONCE = 256
# The draws come in rounds, each from the Gaussian that the rounds before it point to.
_N_ROUNDS = 4
# Each observed value is hidden once, in one of so many parts.
_N_PARTS = 4
# The model is believed beforehand as if so many hidden values had confirmed it.
_PRIOR_VALUES = 50
# Standard deviations beyond which a value counts no more: a handful of extremes would decide.
_FARTHEST = 3.0
# A round is drawn a little wider than its weighted codes are, and no narrower than a fraction of the posterior.
_WIDENING = 1.2
_LEAST_SCALE = 0.3


def _codes_in_rounds(module: Any, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of shape (n_draws, n_samples, n_components) and their weights (n_draws, n_samples), which sum to 1.

    The first round draws from q(z given x_o); each later one from the Gaussian with the moments of the codes so far,
    under weights tempered by a half. All codes are weighed against the mixture of the proposals of all rounds.
    """
    mask, free = ~torch.isnan(x), module.free()
    likelihood = with_row_terms(module.likelihood, x, free, mask)
    mean, log_variance = module.posterior(x)
    proposals = [(mean, torch.exp(0.5 * log_variance))]
    z, log_joint = x.new_empty(0, *mean.shape), x.new_empty(0, len(x))
    log_weights = log_joint
    for index, part in enumerate(noise.tensor_split(_N_ROUNDS)):
        if index:
            proposals.append(_moments(z, torch.softmax(0.5 * log_weights, dim=0), proposals[0][1]))
        new = proposals[-1][0] + proposals[-1][1] * part
        log_prob = [
            likelihood.log_prob(x, module.decode(few), free, mask).sum(dim=-1) for few in new.split(_DRAWS_AT_ONCE)
        ]
        log_joint = torch.cat([log_joint, torch.cat(log_prob) - 0.5 * new.square().sum(dim=-1)])
        z = torch.cat([z, new])
        log_weights = log_joint - torch.logsumexp(torch.stack([_log_normal(z, *given) for given in proposals]), dim=0)
    return z, torch.softmax(log_weights, dim=0)


def _moments(z: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and widened scale of weighted codes; its scale stays from a fraction of the posterior's to the prior's."""
    weight = weight.unsqueeze(-1)
    mean = (weight * z).sum(dim=0)
    spread = (weight * (z - mean).square()).sum(dim=0).sqrt()
    return mean, (_WIDENING * spread).clamp_max(1.0).maximum(_LEAST_SCALE * scale)


def _log_normal(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Log-density of codes but for a constant."""
    return -(0.5 * ((z - mean) / scale).square() + scale.log()).sum(dim=-1)


def conditional_mean(module: Any, x: Tensor, noise: Tensor) -> Tensor:
    r"""Expected cells of a row given those that are there, by self-normalised importance weights.

    .. math:: E[x_m \mid x_o] \approx \sum_k \tilde w_k E[x_m \mid z_k], \quad \tilde w_k \propto
        \frac{p(x_o \mid z_k) p(z_k)}{\sum_r q_r(z_k)}

    over the proposals q_r of all rounds, the first of which is the posterior.

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
        As the likelihood's ``expected_beside`` gives it: a mean, or the probabilities of a column's levels. Of cells
        that are there it says nothing.

    References
    ----------
    Mattei & Frellsen (2019), "MIWAE: deep generative modelling and imputation of incomplete data sets",
    https://arxiv.org/abs/1812.02633, equation 12; Cornuet, Marin, Mira & Robert (2012), "Adaptive multiple importance
    sampling", Scandinavian Journal of Statistics 39(4), for the rounds.
    """
    return torch.cat([_weighted_mean(module, rows, noise) for rows in x.split(_ROWS_AT_ONCE)])


def _weighted_mean(module: Any, x: Tensor, noise: Tensor) -> Tensor:
    z, weight = _codes_in_rounds(module, x, noise)
    expected = x.new_zeros(len(x), sum(module.likelihood.widths))
    for few, few_weights in zip(z.split(_DRAWS_AT_ONCE), weight.split(_DRAWS_AT_ONCE), strict=True):
        cells = module.likelihood.expected_beside(x, module.decode(few), module.free())
        expected += (few_weights.unsqueeze(-1) * cells).sum(dim=0)
    return expected


def expected_of_missing(module: Any, x: Tensor) -> Tensor | float:
    """Sum of the log-densities that the missing cells of scaled rows are expected to have, in nats."""
    mask = observed(x)
    if mask is None:
        return 0.0
    expected = module.likelihood.expected_log_prob(module.decode(module.encode(x)), module.free())
    return torch.where(mask, 0.0, expected).sum(dim=-1)


def reliability(values: Tensor, centre: Tensor, scale: Tensor, fill: Callable[[Tensor], Tensor]) -> float:
    r"""How much of a filled value's distance from its column's mean hidden values confirm, in [0, 1].

    .. math:: a = \frac{\sum_{ij} (\hat x_{ij} - m_j)(x_{ij} - m_j) / s_j^2 + k q}
        {\sum_{ij} (\hat x_{ij} - m_j)^2 / s_j^2 + k q}

    over n values that were hidden from the model, with k = 50 and q the n-th part of the lower sum. Of many values it
    is the factor by which the mean squared error is least, below that of the means themselves; few move it little.

    Parameters
    ----------
    values : Tensor of shape (n_samples, n_features)
        Raw rows in float64, best of all such that have not trained; NaN where a value is missing.
    centre, scale : Tensor of shape (n_features,)
        Of the columns; NaN for a column that does not count.
    fill : callable
        Expected values of raw rows, of the shape of the rows.

    Returns
    -------
    reliability : float
        1 where there is no value to say.

    References
    ----------
    Copas (1983), "Regression, prediction and shrinkage", JRSS B 45(3), section 3.
    """
    scaled = ((values - centre) / scale).clamp(-_FARTHEST, _FARTHEST)
    there = ~scaled.isnan()
    # Every fourth value, one further on in each row: all columns lose equally many, and neighbours are told apart.
    place = torch.arange(len(values)).unsqueeze(1) + (torch.arange(values.shape[1]) * 7) // 3
    products, squares, n_hidden = 0.0, 0.0, 0
    for part in range(_N_PARTS):
        hidden = there & (place % _N_PARTS == part)
        filled = fill(torch.where(hidden, torch.nan, values))[hidden]
        filled = ((filled - centre.expand_as(values)[hidden]) / scale.expand_as(values)[hidden]).clamp(
            -_FARTHEST, _FARTHEST
        )
        products += float((filled * scaled[hidden]).sum())
        squares += float(filled.square().sum())
        n_hidden += len(filled)
    if squares == 0.0:
        return 1.0
    prior = _PRIOR_VALUES * squares / n_hidden
    return min(max((products + prior) / (squares + prior), 0.0), 1.0)
