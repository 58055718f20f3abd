"""A training that ends with its time: by a clock that the tests turn themselves."""

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator

from skvae import AutoencoderTransformer, VAETransformer
from skvae._training import clock as clocks
from skvae._training.clock import Clock
from skvae._training.loop import _Loop

each_kind = pytest.mark.parametrize("kind", [AutoencoderTransformer, VAETransformer])


@pytest.fixture
def ticking(monkeypatch):
    """A clock on which each look takes one second."""

    class Ticking:
        now = 0.0

        def __call__(self):
            self.now += 1.0
            return self.now

    clock = Ticking()
    monkeypatch.setattr(clocks, "perf_counter", clock)
    return clock


@pytest.fixture
def rates(monkeypatch):
    """The learning rate of each step."""
    seen, rate = [], _Loop.rate

    def recorded(self, position):
        seen.append(rate(self, position))
        return seen[-1]

    monkeypatch.setattr(_Loop, "rate", recorded)
    return seen


@pytest.fixture
def X(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(200, 2)) @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(200, 4))


def test_spent_is_the_fraction_of_the_time(ticking):
    clock = Clock(4.0)
    assert [clock.spent() for _ in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert Clock(1.0).is_over()


def test_without_a_limit_no_time_passes(ticking):
    clock = Clock(None)
    assert (clock.spent(), clock.is_over(), ticking.now) == (0.0, False, 0.0)


@each_kind
def test_a_fit_without_a_limit_is_the_same_to_the_bit(kind, X):
    options = {"hidden_layer_sizes": (8,), "max_iter": 5, "tol": 100.0, "random_state": 0}
    first, second = kind(**options).fit(X), kind(**options, max_time=1e6).fit(X)
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))
    assert first.loss_curve_ == second.loss_curve_


@each_kind
def test_training_ends_with_its_time_and_its_rate_with_it(kind, X, ticking, rates):
    """About 60 looks at the clock, one before each step, of 4,000 steps."""
    model = kind(hidden_layer_sizes=(8,), max_iter=1000, batch_size=50, max_time=60 / 0.85, random_state=0).fit(X)
    assert 40 <= len(rates) <= 60
    assert max(rates) == pytest.approx(model.learning_rate_init, rel=0.1)
    assert rates[-1] < 0.02 * model.learning_rate_init
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.p_values(X)).all()


@each_kind
@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_shortest_time_leaves_a_usable_model(kind, early_stopping, X, rates):
    """One step, whatever it brings: never worse than the linear model that it starts from."""
    options = {"hidden_layer_sizes": (8,), "early_stopping": early_stopping, "random_state": 0}
    model = kind(**options, max_time=1e-9, batch_size=10).fit(X)
    assert len(rates) == 1
    assert (model.n_iter_, len(model.loss_curve_)) == (1, 1)
    assert (model.validation_curve_ is None) is not early_stopping
    assert np.isfinite(model.score_samples(X)).all()
    assert model.predict(X).shape == (200,)
    assert model.best_loss_ <= model.loss_curve_[0] + 1e-12


def test_partial_fit_takes_its_pass_all_the_same(X, rates):
    AutoencoderTransformer(hidden_layer_sizes=(8,), batch_size=20, max_time=1e-9, random_state=0).partial_fit(X)
    assert len(rates) == 9  # of the 200 rows 20 place the threshold


def test_a_search_gives_every_fit_its_time(X):
    model = AutoencoderTransformer(hidden_layer_sizes=(8,), max_time=1e-9, tol=1e3, random_state=0)
    search = GridSearchCV(model, {"n_components": [1, 2], "max_time": [1e-9, 1e6], "max_iter": [2]}, cv=2)
    assert np.isfinite(search.fit(X).cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("max_time", [0, -1.0, "1 h"])
def test_refuses_times_that_are_none(max_time, X):
    with pytest.raises(ValueError, match="max_time") as caught:
        AutoencoderTransformer(max_time=max_time).fit(X)
    assert str(caught.value) == (
        "The 'max_time' parameter of AutoencoderTransformer must be a float in the range (0.0, inf) or None. Got "
        f"{max_time!r} instead."
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:false_alarm_rate=:UserWarning")  # the checks bring few rows
@pytest.mark.filterwarnings("ignore:Column .* was constant in the first chunk:UserWarning")
@pytest.mark.filterwarnings("ignore::skvae.vae.CollapseWarning")
@each_kind
def test_sklearn_checks_hold(kind):
    results = check_estimator(kind(hidden_layer_sizes=(8,), max_iter=3, tol=100.0, max_time=1e6), on_skip=None)
    assert {result["status"] for result in results} <= {"passed", "skipped"}


def test_models_saved_before_the_parameter_have_none(X):
    model = AutoencoderTransformer(hidden_layer_sizes=(8,), max_iter=2, tol=100.0, random_state=0).fit(X)
    state = model.__getstate__()
    del state["max_time"]
    again = AutoencoderTransformer.__new__(AutoencoderTransformer)
    again.__setstate__(state)
    assert again.get_params()["max_time"] is None
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))


@each_kind
def test_epochs_beyond_counting_start_at_once(kind, X, rates):
    """Their steps' rates are computed one by one: a list of all had taken gigabytes."""
    model = kind(hidden_layer_sizes=(8,), max_iter=10**8, max_time=1e-9, batch_size=10, random_state=0).fit(X)
    assert (model.n_iter_, len(rates)) == (1, 1)
