"""What both estimators promise: kinds of input, errors, state, determinism, training that goes on, small tables."""

import copy
import io
import pickle
import random
import re
import subprocess
import sys
import textwrap
from collections import UserDict
from datetime import time
from functools import cache
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
import skops.io
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch
from torch.utils.data import DataLoader, TensorDataset

from skvae import AutoencoderTransformer, VAETransformer

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:false_alarm_rate=:UserWarning"),
]

NAMES = ["mass", "width", "height", "price"]


@pytest.fixture(scope="module")
def X(seed):
    """Rows of four columns in units far apart, with two hidden causes."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(120, 2)) @ rng.normal(size=(2, 4))
    return (causes + 0.1 * rng.normal(size=(120, 4))) * [1.0, 10.0, 0.1, 1000.0] + [0.0, 5.0, 1.0, -300.0]


@pytest.fixture(scope="module")
def fresh(X, seed):
    """Rows that no fit has seen."""
    rng = np.random.default_rng(seed + 1)
    return X[:50] + 0.1 * X.std(axis=0) * rng.normal(size=(50, 4))


# --- Kinds of input -------------------------------------------------------------------------------------------------

TABLES = {
    "list": lambda X: X.tolist(),
    "fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(X, 2, axis=0)[::2],
    "pandas": lambda X: pd.DataFrame(X, columns=NAMES),
    "pandas-extension": lambda X: pd.DataFrame(X, columns=NAMES).convert_dtypes(),
    "polars": lambda X: pl.DataFrame(X, schema=NAMES),
    "tensor": torch.from_numpy,
    "tensor-with-gradient": lambda X: torch.tensor(X, requires_grad=True),
}


@pytest.mark.parametrize("kind", TABLES)
def test_kind_of_table_does_not_change_the_numbers(make, X, kind):
    table = TABLES[kind](X.copy())
    expected, model = make().fit(X), make().fit(table)
    np.testing.assert_array_equal(model.transform(table), expected.transform(X))
    np.testing.assert_array_equal(model.score_samples(table), expected.score_samples(X))
    np.testing.assert_array_equal(model.predict(table), expected.predict(X))


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32"])
def test_short_tensors_become_float32(make, X, kind):
    tensor = torch.from_numpy(X).to(getattr(torch, kind))
    Z = make().fit(tensor).transform(tensor)
    assert Z.dtype == np.float32
    np.testing.assert_array_equal(Z, make().fit(tensor.float()).transform(tensor.float()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_precision_of_the_rows_is_kept(make, X, dtype):
    rows = X.astype(dtype)
    model = make().fit(rows)
    assert model.transform(rows).dtype == dtype
    assert model.inverse_transform(model.transform(rows)).dtype == dtype
    assert model.reconstruct(rows).dtype == dtype
    assert model.interpolate(rows[:2], rows[2:4]).dtype == dtype
    assert model.score_samples(rows).dtype == np.float64


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_whole_numbers_are_taken(make, dtype):
    rows = np.arange(60).reshape(20, 3) % 7 > 2 if dtype == "bool" else (np.arange(60).reshape(20, 3) % 7).astype(dtype)
    assert make().fit(rows).transform(rows).dtype == np.float64


def test_dispatch_gives_back_tensors(make, X):
    rows = torch.from_numpy(X)
    with config_context(array_api_dispatch=True):
        model = make().fit(rows)
        outputs = [
            model.transform(rows),
            model.inverse_transform(model.transform(rows)),
            model.reconstruct(rows),
            model.score_samples(rows),
            model.decision_function(rows),
            model.predict(rows),
            model.interpolate(rows[:2], rows[2:4]),
            model.mean_,
        ]
    assert [type(output) for output in outputs] == [torch.Tensor] * len(outputs)
    np.testing.assert_array_equal(outputs[0].numpy(), make().fit(X).transform(X))


@pytest.mark.skipif(
    sklearn.__version__.startswith("1.6."), reason="the StandardScaler of scikit-learn 1.6 refuses torch's dtypes"
)
def test_dispatch_works_in_a_pipeline(make, X):
    rows = torch.from_numpy(X)
    with config_context(array_api_dispatch=True):
        pipe = make_pipeline(StandardScaler(), make()).fit(rows)
        assert isinstance(pipe.transform(rows), torch.Tensor)


def test_dispatch_refuses_another_library_than_that_of_fit(make, X):
    with config_context(array_api_dispatch=True):
        model = make().fit(torch.from_numpy(X))
        with pytest.raises(ValueError, match="must use the same namespace"):
            model.transform(X)


def test_read_only_rows_are_not_written(make, X):
    rows = X.copy()
    rows.flags.writeable = False
    make().fit(rows).score_samples(rows)
    np.testing.assert_array_equal(rows, X)


# --- Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_names_of_the_columns_are_kept(make, X, kind):
    model = make().fit(TABLES[kind](X))
    assert model.feature_names_in_.tolist() == NAMES
    assert model.n_features_in_ == 4


def test_refit_without_names_forgets_them(make, X):
    assert not hasattr(make().fit(pd.DataFrame(X, columns=NAMES)).fit(X), "feature_names_in_")


def test_names_of_the_features_carry_the_class(make, X):
    model = make(n_components=3).fit(X)
    prefix = type(model).__name__.lower()
    assert model.get_feature_names_out().tolist() == [f"{prefix}0", f"{prefix}1", f"{prefix}2"]


@pytest.mark.parametrize(("kind", "frame"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_set_output_wraps_the_features(make, X, kind, frame):
    model = make().set_output(transform=kind).fit(X)
    Z = model.transform(X)
    assert isinstance(Z, frame)
    assert list(Z.columns) == model.get_feature_names_out().tolist()
    np.testing.assert_array_equal(Z.to_numpy(), make().fit(X).transform(X))
    assert isinstance(make().set_output(transform=kind).fit_transform(X), frame)


def test_set_output_keeps_the_index(make, X):
    rows = pd.DataFrame(X, columns=NAMES, index=np.arange(len(X)) + 1000)
    assert make().set_output(transform="pandas").fit(rows).transform(rows).index.equals(rows.index)


# --- Errors: what must hold, what came, what to do ------------------------------------------------------------------


def message_of(function, kind=ValueError):
    with pytest.raises(kind) as caught:
        function()
    return str(caught.value)


def spoilt(X, value, row=4, column=1):
    rows = X.copy()
    rows[row, column] = value
    return rows


@pytest.mark.parametrize(("value", "shown"), [(np.inf, "inf"), (-np.inf, "-inf")])
def test_values_that_are_not_finite_are_named(make, X, value, shown):
    def expected(column):
        return (
            f"Columns must hold finite or missing values, but column {column} holds {shown} in row 4. Drop such rows, "
            "or replace the value by NaN to mark it as missing."
        )

    rows, model = spoilt(X, value), make().fit(X)
    assert message_of(lambda: make().fit(rows)) == expected("'x1'")
    assert message_of(lambda: make().fit(pd.DataFrame(rows, columns=NAMES))) == expected("'width'")
    assert message_of(lambda: make().fit(pl.DataFrame(rows, schema=NAMES))) == expected("'width'")
    for verb in ("transform", "reconstruct", "score_samples", "predict", "decision_function", "score", "calibrate"):
        assert message_of(lambda verb=verb: getattr(model, verb)(rows)) == expected("'x1'")


TEXTS = {
    "array": (np.array([["1", "2"], ["3", "blue"]]), "'x1'"),
    "objects": (np.array([[1.0, 2.0], [3.0, "blue"]], dtype=object), "'x1'"),
    "pandas": (pd.DataFrame({"size": [1.0, 2.0], "colour": ["3", "blue"]}), "'colour'"),
    "pandas-categories": (pd.DataFrame({"size": [1.0, 2.0], "colour": pd.Categorical(["3", "blue"])}), "'colour'"),
    "polars": (pl.DataFrame({"size": [1.0, 2.0], "colour": ["3", "blue"]}), "'colour'"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_is_named_where_no_column_may_hold_any(make, kind):
    table, column = TEXTS[kind]
    assert message_of(lambda: make(categorical_features=None).fit(table)) == (
        f"Columns must hold numbers or categories, but column {column}, no category of this model, holds 'blue' in "
        "row 1. Mark the cell as missing, or fit with the column in 'categorical_features'."
    )


def test_path_in_place_of_a_table_is_named(make):
    assert message_of(lambda: make().fit("rows.csv")) == (
        "X must be a table of numbers, but the text 'rows.csv' came. Read the file first: pandas.read_csv('rows.csv')."
    )


ROWS = torch.zeros(2, 3)


class Delayed(pd.DataFrame):
    """Stands in for a DataFrame of Dask, which has the methods of pandas' and one more."""

    def compute(self):
        return pd.DataFrame(self)


