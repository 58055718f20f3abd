"""Where the threshold of a fitted model lies, and the record of the scores that placed it."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .._data.departures import total_departures
from .fitted import Data, Fitted
from .folds import Fold, expected_scores, unseen_scores
from .known_anomalies import forgotten, keeping
from .labelled import log_ratio_among_normal
from .plan import Plan
from .row_scores import network_scores, score_rows
from .thresholds import LOWEST_SCORE, Calibration, calibrate_threshold, moved_threshold, training_threshold

__all__ = ["calibrated", "moved", "recalibrated"]


def calibrated(plan: Plan, fitted: Fitted, data: Data, folds: tuple[Fold, ...], n_draws: int) -> tuple[Fitted, float]:
    """Place the threshold at the end of a fit.

    Parameters
    ----------
    plan : Plan
    fitted : Fitted
        Without a threshold.
    data : Data
        Whose ``calibration_rows`` place it.
    folds : tuple of Fold
        Models that have not seen some of these rows; none where ``fitted`` itself scores them.
    n_draws : int
        Posterior draws behind a score.

    Returns
    -------
    fitted : Fitted
        With its calibration.
    offset : float
        The threshold.

    Raises
    ------
    ValueError
        If rows have no finite score.
    """

    def placed(scores: np.ndarray) -> tuple[float, float]:
        if plan.clean:
            return calibrate_threshold(scores, plan.false_alarm_rate)
        return training_threshold(scores, plan.contamination, data.calibration_weight), 0.0

    values = data.calibration_rows
    scores = _unseen_scores(plan, fitted, values, folds, n_draws)
    cost = max(1.0, float(scores.max()) - placed(scores)[0])
    # Levels are of the whole table: no row of it has a new one, which would have cost something before.
    fall = total_departures(fitted.columns, values, fitted.score.prices(cost))
    scores = np.maximum(scores - np.asarray(fall), LOWEST_SCORE)
    offset, attained_rate = placed(scores)
    calibration = Calibration(
        np.sort(scores) if plan.clean and data.n_held_out else scores[:0],
        attained_rate,
        false_alarm_rate=float(plan.false_alarm_rate) if plan.clean else None,
        contamination=None if plan.clean else float(plan.contamination),
        n_draws=n_draws,
        departure_cost=cost,
    )
    _check_threshold(offset, fitted, values, data.training.x)
    return replace(fitted, calibration=keeping(calibration, fitted, values, scores, fall)), offset


def recalibrated(fitted: Fitted, values: Tensor, rate: float, n_draws: int) -> tuple[Fitted, float]:
    """Place the threshold anew on raw rows that are known to be normal.

    Parameters
    ----------
    fitted : Fitted
    values : Tensor of shape (n_samples, n_features)
    rate : float
        Share of fresh normal rows that may lie below the threshold.
    n_draws : int
        Posterior draws behind a score.

    Returns
    -------
    fitted : Fitted
    offset : float

    Raises
    ------
    ValueError
        If rows have no finite score.
    """
    calibration, offset = _calibration_on(forgotten(fitted), values, rate, n_draws)
    if fitted.labelled is not None:
        labelled = replace(fitted.labelled, unlearned=calibration, offset=offset)
        scores = np.sort(score_rows(fitted, values, n_draws, ratio_of=log_ratio_among_normal))
        offset, _ = calibrate_threshold(scores, rate)
        fitted, calibration = replace(fitted, labelled=labelled), replace(calibration, scores=scores)
    return replace(fitted, calibration=calibration), offset


def moved(fitted: Fitted, earlier: Fitted, offset: float, n_draws: int) -> tuple[Fitted, float]:
    """Place the threshold anew where the networks have trained on and the densities of their scores have not.

    The rows that placed it are scored by both networks, and each of their scores moves by the difference: a row that
    trained keeps what was allowed for that.

    Parameters
    ----------
    fitted : Fitted
        With the calibration of its earlier state.
    earlier : Fitted
        That state.
    offset : float
        Its threshold.
    n_draws : int
        Posterior draws behind a score, where the calibration does not say.

    Returns
    -------
    fitted : Fitted
    offset : float
    """
    calibration = fitted.calibration
    if not len(calibration.rows):  # saved by a version that kept none
        return fitted, offset
    x, fall = torch.from_numpy(calibration.rows).double(), calibration.row_departures
    n_draws = n_draws if calibration.n_draws is None else calibration.n_draws
    change = network_scores(fitted, x, n_draws) - network_scores(earlier, x, n_draws)
    row_scores = np.maximum(calibration.row_scores + change, LOWEST_SCORE)
    before, scores = calibration.row_scores - fall, np.maximum(row_scores - fall, LOWEST_SCORE)
    offset, attained_rate = moved_threshold(calibration, before, scores, offset)
    calibration = replace(
        calibration,
        scores=np.sort(scores) if calibration.count else calibration.scores,
        attained_rate=attained_rate,
        row_scores=row_scores,
    )
    return replace(fitted, calibration=calibration), offset


def _calibration_on(fitted: Fitted, values: Tensor, rate: float, n_draws: int) -> tuple[Calibration, float]:
    """Calibration and threshold of a model that knows no anomalies, on normal rows."""
    scores, cost = score_rows(fitted, values, n_draws), fitted.calibration.departure_cost
    offset, attained_rate = calibrate_threshold(scores, rate)
    _check_threshold(offset, fitted, values)
    fall = total_departures(fitted.columns, values, fitted.prices)
    calibration = Calibration(np.sort(scores), attained_rate, rate, n_draws=n_draws, departure_cost=cost)
    return keeping(calibration, fitted, values, scores, fall), offset


def _unseen_scores(plan: Plan, fitted: Fitted, values: Tensor, folds: tuple[Fold, ...], n_draws: int) -> np.ndarray:
    """Scores of the rows that place the threshold, as if the model had not seen any of them."""
    scores = score_rows(fitted, values, n_draws)
    if not folds:
        return scores
    if plan.cross_fits:
        of_folds = np.stack([score_rows(fold.fitted, values, n_draws) for fold in folds])
        unseen = np.maximum(expected_scores(scores, of_folds, folds), LOWEST_SCORE)
    else:
        unseen = unseen_scores(len(values), folds, lambda fold: score_rows(fold.fitted, values[fold.places], n_draws))
    return _at_most_of_copies(unseen, scores)


def _at_most_of_copies(unseen: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores as if the model had not seen the rows, of copies of a row no more than what further copies will get."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return np.where(counts[places] > 1, np.minimum(unseen, scores), unseen)


def _check_threshold(offset: float, fitted: Fitted, values: Tensor, trained: Tensor | None = None) -> None:
    """Refuse a threshold below which no score can lie, naming the column that causes it.

    That may be one of the scaled rows that have ``trained``, whose value takes all others out of the densities' reach.
    """
    if offset > 0.5 * LOWEST_SCORE:  # it may lie between the lowest score and another one
        return
    x = fitted.columns.exact_scaler(values.cpu())
    x = (x if trained is None else torch.cat([x, trained.to(x)])).nan_to_num(0.0)
    row, column = divmod(int(x.abs().argmax()), x.shape[1])
    scaled = bool((fitted.columns.scale != 1.0).any())
    advice = "Clip or transform that column" if scaled else "Set standardize=True, or clip or transform that column"
    raise ValueError(
        f"The rows that place the threshold must have finite scores, but column {fitted.columns.names[column]!r} holds "
        f"{float(fitted.columns.decode(x[[row]])[0, column]):.3g}, {float(x[row, column].abs()):.3g} in scaled units. "
        f"{advice}."
    )
