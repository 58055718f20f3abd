"""Attribution against models whose answer is known: a Gaussian, whose conditional means are in the textbook."""

import math

import numpy as np
import pytest
import torch

from skvae._model import attribution
from skvae._model.attribution import CellModel, attribute

N_COLUMNS = 6


def gaussian_of(seed):
    """A correlated Gaussian: log-density up to a constant, optimal denoiser, precision of the noisy rows."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(2, N_COLUMNS))
    covariance = torch.from_numpy(loadings.T @ loadings + 0.05 * np.eye(N_COLUMNS))
    precision = torch.linalg.inv(covariance)
    noisy_precision = torch.linalg.inv(covariance + 0.3 * torch.eye(N_COLUMNS, dtype=torch.float64))
    denoiser = covariance @ noisy_precision

    def score(x):
        return -0.5 * ((x @ precision) * x).sum(dim=1)

    def reconstruct(x):
        return x @ denoiser.T

    rows = torch.from_numpy(rng.multivariate_normal(np.zeros(N_COLUMNS), covariance.numpy(), size=20))
    return rows, score, reconstruct, noisy_precision


@pytest.fixture
def gaussian(seed):
    return gaussian_of(seed)


def bounds(limit=100.0):
    return torch.full((N_COLUMNS,), -limit, dtype=torch.float64), torch.full((N_COLUMNS,), limit, dtype=torch.float64)


def conditional_mean(row, column, precision):
    """E[x_j given the others] of a centred Gaussian, Bishop (2006), equation 2.96."""
    others = [i for i in range(N_COLUMNS) if i != column]
    return -(precision[column, others] @ row[others]) / precision[column, column]


@pytest.mark.parametrize("threshold", [-1e9, -2.0, 1e9], ids=["all normal", "some normal", "none normal"])
def test_contributions_sum_to_the_score(gaussian, threshold):
    rows, score, reconstruct, _ = gaussian
    contributions, _, _ = attribute(rows * 3.0, CellModel(score, reconstruct, *bounds()), threshold)
    torch.testing.assert_close(contributions.sum(dim=1), score(rows * 3.0), rtol=1e-12, atol=1e-12)


def test_one_cell_heals_though_reconstructions_are_drawn_to_the_middle(gaussian):
    """Its repair goes to the top of the score where the implied value is not normal enough, and ends the search."""
    rows, score, reconstruct, _ = gaussian
    model = CellModel(score, lambda x: 0.7 * reconstruct(x), *bounds())
    bad = rows.clone()
    bad[:, 3] += 6.0
    threshold = (score(rows) - 0.5).min().item()
    contributions, expected, deficits = attribute(bad, model, threshold)
    alone = (deficits > 0.0).sum(dim=1) == 1
    assert alone.double().mean() >= 0.95
    assert (contributions.argmin(dim=1) == 3).double().mean() >= 0.95
    healed = rows.clone()
    healed[:, 3] = expected[:, 3]
    assert (score(healed)[alone] >= threshold).all()
    assert (score(healed) - score(rows))[alone].mean() >= -2.0


def test_implied_value_of_a_linear_model_is_the_conditional_mean(gaussian):
    """Every row counts as normal, so nothing is repaired, and each cell's value follows from the row as it is."""
    rows, score, reconstruct, precision = gaussian
    _, expected, _ = attribute(rows, CellModel(score, reconstruct, *bounds()), threshold=-1e9)
    for row, implied in zip(rows, expected, strict=True):
        exact = torch.stack([conditional_mean(row, column, precision) for column in range(N_COLUMNS)])
        torch.testing.assert_close(implied, exact, rtol=1e-6, atol=1e-6)


def share_found(seed, n_cells):
    """Of rows in which some cells break the dependence, those that have them among the first to be blamed."""
    rows, score, reconstruct, _ = gaussian_of(seed)
    rng = np.random.default_rng(seed)
    broken, planted = rows.clone(), []
    for row in broken:
        columns = rng.choice(N_COLUMNS, n_cells, replace=False)
        row[columns] += torch.from_numpy(rng.choice([-4.0, 4.0], n_cells))
        planted.append(set(columns.tolist()))
    threshold = float(score(rows).quantile(0.05))
    contributions, _, _ = attribute(broken, CellModel(score, reconstruct, *bounds()), threshold)
    ranking = contributions.argsort(dim=1)
    return np.mean(
        [cells <= set(ranks[: 2 * n_cells - 1].tolist()) for cells, ranks in zip(planted, ranking, strict=True)]
    )


@pytest.mark.parametrize(("n_cells", "least"), [(1, 0.99), (2, 0.8)])
def test_cells_that_break_the_dependence_are_blamed_first(n_cells, least, seed):
    """Two of six columns that follow from two causes: 0.885 on average over 60 Gaussians."""
    assert np.mean([share_found(10 * seed + table, n_cells) for table in range(10)]) >= least


