"""Where it runs: names of devices, the thread count of torch, generators of our own."""

import contextlib
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from skvae import AutoencoderTransformer
from skvae._estimators import base
from skvae._support.device import (
    make_generator,
    matmul_precision,
    resolve_device,
    seed_from,
    some_rows,
    thread_limit,
    torch_defaults,
)

ROOT = Path(__file__).parents[1]
SMALL, LARGE = 1e3, 1e12  # floating-point operations per step: too few for two threads, and enough


@pytest.fixture
def two_threads():
    """Lets torch have two threads for a test, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# --- Devices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")], ids=str)
def test_cpu_is_everywhere(device):
    assert resolve_device(device).type == "cpu"


@pytest.mark.parametrize(("there", "expected"), [(False, "cpu"), (True, "cuda")])
def test_auto_picks_cuda_where_it_is_usable(there, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize("device", ["gpu", "", "AUTO", "cuda:x", "cpu:-2"])
def test_unknown_device_message(device):
    message = f"The 'device' parameter must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'. Got '{device}' instead."
    with pytest.raises(ValueError, match=rf"\A{re.escape(message)}\Z"):
        resolve_device(device)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (
            "cuda:3",
            "The device 'cuda:3' is not available here: found 2 device(s) of type 'cuda'. "
            "Use device='auto' or device='cpu'.",
        ),
        (
            "cpu:1",
            "The device 'cpu:1' is not available here: found 1 device(s) of type 'cpu'. "
            "Use device='auto' or device='cpu'.",
        ),
        (
            torch.device("mps"),
            "The device 'mps' is not available here: found 0 device(s) of type 'mps'. "
            "Use device='auto' or device='cpu'.",
        ),
        (
            "xpu",
            "The device 'xpu' is not available here: found 0 device(s) of type 'xpu'. "
            "Use device='auto' or device='cpu'.",
        ),
    ],
    ids=str,
)
def test_absent_device_message(device, message, monkeypatch):
    """On a machine with two CUDA devices and no MPS."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=rf"\A{re.escape(message)}\Z"):
        resolve_device(device)
    assert resolve_device("cuda:1") == torch.device("cuda:1")


def test_no_cuda_message(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = (
        "The device 'cuda' is not available here: found 0 device(s) of type 'cuda'. Use device='auto' or device='cpu'."
    )
    with pytest.raises(ValueError, match=rf"\A{re.escape(message)}\Z"):
        resolve_device("cuda")


# --- Threads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flops", "inside"), [(SMALL, 1), (LARGE, 2)])
def test_small_steps_run_on_one_thread(flops, inside, two_threads):
    with thread_limit(flops) as n_threads:
        assert n_threads == inside
        assert torch.get_num_threads() == inside
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_threads_come_back_after_an_error(error, two_threads):
    with pytest.raises(error), thread_limit(SMALL), thread_limit(SMALL):
        raise error
    assert torch.get_num_threads() == 2
    with thread_limit(SMALL) as n_threads:
        assert n_threads == 1
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("outer", "inner", "expected"), [(SMALL, LARGE, 1), (LARGE, SMALL, 2), (SMALL, SMALL, 1)])
def test_the_outermost_block_decides(outer, inner, expected, two_threads):
    with thread_limit(outer):
        with thread_limit(inner) as n_threads:
            assert n_threads == torch.get_num_threads() == expected
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


def test_threads_do_not_disturb_each_other(two_threads):
    """Four threads enter one after the other and leave in the same order, while all are inside; then they work on."""
    inside, counts, after = threading.Barrier(4), [], []
    leave = [threading.Event() for _ in range(5)]

    def work(index):
        torch.set_num_threads(2)  # what the caller of this thread allows
        with thread_limit(SMALL) as n_threads:
            inside.wait(10)
            counts.append((n_threads, torch.get_num_threads()))
            leave[index].wait(10)
        after.append(torch.get_num_threads())
        leave[index + 1].set()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    leave[0].set()
    for thread in threads:
        thread.join(20)
    assert counts == [(1, 1)] * 4
    assert after == [2] * 4
    assert torch.get_num_threads() == 2
    with thread_limit(LARGE) as n_threads:
        assert n_threads == 2


# --- Precision of products ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["high", "medium", "highest"])
def test_precision_holds_inside_alone(name):
    inside = []

    def fail():
        with matmul_precision(name):
            inside.append(torch.get_float32_matmul_precision())
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert inside == [name]
    assert torch.get_float32_matmul_precision() == "highest"


