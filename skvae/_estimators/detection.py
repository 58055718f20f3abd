"""Scores of rows and what follows from them: thresholds, labels, p-values."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._data.arrays import like_input, like_table, to_tensor
from .._data.checks import check_weights
from .._data.departures import any_watched, departures, total_departures
from .._model.fitted import Data, Fitted
from .._model.inference import attributed, averaged
from .._model.member import Member
from .._model.plan import Plan
from .._model.scores import LOG_DENSITIES
from .._model.thresholds import Calibration, calibrate_threshold, training_threshold
from .._support.warnings import warn
from .features import BaseTransformer

__all__ = ["LOWEST_SCORE", "BaseDetector", "Explanation"]


# The score of a row so far off that its arithmetic overflows. Sums of many stay finite, and products of two.
LOWEST_SCORE = -1e150


class Explanation(NamedTuple):
    """What `explain` returns.

    Attributes
    ----------
    contributions : array or table of shape (n_samples, n_features)
        Share of each cell in the row's score; they sum to it. The lowest cell is to blame first.
    expected : array or table of shape (n_samples, n_features)
        Value of each cell that the rest of its row implies, in the units of ``X``.
    """

    contributions: Any
    expected: Any


class BaseDetector(BaseTransformer):
    """Verbs of a detector: what a score is and where its threshold lies."""

    @property
    def _n_draws(self) -> int:
        """Posterior draws behind a score, where there is a posterior."""
        return 1

    def score_samples(self, X):
        """Score rows; higher = more normal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        scores : array of shape (n_samples,)
            What ``score_method`` names; densities are in nats, in the units of ``X``. Always finite: a row so far
            off that its score overflows gets -1e150.
        """
        X = self._checked(X, "score_samples")
        return self._float64(self._scores_of(self._fitted, to_tensor(X)), X)

    def score(self, X, y=None, sample_weight=None):
        """Mean log-density of the rows, for model selection.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
            Not used, present by convention.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            In nats per row, in the units of ``X``; comparable across scalings and, for a VAE, across architectures.
        """
        X = self._checked(X, "score")
        scores = self._log_density(to_tensor(X))
        weight = check_weights(sample_weight, X.shape[0])
        return float(np.average(scores.numpy(), weights=weight))

    def decision_function(self, X):
        """Distance of the score from the threshold; negative = anomaly.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        decision : array of shape (n_samples,)
            ``score_samples(X) - offset_``.
        """
        X = self._checked(X, "decision_function")
        return self._float64(self._scores_of(self._fitted, to_tensor(X)) - self.offset_, X)

    def predict(self, X):
        """Say which rows are normal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        labels : array of shape (n_samples,)
            +1 for normal rows, -1 for anomalies.
        """
        X = self._checked(X, "predict")
        calibration = self._fitted.calibration
        rate = calibration.attained_rate
        if self.contamination == "auto" and rate > self.false_alarm_rate:
            needed = int(np.ceil(1.0 / self.false_alarm_rate)) - 1
            warn(
                f"false_alarm_rate={self.false_alarm_rate} needs {needed} rows that did not train, but the fit could "
                f"set aside only {calibration.count}: about {rate:.0%} of fresh normal rows will be "
                "flagged. Fit on more rows, call calibrate(X_normal), or raise false_alarm_rate.",
                UserWarning,
            )
        labels = np.where(self._scores_of(self._fitted, to_tensor(X)) >= self.offset_, 1, -1)
        return like_input(torch.from_numpy(labels), X, dtype="int64")

    def fit_predict(self, X, y=None, sample_weight=None):
        """Fit, then label the same rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
            Not used, present by convention.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        labels : array of shape (n_samples,)
            +1 for normal rows, -1 for anomalies.
        """
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def p_values(self, X):
        """How unusual each row is among normal rows that did not train.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        p_values : ndarray of shape (n_samples,)
            Split-conformal: for a fresh normal row P(p <= a) <= a. Pass them to
            ``scipy.stats.false_discovery_control`` to bound the share of false discoveries.

        Raises
        ------
        ValueError
            If there are no calibration rows: ``contamination`` is a number, or the fit saw too few rows.
        """
        X = self._checked(X, "p_values")
        calibration = self._fitted.calibration
        if not calibration.count:
            raise ValueError(
                "p_values needs normal rows that did not train, and this fit kept none. Fit with "
                "contamination='auto' on more rows, or call calibrate(X_normal) first."
            )
        return calibration.p_values(self._scores_of(self._fitted, to_tensor(X)))

    def calibrate(self, X):
        """Set ``offset_`` anew on rows that are known to be normal, without training again.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Normal rows that the model has not seen.

        Returns
        -------
        self : object
        """
        X = self._checked(X, "calibrate")
        scores = np.sort(self._scores_of(self._fitted, to_tensor(X)))
        offset, attained_rate = calibrate_threshold(scores, self.false_alarm_rate)
        _check_threshold(offset, self._fitted, to_tensor(X))
        calibration = replace(self._fitted.calibration, scores=scores, attained_rate=attained_rate)
        self._fitted = replace(self._fitted, calibration=calibration)
        self.offset_ = offset
        return self

    def explain(self, X):
        """Say which cells make rows anomalous, and what they should have held.

        The cell whose repair makes the row most normal is repaired, and again, until the row counts as normal; so one
        bad cell is not smeared over the others. Each column costs some passes through the network: explain the rows
        that `predict` flags, not a whole table.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        explanation : tuple of (contributions, expected)
            Two arrays of the shape of ``X``, or two tables where ``X`` is one. The contributions of a row sum to its
            score; the lowest is to blame first. The expected cells are in the units of ``X``.
        """
        rows = self._checked(X, "explain")
        fitted = self._fitted
        shift = fitted.columns.log_jacobian if fitted.score.is_density else 0.0
        values, cost = to_tensor(rows), fitted.calibration.departure_cost
        contributions, expected = attributed(fitted, values, self._scorer(fitted), self.offset_ - shift)
        contributions = contributions + shift / rows.shape[1] - cost * departures(fitted.columns, values)
        table = X if hasattr(X, "columns") else None
        return Explanation(
            like_table(like_input(contributions, rows, dtype="float64"), table),
            like_table(like_input(expected, rows, dtype="float64"), table)
            if fitted.table is None
            else fitted.table.decode(expected.numpy(), X),
        )

    def _scorer(self, fitted: Fitted) -> Callable[[Member, Any, Tensor], Tensor]:
        """The score of scaled rows under one network, always finite."""

        def score(member: Member, module: Any, x: Tensor) -> Tensor:
            return _finite(fitted.score.compute(fitted.scoring(member, module, x, self._n_draws)))

        return score

    def _scores_of(self, fitted: Fitted, values: Tensor) -> np.ndarray:
        def score(member: Member, module: Any, x: Tensor) -> Tensor:
            return fitted.score.compute(fitted.scoring(member, module, x, self._n_draws))

        scores = averaged(fitted, values, score)
        if fitted.score.is_density:
            scores += fitted.columns.log_jacobian
        return _finite(scores - fitted.calibration.departure_cost * total_departures(fitted.columns, values)).numpy()

    def _try_scores(self, values: Tensor) -> None:
        scores, calibration = self._scores_of(self._fitted, values), self._fitted.calibration
        calibration.p_values(scores)
        if float(calibration.attained_rate) > 1 or np.isnan(scores - float(self.offset_)).any():
            raise ValueError("the threshold is none")

    def _log_density(self, values: Tensor) -> Tensor:
        """Log-density of the observed cells of raw rows, in nats, in the user's units."""
        return self._in_units(averaged(self._fitted, values, self._log_density_of(self._fitted)), values)

    def _log_density_of(self, fitted: Fitted) -> Callable[[Member, Any, Tensor], Tensor]:
        """The log-density of the observed values of scaled rows under one network."""
        density = LOG_DENSITIES[fitted.design.kind]
        return lambda member, module, x: density(fitted.scoring(member, module, x, self._n_draws))

    def _in_units(self, densities: Tensor, values: Tensor) -> Tensor:
        """Log-densities of scaled rows as those of raw rows, ``values``."""
        columns, cost = self._fitted.columns, self._fitted.calibration.departure_cost
        nats = cost if self._fitted.score.is_density else min(cost, 1.0)
        return _finite(densities + columns.log_jacobian_of(values) - nats * total_departures(columns, values))

    def _float64(self, values: np.ndarray, X: Any) -> Any:
        return like_input(torch.from_numpy(values), X, dtype="float64")

    def _calibrated(self, plan: Plan, fitted: Fitted, data: Data) -> tuple[Fitted, float]:
        def placed(scores: np.ndarray) -> tuple[float, float]:
            if plan.clean:
                return calibrate_threshold(scores, plan.false_alarm_rate)
            return training_threshold(scores, plan.contamination, data.calibration_weight), 0.0

        scores, cost = self._scores_of(fitted, data.calibration), 0.0
        if any_watched(fitted.columns):
            cost = max(1.0, float(scores.max()) - placed(scores)[0])
            lowered = scores - cost * np.asarray(total_departures(fitted.columns, data.calibration))
            scores = np.maximum(lowered, LOWEST_SCORE)
        offset, attained_rate = placed(scores)
        held_out = np.sort(scores) if plan.clean and data.n_held_out else scores[:0]
        fitted = replace(fitted, calibration=Calibration(held_out, attained_rate, cost))
        _check_threshold(offset, fitted, data.calibration)
        return fitted, offset


def _finite(scores: Tensor) -> Tensor:
    """Put the lowest score where one overflowed."""
    return scores.nan_to_num(nan=LOWEST_SCORE).clamp_min_(LOWEST_SCORE)


def _check_threshold(offset: float, fitted: Fitted, values: Tensor) -> None:
    """Refuse a threshold below which no score can lie, naming the column to blame."""
    if offset > LOWEST_SCORE:
        return
    x = fitted.columns.encoder(torch.float64, torch.device("cpu"))(values.cpu()).abs().nan_to_num(0.0)
    row, column = divmod(int(x.argmax()), x.shape[1])
    raise ValueError(
        f"The rows that place the threshold must have finite scores, but column {fitted.columns.names[column]!r} holds "
        f"{float(values[row, column]):.3g}, {float(x[row, column]):.3g} in scaled units. Set standardize=True, or clip "
        "or transform that column."
    )