NO_TABLES = {
    "row of mixed values": (
        pd.Series({"size": 1.0, "colour": "red"}),
        "X must be a table, but a Series came. Pass a DataFrame: X.to_frame().T if it is one row, X.to_frame() if it "
        "is one column.",
    ),
    "series of polars": (
        pl.Series("size", [1.0, 2.0]),
        "X must be a table, but a Series came. Pass a DataFrame: X.to_frame() if it is one column.",
    ),
    "dicts": ([{"size": 1.0}, {"size": 2.0}], "X must be a table, but a list of dicts came. Pass pandas.DataFrame(X)."),
    "records": (
        np.array([(1.0, 2)], dtype=[("size", float), ("age", int)]),
        "X must be a table, but an array of records came. Pass pandas.DataFrame(X).",
    ),
    "loader": (
        DataLoader(TensorDataset(ROWS)),
        "X must be a table, but a DataLoader came. Pass all its rows as one array, or each of its batches to "
        "partial_fit.",
    ),
    "dataset": (
        TensorDataset(ROWS),
        "X must be a table, but a TensorDataset came. Pass all its rows as one array, such as X.tensors[0] of a "
        "TensorDataset.",
    ),
    "dask": (
        Delayed({"size": [1.0, 2.0]}),
        "X must be a table, but a Delayed that is not in memory came. Pass X.compute().",
    ),
    "iterator": (iter([[1.0], [2.0]]), "X must be a table, but a list_iterator came. Pass numpy.array(list(X))."),
    "path": (
        Path("rows.csv"),
        "X must be a table, but the path 'rows.csv' came. Pass what the file holds, such as "
        "pandas.read_csv('rows.csv').",
    ),
    "data set": (Bunch(data=[[1.0, 2.0]]), "X must be a table, but a Bunch came. Pass X.data."),
    "dict": ({"size": [1.0, 2.0]}, "X must be a table, but a dict came. Pass pandas.DataFrame(X)."),
    "relation": (
        type("Relation", (), {"df": None, "to_table": None, "__arrow_c_stream__": None})(),
        "X must be a table, but a Relation came. Pass X.df().",
    ),
    "arrays by name": (
        type("Arrays", (UserDict,), {"to_dataframe": None, "to_pandas": None})({"size": [1.0, 2.0]}),
        "X must be a table, but a Arrays came. Pass X.to_dataframe().",
    ),
    "stream": (
        type("Stream", (), {"__arrow_c_stream__": None})(),
        "X must be a table, but a Stream came. Pass pyarrow.table(X).",
    ),
    "object": (type("Model", (), {})(), "X must be a table, but a Model came. Pass an array or a DataFrame."),
    "lazy": (
        pl.LazyFrame({"size": [1.0, 2.0]}),
        "X must be a table in memory, but a LazyFrame came. Pass X.collect().",
    ),
}


@pytest.mark.parametrize("kind", NO_TABLES)
def test_what_is_not_yet_a_table_is_told_the_way(make, kind):
    given, expected = NO_TABLES[kind]
    assert message_of(lambda: make().fit(given)) == expected
    model = make().fit(pd.DataFrame({"size": [1.0, 2.0, 3.0], "colour": ["red", "blue", "red"]}))
    for verb in ("score_samples", "reconstruct", "impute", "explain"):
        assert message_of(lambda verb=verb: getattr(model, verb)(given)) == expected


