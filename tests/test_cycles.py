"""Dates are written by the cycles of the calendar that they show, inside the model alone; users see whole dates."""

import pickle
import re
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skvae import AutoencoderTransformer, VAETransformer
from skvae._tables.cycles import Cycles, find_cycles
from skvae._tables.finding import find_table, with_cycles
from skvae._tables.form import dtypes_of
from skvae._tables.table import Table

FIRST = 19_723  # 2024-01-01, a Monday
WHICH = [(hours, weekdays, seasons) for hours in (0, 1) for weekdays in (0, 1) for seasons in (0, 1)][1:]


def exactly(message):
    return f"^{re.escape(message)}$"


def cycles_of(hours=True, weekdays=True, seasons=True, per_day=1440):
    return Cycles(bool(hours), bool(weekdays), bool(seasons), per_day, -1e6, 1e6)


def shown(days, others=None, per_day=1, weight=None):
    """Names of the cycles that show."""
    found = find_cycles(days, np.empty((len(days), 0)) if others is None else others, per_day, weight)
    return set() if found is None else {n for n in ("hours", "weekdays", "seasons") if getattr(found, n)}


# --- Days in parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("per_day", [1, 24, 1440, 86_400, 86_400_000_000])
def test_parts_join_to_the_same_days(which, per_day, seed):
    if which[0] and per_day == 1:
        return
    cycles = cycles_of(*which, per_day)
    days = np.random.default_rng(seed).uniform(-700_000, 2_900_000, 2000)
    days = np.floor(days * (per_day if which[0] else 1)) / (per_day if which[0] else 1)
    parts = cycles.split(days)
    assert parts.shape == (2000, 1 + sum(which))
    np.testing.assert_array_equal(np.rint(cycles.join(parts) * per_day), np.rint(days * per_day))


def test_weeks_are_those_of_the_iso_calendar():
    days = np.arange(-30_000, 60_000, 7) + np.arange(-30_000, 60_000, 7) % 5
    parts = cycles_of(hours=False, per_day=1).split(days.astype(float))
    known = [(date(1970, 1, 1) + timedelta(days=int(day))).isocalendar() for day in days]
    np.testing.assert_array_equal(parts, [(year - 1970, week - 1, weekday - 1) for year, week, weekday in known])
    parts = cycles_of(hours=False, weekdays=False, per_day=1).split(days.astype(float))
    known = [(date(1970, 1, 1) + timedelta(days=int(day))).timetuple() for day in days]
    np.testing.assert_array_equal(parts, [(time.tm_year - 1970, time.tm_yday - 1) for time in known])


def test_equal_times_of_different_days_are_equal_to_the_bit():
    days = FIRST + np.arange(500.0) + 10.0 / 24.0
    assert len(np.unique(cycles_of(per_day=24).split(days)[:, -1])) == 1
    finer = cycles_of(per_day=24).split(np.array([FIRST + 0.3]))[0, -1]  # a later row off the steps of the fit
    assert finer == pytest.approx(0.3, abs=1e-9)


def test_drawn_parts_join_to_dates_that_can_be():
    cycles = cycles_of(per_day=24)
    drawn = [[54.4, -3.0, 6.7, 1.2], [53.6, 80.0, -0.4, 0.51], [9e9, 0.0, 0.0, 0.0], [54.0, np.nan, 1.0, 0.5]]
    *made, none = cycles.join(np.array(drawn)).tolist()
    first, second, last = (datetime(1970, 1, 1) + timedelta(days=day) for day in made)
    assert str(first) == "2024-01-07 23:00:00"  # the Sunday of its first week
    assert str(second) == "2024-12-30 12:00:00"  # its last week is the 52nd: one on
    assert last.year == 9999
    assert np.isnan(none)


def test_days_beyond_the_range_are_moved_to_its_ends():
    cycles = Cycles(True, True, False, 24, FIRST + 0.5, FIRST + 100.5)
    parts = cycles.split(FIRST + np.array([-9.0, 50.25, 300.0]))
    np.testing.assert_allclose(cycles.join(cycles.within(parts)), FIRST + np.array([0.5, 50.25, 100.5]))
    np.testing.assert_array_equal(cycles.within(parts)[1], parts[1])


def test_states_that_do_not_fit_together_are_refused():
    cycles = cycles_of()
    assert Cycles.from_state(pickle.loads(pickle.dumps(cycles.state()))) == cycles
    for wrong in ({"hours": False, "weekdays": False, "seasons": False}, {"low": 2e6}, {"per_day": 0}):
        with pytest.raises(ValueError, match="^the cycles of a date are "):
            Cycles.from_state(cycles.state() | wrong)


