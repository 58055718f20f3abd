"""What a report says is what the model and the table say, computed apart."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import AutoencoderTransformer, VAETransformer
from skvae.display import SynthesisDisplay
from skvae.report import report, synthesis_report

pytestmark = pytest.mark.filterwarnings("ignore:false_alarm_rate=:UserWarning")


@pytest.fixture(scope="module")
def table(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 3)) + 0.1 * rng.normal(size=(300, 3))
    return pd.DataFrame(X, columns=["age", "height", "weight"])


@pytest.fixture(scope="module")
def vae(table):
    return VAETransformer(2, max_iter=20, tol=100.0, random_state=0).fit(table)


def test_numbers_are_those_of_scikit_learn_and_scipy(vae, table):
    found = report(vae, table, n_samples=500, random_state=3)
    assert found.columns == ["age", "height", "weight"]
    np.testing.assert_array_equal(found.noise_scale, vae.noise_scale_)
    np.testing.assert_array_equal(found.kl_per_component, vae.kl_per_component_)
    expected = r2_score(table, vae.reconstruct(table), multioutput="raw_values")
    np.testing.assert_allclose(found.explained_variance, expected, rtol=1e-10)
    draws = vae.sample(500, random_state=3, match_marginals=False)
    statistics = [ks_2samp(table.iloc[:, j], np.asarray(draws)[:, j]).statistic for j in range(3)]
    np.testing.assert_allclose(found.marginal_distance, statistics, rtol=1e-10)
    assert found.effective_draws == np.median(vae.effective_sample_size(table))


def test_autoencoder_reports_what_it_has(table):
    model = AutoencoderTransformer(2, max_iter=3, tol=100.0, random_state=0).fit(table)
    found = report(model, table)
    assert (found.noise_scale, found.marginal_distance, found.kl_per_component, found.effective_draws) == (None,) * 4
    np.testing.assert_allclose(
        found.explained_variance, r2_score(table, model.reconstruct(table), multioutput="raw_values"), rtol=1e-10
    )
    assert str(found).splitlines()[0].split() == ["column", "explained", "variance"]


def test_takes_a_pipeline_and_missing_cells(table):
    X = table.copy()
    X.iloc[::5, 0] = np.nan
    pipe = make_pipeline(StandardScaler(), VAETransformer(2, max_iter=3, tol=100.0, random_state=0)).fit(X)
    found = report(pipe, X, n_samples=100)
    assert np.isfinite(found.explained_variance).all()
    assert ((found.marginal_distance >= 0) & (found.marginal_distance <= 1)).all()


def test_constant_column_has_no_variance_to_explain(table):
    X = table.assign(height=7.0).to_numpy()
    found = report(VAETransformer(2, max_iter=3, tol=100.0, random_state=0).fit(X), X, n_samples=50)
    assert found.columns == ["x0", "x1", "x2"]
    assert np.isnan(found.explained_variance[1])
    assert found.marginal_distance[1] == 0.0


def test_categories_are_compared_by_their_shares(seed):
    rng = np.random.default_rng(seed)
    size = rng.normal(size=200)
    X = pd.DataFrame({"size": size, "colour": pd.Categorical(np.where(size + rng.normal(size=200) > 0, "red", "blue"))})
    model = VAETransformer(2, max_iter=3, tol=100.0, random_state=0).fit(X)
    found = report(model, X, n_samples=400, random_state=1)
    share = np.mean(np.asarray(model.sample(400, random_state=1))[:, 1].astype(str) == "red")
    assert np.isnan(found.explained_variance[1])
    np.testing.assert_allclose(found.marginal_distance[1], abs(share - np.mean(X["colour"] == "red")))


@pytest.mark.parametrize("kind", ["polars", "pyarrow"])
def test_tables_of_other_libraries_are_reported_alike(kind):
    """With integers of 128 bits, which NumPy does not have, a missing value, and dates as text."""
    frame = pd.DataFrame({"count": [float(i % 5) for i in range(39)] + [np.nan], "size": np.arange(40.0) ** 0.5})
    frame["day"] = pd.date_range("2026-01-01", periods=40).strftime("%Y-%m-%d")
    wide = pl.from_pandas(frame).with_columns(pl.col("count").fill_nan(None).cast(pl.Int128))
    X = wide if kind == "polars" else pa.Table.from_pandas(frame, preserve_index=False)
    model = AutoencoderTransformer(1, hidden_layer_sizes=(4,), max_iter=1, tol=100.0, random_state=0)
    expected, found = report(model.fit(frame), frame), report(model.fit(X), X)
    assert found.columns == expected.columns == ["count", "size", "day"]
    if kind == "pyarrow":  # polars rounds the whole numbers of a reconstruction
        np.testing.assert_array_equal(found.explained_variance, expected.explained_variance)
    assert np.isfinite(found.explained_variance).all()


def test_periods_are_compared_as_dates_are():
    rng = np.random.default_rng(0)
    months = pd.period_range("2020-01", periods=60, freq="M")[rng.integers(0, 60, 100)]
    X = pd.DataFrame({"x": rng.normal(size=100), "month": months})
    model = VAETransformer(2, max_iter=3, tol=100.0, random_state=0)
    of_periods = report(model.fit(X), X, n_samples=100)
    X["month"] = X["month"].dt.to_timestamp()
    of_dates = report(model.fit(X), X, n_samples=100)
    np.testing.assert_allclose(of_periods.explained_variance, of_dates.explained_variance, atol=0.02)
    assert of_periods.marginal_distance[1] < 0.5


def test_a_dictionary_of_arrow_without_a_value_is_a_column_without_one():
    nothing = pa.DictionaryArray.from_arrays(pa.array([None] * 20, pa.int8()), pa.array([], pa.string()))
    X = pa.table({"none": nothing, "x": np.arange(20.0)})
    with pytest.warns(UserWarning, match="holds no value in any training row"):
        model = VAETransformer(2, max_iter=3, tol=100.0, random_state=0).fit(X)
    assert np.isnan(report(model, X, n_samples=50).marginal_distance[0])


def test_identifiers_are_not_explained(table):
    """Though rows that are reconstructed hold their own."""
    with pytest.warns(UserWarning, match="^Identifiers are left out of the model: column 'case'"):
        model = AutoencoderTransformer(2, max_iter=2, tol=1e3).fit(table.assign(case=range(len(table))))
    found = report(model, table.assign(case=range(len(table))))
    assert np.isnan(found.explained_variance).tolist() == [False, False, False, True]


def test_a_column_without_a_value_is_compared_with_nothing():
    X = pd.DataFrame({"none": pd.array([pd.NA] * 20, dtype=object), "x": np.arange(20.0)})
    with pytest.warns(UserWarning, match="holds no value in any training row"):
        model = VAETransformer(2, max_iter=3, tol=100.0, random_state=0).fit(X)
    found = report(model, X, n_samples=50)
    assert np.isnan(found.marginal_distance[0])
    assert np.isfinite(found.marginal_distance[1])


def test_print_has_a_line_for_each_column_and_component(vae, table):
    lines = str(report(vae, table, n_samples=100)).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["age", "height", "weight"]
    assert lines[0].split() == ["column", "noise", "scale", "explained", "variance", "marginal", "distance"]
    assert [line.split()[0] for line in lines[6:8]] == ["0", "1"]
    assert lines[-1].startswith("effective draws of log_likelihood, median: ")


# --- Synthetic rows -------------------------------------------------------------------------------------------------


def test_rows_of_one_distribution_are_not_told_apart(seed):
    rng = np.random.default_rng(seed)
    drawn, fresh, training = (rng.normal(size=(600, 3)) for _ in range(3))
    found = synthesis_report(drawn, fresh, training)
    assert found.columns == ["x0", "x1", "x2"]
    assert found.detection_auroc == pytest.approx(0.5, abs=0.08)
    statistics = [ks_2samp(drawn[:, j], fresh[:, j]).statistic for j in range(3)]
    np.testing.assert_allclose(found.marginal_distance, statistics, rtol=1e-10)
    assert found.distance_ratio == pytest.approx(1.0, abs=0.1)
    assert (found.n_copies, found.n_fresh_copies) == (0, 0)


def test_pairs_show_what_single_columns_do_not():
    """Words that always agree, against all four pairs alike: 0.5 (2 |0.5 - 0.25| + 2 |0 - 0.25|) = 0.5."""
    real = pd.DataFrame({"a": ["u", "v"] * 200, "b": ["u", "v"] * 200})
    drawn = pd.DataFrame({"a": ["u", "v"] * 200, "b": ["u", "u", "v", "v"] * 100})
    found = synthesis_report(drawn, real)
    np.testing.assert_allclose(found.marginal_distance, 0.0, atol=1e-12)
    np.testing.assert_allclose(found.pair_distance, [[0.0, 0.5], [0.5, 0.0]], atol=1e-12)
    # Half of the drawn rows cannot be real: 1 - 0.5 * 0.5 if told as well as can be.
    assert found.detection_auroc == pytest.approx(0.75, abs=0.03)
    assert (found.distance_ratio, found.n_copies, found.n_fresh_copies) == (None, None, None)


def test_repeated_rows_show(seed):
    rng = np.random.default_rng(seed)
    training = pd.DataFrame({"x": rng.normal(size=80), "k": rng.choice(["a", None], 80)})
    training.loc[3, "x"] = np.nan
    fresh = pd.DataFrame({"x": rng.normal(size=80), "k": rng.choice(["a", None], 80)})
    found = synthesis_report(training.copy(), fresh, training)
    assert (found.n_copies, found.n_fresh_copies) == (80, 0)
    assert found.distance_ratio == 0.0


def test_missing_values_have_a_bin_of_their_own():
    real, drawn = np.ones((20, 2)), np.ones((20, 2))
    real[:, 1], drawn[:, 1] = np.arange(20), np.arange(20)
    drawn[:5, 0] = np.nan
    found = synthesis_report(drawn, real)
    np.testing.assert_allclose(np.diag(found.pair_distance), [0.25, 0.0], atol=1e-12)


@pytest.mark.parametrize("n_values", [0, 1, 2], ids=["no value", "one value", "two values"])
def test_columns_with_hardly_a_value_are_compared(n_values):
    """A fold of the classifier may hold none of them."""
    rng = np.random.default_rng(0)
    tables = [pd.DataFrame({"x": rng.normal(size=60), "y": np.nan}) for _ in range(3)]
    tables[0].loc[: n_values - 1, "y"] = 3.0
    found = synthesis_report(*tables)
    assert 0.2 < found.detection_auroc < 0.8
    assert 0.5 < found.distance_ratio < 2.0
    assert np.isnan(found.marginal_distance).tolist() == [False, True]


def test_marginals_are_those_of_values_that_are_there():
    """Of text as of numbers; missing ones of either side count in pairs alone."""
    real = pd.DataFrame({"k": ["a", "b"] * 10, "x": [1.0, 2.0] * 10})
    drawn = real.copy()
    drawn.loc[:9, :] = None
    np.testing.assert_allclose(synthesis_report(drawn, real).marginal_distance, 0.0, atol=1e-12)
    np.testing.assert_allclose(synthesis_report(real, drawn).marginal_distance, 0.0, atol=1e-12)


@pytest.mark.parametrize("side", [0, 1, 2], ids=["drawn", "fresh", "training"])
def test_columns_without_a_value_in_one_table_decide_nothing(side, seed):
    """As identifiers, which `sample` leaves blank: rows are copies all the same, and blanks tell none apart."""
    rng = np.random.default_rng(seed)
    training, fresh = (pd.DataFrame(rng.normal(size=(90, 2)), columns=["age", "height"]) for _ in range(2))
    tables = [training.copy(), fresh, training]
    plain = synthesis_report(*tables)
    named = [X.assign(name=[f"{place} {row}" for row in range(len(X))]) for place, X in enumerate(tables)]
    named[side]["name"] = None
    found = synthesis_report(*named)
    assert (found.n_copies, found.n_fresh_copies) == (90, 0)
    assert found.detection_auroc == plain.detection_auroc
    assert found.distance_ratio == plain.distance_ratio
    np.testing.assert_array_equal(found.pair_distance[:2, :2], plain.pair_distance)
    assert np.isnan(found.pair_distance[2]).all()
    assert np.isnan(found.pair_distance[:, 2]).all()
    lines = str(found).splitlines()
    assert lines[3].split()[0] == "name"
    assert lines[3].endswith("missing")
    assert lines[-1] == "left out, as one of the tables has no value there: name"


def test_drawn_rows_of_a_table_with_an_identifier_are_compared_without_it(table):
    X = table.assign(name=[f"row {place}" for place in range(len(table))])
    with pytest.warns(UserWarning, match="Identifiers are left out of the model"):
        drawn = VAETransformer(2, max_iter=20, tol=100.0, random_state=0).fit(X[:200]).sample(100, random_state=0)
    found = synthesis_report(drawn, X[200:], X[:200])
    assert found.detection_auroc < 0.8
    assert np.isfinite(found.pair_distance[:3, :3]).all()
    plt = pytest.importorskip("matplotlib.pyplot")
    display = SynthesisDisplay(found).plot()
    assert display.image_.get_clim()[1] == max(0.25, np.nanmax(found.pair_distance))
    plt.close("all")


def test_synthesis_report_is_printed(seed):
    rng = np.random.default_rng(seed)
    tables = [pd.DataFrame(rng.normal(size=(50, 2)), columns=["age", "height"]) for _ in range(3)]
    lines = str(synthesis_report(*tables)).splitlines()
    assert lines[0].split() == ["column", "marginal", "distance", "worst", "pair"]
    assert [line.split()[0] for line in lines[1:3]] == ["age", "height"]
    assert lines[1].endswith("with height")
    assert lines[4].startswith("real or drawn, AUROC of a classifier (0.5: cannot tell): 0.")
    assert lines[-1] == "copies of training rows: 0 drawn, 0 fresh"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"training": (20, 3)}, "All tables must have the same columns, but 'fresh' has 2 and 'training' has 3."),
        ({"drawn": (9, 2)}, "Rows to compare must be at least 10, but 'drawn' has 9."),
    ],
)
def test_tables_that_do_not_compare_are_refused(shapes, message):
    tables = {name: np.zeros(shapes.get(name, (20, 2))) for name in ("drawn", "fresh", "training")}
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole message follows
        synthesis_report(**tables)
    assert str(caught.value) == message


def test_tables_without_a_common_value_are_refused():
    real, drawn = np.ones((20, 2)), np.ones((20, 2))
    real[:, 0], drawn[:, 1] = np.nan, np.nan
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole message follows
        synthesis_report(drawn, real)
    assert str(caught.value) == (
        "At least one column must hold values in each of the tables 'drawn', 'fresh', but none does. Fill a column "
        "that is empty in one of them."
    )


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_columns_of_tables_are_compared_by_name(kind, table):
    """In whatever order and library they come; arrays by place."""
    convert = {"pandas": lambda X: X, "polars": pl.from_pandas, "pyarrow": pa.Table.from_pandas}[kind]
    fresh, training, drawn = table[:100], table[100:200], table[200:]
    expected = synthesis_report(drawn, fresh, training)
    found = synthesis_report(convert(drawn[["weight", "age", "height"]]), fresh, training[table.columns[::-1]])
    assert found.columns == ["age", "height", "weight"]
    by_place = synthesis_report(drawn.to_numpy(), fresh, training.set_axis(range(3), axis=1))
    assert str(found) == str(expected) == str(by_place)
    with pytest.raises(
        ValueError, match="^All tables must have the same columns, but 'drawn' lacks 'age' of 'fresh'.$"
    ):
        synthesis_report(convert(drawn.rename(columns={"age": "years"})), fresh)


def test_picture_shows_the_pairs_and_says_the_rest(seed):
    plt = pytest.importorskip("matplotlib.pyplot")
    rng = np.random.default_rng(seed)
    found = synthesis_report(*(rng.normal(size=(50, 3)) for _ in range(3)))
    display = SynthesisDisplay(found).plot()
    np.testing.assert_array_equal(display.image_.get_array(), found.pair_distance)
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == ["x0", "x1", "x2"]
    assert display.ax_.get_title() == (
        f"told apart with an AUROC of {found.detection_auroc:.2f} (0.5: not at all)\n"
        f"distance to training rows, drawn / fresh: {found.distance_ratio:.2f}"
    )
    plt.close(display.figure_)