class Wrapped:
    """Stands in for the array or the frame of a library that is not known here."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.rows, dtype=dtype)


def test_text_in_tables_of_other_libraries_is_taken_as_in_an_array(make, X):
    rows = np.empty((len(X), 3), dtype=object)
    rows[:, :2], rows[:, 2] = X[:, :2], np.where(X[:, 2] > 1.0, "red", "blue")
    model, expected = make().fit(Wrapped(rows)), make().fit(rows)
    np.testing.assert_array_equal(model.score_samples(Wrapped(rows)), expected.score_samples(rows))
    np.testing.assert_array_equal(model.reconstruct(Wrapped(rows)), expected.reconstruct(rows))
    np.testing.assert_array_equal(model.explain(Wrapped(rows[:3]))[0], expected.explain(rows[:3])[0])


def test_a_frame_without_columns_is_told_so(make):
    assert message_of(lambda: make().fit(pd.DataFrame(index=range(5)))) == (
        "X must have at least 1 column, but its shape is (5, 0). Pass the columns to learn from."
    )


def test_times_of_a_day_are_named(make):
    table = pd.DataFrame({"size": [1.0, 2.0], "hour": [time(7), time(8)]})
    assert message_of(lambda: make().fit(table)) == (
        "Column 'hour' must hold numbers or categories, but holds times, 07:00:00 in row 0. Turn it into numbers "
        "first, for example into days since a fixed date."
    )


@pytest.mark.parametrize("convert", [sparse.csr_array, sparse.csc_matrix, sparse.dok_array, sparse.dok_matrix])
def test_sparse_tables_are_refused_with_the_converter(make, X, convert):
    expected = (
        "Sparse data was passed for X, but dense data is required. Use '.toarray()' to convert to a dense numpy array."
    )
    assert message_of(lambda: make().fit(convert(X)), TypeError) == expected
    assert message_of(lambda: make().fit(X).transform(convert(X)), TypeError) == expected


def test_complex_numbers_are_refused(make, X):
    assert message_of(lambda: make().fit(X + 1j)) == (
        "Complex data not supported: columns must hold real numbers, but X is complex. Pass "
        "numpy.hstack([X.real, X.imag]), or numpy.abs(X)."
    )


def test_values_that_overflow_are_named(make, X):
    some = slice(None, None, 3)  # of which some train
    assert message_of(lambda: make().fit(spoilt(X, 1e300, some))) == (
        "Columns must keep finite when squared and scaled, but column 'x1' holds values too large for that. Divide it "
        "by a constant, or take its logarithm."
    )
    assert message_of(lambda: make().fit(spoilt(X, -1e300, some, [0, 2]))) == (
        "Columns must keep finite when squared and scaled, but each of the columns 'x0', 'x2' holds values too large "
        "for that. Divide it by a constant, or take its logarithm."
    )


def test_wrong_width_is_told(make, X):
    model = make().fit(X)
    expected = (
        f"X has 3 features, but {type(model).__name__} is expecting 4 features as input. Pass the columns that it was "
        "fitted on, in the same order."
    )
    for verb in ("transform", "score_samples", "partial_fit"):
        assert message_of(lambda verb=verb: getattr(model, verb)(X[:, :3])) == expected
    assert message_of(lambda: model.interpolate(X[:2, :3], X[:2])) == expected


def test_wrong_names_are_told(make, X):
    model = make().fit(pd.DataFrame(X, columns=NAMES))
    assert message_of(lambda: model.transform(pd.DataFrame(X, columns=["mass", "width", "height", "cost"]))) == (
        "The feature names should match those that were passed during fit.\n"
        "Feature names unseen at fit time:\n- cost\n"
        "Feature names seen at fit time, yet now missing:\n- price\n"
    )
    assert message_of(lambda: model.transform(pd.DataFrame(X, columns=NAMES)[NAMES[::-1]])) == (
        "The feature names should match those that were passed during fit.\n"
        "Feature names must be in the same order as they were in fit.\n"
        "Column 0 is 'price', but was 'mass'. Pass the columns in the order of feature_names_in_."
    )


def test_missing_names_warn(make, X):
    model = make().fit(pd.DataFrame(X, columns=NAMES))
    expected = f"X does not have valid feature names, but {type(model).__name__} was fitted with feature names"
    with pytest.warns(UserWarning, match=f"^{expected}$"):
        model.transform(X)


def test_empty_and_flat_tables_are_refused(make, X):
    name = type(make()).__name__
    assert message_of(lambda: make().fit(X[:0])) == (
        f"Found array with 0 sample(s) (shape=(0, 4)) while a minimum of 1 is required by {name}."
    )
    assert message_of(lambda: make().fit(X[:, :0])) == (
        f"Found array with 0 feature(s) (shape=(120, 0)) while a minimum of 1 is required by {name}."
    )
    assert message_of(lambda: make().fit([1.0, 2.0])) == (
        "Expected 2D array, got 1D array instead:\narray=[1. 2.].\nReshape your data either using "
        "array.reshape(-1, 1) if your data has a single feature or array.reshape(1, -1) if it contains a single sample."
    )
    # The rest of this sentence is another in scikit-learn 1.6 than in 1.9.
    assert message_of(lambda: make().fit(X[None])).startswith("Found array with dim 3")


WEIGHTS = {
    "zero": (
        np.zeros(120),
        "Sample weights must contain at least one non-zero number, but all are zero. Leave 'sample_weight' out to "
        "count every row once.",
    ),
    "negative": (
        np.linspace(1.0, -1.0, 120),
        "Sample weights must not be negative, but row 60 has -0.00840336. Use 0 to leave a row out.",
    ),
    "short": (np.ones(3), "sample_weight.shape == (3,), expected (120,)!"),
    "missing": (np.full(120, np.nan), "Input sample_weight contains NaN."),
    "text": (
        "balanced",
        "'sample_weight' must hold one number for each row, but the text 'balanced' came. Pass an array, or leave it "
        "out to count every row once.",
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_wrong_weights_are_told(make, X, kind):
    weight, expected = WEIGHTS[kind]
    assert message_of(lambda: make().fit(X, sample_weight=weight)) == expected
    assert message_of(lambda: make().partial_fit(X, sample_weight=weight)) == expected
    assert message_of(lambda: make().fit(X).score(X, sample_weight=weight)) == expected


PARAMETERS = {
    "n_components": (0, "must be a str among {'auto'} or an int in the range [1, inf). Got 0 instead."),
    "hidden_layer_sizes": (
        "big",
        "must be a str among {'auto'}, an array-like or an int in the range [1, inf). Got 'big' instead.",
    ),
    "standardize": (
        "yes",
        "must be an instance of 'bool' or an instance of 'numpy.bool'. Got 'yes' instead.",
    ),
    "contamination": (0.7, "must be a str among {'auto'} or a float in the range (0.0, 0.5]. Got 0.7 instead."),
    "false_alarm_rate": (0.0, "must be a float in the range (0.0, 0.5]. Got 0.0 instead."),
    "calibration_fraction": (
        0.9,
        "must be a float in the range [0.0, 0.5], a str among {'auto'} or a str among {'cross_fit'}. Got 0.9 instead.",
    ),
    "noise": (-1.0, "must be a str among {'auto'} or a float in the range [0.0, inf). Got -1.0 instead."),
    "alpha": (-0.1, "must be a str among {'auto'} or a float in the range [0.0, inf). Got -0.1 instead."),
    "batch_size": (0, "must be a str among {'auto'} or an int in the range [1, inf). Got 0 instead."),
    "max_iter": (0, "must be a str among {'auto'} or an int in the range [1, inf). Got 0 instead."),
    "tol": (-1.0, "must be a float in the range [0.0, inf). Got -1.0 instead."),
    "n_iter_no_change": (0, "must be an int in the range [1, inf). Got 0 instead."),
    "validation_fraction": (1.0, "must be a float in the range (0.0, 1.0). Got 1.0 instead."),
    "random_state": (
        "lucky",
        "must be an int in the range [0, 4294967295], an instance of 'numpy.random.mtrand.RandomState' or None. Got "
        "'lucky' instead.",
    ),
    "n_networks": (0, "must be an int in the range [1, inf). Got 0 instead."),
    "n_jobs": (0, "must be an int in the range (-inf, -1], an int in the range [1, inf) or None. Got 0 instead."),
    "device": (3, "must be an instance of 'str' or an instance of 'torch.device'. Got 3 instead."),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_bad_parameter_is_named_with_its_value(make, X, name):
    value, expected = PARAMETERS[name]
    model = make(**{name: value})
    assert message_of(lambda: model.fit(X)) == f"The '{name}' parameter of {type(model).__name__} {expected}"


@pytest.mark.parametrize("contamination", ["auto", 0.25])
def test_numbers_of_a_numpy_grid_are_numbers(make, X, fresh, contamination):
    """`numpy.linspace` and a ParameterSampler give these; in their own precision they round and overflow."""
    plain = {
        "n_components": 2, "n_networks": 2, "max_iter": 3, "batch_size": 32, "early_stopping": True, "noise": 0.125,
        "learning_rate_init": 2.0**-9, "alpha": 0.25, "tol": 0.0, "validation_fraction": 0.25, "standardize": True,
    } | ({"false_alarm_rate": 0.25} if contamination == "auto" else {"contamination": contamination})  # fmt: skip
    if isinstance(make(), VAETransformer):
        plain |= {"beta": 0.5, "kl_warmup": 0.25, "dropout": 0.25, "min_scale": 0.125, "binarize": False}
    short = {bool: np.bool_, int: np.uint8, float: np.float16}
    expected = make(**plain).fit(X)
    model = make(**{name: short[type(value)](value) for name, value in plain.items()}).fit(X)
    for fitted in (model, pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(fitted.score_samples(fresh), expected.score_samples(fresh))
        assert fitted.offset_ == expected.offset_


def test_bad_parameter_is_named_between_two_chunks(make, X):
    """scikit-learn checks parameters at the first call of partial_fit alone."""
    for name, value in (("max_iter", "x"), ("false_alarm_rate", -1), ("n_networks", None), ("noise", [])):
        model = make().partial_fit(X).set_params(**{name: value})
        with pytest.raises(ValueError, match=f"^The '{name}' parameter of {type(model).__name__} must be "):
            model.partial_fit(X)


@pytest.mark.parametrize("name", ["activation", "likelihood", "score_method"])
def test_unknown_choice_is_named_with_the_choices(make, X, name):
    """The order of the choices is that of a set, hence not fixed."""
    model = make(**{name: "best"})
    message = message_of(lambda: model.fit(X))
    kinds = " or an instance of 'dict'" if name == "likelihood" else ""
    start = f"The '{name}' parameter of {type(model).__name__} must be a str among {{"
    end = f"}}{kinds}. Got 'best' instead."
    assert message.startswith(start)
    assert message.endswith(end)
    choices = {choice.strip("' ") for choice in message[len(start) : -len(end)].split(",")}
    assert {"activation": "silu", "likelihood": "gaussian", "score_method": "joint"}[name] in choices


@pytest.mark.parametrize("sizes", [(8, 0), (8, 2.5), [-1]])
def test_bad_widths_are_shown(make, X, sizes):
    assert message_of(lambda: make(hidden_layer_sizes=sizes).fit(X)) == (
        "The 'hidden_layer_sizes' parameter must hold positive ints, one for each layer. "
        f"Got {({'(8, 0)': '(8, 0)', '(8, 2.5)': '(8, 2.5)', '[-1]': '[-1]'})[str(sizes)]} instead."
    )


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_unknown_device_is_told(make, X, device):
    assert message_of(lambda: make(device=device).fit(X)) == (
        f"The 'device' parameter must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'. Got '{device}' instead."
    )


@pytest.mark.parametrize(("device", "n_found", "kind"), [("cpu:1", 1, "cpu"), ("meta", 0, "meta"), ("xpu", 0, "xpu")])
def test_absent_device_is_told(make, X, device, n_found, kind):
    assert message_of(lambda: make(device=device).fit(X)) == (
        f"The device '{device}' is not available here: found {n_found} device(s) of type '{kind}'. "
        "Use device='auto' or device='cpu'."
    )


def test_cuda_where_there_is_none_is_told(make, X, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert message_of(lambda: make(device="cuda").fit(X)) == (
        "The device 'cuda' is not available here: found 0 device(s) of type 'cuda'. Use device='auto' or device='cpu'."
    )


def test_codes_of_the_wrong_width_are_told(make, X):
    assert message_of(lambda: make().fit(X).inverse_transform(np.zeros((5, 3)))) == (
        "inverse_transform needs codes of n_components_=2 columns, but X has 3. Pass what transform returned."
    )


def test_codes_that_are_not_finite_are_told(make, X):
    codes = np.zeros((5, 2))
    codes[3, 1] = np.nan
    assert message_of(lambda: make().fit(X).inverse_transform(codes)) == (
        "Codes must be finite, but component 1 of row 3 is nan. Pass what transform returned."
    )


def test_interpolation_errors(make, X):
    model = make().fit(X)
    assert message_of(lambda: model.interpolate(X[:3], X[:2])) == (
        "X_start and X_end must pair row by row, but their shapes are (3, 4) and (2, 4). Pass as many ends as starts."
    )
    for n_steps, shown in ((1, "1"), (2.5, "2.5"), ("3", "'3'")):
        assert message_of(lambda n_steps=n_steps: model.interpolate(X[:2], X[2:4], n_steps=n_steps)) == (
            f"The 'n_steps' parameter must be an int of at least 2, both ends. Got {shown} instead."
        )
    assert message_of(lambda: model.interpolate(X[:2], X[2:4], path="geodesic")) == (
        "The 'path' parameter must be 'linear' or 'spherical'. Got 'geodesic' instead."
    )


def test_verbs_need_a_fit(make, X):
    verbs = ["transform", "inverse_transform", "reconstruct", "score_samples", "score", "decision_function", "predict"]
    for verb in [*verbs, "p_values", "calibrate"]:
        model = make()
        assert message_of(lambda verb=verb, model=model: getattr(model, verb)(X), NotFittedError) == (
            f"This {type(model).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments before "
            "using this estimator."
        )


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda model, X: model.fit(spoilt(X, np.inf)), ValueError),
        (lambda model, X: model.fit(X[:0]), ValueError),
        (lambda model, X: model.fit(X[:, :2], sample_weight=np.zeros(len(X))), ValueError),
        (lambda model, X: model.partial_fit(spoilt(X, np.inf)), ValueError),
        (lambda model, X: model.set_params(device="cuda:99").fit(X), ValueError),
        (lambda model, X: model.set_params(hidden_layer_sizes=(0,)).fit(pd.DataFrame(X, columns=NAMES)), ValueError),
    ],
)
def test_failing_fit_leaves_the_earlier_one(make, X, spoil, kind):
    model = make().fit(X)
    state, scores = pickle.dumps(model.__getstate__()["_fitted"]), model.score_samples(X)
    attributes = {name for name in vars(model) if name.endswith("_")}
    with pytest.raises(kind):
        spoil(model, X)
    assert pickle.dumps(model.__getstate__()["_fitted"]) == state
    assert {name for name in vars(model) if name.endswith("_")} == attributes
    np.testing.assert_array_equal(model.score_samples(X), scores)


def test_failing_first_fit_leaves_nothing(make, X):
    model = make()
    before = dict(vars(model))
    with pytest.raises(ValueError, match="Columns must hold finite"):
        model.fit(spoilt(X, np.inf))
    assert vars(model) == before


# --- State ----------------------------------------------------------------------------------------------------------


def joblib_round_trip(model):
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


def skops_round_trip(model):
    data = skops.io.dumps(model)
    untrusted = skops.io.get_untrusted_types(data=data)
    assert untrusted == [f"{type(model).__module__}.{type(model).__qualname__}"]
    return skops.io.loads(data, trusted=untrusted)


ROUND_TRIPS = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "joblib": joblib_round_trip,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "skops": skops_round_trip,
}
STATES = {
    "plain": {},
    "contamination": {"contamination": 0.1},
    "neighbor": {"score_method": "neighbor"},
    "networks": {"n_networks": 2, "score_method": "joint"},
    "student_t": {"likelihood": "student_t", "score_method": "residual"},
}


@pytest.fixture(scope="module", params=[AutoencoderTransformer, VAETransformer])
def fitted(request, X):
    """A model of `STATES`, made once."""
    small = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
    return cache(lambda state: request.param(**small, **STATES[state]).fit(X))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_round_trip_is_bit_equal(fitted, fresh, way, state):
    model = fitted(state)
    again = ROUND_TRIPS[way](model)
    for verb in ("score_samples", "transform", "reconstruct", "predict", "decision_function"):
        np.testing.assert_array_equal(getattr(again, verb)(fresh), getattr(model, verb)(fresh))
    assert again.score(fresh) == model.score(fresh)
    assert again.get_params() == model.get_params()
    if "contamination" not in STATES[state]:
        np.testing.assert_array_equal(again.p_values(fresh), model.p_values(fresh))


@pytest.mark.parametrize("way", ROUND_TRIPS)
def test_training_goes_on_after_a_round_trip(make, X, fresh, way):
    """The optimiser's state and the memory of the stream travel too."""
    model = make().partial_fit(X[:60])
    again = ROUND_TRIPS[way](model)
    model.partial_fit(X[60:])
    again.partial_fit(X[60:])
    np.testing.assert_array_equal(again.score_samples(fresh), model.score_samples(fresh))
    assert again.offset_ == model.offset_


