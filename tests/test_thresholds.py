"""Thresholds and p-values by hand, and the false alarms that they promise."""

import numpy as np
import pytest
from scipy.stats import binom

from skvae._model.thresholds import Calibration, calibrate_threshold, training_threshold


@pytest.mark.parametrize(
    ("scores", "rate", "threshold", "attained"),
    [
        ([3.0], 0.05, 3.0, 1 / 2),  # too few rows: the smallest, and the rate that this gives
        ([5.0, 1.0, 4.0, 2.0, 3.0], 0.1, 1.000001, 1 / 6),
        ([5.0, 1.0, 4.0, 2.0, 3.0], 0.5, 3.000001, 3 / 6),
        (range(1, 20), 0.05, 1.000001, 1 / 20),  # the least number of rows for 5 %
        (range(1, 19), 0.05, 1.000001, 1 / 19),
        (range(1, 100), 0.05, 5.000001, 5 / 100),
        (range(1, 10), 0.3, 3.000001, 3 / 10),  # 0.3 * 10 rounds to just below 3
        ([2.0, 2.0, 2.0], 0.5, 2.0 - 2e-4, 2 / 4),
        ([1.0, 2.0, 3.0, 3.0], 0.2, 1.0 - 1e-4, 1 / 5),  # equal scores anywhere: a fresh one may equal the threshold's
        ([1.0, np.nextafter(1.0, 2.0), 2.0], 0.25, np.nextafter(1.0, 2.0), 1 / 4),  # nothing fits between
    ],
)
def test_calibrated_threshold_by_hand(scores, rate, threshold, attained):
    """The k-th smallest of n scores, k = floor(rate (n + 1)), at least 1; without ties a millionth of a gap above."""
    found = calibrate_threshold(np.asarray(scores, dtype=float), rate)
    assert found == (pytest.approx(threshold, abs=1e-12), pytest.approx(attained))
    ordered = sorted(scores)
    k = max(1, round(attained * (len(ordered) + 1)))
    ties = len(set(ordered)) < len(ordered)
    assert (np.asarray(ordered) < found[0]).sum() == (0 if ties or k == len(ordered) else k)


def test_p_values_by_hand():
    """(1 + number of scores at most as high) / (1 + number of scores); copies score alike but for rounding."""
    calibration = Calibration(np.array([1.0, 2.0, 2.0, 3.0]))
    p_values = calibration.p_values(np.array([0.0, 1.0, 1.5, 2.0 - 1e-5, 2.0, 3.0, 9.0, -np.inf]))
    np.testing.assert_allclose(p_values, [1 / 5, 2 / 5, 2 / 5, 4 / 5, 4 / 5, 1.0, 1.0, 1 / 5])


def test_a_training_threshold_lies_below_the_copies_that_share_it():
    """Others that score lower stay below it."""
    scores = np.repeat([-9.0, 5.0], [3, 97])
    assert -9.0 < training_threshold(scores, 0.1) < 5.0 - 1e-5
    assert training_threshold(np.arange(100.0), 0.1) == 9.5


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("n_calibration", [19, 50, 99])
def test_threshold_and_p_values_tell_the_same(rate, n_calibration, rng):
    """A fresh row lies below the threshold exactly if its p-value is at most the rate; with and without ties.

    Where no two scores are equal, the k-th of them lies below, too; its own p-value counts it twice.
    """
    for decimals in (16, 1):
        scores = np.sort(np.round(rng.standard_normal(n_calibration), decimals))
        threshold, _ = calibrate_threshold(rng.permutation(scores), rate)
        fresh = np.concatenate([np.round(rng.standard_normal(200), decimals), scores if decimals == 1 else []])
        if len(set(scores)) == n_calibration:
            fresh = np.setdiff1d(fresh, scores)
            assert (scores < threshold).sum() == int(rate * (n_calibration + 1) + 1e-9)
        flagged = fresh < threshold
        np.testing.assert_array_equal(flagged, Calibration(scores).p_values(fresh) <= rate + 1e-9)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("decimals", [16, 0])
