"""Columns against exact sums and NumPy's means and standard deviations, and the order and the chunks of rows."""

import math

import numpy as np
import pytest
import torch

from skvae._data.columns import Columns, Schema, row_chunks
from skvae._data.sample import Sample, canonical_rows

CPU = torch.device("cpu")
DTYPES = {"float64": torch.float64, "float32": torch.float32}
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def fitted(X, weight=None, *, standardize=True, rows=None, dtype=torch.float64, whole=None):
    X = np.asarray(X, dtype=np.float64)
    names = tuple(f"c{j}" for j in range(X.shape[1]))
    rows = torch.arange(len(X)) if rows is None else torch.as_tensor(rows)
    weight = None if weight is None else torch.as_tensor(weight)
    return Columns.fit(torch.as_tensor(X).to(dtype), rows, Schema(names, standardize), weight, whole)


def encoded(columns, X, dtype=torch.float64):
    return columns.scaler(dtype, CPU)(torch.as_tensor(X))


# --- Scaling --------------------------------------------------------------------------------------------------------

SHIFTS = {"small": 0.0, "1e3": 1e3, "1e9": 1e9, "-1e12": -1e12}


@pytest.mark.parametrize("given", [torch.float64, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scaled_rows_are_written_where_they_shall_be(given, dtype, rng):
    X = torch.from_numpy(rng.normal(size=(20, 3)) * [1.0, 0.0, 9.0] + 5.0).to(given)  # a constant, which is known
    scaler, place = fitted(X).scaler(dtype, CPU), torch.full((32, 3), 7.0, dtype=dtype)
    found = scaler(X, out=place[:20])
    assert found.data_ptr() == place.data_ptr()
    assert torch.equal(place[:20], scaler(X))
    assert (place[20:] == 7.0).all()


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
@pytest.mark.parametrize("n_samples", [2, 100, 9000])
def test_statistics_are_exact(shift, n_samples, rng):
    """Also of columns far from zero; 9,000 rows are more than one chunk."""
    X = shift + rng.standard_normal((n_samples, 3)) * [1.0, 5.0, 30.0]
    columns = fitted(X)
    mean = np.array([math.fsum(column) / n_samples for column in X.T])
    scale = [math.sqrt(math.fsum((column - m) ** 2) / n_samples) for column, m in zip(X.T, mean, strict=True)]
    np.testing.assert_allclose(columns.mean, mean, rtol=2.3e-16, atol=1e-14)  # one unit in the last place
    # The mean is off by its last digit, and so is what the squares are taken about.
    np.testing.assert_allclose(columns.scale, scale, rtol=1e-12, atol=2.3e-16 * abs(shift))
    assert not columns.constant.any()
    assert columns.n_features == 3


def test_statistics_see_chosen_rows_only(rng):
    X = rng.standard_normal((50, 2))
    rows = rng.permutation(50)[:20]
    X[np.setdiff1d(np.arange(50), rows)] = 1e6
    np.testing.assert_allclose(fitted(X, rows=rows).mean, X[rows].mean(axis=0))


def test_weighted_statistics_equal_numpy(rng):
    X, weight = rng.standard_normal((9000, 3)) + 50.0, rng.exponential(size=9000)
    columns = fitted(X, weight)
    mean = np.average(X, axis=0, weights=weight)
    np.testing.assert_allclose(columns.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(columns.scale**2, np.average((X - mean) ** 2, axis=0, weights=weight), rtol=1e-10)


def test_share_of_missing_cells_is_exact_where_there_are_none_or_nothing_else():
    """Sums of weights round: a third of these tables had gaps in the complete column."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        X, weight = rng.standard_normal((400, 4)), rng.random(400)
        X[::7, 1] = X[:, 2] = X[1:, 3] = np.nan
        weight[0] = 1e-30
        share = fitted(X, weight).missing_share
        assert share[0] == 0.0
        assert share[1] == pytest.approx(weight[::7].sum() / weight.sum(), rel=1e-12)
        assert share[2] == 1.0
        assert 1.0 - 1e-12 < share[3] < 1.0


def test_weights_count_as_repetition(rng):
    X, counts = rng.standard_normal((10, 2)), np.arange(1, 11)
    weighted, repeated = fitted(X, counts.astype(float)), fitted(np.repeat(X, counts, axis=0))
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(weighted.scale, repeated.scale, rtol=1e-12)


@each_dtype
@pytest.mark.parametrize("standardize", [True, False])
def test_round_trip(dtype, standardize, rng):
    X = 10.0 + rng.standard_normal((40, 3)) * [0.1, 1.0, 100.0]
    columns = fitted(X, standardize=standardize)
    x = encoded(columns, torch.as_tensor(X, dtype=dtype), dtype)
    assert x.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4}[dtype]
    np.testing.assert_allclose(columns.decode(x).numpy(), X, rtol=tolerance, atol=tolerance)
    if standardize:
        np.testing.assert_allclose(x.mean(0).numpy(), np.zeros(3), atol=100 * tolerance)
        np.testing.assert_allclose(x.std(0, correction=0).numpy(), np.ones(3), rtol=100 * tolerance)
    else:
        np.testing.assert_array_equal(x.numpy(), X.astype(x.numpy().dtype))


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
def test_training_and_scoring_rows_agree(shift, rng):
    """What trains (float32) is what scores (float64), rounded, however far from zero a column is."""
    X = shift + rng.standard_normal((9000, 2))
    columns, values = fitted(X), torch.as_tensor(X)
    gathered = columns.gather(values, torch.arange(9000), CPU)
    assert gathered.dtype == torch.float32
    exact = (X - columns.mean) / columns.scale
    # Measured with the seeds 0 to 3: 1.9e-7, the rounding of float32.
    np.testing.assert_allclose(gathered.numpy(), exact, atol=2e-6)
    np.testing.assert_allclose(encoded(columns, values).numpy(), exact, rtol=1e-12, atol=1e-12)


def test_gather_follows_the_rows(rng):
    X, rows = rng.standard_normal((30, 2)), torch.tensor([3, 3, 29, 0])
    columns = fitted(X)
    expected = ((X - X.mean(axis=0)) / X.std(axis=0))[rows.numpy()]
    np.testing.assert_allclose(columns.gather(torch.as_tensor(X), rows, CPU).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("scales", [[2.0, 0.5, 10.0], [1.0, 1.0, 1.0]])
def test_log_jacobian_is_that_of_the_scaling(scales, rng):
    """A density of the scaled row, times 1 / scale of each column, is one of the row."""
    X = rng.standard_normal((100, 3))
    X = (X - X.mean(axis=0)) / X.std(axis=0) * scales
    assert fitted(X).log_jacobian == pytest.approx(-np.log(scales).sum(), abs=1e-12)
    assert fitted(X, standardize=False).log_jacobian == 0.0


# --- Constant columns -----------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("value", [0.0, 7.0, -0.1, 1e9, 1e-30])
@pytest.mark.parametrize("n_samples", [1, 9, 8193])
def test_constant_columns_are_inert(dtype, standardize, value, n_samples, rng):
    """Whatever they hold later, they are encoded as zero and decoded as what they held; they have no unit."""
    X = np.stack([np.full(n_samples, value), rng.standard_normal(n_samples)], axis=1)
    columns = fitted(X, standardize=standardize, dtype=dtype)
    assert columns.constant.tolist() == [True, n_samples == 1]
    later = torch.tensor([[value, 0.0], [5.0, 0.0], [-1e20, 0.0]], dtype=dtype)
    x = encoded(columns, later, dtype)
    assert x[:, 0].tolist() == [0.0, 0.0, 0.0]
    noisy = columns.decode(x + 3.0)[:, 0]
    assert torch.equal(noisy, torch.full_like(noisy, value))
    if n_samples > 1:
        alone = fitted(X[:, 1:], standardize=standardize, dtype=dtype)
        assert columns.log_jacobian == pytest.approx(alone.log_jacobian)


def test_rounding_does_not_make_a_column():
    """Sums of 0.1 in different orders differ in the last digit only; a spread of one in a million is real."""
    X = np.array([[0.1 + 0.2, 1.0], [0.3, 1.000001], [0.3, 1.0]])
    assert fitted(X).constant.tolist() == [True, False]


@each_dtype
@pytest.mark.parametrize("standardize", [True, False])
def test_column_that_varies_in_left_out_rows_only_keeps_their_scale(dtype, standardize, rng):
    """Ten rows of a hundred hold another value: a share of 0.1 has a standard deviation of 0.3 times the step."""
    X = np.stack([np.repeat([4.0, 9.0], [90, 10]), rng.standard_normal(100), np.full(100, 2.0)], axis=1)
    whole = fitted(X, standardize=standardize, dtype=dtype)
    columns = fitted(X, standardize=standardize, rows=np.arange(90), dtype=dtype, whole=whole)
    alone = fitted(X, standardize=standardize, rows=np.arange(90), dtype=dtype)
    assert alone.constant.tolist() == [True, False, True]
    assert columns.constant.tolist() == [False, False, True]
    assert columns.scale[0] == pytest.approx(0.3 * 5.0 if standardize else 1.0)
    x = encoded(columns, torch.as_tensor(X[[0, 99]]).to(dtype), dtype)[:, 0].tolist()
    assert x == pytest.approx([0.0, 1.0 / 0.3] if standardize else [4.0, 9.0])
    assert (columns.mean[1:] == alone.mean[1:]).all()
    assert (columns.scale[1:] == alone.scale[1:]).all()


def test_state_rebuilds_the_columns(rng):
    columns = fitted(rng.standard_normal((10, 2)) * [1.0, 0.0])
    again = Columns(**columns.state())
    x = torch.as_tensor(rng.standard_normal((3, 2)))
    assert torch.equal(encoded(again, x), encoded(columns, x))
    assert torch.equal(again.decode(x), columns.decode(x))
    assert again.names == ("c0", "c1")


# --- Chunks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [1, 2, 15, 16, 17, 1023, 1024, 1025, 2049, 100_000])
def test_row_chunks_cover_every_row_once(n_samples):
    chunks = row_chunks(n_samples)
    sizes = {size for _, size in chunks}
    assert len(sizes) == 1
    size = sizes.pop()
    assert size % 16 == 0
    assert size <= 1024
    assert [first for first, _ in chunks] == list(range(0, n_samples, size))
    assert len(chunks) * size - n_samples < size
    assert len(chunks) == -(-n_samples // 1024)


# --- Order of rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, -40.0])
@pytest.mark.parametrize("factor", [1e-3, 25.4, 1e6])
def test_order_is_the_same_in_other_units(factor, offset, seed):
    rng = np.random.default_rng(seed)
    X = np.c_[rng.normal(size=300), rng.integers(0, 1000, 300), rng.lognormal(0.0, 3.0, 300), rng.random(300) < 0.5]
    X[rng.random(X.shape) < 0.05] = np.nan
    X[200:] = X[:100]
    np.testing.assert_array_equal(canonical_rows(factor * X + offset, None)[0], canonical_rows(X, None)[0])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_order_depends_on_content_only(dtype, rng):
    X = rng.standard_normal((500, 3)).astype(dtype)
    X[:50] = np.round(X[:50])  # ties
    weight = rng.integers(0, 4, 500) + np.round(rng.random(500), 3)
    shuffled = rng.permutation(500)
    (rows, none), (other, _) = canonical_rows(X, None), canonical_rows(X[shuffled], None)
    assert none is None
    assert sorted(rows) == list(range(500))
    np.testing.assert_array_equal(X[rows], X[shuffled][other])
    # With weights equal content may come with different weights, in any order: compare the rows without ties.
    rows, share = canonical_rows(X[50:], weight[50:])
    shuffled = rng.permutation(450)
    other, other_share = canonical_rows(X[50:][shuffled], weight[50:][shuffled])
    np.testing.assert_array_equal(X[50:][rows], X[50:][shuffled][other])
    np.testing.assert_allclose(share, other_share, rtol=1e-12)


def test_order_is_not_that_of_the_values(rng):
    """Sorted rows would train in the order of the first column."""
    rows, _ = canonical_rows(np.arange(1000.0)[:, None], None)
    assert abs(np.corrcoef(rows, np.arange(1000))[0, 1]) < 0.5


def test_minus_zero_is_zero():
    X = np.array([[0.0, 1.0], [2.0, 1.0], [3.0, -0.0]])
    np.testing.assert_array_equal(canonical_rows(X, None)[0], canonical_rows(np.where(X == 0, -X, X), None)[0])


@pytest.mark.parametrize("highest", [1, 4, 10])
def test_integer_weights_repeat_rows(highest, rng):
    X, weight = rng.standard_normal((60, 2)), rng.integers(0, highest + 1, 60)
    rows, share = canonical_rows(X, weight.astype(float))
    assert share is None
    np.testing.assert_array_equal(np.bincount(rows, minlength=60), weight)
    repeated, _ = canonical_rows(np.repeat(X, weight, axis=0), None)
    np.testing.assert_array_equal(X[rows], np.repeat(X, weight, axis=0)[repeated])


def test_rows_without_weight_decide_nothing(rng):
    X = rng.standard_normal((60, 2))
    weight = np.r_[np.ones(50), np.zeros(10)]
    far = np.where(weight[:, None] > 0, X, 1e3 * X)
    np.testing.assert_array_equal(canonical_rows(far, weight)[0], canonical_rows(X[:50], None)[0])


@pytest.mark.parametrize(("total", "repeats"), [(30, True), (31, False)])
def test_repetition_stops_at_ten_times_the_rows(total, repeats):
    """Three rows: weights that add up to 30 are repeated, to 31 they weigh."""
    weight = np.array([1.0, 0.0, total - 1.0])
    rows, share = canonical_rows(np.array([[1.0], [2.0], [3.0]]), weight)
    if repeats:
        assert share is None
        assert np.bincount(rows).tolist() == [1, 0, 29]
    else:
        order = np.argsort(rows)
        assert rows[order].tolist() == [0, 2]
        np.testing.assert_allclose(share[order], [2 / 31, 60 / 31])


def test_other_weights_have_mean_one_and_no_zeros(rng):
    X, weight = rng.standard_normal((40, 2)), rng.exponential(size=40) * (np.arange(40) % 4 > 0)
    rows, share = canonical_rows(X, weight)
    assert sorted(rows) == [i for i in range(40) if i % 4]
    np.testing.assert_allclose(share, weight[rows] / weight[weight > 0].mean())


# --- Copies ----------------------------------------------------------------------------------------------------------


def sample_of(X, weight=None, seed=0):
    return Sample.of(torch.from_numpy(X), weight, tuple(f"x{index}" for index in range(X.shape[1])), None, seed)


def n_parted(X, split):
    """Different rows that are both among those that are held out and among those that train."""
    held, training = (np.unique(X[part.rows.numpy()], axis=0) for part in (split.held, split.training))
    return len(held) + len(training) - len(np.unique(np.concatenate([held, training]), axis=0))


@pytest.mark.parametrize("kind", ["bootstrap", "oversampled", "read twice", "weights"])
def test_copies_of_a_row_are_held_out_together(kind, rng):
    X, weight = np.c_[rng.standard_normal((300, 2)), rng.integers(0, 2, 300)], None
    if kind == "bootstrap":
        X = X[rng.integers(0, 300, 300)]
    if kind == "oversampled":
        X = X[np.r_[:300, rng.integers(0, 300, 600)]]
    if kind == "read twice":
        X = np.r_[X, X]
    if kind == "weights":
        weight = rng.integers(0, 5, 300).astype(float)
    split = sample_of(X, weight).split(60, 0)
    assert n_parted(X, split) <= 1  # the one at the end
    n_rows = len(X) if weight is None else int(weight.sum())
    assert len(split.held.rows) + len(split.training.rows) == n_rows


def test_how_often_a_row_comes_does_not_decide_whether_it_is_held_out(rng):
    X = np.repeat(rng.standard_normal((200, 1)), np.r_[np.full(100, 1), np.full(100, 5)], axis=0)
    shares = [np.mean(sample_of(X, seed=seed).split(60, 0).held.rows.numpy() >= 100) for seed in range(100)]
    assert abs(np.mean(shares) - 5 / 6) < 0.03


def test_rows_without_copies_are_shuffled_as_ever(rng):
    X = rng.standard_normal((200, 3))
    rows, _ = canonical_rows(X, None)
    np.testing.assert_array_equal(sample_of(X, seed=3).rows, rows[np.random.RandomState(3).permutation(200)])


@pytest.mark.parametrize("n_rows", [500, 5000])
def test_share_of_rows_that_repeat_others(n_rows, rng):
    """Of those that have come before, whatever the order; of copies none."""
    X = rng.integers(0, 8, (n_rows, 3)).astype(float)
    X[rng.random(n_rows) < 0.1, 2] = np.nan
    share = 1.0 - len(np.unique(np.nan_to_num(X, nan=-1.0), axis=0)) / n_rows
    assert sample_of(X).repeated == pytest.approx(share, abs=1.0 / n_rows if n_rows <= 2048 else 0.03)
    assert sample_of(X, np.full(n_rows, 2.0)).repeated > 0.5
    assert sample_of(rng.standard_normal((n_rows, 3))).repeated == 0.0
    assert sample_of(np.repeat(rng.standard_normal((100, 2)), 5, axis=0)).repeated == 0.0
    assert sample_of(X[:1]).repeated == 0.0


@pytest.mark.parametrize("kind", ["zeros", "categories", "whole numbers"])
def test_rows_that_are_equal_by_nature_are_shuffled_as_ever(kind, rng):
    """A value that many rows have, or a table in which no column tells rows apart, or one by so few steps."""
    X = np.where(rng.random((400, 1)) < 0.5, 0.0, rng.standard_normal((400, 2)))
    if kind == "categories":
        X = rng.integers(0, 6, (400, 2)).astype(float)
    if kind == "whole numbers":  # each of its own kind, as there is no other column
        X = rng.normal(45.0, 15.0, (400, 1)).round()
    rows, _ = canonical_rows(X, None)
    np.testing.assert_array_equal(sample_of(X, seed=3).rows, rows[np.random.RandomState(3).permutation(400)])
