"""Departures from constant columns: their size, what passes for rounding, and what scores and graphs make of them."""

import math
import pickle

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch

from skvae import AutoencoderTransformer, VAETransformer
from skvae._data.columns import Columns, Schema
from skvae._data.departures import Prices, departures, total_departures
from skvae.onnx import to_onnx

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

METHODS = {
    "autoencoder": ["joint", "robust", "local", "residual", "neighbor", "reconstruction"],
    "vae": ["log_likelihood", "elbo", "joint", "residual", "neighbor", "reconstruction"],
}
DENSITIES = {"joint", "robust", "local", "residual", "log_likelihood", "elbo"}
KINDS = {"autoencoder": AutoencoderTransformer, "vae": VAETransformer}
each_score = pytest.mark.parametrize(
    ("kind", "score_method"), [(kind, method) for kind, methods in METHODS.items() for method in methods]
)


def learned(values, dtype=torch.float64):
    """Columns of a table with one constant column, and one that varies."""
    column = torch.as_tensor(values, dtype=dtype)
    table = torch.stack([column, torch.arange(len(column), dtype=dtype)], dim=1)
    return Columns.fit(table, torch.arange(len(column)), Schema(("a", "b")))


def departure(columns, value, dtype=torch.float64):
    return departures(columns, torch.tensor([[value, 1e9]], dtype=dtype), Prices(1.0))[0].tolist()


# --- Size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constant", "value", "expected"),
    [
        (0.0, 1.0, math.log(1e10)),
        (0.0, -1e6, math.log(1e16)),
        (2.5, 3.5, math.log(1.0 / 2.5e-6)),
        (2023.0, 2024.0, math.log(1.0 / 2.023e-3)),
        (1e6, 1e6 + 1.0, math.log(10.0)),  # whole numbers are exact
        (-7.0, 1e308, math.log(1e308) - math.log(7e-6)),
        (0.0, 1e-12, 0.0),
        (7.0, 7.0 + 1e-12, 0.0),
        (0.3, 0.1 + 0.2, 0.0),
        (0.1, float(np.float32(0.1)), 0.0),
        (20230101.0, float(np.float32(20230101.0)), 0.0),
        (5.0, math.nan, 0.0),
        (0.1, 0.1, 0.0),
        (1e9, 1e9, 0.0),
    ],
)
def test_departure_is_the_logarithm_of_the_distance_in_tolerances(constant, value, expected):
    """The tolerance is a millionth of the constant, a tenth of whole numbers at most, or next to nothing."""
    columns = learned([constant] * 20)
    assert departure(columns, value) == [pytest.approx(expected, rel=1e-12), 0.0]
    rows = torch.tensor([[value, 0.0], [constant, 3.0]], dtype=torch.float64)
    assert total_departures(columns, rows, Prices(1.0)).tolist() == [pytest.approx(expected, rel=1e-12), 0.0]


@pytest.mark.parametrize("constant", [0.1, 1e9, -7.3, 1e-5])
def test_rounding_to_single_precision_is_no_departure(constant):
    """Neither of the fitted rows nor of the scored ones, whatever the other has; nor are sums in it."""
    rounded = float(np.float32(constant))
    assert departure(learned([constant] * 9), constant, torch.float32)[0] == 0.0
    assert departure(learned([constant] * 9, torch.float32), constant, torch.float64)[0] == 0.0
    assert departure(learned([constant] * 9, torch.float32), rounded * (1.0 + 4 * 2.0**-23), torch.float32)[0] == 0.0
    assert departure(learned([constant] * 9, torch.float32), 2.0 * constant, torch.float32)[0] > 6.0


def test_what_single_precision_leaves_of_a_zero_is_no_departure():
    """A scaler that subtracts 1000.1 in single precision leaves 2e-5."""
    columns = learned([0.0] * 9)
    left = float(np.float32(1000.1)) - 1000.1
    assert departure(columns, left, torch.float32)[0] == 0.0
    assert departure(columns, 1.0, torch.float32)[0] == pytest.approx(math.log(1e4), rel=1e-6)


def test_column_that_varies_by_rounding_has_that_room():
    columns = learned([0.3, 0.1 + 0.2] * 5)
    assert columns.constant.tolist() == [True, False]
    assert [departure(columns, value)[0] for value in (0.3, 0.1 + 0.2)] == [0.0, 0.0]


def test_departure_grows_with_the_distance_and_stays_small():
    """300 powers of ten make less than 720, whatever the direction."""
    columns = learned([3.0] * 5)
    sizes = [departure(columns, 3.0 + sign * 10.0**power)[0] for sign in (1, -1) for power in range(-4, 308)]
    for half in (sizes[:312], sizes[312:]):
        assert (np.diff(half) > 0).all()
        assert 0 < half[0] < half[-1] < 730


