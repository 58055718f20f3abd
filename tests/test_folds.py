"""Cross-fitting: thresholds and p-values from networks that have not seen the rows, and a network that has seen all."""

import numpy as np
import pandas as pd
import pytest
from marks import slow_for_vae
from rows import correlated
from sklearn.utils.estimator_checks import check_outliers_fit_predict, check_outliers_train

from skvae import AutoencoderTransformer, VAETransformer
from skvae._model.folds import Fold, expected_scores
from skvae._model.sizes import learns_held_out, n_cross_fitted, n_density_folds, n_folds

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def cross_fitted(make, **parameters):
    return make(calibration_fraction="cross_fit", **parameters)


def test_expected_scores_by_hand():
    """Own score 5 and 7; the folds' models give 1 and 3 to the first row, 2 and 6 to the second, one row to each."""
    folds = (Fold(None, np.array([0])), Fold(None, np.array([1])))
    scores = expected_scores(np.array([5.0, 7.0]), np.array([[1.0, 2.0], [3.0, 6.0]]), folds)
    np.testing.assert_allclose(scores, [5.0 + 1.0 - 2.0, 7.0 + 6.0 - 4.0])


@pytest.mark.slow
def test_expected_score_of_a_mean_is_near_that_of_left_out_rows(rng):
    """The squared distance from the mean of n numbers: (1 + 1/n) variance where the number is another one.

    Plain 5-fold cross-validation gives 1 + 1/(0.8 n), too much by 1/(4 n); corrected, the error is of a smaller order.
    """
    n_rows, plain, corrected = 10, [], []
    for _ in range(4000):
        x = rng.standard_normal(n_rows)
        folds = tuple(Fold(None, np.arange(first, n_rows, 5)) for first in range(5))
        of_folds = np.stack([(x - np.delete(x, fold.places).mean()) ** 2 for fold in folds])
        plain.append(np.mean([of_folds[k, fold.places].mean() for k, fold in enumerate(folds)]))
        corrected.append(expected_scores((x - x.mean()) ** 2, of_folds, folds).mean())
    assert np.mean(plain) == pytest.approx(1 + 1 / 8, abs=0.03)  # standard error 0.008
    assert np.mean(corrected) == pytest.approx(1 + 1 / 10, abs=0.03)
    assert np.mean(corrected) < np.mean(plain) - 0.01


@pytest.mark.parametrize(
    ("n_samples", "rate", "n_rows", "count"),
    [(1, 0.05, 0, 0), (2, 0.05, 2, 2), (7, 0.05, 7, 7), (199, 0.05, 199, 10), (200, 0.05, 200, 5),
     (2000, 0.05, 2000, 5), (10_000, 0.05, 2000, 5), (10_000, 0.0002, 4999, 5)],
)  # fmt: skip
def test_numbers_of_rows_and_folds_by_hand(n_samples, rate, n_rows, count):
    assert n_cross_fitted(n_samples, rate) == n_rows
    assert n_folds(n_rows) == count


@pytest.mark.parametrize("n_rows", [2, 3, 11, pytest.param(60, marks=pytest.mark.slow)])
def test_least_p_value_is_that_of_all_rows(make, n_rows, rng):
    detector = cross_fitted(make).fit(correlated(rng, n_rows))
    far = np.full((1, 4), 1e8)
    assert detector.p_values(far) == pytest.approx([1 / (n_rows + 1)])


def test_network_that_scores_has_seen_all_rows(make, rng):
    X, fresh = correlated(rng, 60), correlated(rng, 20)
    all_rows = make(calibration_fraction=0.0).fit(X)
    detector = cross_fitted(make).fit(X)
    np.testing.assert_array_equal(detector.score_samples(fresh), all_rows.score_samples(fresh))
    np.testing.assert_array_equal(detector.transform(fresh), all_rows.transform(fresh))
    assert detector.offset_ < all_rows.offset_  # which was placed by rows that had trained


