"""What an encoder sees of complete and of incomplete rows."""

import torch

from skvae._inputs import Coins, InputLayer, observed

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


def test_coins_fall_in_their_shares_and_leave_the_rest(seed):
    shares = torch.tensor([[0.0, 1.0, torch.nan], [0.25, 0.5, 0.9]])
    coins, generator = Coins(shares), torch.Generator().manual_seed(seed)
    flips = torch.stack([coins.flip(generator).clone() for _ in range(4000)])
    assert set(flips[:, 1].unique().tolist()) == {0.0, 1.0}
    assert (flips[:, 0, :2] == torch.tensor([0.0, 1.0])).all()
    assert flips[:, 0, 2].isnan().all()
    torch.testing.assert_close(flips[:, 1].mean(dim=0), shares[1], atol=0.04, rtol=0.0)  # five standard errors
    assert shares[1, 0] == 0.25
