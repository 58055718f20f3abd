"""The bounded memory of a stream: size, fairness, determinism, and chunks that come again."""

import numpy as np
import pytest

from skvae._data.stream import Reservoir, Stream


def grown(n_chunks: int, seed: int, *, capacity: int = 50, size: int = 20) -> Reservoir:
    """A reservoir of ``n_chunks`` chunks of ``size`` rows, each row holding its number."""
    reservoir, random_state = Reservoir.empty(1), np.random.RandomState(seed)
    for chunk in range(n_chunks):
        rows = np.arange(chunk * size, (chunk + 1) * size, dtype=float)[:, None]
        reservoir = reservoir.extended(rows, None, capacity, random_state)
    return reservoir


@pytest.mark.parametrize(("n_chunks", "n_kept"), [(0, 0), (1, 20), (2, 40), (3, 50), (30, 50)])
def test_reservoir_holds_all_rows_up_to_its_capacity(n_chunks, n_kept):
    reservoir = grown(n_chunks, seed=0)
    assert len(reservoir.rows) == len(reservoir.weight) == len(reservoir.keys) == n_kept


def test_reservoir_is_uniform_over_the_stream():
    """Early, middle and late rows stay equally often: over 400 streams each row expects 400 * 50 / 600 = 33 stays."""
    counts = np.zeros(600)
    for seed in range(400):
        counts[grown(30, seed).rows[:, 0].astype(int)] += 1
    thirds = counts.reshape(3, 200).sum(axis=1)
    # Each third is hypergeometric with mean 6,667 and standard deviation below sqrt(20,000 * 2 / 9) = 67.
    assert np.abs(thirds - 20_000 / 3).max() < 5 * 67


def test_reservoir_same_seed_same_rows(seed):
    np.testing.assert_array_equal(grown(30, seed).rows, grown(30, seed).rows)


def test_reservoir_keeps_weights_beside_their_rows():
    rows = np.arange(100.0)[:, None]
    reservoir = Reservoir.empty(1).extended(rows, 2.0 * np.arange(100.0), 10, np.random.RandomState(0))
    np.testing.assert_array_equal(reservoir.weight, 2.0 * reservoir.rows[:, 0])


def test_stream_learns_nothing_new_from_a_chunk_that_comes_again():
    rows = (np.ones((5, 2)), None)
    stream = Stream.empty(2).extended(7, rows, rows, np.random.RandomState(0))
    assert stream.extended(7, rows, rows, np.random.RandomState(1)) is stream
    assert len(stream.extended(8, rows, rows, np.random.RandomState(1)).training.rows) == 10


def test_stream_is_ready_when_it_holds_as_many_rows_as_the_fit_before_it():
    rows, none = (np.ones((5, 2)), None), (np.ones((0, 2)), None)
    stream = Stream.empty(2, n_fitted=8)
    assert not stream.ready
    stream = stream.extended(1, rows, none, np.random.RandomState(0))
    assert not stream.ready
    stream = stream.extended(2, rows, none, np.random.RandomState(0))
    assert stream.ready
    assert Stream.empty(2).ready


def test_stream_state_round_trip():
    rows = (np.arange(6.0).reshape(3, 2), np.array([1.0, 2.0, 3.0]))
    stream = Stream.empty(2, n_fitted=4).extended(9, rows, rows, np.random.RandomState(0))
    again = Stream.from_state(stream.state())
    assert (again.chunks, again.n_awaited) == ((9,), 4)
    for name in ("rows", "weight", "keys"):
        np.testing.assert_array_equal(getattr(again.training, name), getattr(stream.training, name))
        np.testing.assert_array_equal(getattr(again.held, name), getattr(stream.held, name))
