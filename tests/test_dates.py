"""Dates and durations are columns like others, and come back in the dtype, unit and time zone that they came in."""

import pickle
import re
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from dateutil.tz import gettz

from skvae import AutoencoderTransformer, VAETransformer
from skvae._tables.averages import average_tables
from skvae._tables.date_texts import date_format
from skvae._tables.dates import DateDtype, Dates, DecodedDates, date_dtype_of
from skvae._tables.finding import find_table
from skvae._tables.form import dtypes_of
from skvae._tables.kinds import Numeric, Temporal
from skvae._tables.table import Table
from skvae.report import report

N = 80
RNG = np.random.default_rng(0)
HOURS = RNG.permutation(9600)[:N]  # of 400 days, across two changes of the clocks
TIMES = pd.Series(pd.Timestamp("2024-03-01") + pd.to_timedelta(HOURS, unit="h"))
DAYS = TIMES.dt.normalize()
AWARE = TIMES.dt.tz_localize("UTC").dt.tz_convert("Europe/Rome")
LENGTHS = pd.Series(pd.to_timedelta(90 * HOURS, unit="s"))
COLUMNS = {
    **{f"datetime64[{unit}]": TIMES.astype(f"datetime64[{unit}]") for unit in ("s", "ms", "us", "ns")},
    "midnights": DAYS.astype("datetime64[us]"),
    "aware": AWARE.astype("datetime64[ns, Europe/Rome]"),
    "aware midnights": DAYS.dt.tz_localize("Europe/Rome"),
    "fixed offset": AWARE.dt.tz_convert(timezone(timedelta(hours=5, minutes=30))),
    "timedelta64": LENGTHS.astype("timedelta64[ms]"),
    "nanoseconds": pd.Series(pd.to_timedelta(HOURS, unit="ns")),
    "dates": pd.Series([one.date() for one in DAYS], dtype=object),
    "datetimes": pd.Series([one.to_pydatetime() for one in TIMES], dtype=object),
    "aware datetimes": pd.Series([one.to_pydatetime() for one in AWARE], dtype=object),
    "timedeltas": pd.Series([one.to_pytimedelta() for one in LENGTHS], dtype=object),
    "timestamp[arrow]": TIMES.astype("timestamp[us][pyarrow]"),
    "timestamp[arrow, zone]": AWARE.astype(pd.ArrowDtype(pa.timestamp("ms", tz="Europe/Rome"))),
    "date32[arrow]": DAYS.astype("date32[pyarrow]"),
    "date64[arrow]": DAYS.astype("date64[pyarrow]"),
    "duration[arrow]": LENGTHS.astype("duration[s][pyarrow]"),
    "period[D]": DAYS.dt.to_period("D"),
    "period[h]": TIMES.dt.to_period("h"),
    "period[M]": DAYS.dt.to_period("M"),
    "period[Q-JAN]": DAYS.dt.to_period("Q-JAN"),
    "text": DAYS.dt.strftime("%Y-%m-%d"),
    "text, day first": DAYS.dt.strftime("%d.%m.%Y"),
    "text, month first": TIMES.dt.strftime("%m/%d/%Y %H:%M"),
    "text without zeros": pd.Series([f"{one.month}/{one.day}/{one.year}" for one in DAYS], dtype="str"),
    "text by slashes": DAYS.dt.strftime("%Y/%m/%d"),
    "text of times": TIMES.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "text of minutes": TIMES.dt.strftime("%Y-%m-%d %H:%M").astype("string"),
    "text of fractions": TIMES.dt.strftime("%Y-%m-%d %H:%M:%S.250"),
}
OTHERS = ["datetime64[ns]", "midnights", "aware", "timedelta64", "dates", "text", "text of times"]


def exactly(message):
    return f"^{re.escape(message)}$"


def learned(X, **options):
    return find_table(X, **({"categorical_features": "from_dtype", "likelihood": "auto"} | options))


def frame_of(kind):
    """The column with gaps, beside a number."""
    column = COLUMNS[kind].copy()
    column.iloc[[3, 7]] = None
    return pd.DataFrame({"day": column, "x": np.linspace(0.0, 1.0, N)})


