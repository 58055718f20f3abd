"""The records of a training: rows, with and without passes over a larger table, and when a fit was stopped early."""

import numpy as np
import pytest
import torch

from skvae._data.large import Passes
from skvae._training.rows import History, Rows


@pytest.mark.parametrize(
    ("loss", "stopped", "expected"),
    [
        ([10.0, 5.0, 4.9], False, False),  # 0.1 of 5.1 is less than 2 %
        ([10.0, 5.0, 4.8], False, True),
        ([10.0, 5.0, 4.8], True, False),  # somebody stopped it: that it could go on is no news
        ([10.0], False, False),
        ([5.0, 5.0 - 1e-5], False, False),  # less than tol
        ([5.0, 6.0], False, False),
    ],
)
def test_still_improving(loss, stopped, expected):
    assert History(loss=loss, stopped=stopped).still_improving(tol=1e-4) is expected


# --- Rows -----------------------------------------------------------------------------------------------------------


def test_resident_rows_by_hand(generator):
    x, weight = torch.ones(7, 2), torch.tensor([0.5, 2.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    plain, weighted = Rows(x), Rows(x, weight)
    assert (plain.mass, plain.weighted, plain.complete) == (7.0, False, True)
    assert (weighted.mass, weighted.weighted) == (6.5, True)
    assert [plain.n_batches(size) for size in (1, 3, 7, 8)] == [7, 3, 1, 1]
    ((rows, of_rows),) = weighted.parts(generator)
    assert rows is x
    assert of_rows is weight


def test_a_missing_cell_makes_rows_incomplete():
    x = torch.ones(3, 2)
    x[1, 1] = torch.nan
    assert not Rows(x).complete


@pytest.mark.parametrize("complete", [True, False])
def test_passes_count_instead_of_the_sample(complete, generator):
    """Of 100 rows ten are held out; their number, weights and completeness are those of the table."""
    values = torch.arange(100.0)[:, None].expand(-1, 2)
    weight = torch.linspace(0.0, 2.0, 100)
    passes = Passes(values, weight, np.arange(0, 100, 10), lambda x: x + 1.0, complete=complete)
    rows = Rows(torch.ones(5, 2), passes=passes)
    assert (rows.mass, rows.weighted, rows.complete) == (90.0, True, complete)
    assert rows.n_batches(32) == 3
    seen, of_rows = (torch.cat(parts) for parts in zip(*rows.parts(generator), strict=True))
    expected = torch.tensor([float(row) for row in range(100) if row % 10])
    assert torch.equal(seen[:, 0].sort().values, expected + 1.0)
    assert torch.equal(of_rows, weight[(seen[:, 0] - 1.0).long()])


def test_a_sample_with_gaps_is_incomplete_whatever_its_passes():
    x = torch.tensor([[1.0, torch.nan]])
    assert not Rows(x, passes=Passes(torch.ones(4, 2), None, np.arange(0), lambda x: x)).complete
