"""How dates are written as text: recognised, read and written again, and left alone where they may mean two days."""

import pickle
import re
import warnings
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skvae import AutoencoderTransformer, VAETransformer
from skvae._tables.date_texts import as_iso, date_format, iso_format_of, offset_of, written, zone_of
from skvae._tables.finding import find_table

MOMENTS = [datetime(2024, 1, 1, 9, 30) + timedelta(days=17 * step, minutes=step) for step in range(60)]
WAYS = {
    "0000-00-00": "%Y-%m-%d",
    "0000-00-00T00:00:00Z": "%Y-%m-%dT%H:%M:%SZ",
    "0000-00-00 00:00:00+00:00": "%Y-%m-%d %H:%M:%S+00:00",
    "0000-00-00T00:00+02:00": "%Y-%m-%dT%H:%M+02:00",
    "0000-00-00 00:00-05:30": "%Y-%m-%d %H:%M-05:30",
    "0000-00-00T00:00:00+0200": "%Y-%m-%dT%H:%M:%S+0200",
    "0000-00-00 00:00:00-03": "%Y-%m-%d %H:%M:%S-03",
    "DD.MM.YYYY": "%d.%m.%Y",
    "MM/DD/YYYY": "%m/%d/%Y",
    "DD-MM-YYYY 00:00": "%d-%m-%Y %H:%M",
    "YYYY/MM/DD 00:00:00": "%Y/%m/%d %H:%M:%S",
    "M/D/YYYY": "{0.month}/{0.day}/{0.year}",
    "D.M.YYYY": "{0.day}.{0.month}.{0.year}",
}


def texts_of(way):
    return [way.format(one) if "{" in way else one.strftime(way) for one in MOMENTS]


@pytest.mark.parametrize("format", WAYS)
def test_dates_are_recognised_read_and_written(format):
    texts = texts_of(WAYS[format])
    assert date_format([*texts, None]) == format
    form = iso_format_of(format)
    for moment, text in zip(MOMENTS, texts, strict=True):
        assert as_iso(text, format) == moment.isoformat()[: len(form.removesuffix(offset_of(format)))]
        iso = f"{moment:%Y-%m-%d}{text[text.index(form[10]) :]}" if len(form) > 10 else f"{moment:%Y-%m-%d}"
        assert written(iso, format) == text


@pytest.mark.parametrize(
    "texts",
    [
        ["01/02/2024", "03/04/2024", "12/11/2024"],  # of January or of February
        ["13/01/2024", "01/13/2024"],  # both ways
        ["13.01.2024", "13/02/2024"],  # written in two ways
        ["1/13/2024", "02/14/2024"],  # with zeros in front and without
        ["2/30/2024", "2/14/2024"],  # no day
        ["2024/13/01", "2024/01/13"],  # no month
        ["13/01/2024 10:00", "13/01/2024"],
        ["13/01/24", "14/01/24"],
        ["13/01/2024 9:00", "14/01/2024 9:00"],
        ["1.2", "1.13"],
        ["2024-01-31 10:00+02:00", "2024-01-31 10:00"],  # by the clock of UTC or by another
        ["2024-01-31 10:00+02:00", "2024-01-31 10:00+0200"],
        ["2024-01-31 10:00+02:00", "2024-01-31 10:00Z"],
        ["2024-01-31 10:00+02:00", "2024-01-31 10:00:00+02:00"],
        ["2024-02-30 10:00+02:00"],
        ["2024-02-30 10:00+02:00", "2024-02-28 10:00+01:00"],
        ["2024-01-31 10:00+24:00"],
        ["2024-01-31 10:00+02:60"],
        ["2024-01-31+02:00"],
        ["2024-01-31 10:00 +02:00"],
        [None],
        [],
    ],
)
def test_what_is_no_date_or_may_be_two(texts):
    assert date_format(texts) is None


