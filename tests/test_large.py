"""Tables too large to hold: nothing depends on where the rows are, every row trains, a mapped file stays on disk."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from skvae import AutoencoderTransformer, VAETransformer
from skvae._data import large
from skvae._data.large import Large, Passes, as_tensor, read_rows, release, spread_rows
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import AutoencoderModule
from skvae._training.rows import Rows, Settings
from skvae._training.training import train
from skvae.likelihoods import Gaussian

ESTIMATORS = {"autoencoder": AutoencoderTransformer, "vae": VAETransformer}
N_ROWS, N_FEATURES = 3000, 4


@pytest.fixture
def small_limits(monkeypatch):
    """A fit holds 800 rows of four columns, and reads blocks of 32 rows in parts of 64 blocks."""
    monkeypatch.setattr(large, "MAX_CELLS", 800 * N_FEATURES)
    monkeypatch.setattr(large, "_BLOCK_CELLS", 32 * N_FEATURES)


@pytest.fixture
def X(seed):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(N_ROWS, 2))
    return (hidden @ rng.normal(size=(2, N_FEATURES)) + 0.1 * rng.normal(size=(N_ROWS, N_FEATURES))).astype(np.float32)


@pytest.fixture
def mapped(X, tmp_path):
    """The same rows in a file, mapped read-only."""
    X.tofile(tmp_path / "rows.bin")
    return np.memmap(tmp_path / "rows.bin", dtype=np.float32, mode="r", shape=X.shape)


def make(name="autoencoder", **options):
    return ESTIMATORS[name](2, hidden_layer_sizes=(8,), random_state=0, **options)


# --- Rows by their numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_samples", "n_chosen"), [(10, 10), (10, 3), (1001, 500), (7, 1)])
def test_spread_rows_takes_one_of_each_stretch(n_samples, n_chosen, seed):
    rows = spread_rows(n_samples, n_chosen, seed)
    edges = [i * n_samples // n_chosen for i in range(n_chosen + 1)]
    assert all(low <= row < high for row, low, high in zip(rows, edges[:-1], edges[1:], strict=True))


def test_spread_rows_takes_every_row_alike():
    """Each of 9 rows is one of 3 in a stretch: a third of 1,000 seeds, give or take 4.5 standard deviations."""
    counts = sum(np.bincount(spread_rows(9, 3, seed), minlength=9) for seed in range(1000))
    assert abs(counts / 1000 - 1 / 3).max() < 4.5 * np.sqrt(2 / 9 / 1000)


@pytest.mark.parametrize("n_held_out", [0, 1, 37])
def test_a_pass_reads_every_row_once(n_held_out, seed, monkeypatch):
    monkeypatch.setattr(large, "_BLOCKS_PER_PART", 3)
    monkeypatch.setattr(large, "_BLOCK_CELLS", 1)
    values = torch.arange(500.0).unsqueeze(1)
    held_out = np.sort(np.random.default_rng(seed).choice(500, n_held_out, replace=False))
    passes = Passes(values, torch.arange(500.0), held_out, lambda rows: 2.0 * rows)
    generator = torch.Generator().manual_seed(seed)
    first, second = list(passes.parts(generator)), list(passes.parts(generator))
    assert [len(x) for x, _ in first] == passes.part_sizes() == [96] * 4 + [500 - n_held_out - 4 * 96]
    rows = torch.cat([weight for _, weight in first])
    assert sorted(rows.tolist()) == sorted(set(range(500)) - set(held_out.tolist()))
    assert torch.equal(torch.cat([x for x, _ in first]).squeeze(1), 2.0 * rows)
    assert not torch.equal(first[0][0], second[0][0])


@pytest.mark.parametrize("n_rows", [1, 31, 32, 33, 64, 96, 97, 1000])
def test_sizes_of_the_parts_are_known_before(n_rows, monkeypatch):
    monkeypatch.setattr(large, "_BLOCKS_PER_PART", 2)
    monkeypatch.setattr(large, "_BLOCK_CELLS", 1)
    passes = Passes(
        torch.zeros(n_rows, 1),
        None,
        np.empty(0, dtype=np.int64),
        lambda rows: rows,
        keep=lambda x: torch.arange(max(1, round(0.9 * len(x)))),
        kept_fraction=0.9,
    )
    assert [len(x) for x, _ in passes.parts(torch.Generator())] == passes.part_sizes()


def test_steps_on_parts_are_steps_on_their_rows(seed):
    """One part is the resident table in the order of its rows: the same weights, to the bit."""
    x = torch.randn(70, 3, generator=torch.Generator().manual_seed(seed))
    settings = Settings(batch_size=16, n_epochs=3, learning_rate=1e-2)
    flats = []

    class OnePart(Passes):
        """Two full blocks of 32 rows and a rest of 6 as one part, in the order of the table."""

        def parts(self, generator):
            yield x, None

    for passes in (None, OnePart(x, None, np.empty(0, dtype=np.int64), lambda rows: rows)):
        module = AutoencoderModule(SkipMLP(3, 2, (4,), "tanh"), SkipMLP(2, 3, (4,), "tanh"), Gaussian(3, scale="unit"))
        module.flat.data.normal_(generator=torch.Generator().manual_seed(1))
        train(module, Rows(x, None, passes), settings, [seed])
        flats.append(module.flat.detach().clone())
    assert torch.equal(*flats)


# --- Files ----------------------------------------------------------------------------------------------------------


def test_rows_of_a_file_are_viewed_not_copied(mapped):
    values = as_tensor(np.asarray(mapped))
    assert values.data_ptr() == mapped.ctypes.data
    assert torch.equal(read_rows(values, np.array([0, 5, 2999])), torch.from_numpy(mapped[[0, 5, 2999]]))


def test_released_pages_come_back(X, mapped):
    values = as_tensor(mapped)
    before = values.sum()
    release(values)
    assert torch.equal(values.sum(), before)
    assert np.array_equal(mapped, X)


@pytest.mark.parametrize("mode", ["c", "r+"])
def test_changes_in_a_mapping_are_kept(X, mapped, mode):
    changed = np.memmap(mapped.filename, dtype=np.float32, mode=mode, shape=X.shape)
    changed[0] = 7.0
    values = as_tensor(changed)
    release(values)
    assert torch.equal(values[0], torch.full((N_FEATURES,), 7.0))


# --- Fits -----------------------------------------------------------------------------------------------------------


def assert_same(model, other, X):
    np.testing.assert_array_equal(model.module_.flat.detach(), other.module_.flat.detach())
    np.testing.assert_array_equal(model.score_samples(X), other.score_samples(X))
    assert (model.offset_, model.loss_curve_) == (other.offset_, other.loss_curve_)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("autoencoder", {}),
        ("autoencoder", {"max_iter": 2}),
        ("autoencoder", {"max_iter": 2, "contamination": 0.1}),
        ("autoencoder", {"max_iter": 2, "early_stopping": True}),
        ("vae", {"max_iter": 2}),
    ],
    ids=str,
)
def test_a_file_is_fitted_as_the_same_rows_in_memory(small_limits, X, mapped, name, options):
    assert_same(make(name, tol=10.0, **options).fit(mapped), make(name, tol=10.0, **options).fit(X), X[:100])


def test_all_rows_train_where_a_number_of_passes_is_asked_for(small_limits, mapped, capsys):
    """3,000 rows less the held out ones in batches of 8, in each of two passes; a sample of 800 is all that is held."""
    model = make(max_iter=2, batch_size=8, tol=10.0, verbose=True, calibration_fraction=0.2).fit(mapped)
    assert int(model._fitted.optimiser_state["n_steps"]) == 2 * sum(-(-n // 8) for n in (2048, 3000 - 2048 - 159))
    assert model.n_samples_seen_ == 3000
    assert "[AutoencoderTransformer] 50 % of the rows read, " in capsys.readouterr().out


def test_a_sample_that_takes_all_steps_trains_alone(small_limits, mapped):
    """400 steps are due: three passes over the 640 of 800 rows that are not held out, in batches of 4, are 480."""
    model = make(batch_size=4, calibration_fraction=0.2, false_alarm_rate=0.5).fit(mapped)
    assert model._fitted.calibration.count == 159
    assert int(model._fitted.optimiser_state["n_steps"]) == 3 * 161
    assert model.n_samples_seen_ == 3000


def test_a_sample_that_takes_fewer_steps_does_not(small_limits, mapped):
    """All rows but 159 in batches of 256: 12 a pass, of which 400 steps are 34."""
    model = make().fit(mapped)
    assert (model.n_iter_, int(model._fitted.optimiser_state["n_steps"])) == (34, 34 * 12)


def test_weights_count_in_passes(small_limits, X, mapped):
    """Rows without weight might as well hold anything."""
    rubbish = X.copy()
    rubbish[::3] = 50.0
    weight = np.ones(N_ROWS)
    weight[::3] = 0.0
    model = make(max_iter=3, tol=10.0).fit(rubbish, sample_weight=weight)
    other = make(max_iter=3, tol=10.0).fit(X, sample_weight=weight)
    np.testing.assert_allclose(model.loss_curve_, other.loss_curve_, rtol=1e-6)


def test_cells_missing_outside_the_sample_are_missing(small_limits, X):
    rows = spread_rows(N_ROWS, 800, np.random.RandomState(0).randint(np.iinfo(np.int32).max))
    X[np.setdiff1d(np.arange(N_ROWS), rows)[:5], 1] = np.nan
    model = make(max_iter=2, tol=10.0).fit(X)
    assert np.isfinite(model.loss_curve_).all()
    assert np.isfinite(model.score_samples(X)).all()


def test_a_chunk_beyond_the_limit_trains_once(small_limits, X, mapped):
    assert_same(make().partial_fit(mapped).partial_fit(mapped[:500]), make().partial_fit(X).partial_fit(X[:500]), X)


def test_batches_of_a_parquet_file_are_chunks(X, tmp_path):
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame.to_parquet(tmp_path / "rows.parquet")
    model, other = make(), make()
    for batch in pq.ParquetFile(tmp_path / "rows.parquet").iter_batches(batch_size=1500):
        model.partial_fit(batch.to_pandas())
    for first in (0, 1500):
        other.partial_fit(frame[first : first + 1500])
    assert_same(model, other, frame[:50])
    assert model.n_samples_seen_ == 3000


# --- What is refused ------------------------------------------------------------------------------------------------


def refused(model, call, message):
    """A call fails with a message, and the fitted model stays as it was."""
    before = dict(vars(model))
    with pytest.raises(ValueError, match=rf"\A{re.escape(message)}\Z"):
        call()
    assert vars(model) == before


def test_large_file_of_another_dtype_message(small_limits, X, mapped, tmp_path):
    model = make(max_iter=1, tol=10.0).fit(X[:100])
    file = np.memmap(tmp_path / "int.bin", dtype=np.int16, mode="w+", shape=(1000, 4))
    message = (
        "A mapped file of more than 3,200 cells must hold float32 or float64 numbers of this machine's byte order, but "
        "X has 4,000 cells of dtype '<i2'. Write it once as float32, or pass it to partial_fit in chunks of rows."
    )
    refused(model, lambda: model.fit(file), message)
    refused(model, lambda: model.score_samples(file), message)
    assert make(max_iter=1, tol=10.0).fit(file[:500]).n_samples_seen_ == 500


def test_file_of_another_width_message(X, mapped):
    model = make(max_iter=1, tol=10.0).fit(X[:100])
    message = (
        "X has 5 features, but AutoencoderTransformer is expecting 4 features as input. Pass the columns that it was "
        "fitted on, in the same order."
    )
    wide = np.memmap(mapped.filename, dtype=np.float32, mode="r", shape=(2400, 5))
    refused(model, lambda: model.partial_fit(wide), message)
    refused(model, lambda: model.score_samples(wide), message)


def test_infinite_cell_of_an_unread_row_message(small_limits, X):
    model = make(max_iter=1, tol=10.0).fit(X[:100])
    X[2999, 2] = -np.inf
    message = (
        "Columns must hold finite or missing values, but column 'x2' holds -inf in row 2999. Drop such rows, or "
        "replace the value by NaN to mark it as missing."
    )
    refused(model, lambda: model.fit(X), message)


@pytest.mark.parametrize("columns", [["a", "b", "c", "e"], ["d", "c", "b", "a"]], ids="".join)
def test_parquet_batch_of_other_columns_is_refused(X, tmp_path, columns):
    model = make().partial_fit(pd.DataFrame(X[:200], columns=list("abcd")))
    pq.write_table(pa.table(dict(zip(columns, X[:200].T, strict=True))), tmp_path / "other.parquet")
    before = dict(vars(model))
    (batch,) = pq.ParquetFile(tmp_path / "other.parquet").iter_batches()
    with pytest.raises(ValueError, match=r"\AThe feature names should match those that were passed during fit\.\n"):
        model.partial_fit(batch.to_pandas())
    assert vars(model) == before


def test_file_that_ends_early_is_refused(X, mapped):
    """NumPy says so before a fit begins."""
    model = make(max_iter=1, tol=10.0).fit(X[:100])
    Path(mapped.filename).write_bytes(X[:10].tobytes())
    refused(
        model,
        lambda: model.fit(np.memmap(mapped.filename, dtype=np.float32, mode="r", shape=X.shape)),
        "mmap length is greater than file size",
    )


def test_read_that_fails_in_a_pass_leaves_the_earlier_fit(small_limits, X, monkeypatch):
    model = make(max_iter=2, tol=10.0).fit(X[:100])
    before, calls = dict(vars(model)), []

    def fail(values, rows):
        calls.append(len(rows))
        if len(calls) == 3:
            raise OSError("the disk is gone")
        return read_rows(values, rows)

    monkeypatch.setattr(large, "read_rows", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        model.fit(X)
    assert vars(model) == before


def test_nothing_is_sampled_up_to_the_limit():
    values = torch.zeros(10, 4)
    assert large.MAX_CELLS == 67_108_864
    assert Large.of(values, None, 0, complete=True) is None
