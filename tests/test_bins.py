"""Columns of intervals, as `pandas.cut` makes them, are categories, and come back as intervals."""

import pickle
from datetime import date

import numpy as np
import pandas as pd
import pytest

from skvae import AutoencoderTransformer, VAETransformer
from skvae._tables.bins import bin_texts, bins_of, holds_bins
from skvae._tables.finding import find_table
from skvae._tables.table import Table

N = 200
RNG = np.random.default_rng(0)
AGE = pd.Series(RNG.normal(40, 12, N).clip(1, 99))
MOMENTS = pd.Series(pd.Timestamp("2026-01-01 06:00") + pd.to_timedelta(RNG.integers(0, 5000, N), "h"))
COLUMNS = {
    "integers": pd.cut(AGE, [0, 20, 40, 60, 100]),
    "closed left": pd.cut(AGE, [0, 20, 40, 60, 100], right=False),
    "floats": pd.qcut(AGE, 4),
    "tiny": pd.cut(AGE * 1e-300, 3, precision=9),
    "dates": pd.cut(MOMENTS, 3),
    "aware": pd.cut(MOMENTS.dt.tz_localize("UTC").dt.tz_convert("Europe/Rome"), 3),
    "durations": pd.cut(MOMENTS - MOMENTS.min(), 3),
    "no category": pd.Series(pd.arrays.IntervalArray.from_arrays([0.0, 1.0] * 100, [0.5, 1.5] * 100, closed="both")),
}
FITTED = {"max_iter": 2, "tol": 1e3, "random_state": 0}


def frame_of(kind):
    """The column with gaps, beside a number."""
    column = COLUMNS[kind].copy()
    column.iloc[[3, 7]] = np.nan
    return pd.DataFrame({"bin": column, "age": AGE})


def learned(X):
    return find_table(X, categorical_features="from_dtype", likelihood="auto")


@pytest.mark.parametrize("kind", COLUMNS)
def test_intervals_come_back_exactly(kind):
    X = frame_of(kind)
    table = learned(X)
    assert table.columns[0].levels == tuple(sorted({str(one) for one in COLUMNS[kind]}))
    values = np.column_stack([np.asarray(table.encode(X)[name], dtype=float) for name in X])
    assert np.isnan(values[:, 0]).nonzero()[0].tolist() == [3, 7]
    for again in (table, Table.from_state(pickle.loads(pickle.dumps(table.state())))):
        for decoded in (again.decode(values, X), again.decode(values)):
            pd.testing.assert_frame_equal(decoded, X)


def test_text_of_intervals_is_unambiguous_and_lossless():
    for kind, column in COLUMNS.items():
        assert holds_bins(column)
        name = str(getattr(column.dtype, "categories", column).dtype)
        texts = bin_texts(column)
        assert bins_of(texts, name).tolist() == column.tolist(), kind
    assert not holds_bins(AGE)
    assert not holds_bins(pd.Series(["(0, 1]"], dtype="category"))
    assert bins_of([None, "(0, 1]"], "interval[float64, right]").isna().tolist() == [True, False]


@pytest.mark.parametrize("make", [AutoencoderTransformer, VAETransformer])
@pytest.mark.parametrize("kind", ["integers", "dates", "no category"])
def test_estimators_take_and_give_intervals(make, kind):
    X = frame_of(kind)
    model = make(**FITTED).fit(X)
    filled = model.impute(X)
    assert filled.dtypes.equals(X.dtypes)
    assert filled.bin.notna().all()
    known = X.bin.notna()
    pd.testing.assert_series_equal(filled.bin[known], X.bin[known])
    assert set(filled.bin) <= set(COLUMNS[kind])
    assert model.reconstruct(X).dtypes.equals(X.dtypes)
    as_text = X.assign(bin=pd.Series(bin_texts(X.bin), dtype=object))
    np.testing.assert_array_equal(model.score_samples(as_text), model.score_samples(X))
    np.testing.assert_array_equal(model.score_samples(X[:2]), model.score_samples(X)[:2])


def test_rows_are_drawn_with_intervals():
    X = frame_of("integers")
    model = VAETransformer(**FITTED).fit(X)
    drawn = model.sample(50, random_state=0)
    assert drawn.dtypes.equals(X.dtypes)
    assert drawn.bin.notna().all()
    given = model.sample(3, random_state=0, given={"bin": pd.Interval(20, 40)})
    assert given.bin.tolist() == 3 * [pd.Interval(20, 40)]
    draws = model.impute(X[:10], n_draws=2)
    assert {type(one) for table in draws for one in table.bin} == {pd.Interval}


def test_paths_hold_what_a_table_would():
    """Intervals, periods, dates without a time: objects of the dtype, not their text."""
    months = pd.Series(pd.period_range("2010-01", periods=N, freq="M"))
    X = frame_of("integers").assign(month=months, day=months.dt.to_timestamp().dt.date)
    model = AutoencoderTransformer(**FITTED).fit(X)
    paths = model.interpolate(X[:3], X[3:6], n_steps=2)
    ends = model.inverse_transform(model.transform(X[:3]))
    assert paths[:, 0, [0, 2, 3]].tolist() == ends[["bin", "month", "day"]].to_numpy(object).tolist()
    assert [type(cell) for cell in paths[0, 0]] == [pd.Interval, float, pd.Period, date]


def test_new_intervals_are_new_levels():
    X = frame_of("integers")
    model = AutoencoderTransformer(**FITTED).fit(X)
    with pytest.warns(UserWarning, match=r"^Levels that no fitted row has are .*'bin' \('\(100, 120\]'\)"):
        model.score_samples(X.assign(bin=pd.cut(AGE + 80, [0, 20, 40, 60, 100, 120])))
