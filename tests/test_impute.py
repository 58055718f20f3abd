"""The imputer: `impute` as a step of a pipeline."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from skvae import AutoencoderTransformer, VAETransformer
from skvae._tables.averages import average_tables
from skvae.impute import AutoencoderImputer

QUICK = {"hidden_layer_sizes": (8,), "max_iter": 3, "tol": 100.0, "random_state": 0}


@parametrize_with_checks([AutoencoderImputer(AutoencoderTransformer(**QUICK))])
def test_sklearn_check(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [AutoencoderImputer(VAETransformer(**QUICK)), AutoencoderImputer(VAETransformer(**QUICK), n_draws=2)]
)
def test_sklearn_check_of_draws(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def table(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(150, 1)) * np.ones(4) + 0.1 * rng.normal(size=(150, 4))
    return np.where(rng.random(X.shape) < 0.2, np.nan, X)


@pytest.fixture(scope="module")
def frame(table):
    size = np.where(np.isnan(table[:, 0]), None, np.where(table[:, 0] > 0, "large", "small"))
    count = pd.array(np.round(table[:, 1] * 10), dtype="Int64")
    return pd.DataFrame({"size": pd.Categorical(size), "count": count, "a": table[:, 2], "b": table[:, 3]}).set_index(
        np.arange(150) + 7
    )


@pytest.mark.parametrize(
    "estimator", [VAETransformer(latent_density=1, **QUICK), AutoencoderTransformer(**QUICK)], ids=["vae", "ae"]
)
def test_fills_as_its_estimator_does(estimator, table, frame):
    for X in (table, frame):
        filled = AutoencoderImputer(estimator).fit(X).transform(X)
        expected = clone(estimator).fit(X).impute(X)
        pd.testing.assert_frame_equal(pd.DataFrame(filled), pd.DataFrame(expected))
        assert not pd.isna(filled).to_numpy().any() if isinstance(X, pd.DataFrame) else not np.isnan(filled).any()


@pytest.mark.slow
def test_default_is_a_vae_that_fills_alike_every_time(table):
    imputer = AutoencoderImputer().fit(table)
    assert isinstance(imputer.estimator_, VAETransformer)
    np.testing.assert_array_equal(imputer.transform(table), clone(imputer).fit(table).transform(table))
    assert clone(imputer).get_params() == {"estimator": None, "n_draws": None}


def test_takes_its_place_in_a_pipeline_and_a_search(table):
    y = np.nansum(table, axis=1)
    pipe = make_pipeline(AutoencoderImputer(AutoencoderTransformer(**QUICK)), LinearRegression())
    search = GridSearchCV(pipe, {"autoencoderimputer__estimator__n_components": [1, 2]}, cv=2).fit(table, y)
    assert search.predict(table).shape == (150,)
    assert pipe.set_output(transform="pandas").fit(table, y)[0].transform(table).shape == (150, 4)


@pytest.mark.slow
def test_one_draw_keeps_the_spread_that_expected_values_lose(table):
    """Of a value that is cell noise around what the other columns tell."""
    model = VAETransformer(2, random_state=0)
    gap = table.copy()
    gap[:, 0] = np.nan
    filled = {n: AutoencoderImputer(model, n_draws=n).fit(table).transform(gap)[:, 0] for n in (None, 1, 40)}
    residual = {n: np.std(column - filled[None]) for n, column in filled.items()}
    assert residual[None] == 0.0
    assert 0.0 < residual[40] < 0.5 * residual[1]


# --- Averages of draws ----------------------------------------------------------------------------------------------


def test_average_of_arrays_keeps_what_all_draws_share():
    first, second = np.array([[0.1, 1.0], [2.0, 3.0]]), np.array([[0.1, 2.0], [2.0, 3.5]])
    averaged = average_tables([first, second, second])
    np.testing.assert_allclose(averaged, [[0.1, 5 / 3], [2.0, 10 / 3]], rtol=1e-15)
    assert averaged[0, 0] == 0.1
    assert average_tables([first]) is first


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow", "numpy"])
def test_average_of_tables_takes_means_and_the_commonest_level(library):
    """Integers are rounded, and an integer that no float holds comes through."""
    parts = [("red", 1, 0.5), ("blue", 2, 1.0), ("blue", 2, 3.0)]
    tables = [
        pd.DataFrame(
            {"kind": ["red", kind], "count": [3, count], "x": [0.1, x], "id": [2**53 + 1, 5], "empty": [np.nan] * 2}
        )
        for kind, count, x in parts
    ]
    made = {
        "pandas": lambda frame: frame,
        "polars": pl.from_pandas,
        "pyarrow": lambda frame: pl.from_pandas(frame).to_arrow(),
        "numpy": lambda frame: frame.to_numpy(),
    }
    averaged = average_tables([made[library](table) for table in tables])
    assert type(averaged) is type(made[library](tables[0]))
    rows = averaged.tolist() if library == "numpy" else pd.DataFrame(pl.DataFrame(averaged).to_dict(as_series=False))
    rows = rows if library == "numpy" else rows.astype(object).to_numpy().tolist()
    assert [row[:4] for row in rows] == [["red", 3, 0.1, 2**53 + 1], ["blue", 2, 1.5, 5]]
    if library == "pandas":
        assert averaged.dtypes.tolist() == tables[0].dtypes.tolist()


def test_draws_of_mixed_tables_keep_dtypes_and_rows(frame):
    filled = AutoencoderImputer(VAETransformer(**QUICK), n_draws=3).fit_transform(frame)
    assert filled.dtypes.tolist() == frame.dtypes.tolist()
    assert filled.index.equals(frame.index)
    assert not filled.isna().to_numpy().any()
    seen = frame.notna().to_numpy()
    assert (filled.astype(object).to_numpy()[seen] == frame.astype(object).to_numpy()[seen]).all()


# --- What it refuses ------------------------------------------------------------------------------------------------


def test_refuses_what_cannot_fill(table):
    with pytest.raises(ValueError, match="must be an object implementing") as caught:
        AutoencoderImputer(SimpleImputer()).fit(table)
    assert str(caught.value) == (
        "The 'estimator' parameter of AutoencoderImputer must be an object implementing 'fit' and 'impute' or None. "
        "Got SimpleImputer() instead."
    )
    with pytest.raises(ValueError, match="'n_draws'") as caught:
        AutoencoderImputer(n_draws=0).fit(table)
    assert str(caught.value) == (
        "The 'n_draws' parameter of AutoencoderImputer must be an int in the range [1, inf) or None. Got 0 instead."
    )
    with pytest.raises(ValueError, match="draws values") as caught:
        AutoencoderImputer(AutoencoderTransformer(), n_draws=3).fit(table)
    assert str(caught.value) == (
        "n_draws=3 draws values from their distribution, which AutoencoderTransformer does not have. Give a "
        "VAETransformer as 'estimator', or leave 'n_draws' at None."
    )


def test_needs_a_fit(table):
    with pytest.raises(NotFittedError, match="This AutoencoderImputer instance is not fitted yet"):
        AutoencoderImputer(VAETransformer(**QUICK).fit(table)).transform(table)