def test_first_days_of_months_tell_the_month():
    assert date_format([f"01/{month:02d}/2024" for month in range(1, 13)]) == "DD/MM/YYYY"
    assert date_format([f"{month}/1/2024" for month in range(1, 13)]) == "M/D/YYYY"


def test_dates_beyond_those_of_a_format_are_none():
    assert as_iso("31.12.2024", "DD.MM.YYYY") == "2024-12-31"
    assert as_iso("2024-12-31 10:00", "DD.MM.YYYY") == "2024-12-31T10:00"  # ISO's is never another day
    assert as_iso("12/31/2024", "DD.MM.YYYY") is None
    assert as_iso("31.12.2024", None) is None
    assert as_iso("2024-12-31 10:00+02", "0000-00-00 00:00+02:30") == "2024-12-31T10:30:00"


@pytest.mark.parametrize("make", [AutoencoderTransformer, VAETransformer])
@pytest.mark.parametrize("format", ["MM/DD/YYYY", "D.M.YYYY"])
def test_estimators_give_texts_back(make, format):
    X = pd.DataFrame({"day": texts_of(WAYS[format]), "x": np.linspace(0.0, 1.0, len(MOMENTS))})
    X.loc[3, "day"] = None
    model = make(max_iter=2, tol=1e3, random_state=0).fit(X)
    for table in (model.reconstruct(X), model.impute(X)):
        assert table.day.dtype == X.day.dtype
        assert all(as_iso(text, format) for text in table.day)
    known = X.day.notna()
    assert model.impute(X).day[known].tolist() == X.day[known].tolist()
    twice = pd.DataFrame({"day": [f"{one:%Y-%m-%d}" for one in MOMENTS[5:9]], "x": X.x[5:9].to_numpy()})
    np.testing.assert_array_equal(model.score_samples(twice), model.score_samples(X[5:9]))


# --- Offsets from UTC -------------------------------------------------------------------------------------------------

SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 3, "tol": 1e3, "random_state": 0}
SUMMER = datetime(2024, 3, 31)
LIBRARIES = {
    "pandas": lambda X: X,
    "objects": lambda X: X.astype({"day": object}),
    "arrow in pandas": lambda X: X.astype({"day": "string[pyarrow]"}),
    "polars": pl.from_pandas,
    "pyarrow": lambda X: pa.Table.from_pandas(X, preserve_index=False),
}


def frame_of(texts, gaps=(3, 7)):
    X = pd.DataFrame({"day": pd.Series(texts, dtype="str"), "x": np.linspace(0.0, 1.0, len(texts))})
    X.loc[list(gaps), "day"] = None
    return X


def days_of(X):
    column = X["day"].to_pylist() if isinstance(X, pa.Table) else X["day"].to_list()
    return [None if pd.isna(one) else one for one in column]


def learned(X):
    return find_table(X, categorical_features="from_dtype", likelihood="auto")


UNREAD = (
    "Texts that cannot be read as the dates of their column count as missing: column {}. Correct them, mark the cells "
    "as missing, or name the column in 'categorical_features' when fitting."
)


def exactly(message):
    return f"^{re.escape(message)}$"


def days_since_1970(moments):
    return [(one - datetime(1970, 1, 1)) / timedelta(days=1) for one in moments]