# --- Which cycles show ----------------------------------------------------------------------------------------------


def test_rows_spread_evenly_show_no_cycle(seed):
    rng = np.random.default_rng(seed)
    for span in (60, 3000):
        days = FIRST + rng.integers(0, 1440 * span, 1500) / 1440
        assert shown(days, rng.normal(size=(1500, 3)), 1440) == set()


@pytest.mark.parametrize(("step", "n"), [(1 / 24, 2000), (1.0, 1500)])
def test_time_series_that_wander_show_no_cycle(step, n, seed):
    """Rows next to each other are alike, which tests of single rows take for a cycle."""
    rng = np.random.default_rng(seed)
    days = FIRST + step * np.arange(n)
    found = [shown(days, rng.normal(size=(n, 1)).cumsum(axis=0), round(1 / step)) for _ in range(20)]
    assert sum(map(bool, found)) <= 1


def test_many_rows_of_few_days_show_no_cycle(seed):
    rng = np.random.default_rng(seed)
    days = np.repeat(FIRST + rng.choice(2000, 60, replace=False), 200).astype(float)
    assert shown(days, np.repeat(rng.normal(size=(60, 2)), 200, axis=0)) == set()


def test_rows_that_crowd_show_a_cycle(seed):
    rng = np.random.default_rng(seed)
    working = FIRST + np.arange(700.0)
    working = working[(working + 3) % 7 < 5]
    assert shown(working) == {"weekdays"}
    times = (rng.normal(13.0, 3.0, 600).clip(0, 23) * 60).astype(int) / 1440
    assert find_cycles(FIRST + rng.integers(0, 90, 600) + times, np.empty((600, 0)), 1440).hours
    summers = FIRST + 365.2425 * np.arange(8)[:, None] + rng.normal(180.0, 30.0, (8, 60))
    assert "seasons" in shown(np.floor(summers.ravel()))


@pytest.mark.parametrize(("cycle", "period", "n", "step"), [
    ("hours", 1.0, 1500, 1 / 24), ("weekdays", 7.0, 700, 1.0), ("seasons", 365.2425, 1900, 1.0),
])  # fmt: skip
def test_columns_that_follow_a_cycle_show_it(cycle, period, n, step, seed):
    """In rows that lie evenly; with gaps, and beside columns that do not."""
    rng = np.random.default_rng(seed)
    days = FIRST + step * np.arange(n)
    others = rng.normal(size=(n, 4))
    others[:, 2] += 2.0 * np.sin(2 * np.pi * days / period)
    others[rng.random(others.shape) < 0.1] = np.nan
    per_day = round(1 / step)
    assert shown(days, others, per_day) == {cycle}
    assert shown(days, others[:, [0, 1, 3]], per_day) == set()


