"""Known anomalies: what they do to scores, thresholds and p-values, on data whose answer is known."""

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io
import torch
from marks import slow_for_vae
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from skvae import AutoencoderTransformer, VAETransformer
from skvae._densities.neighbors import DistanceRatio
from skvae._model.labelled import Labelled
from skvae._model.thresholds import Calibration

# Short fits: the laws below hold for any model, trained to the end or not.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

MAKERS = {
    "autoencoder": lambda **kw: AutoencoderTransformer(hidden_layer_sizes=(16,), max_iter=5, random_state=0, **kw),
    "vae": lambda **kw: VAETransformer(
        hidden_layer_sizes=(16,), max_iter=5, n_draws=4, latent_density="normal", random_state=0, **kw
    ),
}
SCORES = {
    "autoencoder": ["joint", "residual", "reconstruction", "neighbor"],
    "vae": ["log_likelihood", "elbo", "joint", "neighbor"],
}
CASES = [(kind, score_method) for kind, methods in SCORES.items() for score_method in methods]


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def normal_rows(rng, n_samples):
    """Near a plane."""
    return rng.normal(size=(n_samples, 2)) @ [[1.0, 2.0, 0.0, 1.0], [0.0, 1.0, 3.0, -1.0]] + 0.3 * rng.normal(
        size=(n_samples, 4)
    )


def odd_rows(rng, n_samples):
    """A clump near the middle, off the plane by little."""
    return np.array([0.5, -0.5, 0.5, 1.2]) + 0.1 * rng.normal(size=(n_samples, 4))


def column(values):
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def exactly(message):
    return f"^{re.escape(message)}$"


def what_it_says(model, rows):
    return np.column_stack([model.score_samples(rows), model.decision_function(rows), model.predict(rows)])


# --- The formula ------------------------------------------------------------------------------------------------------


def test_a_deficit_is_stretched_by_the_ratio():
    labelled = Labelled(torch.empty(0, 1), centre=10.0, scale=2.0, unlearned=Calibration(), offset=0.0)
    scores = torch.tensor([10.0, 4.0, 4.0, 16.0, 16.0, 16.0], dtype=torch.float64)
    ratio = torch.tensor([1.0, 1.0, 5.0, 2.0, 4.0, 8.0], dtype=torch.float64).log()
    # Three ranges below the median are 1 + 3, times 5; three above are 1 + 3, over 2, over 4, and over 8 below it.
    expected = [10.0, 4.0, 10.0 - 2.0 * 19.0, 12.0, 10.0, 10.0 - 2.0 * 1.0]
    np.testing.assert_allclose(labelled.moved(scores, ratio), expected, rtol=1e-14)
    np.testing.assert_allclose(labelled.moved(labelled.moved(scores, ratio), -ratio), scores, rtol=1e-14)
    np.testing.assert_allclose(labelled.shifted(3.0).moved(scores + 3.0, ratio), np.add(expected, 3.0), rtol=1e-14)


def test_ratio_of_distances_by_hand():
    ratio = DistanceRatio(column([0.0, 1.0, 10.0]), column([4.0]), torch.tensor(1))
    expected = 1.5 * np.log([(3.0 + 0.3) / 0.3, 0.3 / (3.0 + 0.3), (2.0 + 0.3) / (4.0 + 0.3)])
    np.testing.assert_allclose(ratio.of(column([4.0, 1.0, 8.0])), expected)
    expected = 1.5 * np.log([(1.0 + 0.3) / (4.0 + 0.3), (1.0 + 0.3) / (3.0 + 0.3), (9.0 + 0.3) / (6.0 + 0.3)])
    np.testing.assert_allclose(ratio.of_rows_among_normal(ratio.normal), expected)
    fresh = column([8.0, 10.0])  # the second is a normal row
    expected = 1.5 * np.log([(2.0 + 0.3) / (4.0 + 0.3), (9.0 + 0.3) / (6.0 + 0.3)])
    np.testing.assert_allclose(ratio.of_rows_among_normal(fresh), expected)
    alone = DistanceRatio(column([0.0]), column([4.0]), torch.tensor(1))
    expected = [0.0, 1.5 * np.log((8.0 + 0.3) / (4.0 + 0.3))]
    np.testing.assert_allclose(alone.of_rows_among_normal(column([0.0, 8.0])), expected)
    second = DistanceRatio(column([0.0, 1.0, 10.0]), column([4.0]), torch.tensor(2))
    np.testing.assert_allclose(second.of(column([1.0])), 1.5 * np.log([(1.0 + 0.3) / (3.0 + 0.3)]))


