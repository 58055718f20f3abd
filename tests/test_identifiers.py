"""Columns that tell rows apart and nothing else are left out of a model, and stay in the tables that it returns."""

import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skvae import AutoencoderTransformer, VAETransformer
from skvae._tables.finding import find_table
from skvae._tables.table import Table

RNG = np.random.default_rng(0)
N = 60
ORDER = RNG.permutation(N)
TEXTS = [f"note {index}" for index in ORDER]
SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 3, "tol": 1e3, "random_state": 0}


def exactly(message):
    return f"^{re.escape(message)}$"


def left_out(columns, weight=None, n_other=1, **options):
    """Labels of the columns that are left out, beside a measure."""
    X = columns if isinstance(columns, pd.DataFrame) else pd.DataFrame(columns)
    X = X.assign(x=np.linspace(0.0, 1.0, len(X))) if n_other else X
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = find_table(X, **({"categorical_features": "from_dtype", "likelihood": "auto"} | options), weight=weight)
    return [X.columns[index] for index in table.left_out]


@pytest.mark.parametrize(
    "columns",
    [
        {"case": np.arange(1, N + 1)},
        {"case": ORDER},  # in any order
        {"case": ORDER.astype("uint8"), "Unnamed: 0": 1 + ORDER},
        {"PassengerId": 7 * ORDER + 12_000},
        {"customer_id": -(ORDER**2)},
        {"sampleNumber": 100 + 2 * ORDER},
        {"name": TEXTS},
        {"name": pd.array(TEXTS, dtype="string"), "id": [str(number) for number in ORDER]},
        {"name": [*TEXTS[:-5], *["note 1"] * 5]},  # 55 of 60 differ
        {"name": TEXTS[:20]},
        {"name": [*TEXTS, *[None] * 40]},
    ],
)
def test_identifiers_are_found(columns):
    assert left_out(columns) == list(columns)


@pytest.mark.parametrize(
    "columns",
    [
        {"case": np.arange(49)},  # of few rows
        {"case": ORDER.astype(float)},
        {"case": ORDER + 1900},  # years
        {"rank": ORDER + 1},
        {"time": np.arange(N)},
        {"wealth": ORDER, "crime": RNG.permutation(N)},  # ranks by several measures
        {"price": 7 * ORDER + 12_000},
        {"grid": ORDER**2},
        {"houseNumber": ORDER**2},
        {"id": [*ORDER[:-1], ORDER[0]]},  # one comes twice
        {"flag": ORDER % 2},
        {"name": TEXTS[:19]},
        {"name": [*TEXTS[:-7], *["note 1"] * 7]},  # 53 of 60 differ
        {"name": pd.Categorical(TEXTS)},
        {"size": [f"{number}.5" for number in ORDER]},  # numbers as text
    ],
)
def test_measures_are_kept(columns):
    assert left_out(columns) == []


def test_parameters_that_name_a_column_keep_it():
    columns = {"case": ORDER, "name": TEXTS}
    assert left_out(columns, categorical_features=["case", "name"]) == []
    assert left_out(columns, likelihood={"case": "gaussian", "name": "categorical"}) == []
    assert left_out(columns, likelihood="categorical") == []
    assert left_out(columns, categorical_features=["name"]) == ["case"]
    assert left_out(columns, n_other=0) == []  # or nothing would be left
    assert (
        find_table(pd.DataFrame(columns).to_numpy()[:, :1].astype(int), categorical_features=None, likelihood="auto")
        is None
    )


def test_weights_count_as_repeated_rows():
    X = pd.DataFrame({"case": np.arange(N), "name": TEXTS})
    whole = np.ones(N)
    assert left_out(X, 2.5 * whole) == ["case", "name"]
    assert left_out(X, np.append(whole[1:], 3.0)) == left_out(X.loc[X.index.repeat([*[1] * 59, 3])]) == ["name"]
    assert left_out(X, 2 * whole) == left_out(pd.concat([X, X])) == []
    none = np.where(np.arange(N) < 55, 1.0, 0.0)
    assert left_out(X, none) == left_out(X[:55]) == ["case", "name"]


FRAME = pd.DataFrame(
    {"case": np.arange(1, N + 1), "x": RNG.normal(size=N), "name": TEXTS, "kind": RNG.choice(["a", "b"], N)},
    index=range(7, 7 + N),
)
FRAMES = {
    "pandas": FRAME,
    "numbers": FRAME[["case", "x"]],
    "nullable": FRAME.convert_dtypes(),
    "arrow": FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "polars": pl.from_pandas(FRAME),
    "pyarrow": pa.Table.from_pandas(FRAME, preserve_index=False),
}