def test_few_periods_show_nothing(seed):
    rng = np.random.default_rng(seed)
    assert shown(FIRST + rng.integers(0, 40, 500) // 7 * 7.0) == set()
    assert shown(FIRST + rng.integers(0, 5, 500) + 0.5, per_day=24) == set()
    assert shown(np.full(50, np.nan)) == set()


def test_order_and_weights_of_rows(seed):
    """The order says nothing, integer weights repeat rows, rows without any do not count: to the bit."""
    rng = np.random.default_rng(seed)
    for size in np.linspace(0.0, 1.0, 9):
        days = FIRST + rng.integers(0, 200, 300).astype(float)
        others = rng.normal(size=(300, 2)) + size * (((days + 3) % 7) > 4)[:, None]
        weight = rng.integers(0, 3, 300).astype(float)
        order, rows = rng.permutation(300), np.repeat(np.arange(300), weight.astype(int))
        found = find_cycles(days, others, 1, weight)
        assert find_cycles(days[order], others[order], 1, weight[order]) == found
        assert find_cycles(days[rows], others[rows], 1) == found


# --- Tables ---------------------------------------------------------------------------------------------------------

N = 400


def visits(seed=0, n=N):
    """Shops that close on Sundays, and sell more on Fridays and late in the day."""
    rng = np.random.default_rng(seed)
    days = rng.integers(0, 420, 3 * n)
    days = days[days % 7 < 6][:n]
    hours = rng.normal(14.0, 2.5, n).clip(8.0, 20.9)
    times = pd.Timestamp("2024-01-01") + pd.to_timedelta(days * 1440 + (60 * hours).astype(int), unit="min")
    sales = 0.5 * hours + 2.0 * (days % 7 == 4) + 0.3 * rng.normal(size=n)
    table = pd.DataFrame({
        "shop": rng.choice(["a", "b"], n), "at": pd.Series(times).astype("datetime64[us]"),
        "sales": sales, "x": rng.normal(size=n),
    })  # fmt: skip
    table.loc[[3, 7, 11, 20, 30, 40], "at"] = pd.NaT
    return table


X = visits()
TABLES = {
    "pandas": X.set_axis(range(7, 7 + N), axis=0),
    "zone": X.assign(at=X["at"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")),
    "text": X.assign(at=X["at"].dt.strftime("%Y-%m-%d %H:%M")),
    "polars": pl.from_pandas(X),
    "pyarrow": pa.Table.from_pandas(X, preserve_index=False),
}
SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 3, "tol": 1e3, "random_state": 0}


def learned(table, **options):
    table = table if isinstance(table, pd.DataFrame) else table.to_pandas()
    found = find_table(table, **({"categorical_features": "from_dtype", "likelihood": "auto"} | options))
    values = found.encode(table).to_numpy(float)
    return with_cycles(found, values, options.get("likelihood", "auto"), None), values


def cells(table):
    column = table["at"].to_pylist() if isinstance(table, pa.Table) else table["at"].to_list()
    return [None if pd.isna(one) else pd.Timestamp(one) for one in column]


@pytest.mark.parametrize("library", ["pandas", "zone", "text"])
def test_rows_are_expanded_and_joined(library):
    table, values = learned(TABLES[library])
    wide = table.expansion.expanded(values)
    assert table.expansion.part_names(table.form.labels) == ("at (weekday)", "at (time of day)")
    assert wide.shape == (N, table.expansion.n_expanded) == (N, 6)
    assert table.n_levels == (2, 0, 0, 0, 7, 0)
    np.testing.assert_array_equal(wide[:, [0, 2, 3]], values[:, [0, 2, 3]])
    np.testing.assert_array_equal(np.isnan(wide[:, [1, 4, 5]]), np.isnan(values[:, [1, 1, 1]]))
    np.testing.assert_allclose(table.expansion.joined(wide), values, rtol=1e-14)
    assert cells(table.decode(wide)) == cells(TABLES[library])
    again = Table.from_state(pickle.loads(pickle.dumps(table.state())))
    np.testing.assert_array_equal(again.expansion.expanded(values), wide)


def test_a_date_that_likelihood_names_is_one_number():
    for likelihood in ({"at": "student_t"}, {1: "auto"}):
        table, values = learned(X, likelihood=likelihood)
        assert table.expansion.cycles == {}
        assert table.expansion.expanded(values) is values
    lengths = X.assign(at=X["at"] - pd.Timestamp("2024-01-01"))
    assert learned(lengths)[0].expansion.cycles == {}


# --- Estimators -----------------------------------------------------------------------------------------------------


MAKES = [AutoencoderTransformer, pytest.param(VAETransformer, marks=pytest.mark.slow)]


@pytest.mark.parametrize(
    ("make", "library"),
    [(AutoencoderTransformer, library) for library in TABLES]
    + [pytest.param(VAETransformer, one, marks=[] if one == "zone" else pytest.mark.slow) for one in TABLES],
)
def test_verbs_give_whole_dates_back(make, library):
    table = TABLES[library]
    model = make(**SMALL).fit(table)
    assert model._fitted.columns.n_features == 6
    assert model.n_features_in_ == 4
    assert list(model.feature_names_in_) == ["shop", "at", "sales", "x"]
    assert model.mean_.shape == model.scale_.shape == (4,)
    known = [one for one in cells(table) if one is not None]
    mean = pd.Timestamp(0) + timedelta(days=float(model.mean_[1]))
    assert abs(mean - sum((one.tz_localize(None) - mean for one in known), timedelta()) / len(known) - mean) < (
        timedelta(days=10)
    )
    filled, explained = model.impute(table), model.explain(table[:5])
    tables = [filled, model.reconstruct(table), model.inverse_transform(model.transform(table)), explained.expected]
    if make is VAETransformer:
        assert model.noise_scale_.shape == (4,)
        tables += [model.sample(50, random_state=0), *model.impute(table, n_draws=2)]
        tables.append(model.sample(3, random_state=0, given=table[:4]))
        assert cells(tables[-1])[:9] == [one for one in cells(table)[:3] for _ in range(3)]
    for one in tables:
        assert type(one) is type(table)
        assert dtypes_of(one) == dtypes_of(table)
        assert None not in cells(one)
    assert [new for new, old in zip(cells(filled), cells(table), strict=True) if old is not None] == known
    scores = model.score_samples(table)
    np.testing.assert_allclose(np.asarray(explained.contributions).sum(axis=1), scores[:5], rtol=1e-6)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(table), scores)
    np.testing.assert_array_equal(model.score_samples(table[5:6]), scores[5:6])
    assert model.interpolate(table[:1], table[1:2], 3).shape == (1, 3, 4)


@pytest.mark.parametrize("make", MAKES)
def test_order_and_weights_change_no_bit(make):
    weight = np.random.default_rng(1).integers(0, 3, N)
    model = make(**SMALL).fit(X, sample_weight=weight)
    repeated = make(**SMALL).fit(X.loc[np.repeat(np.arange(N), weight)].sample(frac=1.0, random_state=0))
    assert model._fitted.table.expansion.cycles
    np.testing.assert_array_equal(model.score_samples(X), repeated.score_samples(X))


def test_fits_that_go_on_keep_the_cycles_of_the_first():
    for model in (AutoencoderTransformer(**SMALL, warm_start=True).fit(X), AutoencoderTransformer(**SMALL)):
        verb = model.fit if model.warm_start else model.partial_fit
        verb(X)
        verb(X[:50])
        assert model._fitted.columns.n_features == 6
        assert np.isfinite(model.score_samples(X)).all()


def test_wrong_hours_and_weekdays_are_found_and_explained():
    """Parts that are right are what is expected."""
    model = AutoencoderTransformer(random_state=0).fit(visits(0, 1500))
    fresh = visits(1, 300).dropna()
    scores = model.score_samples(fresh)
    night = fresh.assign(at=fresh["at"].dt.normalize() + pd.Timedelta("3h"))
    sunday = fresh.assign(at=fresh["at"] + pd.to_timedelta((6 - fresh["at"].dt.day_of_week) % 7, unit="D"))
    for wrong in (night, sunday):
        assert (model.score_samples(wrong) < scores).mean() > 0.9
    assert (model.p_values(night) < 0.05).mean() > 0.9
    lowest = model.explain(fresh[scores > np.median(scores)][:60]).contributions.idxmin(axis=1)
    assert (lowest == "at").mean() < 0.6  # parts of a date do not add up to blame
    explained = model.explain(night[:20])
    assert (explained.contributions.idxmin(axis=1) == "at").mean() > 0.9
    blamed = explained.shares[:, 1] > 0.0
    expected, given = explained.expected["at"][blamed], night["at"][:20][blamed]
    assert blamed.sum() > 15
    assert ((expected.dt.normalize() == given.dt.normalize()) & (expected.dt.hour > 7)).mean() > 0.8
    model.calibrate(fresh).learn_anomalies(night[:10])
    assert (model.predict(night) == -1).mean() > 0.9


def test_drawn_dates_follow_the_cycles():
    model = VAETransformer(random_state=0, max_iter=10, tol=1e3).fit(visits(0, 1500))
    drawn = model.sample(1000, random_state=0)["at"]
    assert (drawn.dt.day_of_week == 6).mean() < 0.02
    assert ((drawn.dt.hour >= 8) & (drawn.dt.hour <= 20)).all()
    gaps = model.sample(2000, random_state=0, missing="as_trained")["at"].isna().mean()
    assert 0.0 < gaps < 0.02
    at = pd.Timestamp("2024-05-17 15:30:10")  # seconds, which the fit has not seen
    given = model.sample(5, random_state=0, given={"at": [at]}, bounded=True)
    assert (given["at"] == at).all()
    bounded = model.sample(1000, random_state=1, bounded=True, match_marginals=False)["at"]
    known = visits(0, 1500)["at"]
    assert bounded.between(known.min(), known.max()).all()


def test_the_density_of_parts_is_one_of_dates():
    """Its sum over all days is 1, but for what weeks of a density of real numbers leave."""
    rng = np.random.default_rng(0)
    days = FIRST + rng.integers(0, 400, 900)
    days = days[(days + 3) % 7 < 5].astype("datetime64[D]")
    small = {"n_components": 1, "hidden_layer_sizes": (8,), "latent_density": "normal", "max_iter": 10, "tol": 1e3}
    model = VAETransformer(**small, random_state=0, n_draws=1000).fit(pd.DataFrame({"day": days}))
    assert model._fitted.table.expansion.cycles[0].weekdays
    every = pd.DataFrame({"day": np.arange(FIRST - 800, FIRST + 1200).astype("datetime64[D]")})
    assert np.exp(model.log_likelihood(every)).sum() == pytest.approx(1.0, abs=0.03)


def test_graphs_refuse_dates_in_parts():
    pytest.importorskip("onnx")
    from skvae.onnx import to_onnx

    message = (
        "to_onnx cannot express dates or durations, in column 'at'. Turn them into numbers before the fit, or serve "
        "the estimator itself."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        to_onnx(AutoencoderTransformer(**SMALL).fit(X))
