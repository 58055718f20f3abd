"""Fits over two processes: both end with the model of one process with all rows, and both stop when one fails."""

import multiprocessing
import os
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist

from skvae import AutoencoderTransformer, VAETransformer
from skvae._data import large
from skvae._support.team import ALONE, Team, n_processes
from skvae._training import loop as training
from skvae._training.steps import Engine

pytestmark = pytest.mark.slow

N_ROWS = 301
SETTINGS = {"hidden_layer_sizes": (8,), "max_iter": 12, "tol": 10.0, "learning_rate_init": 0.02, "random_state": 0}


def table(seed=0, n_features=4):
    """Rows on a curve, which training finds and its linear start does not."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(-2, 2, size=(N_ROWS, 1))
    curve = np.hstack([t, t**2, np.sin(3 * t), np.cos(2 * t)])[:, :n_features]
    return curve + 0.02 * rng.normal(size=curve.shape)


def shard(rank):
    """The first hundred rows for the first process."""
    return slice(0, 100) if rank == 0 else slice(100, None)


MODELS = {
    "autoencoder": lambda factor: AutoencoderTransformer(2, noise=0.1, batch_size=16 * factor, **SETTINGS),
    "vae": lambda factor: VAETransformer(2, batch_size=16 * factor, n_networks=2, dropout=0.1, **SETTINGS),
    "automatic": lambda factor: AutoencoderTransformer(2, **SETTINGS | {"early_stopping": True, "noise": 0.1}),
    "dirty": lambda factor: AutoencoderTransformer(2, contamination=0.1, **SETTINGS),
}


def state(model, X):
    return {
        "flat": model.module_.flat.detach().numpy(),
        "scores": model.score_samples(X),
        "offset": model.offset_,
        "loss": np.array(model.loss_curve_),
        "best": model.best_loss_,
        "seen": model.n_samples_seen_,
    }


def refused(model, call):
    """The message of an error that leaves the model as it was."""
    before, message = dict(vars(model)), "nothing was refused"
    try:
        call()
    except (ValueError, RuntimeError, OSError) as error:
        message = f"{type(error).__name__}: {error}"
    return message if vars(model) == before else "the model has changed"


class Failing:
    """Calls something, but not for the nth time."""

    def __init__(self, function, nth):
        self.function, self.nth = function, nth

    def __call__(self, *args, **options):
        self.nth -= 1
        if self.nth == 0:
            raise OSError("the disk is gone")
        return self.function(*args, **options)


def failures(rank, X, model):
    """One process fails in a step, between two epochs, in a check; then none."""
    found = {}
    for name, owner, attribute in (("step", Engine, "step"), ("epoch", training, "evaluate")):
        own = getattr(owner, attribute)
        failing = Failing(own, 2)
        if rank == 1:
            setattr(owner, attribute, (lambda *a, f=failing, **k: f(*a, **k)) if owner is Engine else failing)
        found[name] = refused(model, lambda: model.fit(X[shard(rank)]))
        setattr(owner, attribute, own)
    found["width"] = refused(model, lambda: model.fit(X[shard(rank)][:, : 4 - rank]))
    infinite = X[shard(rank)].copy()
    infinite[5, 2] = np.inf if rank else 0.0
    found["infinite"] = refused(model, lambda: model.fit(infinite))
    large.MAX_CELLS = 1100
    found["passes"] = refused(model, lambda: model.fit(X[shard(rank)]))
    return found


def work(rank, file, queue):
    """What each of the two processes does, in one group."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, results = table(), {}
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    for name, make in MODELS.items():
        results[name] = state(make(1).fit(X[shard(rank)]), X)
    frame = pd.DataFrame(X, columns=list("abcd"))
    weight = np.arange(N_ROWS) % 3
    model = MODELS["autoencoder"](1).partial_fit(frame[:200][rank::2]).partial_fit(frame[200:][rank::2])
    results["chunks"] = state(model, frame)
    results["weighted"] = state(MODELS["autoencoder"](1).fit(X[shard(rank)], sample_weight=weight[shard(rank)]), X)
    results["refused"] = failures(rank, X, MODELS["autoencoder"](1).fit(X[shard(rank)]))
    sampled = AutoencoderTransformer(2, hidden_layer_sizes=(8,), random_state=0, batch_size=1, calibration_fraction=0.0)
    sampled.fit(X[shard(rank)])
    results["sample"] = state(sampled, X)
    queue.put((rank, results))
    if rank == 1:
        queue.close()
        queue.join_thread()
        os._exit(0)  # gone without a word
    started = time.monotonic()
    message = refused(sampled, lambda: sampled.fit(X))
    queue.put(("gone", (message, time.monotonic() - started)))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What both processes found, by rank."""
    context = multiprocessing.get_context("spawn")
    queue, file = context.Queue(), tmp_path_factory.mktemp("group") / "store"
    processes = [context.Process(target=work, args=(rank, str(file), queue)) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=120) for _ in range(3))
    for process in processes:
        process.join(timeout=60)
    return found


@pytest.mark.parametrize("name", [*MODELS, "chunks", "weighted", "sample"])
def test_both_processes_end_with_the_same_bits(results, name):
    for key, value in results[0][name].items():
        np.testing.assert_array_equal(value, results[1][name][key])


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_are_one_with_twice_the_batch(results, name):
    """To rounding: measured 2e-6 of weights, scores and losses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = state(MODELS[name](2).fit(table()), table())
    for key, value in results[0][name].items():
        np.testing.assert_allclose(value, expected[key], rtol=5e-5, atol=1e-5)


