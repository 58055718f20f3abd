"""A frame in, a frame out: every verb that returns rows gives columns, dtypes and row labels back as they came."""

import pickle
import re
from datetime import time

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from marks import slow_for_vae

from skvae import AutoencoderTransformer, VAETransformer
from skvae._tables.form import dtypes_of

# A few epochs do not converge, and need not here.
pytestmark = pytest.mark.filterwarnings("ignore:The loss still improved")

ESTIMATORS = {"autoencoder": AutoencoderTransformer, "vae": VAETransformer}


SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
# The choice among mixtures takes half of so short a fit.
OWN = {"autoencoder": {}, "vae": {"latent_density": 1, "n_draws": 4}}


@pytest.fixture(params=ESTIMATORS)
def make(request):
    """Both estimators, with a training that takes a moment."""
    return lambda **given: ESTIMATORS[request.param](**(SMALL | OWN[request.param] | given))


def exactly(message):
    return f"^{re.escape(message)}$"


def whole_numbers(n_samples=60):
    rng = np.random.default_rng(0)
    z = rng.normal(size=n_samples)
    return pd.DataFrame(
        {
            "small": np.clip(3 + 3 * z, 0, 255).astype("uint8"),
            "count": rng.poisson(np.exp(1 + z)),
            "flag": z > 0,
            "nullable": pd.array((5 * z).round(), dtype="Int64"),
            "single": z.astype("float32"),
            "double": z + rng.normal(size=n_samples),
        },
        index=range(7, 7 + n_samples),
    )


def with_text(frame):
    return frame.assign(word=np.where(frame["double"] > 0, "up", "down"))


def arrow_frame(frame):
    return frame.convert_dtypes(dtype_backend="pyarrow")


TABLES = {
    "numbers": whole_numbers,
    "with text": lambda: with_text(whole_numbers()),
    "arrow": lambda: arrow_frame(with_text(whole_numbers())),
    "objects": lambda: whole_numbers().astype(object),
    "categories": lambda: whole_numbers().astype({"count": "category", "flag": "category"}),
    "polars": lambda: pl.from_pandas(whole_numbers()),
    "polars with text": lambda: pl.from_pandas(with_text(whole_numbers())),
    "pyarrow": lambda: pa.Table.from_pandas(with_text(whole_numbers()), preserve_index=False),
}


def rows_of(model, X):
    """What each verb that returns rows gives."""
    Z = model.transform(X)
    tables = {
        "reconstruct": model.reconstruct(X),
        "inverse_transform": model.inverse_transform(Z),
        "impute": model.impute(X),
        "explain": model.explain(X[:3]).expected,
    }
    if isinstance(model, VAETransformer):
        tables |= {"sample": model.sample(9, random_state=0), "draws": model.impute(X, n_draws=2)[1]}
    return tables


def named(X):
    return list(X.column_names if isinstance(X, pa.Table) else X.columns)


@pytest.mark.parametrize("kind", TABLES)
def test_rows_come_back_as_the_frame_that_came(make, kind):
    X = TABLES[kind]()
    model = make().fit(X)
    for again in (model, pickle.loads(pickle.dumps(model))):
        for verb, table in rows_of(again, X).items():
            assert isinstance(table, type(X)), verb
            assert named(table) == named(X), verb
            assert dtypes_of(table) == dtypes_of(X), verb
            if isinstance(X, pd.DataFrame) and len(table) == len(X) and verb != "inverse_transform":
                assert (table.index == X.index).all(), verb


def test_integers_are_whole_and_none_leaves_its_range(make):
    X = whole_numbers()
    tables = rows_of(make().fit(X), X)
    for table in tables.values():
        assert table["count"].dtype == "int64"
        assert table["small"].between(0, 255).all()
    assert (tables["impute"] == X).all(axis=None)


def test_rows_of_an_array_stay_an_array(make):
    X = whole_numbers().drop(columns="nullable").to_numpy(dtype=float)
    for table in rows_of(make().fit(X), X).values():
        assert type(table) is np.ndarray
        assert table.dtype == np.float64
    whole = np.arange(40.0).reshape(20, 2) % 3
    for table in rows_of(make(categorical_features=[0]).fit(whole), whole).values():
        assert table.dtype == np.float64
        assert set(table[:, 0]) <= {0.0, 1.0, 2.0}