def test_one_bad_cell_is_not_smeared_over_the_others(gaussian):
    """After the bad cell is repaired the others get the value that the clean row would have implied."""
    rows, score, reconstruct, precision = gaussian
    broken = rows.clone()
    broken[:, 0] += 10.0
    _, expected, _ = attribute(broken, CellModel(score, reconstruct, *bounds()), threshold=1e9, max_cells=1)
    for row, implied in zip(rows, expected, strict=True):
        healed = row.clone()
        healed[0] = conditional_mean(row, 0, precision)
        torch.testing.assert_close(implied[0], healed[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(implied[3], conditional_mean(healed, 3, precision), rtol=1e-5, atol=1e-5)


def test_repaired_values_stay_in_the_range(gaussian):
    rows, score, reconstruct, _ = gaussian
    low, high = bounds(0.5)
    _, expected, _ = attribute(rows * 5.0, CellModel(score, reconstruct, low, high), threshold=1e9)
    assert (expected >= low).all()
    assert (expected <= high).all()


def test_a_row_does_not_depend_on_its_neighbours(gaussian):
    rows, score, reconstruct, _ = gaussian
    together = attribute(rows * 3.0, CellModel(score, reconstruct, *bounds()), threshold=-5.0)
    alone = attribute(rows[4:5] * 3.0, CellModel(score, reconstruct, *bounds()), threshold=-5.0)
    for whole, part in zip(together, alone, strict=True):
        torch.testing.assert_close(whole[4:5], part, rtol=1e-9, atol=1e-9)


def test_one_column(seed):
    x = torch.tensor([[0.0], [7.0]], dtype=torch.float64)
    limits = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    contributions, expected, _ = attribute(
        x, CellModel(lambda r: -r.square()[:, 0], lambda r: 0.5 * r, *limits), threshold=-1.0
    )
    torch.testing.assert_close(contributions[:, 0], torch.tensor([0.0, -49.0], dtype=torch.float64))
    torch.testing.assert_close(expected, torch.zeros_like(x), atol=1e-5, rtol=0)


def test_a_wrong_category_is_blamed_and_replaced_by_the_likelier_level():
    """Columns 1 and 2 agree in sign, and column 0 is the code of that sign; its own value tells the model nothing."""

    def reconstruct(rows):
        code = (rows[:, 1] + rows[:, 2] > 0).to(rows)
        return torch.stack([code, 0.5 * rows[:, 2].sign(), 0.5 * rows[:, 1].sign()], dim=1)

    def score(rows):
        wrong_code = rows[:, 0] != (rows[:, 1] + rows[:, 2] > 0)
        return -10.0 * wrong_code.to(rows) - 10.0 * (rows[:, 1] * rows[:, 2] <= 0).to(rows)

    x = torch.tensor([[0.0, 0.5, 0.5], [1.0, -0.5, -0.5], [1.0, 0.5, 0.5]], dtype=torch.float64)
    low, high = (torch.tensor(limits, dtype=torch.float64) for limits in ([0.0, -1.0, -1.0], [1.0, 1.0, 1.0]))
    contributions, expected, _ = attribute(
        x, CellModel(score, reconstruct, low, high, categorical=(0,)), threshold=-1.0
    )
    assert expected[:, 0].tolist() == [1.0, 0.0, 1.0]
    assert contributions.argmin(dim=1)[:2].tolist() == [0, 0]
    torch.testing.assert_close(contributions.sum(dim=1), score(x))


def test_parts_of_a_wide_row_change_nothing(gaussian, monkeypatch):
    """One variant at a time, as of a table too wide for more."""
    rows, score, reconstruct, _ = gaussian
    whole = attribute(rows * 3.0, CellModel(score, reconstruct, *bounds()), -2.0)
    monkeypatch.setattr(attribution, "_MAX_VARIANT_CELLS", 1)
    for part, expected in zip(
        attribute(rows * 3.0, CellModel(score, reconstruct, *bounds()), -2.0), whole, strict=True
    ):
        torch.testing.assert_close(part, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_columns", [1000, 2000])
@pytest.mark.parametrize(("threshold", "n_scored", "n_gains"), [(-1e9, 518, 1), (1e9, 518 + 4 * 513 + 72 + 514, 6)])
def test_passes_over_a_wide_row_do_not_grow_with_its_columns(n_columns, threshold, n_scored, n_gains, seed):
    """512 cells are tried, by four images and one score each: in the row as it is, and where it counts as anomalous in
    the four ways of the second cell and in the repaired row, of which both cells go back; each repair looks for the
    top of the score in nine more."""
    rows = {"scored": 0, "reconstructed": 0}
    cells = []

    def counted(kind, result):
        def function(x):
            rows[kind] += len(x)
            cells.append(x.numel())
            return result(x)

        return function

    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, n_columns)))
    score = counted("scored", lambda x: -x.square().sum(dim=1))
    limits = torch.full((n_columns,), -9.0, dtype=torch.float64), torch.full((n_columns,), 9.0, dtype=torch.float64)
    attribute(x, CellModel(score, counted("reconstructed", lambda x: 0.5 * x), *limits), threshold, max_cells=2)
    assert rows == {"scored": n_scored, "reconstructed": n_gains * (4 * 512 + 2)}
    assert max(cells) <= 2**18


def test_wide_row_is_searched_where_the_model_changes_it(gaussian, monkeypatch):
    """A cell with the weight h in its own reconstruction is among the first 1 + h / (1 - h) that are changed."""
    rows, score, reconstruct, _ = gaussian
    weight = reconstruct(torch.eye(N_COLUMNS, dtype=torch.float64)).diagonal()
    column = int(weight.argmin())
    row = torch.zeros_like(rows[:1])
    row[0, column] = 15.0
    whole, _, _ = attribute(row, CellModel(score, reconstruct, *bounds()), threshold=-1.0)
    monkeypatch.setattr(attribution, "_MAX_TRIED", math.ceil(1.0 / (1.0 - float(weight[column]))))
    contributions, expected, _ = attribute(row, CellModel(score, reconstruct, *bounds()), threshold=-1.0)
    assert contributions.argmin() == whole.argmin()
    torch.testing.assert_close(contributions.sum(dim=1), score(row), rtol=1e-9, atol=1e-9)
    assert expected.isfinite().all()