def test_tables_whose_columns_vary_have_no_departures():
    columns = learned([0.0, 1.0])
    assert total_departures(columns, torch.tensor([[1e6, 1e6]]), Prices(1.0)) == 0.0
    assert "tolerance" not in columns.state()


def test_column_without_any_value_has_none():
    table = torch.tensor([[math.nan, 1.0], [math.nan, 2.0]], dtype=torch.float64)
    columns = Columns.fit(table, torch.arange(2), Schema(("a", "b")))
    assert total_departures(columns, torch.tensor([[5.0, 1e6]]), Prices(1.0)) == 0.0


# --- What scores make of it -----------------------------------------------------------------------------------------


def table_with_constants(seed, n_samples=200):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.normal(size=(n_samples, 3)), columns=list("abc")).assign(zero=0.0, seven=7.3)


@pytest.fixture(scope="module")
def fitted():
    """Small fits of every score, made once."""
    made = {}

    def fit(kind, score_method, **parameters):
        key = (kind, score_method, *parameters.items())
        if key not in made:
            model = KINDS[kind](
                hidden_layer_sizes=(8,), max_iter=5, random_state=0, score_method=score_method, **parameters
            )
            made[key] = model.fit(table_with_constants(0))
        return made[key]

    return fit


@each_score
def test_departure_from_a_constant_is_an_anomaly(fitted, kind, score_method):
    model, rows = fitted(kind, score_method), table_with_constants(1, 10)
    scores = model.score_samples(rows)
    for column, value in [("zero", 1e6), ("zero", -0.5), ("seven", 7.4), ("seven", -1e300)]:
        odd = rows.assign(**{column: value})
        lower = model.score_samples(odd)
        assert np.isfinite(lower).all()
        assert (lower < scores).all()
        assert (model.predict(odd) == -1).all()
        assert (model.p_values(odd) <= 0.05).all()
        contributions, expected = model.explain(odd)
        assert (contributions.idxmin(axis=1) == column).all()
        np.testing.assert_allclose(contributions.sum(axis=1), lower, rtol=1e-9)
        np.testing.assert_allclose(expected[column], 0.0 if column == "zero" else 7.3)


@each_score
def test_rounding_and_a_missing_value_cost_nothing(fitted, kind, score_method):
    model, rows = fitted(kind, score_method), table_with_constants(1, 30)
    for change in ({"zero": 1e-12}, {"seven": 7.3 + 1e-12}, {"seven": float(np.float32(7.3))}, {"zero": np.nan}):
        np.testing.assert_array_equal(model.score_samples(rows.assign(**change)), model.score_samples(rows))


@each_score
def test_two_departures_cost_what_each_does(fitted, kind, score_method):
    """And both what the distances say: a hundred times as far costs log(100) / log(10) times what ten times does."""
    model, rows = fitted(kind, score_method), table_with_constants(2, 10)
    base = model.score_samples(rows)

    def fall(**change):
        return base - model.score_samples(rows.assign(**change))

    np.testing.assert_allclose(fall(zero=3.0, seven=9.0), fall(zero=3.0) + fall(seven=9.0), rtol=1e-9)
    step = fall(zero=10.0) - fall(zero=1.0)
    np.testing.assert_allclose(fall(zero=100.0) - fall(zero=1.0), 2.0 * step, rtol=1e-9)
    assert (step >= math.log(10.0) * (1.0 - 1e-9)).all()  # at least a nat for each factor of e


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("contamination", ["auto", 0.1])
def test_codes_and_reconstructions_do_not_see_it(fitted, kind, contamination):
    model, rows = fitted(kind, "auto", contamination=contamination), table_with_constants(1, 5)
    odd = rows.assign(zero=1e6)
    np.testing.assert_array_equal(model.transform(odd), model.transform(rows))
    np.testing.assert_array_equal(model.reconstruct(odd), model.reconstruct(rows))
    assert (model.predict(odd) == -1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_log_densities_fall_with_the_score(fitted, kind):
    model, rows = fitted(kind, "auto"), table_with_constants(1, 5)
    odd = rows.assign(zero=1.0)
    fall = (model.score_samples(rows) - model.score_samples(odd)).mean()
    assert model.score(rows) - model.score(odd) == pytest.approx(fall)
    if kind == "vae":
        of_each = model.score_samples(rows) - model.score_samples(odd)
        np.testing.assert_allclose(model.log_likelihood(rows) - model.log_likelihood(odd), of_each)


@each_score
def test_departures_survive_pickle_and_calibrate(fitted, kind, score_method):
    """`calibrate` moves the threshold alone, also on rows that depart, where a departure is normal from then on."""
    model, rows = pickle.loads(pickle.dumps(fitted(kind, score_method))), table_with_constants(3, 60)
    odd = rows.assign(zero=1.0)
    scores = fitted(kind, score_method).score_samples(odd)
    np.testing.assert_array_equal(model.score_samples(odd), scores)
    np.testing.assert_array_equal(model.calibrate(odd).score_samples(odd), scores)
    assert (model.predict(odd) == -1).mean() < 0.1
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).score_samples(odd), scores)