def test_row_that_is_far_off_does_not_vouch_for_itself(make, rng):
    """A network that has learned the row would call it usual; the folds' one makes its score the lowest by far."""
    X = np.concatenate([correlated(rng, 60), np.full((1, 4), 40.0)])
    scores = cross_fitted(make).fit(X)._fitted.calibration.scores
    assert scores[0] < scores[1] - 3.0 * (scores[-1] - scores[1])


def test_row_that_alone_varies_in_a_column_departs_from_the_others(rng):
    """The model that has not seen it knows no constant there, to which any value would be the same."""
    X = rng.standard_normal((100, 3))
    X[:, 2] = 0.0
    X[7, 2] = 1.0
    scores = cross_fitted(AutoencoderTransformer, max_iter=4).fit(X)._fitted.calibration.scores
    assert scores[0] < scores[1] - 9.0 * (scores[-1] - scores[1])  # measured: 400 times


@pytest.mark.slow
def test_same_rows_same_threshold(make, rng):
    """In any order, and with integer weights in place of repetitions."""
    X, weight = correlated(rng, 50), rng.integers(0, 4, 50)
    detector = cross_fitted(make).fit(X)
    assert cross_fitted(make).fit(X[::-1]).offset_ == detector.offset_
    weighted = cross_fitted(make).fit(X, sample_weight=weight)
    assert cross_fitted(make).fit(np.repeat(X, weight, axis=0)).offset_ == weighted.offset_


@pytest.mark.parametrize(
    "check", [check_outliers_train, pytest.param(check_outliers_fit_predict, marks=pytest.mark.slow)]
)
@slow_for_vae
def test_sklearn_checks_of_outlier_detectors(make, check):
    """They ask for a flagged row among those that trained."""
    detector = cross_fitted(make)
    check(type(detector).__name__, detector)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@slow_for_vae
def test_all_equal_rows_and_one_column(make, dtype, rng):
    equal = cross_fitted(make).fit(np.ones((30, 3), dtype=dtype))
    assert (equal.predict(np.ones((2, 3), dtype=dtype)) == 1).all()
    assert (equal.predict(np.full((2, 3), 5.0, dtype=dtype)) == -1).all()
    one = cross_fitted(make).fit(rng.standard_normal((30, 1)).astype(dtype))
    assert one._fitted.calibration.count == 30
    assert np.isfinite(one.offset_)


def test_one_row_has_no_folds(make, rng):
    detector = cross_fitted(make).fit(rng.standard_normal((1, 3)))
    with pytest.raises(ValueError, match="p_values needs normal rows") as caught:
        detector.p_values(np.zeros((1, 3)))
    assert str(caught.value) == (
        "p_values needs normal rows that did not train, and this fit kept none. Fit with contamination='auto' on more "
        "rows, or call calibrate(X_normal) first."
    )


@slow_for_vae
def test_level_value_or_gap_that_is_missing_in_a_fold(make, rng):
    """Each is in one row: a level, a number among gaps, a gap among numbers, a one among zeros."""
    frame = pd.DataFrame(rng.standard_normal((40, 4)), columns=["lonely", "gap", "indicator", "plain"])
    frame["level"] = ["usual"] * 39 + ["rare"]
    frame.loc[1:, "lonely"] = np.nan
    frame.loc[0, "gap"] = np.nan
    frame["indicator"] = np.eye(40)[3]
    detector = cross_fitted(make).fit(frame)
    assert detector._fitted.calibration.count == 40
    assert np.isfinite(detector._fitted.calibration.scores).all()
    assert np.isfinite(detector.score_samples(frame)).all()


def test_weights_that_leave_few_rows(make, rng):
    """Rows without weight are in no fold; two rows with some are two folds, one has none."""
    X, weight = correlated(rng, 40), np.zeros(40)
    weight[[3, 8]] = 1.5, 0.2
    assert cross_fitted(make).fit(X, sample_weight=weight)._fitted.calibration.count == 2
    weight[8] = 0.0
    assert cross_fitted(make).fit(X, sample_weight=weight)._fitted.calibration.count == 0