def test_the_table_at_hand_decides_not_that_of_the_fit(make):
    """Frames for a model of arrays, arrays for a model of frames."""
    X = whole_numbers()[["small", "double"]]
    with pytest.warns(UserWarning, match="^X has feature names, but"):
        again = make().fit(X.to_numpy()).reconstruct(X)
    assert (again.dtypes == X.dtypes).all()
    model = make().fit(X)
    with pytest.warns(UserWarning, match="^X does not have valid feature names, but") as told:
        assert type(model.reconstruct(X.to_numpy())) is np.ndarray
    assert len(told) == 1
    assert (model.reconstruct(pl.from_pandas(X)).schema) == pl.from_pandas(X).schema


def test_codes_in_a_frame_give_rows_their_labels(make):
    X = whole_numbers()
    model = make().set_output(transform="pandas").fit(X)
    assert (model.inverse_transform(model.transform(X)).index == X.index).all()


def test_labels_of_any_kind_come_back(make):
    """Numbers, times, and pairs; a pickle holds them as plain values."""
    X = whole_numbers()[["small", "double"]]
    for labels in ([3, 4], pd.to_datetime(["2026-01-01", "2026-02-01"]), [("a", 1), ("a", 2)]):
        table = X.set_axis(labels, axis=1)
        model = pickle.loads(pickle.dumps(make().fit(table)))
        assert list(model.inverse_transform(model.transform(table)).columns) == list(table.columns)
        assert model.reconstruct(table).columns.equals(table.columns)


# --- Columns without any value in the rows at hand ------------------------------------------------------------------


@pytest.fixture(scope="module", params=ESTIMATORS)
def fitted(request):
    """A model of numbers, text and categories, and its table."""
    X = with_text(whole_numbers()).assign(kind=lambda frame: frame["word"].astype("category"))
    return ESTIMATORS[request.param](**SMALL, **OWN[request.param]).fit(X), X


@pytest.mark.parametrize(
    ("column", "blank"),
    [
        ("word", np.nan), ("flag", np.nan), ("kind", np.nan), ("word", None), ("flag", pd.NA),
        *(pytest.param(*rest, marks=pytest.mark.slow) for rest in [("flag", None), ("kind", None), ("word", pd.NA)]),
        pytest.param("kind", pd.NA, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_column_that_is_all_blank_gets_the_dtype_of_the_fit(fitted, column, blank):
    """``read_csv`` gives float64 for it, whatever it held elsewhere."""
    model, X = fitted
    rows = X[:4].assign(**{column: blank})
    rows = rows.astype({column: float}) if blank is np.nan else rows
    for table in (model.reconstruct(rows), model.explain(rows).expected, model.impute(rows)):
        assert set(table[column]) <= set(X[column])
        if blank is np.nan:
            assert table[column].dtype == X[column].dtype
        assert (table.drop(columns=column).dtypes == rows.drop(columns=column).dtypes).all()


def test_a_category_without_levels_keeps_the_dtype_of_its_levels(make):
    X = pd.DataFrame(
        {
            "x": np.linspace(0.0, 1.0, 40),
            "none": pd.Series(pd.Categorical([np.nan] * 40, categories=pd.Index([], dtype="float64"))),
        }
    )
    with pytest.warns(UserWarning, match="^Column 'none' holds no value"):
        model = make().fit(X)
    assert model.impute(X).dtypes.equals(X.dtypes)


def test_columns_of_nulls_get_the_dtype_of_the_fit_in_polars(make):
    X = with_text(whole_numbers())
    rows = pl.from_pandas(X[:10]).with_columns([pl.lit(None).alias(name) for name in ("word", "flag")])
    assert make().fit(X).impute(rows).schema["flag"] == pl.Boolean


def test_a_column_of_integers_that_the_fit_saw_empty_stays_missing(make):
    X = whole_numbers()[["small", "double"]]
    with pytest.warns(UserWarning, match="^Column 'small' holds no value"):
        model = make().fit(X.assign(small=np.nan))
    assert model.reconstruct(X)["small"].isna().all()


# --- Numbers in a dtype of categories -------------------------------------------------------------------------------


BLANK = {
    "pandas": {
        "words": pd.Series([None] * 20, dtype=pd.CategoricalDtype(["a", "b"])),
        "open": pd.Series([None] * 20, dtype="category"),
        "text": pd.Series(pd.arrays.ArrowExtensionArray(pa.nulls(20, pa.large_string()))),
    },
    "polars": {
        "words": pl.Series([None] * 20, dtype=pl.Enum(["a", "b"])),
        "open": pl.Series([None] * 20, dtype=pl.Categorical),
        "text": pl.Series([None] * 20, dtype=pl.String),
    },
    "pyarrow": {"words": pa.nulls(20, pa.dictionary(pa.int8(), pa.string())), "whole": pa.nulls(20, pa.uint64())},
}


@pytest.mark.filterwarnings("ignore:.* holds no value in any training row:UserWarning")
@pytest.mark.parametrize("library", BLANK)
def test_categories_that_the_fit_saw_empty_stay_missing_where_they_are_no_levels(library):
    table = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}[library]
    X = table({"x": np.arange(20) % 7 / 2} | BLANK[library])
    model = AutoencoderTransformer(categorical_features=None, **SMALL | {"max_iter": 1}).fit(X)
    for verb, rows in rows_of(model, X).items():
        assert dtypes_of(rows) == dtypes_of(X), verb
        empty = rows if library == "pandas" else rows.to_pandas()
        assert empty.isna().sum().tolist() == [0] + [len(rows)] * len(BLANK[library]), verb


@pytest.mark.parametrize("values", [[1, 2, 5], pytest.param([0.5, 1.25, 2.0], marks=pytest.mark.slow), [False, True]])
@slow_for_vae
def test_numbers_in_categories_are_levels_or_numbers_all_the_way(make, values):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"k": pd.Categorical(rng.choice(values, 90)), "x": rng.normal(size=90)})
    X.loc[::9, "k"] = np.nan
    for listed in ("from_dtype", ["k"], None, []):
        model = make(categorical_features=listed).fit(X)
        for verb, table in rows_of(model, X[:10]).items():
            assert table["k"].dtype == X["k"].dtype, verb
            assert set(table["k"]) <= set(values), verb
            assert type(table["k"].tolist()[0]) is type(values[0])


