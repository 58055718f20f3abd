"""Which rows of a large table train: all that are not held out, scaled; where some are anomalous, the central ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from skvae import AutoencoderTransformer
from skvae._data import large
from skvae._data.columns import Columns
from skvae._data.inputs import InputLayer
from skvae._data.large import Large
from skvae._data.sample import Sample
from skvae._model.fitted import Data
from skvae._model.passes import passes_over
from skvae._training.rows import Rows

N_ROWS = 400
# Every seventh row is held in memory; of those, these train.
ROWS = np.arange(0, N_ROWS, 7)
TRAINING = torch.arange(5, len(ROWS))
HELD_OUT = [0, 7, 14, 21, 28]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Parts of two blocks of 32 rows."""
    monkeypatch.setattr(large, "_BLOCK_CELLS", 1)
    monkeypatch.setattr(large, "_BLOCKS_PER_PART", 2)


@pytest.fixture
def values(rng):
    """Two columns, the first of which numbers the rows."""
    return torch.tensor(np.column_stack([np.arange(N_ROWS), 10.0 + 4.0 * rng.normal(size=N_ROWS)]))


COLUMNS = Columns(np.array([0.0, 10.0]), np.array([1.0, 4.0]), np.array([False, False]), ("number", "x"))
NUMBERS = InputLayer(2)


def over(values, weight=None, contamination="auto", columns=COLUMNS, layer=NUMBERS, training=TRAINING, complete=True):
    """The passes over a table of which ``ROWS`` are held and ``training`` of those train."""
    held = None if weight is None else weight[ROWS]
    large = Large(values, weight, ROWS, complete)
    sample = Sample(values[ROWS], held, columns.names, None, large, complete, np.arange(len(ROWS)), None, 1)
    data = Data(Rows(torch.zeros(len(training), 2)), None, training, values[:0], values[:2])
    plan = AutoencoderTransformer(contamination=contamination)._plan()
    rows = passes_over(plan, sample, columns, data, layer)
    assert rows.x is data.training.x
    return rows.passes


def one_pass(passes, seed=0):
    """Rows and weights of a pass."""
    parts = list(passes.parts(torch.Generator().manual_seed(seed)))
    return torch.cat([x for x, _ in parts]), [weight for _, weight in parts]


def test_every_row_that_is_not_held_out_trains_once(values):
    passes = over(values)
    assert passes.held_out.tolist() == HELD_OUT
    for seed in range(2):
        x, weights = one_pass(passes, seed)
        assert sorted(x[:, 0].tolist()) == [row for row in range(N_ROWS) if row not in HELD_OUT]
        assert set(weights) == {None}
    assert sum(passes.part_sizes()) == N_ROWS - 5


def test_rows_that_all_train_leave_nobody_out(values):
    passes = over(values, training=torch.arange(len(ROWS)), complete=False)
    assert (len(passes.held_out), passes.complete, sum(passes.part_sizes())) == (0, False, N_ROWS)


def test_table_that_is_held_needs_no_passes(values):
    sample = Sample(values, None, COLUMNS.names, None, None, True, np.arange(N_ROWS), None, 1)
    data = Data(Rows(values.float()), None, torch.arange(N_ROWS), values[:0], values[:2])
    assert passes_over(AutoencoderTransformer()._plan(), sample, COLUMNS, data, NUMBERS) is data.training


def test_rows_are_scaled_in_single_precision(values):
    x, _ = one_pass(over(values))
    assert x.dtype == torch.float32
    rows = x[:, 0].long()
    torch.testing.assert_close(x[:, 1], ((values[rows, 1] - 10.0) / 4.0).float())


def test_weights_have_the_mean_one_and_go_with_their_rows(values, rng):
    weight = rng.exponential(size=N_ROWS)
    x, weights = one_pass(over(values, weight))
    expected = (weight / weight.mean())[x[:, 0].long().numpy()]
    np.testing.assert_allclose(torch.cat(weights).numpy(), expected, rtol=1e-6)


def test_clean_rows_are_all_kept(values):
    passes = over(values)
    assert (passes.keep, passes.kept_fraction) == (None, 1.0)


@pytest.mark.parametrize(("contamination", "kept_fraction"), [(0.05, 0.95), (0.1, 0.9), (0.4, 0.9)])
def test_the_worst_of_each_part_do_not_train(values, contamination, kept_fraction):
    """One row of twenty lies far off, also in the last part, of 11 rows; more than a tenth are never left out."""
    values[10::20, 1] = 1000.0
    passes = over(values, contamination=contamination)
    assert passes.kept_fraction == pytest.approx(kept_fraction)
    sizes = [round(kept_fraction * size) for size in (64, 64, 64, 64, 64, 395 - 5 * 64)]
    parts = [x for x, _ in passes.parts(torch.Generator().manual_seed(0))]
    assert [len(x) for x in parts] == passes.part_sizes() == sizes
    kept = torch.cat(parts)[:, 0].long()
    assert len(set(kept.tolist())) == len(kept)
    if contamination >= 0.1:
        assert not (kept % 20 == 10).any()


def test_weights_of_rows_that_do_not_train_go_with_them(values):
    values[10::20, 1] = 1000.0
    weight = np.where(np.arange(N_ROWS) % 20 == 10, 5.0, 1.0)
    _, weights = one_pass(over(values, weight, 0.1))
    np.testing.assert_allclose(torch.cat(weights).numpy(), 1.0 / weight.mean(), rtol=1e-6)


def test_a_rare_level_is_no_reason_to_leave_a_row_out(values):
    """Its mark counts as it is, though nearly all rows of the part have the other level; 3 of 64 rows are left out."""
    values[:, 1] = 0.0
    values[5, 1] = 1.0
    values[8:11, 0] = 1e6
    columns = replace(COLUMNS, mean=np.zeros(2), scale=np.ones(2), n_levels=(0, 2))
    passes = over(values, None, 0.05, columns, InputLayer(2, probabilities=((1, (0.9975, 0.0025)),)))
    kept, _ = one_pass(passes)
    assert (kept[:, 1] == 1.0).sum() == 1
    assert not (kept[:, 0] == 1e6).any()


def test_missing_values_count_as_the_mean(values):
    """A row of them is the most usual one."""
    values[10::20, 1] = 1000.0
    values[11::20, 1] = torch.nan
    passes = over(values, contamination=0.1, columns=replace(COLUMNS, centre=np.zeros(2)), complete=False)
    x, _ = one_pass(passes)
    assert int(x[:, 1].isnan().sum()) == len(values[11::20])