def fitted(make, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(**SMALL).fit(X)


def cells(table, column):
    return table[column].to_pylist() if isinstance(table, pa.Table) else list(table[column])


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("make", [AutoencoderTransformer, pytest.param(VAETransformer, marks=pytest.mark.slow)])
def test_rows_keep_their_identifiers(make, kind):
    """Their own where rows are at hand; none where rows are drawn or decoded."""
    X = FRAMES[kind]
    model = fitted(make, X)
    some = X[:9]
    names = [name for name in ("case", "name") if name in getattr(X, "column_names", getattr(X, "columns", None))]
    own = [model.reconstruct(some), model.impute(some), model.explain(some).expected]
    anew = [model.inverse_transform(model.transform(some))]
    if make is VAETransformer:
        own.append(model.impute(some, n_draws=1)[0])
        own.append(model.sample(1, random_state=0, given=some))
        anew += [model.sample(9, random_state=0), model.sample(3, given={"x": 0.5}, random_state=0)]
    for name in names:
        for table in own:
            assert type(table) is type(X)
            assert cells(table, name) == cells(some, name)
        for table in anew:
            assert type(table) is type(X)
            assert pd.Series(cells(table, name)).isna().all()
    contributions = np.asarray(model.explain(some).contributions)
    assert np.allclose(contributions.sum(axis=1), model.score_samples(some))
    order = list(getattr(X, "column_names", X.columns))
    assert not contributions[:, [order.index(name) for name in names]].any()
    assert contributions[:, order.index("x")].all()
    assert set(model.explain(some).to_frame(top=None)["column"]) <= {"x", "kind"}


LIBRARIES = {
    "pandas": lambda X: X,
    "polars": pl.from_pandas,
    "pyarrow": lambda X: pa.Table.from_pandas(X, preserve_index=False),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_drawn_rows_hold_identifiers_of_another_dtype(library):
    """Whatever the fit had there: nothing was learned of it."""
    convert = LIBRARIES[library]
    model = fitted(VAETransformer, convert(FRAME))
    for values in (["k7", None], [0.5, 1.5], pd.to_datetime(["2026-01-31", "2026-02-01"]), [7, 8]):
        given = convert(pd.DataFrame({"case": values, "name": values}))
        drawn = model.sample(2, random_state=0, given=given)
        for name in ("case", "name"):
            assert cells(drawn, name) == [cell for cell in cells(given, name) for _ in range(2)]


def test_identifiers_tell_nothing():
    """Other ones, missing ones, or text give the same scores to the bit."""
    model = fitted(AutoencoderTransformer, FRAME)
    scores = model.score_samples(FRAME)
    others = FRAME.assign(case=-1.5, name=None)
    for X in (others, FRAME.assign(case="?"), FRAME.assign(name=3.5)):
        np.testing.assert_array_equal(model.score_samples(X), scores)
        assert model.score_samples(X[:1]) == scores[0]
    numbers = fitted(AutoencoderTransformer, FRAME[["case", "x"]])
    with pytest.warns(UserWarning, match="^X does not have valid feature names"):
        again = numbers.reconstruct(FRAME[["case", "x"]].to_numpy())
    np.testing.assert_array_equal(again[:, 0], FRAME["case"])
    assert np.isnan(numbers.interpolate(FRAME[["case", "x"]][:1], FRAME[["case", "x"]][1:2], 3)[:, :, 0]).all()


def test_one_warning_names_all():
    message = (
        "Identifiers are left out of the model: column 'case' (numbers the rows), 'name' (60 texts in 60 rows, such as "
        f"'note {ORDER[0]}'). Drop them, name them in 'categorical_features' or 'likelihood' to have them modelled, or "
        "make numbers of texts that hold some."
    )
    with pytest.warns(UserWarning, match=exactly(message)) as told:
        model = AutoencoderTransformer(**SMALL).fit(FRAME)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.partial_fit(FRAME[:20].assign(case=3, name="the same"))


def test_states_that_leave_out_what_has_levels_are_refused():
    state = fitted(AutoencoderTransformer, FRAME)._fitted.table.state()
    with pytest.raises(ValueError, match=exactly("a column with levels is left out")):
        Table.from_state(state | {"left_out": [3]})