# --- Masks, complex numbers, integers beyond the floats -------------------------------------------------------------


def test_masked_cells_are_missing_ones(make, seed):
    """In every verb and kind of number, in rows that are masked arrays of their own, and in codes and weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(80, 3))
    mask = rng.random(X.shape) < 0.2
    masked, gaps = np.ma.masked_array(np.where(mask, -999.0, X), mask), np.where(mask, np.nan, X)
    model, other = make().fit(masked), make().fit(gaps)
    for verb in ("score_samples", "transform", "reconstruct", "impute", "predict", "p_values"):
        np.testing.assert_array_equal(getattr(model, verb)(masked), getattr(other, verb)(gaps))
    np.testing.assert_array_equal(model.score_samples(list(masked)), other.score_samples(gaps))
    whole = rng.integers(0, 9, size=X.shape)
    np.testing.assert_array_equal(
        make().fit(np.ma.masked_array(whole, mask)).mean_, make().fit(np.where(mask, np.nan, whole)).mean_
    )
    words = np.ma.masked_array(rng.choice(["up", "down"], size=X.shape), mask)
    assert set(make().fit(words).impute(words).ravel()) == {"up", "down"}
    with pytest.raises(ValueError, match="^Codes must be finite, but component 0 of row 0 is nan"):
        model.inverse_transform(np.ma.masked_array(model.transform(X), np.arange(160).reshape(80, 2) == 0))
    with pytest.raises(ValueError, match="^Input sample_weight contains NaN"):
        model.fit(X, sample_weight=np.ma.masked_array(np.ones(80), np.arange(80) < 5))


def test_complex_columns_are_refused_by_name(make):
    X = whole_numbers()[["single", "double"]]
    message = (
        "Column 'a' must hold numbers or categories, but holds complex numbers, (1+2j) in row 0. Replace it by two "
        "columns, its real and its imaginary part, or by its absolute value."
    )
    for kind in (complex, object):
        with pytest.raises(ValueError, match=exactly(message)):
            make().fit(X.assign(a=pd.Series([1 + 2j] * len(X), dtype=kind, index=X.index)))
    model = make().fit(X.assign(a=X["double"]))
    with pytest.raises(ValueError, match=exactly(message)):
        model.score_samples(X.assign(a=1 + 2j))


def test_integers_that_floats_cannot_tell_apart_are_named(make):
    n = 40
    X = pd.DataFrame({"id": 2**60 + np.arange(n), "x": np.linspace(0.0, 1.0, n)})
    expected = (
        "Integers beyond 2**53 are rounded to the nearest floating-point number, which makes different ones equal in "
        "column {} (40 of them become 1). Drop identifiers, list them in 'categorical_features', or subtract a "
        "constant first."
    )
    for table in (X, X.astype({"id": "Int64"}), X.astype(object), pl.from_pandas(X), pa.Table.from_pandas(X)):
        with pytest.warns(UserWarning, match=exactly(expected.format("'id'"))) as told:
            make().fit(table)
        assert sum("2**53" in str(warning.message) for warning in told) == 1
    with pytest.warns(UserWarning, match=exactly(expected.format("'x0'"))):
        make().fit(X["id"].to_numpy()[:, None])
    make().fit(X.assign(id=2**60 + 10**9 * np.arange(n)))  # nanoseconds stay apart


@pytest.mark.parametrize("base", [2**60, pytest.param(2**63 + 2**40, marks=pytest.mark.slow)])
@slow_for_vae
def test_levels_beyond_the_floats_come_back_exactly(make, base):
    levels = [base, base + 1, base + 2]
    numbers = np.array(levels * 8, dtype="uint64")
    tables = {
        "numbers": pd.DataFrame({"k": numbers}),
        "nullable": pd.DataFrame({"k": pd.array(numbers, "UInt64")}),
        "objects": pd.DataFrame({"k": pd.Series(numbers.tolist(), dtype=object)}),
        "categories": pd.DataFrame({"k": pd.Categorical(numbers.tolist())}),
        "arrow": pd.DataFrame({"k": pd.Series(numbers, dtype="uint64[pyarrow]")}),
        "polars": pl.DataFrame({"k": pl.Series(numbers)}),
    }
    for kind, X in tables.items():
        model = make(likelihood="categorical").fit(X)
        for table in rows_of(pickle.loads(pickle.dumps(model)), X).values():
            assert set(table["k"].to_list()) <= set(levels), kind
            assert dtypes_of(table) == dtypes_of(X), kind
    for X in (numbers[:, None], numbers[:, None].tolist()):
        found = make(likelihood="categorical").fit(X).reconstruct(X)
        assert set(found.ravel().tolist()) <= set(levels)


@pytest.mark.filterwarnings("ignore:false_alarm_rate=:UserWarning")  # of few rows
def test_new_levels_are_told_once_and_cut_short(make):
    X = pd.DataFrame({"k": ["a", "b"] * 20, "n": pd.Categorical([1, 2] * 20), "x": np.linspace(0.0, 1.0, 40)})
    rows = pd.DataFrame({"k": ["z" * 60, "c", "d", "e"], "n": pd.Categorical([7, 1, 2, 1]), "x": 0.5})
    model = make().fit(X)
    for verb in ("score_samples", "predict", "explain", "score", "impute", "reconstruct", "transform", "partial_fit"):
        scored = verb in ("score_samples", "predict", "explain", "score")
        fate = "are scored no higher than the rarest one" if scored else "count as missing"
        message = (
            f"Levels that no fitted row has {fate}: column 'k' ('"
            + "z" * 36
            + "..., 'c', 'd' and 1 more), 'n' (7). Fit on rows with all levels, or replace them by NaN."
        )
        with pytest.warns(UserWarning, match=exactly(message)) as told:
            getattr(model, verb)(rows)
        assert len([warning for warning in told if "Levels" in str(warning.message)]) == 1


# --- What cannot be used --------------------------------------------------------------------------------------------

DAYS = pd.date_range("2026-01-01", periods=3)
REFUSED = {
    "times": (pd.Series([time(7)] * 3), "holds times, 07:00:00 in row 0"),
    "intervals": (pd.Series(pd.interval_range(0, 3), dtype=object), "holds intervals, (0, 1] in row 0"),
    "complex": (pd.Series([1j, 2j, 3j]), "holds complex numbers, 1j in row 0"),
    "tuples": (pd.Series([None, (1, 2), (3, 4)]), "holds nested values, (1, 2) in row 1"),
    "dicts": (pd.Series([{"a": 1}] * 3), "holds nested values, {'a': 1} in row 0"),
    "lists": (pd.Series([[1], [2], [3]]), "holds nested values, [1] in row 0"),
    "objects of periods": (pd.Series(DAYS.to_period("D"), dtype=object), "holds periods, 2026-01-01 in row 0"),
    "arrow times": (pd.Series([time(7)] * 3).astype("time64[us][pyarrow]"), "holds times, 07:00:00 in row 0"),
    "arrow lists": (
        pd.Series([[1]] * 3, dtype=pd.ArrowDtype(pa.list_(pa.int8()))),
        "holds nested values, [1] in row 0",
    ),
    "no times at all": (pd.Series([None] * 3, dtype="time64[us][pyarrow]"), "its dtype is time64["),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_columns_that_no_model_learns_from_are_refused_by_name(make, kind):
    """Beside nullable numbers too, whose arrays NumPy cannot join with times."""
    column, holds = REFUSED[kind]
    X = pd.DataFrame({"x": [1.0, 2.0, 3.0], "n": pd.array([1, 2, None], "Int64"), "bad": column})
    start = f"Column 'bad' must hold numbers or categories, but {holds}"
    nullable = X.drop(columns="bad").convert_dtypes().assign(bad=column)
    for table in (X, nullable, X[["bad"]]):
        with pytest.raises(ValueError, match=f"^{re.escape(start)}"):
            make().fit(table)
    model = make().fit(X.assign(bad=[1.0, 2.0, 4.0]))
    for verb in ("score_samples", "impute", "explain"):
        with pytest.raises(ValueError, match=f"^{re.escape(start)}"):
            getattr(model, verb)(X)


def test_all_bad_columns_are_named_in_one_message(make):
    X = pd.DataFrame(
        {
            "day": DAYS.to_period("D").astype(object),
            "x": [1.0, 2.0, 3.0],
            "thin": pd.arrays.SparseArray([0.0, 0.0, 1.0]),
            "mixed": ["a", 1, None],
            "pair": [(1, 2)] * 3,
        }
    )
    message = (
        "Column 'day' must hold numbers or categories, but holds periods, 2026-01-01 in row 0. Turn it into "
        "periods of one dtype by pandas.PeriodIndex, or into numbers.\n"
        "Column 'thin' must be dense, but its dtype is Sparse[float64, nan]. Make it dense first: "
        "X['thin'].sparse.to_dense().\n"
        "Column 'mixed' must hold one kind of value, but row 0 holds 'a' and row 1 holds 1. Make them one kind, for "
        "example with astype(str), or mark one of them as missing.\n"
        "Column 'pair' must hold numbers or categories, but holds nested values, (1, 2) in row 0. Make a column of "
        "each of their parts, or drop it."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        make().fit(X)
    many = pd.DataFrame({f"d{index}": DAYS.to_period("D").astype(object) for index in range(60)})
    with pytest.raises(ValueError, match=r"\nThe same holds for 10 more columns\.$"):
        make().fit(many)


def test_text_that_python_alone_reads_as_numbers_is_refused_where_it_is_no_category(make):
    X = pd.DataFrame({"k": ["1_0", "2_0", "3_0"], "x": [1.0, 2.0, 3.0]})
    message = (
        "Column 'k' must hold numbers, as it is no category of this model, but row 0 holds the text '1_0'. Turn the "
        "column into numbers first, for example by pandas.to_numeric, or fit with it in 'categorical_features'."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        make(categorical_features=["x"]).fit(X)


@slow_for_vae
def test_floats_with_gaps_may_be_categories(make):
    """Every NaN is an object of its own; none becomes a category, or two."""
    X = pd.DataFrame({"k": [1.0, np.nan, 2.0, np.nan] * 8, "x": np.linspace(0.0, 1.0, 32)})
    for table in (X, X.astype({"k": "category"}), pl.from_pandas(X)):
        for verb, rows in rows_of(make(categorical_features=[0]).fit(table), table).items():
            assert set(rows["k"].to_list()) <= {1.0, 2.0}, verb
            assert dtypes_of(rows) == dtypes_of(table), verb


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["down", "flat", "up"]), pl.Decimal(12, 3), pl.Int128])
def test_dtypes_of_polars_come_back(make, dtype):
    values = ["up", "down", None, "down"] if dtype in (pl.Categorical, pl.Enum) else [1, 2, None, 4]
    X = pl.DataFrame({"k": pl.Series(values * 8, dtype=dtype), "x": np.linspace(0.0, 1.0, 32)})
    for verb, table in rows_of(make().fit(X), X).items():
        assert table.schema == X.schema, verb
        assert verb == "impute" or not table["k"].null_count(), verb


def test_named_categories_of_polars_come_back(make):
    named = pl.Categorical("lexical")  # an order before polars 1.32, a name since
    X = pl.DataFrame({"k": pl.Series(["up", "down"] * 8, dtype=named), "x": np.linspace(0.0, 1.0, 16)})
    for table in rows_of(make().fit(X), X).values():
        assert table.schema == X.schema


def test_a_column_may_have_the_name_of_a_method_of_other_libraries():
    """Which library a table is of is asked of its class: a DataFrame has each column for an attribute."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(60, 3)), columns=["compute", "schema", "to_series"])
    model = AutoencoderTransformer(1, hidden_layer_sizes=(), max_iter=1, tol=1e3, random_state=0).fit(X)
    filled = model.reconstruct(X)
    assert isinstance(filled, pd.DataFrame)
    assert list(filled) == ["compute", "schema", "to_series"]


