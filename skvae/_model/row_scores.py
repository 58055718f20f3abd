"""Scores, log-densities and explanations of raw rows, in the user's units.

To the mean of the networks' scores of scaled rows comes, for a density, the logarithm of the scaling's Jacobian; known
anomalies move the score, and it falls by what a row departs from what every training row held.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._data.columns import row_chunks
from .._data.departures import Prices, departures, total_departures
from .._support.device import thread_limit
from .attribution import CellModel, attribute
from .fitted import Fitted
from .inference import averaged
from .labelled import log_ratio
from .member import Member
from .scores import LOG_DENSITIES
from .thresholds import LOWEST_SCORE

__all__ = ["Explained", "explain_rows", "in_units", "log_densities", "network_scores", "score_rows"]

ScoreFunction = Callable[[Member, Any, Tensor], Tensor]


def score_rows(fitted: Fitted, values: Tensor, n_draws: int, *, ratio_of: ScoreFunction = log_ratio) -> np.ndarray:
    """What `score_samples` returns.

    Parameters
    ----------
    fitted : Fitted
    values : Tensor of shape (n_samples, n_features)
        Raw rows.
    n_draws : int
        Posterior draws behind a score by the likelihood.
    ratio_of : function of a member, its module and scaled rows
        How much nearer rows lie to known anomalies than to normal rows.

    Returns
    -------
    scores : ndarray of shape (n_samples,)
        Always finite.
    """
    score, labelled = _score_of(fitted, n_draws), fitted.labelled
    if labelled is None:
        return _less_departures(fitted, values, _in_units_of_score(fitted, averaged(fitted, values, score), values))

    def with_ratio(member: Member, module: Any, x: Tensor) -> Tensor:
        return torch.stack([score(member, module, x), ratio_of(member, module, x)], dim=1)

    scores, ratio = averaged(fitted, values, with_ratio, 2).unbind(dim=1)
    # Departures are beyond what anomalies are compared in: they lower a score by as much as ever.
    moved = labelled.moved(_finite(_in_units_of_score(fitted, scores, values)), ratio)
    return _less_departures(fitted, values, moved)


def network_scores(fitted: Fitted, x: Tensor, n_draws: int) -> np.ndarray:
    """Scores of scaled rows but for what the rows alone say: the scaling's Jacobian and departures.

    Parameters
    ----------
    fitted : Fitted
        What it knows of anomalies does not count.
    x : Tensor of shape (n_samples, n_features)
        In float64.
    n_draws : int
        As in `score_rows`.

    Returns
    -------
    scores : ndarray of shape (n_samples,)
        Always finite.
    """
    score, device = _score_of(fitted, n_draws), fitted.features.flat.device
    members = [(member.converted(x.to(device)), member.module.converted(x.dtype)) for member in fitted.members]
    chunks = row_chunks(len(x))
    n_rows = sum(size for _, size in chunks)
    padded = torch.cat([x, x[-1:].expand(n_rows - len(x), -1)]).to(device)
    with torch.inference_mode(), thread_limit(1024 * fitted.features.flops_per_row):
        parts = [
            torch.stack([score(member, module, padded[first : first + size]) for member, module in members]).mean(dim=0)
            for first, size in chunks
        ]
    return _finite(torch.cat(parts)[: len(x)].cpu()).numpy()


def log_densities(fitted: Fitted, values: Tensor, n_draws: int) -> Tensor:
    """Log-densities (n_samples,) of the observed values of raw rows, in nats, whatever the score is."""
    density = LOG_DENSITIES[fitted.design.model]
    return in_units(
        fitted,
        averaged(fitted, values, lambda member, module, x: density(fitted.scoring(member, module, x, n_draws))),
        values,
    )


def in_units(fitted: Fitted, densities: Tensor, values: Tensor) -> Tensor:
    """Log-densities of scaled rows as those of raw rows, ``values``."""
    columns, cost = fitted.columns, fitted.calibration.departure_cost
    cost = cost if fitted.score.is_density else min(cost, 1.0)
    return _finite(densities + columns.log_jacobian_of(values) - total_departures(columns, values, Prices(cost)))


class Explained(NamedTuple):
    """Scores of rows split over their cells; tensors of shape (n_samples, n_features), on the CPU."""

    contributions: Tensor  # to the row's score, which they sum to
    expected: Tensor  # what the row's other cells imply, in the user's units
    repaired: Tensor  # of bool: whether the cell had to change for the row to count as normal
    deficits: Tensor  # what the cell takes off the score, because it had to change or departs; 0 for others


def explain_rows(fitted: Fitted, values: Tensor, n_draws: int, threshold: float) -> Explained:
    """Split the scores of raw rows over their cells.

    Parameters
    ----------
    fitted : Fitted
    values : Tensor of shape (n_samples, n_features)
    n_draws : int
        As in `score_rows`.
    threshold : float
        Score from which a row counts as normal.

    Returns
    -------
    explained : Explained
    """
    columns, device = fitted.columns, fitted.features.flat.device
    # What is the same for every row is left out until the end.
    shift = columns.log_jacobian if fitted.score.is_density and columns.marginals is None else 0.0
    x = columns.scaler(torch.float64, device)(values.double().to(device).contiguous())
    low, high = fitted.scaled_bounds.to(device)
    reconstruct, codes = fitted.features.converted(torch.float64).reconstruct, fitted.features.layer.categorical
    model = CellModel(_score_of_cells(fitted, n_draws, shift), reconstruct, low, high, codes)
    with torch.inference_mode(), thread_limit(1024 * fitted.features.flops_per_row):
        contributions, expected, deficits = (part.cpu() for part in attribute(x, model, threshold - shift))
        # Scaled and back, an end of the range is off by its rounding.
        expected = fitted.within_bounds(columns.decode(expected))
    departed = departures(columns, values, fitted.prices)
    contributions = contributions + shift / values.shape[1] - departed
    if values.dtype == torch.float32:
        contributions = _summing_to(contributions, torch.from_numpy(score_rows(fitted, values, n_draws)))
    return Explained(contributions, expected, deficits > 0.0, deficits + departed)


def _score_of_cells(fitted: Fitted, n_draws: int, shift: float) -> Callable[[Tensor], Tensor]:
    """The score of scaled rows in float64, less ``shift`` and without departures, as a function of their cells."""
    modules = [member.module.converted(torch.float64) for member in fitted.members]
    score, labelled = _score_of(fitted, n_draws), None if fitted.labelled is None else fitted.labelled.shifted(-shift)
    by_row = fitted.score.is_density and fitted.columns.marginals is not None

    def mean_of(function: ScoreFunction, x: Tensor) -> Tensor:
        results = [function(member, module, x) for member, module in zip(fitted.members, modules, strict=True)]
        return torch.stack(results).mean(dim=0)

    def of_cells(x: Tensor) -> Tensor:
        mean = mean_of(lambda *given: _finite(score(*given)), x)
        if by_row:
            mean = mean + fitted.columns.log_slopes_at(x, by_mass=fitted.score.by_likelihood)
        return mean if labelled is None else labelled.moved(mean, mean_of(log_ratio, x))

    return of_cells


def _score_of(fitted: Fitted, n_draws: int) -> ScoreFunction:
    """The score of scaled rows under one network; NaN or infinite where its arithmetic overflows."""
    return lambda member, module, x: fitted.score.compute(fitted.scoring(member, module, x, n_draws))


def _in_units_of_score(fitted: Fitted, scores: Tensor, values: Tensor) -> Tensor:
    """Scores of scaled rows as those of raw rows, ``values``; missing cells count in them, as `Score.compute` says."""
    if not fitted.score.is_density:
        return scores
    return scores + fitted.columns.log_jacobian_of_whole(values, by_mass=fitted.score.by_likelihood)


def _less_departures(fitted: Fitted, values: Tensor, scores: Tensor) -> np.ndarray:
    """Scores of raw rows, ``values``, less what these depart by; always finite."""
    return _finite(scores - total_departures(fitted.columns, values, fitted.prices)).numpy()


def _finite(scores: Tensor) -> Tensor:
    """Put the lowest score where one overflowed."""
    return scores.nan_to_num(nan=LOWEST_SCORE).clamp_min_(LOWEST_SCORE)


def _summing_to(contributions: Tensor, scores: Tensor) -> Tensor:
    """Contributions with the rounding of their row's score, to each as much as it weighs, so that they sum to it."""
    weight = contributions.abs().clamp_min(1e-300)
    gap = scores - contributions.sum(dim=1)
    return contributions + gap.unsqueeze(1) * (weight / weight.sum(dim=1, keepdim=True))
