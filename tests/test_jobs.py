"""Threads that share the work of a call: how many, what they do when one fails, and that no bit tells."""

import _thread
import os
import pickle
import threading
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from rows import correlated

from skvae import VAETransformer
from skvae._support.jobs import shared, with_jobs
from skvae._training.feeder import Feeder

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def threads_of(n_jobs, n_items=4, **options):
    """How many threads share some items: each asks for its share once."""
    calls = []
    with_jobs(lambda _: shared(calls.append, range(n_items), 1.0, **options))(SimpleNamespace(n_jobs=n_jobs))
    return len(calls)


def test_number_of_threads():
    """scikit-learn's words: None is one unless a context says otherwise."""
    assert [threads_of(n_jobs) for n_jobs in (None, 1, 2, 3)] == [1, 1, 2, 3]
    assert threads_of(3, n_items=2) == 2
    assert threads_of(3, n_items=1) == threads_of(3, in_turn=True) == 1


def test_contexts_of_joblib(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    with joblib.parallel_config(n_jobs=2):
        assert [threads_of(None), threads_of(1)] == [2, 1]
    with joblib.parallel_config(n_jobs=100):
        assert threads_of(None) == 2


@pytest.mark.parametrize("backend", ["threading", "sequential"])
def test_worker_of_joblib_keeps_to_its_core(backend):
    """One job is no worker: nothing else is at work."""
    found = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(threads_of)(2) for _ in range(2))
    assert found == {"threading": [1, 1], "sequential": [2, 2]}[backend]


def test_steps_that_torch_shares_are_not_shared_again():
    calls, before = [], torch.get_num_threads()
    wide = with_jobs(lambda _: shared(lambda items: calls.append(torch.get_num_threads()), range(2), 1e12))
    torch.set_num_threads(2)
    try:
        wide(SimpleNamespace(n_jobs=2))
        torch.set_num_threads(1)
        wide(SimpleNamespace(n_jobs=2))
    finally:
        torch.set_num_threads(before)
    assert calls == [2, 1, 1]


def test_every_item_is_taken_once_by_threads_that_share_no_further():
    taken, inner = [], []

    def work(items):
        for item in items:
            taken.append(item)
            shared(lambda some: inner.append(threading.current_thread()), range(3), 1.0)

    with_jobs(lambda _: shared(work, range(100), 1.0))(SimpleNamespace(n_jobs=3))
    assert sorted(taken) == list(range(100))
    assert len(inner) == 100  # one call for each item: nested work stays in its thread


def test_failure_ends_the_others():
    done = []

    def work(items):
        for item in items:
            if item == 3:
                raise ZeroDivisionError("the third")
            done.append(item)
            assert threading.current_thread() is not threading.main_thread()

    with pytest.raises(ZeroDivisionError, match="^the third$"):
        with_jobs(lambda _: shared(work, range(100_000), 1.0))(SimpleNamespace(n_jobs=2))
    assert len(done) < 99_999


def test_ctrl_c_ends_the_threads():
    """It arrives in the main thread, which waits for the others; these take no further item."""
    done = []

    def work(items):
        for item in items:
            if item == 0:
                _thread.interrupt_main()
            threading.Event().wait(0.01)
            done.append(item)

    with pytest.raises(KeyboardInterrupt):
        with_jobs(lambda _: shared(work, range(1000), 1.0))(SimpleNamespace(n_jobs=2))
    assert len(done) < 500


def test_scores_codes_and_rows_have_the_same_bits(make, rng):
    """As many chunks as threads, and one more; the parameter counts as it stands at the call."""
    X = np.tile(correlated(rng, 500), (6, 1)) + rng.standard_normal((3000, 4))
    model = make().fit(X[:200])
    twin = pickle.loads(pickle.dumps(model)).set_params(n_jobs=2)
    saved = pickle.dumps(twin)
    for verb in ("score_samples", "transform", "reconstruct"):
        np.testing.assert_array_equal(getattr(twin, verb)(X), getattr(model, verb)(X))
    codes = model.transform(X)
    np.testing.assert_array_equal(twin.inverse_transform(codes), model.inverse_transform(codes))
    assert pickle.dumps(twin) == saved


def test_networks_that_are_fitted_have_the_same_bits(make, rng):
    """By any step: threads fill each network's buffers, and the compiled step trains one in each thread."""
    X = correlated(rng, 300)
    options = {"n_networks": 3, "hidden_layer_sizes": (8,), "max_iter": 3, "batch_size": 70, "random_state": 0}
    one, two = (make(n_jobs=n_jobs, **options).fit(X) for n_jobs in (1, 2))
    np.testing.assert_array_equal(two.score_samples(X), one.score_samples(X))
    assert two.loss_curve_ == one.loss_curve_


def test_networks_are_shared_among_threads(make, rng, monkeypatch):
    seen, fill = set(), Feeder._fill

    def noted(self, rows, network, *rest):
        seen.add((network, threading.current_thread() is threading.main_thread()))
        fill(self, rows, network, *rest)

    monkeypatch.setattr(Feeder, "_fill", noted)
    make(n_networks=3, n_jobs=2, hidden_layer_sizes=(8,), max_iter=1, random_state=0).fit(correlated(rng, 100))
    assert seen == {(0, False), (1, False), (2, False)}


@pytest.mark.slow
def test_drawn_cells_have_the_same_bits(rng):
    """Draws of a chunk follow those of the chunk before."""
    X = correlated(rng, 2200)
    X[::2, 1] = np.nan
    model = VAETransformer(2, hidden_layer_sizes=(8,), max_iter=1, random_state=0).fit(X[:100])
    one, two = model.impute(X, n_draws=1), model.set_params(n_jobs=2).impute(X, n_draws=1)
    np.testing.assert_array_equal(one, two)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_forked_child_shares_work_too(make, rng):
    X = rng.standard_normal((2500, 4))
    model = make(n_jobs=2).fit(X[:100])
    expected = model.score_samples(X)
    child = os.fork()
    if not child:
        os._exit(0 if np.array_equal(model.score_samples(X), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