def test_scores_are_those_of_the_formula(seed):
    """From columns, residuals and their covariance, by SciPy's distances."""
    rng = np.random.default_rng(seed)
    X, known, fresh = normal_rows(rng, 300), odd_rows(rng, 5), normal_rows(rng, 50)
    model = MAKERS["autoencoder"]().fit(X)
    before, kept = model.score_samples(fresh), model._fitted.calibration
    middle, spread = np.median(kept.row_scores), np.subtract(*np.quantile(kept.row_scores, [0.75, 0.25]))
    density = model._fitted.members[0].densities["residual"]
    whitener, mean = np.asarray(density.whitener), np.asarray(density.mean)

    def joint(x):
        rows = x * model.scale_ + model.mean_
        residual = (rows - model.reconstruct(rows)) / model.scale_
        return np.hstack([x, (residual - mean) @ whitener])

    normal, odd, new = (
        joint(x) for x in (kept.rows, *((rows - model.mean_) / model.scale_ for rows in (known, fresh)))
    )
    ratio = (cdist(new, normal).min(axis=1) + 0.3) / (cdist(new, odd).min(axis=1) + 0.3)
    deficit = (middle - before) / spread
    moved = np.sign(deficit) * np.log1p(np.abs(deficit)) + 1.5 * np.log(ratio)
    expected = middle - spread * np.sign(moved) * np.expm1(np.abs(moved))
    np.testing.assert_allclose(model.learn_anomalies(known).score_samples(fresh), expected, rtol=1e-6)


# --- What a user gets -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:None of the")
@pytest.mark.parametrize(("kind", "score_method"), CASES)
def test_anomalies_like_the_known_ones_score_lower(kind, score_method, seed):
    rng = np.random.default_rng(seed)
    X, fresh, odd = normal_rows(rng, 400), normal_rows(rng, 200), odd_rows(rng, 60)
    far = normal_rows(rng, 40) + [0.0, 30.0, 0.0, -30.0]  # of another kind
    model = MAKERS[kind](score_method=score_method).fit(X)
    plain, seen = model.score(fresh), model.transform(fresh)

    def auroc(others):
        return roc_auc_score(np.repeat([1, 0], [len(fresh), len(others)]), model.score_samples([*fresh, *others]))

    before, before_far = auroc(odd[5:]), auroc(far)
    assert model.learn_anomalies(odd[:5]) is model
    assert auroc(odd[5:]) >= max(0.98, before)
    assert auroc(far) >= before_far - 0.005
    assert model.score(fresh) == plain
    np.testing.assert_array_equal(model.transform(fresh), seen)
    assert (model.predict(fresh) == -1).mean() < 0.13  # four standard errors of 5 % by 39 rows and 200
    assert model.p_values(odd[5:]).max() < 0.1


def test_an_empty_table_forgets(make, seed):
    rng = np.random.default_rng(seed)
    X, fresh, odd = normal_rows(rng, 200), normal_rows(rng, 30), odd_rows(rng, 6)
    for empty in (X[:0], [], np.empty((0, 4), np.float32)):
        model = make().fit(X)
        before, state = np.column_stack([what_it_says(model, fresh), model.p_values(fresh)]), pickle.dumps(model)
        model.learn_anomalies(odd).learn_anomalies(odd[:2])
        assert not np.array_equal(what_it_says(model, fresh), before[:, :3])
        assert model.learn_anomalies(empty) is model
        np.testing.assert_array_equal(np.column_stack([what_it_says(model, fresh), model.p_values(fresh)]), before)
        assert pickle.dumps(model) == state