@pytest.mark.parametrize("blank", [[None] * 20, [np.nan] * 20], ids=["objects", "floats"])
@pytest.mark.parametrize("levels", [[85, 63], ["blue", "green"]], ids=["numbers", "text"])
@pytest.mark.parametrize("kind", [AutoencoderTransformer, VAETransformer])
def test_a_blank_column_of_a_dtype_without_categories_takes_those_of_the_fit(kind, levels, blank):
    """As a table is read in which a column has no value."""
    X = pd.DataFrame({"size": pd.Categorical(levels * 10), "x": np.arange(20.0)})
    without = X.assign(size=pd.Series(blank).astype("category"))
    model = kind(categorical_features="from_dtype", max_iter=2, tol=1e9, hidden_layer_sizes=(4,)).fit(X)
    for filled in (model.impute(without)["size"], model.reconstruct(without)["size"]):
        assert filled.dtype == X["size"].dtype
        assert filled.notna().all()


def test_a_frame_for_a_model_of_an_array_is_checked_by_its_number_of_columns(make, recwarn):
    """That the names say nothing is told once; another number of columns had ended in an AttributeError."""
    X = np.random.default_rng(0).normal(size=(60, 3))
    words = np.where(X[:, :1] > 0.0, "up", "down").astype(object)
    for rows in (X, np.hstack([X.astype(object), words])):
        frame = pd.DataFrame(rows).infer_objects()
        frame.columns = list("abcd")[: rows.shape[1]]
        model = make().fit(rows)
        recwarn.clear()
        scores = model.score_samples(frame)
        assert sum("feature names" in str(warning.message) for warning in recwarn) == 1
        np.testing.assert_array_equal(scores, model.score_samples(rows))
        for other in (frame.assign(e=1.0), frame.drop(columns="a")):
            message = (
                f"X has {other.shape[1]} features, but {type(model).__name__} is expecting {rows.shape[1]} features as "
                "input. Pass the columns that it was fitted on, in the same order."
            )
            with pytest.raises(ValueError, match=exactly(message)):
                model.score_samples(other)


def test_another_order_of_an_arrow_table_is_told_by_names(make):
    X = pa.table({name: np.random.default_rng(0).normal(size=60) for name in "abc"})
    message = "Column 1 is 'c', but was 'b'. Pass the columns in the order of feature_names_in_."
    with pytest.raises(ValueError, match=re.escape(message)):
        make().fit(X).predict(X.select(["a", "c", "b"]))


def test_columns_in_levels_come_back_in_levels():
    columns = pd.MultiIndex.from_tuples([("size", "x"), ("size", "y"), ("mass", "")])
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=columns)
    model = VAETransformer(**SMALL).fit(X)
    for table in rows_of(model, X).values():
        pd.testing.assert_index_equal(table.columns, columns)