def cells(table):
    column = table["day"]
    values = column.to_pylist() if isinstance(table, pa.Table) else column.to_list()
    return [None if pd.isna(value) else value for value in values]


FRAMES = {kind: frame_of(kind) for kind in COLUMNS}
FRAMES |= {f"{kind}, polars": pl.from_pandas(frame_of(kind)) for kind in OTHERS}
FRAMES |= {f"{kind}, pyarrow": pa.Table.from_pandas(frame_of(kind), preserve_index=False) for kind in OTHERS}


@pytest.mark.parametrize("kind", FRAMES)
def test_every_dtype_comes_back_exactly(kind):
    X = FRAMES[kind]
    table = learned(X)
    assert list(map(type, table.columns)) == [Temporal, Numeric]
    values = np.column_stack([np.asarray(table.encode(X)[name], dtype=float) for name in ("day", "x")])
    assert np.isnan(values[:, 0]).nonzero()[0].tolist() == [3, 7]
    for again in (table, Table.from_state(pickle.loads(pickle.dumps(table.state())))):
        for decoded in (again.decode(values, X), again.decode(values)):
            assert dtypes_of(decoded) == dtypes_of(X)
            assert cells(decoded) == cells(X)


def test_dates_are_days_by_the_clock_of_their_zone():
    """Since 1970; 2024-03-01 is 19,783 days later."""
    for kind, shift in {"datetime64[s]": 0, "text of times": 0, "fixed offset": 5.5, "aware": None}.items():
        days = learned(FRAMES[kind]).encode(FRAMES[kind])["day"]
        ahead = [1 if pd.Timestamp("2024-10-27") < t or t < pd.Timestamp("2024-03-31") else 2 for t in TIMES]
        hours = (HOURS + (np.array(ahead) if shift is None else shift)).astype(float)
        hours[[3, 7]] = np.nan
        apart = kind == "aware" and pd.Timestamp("2025-03-30") < TIMES.max()
        seen = (TIMES < pd.Timestamp("2025-03-30")) if apart else np.ones(N, dtype=bool)
        np.testing.assert_allclose(days[seen], (19_783 + hours / 24)[seen], rtol=1e-12)
    lengths = learned(FRAMES["timedelta64"]).encode(FRAMES["timedelta64"])["day"]
    np.testing.assert_allclose(lengths.dropna(), 90 * np.delete(HOURS, [3, 7]) / 86_400)


@pytest.mark.parametrize(
    ("kind", "first", "years"),
    [
        ("midnights", "2024-03-01 00:00:00", ("9999", "0001")),
        ("aware midnights", "2024-03-01 00:00:00+01:00", ("9999", "0001")),
        ("fixed offset", "2024-03-01 09:36:00+05:30", ("9999", "0001")),
        ("datetime64[ns]", "2024-03-01 10:00:00", ("2262", "1677")),
        ("dates", "2024-03-01", ("9999", "0001")),
        ("text", "2024-03-01", ("9999", "0001")),
    ],
)
def test_decoded_dates_lie_on_the_steps_of_the_fit(kind, first, years):
    """Whole days where all were; what nanoseconds of 64 bits or a year of four digits cannot hold is moved inside."""
    decoded = cells(learned(FRAMES[kind]).decode(np.array([[19_783.4, 0], [1e9, 0], [-1e9, 0], [np.nan, 0]])))
    assert str(decoded[0]) == first
    years = ("2262", "1677") if "[ns" in str(getattr(FRAMES[kind]["day"], "dtype", "")) else years  # before pandas 3
    assert tuple(str(one)[:4] for one in decoded[1:3]) == years
    assert decoded[3] is None


@pytest.mark.parametrize("kind", ["midnights", "datetimes", "dates", "text", "date32[arrow]", "datetime64[s]"])
def test_the_first_and_the_last_day_are_dates(kind):
    """Databases write them where there is no date."""
    ends = np.array(["0001-01-01", "9999-12-31"], dtype="datetime64[D]").astype(float)
    decoded = cells(learned(FRAMES[kind]).decode(np.column_stack([ends, ends])))
    assert [str(one)[:10] for one in decoded] == ["0001-01-01", "9999-12-31"]


