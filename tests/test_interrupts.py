"""Ctrl-C: what one ends, and blocks that it does not cut in two."""

import signal
import threading

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    validation_curve,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae._estimators import base
from skvae._support import interrupts
from skvae._support.interrupts import postponed
from skvae._training.engine import Engine
from skvae._training.loop import _Loop


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def X(rng):
    return rng.normal(size=(120, 2)) @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(120, 4))


@pytest.fixture
def press(monkeypatch):
    """Presses Ctrl-C in certain calls of a function, counted from 1, and counts on.

    The native step does all batches of some thousand rows in one call, after which it is heard.
    """
    monkeypatch.setenv("SKVAE_NATIVE", "0")

    def at(*calls, owner=Engine, attribute="step"):
        own, made = getattr(owner, attribute), []

        def call(*args, **options):
            made.append(1)
            if len(made) in calls:
                ctrl_c()
            return own(*args, **options)

        monkeypatch.setattr(owner, attribute, call)
        return made

    return at


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, in a list of one number."""
    time = [1000.0]
    monkeypatch.setattr(interrupts, "monotonic", lambda: time[0])
    return time


def told(call):
    """Make a call that warns of one Ctrl-C and goes on."""
    with pytest.warns(UserWarning, match=r"^Training was interrupted; the best weights so far are kept\.$"):
        return call()


# --- What one ends --------------------------------------------------------------------------------------------------


def test_one_ends_one_fit_and_keeps_its_weights(make, X, press):
    press(5)
    model = told(lambda: make(max_iter=50, batch_size=50, tol=100.0).fit(X))
    assert model.n_iter_ == 1  # 108 rows are three steps
    assert np.isfinite(model.score_samples(X)).all()


def test_one_ends_the_last_step_of_a_pipeline_or_a_clone(make, X, press):
    press(5)
    pipeline = told(lambda: make_pipeline(StandardScaler(), clone(make(max_iter=50, batch_size=50, tol=100.0))).fit(X))
    assert pipeline[-1].n_iter_ == 1


@pytest.mark.parametrize(("seconds", "ends_all"), [(0.0, True), (1.9, True), (2.1, False)])
def test_a_second_one_within_two_seconds_ends_everything(make, X, press, clock, seconds, ends_all):
    """In the next fit, which a script goes on with."""
    press(5, 10)
    told(lambda: make(max_iter=50, batch_size=50, tol=100.0).fit(X))
    clock[0] += seconds
    model = make(max_iter=50, batch_size=50, tol=100.0)
    if ends_all:
        with pytest.raises(KeyboardInterrupt):
            model.fit(X)
        assert not hasattr(model, "n_iter_")
    else:
        assert told(lambda: model.fit(X)).n_iter_ == 1


def test_a_second_one_at_the_end_of_the_same_fit_ends_everything(make, X, press):
    model = make(max_iter=50, batch_size=50, tol=100.0).fit(X)
    before = dict(vars(model))
    press(5)
    press(1, owner=base, attribute="finish")
    with pytest.raises(KeyboardInterrupt):
        told(lambda: model.fit(X))
    assert vars(model) == before


SEARCHES = {
    "GridSearchCV": lambda model, X: GridSearchCV(model, {"n_components": [1, 2]}, cv=2).fit(X),
    "HalvingGridSearchCV": lambda model, X: HalvingGridSearchCV(model, {"n_components": [1, 2]}, cv=2).fit(X),
    "cross_validate": lambda model, X: cross_validate(model, X, cv=2),
    "cross_val_score of a pipeline": lambda model, X: cross_val_score(make_pipeline(StandardScaler(), model), X, cv=2),
    "cross_val_predict": lambda model, X: cross_val_predict(model, X, cv=2),
    "validation_curve": lambda model, X: validation_curve(
        model, X, None, param_name="n_components", param_range=[1, 2], cv=2
    ),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_one_inside_a_search_ends_the_search(make, X, press, name):
    steps = press(2)
    with pytest.raises(KeyboardInterrupt):
        SEARCHES[name](make(batch_size=50, tol=100.0), X)
    assert len(steps) == 2


def test_one_in_the_last_fit_of_a_search_ends_it(make, X, press):
    """Two candidates in two folds, three epochs each, then all rows."""
    press(2 * 2 * 3 + 2, owner=_Loop, attribute="run_epoch")
    search = GridSearchCV(make(batch_size=50, tol=100.0), {"n_components": [1, 2]}, cv=2)
    with pytest.raises(KeyboardInterrupt):
        search.fit(X)
    assert not hasattr(search.best_estimator_, "n_iter_")


@pytest.mark.parametrize("n_earlier", [0, 1, 2])
def test_one_in_partial_fit_leaves_the_estimator_as_it_was(make, X, press, n_earlier):
    model = make(batch_size=50, tol=100.0)
    for _ in range(n_earlier):
        model.partial_fit(X)
    before = dict(vars(model))
    press(2)
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(X[:100])
    assert vars(model) == before
    assert model.partial_fit(X[:100]).n_samples_seen_ == 100 + 120 * n_earlier


@pytest.mark.parametrize("phase", ["prepare", "finish"])
def test_one_beside_the_training_leaves_the_estimator_as_it_was(make, X, press, phase):
    model = make(tol=100.0).fit(X)
    before = dict(vars(model))
    press(1, owner=base, attribute=phase)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X[:100])
    assert vars(model) == before


# --- Blocks that are not cut ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_blocks", [1, 2])
def test_an_interrupt_waits_for_the_end_of_the_outermost_block(n_blocks):
    done = []

    def work(depth):
        with postponed():
            if depth:
                work(depth - 1)
            else:
                ctrl_c()
            done.append(depth)

    with pytest.raises(KeyboardInterrupt):
        work(n_blocks - 1)
    assert done == list(range(n_blocks))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_comes_before_an_error_of_the_block():
    def work():
        with postponed():
            ctrl_c()
            raise ValueError("stop")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_a_handler_of_the_users_is_called_once_and_stays():
    seen = []

    def handler(number, frame):
        seen.append(number)

    signal.signal(signal.SIGINT, handler)
    try:
        with postponed():
            ctrl_c()
            ctrl_c()
            assert seen == []
        assert seen == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_ignored_interrupt_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with postponed():
            ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_other_threads_have_nothing_to_postpone():
    """Python allows them no handler."""
    done = []

    def work():
        with postponed():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert done == [True]
