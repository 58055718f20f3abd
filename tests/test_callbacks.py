"""A fit under scikit-learn's callbacks: what they see, how they stop or break it, and that they nest under a search."""

import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import AutoencoderTransformer, VAETransformer
from skvae.vae import CollapseWarning

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from 1.9 on")

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:false_alarm_rate=:UserWarning"),
]


@pytest.fixture
def make(make):
    """With N(0, I) as p(z): the choice among mixtures takes most of so small a fit."""
    own = {"latent_density": "normal"} if isinstance(make(), VAETransformer) else {}
    return lambda **parameters: make(**(own | parameters))


@pytest.fixture(scope="module")
def X(seed):
    """With 200 rows or more, also in half of a search, nothing is fitted in folds: it takes a third of the time."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(400, 2)) @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(400, 4))


class Recorder:
    """A callback that notes each end of a task, and asks to stop or interrupts at a given epoch."""

    def __init__(self, *, stop_at=None, interrupt_at=None):
        self.stop_at, self.interrupt_at = stop_at, interrupt_at
        self.n_epochs, self.threads, self.fitted = 0, [], []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        if context.task_name != "epoch":
            return False
        self.n_epochs += 1
        self.threads.append(torch.get_num_threads())
        self.fitted.append(fitted_estimator.score(X))
        if self.n_epochs == self.interrupt_at:
            raise KeyboardInterrupt
        return self.n_epochs == self.stop_at


def test_callback_sees_every_epoch_and_a_usable_estimator(make, X):
    recorder = Recorder()
    model = make(max_iter=5).set_callbacks(recorder).fit(X)
    assert recorder.n_epochs == model.n_iter_ == 5
    assert np.isfinite(recorder.fitted).all()
    np.testing.assert_array_equal(model.score_samples(X), make(max_iter=5).fit(X).score_samples(X))


def test_callback_sees_the_weights_so_far_of_few_wide_rows(rng):
    """Which others train for: the last ones are those of the whole fit, whose losses fall to the end."""
    X = np.tanh(3.0 * rng.normal(size=(60, 2)) @ rng.normal(size=(2, 240)))  # bent: training has something to gain

    class Errors(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "epoch":
                self.fitted.append(np.square(fitted_estimator.reconstruct(X) - X).mean())

    errors = Errors()
    model = AutoencoderTransformer(2, max_iter=12, random_state=0, noise=0.0).set_callbacks(errors).fit(X)
    assert model.loss_curve_[-1] == min(model.loss_curve_)
    assert len(set(errors.fitted)) == 12
    assert errors.fitted[-1] == pytest.approx(np.square(model.reconstruct(X) - X).mean(), rel=1e-6)


def test_callback_sees_the_losses_so_far(make, X):
    class Curves(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "epoch":
                self.fitted.append((fitted_estimator.loss_curve_, fitted_estimator.validation_curve_))

    curves = Curves()
    model = make(max_iter=4, early_stopping=True).set_callbacks(curves).fit(X)
    assert curves.fitted == [(model.loss_curve_[:n], model.validation_curve_[:n]) for n in (1, 2, 3, 4)]


def test_callback_stops_the_fit_without_a_warning(make, X):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model = make(max_iter=50).set_callbacks(Recorder(stop_at=2)).fit(X)
    assert model.n_iter_ == 2


def test_interrupt_keeps_the_best_weights_so_far(make, X):
    model = make(max_iter=50).set_callbacks(Recorder(interrupt_at=2))
    with pytest.warns(UserWarning, match="interrupted") as caught:
        model.fit(X)
    assert [str(w.message) for w in caught] == ["Training was interrupted; the best weights so far are kept."]
    assert caught[0].filename == __file__
    assert model.n_iter_ == 2
    assert set(model.predict(X)) <= {-1, 1}
    pickle.loads(pickle.dumps(model.set_callbacks())).score(X)


def test_failing_callback_leaves_the_earlier_fit(make, X):
    class Broken(Recorder):
        def on_fit_task_end(self, estimator, context, *, X=None):
            raise RuntimeError("full disk")

    model = make().fit(X)
    scores = model.score_samples(X)
    with pytest.raises(RuntimeError, match="^full disk$"):
        model.set_callbacks(Broken()).fit(X[:50])
    np.testing.assert_array_equal(model.score_samples(X), scores)


def test_progress_bar_is_shown(make, X, capsys):
    make().set_callbacks(callback.ProgressBar()).fit(X)
    assert type(make()).__name__ in capsys.readouterr().out


def test_scoring_monitor_logs_a_score_for_each_epoch(make, X):
    monitor = callback.ScoringMonitor(scoring={"log_density": lambda model, X, y: model.score(X)})
    model = make(max_iter=3).set_callbacks(monitor).fit(X)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(rows) == 3
    assert all(np.isfinite(row["log_density"]) for row in rows)
    assert model.n_iter_ == 3


def test_codes_that_collapse_are_told_of_once_not_at_each_epoch(rng):
    vae = VAETransformer(2, beta=50.0, max_iter=3, latent_density="normal", random_state=0)
    monitor = callback.ScoringMonitor(scoring={"log_density": lambda model, X, y: model.score(X)})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CollapseWarning)
        vae.set_callbacks(monitor).fit(rng.normal(size=(300, 4)))
    assert [one.category for one in caught if one.category is CollapseWarning] == [CollapseWarning]


def test_callback_is_nested_under_a_search(make, X):
    monitor = callback.ScoringMonitor(scoring={"log_density": lambda model, X, y: model.score(X)})
    search = GridSearchCV(make(max_iter=2).set_callbacks(monitor), {"n_components": [1, 2]}, cv=2)
    search.fit(X)
    logs = monitor.get_logs(select="all")
    rows = [row for log in logs for row in log.data if row["task_name"] == "epoch"]
    # Two candidates in two folds and the refit, two epochs each.
    assert len(rows) == 10


def test_progress_bars_nest_under_a_pipeline_in_a_search(make, X, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    pipeline = make_pipeline(StandardScaler(), make(max_iter=2))
    name = type(pipeline[-1]).__name__
    search = GridSearchCV(pipeline, {f"{name.lower()}__n_components": [1, 2]}, cv=2)
    search.set_callbacks(callback.ProgressBar(max_propagation_depth=2)).fit(X)
    # The name ends where the bar begins; in a narrow terminal there is none.
    lines = [re.sub(r"(?<=\S)(\s*[━╸╺]|\s{2,}|\s+\d+%).*", "", line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "GridSearchCV - fit"
    # Two candidates in two folds and the refit.
    split = "    GridSearchCV - candidate-split-evaluation | Pipeline - fit #"
    assert len([line for line in lines if line.startswith(split)]) == 4
    assert lines.count(f"      Pipeline - fit-final-estimator | {name} - fit #1") == 4
    assert lines.count(f"    Pipeline - fit-final-estimator | {name} - fit #1") == 1


@pytest.mark.parametrize("where", ["alone", "pipeline"])
def test_halving_search_hands_out_epochs(make, X, where):
    """The budget of a successive halving is a number of epochs; who survives trains longer."""

    class Counter(Recorder):
        def on_fit_task_end(self, estimator, context):
            self.n_epochs += context.task_name == "epoch"

    counter = Counter()
    model = make().set_callbacks(counter)
    prefix = "" if where == "alone" else f"{type(model).__name__.lower()}__"
    search = HalvingGridSearchCV(
        model if where == "alone" else make_pipeline(StandardScaler(), model),
        {f"{prefix}n_components": [1, 2, 3]},
        resource=f"{prefix}max_iter",
        min_resources=2,
        max_resources=6,
        cv=2,
        random_state=0,
    ).fit(X)
    assert search.n_resources_ == [2, 6]
    # Three candidates and then one, in two folds each, and the refit.
    assert counter.n_epochs == 3 * 2 * 2 + 1 * 2 * 6 + 6
    best = search.best_estimator_ if where == "alone" else search.best_estimator_[-1]
    assert best.n_iter_ == 6


def test_small_steps_take_one_thread(make, X):
    """Folds side by side would fight for the cores, and a small step loses by a second thread anyway."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        recorder = Recorder()
        make().set_callbacks(recorder).fit(X)
    finally:
        torch.set_num_threads(before)
    assert recorder.threads == [1, 1, 1]
