"""Graphs of tables with categories: an input for each column, and outputs that are the estimator's own."""

import re
import warnings
from functools import cache

import numpy as np
import onnxruntime
import pandas as pd
import polars as pl
import pytest
import skl2onnx
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from test_onnx import SLACK, TOLERANCES, assert_all_is_read, assert_close, difference, run

from skvae import AutoencoderTransformer, VAETransformer
from skvae.onnx import register_converters, to_onnx

AUTOENCODER = AutoencoderTransformer(3, hidden_layer_sizes=(16,), max_iter=5, tol=1e3, random_state=0)
VAE = VAETransformer(
    2, hidden_layer_sizes=(16,), max_iter=5, tol=1e3, n_draws=5, latent_density=1, random_state=0
)  # fmt: skip
METHODS = {
    "autoencoder": (AUTOENCODER, ("joint", "robust", "local", "residual", "neighbor", "reconstruction")),
    "vae": (VAE, ("log_likelihood", "elbo", "joint", "residual", "neighbor", "reconstruction")),
}
JOINED = clone(VAE).set_params(decoder="autoregressive")
FRAMES = METHODS | {"autoregressive": (JOINED, ("joint", "residual", "neighbor", "reconstruction"))}
# The first score of each, whole and with gaps; the rest is slow.
SERVED = [
    pytest.param(
        name, method, gaps, dtype, marks=[] if method == methods[0] and dtype == "float64" else pytest.mark.slow
    )
    for name, (_, methods) in FRAMES.items()
    for method in methods
    for gaps in (False, True)
    if not (gaps and method == "residual")  # refused, as for arrays
    for dtype in TOLERANCES
]
TYPES = {
    "tensor(string)": object, "tensor(bool)": bool, "tensor(int64)": np.int64, "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}  # fmt: skip


def make_frame(rng, n_samples, *, gaps=False):
    """Columns of every kind that hang together, one of them constant."""
    z = rng.normal(size=n_samples)
    X = pd.DataFrame(
        {
            "age": (45 + 9 * z + rng.normal(size=n_samples)).round().astype("int16"),
            "income": np.exp(z + 0.3 * rng.normal(size=n_samples)),
            "city": np.where(z > 0.5, "Zürich", np.where(z < -0.7, "Oslo", "Bonn")),
            "married": z + rng.normal(size=n_samples) > 0,
            "plan": pd.Categorical(rng.choice(["a", "b"], n_samples), categories=["b", "a"]),
            "zip": pd.Categorical(np.where(z > 0, 10, rng.choice([20, 30], n_samples))),
            "size": pd.Categorical(np.where(z > 1, 0.1, rng.choice([1.5, 2.0], n_samples))),
            "c0": 3.0,
        }
    )
    if gaps:
        for name in ("age", "income", "city", "zip", "size"):
            X[name] = X[name].astype("Int16" if name == "age" else X[name].dtype).mask(rng.random(n_samples) < 0.2)
        X["married"] = X["married"].astype("boolean").mask(rng.random(n_samples) < 0.2)
    return X


def with_new_levels(X, columns):
    """Two rows of a level that no other row has, in each of some columns."""
    X = X.copy()
    for place, name in enumerate(columns):
        if isinstance(X[name].dtype, pd.CategoricalDtype):
            X[name] = X[name].cat.add_categories([99 if name == "zip" else 9.5 if name == "size" else "new"])
        rows = X.index[2 * place : 2 * place + 2]
        X.loc[rows, name] = 99 if name == "zip" else 9.5 if name == "size" else "new"
    return X


def feed(session, X):
    """Columns as a graph takes them: an empty text or NaN where a cell is missing."""
    inputs = {}
    for put in session.get_inputs():
        cells, dtype = X[put.name].astype(object), TYPES[put.type]
        cells = cells.where(cells.notna(), "" if dtype is object else np.nan)
        inputs[put.name] = cells.to_numpy().astype(dtype).reshape(-1, 1)
    return inputs


def serve(model, X):
    assert_all_is_read(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed(session, X)), strict=True))