@pytest.mark.parametrize("kind", KINDS)
def test_one_value_beside_missing_cells(kind, seed):
    """Missing or the one value, both are normal; any other value is not."""
    rows = table_with_constants(seed)
    rows.loc[::3, "seven"] = np.nan
    model = KINDS[kind](hidden_layer_sizes=(8,), max_iter=5, random_state=0).fit(rows)
    fresh = table_with_constants(seed + 1)
    assert (model.predict(fresh) == -1).mean() < 0.2
    assert (model.predict(fresh.assign(seven=np.nan)) == -1).mean() < 0.2
    assert (model.predict(fresh.assign(seven=8.0)) == -1).all()
    contributions, expected = model.explain(fresh.assign(seven=8.0)[:5])
    assert (contributions.idxmin(axis=1) == "seven").all()
    np.testing.assert_allclose(expected["seven"], 7.3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0, 3])
def test_constant_counts(kind, value, seed):
    """Counts are not scaled, and a departure from theirs counts all the same."""
    X = np.random.default_rng(seed).poisson(4.0, (100, 3)).astype(float)
    X[:, 1] = value
    model = KINDS[kind](hidden_layer_sizes=(8,), max_iter=5, random_state=0, likelihood="poisson").fit(X)
    X[:, 1] = value + 2.0
    assert (model.predict(X) == -1).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each_score
def test_graph_sees_departures(fitted, kind, score_method, dtype):
    model, rows = fitted(kind, score_method), table_with_constants(1, 20)
    same = rows.to_numpy(dtype)
    odd = rows.assign(zero=[0.0, 1e6, -1e-3, 1e-12] * 5, seven=[7.3, 7.3, 8.0, 1e30] * 5).to_numpy(dtype)
    session = onnxruntime.InferenceSession(to_onnx(model, dtype=dtype).SerializeToString())
    for X in (same, odd):
        scores, labels = session.run(["scores", "labels"], {"X": X})
        expected = model.score_samples(pd.DataFrame(X, columns=rows.columns))
        np.testing.assert_allclose(scores, expected, rtol=1e-3 if dtype == "float32" else 1e-9, atol=1e-3)
        far = np.abs(expected - model.offset_) > 1e-2
        np.testing.assert_array_equal(labels[far], np.where(expected >= model.offset_, 1, -1)[far])


@pytest.mark.parametrize("kind", KINDS)
def test_graph_knows_what_a_missing_constant_is(kind, seed):
    """Beside a column with gaps, which lets rows with missing values in."""
    rows = table_with_constants(seed)
    rows.loc[::3, "a"] = np.nan
    model = KINDS[kind](hidden_layer_sizes=(8,), max_iter=5, random_state=0).fit(rows)
    X = rows.assign(zero=np.nan).to_numpy()
    session = onnxruntime.InferenceSession(to_onnx(model, dtype="float64").SerializeToString())
    scores = session.run(["scores"], {"X": X})[0]
    np.testing.assert_allclose(scores, model.score_samples(pd.DataFrame(X, columns=rows.columns)), rtol=1e-9)
    np.testing.assert_array_equal(model.score_samples(rows.assign(zero=np.nan)), model.score_samples(rows))


@pytest.mark.parametrize("kind", KINDS)
def test_stream_whose_column_starts_to_vary_keeps_its_alarm_rate(kind, seed):
    """Rows of later chunks that depart place the threshold, too."""
    rng = np.random.default_rng(seed)
    mixing = np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 1.0]])  # unrelated columns have nothing to encode
    model = KINDS[kind](hidden_layer_sizes=(8,), random_state=0)
    model.partial_fit(rng.normal(size=(200, 3)) @ mixing * [1.0, 1.0, 0.0])
    for _ in range(4):
        with pytest.warns(UserWarning, match="constant in the first chunk"):
            model.partial_fit(rng.normal(size=(300, 3)) @ mixing)
    assert (model.predict(rng.normal(size=(400, 3)) @ mixing) == -1).mean() < 0.2