def test_offsets_of_formats():
    known = {"Z": "+00:00", "+00:00": "+00:00", "-05:30": "-05:30", "+0200": "+02:00", "-03": "-03:00", "": None}
    for offset, zone in known.items():
        assert offset_of(f"0000-00-00T00:00{offset}") == offset_of(f"DD-MM-YYYY 00:00:00{offset}") == offset
        assert zone_of(f"0000-00-00T00:00{offset}") == zone
    assert zone_of(None) is zone_of("0000-00-00") is zone_of("DD-MM-YYYY") is None


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("offset", ["+00:00", "+02:00", "-05:30", "+0200"])
def test_an_offset_is_kept(offset, library):
    """Days count by the clock that the texts show; texts come back as they were, from a saved model too."""
    texts = [f"{one:%Y-%m-%d %H:%M:%S}{offset}" for one in MOMENTS]
    X = LIBRARIES[library](frame_of(texts))
    table = learned(X)
    values = np.column_stack([np.asarray(table.encode(X)[name], dtype=float) for name in ("day", "x")])
    expected = np.array(days_since_1970(MOMENTS))
    expected[[3, 7]] = np.nan
    np.testing.assert_allclose(values[:, 0], expected, rtol=1e-14)
    for again in (table, type(table).from_state(pickle.loads(pickle.dumps(table.state())))):
        for decoded in (again.decode(values, X), again.decode(values)):
            assert days_of(decoded) == days_of(X)


def test_what_pandas_writes_into_files_is_read(tmp_path):
    days = pd.Series(MOMENTS).dt.tz_localize("UTC")
    pd.DataFrame({"day": days, "x": np.linspace(0.0, 1.0, len(days))}).to_csv(tmp_path / "rows.csv", index=False)
    X = pd.read_csv(tmp_path / "rows.csv")
    assert X.day[0] == "2024-01-01 09:30:00+00:00"
    assert learned(X).columns[0].dates.format == "0000-00-00 00:00:00+00:00"


def test_several_offsets_are_instants_in_utc():
    """An hour is an hour across the change of the clocks, in any order of the rows; known texts stay as they are."""
    texts = [f"{one:%Y-%m-%d %H:%M:%S}+0{1 + (one >= SUMMER)}:00" for one in MOMENTS]
    X = frame_of(texts)
    for rows in (X, X[::-1]):
        assert learned(rows).columns[0].dates.format == "0000-00-00 00:00:00+00:00"
    instants = [one - timedelta(hours=1 + (one >= SUMMER)) for one in MOMENTS]
    days = learned(X).encode(X)["day"]
    np.testing.assert_allclose(days.dropna(), np.delete(days_since_1970(instants), [3, 7]), rtol=1e-14)
    model = AutoencoderTransformer(**SMALL).fit(X)
    filled, known = model.impute(X), X.day.notna()
    assert filled.day[known].tolist() == X.day[known].tolist()
    assert filled.day[~known].str.endswith("+00:00").all()
    west = [text.replace("+", "-") for text in texts]
    assert learned(frame_of(west)).columns[0].dates.format == "0000-00-00 00:00:00+00:00"