def assert_same_cells(got, expected, tolerance):
    """A column of a reconstruction: text, booleans and integers exactly."""
    if got.dtype.kind == "f":
        expected = expected.astype(float).to_numpy()
        np.testing.assert_allclose(got.ravel(), expected, rtol=0, atol=tolerance * np.abs(expected).max())
    else:
        assert got.ravel().tolist() == expected.astype(object).tolist()


@pytest.fixture(scope="module")
def fitted(seed):
    """A model of `METHODS` and rows for it, made once."""

    @cache
    def make(name, method, gaps):
        rng = np.random.default_rng(seed)
        estimator = clone(FRAMES[name][0]).set_params(score_method=method).fit(make_frame(rng, 250, gaps=gaps))
        return estimator, make_frame(rng, 60, gaps=gaps)

    return make


@pytest.mark.parametrize(("name", "method", "gaps", "dtype"), SERVED)
def test_graph_of_a_mixed_frame_gives_what_the_estimator_gives(name, method, gaps, dtype, fitted):
    """Measured over ten seeds: scores 3.2e-15 in float64; float32 has the rule of arrays."""
    estimator, X = fitted(name, method, gaps)
    got, tolerance = serve(to_onnx(estimator, dtype=dtype), X), TOLERANCES[dtype]
    rows = X.astype(dict.fromkeys(("age", "income", "c0"), dtype))
    scores = estimator.score_samples(rows)
    allowed = tolerance + SLACK * difference(scores, estimator.score_samples(rows.astype({"age": float})))
    assert_close(got["scores"], scores, allowed)
    assert_close(got["codes"], estimator.transform(rows), tolerance)
    clear = np.abs(scores - estimator.offset_) > 2 * allowed * np.abs(scores).max()
    np.testing.assert_array_equal(got["labels"][clear], estimator.predict(rows)[clear])
    expected = estimator.reconstruct(X)
    for column in X:
        assert_same_cells(got[f"reconstruction_{column}"], expected[column], 10 * tolerance)