def test_part_by_part_a_share_of_the_rows_is_set_aside(make, rng):
    """A chunk is no table of its own: as with a fraction of 0.1."""
    X = correlated(rng, 60)
    detector, usual = cross_fitted(make).partial_fit(X), make(calibration_fraction=0.1).partial_fit(X)
    assert detector.offset_ == usual.offset_
    assert detector._fitted.calibration.count == 19  # what a rate of 5 % needs


def test_time_is_shared_by_the_folds(make, rng):
    """A hundredth of a second is too little for an epoch of each; each gets one all the same."""
    detector = cross_fitted(make, max_time=0.01, max_iter=10_000).fit(correlated(rng, 60))
    assert detector.n_iter_ < 10_000
    assert detector._fitted.calibration.count == 60


def test_columns_mapped_to_normal_scores(rng):
    """Each fold has its own maps: a row that it has not seen may lie beyond them."""
    X = np.exp(correlated(rng, 60))
    detector = VAETransformer(
        2, hidden_layer_sizes=(8,), max_iter=3, marginals="auto", latent_density=1, calibration_fraction="cross_fit",
        random_state=0,
    ).fit(X)  # fmt: skip
    assert np.isfinite(detector._fitted.calibration.scores).all()
    assert detector._fitted.calibration.count == 60


def test_contamination_places_the_threshold_alone(make, rng):
    X = correlated(rng, 60)
    detector = cross_fitted(make, contamination=0.1).fit(X)
    assert detector.offset_ == make(contamination=0.1).fit(X).offset_
    assert (detector.predict(X) == -1).sum() == 6


@pytest.mark.slow
def test_training_that_goes_on_places_its_threshold_anew(make, rng):
    X = correlated(rng, 60)
    detector = cross_fitted(make, warm_start=True).fit(X)
    before = detector.offset_
    detector.fit(X)
    assert detector.offset_ != before
    assert detector._fitted.calibration.count == 60


@pytest.mark.slow
def test_folds_stop_early_and_have_several_networks(make, rng):
    X = correlated(rng, 60)
    detector = cross_fitted(make, early_stopping=True, n_networks=2, score_method="residual").fit(X)
    assert detector._fitted.calibration.count == 60
    assert len(detector._fitted.members) == 2


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [3, np.inf])
def test_share_of_fresh_rows_flagged(degrees, seed):
    """5 % on average over fits to 200 rows, and the share varies less than where 19 or 39 rows place the threshold.

    On k rows the share has the beta distribution of an order statistic, for 39 of standard deviation 0.034.
    """
    rng, flagged = np.random.default_rng(seed), []
    loadings = rng.standard_normal((3, 8))
    for trial in range(24):
        X = rng.standard_normal((1200, 3)) @ loadings + 0.5 * rng.standard_normal((1200, 8))
        if degrees < np.inf:
            X = X / np.sqrt(rng.chisquare(degrees, size=(1200, 1)) / degrees)
        detector = AutoencoderTransformer(
            hidden_layer_sizes=(16,), calibration_fraction="cross_fit", max_iter=60, random_state=trial
        )
        flagged.append((detector.fit(X[:200]).predict(X[200:]) == -1).mean())
    assert 0.035 < np.mean(flagged) < 0.065  # standard error 0.004
    assert np.std(flagged) < 0.6 * 0.034


@pytest.mark.slow
@pytest.mark.parametrize("fraction", ["auto", "cross_fit"])
def test_share_of_fresh_rows_flagged_by_bootstrap_samples(fraction):
    """Copies among the rows that train would make those normal that place the threshold: three times as many alarms."""
    shares = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        loadings = rng.normal(size=(3, 8))
        X, fresh = (rng.normal(size=(n, 3)) @ loadings + 0.3 * rng.normal(size=(n, 8)) for n in (300, 2000))
        model = AutoencoderTransformer(random_state=seed, calibration_fraction=fraction)
        shares.append(np.mean(model.fit(X[rng.integers(0, 300, 300)]).predict(fresh) == -1))
    assert np.mean(shares) < 0.05 + 2.5 * np.std(shares, ddof=1) / 8**0.5