def test_no_precision_leaves_the_callers_own():
    with matmul_precision("high"), matmul_precision(None):
        assert torch.get_float32_matmul_precision() == "high"


def test_the_last_of_several_fits_gives_the_callers_precision_back():
    """They overlap as the fits of two threads do: the first to begin is the first to end."""
    first, second = matmul_precision("high"), matmul_precision("medium")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.get_float32_matmul_precision() == "medium"
    second.__exit__(None, None, None)
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_fit_trains_under_its_precision_and_scores_under_the_callers(rng, monkeypatch):
    seen = []

    def watched(name, module):
        original = getattr(module, name)

        def call(*args, **kwargs):
            seen.append((name, torch.get_float32_matmul_precision()))
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    watched("train", base)
    watched("finish", base)
    AutoencoderTransformer(1, max_iter=1, matmul_precision="high", random_state=0).fit(rng.normal(size=(400, 3)))
    assert seen == [("train", "high"), ("finish", "highest")]
    assert torch.get_float32_matmul_precision() == "highest"


# --- Seeds ----------------------------------------------------------------------------------------------------------


def test_generators_repeat_and_leave_the_global_state_alone(seed):
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (torch.rand(4, generator=make_generator(s)) for s in (seed, seed, seed + 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert seed_from(np.random.RandomState(seed)) == seed_from(np.random.RandomState(seed))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_seeds_differ_from_draw_to_draw(seed):
    random_state = np.random.RandomState(seed)
    seeds = [seed_from(random_state) for _ in range(1000)]
    assert len(set(seeds)) > 990
    assert all(isinstance(value, int) and 0 <= value < 2**31 for value in seeds)


def test_some_rows_are_the_same_of_each_tensor_and_in_their_order(seed):
    numbers = torch.arange(100)
    kept, doubled = some_rows(30, np.random.RandomState(seed), numbers, 2 * numbers)
    assert len(kept) == 30
    assert (kept.diff() > 0).all()
    assert torch.equal(doubled, 2 * kept)
    assert not torch.equal(kept, some_rows(30, np.random.RandomState(seed + 1), numbers)[0])


def test_nothing_is_drawn_where_all_rows_are_kept(seed):
    random_state, numbers = np.random.RandomState(seed), torch.arange(30)
    assert some_rows(30, random_state, numbers)[0] is numbers
    assert random_state.random_sample() == np.random.RandomState(seed).random_sample()


# --- Settings of torch that a caller has changed --------------------------------------------------------------------


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SETTINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device meta": lambda: default_device("meta"),
    "device cpu": lambda: default_device("cpu"),
    "an absent device": lambda: default_device("xpu" if torch.cuda.is_available() else "cuda"),
    "a block on meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "deterministic": deterministic,
}
ANYWHERE = ["transform", "reconstruct", "impute", "score_samples", "score", "decision_function", "predict", "p_values"]
VAE_ALONE = ["latent_distribution", "log_likelihood", "effective_sample_size"]


def outcome(model, X):
    """What all verbs make of a model and its rows, in bytes that can be compared."""
    found = [getattr(model, verb)(X) for verb in (*ANYWHERE, *VAE_ALONE) if hasattr(model, verb)]
    found += [model.inverse_transform(model.transform(X)), model.interpolate(X[:2], X[2:4], 3), *model.explain(X[:3])]
    if hasattr(model, "sample"):
        found += [model.sample(5, random_state=0), *model.impute(X, n_draws=2), model.kl_per_component_]
    model.calibrate(X)
    return [pd.DataFrame(np.asarray(part).reshape(-1)).to_json(double_precision=15) for part in [*found, model.offset_]]


def fitted(make, X):
    """A fit that went on, saved and loaded; a series of chunks."""
    model = make(tol=100.0, warm_start=True).fit(X[:100]).fit(X)
    return pickle.loads(pickle.dumps(model)), make().partial_fit(X).partial_fit(X[:100])


@pytest.fixture(scope="module")
def of_plain_models(seed):
    """Rows, and what models of them give that were made under torch's own settings; once for each class.

    In single precision, which autocast is about; with gaps, which take the longest way.
    """
    found = {}

    def of(make):
        kind = type(make())
        if kind not in found:
            rng = np.random.default_rng(seed)
            X = rng.normal(size=(150, 4)) @ rng.normal(size=(4, 4))
            X[rng.random(X.shape) < 0.1] = np.nan
            X = X.astype("float32")
            models = fitted(make, X)
            expected = [outcome(model, X[:20]) for model in models]
            found[kind] = X, expected, models[0].fit(X).score_samples(X)
        return found[kind]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_depends_on_the_callers_settings(make, of_plain_models, name):
    X, expected, scores = of_plain_models(make)
    with SETTINGS[name]():
        models = fitted(make, X)
        assert [outcome(model, X[:20]) for model in models] == expected
    np.testing.assert_array_equal(models[0].fit(X).score_samples(X), scores)  # what was made under them can train on


@pytest.mark.parametrize("name", SETTINGS)
def test_the_callers_settings_stay(name):
    def settings():
        return (
            torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch._C._len_torch_function_stack(),
        )

    with SETTINGS[name]():
        before = settings()
        with contextlib.suppress(ValueError), torch_defaults():
            inside = [torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()]
            assert [*inside, torch.zeros(1).device.type] == [torch.float32, False, True, "cpu"]
            raise ValueError("stop")
        assert settings() == before


def test_a_method_of_the_users_runs_under_the_users_settings(make, rng):
    class Own(type(make())):
        def score_samples(self, X):
            return torch.zeros(1).dtype, super().score_samples(X)

    X = rng.normal(size=(100, 3))
    own = Own(**make(tol=100.0).get_params()).fit(X)
    expected = own.score_samples(X)[1]
    with default_dtype(torch.float64):
        dtype, scores = own.score_samples(X)
    assert dtype == torch.float64
    np.testing.assert_array_equal(scores, expected)


def test_the_last_of_several_calls_gives_the_callers_dtype_back():
    """They overlap as the calls of two threads do: the first to begin is the first to end."""
    with default_dtype(torch.float64):
        first, second = torch_defaults(), torch_defaults()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float32
        second.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float64


# --- Forked children ------------------------------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
FORKING = """
import os, pickle, select, signal, sys, threading, time
import numpy as np, torch
import skvae
from skvae._support.device import thread_limit

def child(call):
    readable, writable = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writable, repr(call()).encode())
        finally:
            os._exit(0)
    os.close(writable)
    if not select.select([readable], [], [], 30)[0]:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return os.read(readable, 10000).decode() or "no answer"

def fit():
    return getattr(skvae, sys.argv[1])(2, random_state=0, max_iter=2, tol=1e9).fit(X[:400])

def fitted_alone():
    return fit().score_samples(X[:5]).tolist()

def verb(name, rows):
    return np.asarray(getattr(model, name)(rows)).tolist()

def in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(verb("score_samples", X[:5])))
    thread.start()
    thread.join()
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):  # join returns before MKL has let go of its lock
        time.sleep(.001)
    return found[0]

def loaded():
    return pickle.loads(saved).score_samples(X[:5]).tolist()

torch.set_num_threads(2)
X = np.random.default_rng(0).normal(size=(2000, 30))
first = child(fitted_alone)
model = fit()
saved = pickle.dumps(model)
torch.rand(1500, 1500) @ torch.rand(1500, 1500)  # the threads of the parent are there
assert torch.get_num_threads() == 2
assert first == child(fitted_alone) == repr(fitted_alone()), "fit"
names = ["transform", "reconstruct", "impute", "score_samples", "score", "decision_function", "predict", "p_values"]
names += ["explain", "partial_fit", "latent_distribution", "log_likelihood", "effective_sample_size", "sample"]
for name in filter(lambda name: hasattr(model, name), names):
    if name == "partial_fit":
        call = lambda: pickle.loads(saved).partial_fit(X[400:800]).score_samples(X[:5]).tolist()
    elif name == "sample":
        call = lambda: model.sample(5, random_state=0).tolist()
    else:
        call = lambda: verb(name, X[:1])
    assert child(call) == repr(call()), name
for call in (in_a_thread, loaded):
    assert child(call) == repr(call()), call
assert child(lambda: child(loaded)) == repr(repr(loaded())), "a child of a child"
with thread_limit(1.0):
    pid = os.fork()
if not pid:
    os._exit(torch.get_num_threads())
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1, "a block that the fork is in"
assert torch.get_num_threads() == 2
print("ok")
"""


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("name", ["AutoencoderTransformer", "VAETransformer"])
def test_a_forked_child_computes_what_its_parent_does(name):
    """Before the parent's first work and after it; in a thread and in a child of its own, too."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [sys.executable, "-W", "ignore", "-c", FORKING, name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stderr
