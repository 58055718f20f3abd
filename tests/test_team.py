"""Fits over two processes: both end with the model of one process with all rows, and both stop when one fails."""

import multiprocessing
import os
import re
import signal
import time
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist

from skvae import AutoencoderTransformer, VAETransformer
from skvae._data import large
from skvae._estimators import base
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
    except (ValueError, RuntimeError, OSError, KeyboardInterrupt) as error:
        message = f"{type(error).__name__}: {error}"
    return message if vars(model) == before else "the model has changed"


class Failing:
    """Calls something, but not for the nth time."""

    def __init__(self, function, nth):
        self.function, self.nth = function, nth

    def __call__(self, *args, **options):
        self.nth -= 1
        return (self.function if self.nth else self.instead)(*args, **options)

    def instead(self, *args, **options):
        raise OSError("the disk is gone")


def failures(rank, X, model):
    """One process fails in a step, the last one of an epoch, between two epochs, at the end, in a check; then none."""
    found = {}
    for name, owner, attribute, nth in (
        ("step", Engine, "step", 2),
        ("last step", training.Adam, "step", -(-271 // 16)),
        ("epoch", training, "evaluate", 2),
        ("end", base, "finish", 1),
    ):
        own = getattr(owner, attribute)
        failing = Failing(own, nth)
        if rank == 1:
            setattr(owner, attribute, (lambda *a, f=failing, **k: f(*a, **k)) if attribute == "step" else failing)
        found[name] = refused(model, lambda: model.fit(X[shard(rank)]))
        setattr(owner, attribute, own)
    found["width"] = refused(model, lambda: model.fit(X[shard(rank)][:, : 4 - rank]))
    infinite = X[shard(rank)].copy()
    infinite[5, 2] = np.inf if rank else 0.0
    found["infinite"] = refused(model, lambda: model.fit(infinite))
    large.MAX_CELLS = 1100
    found["passes"] = refused(model, lambda: model.fit(X[shard(rank)]))
    return found


def interrupting(function):
    """Calls something in the middle of a Ctrl-C."""

    def call(*args, **options):
        signal.raise_signal(signal.SIGINT)
        return function(*args, **options)

    return call


def interruptions(rank, X, model):
    """One process gets a Ctrl-C: before it trains, in a step, in an exchange, when all have trained."""
    found = {}
    for name, owner, attribute, nth in (
        ("prepare", base, "prepare", 1),
        ("step", Engine, "step", 2),
        ("exchange", dist, "all_reduce", 12),
        ("finish", base, "finish", 1),
    ):
        own = getattr(owner, attribute)
        failing = Failing(own, nth)
        failing.instead = interrupting(own)
        if rank == 1:
            setattr(owner, attribute, (lambda *a, f=failing, **k: f(*a, **k)) if owner is Engine else failing)
        found[name] = refused(model, lambda: model.fit(X[shard(rank)]))
        setattr(owner, attribute, own)
    return found


def disagreements(rank, X, model):
    """The two processes make calls that differ."""
    make, rows = MODELS["autoencoder"], X[shard(rank)]
    frame = pd.DataFrame(rows, columns=list("abcd"))
    text = frame.assign(d=["low", "high"][rank]) if rank else frame
    fresh = make(1)
    calls = {
        "names": (fresh, lambda: fresh.fit(frame.rename(columns={"d": "dx"[rank]}))),
        "frame": (fresh, lambda: fresh.fit(rows if rank else frame)),
        "polars": (fresh, lambda: fresh.fit(pl.from_pandas(frame) if rank else frame)),
        "kind": (fresh, lambda: fresh.fit(text)),
        "precision": (fresh, lambda: fresh.fit(rows.astype(["f8", "f4"][rank]))),
        "blank": (fresh, lambda: fresh.fit(None if rank else rows)),
        "arrow": (fresh, lambda: fresh.fit(pa.table(frame) if rank else frame)),
        "dicts": (fresh, lambda: fresh.fit(frame.to_dict("records"))),
    }
    for name, values in {
        "max_iter": (12, 13),
        "likelihood": ("auto", {"x0": "poisson"}),
        "random_state": (0, 1),
        "tol": (1.0, -1.0),
        "device": ("cpu", "gpu"),
    }.items():
        own = make(1).set_params(**{name: values[rank]})
        calls[name] = (own, lambda own=own: own.fit(rows))
    other = MODELS["vae" if rank else "autoencoder"](1).set_params(n_networks=1)
    calls["class"] = (other, lambda: other.fit(rows))
    calls["verb"] = (model, lambda: (model.partial_fit if rank else model.fit)(rows))
    started = model if rank else fresh
    calls["earlier"] = (started, lambda: started.partial_fit(rows))
    return {name: refused(*call) for name, call in calls.items()}


def with_words(X, rank=None):
    """Two columns of numbers and one of words; the rows of the second process hold none, as floats."""
    words = np.where(np.arange(len(X)) % 3, "u", "v")
    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": words})
    return frame if rank is None else frame.assign(c=np.nan if rank else words)[rank::2].reset_index(drop=True)


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
    model = MODELS["autoencoder"](1).fit(X[shard(rank)])
    results["differ"] = disagreements(rank, X, model)
    results["interrupted"] = interruptions(rank, X, model)
    results["mended"] = state(model.fit(X[shard(rank)]), X)
    lists = [["uv"[i % 2], *row] for i, row in enumerate(X[:, :2].tolist())]
    results["lists"] = state(MODELS["autoencoder"](1).fit(lists[rank::2]), lists)
    for name, library in {"arrow": pa.table, "polars": pl.from_pandas}.items():
        results[name] = state(MODELS["autoencoder"](1).fit(library(with_words(X, rank))), library(with_words(X)))
    results["refused"] = failures(rank, X, model)
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
    # Far below the time-out of the group, for which a process waits that nobody tells of an error.
    found = dict(queue.get(timeout=120) for _ in range(3))
    for process in processes:
        process.join(timeout=60)
    return found


@pytest.mark.parametrize("name", [*MODELS, "chunks", "weighted", "mended", "lists", "arrow", "polars", "sample"])
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
        ("last step", (STOPPED, "OSError: the disk is gone")),
        ("epoch", (STOPPED, "OSError: the disk is gone")),
        ("end", (STOPPED, "OSError: the disk is gone")),
        ("width", (WIDTHS, WIDTHS)),
        ("infinite", (INFINITE, INFINITE)),
        ("passes", (PASSES, PASSES)),
    ],
)
def test_all_processes_stop_with_the_error_of_one(results, name, messages):
    assert (results[0]["refused"][name], results[1]["refused"][name]) == messages