def test_copy_is_independent(make, X, fresh):
    model = make(warm_start=True).fit(X)
    scores, other = model.score_samples(fresh), copy.copy(model)
    other.fit(X[:70])
    np.testing.assert_array_equal(model.score_samples(fresh), scores)


def test_pickle_holds_no_torch_object(make, X):
    for data in (pickle.dumps(make().fit(X)), pickle.dumps(make().partial_fit(X))):
        assert b"torch" not in data


def test_unfitted_pickle_and_clone(make, X):
    model = make(contamination=0.2)
    assert pickle.loads(pickle.dumps(model)).get_params() == model.get_params()
    twin = clone(model.fit(X))
    assert twin.get_params() == model.get_params()
    assert not hasattr(twin, "offset_")


@pytest.mark.parametrize("method", ["auto", "neighbor"])
def test_fitted_size_does_not_grow_with_the_rows(make, seed, method):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(20_000, 4)) @ rng.normal(size=(4, 4))
    sizes = [
        len(pickle.dumps(make(score_method=method, max_iter=1, batch_size=512).fit(rows[:n]))) for n in (10_000, 20_000)
    ]
    assert abs(sizes[1] - sizes[0]) < 64


def test_stream_is_bounded(make, seed):
    rng = np.random.default_rng(seed)
    model, sizes = make(max_iter=1, batch_size=512), []
    for _ in range(4):
        rows = rng.normal(size=(6000, 1)) + 0.5 * rng.normal(size=(6000, 4))
        sizes.append(len(pickle.dumps(model.partial_fit(rows))))
    assert abs(sizes[3] - sizes[1]) < 64