def test_chunks_of_two_processes_are_one_chunk(results):
    """Row order does not matter within a chunk, so it does not matter who brings a row."""
    frame = pd.DataFrame(table(), columns=list("abcd"))
    model = MODELS["autoencoder"](2).partial_fit(frame[:200]).partial_fit(frame[200:])
    np.testing.assert_allclose(results[0]["chunks"]["scores"], model.score_samples(frame), rtol=2e-4)
    assert results[0]["chunks"]["seen"] == N_ROWS


def test_weights_of_two_processes_are_one_column(results):
    model = MODELS["autoencoder"](2).fit(table(), sample_weight=np.arange(N_ROWS) % 3)
    np.testing.assert_allclose(results[0]["weighted"]["scores"], model.score_samples(table()), rtol=2e-4)


def test_a_sample_of_both_tables_trains(results):
    """1,100 cells are 275 rows: 91 of the 100 of the one process, 183 of the 201 of the other."""
    assert results[0]["sample"]["seen"] == 91 + 183


STOPPED = (
    "RuntimeError: The fit over 2 processes has stopped, because one of them failed: process 1 with OSError: the disk "
    "is gone. Mend that and fit again."
)
WIDTHS = (
    "ValueError: The tables of all processes must have the same columns, but that of process 0 has shape (100, 4), "
    "that of process 1 has shape (201, 3). Pass rows of one table."
)
INFINITE = (
    "ValueError: Columns must hold finite or missing values, but column 'x2' holds inf in row 105. Drop such rows, or "
    "replace the value by NaN to mark it as missing."
)
PASSES = (
    "ValueError: Beyond 1,100 cells in all processes, a sample of the rows must take all the steps that are due, but "
    "passes over all rows are asked for, or more steps than three passes over the sample. Leave 'max_iter' at 'auto', "
    "call fit in one process, or pass smaller chunks to partial_fit."
)


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("step", (STOPPED, "OSError: the disk is gone")),
        ("epoch", (STOPPED, "OSError: the disk is gone")),
        ("width", (WIDTHS, WIDTHS)),
        ("infinite", (INFINITE, INFINITE)),
        ("passes", (PASSES, PASSES)),
    ],
)
def test_all_processes_stop_with_the_error_of_one(results, name, messages):
    assert (results[0]["refused"][name], results[1]["refused"][name]) == messages


def test_a_process_that_is_gone_stops_the_other(results):
    message, seconds = results["gone"]
    assert message.startswith("_Gone: The fit has lost the connection to another process of its group: ")
    assert seconds < 10.0


def test_without_a_group_there_is_one_process():
    values = torch.ones(3)
    assert n_processes() == ALONE.size == 1
    assert ALONE.gather("a") == ["a"]
    assert ALONE.sum(values) is values
    assert ALONE.same("b") == "b"


@pytest.mark.parametrize(("n_rows", "size"), [(10, 2), (7, 3), (1, 2), (5, 8)])
def test_shares_make_up_a_batch(n_rows, size):
    batch = torch.arange(n_rows)
    shares = [Team(rank, size).share(batch) for rank in range(size)]
    assert torch.cat(shares).tolist() == list(range(n_rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