def test_times_that_a_clock_leaves_out_or_shows_twice():
    """Clocks of Rome went from 2 to 3 on 2024-03-31, and from 3 back to 2 on 2024-10-27."""
    dates = Dates("date", 24, "Europe/Rome")
    days = 19_783 + np.array([30 * 24 + 2, 240 * 24 + 2]) / 24  # 2024-03-31 and 2024-10-27, at 2
    made = DecodedDates(days, dates).ticks(DateDtype("date", 86_400, "Europe/Rome"))
    assert [datetime.fromtimestamp(tick, UTC).isoformat() for tick in made.tolist()] == [
        "2024-03-31T01:00:00+00:00",  # 3 o'clock there
        "2024-10-27T00:00:00+00:00",  # the first of two
    ]


def test_what_is_no_date_by_its_text():
    assert date_format(["2024-02-29", None, "2023-01-31"]) == "0000-00-00"
    for texts in (["2024-02-30"] * 2, ["2024-02-03", "2024-02-03 10:00"], ["3.2.2024"], [None], ["2024-01"]):
        assert date_format(texts) is None
    few = pd.DataFrame({"wave": [f"2024-01-{day:02d}" for day in range(1, 20)] * 2, "x": range(38)})
    assert learned(few).n_levels == (19, 0)  # names of periods
    many = pd.DataFrame({"day": [f"2024-01-{day:02d}" for day in range(1, 21)] * 2, "x": range(40)})
    assert learned(many).kinds == ("date", "number")
    assert learned(many, categorical_features=["day"]).n_levels == (20, 0)
    assert learned(many.astype({"day": "category"})).n_levels == (20, 0)


def test_names_of_dtypes():
    assert date_dtype_of("datetime64[ns, UTC+01:00]") == ("date", 86_400_000_000_000, "UTC+01:00")
    assert date_dtype_of("timestamp[ms, tz=Europe/Rome][arrow]") == ("date", 86_400_000, "Europe/Rome")
    assert date_dtype_of("Duration(us)") == ("duration", 86_400_000_000, None)
    assert date_dtype_of("time64[us][arrow]") is date_dtype_of("float64") is date_dtype_of("object:times") is None