def test_networks_that_set_rows_aside_are_those_of_a_fraction(make, rng):
    """On small tables only the densities of the score learn from these rows, and only by default."""
    X, fresh = correlated(rng, 60), correlated(rng, 20)
    auto, given = make().fit(X), make(calibration_fraction=0.1).fit(X)
    assert auto._fitted.calibration.count == given._fitted.calibration.count == 19
    np.testing.assert_array_equal(auto.transform(fresh), given.transform(fresh))
    assert not np.array_equal(auto.score_samples(fresh), given.score_samples(fresh))


def test_density_of_the_residuals_is_that_of_all_rows(rng):
    """Its mean is the mean residual of the rows that trained and of those that were set aside."""
    X = correlated(rng, 60)
    detector = AutoencoderTransformer(2, hidden_layer_sizes=(8,), max_iter=3, random_state=0).fit(X)
    scaled = (X - detector.mean_) / detector.scale_
    residual = scaled - (detector.reconstruct(X) - detector.mean_) / detector.scale_
    mean = detector._fitted.members[0].densities["residual"].mean
    np.testing.assert_allclose(mean, residual.mean(axis=0), atol=1e-5)


# The others' mixtures come from the same folds as those of "joint".
@pytest.mark.parametrize(
    "score_method",
    ["joint", "neighbor", "residual", *(pytest.param(name, marks=pytest.mark.slow) for name in ("local", "robust"))],
)
@slow_for_vae
def test_share_of_fresh_rows_flagged_on_small_tables(make, score_method, seed):
    """Densities that have learned from the rows which place the threshold would flag 18 to 100 % of fresh ones."""
    rng, flagged = np.random.default_rng(seed), []
    loadings = rng.standard_normal((3, 12))
    for trial in range(12):
        X = rng.standard_normal((560, 3)) @ loadings + 0.5 * rng.standard_normal((560, 12))
        detector = make(score_method=score_method, random_state=trial).fit(X[:60])
        flagged.append((detector.predict(X[60:]) == -1).mean())
    assert np.mean(flagged) < 0.10  # 0.05 with a standard error of 0.014


def test_densities_of_weighted_and_of_larger_tables_learn_from_rows_that_trained(make, rng):
    X, fresh = correlated(rng, 220), correlated(rng, 20)
    for n_rows, weight in ((200, None), (60, rng.uniform(0.5, 2.0, 60))):
        auto, given = (
            make(calibration_fraction=fraction).fit(X[:n_rows], sample_weight=weight) for fraction in ("auto", 0.1)
        )
        np.testing.assert_array_equal(auto.score_samples(fresh), given.score_samples(fresh))
        assert auto.offset_ == given.offset_


def test_gaps_and_levels_in_rows_that_are_set_aside(make, rng):
    frame = pd.DataFrame(rng.standard_normal((60, 3)), columns=["a", "b", "c"]).mask(rng.random((60, 3)) < 0.2)
    frame["level"] = rng.choice(["x", "y", None], 60)
    detector = make().fit(frame)
    assert np.isfinite(detector._fitted.calibration.scores).all()
    assert np.isfinite(detector.score_samples(frame)).all()


def test_value_beyond_single_precision_in_a_row_that_is_set_aside(make, rng):
    """Of these rows a fifth is set aside, and nobody says which; the threshold is the second lowest of their scores."""
    X = correlated(rng, 45)
    for row in range(0, 45, 3):
        spoilt = X.copy()
        spoilt[row, 0] = 1e100
        assert np.isfinite(make(false_alarm_rate=0.2).fit(spoilt).score_samples(X)).all()


@pytest.mark.parametrize(("n_samples", "n_held_out", "count"), [(3, 1, 1), (60, 19, 10), (100, 19, 5), (199, 39, 5)])
def test_number_of_density_folds_by_hand(n_samples, n_held_out, count):
    assert n_density_folds(n_samples, n_held_out) == count
    assert learns_held_out(n_samples)
    assert not learns_held_out(200)