def test_a_later_call_takes_the_place_of_an_earlier_one(make, seed):
    rng = np.random.default_rng(seed)
    X, fresh, odd = normal_rows(rng, 200), normal_rows(rng, 30), odd_rows(rng, 6)
    twice, once = make().fit(X), make().fit(X)
    twice.learn_anomalies(10.0 + odd).learn_anomalies(odd)
    np.testing.assert_array_equal(what_it_says(twice, fresh), what_it_says(once.learn_anomalies(odd), fresh))


@slow_for_vae
def test_fit_forgets_and_partial_fit_keeps(make, seed):
    rng = np.random.default_rng(seed)
    X, fresh, odd = normal_rows(rng, 300), normal_rows(rng, 30), odd_rows(rng, 6)
    model = make().fit(X)
    before = what_it_says(model, fresh)
    np.testing.assert_array_equal(what_it_says(model.learn_anomalies(odd).fit(X), fresh), before)
    for chunks in ([X[:100]], [X[:100], X]):  # the stream is shorter than the fit, and as long
        streams = [make().fit(X).learn_anomalies(odd), make().fit(X)]
        for stream in streams:
            for chunk in chunks:
                stream.partial_fit(chunk)
        assert not np.array_equal(what_it_says(streams[0], fresh), what_it_says(streams[1], fresh))
        streams[1].learn_anomalies(odd)
        np.testing.assert_array_equal(what_it_says(streams[0], fresh), what_it_says(streams[1], fresh))
    with pytest.raises(ValueError, match="X has 3 features"):
        streams[0].partial_fit(X[:, :3])
    np.testing.assert_array_equal(what_it_says(streams[0], fresh), what_it_says(streams[1], fresh))


def test_calibrate_places_the_threshold_and_moves_no_score(make, seed):
    rng = np.random.default_rng(seed)
    X, other, fresh, odd = (normal_rows(rng, n) for n in (200, 99, 30, 6))
    odd += [0.0, 3.0, 0.0, 0.0]
    model, plain = make().fit(X).learn_anomalies(odd), make().fit(X).calibrate(other, false_alarm_rate=0.1)
    scores = model.score_samples(fresh)
    model.calibrate(other, false_alarm_rate=0.1)
    np.testing.assert_array_equal(model.score_samples(fresh), scores)
    assert (model.predict(other) == -1).sum() == 10  # 0.1 of 99 + 1
    assert model.false_alarm_rate_ == 0.1
    model.learn_anomalies(X[:0])
    np.testing.assert_array_equal(what_it_says(model, fresh), what_it_says(plain, fresh))
    plain.learn_anomalies(odd)
    assert len(plain._fitted.calibration.scores) == 99
    assert (plain.p_values(fresh) >= 0.01).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_calibrate_again_on_the_same_rows_places_the_same_threshold(make, dtype, seed):
    """No row is near to itself: else all calibration rows, with which anomalies are compared, look more normal."""
    rng = np.random.default_rng(seed)
    X, other, odd = (normal_rows(rng, n).astype(dtype) for n in (200, 99, 6))
    model = make().fit(X).calibrate(other, false_alarm_rate=0.1).learn_anomalies(odd + np.array([0, 3, 0, 0], dtype))
    offset, scores = model.offset_, model._fitted.calibration.scores
    model.calibrate(other, false_alarm_rate=0.1)
    np.testing.assert_allclose(model._fitted.calibration.scores, scores, rtol=1e-3, atol=2e-4)
    assert model.offset_ == pytest.approx(offset, rel=1e-3)
    model.calibrate(np.vstack([other, normal_rows(rng, 99).astype(dtype)]), false_alarm_rate=0.2)
    assert (model.predict(normal_rows(rng, 400).astype(dtype)) == -1).mean() < 0.4