@pytest.mark.parametrize("name", ["autoencoder", pytest.param("vae", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:Levels that no fitted row has:UserWarning")  # that is the case
def test_new_levels_are_scored_as_by_the_estimator(name, fitted):
    estimator, X = fitted(name, METHODS[name][1][0], gaps=True)
    X = with_new_levels(X, ["city", "plan", "zip", "size"])
    got = serve(to_onnx(estimator, dtype="float64"), X)
    assert_close(got["scores"], estimator.score_samples(X), 1e-12)
    # Codes take them for missing, which the encoder knows of in all of these columns but "plan".
    known = ~np.isin(np.arange(len(X)), [2, 3])
    assert np.isnan(got["codes"]).all(axis=1).tolist() == (~known).tolist()
    assert_close(got["codes"][known], estimator.transform(X)[known], 1e-12)
    assert got["reconstruction_city"][2:4].ravel().tolist() == ["", ""]
    assert got["reconstruction_city"][known].ravel().tolist() == estimator.reconstruct(X)["city"][known].tolist()


def test_inputs_and_outputs_have_the_names_and_kinds_of_the_columns(fitted):
    def kinds(values):
        return {value.name: value.type.removeprefix("tensor(").removesuffix(")") for value in values}

    whole = onnxruntime.InferenceSession(to_onnx(fitted("vae", "log_likelihood", False)[0]).SerializeToString())
    expected = {
        "age": "int64", "income": "float", "city": "string", "married": "bool", "plan": "string", "zip": "int64",
        "size": "float", "c0": "float",
    }  # fmt: skip
    assert kinds(whole.get_inputs()) == expected
    assert {tuple(value.shape) for value in whole.get_inputs()} == {("n_samples", 1)}
    assert kinds(whole.get_outputs()) == {
        "scores": "double", "labels": "int64", "codes": "float",
        **{f"reconstruction_{name}": kind for name, kind in expected.items()},
    }  # fmt: skip
    # A cell that may be missing is a float or a text.
    model = to_onnx(fitted("vae", "log_likelihood", True)[0], dtype="float64")
    gaps = kinds(onnxruntime.InferenceSession(model.SerializeToString()).get_inputs())
    assert gaps == {**dict.fromkeys(expected, "double"), "city": "string", "plan": "string"}


def test_a_missing_cell_that_training_had_not_seen_has_no_score(fitted):
    estimator, X = fitted("autoencoder", "joint", False)
    X = X.astype({"city": object, "size": float})
    X.loc[1, "city"], X.loc[2, "size"], X.loc[3, "income"] = None, np.nan, np.nan
    got = serve(to_onnx(estimator, dtype="float64"), X)
    wrong = [row in (1, 2, 3) for row in range(len(X))]
    assert np.isnan(got["scores"]).tolist() == np.isnan(got["codes"]).all(axis=1).tolist() == wrong
    assert got["labels"][1:4].tolist() == [-1, -1, -1]
    assert got["reconstruction_city"][1:4].ravel().tolist() == ["", "", ""]
    assert np.isnan(got["reconstruction_size"][1:4]).all()


def test_tables_of_nothing_but_levels(seed):
    """Of text as an array of objects, whose columns are called x0, x1, ..., and of a frame of polars."""
    rng = np.random.default_rng(seed)
    X = np.stack([rng.choice(["a", "b"], 80), rng.choice(["u", "v", "w"], 80)], axis=1).astype(object)
    for table in (X, pl.DataFrame({"x0": X[:, 0].tolist(), "x1": X[:, 1].tolist()})):
        estimator = clone(AUTOENCODER).set_params(score_method="reconstruction").fit(table)
        rows, model = pd.DataFrame(X.copy(), columns=["x0", "x1"]), to_onnx(estimator, dtype="float64")
        assert_close(serve(model, rows)["scores"], estimator.score_samples(table), 1e-12)
        rows.loc[5, "x0"] = None
        assert np.isnan(serve(model, rows)["scores"]).tolist() == [row == 5 for row in range(80)]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", METHODS)
def test_levels_in_an_array_of_numbers_keep_one_input(name, dtype, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(120, 4))
    X[:, 1], X[:, 3] = rng.choice([-1.0, 2.5, 7.0], 120), X[:, 0] > 0
    estimator = clone(METHODS[name][0]).set_params(categorical_features=[1, 3]).fit(X)
    rows = X[:30].astype(dtype)
    got = run(to_onnx(estimator, dtype=dtype), rows)
    own = difference(estimator.score_samples(rows), estimator.score_samples(rows.astype(float)))
    assert_close(got["scores"], estimator.score_samples(rows), TOLERANCES[dtype] + SLACK * own)
    assert_close(got["codes"], estimator.transform(rows), TOLERANCES[dtype])
    assert_close(got["reconstruction"], estimator.reconstruct(rows).astype(dtype), TOLERANCES[dtype])
    new = rows.copy()
    new[:, 1] = 4.0
    with warnings.catch_warnings(action="ignore"):
        expected = estimator.score_samples(new)
    assert_close(run(to_onnx(estimator, dtype=dtype), new)["scores"], expected, TOLERANCES[dtype] + SLACK * own)


def test_levels_that_are_numbers_may_end_a_pipeline(seed):
    rng = np.random.default_rng(seed)
    X = np.stack([rng.normal(size=90), rng.integers(3, size=90)], axis=1)
    pipeline = make_pipeline(FunctionTransformer(), clone(AUTOENCODER).set_params(categorical_features=[1])).fit(X)
    got = run(to_onnx(pipeline, dtype="float64"), X)
    assert_close(got["scores"], pipeline.score_samples(X), 1e-12)


@pytest.mark.parametrize("complete", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of identifiers and of rare and new levels: that is the case
def test_rare_levels_and_columns_that_are_left_out(complete, seed, monkeypatch):
    """Rare levels count as one, and stay where a rare one is expected; an identifier has no input."""
    rng = np.random.default_rng(seed)
    towns = [f"town {number}" for number in range(300)]
    X = pd.DataFrame(
        {"case": np.arange(600), "x": rng.normal(size=600), "town": towns * 2, "zip": np.arange(600) % 280}
    )
    X["zip"] = X["zip"].astype("category")
    if not complete:
        monkeypatch.setattr("skvae._tables.levels._MAX_RARE", 20)
    estimator = clone(AUTOENCODER).fit(X)
    rows = X[:40].copy()
    rows.loc[:2, "town"] = ["town 299", "nowhere", "elsewhere"]
    got = serve(to_onnx(estimator, dtype="float64"), rows)
    assert [name for name in got if name.startswith("reconstruction")] == [
        "reconstruction_x", "reconstruction_town", "reconstruction_zip",
    ]  # fmt: skip
    assert_close(got["scores"], estimator.score_samples(rows), 1e-12)
    known = ~np.isin(np.arange(40), [1, 2] if complete else [])
    assert_close(got["codes"][known], estimator.transform(rows)[known], 1e-12)
    for column in ("town", "zip"):
        expected = estimator.reconstruct(rows)[column].tolist()
        assert [cell for cell, k in zip(got[f"reconstruction_{column}"].ravel().tolist(), known, strict=True) if k] == [
            cell for cell, k in zip(expected, known, strict=True) if k
        ]


@pytest.mark.filterwarnings("ignore:Identifiers are left out:UserWarning")  # that is the case
def test_text_that_is_left_out_needs_no_input_beside_numbers(seed):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"name": [f"n{i}" for i in range(90)], "x": rng.normal(size=90), "y": rng.normal(size=90)})
    estimator = clone(AUTOENCODER).fit(X)
    got = serve(to_onnx(estimator, dtype="float64"), X)
    assert_close(got["scores"], estimator.score_samples(X), 1e-12)
    assert [name for name in got if name.startswith("reconstruction")] == ["reconstruction_x", "reconstruction_y"]


# --- Refusals -------------------------------------------------------------------------------------------------------


def test_text_in_a_pipeline_is_refused(seed):
    X = make_frame(np.random.default_rng(seed), 60)[["income", "city"]]
    estimator = clone(AUTOENCODER).fit(X)
    register_converters()
    types = skl2onnx.common.data_types
    inputs = [("income", types.FloatTensorType([None, 1])), ("city", types.StringTensorType([None, 1]))]
    with pytest.raises(ValueError, match="must get numbers") as caught:
        skl2onnx.convert_sklearn(estimator, initial_types=inputs)
    assert str(caught.value) == (
        "An estimator in a converted pipeline must get numbers, but column 'city' holds text. Call to_onnx(estimator) "
        "with the estimator alone, or encode the column before it."
    )


def test_columns_that_a_graph_cannot_hold_are_refused_by_name(seed):
    rng = np.random.default_rng(seed)
    X = make_frame(rng, 60)
    X = X[["income"]].assign(
        labels=X["city"],
        reason=pd.Series(rng.choice(["", "rain", "snow"], 60)).mask(rng.random(60) < 0.3),
        near=pd.Categorical(rng.choice([1.0, 1.0 + 1e-12], 60)),
        big=pd.Categorical(rng.choice([1, 2**70], 60).astype(object)),
    )
    estimator = clone(AUTOENCODER).fit(X)
    with pytest.raises(ValueError, match="graph") as caught:
        to_onnx(estimator)
    assert str(caught.value) == (
        "Column 'labels' must have a name of its own in the graph, but another input or output is called so. Rename "
        "the column before the fit.\n"
        "Column 'reason' must not hold the empty text beside missing cells, which the empty text stands for in a "
        "graph. Replace it by another text before the fit.\n"
        "Column 'near' must hold levels that float32 tells apart. Turn them into text before the fit, or export with "
        "dtype='float64'.\n"
        "Column 'big' must hold levels that int64 tells apart. Turn them into text before the fit."
    )


def test_dates_are_refused_by_name():
    days = pd.date_range("2026-01-01", periods=60)
    X = pd.DataFrame({"x": np.linspace(0.0, 1.0, 60), "kind": ["a", "b"] * 30, "day": days, "age": days - days[0]})
    message = (
        "to_onnx cannot express dates or durations, in column 'day', 'age'. Turn them into numbers before the fit, or "
        "serve the estimator itself."
    )
    for frame in (X, X.drop(columns="kind")):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            to_onnx(clone(AUTOENCODER).fit(frame))
