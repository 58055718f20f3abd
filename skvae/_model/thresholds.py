"""What scores of known rows say of others: thresholds and p-values."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["LOWEST_SCORE", "Calibration", "calibrate_threshold", "moved_threshold", "training_threshold"]


# The score of a row so far off that its arithmetic overflows. Sums of many stay finite, and products of two.
LOWEST_SCORE = -1e150
# Of the gap between two scores: beyond the rounding of one of them, and next to no probability.
_WAY_TO_NEXT = 1e-6
# Copies of a row score alike but for rounding, which depends on the precision that they come in, and on few rows on
# densities that lack a fold of them. A share of the score, since scores may be in the squared units of the columns.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Calibration:
    """What is known of the threshold: scores of rows that did not train, and the rate that they allow.

    Attributes
    ----------
    scores : ndarray of shape (n_calibration,)
        In ascending order; none where no row was held out.
    attained_rate : float
        Expected fraction of fresh normal rows below the threshold.
    false_alarm_rate : float, or None
        The fraction that was asked for.
    contamination : float, or None
        The fraction of the training rows that was asked for instead; None for both where it is not known.
    n_draws : int, or None
        Posterior draws behind the scores that placed the threshold; None where that is not known.
    departure_cost : float
        How much a departure by a factor of e lowers a score, in its units: as much as the most normal row lies above
        the threshold. It stays with the fit, so that scores do.
    rows : ndarray of shape (n_kept, n_features)
        Some of the rows that placed the threshold, scaled, in float32; what is learned of anomalies is held against
        them. None in older files.
    row_scores : ndarray of shape (n_kept,)
        Theirs, whatever is known of anomalies, and without what departures take off.
    row_departures : ndarray of shape (n_kept,)
        What those take off.
    """

    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    attained_rate: float = 0.0
    false_alarm_rate: float | None = None
    contamination: float | None = None
    n_draws: int | None = None
    departure_cost: float = 0.0
    rows: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))
    row_scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    row_departures: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def count(self) -> int:
        """Number of rows that did not train."""
        return len(self.scores)

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        r"""Split-conformal p-values: how usual a score is among the calibration rows.

        .. math:: p = \frac{1 + \#\{i : s_i \le s\}}{n + 1}

        Parameters
        ----------
        scores : ndarray of shape (n_samples,)

        Returns
        -------
        p_values : ndarray of shape (n_samples,)
            In (0, 1]; for a fresh normal row P(p <= a) <= a. Where some calibration rows score alike, a score counts
            as higher by what rounding may have taken off.

        References
        ----------
        Bates, Candes, Lei, Romano & Sesia (2023), https://arxiv.org/abs/2104.08279, equation 3.
        """
        if _hold_copies(self.scores):
            scores = scores + _rounding(scores)
        return (1 + np.searchsorted(self.scores, scores, side="right")) / (len(self.scores) + 1)


def _hold_copies(ordered: np.ndarray) -> bool:
    return bool((np.diff(ordered) == 0.0).any())


def _rounding(scores: Any) -> Any:
    return _ROUNDING * np.abs(np.maximum(scores, LOWEST_SCORE))


def _below_copies(threshold: float, scores: np.ndarray) -> float:
    """The threshold; where it is the score of several rows, so far below that no rounding puts copies of them there."""
    is_shared = np.count_nonzero(scores == threshold) > 1
    return float(threshold - _rounding(threshold) if is_shared else threshold)


def training_threshold(scores: np.ndarray, contamination: float, weight: np.ndarray | None = None) -> float:
    """Place a threshold below which a given share of the training rows lies.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)
    contamination : float
    weight : ndarray of shape (n_samples,), or None
        Integer weights count a row as often as they say.

    Returns
    -------
    threshold : float
        Midway between neighbours where the share is a whole number of rows, so that exactly that share is below. A
        share of less than one row is one row, unless others score as low: some row is said to be anomalous. Rows that
        share the score at which it would lie are not below.
    """
    if weight is not None and (weight == np.floor(weight)).all():
        scores, weight = np.repeat(scores, weight.astype(np.int64)), None
    if weight is None:
        n_below = max(contamination * len(scores), min(1, len(scores) - 1))
        n_whole = round(n_below)
        if n_whole and abs(n_below - n_whole) < 1e-9 * len(scores):  # 0.29 * 100 is 28.999999999999996
            ends = np.partition(scores, (n_whole - 1, n_whole))[n_whole - 1 : n_whole + 1]
            return _below_copies(float(ends.mean()), scores)
    return _below_copies(np.quantile(scores, contamination, method="inverted_cdf", weights=weight), scores)


def calibrate_threshold(scores: np.ndarray, false_alarm_rate: float) -> tuple[float, float]:
    """Place a threshold below which a fresh normal row falls with at most a given probability.

    Parameters
    ----------
    scores : ndarray of shape (n_calibration,)
        Scores of exchangeable rows that did not train.
    false_alarm_rate : float

    Returns
    -------
    threshold : float
        The k-th smallest score, k = floor(rate (n + 1)); the smallest one if n is too small for the rate. Where some
        scores are equal it is less what rounding may take off the score of a copy of that row. Where no two
        scores are equal it lies a millionth of the way to the next one, so that the k-th row itself lies below: a fresh
        row hits that gap with probability 0, and a table whose rows place the threshold has a flagged one.
    attained_rate : float
        Expected share of fresh normal rows below the threshold if scores have no ties, k / (n + 1).
    """
    ordered = np.sort(scores)
    k = max(1, math.floor(false_alarm_rate * (len(ordered) + 1) + 1e-9))
    threshold, next_score = ordered[k - 1], ordered[min(k, len(ordered) - 1)]
    if _hold_copies(ordered):
        threshold -= _rounding(threshold)
    else:
        just_above = min(np.nextafter(threshold, np.inf), next_score)
        threshold = max(just_above, threshold + _WAY_TO_NEXT * (next_score - threshold))
    return float(threshold), k / (len(ordered) + 1)


def moved_threshold(
    calibration: Calibration, before: np.ndarray, scores: np.ndarray, offset: float
) -> tuple[float, float]:
    """Place a threshold anew by the rows that a calibration keeps, whose scores have changed.

    Parameters
    ----------
    calibration : Calibration
        Of the earlier threshold.
    before, scores : ndarray of shape (n_kept,)
        Scores of the rows then and now.
    offset : float
        The earlier threshold.

    Returns
    -------
    threshold : float
        As `calibrate_threshold` places it for the false-alarm rate that was asked for. Without one as many rows are
        below it as were below the earlier threshold.
    attained_rate : float
    """
    if calibration.contamination is None and calibration.false_alarm_rate is not None:
        return calibrate_threshold(scores, calibration.false_alarm_rate)
    n_below, ordered = int((before < offset).sum()), np.sort(scores)
    ends = ordered[max(0, n_below - 1) : n_below + 1] if n_below else ordered[:1]
    return _below_copies(float(ends.mean()), ordered), calibration.attained_rate