@pytest.mark.parametrize("contamination", [0.05, 0.2])
def test_contamination_flags_as_many_training_rows_as_before(make, contamination, seed):
    rng = np.random.default_rng(seed)
    X = np.vstack([normal_rows(rng, 180), odd_rows(rng, 20)])
    model = make(contamination=contamination).fit(X)
    n_flagged = (model.predict(X) == -1).sum()
    assert (model.learn_anomalies(odd_rows(rng, 5)).predict(X) == -1).sum() == n_flagged == contamination * len(X)
    assert model.contamination_ == contamination


@pytest.mark.slow
def test_p_values_of_fresh_rows_are_valid(seed):
    """P(p <= a) <= a, also where few rows calibrate: each of them counts as a row that is not among the others."""
    rng = np.random.default_rng(seed)
    model, levels, shares = MAKERS["autoencoder"]().fit(normal_rows(rng, 300)), np.array([0.05, 0.1, 0.3]), []
    for _ in range(60):
        model.learn_anomalies(normal_rows(rng, 0)).calibrate(normal_rows(rng, 39))
        p_values = model.learn_anomalies(odd_rows(rng, 5)).p_values(normal_rows(rng, 40))
        shares.append((p_values[:, np.newaxis] <= levels).mean(axis=0))
    shares = np.array(shares)
    mean, error = shares.mean(axis=0), shares.std(axis=0) / np.sqrt(len(shares))
    assert (mean <= levels + 3.0 * error).all()
    assert (mean >= 0.5 * levels).all()


def test_training_rows_that_turn_out_to_be_anomalies_are_no_normal_rows(make, seed):
    rng = np.random.default_rng(seed)
    X, odd = normal_rows(rng, 200), odd_rows(rng, 2)
    model = make(calibration_fraction=0.2).fit(X).calibrate(np.vstack([normal_rows(rng, 60), odd]))
    n_rows = model._fitted.calibration.count
    before = model.score_samples(odd)
    assert (model.learn_anomalies(odd).score_samples(odd) < before).all()
    assert model._fitted.calibration.count == n_rows - 2
    model.learn_anomalies(odd[:1]).calibrate(np.vstack([normal_rows(rng, 60), np.repeat(odd, 30, axis=0)]))
    model.learn_anomalies(odd)
    assert model._fitted.calibration.count == 120 - 2  # what is there thirty times is normal


@pytest.mark.parametrize("way", ["pickle", "skops"])
def test_known_anomalies_are_saved(make, way, seed, tmp_path):
    rng = np.random.default_rng(seed)
    X, fresh = normal_rows(rng, 200), normal_rows(rng, 30)
    model = make().fit(X)
    before = what_it_says(model, fresh)
    model.learn_anomalies(odd_rows(rng, 6))
    if way == "pickle":
        again = pickle.loads(pickle.dumps(model))
    else:
        skops.io.dump(model, tmp_path / "model")
        again = skops.io.load(tmp_path / "model", trusted=skops.io.get_untrusted_types(file=tmp_path / "model"))
    for rows in (fresh, fresh.astype(np.float32)):
        np.testing.assert_array_equal(what_it_says(again, rows), what_it_says(model, rows))
    np.testing.assert_array_equal(again.p_values(fresh), model.p_values(fresh))
    np.testing.assert_array_equal(what_it_says(again.learn_anomalies(X[:0]), fresh), before)
    assert not hasattr(clone(model), "offset_")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("labelled",), None, "labelled must be there where the densities hold anomalies"),
        (("labelled", "scale"), 0.0, "labelled.scale must be positive"),
        (("labelled", "x"), np.empty((0, 4)), "labelled.x must hold some rows and no infinite value"),
        (("labelled", "calibration"), np.array([1.0, 0.0]), "labelled.calibration must be in order"),
        (
            ("calibration_rows", "row_scores"),
            np.zeros(3),
            "calibration_rows.row_scores must have the shape (19), not (3,)",
        ),
    ],
)
def test_altered_anomalies_are_refused(keys, value, message, seed):
    rng = np.random.default_rng(seed)
    state = MAKERS["autoencoder"]().fit(normal_rows(rng, 60)).learn_anomalies(odd_rows(rng, 3)).__getstate__()
    part = state["_fitted"]
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        AutoencoderTransformer().__setstate__(state)