# --- Determinism ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_same_seed_same_scores_in_two_processes(X, fresh):
    small = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
    program = textwrap.dedent(
        f"""
        import sys, warnings, numpy as np
        warnings.simplefilter("ignore")
        from skvae import AutoencoderTransformer, VAETransformer
        rows = np.frombuffer(sys.stdin.buffer.read()).reshape(-1, 4)
        for kind in AutoencoderTransformer, VAETransformer:
            model = kind(**{small}).fit(rows[:120])
            sys.stdout.buffer.write(model.score_samples(rows[120:]).tobytes())
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=np.vstack([X, fresh]).tobytes(), capture_output=True, check=True
    )
    here = [kind(**small).fit(X).score_samples(fresh) for kind in (AutoencoderTransformer, VAETransformer)]
    np.testing.assert_array_equal(np.frombuffer(done.stdout), np.concatenate(here))


def test_two_calls_same_scores(make, X, fresh):
    model = make().fit(X)
    np.testing.assert_array_equal(model.score_samples(fresh), model.score_samples(fresh))


@pytest.mark.parametrize("method", ["joint", "residual", "neighbor", "reconstruction", "auto"])
@pytest.mark.parametrize("n_samples", [50, 1025, 2500])
def test_reversed_rows_reversed_scores(make, X, seed, method, n_samples):
    """Bit for bit in float64, whatever chunks the rows fall into; also where widths are odd."""
    X = np.column_stack([X, X[:, :1] * X[:, 1:2]])
    rows = X[np.random.default_rng(seed).integers(len(X), size=n_samples)] * 1.01
    model = make(score_method=method).fit(X)
    for verb in ("score_samples", "transform", "reconstruct"):
        np.testing.assert_array_equal(getattr(model, verb)(rows[::-1]), getattr(model, verb)(rows)[::-1])


def test_subset_keeps_its_scores(make, X, fresh):
    model = make().fit(X)
    scores, codes = model.score_samples(fresh), model.transform(fresh)
    single = np.array([model.score_samples(row[None])[0] for row in fresh[:10]])
    # 4e-14: the largest relative difference seen over both classes, from kernels of other shapes.
    np.testing.assert_allclose(single, scores[:10], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.score_samples(fresh[7:23]), scores[7:23], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.transform(fresh[7:23]), codes[7:23], rtol=1e-12, atol=1e-12)


def test_order_of_the_training_rows_does_not_matter(make, X, fresh):
    np.testing.assert_array_equal(make().fit(X).score_samples(fresh), make().fit(X[::-1]).score_samples(fresh))


def test_integer_weights_equal_repeated_rows(make, X, fresh, seed):
    weight = np.random.default_rng(seed).integers(0, 4, size=len(X))
    weighted = make().fit(X, sample_weight=weight)
    repeated = make().fit(np.repeat(X, weight, axis=0))
    np.testing.assert_array_equal(weighted.score_samples(fresh), repeated.score_samples(fresh))
    assert weighted.offset_ == repeated.offset_


def test_scale_of_fractional_weights_does_not_matter(make, X, fresh, seed):
    weight = np.random.default_rng(seed).uniform(0.5, 1.5, size=len(X))
    scores = [make().fit(X, sample_weight=weight * factor).score_samples(fresh) for factor in (1.0, 8.0)]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-9)


def global_numpy_state():
    return np.random.get_state()[1].copy()  # noqa: NPY002, the law is about this very state


def test_global_generators_are_untouched(make, X):
    before = random.getstate(), global_numpy_state(), torch.get_rng_state()
    model = make(n_networks=2, random_state=None, early_stopping=True).fit(X).partial_fit(X)
    model.score_samples(X)
    if isinstance(model, VAETransformer):
        model.sample(3)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(global_numpy_state(), before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


def test_random_state_none_differs_from_fit_to_fit(make, X):
    assert not np.array_equal(*(make(random_state=None).fit(X).transform(X) for _ in range(2)))


def test_thread_count_is_restored(make, X):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = make().fit(X)
        model.score_samples(X)
        with pytest.raises(ValueError, match="finite"):
            model.fit(spoilt(X, np.inf))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- Going on -------------------------------------------------------------------------------------------------------


def test_warm_start_goes_on(make, X):
    model = make(warm_start=True, max_iter=4).fit(X)
    curve, n_steps = model.loss_curve_, float(model._fitted.optimiser_state["n_steps"])
    model.fit(X)
    assert model.n_iter_ == len(model.loss_curve_) == 8
    assert model.loss_curve_[:4] == curve != model.loss_curve_[4:]
    assert float(model._fitted.optimiser_state["n_steps"]) == 2 * n_steps
    assert make(max_iter=4).fit(X).fit(X).n_iter_ == 4


def test_warm_start_holds_out_the_same_rows(make, X):
    """Else rows that trained would calibrate the threshold."""
    model = make(warm_start=True, random_state=None).fit(X)
    split = np.random.RandomState(model._fitted.noise_seed).permutation(4)
    model.fit(X)
    np.testing.assert_array_equal(np.random.RandomState(model._fitted.noise_seed).permutation(4), split)


@pytest.mark.parametrize("random_state", [0, None])
def test_warm_start_draws_noise_of_its_own(make, X, random_state):
    """A loop of short fits trained on one order of the rows and one set of draws, over and over."""
    model, seeds = make(warm_start=True, max_iter=1, random_state=random_state), []
    for _ in range(4):
        seeds += model.fit(X)._fitted.seeds
    assert len(set(seeds)) == len(seeds) == 4


def test_warm_start_is_reproducible(make, X):
    first, second = (make(warm_start=True, max_iter=1).fit(X).fit(X).fit(X).score_samples(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_warm_start_refuses_another_network(make, X):
    assert message_of(
        lambda: make(warm_start=True).fit(X).set_params(hidden_layer_sizes=(9,), n_components=3).fit(X)
    ) == (
        "Going on with a fitted model needs the columns and the network that it was fitted with, but 'n_components' "
        "was 2 and is now 3 and 'hidden_layer_sizes' was (8,) and is now (9,). Set it back, or fit anew with "
        "warm_start=False."
    )


OTHER_COLUMNS = {
    "standardize": (False, "True", "False"),
    "likelihood": ({1: "student_t", "x2": "auto"}, "'auto'", "{'x1': 'student_t'}"),
    "categorical_features": ([False, True, False, False], "'from_dtype'", "['x1']"),
    "marginals": ("auto", "None", "'auto'"),
    "scale": ("constant", "'dependent'", "'constant'"),
    "latent_density": ("mixture", "1", "'mixture'"),
}


@pytest.mark.parametrize("verb", ["fit", "partial_fit"])
@pytest.mark.parametrize("name", OTHER_COLUMNS)
def test_going_on_refuses_other_columns(make, X, name, verb):
    """Also in a copy that was saved, and the model stays as it was."""
    model = make(warm_start=True)
    if name not in model.get_params():
        assert name in VAETransformer().get_params()
        return
    value, before, now = OTHER_COLUMNS[name]
    copied = pickle.loads(pickle.dumps(model.fit(X))).set_params(**{name: value})
    scores = model.score_samples(X)
    assert message_of(lambda: getattr(copied, verb)(X)) == (
        f"Going on with a fitted model needs the columns and the network that it was fitted with, but {name!r} was "
        f"{before} and is now {now}. Set it back, or fit anew with warm_start=False."
    )
    np.testing.assert_array_equal(copied.score_samples(X), scores)
    copied.set_params(warm_start=False).fit(X)


def test_going_on_refuses_another_likelihood_of_the_same_size(make, rng):
    """Counts and ones have one output for each column: weights that fit, and mean something else."""
    rows = rng.integers(0, 2, (60, 4)).astype(float)
    model = make(likelihood="poisson").fit(rows).set_params(likelihood="bernoulli")
    assert "'likelihood' was 'poisson' and is now 'bernoulli'" in message_of(lambda: model.partial_fit(rows))


def test_going_on_knows_equal_columns_by_other_words(make, rng):
    rows = pd.DataFrame(rng.integers(0, 3, (60, 4)), columns=NAMES)
    given = {"likelihood": {"price": "poisson"}, "categorical_features": ["width", "mass"]}
    model = make(**given).fit(rows)
    model.set_params(likelihood={3: "poisson", 2: "auto"}, categorical_features=[True, True, False, False])
    assert model.partial_fit(rows).n_samples_seen_ == 60 + 60
    model = make(likelihood={}, categorical_features=None).fit(rows)
    model.set_params(likelihood="auto", categorical_features=[]).partial_fit(rows)


def test_going_on_takes_another_contamination(make, X):
    """Automatic sizes stay those of the first fit, whatever a fit to dirty rows alone would take."""
    for given in ("auto", 0.1), (0.1, "auto"):
        model = make(n_components="auto", hidden_layer_sizes="auto", contamination=given[0], warm_start=True).fit(X)
        n_components = model.n_components_
        assert model.set_params(contamination=given[1]).fit(X).n_components_ == n_components
        assert model.contamination_ == (0.1 if given[1] == 0.1 else None)


def test_chunks_of_one_series_share_a_meaning_of_contamination(make, X):
    """Under a share all rows place the threshold, otherwise those that did not train."""
    model = make(contamination=0.1).partial_fit(X).set_params(contamination=0.2).partial_fit(X[:50] + 1.0)
    assert "'contamination' was 'a float' and is now 'auto'" in message_of(
        lambda: model.set_params(contamination="auto").partial_fit(X)
    )
    model = make(contamination=0.1).fit(X).set_params(contamination="auto")
    assert model.partial_fit(X + 1.0).n_samples_seen_ == 240


def test_a_latent_density_that_is_learned_goes_on_in_chunks(rng):
    """A pass over a chunk learns none: every call fits a mixture to the codes instead."""
    model = VAETransformer(2, latent_density="learned", hidden_layer_sizes=(8,), random_state=0)
    rows = rng.normal(size=(200, 3))
    assert model.partial_fit(rows).partial_fit(rows + 0.1).n_samples_seen_ == 400


def test_warm_start_refuses_another_width(make, X):
    assert message_of(lambda: make(warm_start=True).fit(X).fit(X[:, :3])) == (
        "warm_start=True goes on with a model of 4 columns, but X has 3. Set warm_start=False to start anew."
    )


def test_a_fit_learns_a_latent_density_after_chunks(rng):
    """It was refused, by a value of latent_density that nobody had set."""
    X = np.concatenate([rng.normal(-3.0, 0.3, (150, 3)), rng.normal(3.0, 0.3, (150, 3))])
    model = VAETransformer(2, latent_density="learned", max_iter=40, random_state=0, warm_start=True).partial_fit(X)
    assert (model._fitted.design.latent_density, model._fitted.module.prior) == ("mixture", None)
    model.fit(X)
    assert model._fitted.design.latent_density == "learned"
    mixtures = model._fitted.module.prior.mixtures
    assert [len(mixture.weights) > 1 for mixture in mixtures] == [True]  # as X has
    before = mixtures[0].means.clone()
    model.fit(X).partial_fit(X)
    assert model._fitted.design.latent_density == "learned"
    assert not torch.equal(model._fitted.module.prior.mixtures[0].means, before)


def test_a_fit_that_goes_on_after_a_chunk_places_its_own_threshold(make, X):
    """A chunk after a fit leaves the densities as they are, and so did the next fit."""
    model = make(warm_start=True).fit(X)
    of_fit = model._fitted.members[0].densities["residual"]
    chunk = model.partial_fit(X[:40] + 1e-3)._fitted
    assert chunk.members[0].densities["residual"] is of_fit
    fitted = model.fit(X)._fitted
    assert fitted.members[0].densities["residual"] is not of_fit
    assert not np.isin(fitted.calibration.scores, chunk.calibration.scores).any()


def test_partial_fit_counts_rows_and_steps(make, X):
    model = make(batch_size=16)
    for n_calls, first in enumerate(range(0, 120, 40), start=1):
        model.partial_fit(X[first : first + 40])
        assert model.n_samples_seen_ == 40 * n_calls
        assert model.n_iter_ == len(model.loss_curve_) == n_calls
        # 40 rows less 13 that calibrate are 27: two batches of 16.
        assert float(model._fitted.optimiser_state["n_steps"]) == 2 * n_calls


@pytest.mark.parametrize("sizes", [(30, 1000), (1000, 30)], ids=str)
def test_automatic_sizes_stay_while_a_training_goes_on(make, sizes, rng):
    """A VAE has 8 components for few rows of 10 columns, and 10 for at least 100 times as many rows as columns."""
    first, later = (rng.normal(size=(size, 10)) for size in sizes)
    model = make(n_components="auto").partial_fit(first)
    size = model.n_components_
    assert model.partial_fit(later).n_components_ == size
    model = make(n_components="auto", warm_start=True).fit(first)
    assert model.fit(later).n_components_ == size


def test_partial_fit_remembers_all_chunks(make, X):
    """Scores and threshold rest on all chunks, also where the last one is tiny and lies apart."""
    model = make()
    for first in range(0, 120, 40):
        model.partial_fit(X[first : first + 40])
    assert len(model._fitted.calibration.scores) == 3 * 13
    scores = np.sort(model.score_samples(X))
    model.partial_fit(X[:2] + 1e-3)
    assert len(model._fitted.calibration.scores) == 3 * 13
    assert abs(np.median(model.score_samples(X)) - np.median(scores)) < 1.0


def test_partial_fit_in_passes_counts_no_row_twice(make, X):
    model = make()
    for _ in range(3):
        for first in range(0, 120, 40):
            model.partial_fit(X[first : first + 40][::-1])
    assert len(model._fitted.calibration.scores) == 3 * 13
    assert len(model._fitted.stream.training.rows) == 3 * 27


@pytest.mark.slow
def test_partial_fit_learns(make, seed):
    """Passes of chunks come near a fit, by the mean log-density of fresh rows.

    Measured on 24 tables: 0.8 nats below, standard deviation 0.4, of the autoencoder.
    """
    # One Gaussian as p(z): to choose among mixtures after each of 75 chunks would take most of the time.
    prior = {"latent_density": 1} if isinstance(make(), VAETransformer) else {}
    parameters = {"n_components": 3, "hidden_layer_sizes": (32,), "noise": 0.0} | prior
    gaps = []
    for rng in np.random.default_rng(seed).spawn(4):
        rows = np.sin(rng.uniform(0, 6, size=(600, 1)) + [0.0, 1.0, 2.0, 3.0]) + 0.05 * rng.normal(size=(600, 4))
        model, whole = make(**parameters), make(**parameters).fit(rows[:500])
        for chunk in 15 * np.array_split(rows[:500], 5):
            model.partial_fit(chunk)
        gaps.append(model.score(rows[500:]) - whole.score(rows[500:]))
        assert np.mean(model.predict(rows[500:]) < 0) <= 0.2
    assert np.mean(gaps) > -1.5


def test_partial_fit_with_contamination_flags_that_share(make, X):
    model = make(contamination=0.1)
    for first in range(0, 120, 40):
        model.partial_fit(X[first : first + 40])
    assert (model.predict(X) < 0).sum() == 12


def test_partial_fit_after_fit_keeps_what_the_fit_knew(make, X):
    """The rows that placed its threshold, and the densities, until the chunks hold as many rows."""
    model = make().fit(X)
    of_fit, n_calibration = model._fitted.members[0].densities["residual"], len(model._fitted.calibration.scores)
    model.partial_fit(X[:20])
    assert model._fitted.members[0].densities["residual"] is of_fit
    assert len(model._fitted.calibration.scores) == n_calibration
    for _ in range(2):
        model.partial_fit(X + 1e-6 * model.n_iter_)
    assert model._fitted.members[0].densities["residual"] is not of_fit


@pytest.mark.parametrize("estimator", [AutoencoderTransformer, VAETransformer])
def test_chunks_after_a_fit_keep_the_false_alarm_rate(estimator, seed):
    """The network moves and the densities do not: the rows that placed the threshold are scored again."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(3, 6))

    def draw(n_samples):
        causes = rng.normal(size=(n_samples, 3)) @ loadings
        return 2.0 * np.tanh(causes) + 0.3 * (causes + rng.normal(size=(n_samples, 6)))

    calibrating, fresh = draw(1000), draw(4000)
    parameters = {"hidden_layer_sizes": (32,), "max_iter": 15, "learning_rate_init": 0.02, "random_state": 0}
    model = estimator(3, **parameters).fit(draw(600)).calibrate(calibrating)
    offset, codes = model.offset_, model.transform(fresh)
    for _ in range(4):
        model.partial_fit(draw(120))
    flagged = np.mean(model.predict(fresh) < 0)
    # Of 1,000 rows and 4,000 others this share has a standard deviation of 0.0077.
    assert 0.05 - 0.035 < flagged < 0.05 + 0.035
    # Chunks on which no epoch lowers the loss leave the networks as they are.
    assert (model.offset_ == offset) == np.array_equal(model.transform(fresh), codes)
    np.testing.assert_allclose(np.sort(model.p_values(calibrating)), np.arange(2, 1002) / 1001, atol=2.5 / 1001)


def test_chunks_after_a_fit_flag_the_share_of_its_rows_that_was_asked_for(make, X):
    model = make(contamination=0.1).fit(X).partial_fit(X[:20] + 1e-3)
    assert (model.predict(X) < 0).sum() == 12


def test_chunks_after_a_cross_fit_keep_what_was_allowed_for_rows_that_trained(make, X):
    model = make(calibration_fraction="cross_fit").fit(X)

    def allowed():
        calibration = model._fitted.calibration
        rows = model._fitted.columns.decode(torch.from_numpy(calibration.rows).double())
        return calibration.row_scores - model.score_samples(rows.numpy())

    of_fit = allowed()
    assert np.abs(of_fit).max() > 0.1
    np.testing.assert_allclose(model.partial_fit(X[:20] + 1e-3) and allowed(), of_fit, atol=1e-3)


def test_partial_fit_of_single_rows(make, X):
    model = make().partial_fit(X[:20])
    for row in X[20:30]:
        model.partial_fit(row[None])
    assert np.isfinite(model.score_samples(X)).all()
    assert model.n_samples_seen_ == 30


def test_partial_fit_warns_of_a_column_that_started_constant(make, X):
    first = X[:30].copy()
    first[:, 2] = 7.0
    model = make().partial_fit(first)
    with pytest.warns(UserWarning, match="constant in the first chunk") as caught:
        model.partial_fit(X[30:60])
    assert [str(w.message) for w in caught] == [
        "Column 'x2' was constant in the first chunk, 7, so that nothing is learned of it, and this chunk's other "
        "values only lower the scores of their rows. Start with a chunk in which every column varies."
    ]
    assert caught[0].filename == __file__
    first[:, 0] = -1.0
    model = make().partial_fit(first)
    with pytest.warns(UserWarning, match="constant in the first chunk") as caught:
        model.partial_fit(X[30:60])
    assert [str(w.message) for w in caught] == [
        "Each of the columns 'x0', 'x2' was constant in the first chunk, so that nothing is learned of it, and this "
        "chunk's other values only lower the scores of their rows. Start with a chunk in which every column varies."
    ]


def test_fit_after_partial_fit_starts_anew(make, X, fresh):
    model = make().partial_fit(X[:40]).fit(X)
    np.testing.assert_array_equal(model.score_samples(fresh), make().fit(X).score_samples(fresh))
    assert model.n_samples_seen_ == 120


# --- While it trains ------------------------------------------------------------------------------------------------


def test_verbose_prints_a_line_for_each_epoch(make, X, capsys):
    """And one for each phase around them, so that it is seen what takes long."""
    model = make(verbose=True, max_iter=2, early_stopping=True).fit(X)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\[\w+\] trains by the step '\w+'", lines.pop(1))
    assert [line.split(":")[0] for line in lines] == [
        f"[{type(model).__name__}] {what}" for what in ("start", "epoch 1/2", "epoch 2/2", "densities", "threshold")
    ]
    for phase in (lines[0], *lines[3:]):
        assert re.fullmatch(r"\[\w+\] \w+: \d+\.\d s", phase)
    for number, line in enumerate(lines[1:3], start=1):
        start = f"[{type(model).__name__}] epoch {number}/2: loss {model.loss_curve_[number - 1]:.4f}, validation "
        assert line.startswith(start)
        assert line.endswith(" s")


def test_quiet_by_default(make, X, capsys):
    make().fit(X)
    assert capsys.readouterr() == ("", "")


@pytest.mark.filterwarnings("default::sklearn.exceptions.ConvergenceWarning")
def test_fit_that_still_improves_warns(make, seed):
    rng = np.random.default_rng(seed)
    rows = np.sin(rng.uniform(0, 6, size=(400, 1)) + np.arange(6.0))
    with pytest.warns(ConvergenceWarning) as caught:
        make(max_iter=3, hidden_layer_sizes=(64,), noise=0.0).fit(rows)
    assert [str(w.message) for w in caught] == [
        "The loss still improved by more than tol=0.0001 when max_iter=3 was reached. Raise 'max_iter', or leave it at "
        "'auto'."
    ]
    assert caught[0].filename == __file__


def test_early_stopping_stops(make, X):
    model = make(early_stopping=True, max_iter=200, n_iter_no_change=2, tol=1.0).fit(X)
    assert model.n_iter_ < 200
    assert len(model.validation_curve_) == model.n_iter_
    assert make().fit(X).validation_curve_ is None


# --- In scikit-learn's company --------------------------------------------------------------------------------------


def test_weights_are_routed_through_a_pipeline(make, X, fresh, seed):
    weight = np.random.default_rng(seed).integers(0, 3, size=len(X))
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(StandardScaler(), make().set_fit_request(sample_weight=True))
        pipe[0].set_fit_request(sample_weight=False)
        pipe.fit(X, sample_weight=weight)
    alone = make().fit(StandardScaler().fit_transform(X), sample_weight=weight)
    np.testing.assert_array_equal(pipe[-1].score_samples(fresh), alone.score_samples(fresh))


@pytest.mark.parametrize("n_jobs", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_search_needs_no_scoring(make, X, n_jobs):
    pipe = make_pipeline(StandardScaler(), make())
    name = pipe.steps[-1][0]
    search = GridSearchCV(pipe, {f"{name}__n_components": [1, 2], f"{name}__max_iter": [1, 3]}, cv=2, n_jobs=n_jobs)
    search.fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ == search.cv_results_["mean_test_score"].max()
    # Two true causes: one component cannot hold them.
    assert search.best_params_[f"{name}__n_components"] == 2
    assert search.predict(X).shape == (len(X),)


def test_features_feed_a_classifier(make, X):
    y = (X[:, 0] > 0).astype(int)
    pipe = make_pipeline(make(), LogisticRegression())
    search = GridSearchCV(pipe, {f"{pipe.steps[0][0]}__n_components": [1, 2]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.5


def test_y_is_ignored(make, X, fresh):
    y = np.arange(len(X))
    np.testing.assert_array_equal(make().fit(X, y).score_samples(fresh), make().fit(X).score_samples(fresh))


# --- Small things ---------------------------------------------------------------------------------------------------

SMALL_TABLES = {
    "one row": np.array([[1.0, 2.0, 3.0]]),
    "two rows": np.array([[1.0, 2.0], [3.0, -4.0]]),
    "one column": np.linspace(0.0, 1.0, 30)[:, None],
    "one cell": np.array([[5.0]]),
    "constant column": np.column_stack([np.linspace(0.0, 1.0, 30), np.full(30, 1e6), np.full(30, 0.0)]),
    "all rows equal": np.tile([1.0, -2.0, 3e5], (25, 1)),
    "fewer rows than a batch": np.random.RandomState(0).randn(7, 3),
    "more columns than rows": np.random.RandomState(0).randn(5, 40),
    "tiny and huge units": np.random.RandomState(0).randn(30, 2) * [1e-12, 1e12],
}


@pytest.mark.parametrize(
    ("contamination", "early_stopping"),
    [
        ("auto", False),
        (0.2, True),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in [("auto", True), (0.2, False)]),
    ],
)
@pytest.mark.parametrize("kind", SMALL_TABLES)
def test_small_tables_work(make, kind, contamination, early_stopping):
    rows = SMALL_TABLES[kind]
    model = make(contamination=contamination, early_stopping=early_stopping, n_components=3).fit(rows)
    assert model.transform(rows).shape == (len(rows), 3)
    assert np.isfinite(model.transform(rows)).all()
    assert np.isfinite(model.score_samples(rows)).all()
    assert np.isfinite(model.score(rows))
    assert set(model.predict(rows)) <= {-1, 1}
    assert np.isfinite(model.inverse_transform(model.transform(rows))).all()
    model.partial_fit(rows)
    assert np.isfinite(model.score_samples(rows)).all()


def test_constant_column_comes_back_exact(make):
    rows = SMALL_TABLES["constant column"]
    np.testing.assert_array_equal(make().fit(rows).reconstruct(rows)[:, 1:], rows[:, 1:])


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_interpolation_ends_at_the_reconstructions(make, X, path):
    model = make().fit(X)
    paths = model.interpolate(X[:5], X[5:10], n_steps=4, path=path)
    assert paths.shape == (5, 4, 4)
    scale = X.std(axis=0)
    np.testing.assert_allclose(paths[:, 0] / scale, model.reconstruct(X[:5]) / scale, atol=1e-12)
    np.testing.assert_allclose(paths[:, -1] / scale, model.reconstruct(X[5:10]) / scale, atol=1e-12)


def test_reconstruct_is_transform_and_back(make, X, fresh):
    model = make().fit(X)
    there_and_back = model.inverse_transform(model.transform(fresh))
    np.testing.assert_allclose(model.reconstruct(fresh) / X.std(axis=0), there_and_back / X.std(axis=0), atol=1e-12)