def test_later_tables_may_hold_dates_in_other_ways():
    """Of another unit, zone or library, as text, and without any."""
    X = FRAMES["aware"]
    table, hours = learned(X), 19_783 + np.array([10.0, 11.0]) / 24
    at = pd.Timestamp("2024-03-01 10:00", tz="Europe/Rome")
    for day in (
        [at, at + timedelta(hours=1)],
        [at.tz_convert("Asia/Tokyo"), at.tz_convert("Asia/Tokyo") + timedelta(hours=1)],
        ["2024-03-01T10:00", "2024-03-01 11:00:00"],
        pd.to_datetime(["2024-03-01 10:00", "2024-03-01 11:00"]),
    ):
        later = pd.DataFrame({"day": day, "x": [0.0, 1.0]})
        np.testing.assert_allclose(table.encode(later)["day"], hours, rtol=1e-14)
        again = table.decode(np.column_stack([hours, [0.0, 1.0]]), later)
        assert again["day"].dtype == later["day"].dtype
        first, second = (pd.Timestamp(one["day"].iloc[0]) for one in (again, later))
        # Before pandas 3 text is a column of objects, in which dates come back as objects with their zone.
        is_object = later["day"].dtype == object
        assert first == (second.tz_localize("Europe/Rome") if is_object else second)
    blank = pd.DataFrame({"day": [np.nan, np.nan], "x": [0.0, 1.0]})
    assert np.isnan(table.encode(blank)["day"]).all()
    assert table.decode(np.column_stack([hours, [0.0, 1.0]]), blank)["day"].dtype == X["day"].dtype
    message = (
        "Column 'day' must hold dates, as in the rows that were fitted, but row 1 holds 3.5. Pass the column as it was "
        "fitted, or mark the cell as missing."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        table.encode(blank.assign(day=[np.nan, 3.5]))
    with pytest.raises(ValueError, match="^Column 'day' must hold durations, as in the rows"):
        learned(FRAMES["timedelta64"]).encode(X)


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow", "python"])
@pytest.mark.parametrize("zone", ["Europe/Rome", "America/New_York"])
def test_times_with_a_zone_are_read_by_the_clock_that_they_show_where_the_fit_has_none(library, zone):
    """And times without one by that of the fit where it has one; they come back as they are."""
    shown = TIMES[10:14].reset_index(drop=True)
    plain, zoned = (pd.DataFrame({"day": days, "x": np.arange(4.0)}) for days in (shown, shown.dt.tz_localize(zone)))
    for fitted, later in [(TIMES, zoned), (TIMES.dt.tz_localize(zone), plain)]:
        table = learned(pd.DataFrame({"day": fitted, "x": np.linspace(0.0, 1.0, N)}))
        rows = {
            "pandas": lambda X: X,
            "polars": pl.from_pandas,
            "arrow": pa.Table.from_pandas,
            "python": lambda X: X.assign(day=pd.Series([one.to_pydatetime() for one in X["day"]], dtype=object)),
        }[library](later)
        days = np.asarray(table.encode(rows)["day"], dtype=float)
        midnights = shown.dt.normalize()
        np.testing.assert_allclose(
            days, (midnights - pd.Timestamp(0)).dt.days + (shown - midnights) / pd.Timedelta(days=1), rtol=1e-14
        )
        if library == "pandas":
            again = table.decode(np.column_stack([days, np.arange(4.0)]), rows)
            pd.testing.assert_series_equal(again["day"], rows["day"])


def test_times_of_several_zones_are_refused_by_name():
    at = datetime(2024, 3, 1, 10, tzinfo=UTC)
    X = pd.DataFrame({"day": pd.Series([at, None, at.astimezone(timezone(timedelta(hours=1)))], dtype=object)})
    message = (
        "Column 'day' must hold times of one time zone, but row 0 holds 2024-03-01 10:00:00+00:00 (time zone UTC) and "
        "row 2 holds 2024-03-01 11:00:00+01:00 (time zone UTC+01:00). Convert them to one, for example by "
        "pandas.to_datetime with utc=True."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        learned(X.assign(x=[1.0, 2.0, 3.0]))


def test_a_zone_without_a_name_is_read_as_utc():
    X = pd.DataFrame({"day": AWARE.dt.tz_convert(gettz("Europe/Rome")), "x": np.linspace(0.0, 1.0, N)})
    table = learned(X)
    again = table.decode(table.encode(X).to_numpy(float))["day"]
    assert str(again.dt.tz) == "UTC"
    assert (again == X["day"]).all()


def test_weights_choose_the_rows_that_tell_the_steps():
    X = FRAMES["datetime64[us]"].assign(day=DAYS)
    X.loc[0, "day"] += timedelta(seconds=1)
    assert learned(X).columns[0].dates.per_day == 86_400
    assert learned(X, weight=(np.arange(N) > 0) * 1.0).columns[0].dates.per_day == 1


def test_states_that_do_not_fit_together_are_refused():
    state = learned(FRAMES["aware"]).state()
    day = state["dates"][0][1]
    with pytest.raises(ValueError, match=exactly("dates have the kind 'date' and 7 steps in a day")):
        Table.from_state(state | {"dates": [[0, day | {"per_day": 7}]]})
    with pytest.raises(ValueError, match=exactly("a column of dates has levels")):
        Table.from_state(state | {"dates": [[1, day]], "levels": [None, [1.0]]})


def test_draws_of_a_date_average_to_the_one_in_the_middle():
    tables = [pd.DataFrame({"day": [date(2024, 3, one), None], "x": [1.0, 2.0]}) for one in (1, 9, 12)]
    assert average_tables(tables)["day"].tolist() == [date(2024, 3, 9), None]


# --- Estimators -----------------------------------------------------------------------------------------------------

SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 3, "tol": 1e3, "random_state": 0}
WHOLE = pd.concat({kind: FRAMES[kind]["day"] for kind in OTHERS}, axis=1).assign(x=np.linspace(0.0, 1.0, N))
TABLES = {
    "pandas": WHOLE.set_axis(range(7, 7 + N), axis=0),
    "polars": pl.from_pandas(WHOLE),
    "pyarrow": pa.Table.from_pandas(WHOLE, preserve_index=False),
}


@pytest.mark.parametrize("library", TABLES)
@pytest.mark.parametrize("make", [AutoencoderTransformer, pytest.param(VAETransformer, marks=pytest.mark.slow)])
def test_verbs_give_dates_back(make, library):
    X = TABLES[library]
    model = pickle.loads(pickle.dumps(make(**SMALL).fit(X)))
    filled = model.impute(X)
    tables = [filled, model.reconstruct(X), model.inverse_transform(model.transform(X)), model.explain(X[:3]).expected]
    if make is VAETransformer:
        tables += [model.sample(9, random_state=0), model.impute(X, n_draws=1)[0]]
        given = model.sample(2, random_state=0, given=X[:3])
        tables.append(given)
        known = np.repeat(np.array(list(X[:3]["aware"]), dtype=object), 2)
        assert list(given["aware"]) == known.tolist()
    for table in tables:
        assert type(table) is type(X)
        assert dtypes_of(table) == dtypes_of(X)
    if library == "pandas":
        assert filled.notna().all(axis=None)
        assert (filled == X)[X.notna()].stack().all()
        assert model.explain(X[:3]).to_frame(top=None).columns.tolist() == [
            "row",
            "column",
            "value",
            "expected",
            "share",
        ]
    assert np.isfinite(model.score_samples(X)).all()
    np.testing.assert_array_equal(model.score_samples(X[:1]), model.score_samples(X)[:1])
    assert isinstance(model.interpolate(X[:1], X[1:2], 3)[0, 0, 0], datetime)


def test_days_far_beyond_the_range_score_low(seed):
    X = pd.DataFrame({"day": DAYS.astype("datetime64[s]"), "x": np.random.default_rng(seed).normal(size=N)})
    model = AutoencoderTransformer(random_state=0, max_iter=5, tol=1e3).fit(X)
    scores = model.score_samples(X)
    for day in ("0001-01-01", "2300-01-01", "9999-12-31"):
        far = model.score_samples(X[:1].assign(day=np.array([day], dtype="datetime64[s]")))
        assert np.isfinite(far).all()
        assert far < scores.min()


def test_a_model_of_numbers_refuses_dates(seed):
    x = np.random.default_rng(seed).normal(size=N)
    model = AutoencoderTransformer(**SMALL).fit(pd.DataFrame({"day": x, "x": x}))
    message = (
        "Column 'day' must hold numbers or categories, but holds times, 2024-03-01 00:00:00 in row 0. Turn it into "
        "numbers first, for example into days since a fixed date."
    )
    later = pd.DataFrame({"day": pd.to_datetime(["2024-03-01"]), "x": [1.0]})
    with pytest.raises(ValueError, match=exactly(message)):
        model.predict(later)
    with pytest.raises(ValueError, match=exactly(message)):
        AutoencoderTransformer(**SMALL).fit(np.column_stack([x, x])).predict(later)


def test_reports_take_dates_as_numbers():
    X = TABLES["pandas"]
    model = AutoencoderTransformer(**SMALL).fit(X)
    assert np.isfinite(report(model, X).explained_variance).all()


def test_a_period_is_the_one_whose_start_is_nearest():
    """31 January lies beside February, of which the model has seen first days only."""
    X = FRAMES["period[M]"]
    days = [(date(2024, month, day) - date(1970, 1, 1)).days for month, day in ((1, 15), (1, 31), (2, 1), (2, 10))]
    decoded = learned(X).decode(np.column_stack([days, np.zeros(4)]))
    assert decoded.day.astype(str).tolist() == ["2024-01", "2024-02", "2024-02", "2024-02"]