# --- Laws of every score ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:None of the")
@pytest.mark.parametrize(("kind", "score_method"), CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_contributions_sum_and_subsets_score_alike(kind, score_method, dtype, seed):
    rng = np.random.default_rng(seed)
    X = np.column_stack([normal_rows(rng, 200), np.full(200, 7.0)]).astype(dtype)
    rows = np.column_stack([normal_rows(rng, 40), np.full(40, 7.0)]).astype(dtype)
    rows[:4, -1] = 9.0  # departs from what was constant
    rows[4:8, 0] += 20.0
    model, normal = (
        MAKERS[kind](score_method=score_method, n_networks=2).fit(X),
        rows * [1, 1, 1, 1, 0] + [0, 0, 0, 0, 7],
    )
    fall = model.score_samples(normal.astype(dtype)) - model.score_samples(rows)
    model.learn_anomalies(np.column_stack([odd_rows(rng, 5), np.full(5, 7.0)]).astype(dtype))
    scores = model.score_samples(rows)
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(model.score_samples(rows[13:20]), scores[13:20])
    contributions, expected = model.explain(rows[:12])
    np.testing.assert_allclose(contributions.sum(axis=1), scores[:12], rtol=1e-9)
    np.testing.assert_allclose(model.score_samples(normal.astype(dtype)) - scores, fall, rtol=1e-9, atol=1e-9)
    assert expected.shape == (12, 5)


@slow_for_vae
@pytest.mark.parametrize("table", [pd.DataFrame, pl.DataFrame])
def test_mixed_tables_with_missing_values(make, table, seed):
    rng = np.random.default_rng(seed)

    def frame(n_samples, odd):
        z = rng.normal(size=n_samples)
        level = [None if i % 7 == 0 else ("high" if above else "low") for i, above in enumerate((z > 0) ^ odd)]
        amount = np.where(rng.random(n_samples) < 0.1, np.nan, 5.0 + z)
        return table({"level": level, "amount": amount, "size": z + 0.2 * rng.normal(size=n_samples)})

    X, known, fresh, odd = frame(300, False), frame(8, True), frame(100, False), frame(100, True)
    model = make(score_method="joint").fit(X)
    model.learn_anomalies(known)
    scores = np.concatenate([model.score_samples(part) for part in (fresh, odd)])
    assert np.isfinite(scores).all()
    assert roc_auc_score(np.repeat([1, 0], 100), scores) > 0.75
    contributions, _ = model.explain(odd[:3])
    np.testing.assert_allclose(np.asarray(contributions).sum(axis=1), scores[100:103], rtol=1e-9)
    assert model.learn_anomalies(known[:0])._fitted.labelled is None
    with pytest.raises(ValueError, match="feature names"):
        model.learn_anomalies(known[:0][["amount", "size"]])


def test_the_number_of_known_anomalies_is_bounded(seed):
    rng = np.random.default_rng(seed)
    model = MAKERS["autoencoder"]().fit(normal_rows(rng, 100)).learn_anomalies(odd_rows(rng, 1500))
    assert model._fitted.labelled.x.shape == (1000, 4)


def test_of_many_calibration_rows_a_bounded_number_is_kept(seed):
    rng = np.random.default_rng(seed)
    model = MAKERS["autoencoder"]().fit(normal_rows(rng, 100)).calibrate(normal_rows(rng, 3000))
    assert model._fitted.calibration.rows.shape == (2000, 4)
    assert model.p_values(normal_rows(rng, 9)).min() >= 1 / 3001
    assert model.learn_anomalies(odd_rows(rng, 9)).p_values(odd_rows(rng, 9)).min() >= 1 / 2001


@pytest.mark.filterwarnings("ignore:None of the", "ignore:All 1 rows")
@pytest.mark.parametrize("n_samples", [1, 2, 5])
def test_tiny_tables(make, n_samples, seed):
    rng = np.random.default_rng(seed)
    model = make().fit(normal_rows(rng, n_samples)).learn_anomalies(odd_rows(rng, 1))
    assert np.isfinite(model.score_samples(normal_rows(rng, 9))).all()


def test_far_rows_have_finite_scores(make, seed):
    rng = np.random.default_rng(seed)
    model = make().fit(normal_rows(rng, 100)).learn_anomalies(odd_rows(rng, 4))
    for dtype, far in ((np.float64, 1e300), (np.float32, 1e38)):
        scores = model.score_samples(np.array([[far, 0.0, 0.0, 0.0], [1e9, -1e9, 1e9, 1e9]], dtype))
        assert np.isfinite(scores).all()
        assert (scores < model.offset_).all()
    model.learn_anomalies([[1e300, 0.0, 0.0, 0.0], [1e9, 0.0, 0.0, 0.0]])
    assert np.isfinite(model.score_samples(normal_rows(rng, 9))).all()


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_unfitted(make):
    for X in (np.zeros((2, 4)), np.zeros((0, 4))):
        with pytest.raises(NotFittedError):
            make().learn_anomalies(X)


def test_other_columns(make, seed):
    rng = np.random.default_rng(seed)
    model = make().fit(normal_rows(rng, 60))
    for n_rows in (0, 2):
        with pytest.raises(ValueError, match="X has 3 features, but .* is expecting 4 features as input"):
            model.learn_anomalies(np.zeros((n_rows, 3)))
    with pytest.raises(ValueError, match="column 'x1' holds inf in row 0"):
        model.learn_anomalies(np.array([[0.0, np.inf, 0.0, 0.0]]))


def test_equal_rows_are_told(seed):
    rng = np.random.default_rng(seed)
    model, far = MAKERS["autoencoder"]().fit(normal_rows(rng, 60)), [[9.0, -9.0, 9.0, 9.0]]
    said = exactly(
        "The 3 rows of learn_anomalies are all equal, so they say as much as one: rows near it score lower, and "
        "anomalies of its kind that lie elsewhere do not. Pass different ones."
    )
    with pytest.warns(UserWarning, match=said):
        model.learn_anomalies(3 * far)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn_anomalies(far)


def test_rows_that_look_normal_are_told(seed):
    rng = np.random.default_rng(seed)
    X, fresh = normal_rows(rng, 400), normal_rows(rng, 100)
    model = MAKERS["autoencoder"]().fit(X)
    scores, kept = model.score_samples(fresh), model._fitted.calibration.row_scores
    said = exactly(
        f"None of the 3 rows of learn_anomalies scores lower than half of the 39 normal rows do: their least score is "
        f"{np.sort(scores)[-3]:.4g}, and the normal rows' median {np.median(kept):.4g}. Rows near them will be "
        "flagged, normal ones too: check that they are anomalies."
    )
    with pytest.warns(UserWarning, match=said):
        model.learn_anomalies(fresh[scores.argsort()[-3:]])


def test_all_normal_rows_are_called_anomalies(seed):
    rng = np.random.default_rng(seed)
    X = normal_rows(rng, 60)
    model = MAKERS["autoencoder"]().fit(X)
    said = exactly(
        "All 19 rows that placed the threshold are among the anomalies. They count as normal rows all the same, so "
        "that next to nothing is learned. Pass fewer anomalies, or call calibrate(X_normal) first."
    )
    with pytest.warns(UserWarning, match=said):
        model.learn_anomalies(X)
    assert np.isfinite(model.score_samples(X)).all()


def test_a_model_of_an_earlier_version_calibrates_first(seed):
    rng = np.random.default_rng(seed)
    X = normal_rows(rng, 60)
    state = MAKERS["autoencoder"]().fit(X).__getstate__()
    del state["_fitted"]["calibration_rows"], state["_fitted"]["labelled"]
    model = AutoencoderTransformer()
    model.__setstate__(state)
    said = (
        "learn_anomalies needs normal rows, and this model was saved by a version that kept none. Call "
        "calibrate(X_normal) first, or fit again."
    )
    with pytest.raises(ValueError, match=exactly(said)):
        model.learn_anomalies(odd_rows(rng, 3))
    model.calibrate(normal_rows(rng, 40)).learn_anomalies(odd_rows(rng, 3))
