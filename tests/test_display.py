"""Displays: what they compute is what the estimator says, they draw on any axes, and data in __init__ is left alone."""

import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import AutoencoderTransformer, VAETransformer
from skvae.display import (
    AnomalyScoreDisplay,
    ExplanationDisplay,
    LatentSpaceDisplay,
    LossCurveDisplay,
    ReconstructionDisplay,
)

DISPLAYS = {
    "loss": lambda model, X, **how: LossCurveDisplay.from_estimator(model, **how),
    "latent": lambda model, X, **how: LatentSpaceDisplay.from_estimator(model, X, **how),
    "reconstruction": lambda model, X, **how: ReconstructionDisplay.from_estimator(model, X[:6], **how),
    "scores": lambda model, X, **how: AnomalyScoreDisplay.from_estimator(model, X, **how),
    "explanation": lambda model, X, **how: ExplanationDisplay.from_estimator(model, X[:2], **how),
}
ESTIMATORS = {
    "autoencoder": AutoencoderTransformer(2, max_iter=3, tol=100.0, random_state=0),
    "vae": VAETransformer(2, max_iter=3, tol=100.0, latent_density=1, random_state=0),
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def table(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(120, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(120, 6))
    return pd.DataFrame(X, columns=["age", "height", "weight", "pulse", "sleep", "steps"])


@pytest.fixture(scope="module")
def fitted(table):
    return {name: clone(estimator).fit(table) for name, estimator in ESTIMATORS.items()}


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# --- Laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("name", DISPLAYS)
def test_draws_on_a_new_figure(fitted, table, name, kind):
    display = DISPLAYS[name](fitted[kind], table)
    display.figure_.canvas.draw()
    assert display.ax_.figure is display.figure_


@pytest.mark.parametrize("name", DISPLAYS)
def test_draws_on_given_axes_and_again(fitted, table, name):
    figure, (left, right) = plt.subplots(1, 2)
    display = DISPLAYS[name](fitted["vae"], table, ax=right)
    assert display.ax_ is right
    assert display.figure_ is figure
    assert display.plot(left) is display
    assert display.ax_ is left


@pytest.fixture(scope="module")
def pipe(table):
    return make_pipeline(StandardScaler(), clone(ESTIMATORS["autoencoder"])).fit(table)


@pytest.mark.parametrize("name", DISPLAYS)
def test_takes_a_pipeline(pipe, table, name):
    assert DISPLAYS[name](pipe, table).figure_ is not None


@pytest.fixture(scope="module", params=[2, 200])
def narrow_or_wide(request, seed):
    """A model of few or of many columns, and its rows."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 1)) + 0.1 * rng.normal(size=(60, request.param))
    return AutoencoderTransformer(1, max_iter=2, tol=100.0, random_state=0).fit(X), X


@pytest.mark.parametrize("name", DISPLAYS)
def test_draws_few_and_many_columns_in_any_style(name, narrow_or_wide):
    model, X = narrow_or_wide
    with plt.style.context("dark_background" if X.shape[1] == 2 else "default"):
        DISPLAYS[name](model, X).figure_.canvas.draw()


@pytest.mark.parametrize("name", DISPLAYS)
def test_needs_matplotlib_only_to_draw(fitted, table, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError) as caught:
        DISPLAYS[name](fitted["autoencoder"], table)
    classes = {
        "loss": "LossCurveDisplay",
        "latent": "LatentSpaceDisplay",
        "reconstruction": "ReconstructionDisplay",
        "scores": "AnomalyScoreDisplay",
        "explanation": "ExplanationDisplay",
    }
    assert str(caught.value) == f"{classes[name]}.plot needs matplotlib. Install it with: pip install 'skvae[plot]'"


@pytest.mark.parametrize("name", DISPLAYS)
def test_style_arguments_reach_matplotlib(fitted, table, name):
    keyword = {"loss": "line", "latent": "scatter", "reconstruction": "image", "scores": "hist", "explanation": "bar"}
    with pytest.raises(AttributeError, match="no_such_property"):
        DISPLAYS[name](fitted["vae"], table, **{f"{keyword[name]}_kwargs": {"no_such_property": 1}})


# --- Each class -----------------------------------------------------------------------------------------------------


def test_loss_curves_are_those_of_the_fit(table):
    model = AutoencoderTransformer(2, early_stopping=True, max_iter=4, tol=100.0, random_state=0).fit(table)
    display = LossCurveDisplay.from_estimator(model)
    training, validation = display.lines_
    np.testing.assert_array_equal(training.get_ydata(), model.loss_curve_)
    np.testing.assert_array_equal(validation.get_ydata(), model.validation_curve_)
    assert training.get_xdata()[0] == 1
    best = model.validation_curve_.index(min(model.validation_curve_)) + 1
    assert texts(display.ax_) == ["training", "validation", f"best epoch: {best}"]


def test_latent_space_shows_the_components_that_vary_most():
    codes = np.column_stack([np.zeros(20), np.arange(20.0), 0.1 * np.arange(20), -3 * np.arange(20.0)])
    display = LatentSpaceDisplay(codes).plot()
    assert display.components_ == (1, 3)
    np.testing.assert_array_equal(display.ax_.collections[0].get_offsets(), codes[:, [1, 3]])
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("component 1", "component 3")


def test_latent_space_colours_classes_apart_and_numbers_by_a_bar():
    codes = np.random.default_rng(0).normal(size=(30, 2))
    classes = LatentSpaceDisplay(codes, y=["a", "b", "c"] * 10).plot()
    assert texts(classes.ax_) == ["a", "b", "c"]
    assert len({tuple(part.get_facecolor()[0]) for part in classes.ax_.collections}) == 3
    numbers = LatentSpaceDisplay(codes, y=np.linspace(0, 1, 30)).plot()
    assert numbers.ax_.get_legend() is None
    assert len(numbers.figure_.axes) == 2
    assert LatentSpaceDisplay(codes, y=np.arange(30)).plot().ax_.get_legend() is None


def test_latent_space_holds_far_rows_in_the_frame():
    """One row a million away would leave all others on one dot; the codes themselves stay as they are."""
    codes = np.vstack([np.random.default_rng(0).normal(size=(99, 2)), [[1e6, 0.0]]])
    display = LatentSpaceDisplay(codes).plot()
    assert display.ax_.get_xlim()[1] < 50
    assert len(display.ax_.collections[0].get_offsets()) == 100
    assert display.ax_.get_xlabel() == "component 0 (1 far row at the edge of the frame)"
    assert codes.max() == 1e6
    assert np.isfinite(LatentSpaceDisplay(np.ones((5, 2))).plot().ax_.get_xlim()).all()


def test_counting_axes_have_whole_numbers():
    figure, (left, right) = plt.subplots(1, 2, figsize=(6, 6))
    LossCurveDisplay([3.0, 2.0, 1.0]).plot(left)
    AnomalyScoreDisplay([1.0, 2.0, 3.0], threshold=1.5).plot(right)
    figure.canvas.draw()
    ticks = [*left.get_xticks(), *right.get_yticks()]
    assert ticks == [round(tick) for tick in ticks]


def test_score_legend_lies_above_the_bars():
    display = AnomalyScoreDisplay([1.0, 1.0, 3.0, 3.0, 3.0], threshold=1.0, y=list("aabbb")).plot()
    display.figure_.canvas.draw()
    below = display.ax_.get_legend().get_window_extent().y0
    highest = max(bar.get_window_extent().y1 for bar in display.ax_.patches)
    assert below > highest


def test_latent_space_of_one_component_is_a_histogram():
    display = LatentSpaceDisplay(np.arange(12.0)[:, None], y=[0, 1] * 6).plot()
    assert display.components_ == (0,)
    assert sum(bar.get_height() for bar in display.ax_.patches) == 12


@pytest.mark.parametrize("components", [(0, 2), (0,), (-1, 0)])
def test_latent_space_refuses_other_components(components):
    with pytest.raises(ValueError, match="components must be") as caught:
        LatentSpaceDisplay(np.zeros((3, 2)), components=components).plot()
    assert str(caught.value) == f"components must be 'auto' or two numbers from 0 to 1, but {components!r} came."


def test_reconstruction_shows_input_output_and_difference(fitted, table):
    display = ReconstructionDisplay.from_estimator(fitted["autoencoder"], table[:4])
    shown = [ax.images[0].get_array() for ax in display.axes_]
    mean, scale = fitted["autoencoder"].mean_, fitted["autoencoder"].scale_
    np.testing.assert_allclose(shown[0], (table[:4].to_numpy() - mean) / scale, atol=1e-12)
    np.testing.assert_allclose(shown[1], (fitted["autoencoder"].reconstruct(table[:4]) - mean) / scale, atol=1e-12)
    np.testing.assert_allclose(shown[0] - shown[1], shown[2], atol=1e-12)
    names = [label.get_text() for label in display.axes_[0].get_xticklabels()]
    assert names == ["age", "height", "weight", "pulse", "sleep", "steps"]


@pytest.mark.parametrize(("n_columns", "named"), [(30, True), (120, False)])
def test_names_of_columns_do_not_overlap(n_columns, named):
    """Small where there are many, and left out where they would be too small to read."""
    X = np.zeros((3, n_columns))
    display = ReconstructionDisplay(X, X, feature_names=[f"measurement {i}" for i in range(n_columns)]).plot()
    display.figure_.canvas.draw()
    labels = [label.get_window_extent() for label in display.axes_[0].get_xticklabels() if label.get_text()]
    assert len(labels) == n_columns * named
    assert all(left.x1 <= right.x0 + 1 for left, right in zip(labels, labels[1:], strict=False))


def test_reconstruction_of_images_keeps_their_values():
    X, X_hat = np.arange(12.0).reshape(2, 6), np.ones((2, 6))
    display = ReconstructionDisplay(X, X_hat, image_shape=(2, 3)).plot()
    assert display.axes_.shape == (3, 2)
    np.testing.assert_array_equal(display.axes_[0, 1].images[0].get_array(), [[6, 7, 8], [9, 10, 11]])
    np.testing.assert_array_equal(display.axes_[2, 1].images[0].get_array(), [[5, 6, 7], [8, 9, 10]])


def test_reconstruction_refuses_images_of_another_size():
    with pytest.raises(ValueError, match="image_shape") as caught:
        ReconstructionDisplay(np.zeros((2, 6)), np.zeros((2, 6)), image_shape=(2, 2)).plot()
    assert str(caught.value) == (
        "image_shape=(2, 2) holds 4 pixels, but a row of X has 6 columns. Give the height and the width of the image."
    )


def test_reconstruction_refuses_axes_without_a_place():
    with pytest.raises(ValueError, match="ax must come from") as caught:
        ReconstructionDisplay(np.zeros((2, 6)), np.zeros((2, 6))).plot(plt.figure().add_axes([0, 0, 1, 1]))
    assert str(caught.value) == "ax must come from plt.subplots or add_subplot, so that its place can be divided."


def test_scores_count_every_row_and_name_the_promise(fitted, table):
    model = fitted["autoencoder"]
    display = AnomalyScoreDisplay.from_estimator(model, table)
    np.testing.assert_array_equal(display.scores, model.score_samples(table))
    assert display.threshold == model.offset_
    assert display.expected_rate == "5 % of fresh normal rows"
    assert sum(bar.get_height() for bar in display.ax_.patches) == 120
    dirty = clone(model).set_params(contamination=0.1).fit(table)
    assert AnomalyScoreDisplay.from_estimator(dirty, table).expected_rate == "10 % of the training rows"


def test_scores_name_the_promise_that_the_threshold_keeps(table):
    """Not what the parameters say since then."""
    model = AutoencoderTransformer(2, hidden_layer_sizes=(8,), contamination=0.1, random_state=0).fit(table)
    model.set_params(contamination=0.3)
    assert AnomalyScoreDisplay.from_estimator(model, table).expected_rate == "10 % of the training rows"
    model.calibrate(table, false_alarm_rate=0.02)
    assert AnomalyScoreDisplay.from_estimator(model, table).expected_rate == "2 % of fresh normal rows"
    model.set_params(contamination="auto", false_alarm_rate=0.25)
    assert AnomalyScoreDisplay.from_estimator(model, table).expected_rate == "2 % of fresh normal rows"
    model.calibrate(table)
    assert AnomalyScoreDisplay.from_estimator(model, table).expected_rate == "25 % of fresh normal rows"


def test_scores_far_below_stay_in_the_first_bar():
    """One score of minus a million would leave everything else in one bar."""
    display = AnomalyScoreDisplay(np.array([-1e6, -3.0, -2.0, -1.0, 0.0]), threshold=-2.5, y=[1, 0, 0, 0, 0]).plot()
    assert display.ax_.get_xlim()[0] > -10
    assert sum(bar.get_height() for bar in display.ax_.patches) == 5
    assert display.ax_.get_xlabel() == "score (higher = more normal; 1 lower ones in the first bar)"
    assert texts(display.ax_) == ["0 (4)", "1 (1)", "threshold -2.5\nfound below: 40 %"]


def test_scores_that_all_lie_below_are_told_apart():
    """As after a drift: no width above the threshold to go by."""
    display = AnomalyScoreDisplay(np.linspace(-30.0, -10.0, 41), threshold=-2.0).plot()
    assert sum(bar.get_height() > 0 for bar in display.ax_.patches) > 10


@pytest.mark.parametrize(("n_rare", "stat", "fractions"), [(2, "auto", True), (2, "count", False), (9, "auto", False)])
def test_scores_of_a_rare_class_stand_as_high_as_those_of_the_other(n_rare, stat, fractions):
    """Two anomalies among fifty rows: as counts their bars would be lost."""
    scores, y = np.r_[np.linspace(0.0, 1.0, 50), np.full(n_rare, -1.0)], np.r_[np.zeros(50), np.ones(n_rare)]
    display = AnomalyScoreDisplay(scores, threshold=-0.5, y=y.astype(int), stat=stat).plot()
    heights = np.array([bar.get_height() for bar in display.ax_.patches])
    sums = heights.reshape(2, -1).sum(axis=1)
    np.testing.assert_allclose(sums, [1.0, 1.0] if fractions else [50.0, n_rare], rtol=1e-12)
    assert display.ax_.get_ylabel() == ("fraction of each class" if fractions else "rows")
    assert texts(display.ax_)[1] == f"1 ({n_rare})"


def test_scores_without_classes_have_fractions_too():
    display = AnomalyScoreDisplay([1.0, 2.0, 3.0, 4.0], threshold=1.5, stat="fraction").plot()
    assert sum(bar.get_height() for bar in display.ax_.patches) == pytest.approx(1.0)
    assert display.ax_.get_ylabel() == "fraction of all rows"


def test_scores_refuse_another_stat():
    with pytest.raises(ValueError, match="stat") as caught:
        AnomalyScoreDisplay([1.0, 2.0], threshold=1.5, stat="density").plot()
    assert str(caught.value) == "The 'stat' parameter must be 'auto', 'count' or 'fraction'. Got 'density' instead."


def test_equal_scores_are_drawn():
    assert AnomalyScoreDisplay([1.0, 1.0], threshold=1.0).plot().figure_ is not None


def test_explanation_shows_the_lowest_contributions_and_adds_up():
    display = ExplanationDisplay(
        [-1.0, -8.0, 2.0, -3.0], values=[1.0, 2500.0, 3.0, 4.0], expected=[1.5, 0.12345, 3.0, 2.0], max_columns=2
    ).plot()
    bars = [bar.get_width() for bar in display.ax_.patches]
    assert bars == [-8.0, -3.0, 1.0]
    labels = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert labels == ["x1\n2,500 (expected 0.1235)", "x3\n4 (expected 2)", "2 other columns"]
    assert display.ax_.get_title() == "score -10"


def test_explanation_stops_at_the_values_that_had_to_change():
    """And says what part of the deficit each has; the others share a bar, so that the bars still add up."""
    display = ExplanationDisplay(
        [-1.0, -8.0, 2.0, -3.0],
        values=[1.0, 2500.0, 3.0, 4.0],
        expected=[1.5, 0.125, 3.0, 2.0],
        shares=[0, 0.75, 0, 0.25],
    ).plot()
    assert [bar.get_width() for bar in display.ax_.patches] == [-8.0, -3.0, 1.0]
    labels = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert labels == ["x1\n2,500 (expected 0.125), 75 %", "x3\n4 (expected 2), 25 %", "2 other columns"]
    normal = ExplanationDisplay([-1.0, 2.0], values=[1.0, 2.0], expected=[1.0, 2.0], shares=[0.0, 0.0]).plot()
    assert len(normal.ax_.patches) == 2


def test_explanation_is_that_of_the_estimator(fitted, table):
    model = fitted["autoencoder"]
    display = ExplanationDisplay.from_estimator(model, table, row=3)
    contributions, expected = model.explain(table[3:4])
    np.testing.assert_array_equal(display.contributions, contributions.to_numpy()[0])
    np.testing.assert_array_equal(display.expected, expected.to_numpy()[0])
    np.testing.assert_array_equal(display.shares, model.explain(table[3:4]).shares[0])
    assert display.feature_names == list(table.columns)
    assert np.sum(display.contributions) == pytest.approx(model.score_samples(table)[3])


def test_explanation_shows_categories_and_missing_cells():
    rng = np.random.default_rng(0)
    size = rng.normal(size=120)
    X = pd.DataFrame({"size": size, "kind": pd.Categorical(np.where(size > 0, "big", "small")), "whole": size > 0})
    model = AutoencoderTransformer(1, max_iter=3, tol=100.0, random_state=0).fit(X)
    odd = pd.DataFrame({"size": [np.nan], "kind": ["big"], "whole": [False]})
    display = ExplanationDisplay.from_estimator(model, odd)
    display.shares = None  # all columns, whether they had to change or not
    display.plot()
    labels = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert {label.split(" (expected ")[0] for label in labels} == {"size\nmissing", "kind\nbig", "whole\nFalse"}
    with pytest.raises(ValueError, match="numbers only") as caught:
        ReconstructionDisplay.from_estimator(model, X)
    assert str(caught.value) == (
        "The picture needs a table of numbers only, but this one holds others. Look at a row with ExplanationDisplay, "
        "or at all rows with LatentSpaceDisplay and AnomalyScoreDisplay."
    )


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_explanation_shows_dates_and_durations_of_any_table(library):
    """Beside numbers, of which NumPy has no type in common with them, and alone."""
    convert = {"pandas": lambda X: X, "polars": pl.from_pandas, "pyarrow": pa.Table.from_pandas}[library]
    hours = np.random.default_rng(0).integers(0, 1000, 120)
    X = pd.DataFrame(
        {"took": pd.to_timedelta(hours, "h"), "at": pd.Timestamp("2026-01-01") + pd.to_timedelta(hours, "h")}
    )
    for table in (X.assign(size=hours / 7), X, X[["took"]]):
        model = AutoencoderTransformer(1, max_iter=3, tol=100.0, random_state=0).fit(convert(table))
        odd = table[:1].assign(took=pd.Timedelta("9000 days"))
        display = ExplanationDisplay.from_estimator(model, convert(odd))
        (label, *_) = [label.get_text() for label in display.ax_.get_yticklabels()]
        assert label.startswith("took\n9000 days")
        if "at" in table:
            display = ExplanationDisplay.from_estimator(model, convert(odd.assign(at=pd.NaT).astype(table.dtypes)))
            display.shares = None
            labels = [label.get_text() for label in display.plot().ax_.get_yticklabels()]
            assert any(label.startswith("at\nmissing (expected 2026-") for label in labels)


def test_drawing_leaves_the_style_alone(fitted, table):
    before = dict(matplotlib.rcParams)
    LossCurveDisplay.from_estimator(fitted["vae"])
    assert dict(matplotlib.rcParams) == before
