"""A frame in, a frame out: every verb that returns rows gives columns, dtypes and row labels back as they came."""

import pickle
import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skvae import AutoencoderTransformer, VAETransformer
from skvae._data.form import dtypes_of

# A few epochs do not converge, and need not here.
pytestmark = pytest.mark.filterwarnings("ignore:The loss still improved")

ESTIMATORS = {"autoencoder": AutoencoderTransformer, "vae": VAETransformer}


@pytest.fixture(params=ESTIMATORS)
def make(request):
    """Both estimators, with a training that takes a moment."""
    return lambda **given: ESTIMATORS[request.param](
        **({"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0} | given)
    )


def exactly(message):
    return f"^{re.escape(message)}$"


def whole_numbers(n_samples=120):
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


@pytest.mark.parametrize("blank", [np.nan, None, pd.NA])
@pytest.mark.parametrize("column", ["word", "flag", "kind"])
def test_a_column_that_is_all_blank_gets_the_dtype_of_the_fit(make, column, blank):
    """``read_csv`` gives float64 for it, whatever it held elsewhere."""
    X = with_text(whole_numbers()).assign(kind=lambda frame: frame["word"].astype("category"))
    rows = X[:10].assign(**{column: blank})
    rows = rows.astype({column: float}) if blank is np.nan else rows
    model = make().fit(X)
    for table in (model.reconstruct(rows), model.explain(rows).expected, model.impute(rows)):
        assert set(table[column]) <= set(X[column])
        if blank is np.nan:
            assert table[column].dtype == X[column].dtype
        assert (table.drop(columns=column).dtypes == rows.drop(columns=column).dtypes).all()
    polars = pl.from_pandas(X[:10].drop(columns="kind")).with_columns(
        [pl.lit(None).alias(name) for name in ("word", "flag")]
    )
    assert model.fit(X.drop(columns="kind")).impute(polars).schema["flag"] == pl.Boolean


def test_a_column_of_integers_that_the_fit_saw_empty_stays_missing(make):
    X = whole_numbers()[["small", "double"]]
    with pytest.warns(UserWarning, match="^Column 'small' holds no value"):
        model = make().fit(X.assign(small=np.nan))
    assert model.reconstruct(X)["small"].isna().all()


# --- Numbers in a dtype of categories -------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[1, 2, 5], [0.5, 1.25, 2.0], [False, True]])
def test_numbers_in_categories_are_levels_or_numbers_all_the_way(make, values):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"k": pd.Categorical(rng.choice(values, 90)), "x": rng.normal(size=90)})
    X.loc[::9, "k"] = np.nan
    for listed in ("from_dtype", ["k"], None, []):
        model = make(categorical_features=listed).fit(X)
        for verb, table in rows_of(model, X).items():
            assert table["k"].dtype == X["k"].dtype, verb
            assert set(table["k"]) <= set(values), verb
            assert type(table["k"].tolist()[0]) is type(values[0])