@pytest.mark.parametrize("offset", ["+02:00", "-0530", "Z"])
def test_rows_of_another_offset_are_the_same_instants(offset):
    """Those without one are read by the clock of the column, and so are plain times."""
    X = frame_of([f"{one:%Y-%m-%dT%H:%M:%S}{offset}" for one in MOMENTS])
    model = pickle.loads(pickle.dumps(AutoencoderTransformer(**SMALL).fit(X)))
    expected = model.score_samples(X[10:14])
    clock = {"+02:00": timezone(timedelta(hours=2)), "-0530": timezone(-timedelta(hours=5, minutes=30)), "Z": UTC}[
        offset
    ]
    aware = [one.replace(tzinfo=clock) for one in MOMENTS[10:14]]
    east = timezone(timedelta(hours=9, minutes=45))
    later = {
        "the east": [str(one.astimezone(east)) for one in aware],
        "UTC": [f"{one.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for one in aware],
        "several": [
            f"{one.astimezone(zone):%Y-%m-%d %H:%M%z}" for one, zone in zip(aware, [UTC, east] * 2, strict=True)
        ],
        "none": [str(one) for one in MOMENTS[10:14]],
    }
    if offset != "Z":
        later["times"] = pd.to_datetime([one.astimezone(UTC) for one in aware])
    for name, days in later.items():
        rows = pd.DataFrame({"day": days, "x": X.x[10:14].to_numpy()})
        np.testing.assert_array_equal(model.score_samples(rows), expected, err_msg=name)
        if name == "times":
            again = learned(X).decode(learned(X).encode(rows).to_numpy(float), rows)
            pd.testing.assert_series_equal(again["day"], rows["day"])


def test_a_column_without_a_clock_takes_no_offset():
    """Nor one with a clock a moment before the year 1; these count as missing, and a warning says so."""
    table = learned(frame_of([f"{one:%Y-%m-%d %H:%M}" for one in MOMENTS]))
    aware = learned(frame_of([f"{one:%Y-%m-%d %H:%M}+00:00" for one in MOMENTS]))
    for of, text in (
        (table, "2024-01-31 10:00+02:00"),
        (table, "0001-01-01 00:00+02:00"),
        (aware, "0001-01-01 00:00+02:00"),
    ):
        with pytest.warns(UserWarning, match=exactly(UNREAD.format(f"'day' (1: '{text}')"))):
            assert np.isnan(of.encode(pd.DataFrame({"day": [text], "x": [0.0]}))["day"]).all()


def test_categories_and_few_texts_with_offsets_are_categories():
    X = frame_of([f"{one:%Y-%m-%d %H:%M}+02:00" for one in MOMENTS[:20]] * 2, gaps=())
    assert learned(X).kinds == ("date", "number")
    assert learned(X.astype({"day": "category"})).n_levels == (20, 0)
    assert learned(pd.concat([X[:19], X[:19]])).n_levels == (19, 0)


@pytest.mark.parametrize("make", [AutoencoderTransformer, VAETransformer])
def test_estimators_give_offsets_back(make):
    X = frame_of([f"{one:%Y-%m-%d %H:%M:%S}-05:30" for one in MOMENTS])
    model = make(**SMALL).fit(X)
    tables = [model.impute(X), model.reconstruct(X), model.inverse_transform(model.transform(X))]
    tables.append(model.explain(X[:4]).expected)
    if make is VAETransformer:
        tables += [model.sample(9, random_state=0), model.sample(2, random_state=0, given=X[:3])]
    for table in tables:
        assert table.day.dtype == X.day.dtype
        assert table.day.str.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d-05:30").all()
    known = X.day.notna()
    assert tables[0].day[known].tolist() == X.day[known].tolist()


# --- Broken cells ---------------------------------------------------------------------------------------------------

BROKEN = {
    "n/a": "n/a",
    "no day": "2023-02-30",
    "no month": "2020-13-45",
    "a number": "20240101",
    "noted": "spring 2023",
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("way", ["0000-00-00", "MM/DD/YYYY", "D.M.YYYY", "0000-00-00T00:00+02:00"])
def test_broken_cells_among_dates_count_as_missing(library, way):
    """As pandas.to_datetime with errors="coerce" has it; one warning names the column and quotes some."""
    texts = texts_of(WAYS[way])
    texts[10:13] = ["n/a", "2020-13-45", "n/a"]
    X = LIBRARIES[library](frame_of(texts))
    with pytest.warns(UserWarning, match=exactly(UNREAD.format("'day' (3: 'n/a', '2020-13-45')"))) as told:
        table = learned(X)
    assert (len(told), table.columns[0].dates.format, table.kinds) == (1, way, ("date", "number"))
    with pytest.warns(UserWarning, match=exactly(UNREAD.format("'day' (3: 'n/a', '2020-13-45')"))):
        days = np.asarray(table.encode(X)["day"], dtype=float)
    assert np.isnan(days).nonzero()[0].tolist() == [3, 7, 10, 11, 12]
    expected = [as_iso(text, way) for text in texts_of(WAYS[way])]
    whole = days_since_1970([datetime.fromisoformat(one) for one in expected])
    np.testing.assert_allclose(days[20:], whole[20:], rtol=1e-14)


@pytest.mark.parametrize("broken", BROKEN)
def test_verbs_take_broken_cells_as_missing(broken):
    texts = texts_of("%Y-%m-%d")
    X = frame_of([*texts[:-1], BROKEN[broken]])
    told = exactly(UNREAD.format(f"'day' (1: '{BROKEN[broken]}')"))
    with pytest.warns(UserWarning, match=told) as fitting:
        model = VAETransformer(**SMALL).fit(X)
    assert len(fitting) == 1
    with pytest.warns(UserWarning, match=told):
        filled = model.impute(X)
    assert all(as_iso(text, None) for text in filled.day)
    gone = X.assign(day=X.day.where(X.day != BROKEN[broken]))
    np.testing.assert_array_equal(VAETransformer(**SMALL).fit(gone).transform(gone), model.transform(gone))
    for verb in ("score_samples", "transform", "reconstruct"):
        with pytest.warns(UserWarning, match=told) as later:
            np.testing.assert_array_equal(getattr(model, verb)(X), getattr(model, verb)(gone))
        assert len(later) == 1
    message = f"Column 'day' of 'given' must hold dates, but row 1 holds '{BROKEN[broken]}'. Leave it blank to have"
    with pytest.raises(ValueError, match=exactly(f"{message} one drawn.")):
        model.sample(1, given=pd.DataFrame({"day": [texts[0], BROKEN[broken]]}))


def test_nine_in_ten_texts_must_be_dates():
    """A column of other text that holds some dates is none of dates; nor is one of as many notes as dates."""
    texts = texts_of("%Y-%m-%d")
    for n_others, is_dates in ((6, True), (7, False)):
        some = [*texts[n_others:], *[f"note {one}" for one in range(n_others)]]
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            assert (learned(frame_of(some, gaps=())).kinds[0] == "date") == is_dates
    often = ["never"] * 20 + texts  # another text in one row of four
    assert learned(frame_of(often, gaps=())).n_levels == (61, 0)
    weight = np.repeat([0.0, 1.0], [20, 60])  # which does not count
    with pytest.warns(UserWarning, match="^Texts that cannot be read as the dates of their column"):
        table = find_table(
            frame_of(often, gaps=()), categorical_features="from_dtype", likelihood="auto", weight=weight
        )
    assert table.kinds == ("date", "number")


@pytest.mark.parametrize("clock", [None, UTC])
def test_texts_among_times_of_python_are_broken_cells(clock):
    """As spreadsheets are read: times beside "n/a", a date without a time and one as text."""
    times = [one.replace(tzinfo=clock) for one in MOMENTS]
    held = [*times[:-4], "n/a", None, MOMENTS[-2].date(), f"{MOMENTS[-1]:%Y-%m-%d %H:%M}"]
    X = pd.DataFrame({"day": pd.Series(held, dtype=object), "x": np.linspace(0.0, 1.0, len(held))})
    with pytest.warns(UserWarning, match=exactly(UNREAD.format("'day' (1: 'n/a')"))):
        table = learned(X)
    with pytest.warns(UserWarning, match=exactly(UNREAD.format("'day' (1: 'n/a')"))):
        days = table.encode(X)["day"].to_numpy()
    expected = np.array(days_since_1970(MOMENTS))
    expected[-4:-2] = np.nan
    expected[-2] = np.floor(expected[-2])
    np.testing.assert_allclose(days, expected, rtol=1e-14)
    decoded = table.decode(np.column_stack([expected, X["x"]]), X)["day"].tolist()
    assert decoded[:-4] == times[:-4]
    assert (decoded[-4:-2], decoded[-1]) == ([None, None], times[-1])
    message = "Column 'day' must hold numbers or categories, but holds times, .* in row 0"
    with pytest.raises(ValueError, match=message):  # as many texts as times are no broken cells
        learned(X.assign(day=pd.Series([*held[:30], *["n/a"] * 30], dtype=object)))


def test_blank_texts_among_dates_are_missing():
    """However many, and without a word."""
    X = frame_of([*texts_of("%Y-%m-%d"), *[""] * 60, "  "])
    days = learned(X).encode(X)["day"].to_numpy()
    assert np.isnan(days).nonzero()[0].tolist() == [3, 7, *range(60, 121)]


def test_the_other_order_of_day_and_month_is_a_broken_cell():
    """Where nearly all rows tell the order; few of either tell nothing."""
    texts = [f"{one:%d/%m/%Y}" for one in MOMENTS]
    assert date_format([*texts, "12/31/2023"]) == "DD/MM/YYYY"
    assert date_format([*texts, "32/13/2023"]) == "DD/MM/YYYY"
    assert date_format([*texts, *[f"{one:%m/%d/%Y}" for one in MOMENTS[:20]]]) is None
    assert date_format([*texts, "1/2/2023"]) == "DD/MM/YYYY"  # one that lacks its zeros is the same day
    assert as_iso("1/2/2023", "DD/MM/YYYY") == "2023-02-01"


# --- Time zones of dtypes beside offsets in text ----------------------------------------------------------------------

ROME = pd.Series(MOMENTS).dt.tz_localize("UTC").dt.tz_convert("Europe/Rome")
AWARE = {
    "pandas": lambda days: pd.DataFrame({"day": days, "x": np.linspace(0.0, 1.0, len(days))}),
    "objects": lambda days: pd.DataFrame(
        {"day": pd.Series([one.to_pydatetime() for one in days], dtype=object), "x": np.linspace(0.0, 1.0, len(days))}
    ),
    "polars": lambda days: pl.from_pandas(AWARE["pandas"](days)),
    "pyarrow": lambda days: pa.Table.from_pandas(AWARE["pandas"](days), preserve_index=False),
}


def as_texts(days, zone, way):
    return frame_of([format(one.to_pydatetime(), way) for one in days.dt.tz_convert(zone)], gaps=())


TEXTS = {
    "Z": as_texts(ROME, "UTC", "%Y-%m-%dT%H:%M:%SZ"),
    "UTC": as_texts(ROME, "UTC", "%Y-%m-%d %H:%M:%S+00:00"),
    "Rome": frame_of([str(one) for one in ROME], gaps=()),  # of two offsets
    "India": as_texts(ROME, "Asia/Kolkata", "%Y-%m-%dT%H:%M:%S+0530"),
}


@pytest.mark.parametrize("library", AWARE)
@pytest.mark.parametrize("kind", TEXTS)
def test_texts_with_an_offset_are_the_instants_of_a_dtype_with_a_zone(kind, library):
    """Whichever of the two was fitted."""
    aware = AWARE[library](ROME)
    for fitted, later in ((aware, TEXTS[kind]), (TEXTS[kind], aware)):
        table = learned(fitted)
        own, other = (np.asarray(table.encode(X)["day"], dtype=float) for X in (fitted, later))
        np.testing.assert_allclose(other, own, rtol=0, atol=1e-9)


@pytest.mark.parametrize("zone", [None, "+02:00"])
def test_later_times_without_a_zone_are_by_the_clock_of_the_column(zone):
    text = [f"{one:%Y-%m-%dT%H:%M:%S}{zone or 'Z'}" for one in MOMENTS]
    plain = frame_of(text).assign(day=pd.Series(MOMENTS))
    np.testing.assert_allclose(learned(frame_of(text)).encode(plain)["day"], days_since_1970(MOMENTS), rtol=1e-14)


def test_texts_in_utc_of_an_earlier_version_have_a_zone():
    """Which held None for those that end in "Z"."""
    X = TEXTS["Z"]
    state = learned(X).state()
    state["dates"][0][1]["zone"] = None
    table = type(learned(X)).from_state(state)
    np.testing.assert_array_equal(table.encode(AWARE["pandas"](ROME))["day"], table.encode(X)["day"])