def differing(what):
    return f"ValueError: All 2 processes must fit one model in the same way, but {what}. Make them alike and fit again."


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("names", "the name of column 3 is 'd' in process 0 and 'x' in process 1"),
        ("frame", "X is a pandas DataFrame in process 0 and an array in process 1"),
        ("polars", "X is a pandas DataFrame in process 0 and a polars DataFrame in process 1"),
        ("kind", "the kind of column 'd' is numbers in process 0 and text in process 1"),
        ("precision", "the precision of X is float64 in process 0 and float32 in process 1"),
        ("blank", "X is an array in process 0 and a NoneType in process 1"),
        ("arrow", "X is a pandas DataFrame in process 0 and a pyarrow table in process 1"),
        ("max_iter", "the parameter 'max_iter' is 12 in process 0 and 13 in process 1"),
        ("likelihood", "the parameter 'likelihood' is 'auto' in process 0 and {'x0': 'poisson'} in process 1"),
        ("random_state", "the parameter 'random_state' is 0 in process 0 and 1 in process 1"),
        ("tol", "the parameter 'tol' is 1 in process 0 and -1 in process 1"),
        ("verb", "the method is fit in process 0 and partial_fit in process 1"),
        ("class", "the class is AutoencoderTransformer in process 0 and VAETransformer in process 1"),
    ],
)
def test_calls_that_differ_stop_all_processes_with_one_error(results, name, what):
    assert [results[rank]["differ"][name] for rank in (0, 1)] == [differing(what)] * 2


@pytest.mark.parametrize("name", ["arrow", "polars"])
def test_a_column_without_values_in_one_process_is_one_of_words(results, name):
    library = {"arrow": pa.table, "polars": pl.from_pandas}[name]
    X = table()
    rows = pd.concat([with_words(X, rank) for rank in (0, 1)], ignore_index=True)
    model = MODELS["autoencoder"](2).fit(library(rows.astype({"c": "str"})))
    np.testing.assert_allclose(results[0][name]["scores"], model.score_samples(library(with_words(X))), rtol=2e-4)


def test_lists_of_dicts_are_told_what_to_pass_in_both_processes(results):
    told = "ValueError: X must be a table, but a list of dicts came. Pass pandas.DataFrame(X)."
    assert [results[rank]["differ"]["dicts"] for rank in (0, 1)] == [told] * 2


def test_a_model_in_one_process_alone_stops_both(results):
    first, second = (results[rank]["differ"]["earlier"] for rank in (0, 1))
    assert first == second
    told = re.escape(
        differing("the earlier model is none in process 0 and one of 301 rows, 12 epochs and seed SEED in process 1")
    )
    assert re.fullmatch(told.replace("SEED", r"\d+"), first)


def test_a_wrong_value_of_what_may_differ_stops_both(results):
    """Each process may have a device of its own."""
    why = "ValueError: The 'device' parameter must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'. Got 'gpu' instead."
    assert results[1]["differ"]["device"] == why
    assert results[0]["differ"]["device"] == (
        f"RuntimeError: The fit over 2 processes has stopped, because one of them failed: process 1 with {why}. Mend "
        "that and fit again."
    )


@pytest.mark.parametrize("name", ["prepare", "step", "exchange", "finish"])
def test_a_ctrl_c_in_one_process_stops_both(results, name):
    assert results[1]["interrupted"][name] == "KeyboardInterrupt: "
    assert results[0]["interrupted"][name] == (
        "RuntimeError: The fit over 2 processes has stopped, because one of them failed: process 1 with a Ctrl-C. Mend "
        "that and fit again."
    )


def test_a_process_that_is_gone_stops_the_other(results):
    message, seconds = results["gone"]
    assert message == (
        "RuntimeError: The fit over 2 processes cannot go on: another one has ended, or has called fit or partial_fit "
        "fewer times than this one. Let all of them make the same calls, and start all of them again."
    )
    assert seconds < 10.0


def test_without_a_group_there_is_one_process():
    values = torch.ones(3)
    assert n_processes() == ALONE.size == 1
    assert ALONE.gather("a") == ["a"]
    assert ALONE.sum(values) is values
    assert ALONE.same("b") == "b"


@pytest.mark.parametrize(("n_rows", "size"), [(10, 2), (7, 3), (1, 2), (5, 8)])
def test_parts_make_up_a_batch(n_rows, size):
    batch = torch.arange(n_rows)
    parts = [Team(rank, size).part(batch) for rank in range(size)]
    assert torch.cat(parts).tolist() == list(range(n_rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
