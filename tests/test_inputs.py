"""What an encoder sees of complete and of incomplete rows."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from skvae._data.inputs import InputLayer
from skvae._support.numerics import observed

NAN = float("nan")


def test_complete_rows_need_no_mask(dtype):
    assert observed(torch.ones(3, 2, dtype=dtype)) is None


def test_values_that_overflow_a_sum_are_observed():
    """Infinity minus infinity is NaN too, but no cell is missing."""
    assert observed(torch.tensor([[3e38, 3e38], [-3e38, -3e38], [torch.inf, -torch.inf]])) is None


def test_mask_is_true_where_a_cell_holds_a_value(dtype):
    mask = observed(torch.tensor([[1.0, NAN], [NAN, NAN]], dtype=dtype))
    assert mask.tolist() == [[True, False], [False, False]]


def test_complete_rows_of_a_complete_table_are_their_own_inputs(dtype):
    x = torch.ones(3, 2, dtype=dtype)
    assert InputLayer(2)(x) is x


def test_missing_cells_are_filled_and_told(dtype):
    layer = InputLayer(3, masked=(0, 2), fill=(0.5, 0.0, -1.0))
    inputs = layer(torch.tensor([[1.0, 2.0, NAN], [NAN, 4.0, 5.0]], dtype=dtype))
    assert inputs.tolist() == [[1.0, 2.0, -1.0, 1.0, 0.0], [0.5, 4.0, 5.0, 0.0, 1.0]]
    assert layer(torch.ones(1, 3, dtype=dtype)).tolist() == [[1.0, 1.0, 1.0, 1.0, 1.0]]


def test_noise_stays_out_of_missing_cells(dtype):
    mask = torch.tensor([[True, False]])
    assert InputLayer(2, masked=(1,)).join(torch.tensor([[7.0, 8.0]], dtype=dtype), mask).tolist() == [[7.0, 0.0, 0.0]]


def test_config_builds_the_same_layer():
    layer = InputLayer(3, masked=(0, 2), fill=(0.5, 0.0, -1.0))
    assert InputLayer.from_config(layer.config()) == layer


# --- Categories and counts ------------------------------------------------------------------------------------------

SHARES, LOGS = (0.5, 0.3, 0.2), (1.0, 2.0)
MIXED = InputLayer(3, masked=(0,), fill=(9.0, 4.0, 9.0), probabilities=((0, SHARES),), counts=((2, *LOGS),))
SPREAD = math.sqrt(0.25 + 0.21 + 0.16)


def indicators(level, dtype):
    return (torch.eye(3, dtype=dtype)[level] - torch.tensor(SHARES, dtype=dtype)) / SPREAD


def test_a_category_becomes_centred_indicators_and_a_count_its_logarithm(dtype):
    x = torch.tensor([[2.0, 7.0, 3.0], [0.0, -1.0, 0.0]], dtype=dtype)
    expected = torch.zeros(2, 6, dtype=dtype)
    for row, level in enumerate((2, 0)):
        expected[row, :3] = indicators(level, dtype)
        expected[row, 3] = x[row, 1]
        expected[row, 4] = 0.5 * (math.log1p(float(x[row, 2])) - 1.0)
    expected[:, 5] = 1.0
    torch.testing.assert_close(MIXED(x), expected)
    assert (MIXED.n_values, MIXED.n_inputs) == (5, 6)
    assert not MIXED.is_identity


def test_a_category_counts_once_whatever_its_levels():
    """The variances of its indicators sum to one, under its own shares."""
    for levels in ((0.5, 0.5), (0.9, 0.1), tuple([0.01] * 100)):
        layer = InputLayer(1, probabilities=((0, levels),))
        values = layer(torch.arange(float(len(levels))).double().unsqueeze(1))
        share = torch.tensor(levels, dtype=torch.float64)
        variance = share @ values.square() - (share @ values).square()
        assert float(variance.sum()) == pytest.approx(1.0)
        assert float((share @ values).abs().max()) < 1e-12


def test_missing_categories_and_counts_are_centred(dtype):
    inputs = MIXED(torch.tensor([[NAN, NAN, NAN], [1.0, NAN, NAN]], dtype=dtype))
    assert inputs[0].tolist() == [0.0, 0.0, 0.0, 4.0, 0.0, 0.0]
    torch.testing.assert_close(inputs[1, :3], indicators(1, dtype))
    values = MIXED.incomplete_values(torch.tensor([[NAN, 1.0, NAN], [1.0, NAN, 0.0]], dtype=dtype))
    assert values.isnan().tolist() == [[True] * 3 + [False, True], [False] * 3 + [True, False]]


def test_marks_say_how_rare_a_level_is():
    x = torch.tensor([[0.0, 7.0, 3.0], [2.0, 7.0, 3.0], [NAN, 7.0, NAN]], dtype=torch.float64)
    rarity = -np.log(SHARES)
    mean = np.dot(SHARES, rarity)
    scale = math.sqrt(np.dot(SHARES, (rarity - mean) ** 2))
    scalars = MIXED.scalars(x)
    np.testing.assert_allclose(scalars[:2, 0], (rarity[[0, 2]] - mean) / scale)
    assert scalars[:, 1].tolist() == [7.0, 7.0, 7.0]
    assert scalars.isnan().tolist() == [[False] * 3, [False] * 3, [True, False, True]]
    plain = InputLayer(3)
    assert plain.scalars(x) is x


def test_linear_models_of_the_values_are_ones_of_shares_and_counts():
    """The shares sum to one, and stay so along every direction that the values can take."""
    mean, loadings = MIXED.to_cells(np.zeros(5), np.eye(5))
    np.testing.assert_allclose(mean, [*SHARES, 0.0, math.e - 1.0])
    np.testing.assert_allclose(np.diag(loadings), [SPREAD] * 3 + [1.0, 2.0 * math.e])
    step = np.zeros(5)
    step[:3] = indicators(1, torch.float64).numpy()
    moved = mean + step @ loadings
    np.testing.assert_allclose(moved[:3], [0.0, 1.0, 0.0], atol=1e-12)


def test_swapped_categories_follow_the_shares(generator):
    x = torch.tensor([[2.0, 7.0, 3.0]], dtype=torch.float64).repeat(20_000, 1)
    x[:100, 0] = NAN
    swapped = MIXED.swapped(x, torch.full((20_000, 1), 0.5, dtype=torch.float64), generator)
    assert swapped.shape == (20_000, 1)
    assert swapped[:100, 0].isnan().all()
    shares = torch.bincount(swapped[100:, 0].long()) / 19_900
    # 0.02: more than five standard errors.
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.15, 0.6]), atol=0.02, rtol=0.0)


LEVELS = {
    "one": (1.0,),
    "two": (0.999, 0.001),
    "equal": (0.2,) * 5,
    "many": tuple((np.arange(1, 41) / np.arange(1, 41).sum()).tolist()),
}


@pytest.mark.parametrize("names", [[name] for name in LEVELS] + [list(LEVELS)], ids="-".join)
def test_each_column_draws_its_own_levels(names, generator):
    """Independently of each other, and where all are drawn anew as often as their shares say."""
    n_rows = 40_000
    layer = InputLayer(len(names) + 1, probabilities=tuple((i + 1, LEVELS[name]) for i, name in enumerate(names)))
    drawn = layer.swapped(torch.zeros(n_rows, len(names) + 1), torch.ones(n_rows, 1), generator)
    for column, name in enumerate(names):
        counts = torch.bincount(drawn[:, column].long(), minlength=len(LEVELS[name])).numpy()
        expected = n_rows * np.array(LEVELS[name])
        assert len(counts) == len(expected)
        assert len(counts) == 1 or chisquare(counts, expected).pvalue > 1e-6
    assert len(names) == 1 or abs(np.corrcoef(drawn[:, 1:].T.numpy())[np.triu_indices(3, 1)]).max() < 0.025


def test_noise_leaves_missing_cells_and_moves_the_others(generator):
    """Numbers by their own scale, logarithms of counts as well; no indicator but as a whole level."""
    x = torch.tensor([[NAN, 7.0, 3.0], [1.0, NAN, 3.0]], dtype=torch.float64).repeat(20_000, 1)
    scale = torch.full((len(x), 1), 0.4, dtype=torch.float64)
    noisy, clean = MIXED.noisy(x, observed(x), scale, generator), MIXED(x)
    assert torch.equal(noisy[::2, :3], clean[::2, :3])
    assert torch.equal(noisy[1::2, 3], clean[1::2, 3])
    assert torch.equal(noisy[:, 5], clean[:, 5])
    for column, rows in ((3, slice(0, None, 2)), (4, slice(None))):
        assert kstest((noisy - clean)[rows, column].numpy(), "norm", args=(0.0, 0.4)).pvalue > 1e-6
    blocks = torch.stack([indicators(level, torch.float64) for level in range(3)])
    distance = torch.cdist(noisy[1::2, :3], blocks)
    assert (distance.min(dim=1).values < 1e-12).all()
    # A fifth are drawn anew, of which 0.7 to another level; 0.015: more than five standard errors.
    assert float((distance.argmin(dim=1) != 1).double().mean()) == pytest.approx(0.2 * 0.7, abs=0.015)


def test_rows_of_categories_alone_have_no_numbers(generator):
    layer = InputLayer(2, probabilities=((0, (0.5, 0.5)), (1, (1.0,))))
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert layer(x).shape == (2, 3)
    torch.testing.assert_close(layer.noisy(x, None, torch.zeros(2, 1), generator), layer(x))


def test_uncorrelated_indicators_keep_their_mean():
    codes = torch.multinomial(
        torch.tensor(SHARES), 40_000, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    layer = InputLayer(1, probabilities=((0, SHARES),))
    rows = layer.uncorrelated(layer(codes.double().unsqueeze(1)), np.random.RandomState(0))
    covariance = np.cov(rows.numpy().T)
    # Its diagonal is that of Poisson counts, p / (variance of the block). 0.02: five standard errors.
    np.testing.assert_allclose(covariance, np.diag(SHARES) / SPREAD**2, atol=0.02)
    np.testing.assert_allclose(rows.mean(0), 0.0, atol=0.02)


def test_config_builds_the_same_mixed_layer():
    assert InputLayer.from_config(MIXED.config()) == MIXED
