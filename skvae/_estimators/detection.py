"""Scores of rows and what follows from them: thresholds, labels, p-values."""

from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._data.arrays import like_input, like_table, to_tensor
from .._data.checks import check_weights
from .._model.calibration import calibrated, moved, recalibrated
from .._model.fitted import Data, Fitted
from .._model.folds import Fold
from .._model.known_anomalies import bounded_anomalies, forgotten, learned
from .._model.plan import Plan
from .._model.row_scores import explain_rows, log_densities, score_rows
from .._support.compat import check_is_fitted, searched_parameters
from .._support.warnings import warn
from .._tables.form import is_frame
from .checks import is_empty
from .explanation import Explanation
from .features import BaseTransformer

__all__ = ["BaseDetector", "check_score_method"]


class BaseDetector(BaseTransformer):
    """Verbs of a detector: what a score is and where its threshold lies."""

    @property
    def _n_draws(self) -> int:
        """Posterior draws behind a density, where there is a posterior."""
        return 1

    @property
    def _n_score_draws(self) -> int:
        """The same behind a score."""
        return 1

    @property
    def score_method_(self) -> str:
        """The score that the fit chose, if ``score_method`` is "auto"."""
        return self._fitted.score_method

    def score_samples(self, X):
        """Score rows; higher = more normal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        scores : array of shape (n_samples,)
            What ``score_method`` names, by default a log-density of the row beside its residual; densities are in
            nats, in the units of ``X``. Always finite: a row so far off that its score overflows gets -1e150. A VAE's
            log p(x) is its `log_likelihood`; as a score it takes fewer draws, unless ``n_draws`` is a number.

        Raises
        ------
        ValueError
            If ``score_method`` has changed since the fit, which has estimated what its own score needs and no other.
        """
        X = self._checked_to_score(X, "score_samples")
        return self._float64(self._score_samples(to_tensor(X)), X)

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

        Warns
        -----
        UserWarning
            If a search over ``score_method`` calls it: this number is the same for all of them, so that such a search
            needs ``scoring=``.
        """
        X = self._checked(X, "score", scored=True)
        if any(name.split("__")[-1] == "score_method" for name in searched_parameters()):
            warn(
                "score is the mean log-density of the rows whatever score_method is, so that a search over it finds "
                "all its values alike. Pass scoring= to the search: 'roc_auc', for example, compares "
                "decision_function with a y that is 1 for normal rows and -1 for anomalies.",
                UserWarning,
            )
        scores = log_densities(self._fitted, to_tensor(X), self._n_draws)
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
        X = self._checked_to_score(X, "decision_function")
        self._warn_of_other_draws()
        return self._float64(self._score_samples(to_tensor(X)) - self.offset_, X)

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
        X = self._checked_to_score(X, "predict")
        self._warn_of_few_calibration_rows()
        self._warn_of_other_draws()
        labels = np.where(self._score_samples(to_tensor(X)) >= self.offset_, 1, -1)
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
            Split-conformal: for a fresh normal row P(p <= a) <= a. Copies of a calibration row have the p-value of that
            row, however their scores are rounded. Pass them to ``scipy.stats.false_discovery_control`` to bound the
            share of false discoveries.

        Raises
        ------
        ValueError
            If there are no calibration rows: ``contamination`` is a number, or the fit saw too few rows.
        """
        X = self._checked_to_score(X, "p_values")
        calibration = self._fitted.calibration
        if not calibration.count:
            raise ValueError(
                "p_values needs normal rows that did not train, and this fit kept none. Fit with "
                "contamination='auto' on more rows, or call calibrate(X_normal) first."
            )
        self._warn_of_other_draws()
        return calibration.p_values(self._score_samples(to_tensor(X)))

    def calibrate(self, X, false_alarm_rate=None):
        """Set ``offset_`` anew on rows that are known to be normal, without training again.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Normal rows that the model has not seen.
        false_alarm_rate : float or None, default=None
            Share of fresh normal rows that `predict` may flag from now on, in (0, 0.5]. None takes the parameter of
            that name, as it stands now.

        Returns
        -------
        self : object
            With ``false_alarm_rate_``, whatever placed the threshold before.

        Raises
        ------
        ValueError
            If the rate is not in (0, 0.5], or rows have no finite score.
        """
        X = self._checked_to_score(X, "calibrate")
        rate = _checked_rate(self.false_alarm_rate if false_alarm_rate is None else false_alarm_rate)
        self._fitted, self.offset_ = recalibrated(self._fitted, to_tensor(X), rate, self._n_score_draws)
        return self

    def learn_anomalies(self, X):
        r"""Teach the scores some known anomalies, without training again.

        Rows that lie nearer to one of them than to normal rows score lower from then on, and others higher; ``offset_``
        and `p_values` follow, so that fresh normal rows are flagged as often as before. Five labelled rows already
        help; anomalies of other kinds are found about as well as before, somewhat less well on some tables. Features,
        reconstructions and `score`, which is a density, do not change.

        Parameters
        ----------
        X : array-like of shape (n_anomalies, n_features)
            Anomalies alone, without labels. They take the place of those of an earlier call, so pass all that are
            known; a table without rows forgets them, and all is as before the first call. Of more than a thousand, as
            many at random are kept.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the model keeps no normal rows, having been saved by an earlier version.

        Warns
        -----
        UserWarning
            If the rows are all equal, or all look normal: none scores lower than half of the normal rows. If all rows
            that placed the threshold are among them.

        See Also
        --------
        calibrate : Place the threshold anew on normal rows.

        Notes
        -----
        In the space of [input; whitened residual], where also ``score_method="neighbor"`` measures, with the distance
        :math:`d_n` to the nearest of the rows that placed the threshold and :math:`d_a` to the nearest anomaly,

        .. math:: f(t') = f(t) + \tfrac32 \log \frac{d_n + 0.3}{d_a + 0.3}, \quad
            f(t) = \operatorname{sign}(t) \log(1 + |t|)

        where t is how far the score lies below the median of these rows, in their interquartile ranges. Rows among them
        that turn out to be anomalies are left out. The distance of each is that to the others, which leaves p-values
        valid: a fresh row has one row more to be near to. `fit` forgets the anomalies, `partial_fit` keeps them.
        ONNX graphs refuse a model that knows some.
        """
        check_is_fitted(self)
        if is_empty(self, X):
            self._forget()
            return self
        X = self._checked_to_score(X, "learn_anomalies")
        values, unlearned = to_tensor(X), forgotten(self._fitted)
        fitted, offset = learned(unlearned, bounded_anomalies(unlearned, values), self._unlearned_offset)
        _warn_of_useless_anomalies(score_rows(unlearned, values, self._n_score_draws), values, fitted)
        self._fitted, self.offset_ = fitted, offset
        return self

    @property
    def _unlearned_offset(self) -> float:
        """The threshold as it is without known anomalies."""
        labelled = self._fitted.labelled
        return self.offset_ if labelled is None else labelled.offset

    def _forget(self) -> Tensor | None:
        """Drop the known anomalies, and return them, scaled."""
        labelled = self._fitted.labelled if hasattr(self, "_fitted") else None
        if labelled is None:
            return None
        self.offset_, self._fitted = labelled.offset, forgotten(self._fitted)
        return labelled.x

    def _learn(self, x: Tensor) -> None:
        """Learn anomalies again that an earlier state of the model knew, scaled."""
        self._fitted, self.offset_ = learned(self._fitted, x, self.offset_)

    @property
    def false_alarm_rate_(self) -> float | None:
        """Share of fresh normal rows that ``offset_`` was placed for; None where ``contamination`` placed it."""
        calibration = self._fitted.calibration
        if calibration.false_alarm_rate is None and calibration.contamination is None:  # saved before it was kept
            return self.false_alarm_rate if self.contamination == "auto" else None
        return calibration.false_alarm_rate

    @property
    def contamination_(self) -> float | None:
        """Share of the training rows that ``offset_`` was placed for; None where a false-alarm rate placed it."""
        calibration = self._fitted.calibration
        if calibration.false_alarm_rate is None and calibration.contamination is None:
            return None if self.contamination == "auto" else self.contamination
        return calibration.contamination

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
            score; the lowest marks the most anomalous value. The expected values are in the units of ``X``.
            ``explain(X).to_frame(top=3)`` lists the values that had to change, as a long table of pandas with the
            columns row, column, value, expected and share.
        """
        rows = self._checked_to_score(X, "explain")
        fitted, values = self._fitted, to_tensor(rows)
        found = explain_rows(fitted, values, self._n_score_draws, self.offset_)
        contributions = like_input(fitted.divided(found.contributions), rows, dtype="float64")
        if is_frame(X):
            contributions = like_table(np.asarray(contributions), X)
        if self._table_of(X) is None:
            X, expected = values.cpu().numpy(), like_input(found.expected, rows, dtype="float64")
        else:
            expected = self._in_form(fitted.with_own(found.expected, values, found.repaired), rows, X)
        return Explanation(contributions, expected, shares=_shares(fitted.by_column(found.deficits)), X=X)

    def _checked_to_score(self, X: Any, method: str) -> Any:
        """Validate rows for a verb that scores them, and that the score is the one that was fitted."""
        self._check_is_fitted()
        check_score_method(self)
        return self._checked(X, method, scored=True)

    def _warn_of_other_draws(self) -> None:
        """Say where the threshold rests on scores of more or fewer draws."""
        placed, n_draws = self._fitted.calibration.n_draws, self._n_score_draws
        if placed not in (None, n_draws) and self._fitted.score.by_likelihood:
            warn(
                f"The threshold was placed by scores of n_draws={placed} draws, but n_draws is {n_draws} now, which "
                "moves scores and keeps no promise of the threshold. Call calibrate(X_normal), or set n_draws back.",
                UserWarning,
            )

    def _score_samples(self, values: Tensor) -> np.ndarray:
        return score_rows(self._fitted, values, self._n_score_draws)

    def _try_scores(self, values: Tensor) -> None:
        scores, calibration = self._score_samples(values), self._fitted.calibration
        calibration.p_values(scores)
        if float(calibration.attained_rate) > 1 or np.isnan(scores - float(self.offset_)).any():
            raise ValueError("the threshold is none")

    def _warn_of_few_calibration_rows(self) -> None:
        """Say where the threshold flags more than it was asked for."""
        calibration, asked = self._fitted.calibration, self.false_alarm_rate_
        if asked is not None and calibration.attained_rate > asked:
            needed = int(np.ceil(1.0 / asked)) - 1
            warn(
                f"false_alarm_rate={asked} needs {needed} rows that did not train, but there were only "
                f"{calibration.count}: about {calibration.attained_rate:.0%} of fresh normal rows will be flagged. Fit "
                "on more rows, call calibrate(X_normal) with more, or raise false_alarm_rate.",
                UserWarning,
            )

    def _float64(self, values: np.ndarray, X: Any) -> Any:
        return like_input(torch.from_numpy(values), X, dtype="float64")

    def _calibrated(self, plan: Plan, fitted: Fitted, data: Data, folds: tuple[Fold, ...]) -> tuple[Fitted, float]:
        fitted, offset = calibrated(plan, fitted, data, folds, self._n_score_draws)
        unseen = (fitted, data.calibration_rows)
        if folds and plan.cross_fits:
            unseen = (folds[0].fitted, data.calibration_rows[folds[0].places])
        reliability = self._reliability(*unseen, 32 if plan.one_pass else 256)
        return replace(fitted, reliability=reliability), offset

    def _moved(self, fitted: Fitted, earlier: Fitted) -> tuple[Fitted, float]:
        return moved(fitted, earlier, self.offset_, self._n_score_draws)


def check_score_method(estimator: Any) -> None:
    """Refuse another ``score_method`` than that of the fit, which has estimated the densities of its own alone.

    Parameters
    ----------
    estimator : BaseDetector
        Fitted.

    Raises
    ------
    ValueError
        If it has changed.
    """
    given, fitted = estimator.score_method, estimator._fitted.score_method
    if fitted not in (estimator._plan_type.default_scores if given == "auto" else (given,)):
        raise ValueError(
            f"score_method must be {fitted!r}, as in the fit, which estimated the densities of no other score, but it "
            f"is {given!r} now. Call fit again, or set it back."
        )


def _warn_of_useless_anomalies(scores: np.ndarray, values: Tensor, fitted: Fitted) -> None:
    """Warn of anomalies that are all equal, or that look like normal rows."""
    n_rows, middle = len(scores), fitted.labelled.centre if fitted.labelled else 0.0
    if n_rows > 1 and bool((values.nan_to_num(0.0) == values[0].nan_to_num(0.0)).all()):
        warn(
            f"The {n_rows} rows of learn_anomalies are all equal, so they say as much as one: rows near it score "
            "lower, and anomalies of its kind that lie elsewhere do not. Pass different ones.",
            UserWarning,
        )
    if scores.min() >= middle:
        warn(
            f"None of the {n_rows} rows of learn_anomalies scores lower than half of the "
            f"{len(fitted.calibration.row_scores)} normal rows do: their least score is {scores.min():.4g}, and the "
            f"normal rows' median {middle:.4g}. Rows near them will be flagged, normal ones too: check that they are "
            "anomalies.",
            UserWarning,
        )


def _checked_rate(rate: Any) -> float:
    if not isinstance(rate, Real) or isinstance(rate, bool) or not 0.0 < float(rate) <= 0.5:
        raise ValueError(
            f"The 'false_alarm_rate' parameter must be a float in the range (0.0, 0.5]. Got {rate!r} instead."
        )
    return float(rate)


def _shares(deficits: Tensor) -> np.ndarray:
    """What each cell takes off its row's score, as fractions of the row's sum."""
    return (deficits / deficits.sum(dim=1, keepdim=True)).nan_to_num(0.0).numpy()