def test_false_alarms_of_fresh_rows(rate, decimals, rng):
    """4,000 calibrations on 120 rows: flagged fresh rows are at most as many as a binomial with the rate allows.

    Without ties the share is what the function says. One in a million repetitions may miss the bounds.
    """
    scores = np.round(3.0 * rng.standard_normal((4000, 121)), decimals)
    results = [calibrate_threshold(row[:-1], rate) for row in scores]
    flagged = sum(row[-1] < threshold for row, (threshold, _) in zip(scores, results, strict=True))
    attained = results[0][1]
    assert attained <= rate
    assert flagged <= binom.isf(1e-6, 4000, rate)
    p_values = np.array([Calibration(np.sort(row[:-1])).p_values(row[-1:])[0] for row in scores])
    assert (p_values <= rate).sum() == flagged
    if decimals == 16:
        assert flagged >= binom.isf(1 - 1e-6, 4000, attained)


@pytest.mark.parametrize(
    ("scores", "contamination", "weight", "below"),
    [
        ([4.0, 1.0, 3.0, 2.0], 0.25, None, 1),
        ([4.0, 1.0, 3.0, 2.0], 0.5, None, 2),
        ([4.0, 1.0, 3.0, 2.0], 0.5, [3.0, 1.0, 1.0, 1.0], 3),  # 4 thrice: half of six rows
        ([4.0, 1.0, 3.0, 2.0], 0.25, [1.0, 0.0, 1.0, 2.0], 0),  # 2 twice: equal rows are not to be parted
        ([4.0, 1.0, 3.0, 2.0], 0.01, None, 1),  # some row is said to be anomalous
        ([4.0, 1.0, 3.0, 1.0], 0.01, None, 0),
        ([7.0], 0.5, None, 0),
    ],
)
def test_training_threshold_by_hand(scores, contamination, weight, below):
    weight = None if weight is None else np.array(weight)
    threshold = training_threshold(np.array(scores), contamination, weight)
    counted = np.ones(len(scores)) if weight is None else weight
    assert counted[np.array(scores) < threshold].sum() == below


@pytest.mark.parametrize("n_samples", [1, 2, 7, 10, 100, 999])
@pytest.mark.parametrize("contamination", [0.001, 0.1, 1 / 3, 0.5])
def test_training_threshold_flags_the_share(n_samples, contamination, rng):
    """As near to it as whole rows allow, and never more than it and one row of at least two."""
    scores = rng.standard_normal(n_samples)
    flagged = (scores < training_threshold(scores, contamination)).sum()
    assert contamination * n_samples - 1 < flagged + 1e-9
    assert flagged <= max(contamination * n_samples + 1e-9, 1 if n_samples > 1 else 0)


def test_training_threshold_flags_whole_rows_that_floats_miss():
    """0.29 of 100 rows are 29, though 0.29 * 100 is a little less in floats."""
    scores = np.random.default_rng(0).permutation(100.0 * np.arange(1000))
    for n_samples, n_anomalies in ((100, 29), (200, 57), (1000, 285)):
        some = scores[:n_samples]
        assert (some < training_threshold(some, n_anomalies / n_samples)).sum() == n_anomalies


def test_training_threshold_with_weights(rng):
    """Integer weights are repetitions; others flag at most their share of the mass, but for the row on the border."""
    scores, counts = rng.standard_normal(50), rng.integers(0, 4, 50)
    repeated = training_threshold(np.repeat(scores, counts), 0.2)
    assert training_threshold(scores, 0.2, counts.astype(float)) == repeated
    weight = rng.exponential(size=50)
    threshold = training_threshold(scores, 0.2, weight)
    assert weight[scores < threshold].sum() <= 0.2 * weight.sum() <= weight[scores <= threshold].sum()
