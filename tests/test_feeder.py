"""What a step may see: every row once, its noise, dropout's factors, and rows of 0 and 1 drawn anew."""

import pytest
import torch
from networks import make_module
from scipy.stats import kstest

from skvae._data.inputs import InputLayer
from skvae._training.feeder import Binarizer, Feeder, corrupt, hide, noisy_inputs, toss
from skvae._training.rows import Rows, Settings
from skvae.likelihoods import Gaussian

N_FEATURES = 3


def small_module(kind, n_features=N_FEATURES, **options):
    return make_module(kind, Gaussian(n_features, scale="unit"), hidden=(4,), **options)


def settings_of(**options):
    return Settings(**({"batch_size": 8, "learning_rate": 1e-2, "n_epochs": 1} | options))


def each_batch(feeder):
    for batches, sizes in feeder.epoch():
        yield from zip(batches, sizes, strict=True)


def feed(module, rows, settings, seeds):
    """The batches of one epoch, copied out of the feeder's buffers."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    feeder = Feeder(module, rows, settings, generators)
    for batch, n_rows in each_batch(feeder):
        dropout = tuple([factor.clone() for factor in group] for group in batch.dropout)
        parts = [None if part is None else part.clone() for part in batch[:5]]
        yield type(batch)(*parts, dropout), n_rows


@pytest.mark.parametrize("n_networks", [1, 2])
@pytest.mark.parametrize(("n_rows", "batch_size"), [(1, 1), (5, 8), (24, 8), (25, 8), (9000, 512)])
def test_an_epoch_shows_every_row_once_with_its_weight(n_networks, n_rows, batch_size):
    """9,000 rows are more than are gathered at once."""
    module = small_module("autoencoder", 1, n_networks=n_networks)
    x = torch.arange(float(n_rows), dtype=torch.float64)[:, None]
    settings = settings_of(batch_size=batch_size)
    batches = list(feed(module, Rows(x, 10.0 + x[:, 0]), settings, range(n_networks)))
    for batch, size in batches:
        assert batch.x.shape[-2] == size
        assert torch.equal(batch.weight, 10.0 + batch.x[..., 0])
    assert all(size == batch_size for _, size in batches[:-1])
    orders = torch.cat([batch.x[..., 0] for batch, _ in batches], dim=-1).reshape(n_networks, -1)
    for order in orders:
        assert torch.equal(order.sort().values, x[:, 0])
        assert n_rows < 24 or not torch.equal(order, x[:, 0])
    assert n_rows < 24 or n_networks == 1 or not torch.equal(*orders)


@pytest.mark.parametrize(("in_groups", "wanted"), [(True, [[8, 8], [4]]), (False, [[8], [8], [4]])])
def test_batches_come_in_groups_that_stay_the_same(in_groups, wanted, draw):
    settings, generator = settings_of(batch_size=8), torch.Generator().manual_seed(0)
    feeder = Feeder(small_module("vae"), Rows(draw(20, N_FEATURES)), settings, [generator], in_groups=in_groups)
    first, second = list(feeder.epoch()), list(feeder.epoch())
    assert [sizes for _, sizes in first] == wanted
    assert all(one is other for (one, _), (other, _) in zip(first, second, strict=True))


def test_noise_reaches_the_inputs_and_not_the_target(draw):
    """4,000 rows of 3 cells; the scale of a row's noise is uniform on [1, 3], so its square is 13 / 3 on average."""
    module = small_module("autoencoder")
    x = draw(4000, N_FEATURES)
    ((batch, _),) = feed(module, Rows(x), settings_of(batch_size=4000, noise=(1.0, 3.0)), [5])
    assert torch.equal(batch.x.sort(dim=0).values, x.sort(dim=0).values)
    noise = batch.inputs - batch.x
    assert noise.mean() == pytest.approx(0.0, abs=0.12)  # standard error 0.019
    assert noise.square().mean() == pytest.approx(13 / 3, abs=0.5)  # standard error 0.08
    scales = (noise.square().mean(dim=1)).sqrt()
    assert scales.std() > 0.5  # one scale for a row: cells of one common scale would give less spread between rows


def test_noise_of_fixed_scale_is_gaussian(generator, draw):
    noise = corrupt(torch.zeros(5000, 2, dtype=torch.float64), (0.5, 0.5), generator)
    assert kstest(noise.flatten().numpy(), "norm", args=(0.0, 0.5)).pvalue > 1e-6


def test_noise_of_a_category_is_another_level(generator):
    """Numbers get the noise of their row; a category is drawn anew with half that chance."""
    layer = InputLayer(2, probabilities=((0, (0.5, 0.5)),))
    x = torch.zeros(20_000, 2)
    inputs = noisy_inputs(layer, x, None, (0.6, 0.6), generator)
    clean = layer(x)[0]
    same = (inputs[:, :2] == clean[:2]).all(dim=1)
    assert torch.equal(inputs[~same, :2], layer(torch.ones(1, 2))[:, :2].expand(int((~same).sum()), -1))
    # 0.02: more than five standard errors of 0.3 / 2.
    assert float((~same).float().mean()) == pytest.approx(0.15, abs=0.02)
    assert kstest(inputs[:, 2].double().numpy(), "norm", args=(0.0, 0.6)).pvalue > 1e-6
    assert torch.equal(noisy_inputs(layer, x, None, (0.0, 0.0), generator), layer(x))


def test_no_noise_is_the_same_tensor(generator, draw):
    x = draw(3, 2)
    assert corrupt(x, (0.0, 0.0), generator) is x


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_keeps_the_mean(rate):
    """8,000 factors for each hidden layer: 0 with the given rate, 1 / (1 - rate) otherwise."""
    module = small_module("autoencoder")
    settings = settings_of(batch_size=2000, dropout=rate)
    ((batch, _),) = feed(module, Rows(torch.zeros(2000, N_FEATURES, dtype=torch.float64)), settings, [5])
    for (factors,) in batch.dropout:
        assert factors.shape == (2000, 4)
        expected = torch.tensor([0.0, 1.0 / (1.0 - rate)], dtype=torch.float64)
        torch.testing.assert_close(factors.unique(), expected, rtol=1e-10, atol=1e-10)
        assert (factors == 0).double().mean() == pytest.approx(rate, abs=0.04)  # standard error 0.0056


@pytest.mark.parametrize("size", [(1,), (3, 5), (1000, 63)])
def test_coins_of_any_number_fall_as_they_should(size, generator):
    """Independent of each other, wherever they come from in a draw of 64 bits."""
    keep = 0.7
    factors = torch.stack([torch.full(size, torch.nan) for _ in range(8)])
    for each in factors:
        toss(each, keep, generator)
    assert set((factors * keep).round(decimals=5).unique().tolist()) <= {0.0, 1.0}
    if len(size) == 1 or size[0] < 1000:
        return
    kept = (factors > 0).double().flatten(1)
    torch.testing.assert_close(kept.mean(), torch.tensor(keep).double(), atol=0.004, rtol=0.0)  # 6 standard errors
    by_place = kept[:, : 4 * (kept.shape[1] // 4)].view(-1, 4)
    torch.testing.assert_close(by_place.mean(0), torch.full((4,), keep).double(), atol=0.008, rtol=0.0)
    correlations = torch.corrcoef(torch.cat([by_place[:-1], by_place[1:]], dim=1).T)[
        torch.triu_indices(8, 8, 1).unbind()
    ]
    assert correlations.abs().max() < 0.018  # 6 standard errors of 126,000 draws


@pytest.mark.parametrize("keep", [1e-7, 1.0 - 1e-7])
def test_no_chance_is_out_of_range(keep, generator):
    factors = torch.full((100, 10), torch.nan, dtype=torch.float64)
    toss(factors, keep, generator)
    assert torch.equal(factors, (factors > 0).double() / keep)
    assert (factors > 0).double().mean() == pytest.approx(keep, abs=0.01)


def test_posterior_noise_is_fresh_for_each_row():
    module = small_module("vae")
    x = torch.zeros(4000, N_FEATURES, dtype=torch.float64)
    batches = [batch for batch, _ in feed(module, Rows(x), settings_of(batch_size=1000), [5])]
    noise = torch.cat([batch.noise for batch in batches])
    assert len(noise.unique(dim=0)) == 4000
    assert noise.mean() == pytest.approx(0.0, abs=0.07)  # standard error 0.011
    assert noise.square().mean() == pytest.approx(1.0, abs=0.1)  # standard error 0.016


def test_each_epoch_sees_other_rows_of_ones():
    module = small_module("vae")
    rows = Rows(torch.full((24, N_FEATURES), 0.5, dtype=torch.float64))
    feeder = Feeder(module, rows, settings_of(binarize=True), [torch.Generator().manual_seed(0)])
    epochs = [torch.cat([batch.x.clone() for batch, _ in each_batch(feeder)]) for _ in range(2)]
    assert all(set(x.unique().tolist()) == {0.0, 1.0} for x in epochs)
    assert not torch.equal(*epochs)
    assert (rows.x == 0.5).all()


def test_ones_come_as_often_as_their_probability_says(seed):
    probabilities = torch.tensor([[0.0, 1.0, torch.nan], [0.25, 0.5, 0.9]])
    binarizer, generator = Binarizer(probabilities), torch.Generator().manual_seed(seed)
    rows = torch.stack([binarizer.draw(generator).clone() for _ in range(4000)])
    assert set(rows[:, 1].unique().tolist()) == {0.0, 1.0}
    assert (rows[:, 0, :2] == torch.tensor([0.0, 1.0])).all()
    assert rows[:, 0, 2].isnan().all()
    torch.testing.assert_close(rows[:, 1].mean(dim=0), probabilities[1], atol=0.04, rtol=0.0)  # five standard errors
    assert probabilities[1, 0] == 0.25


def test_hidden_cells_leave_the_mask_and_no_cell_comes_back(generator):
    """A row's fraction is uniform up to 0.8, so 0.4 on average."""
    mask = torch.rand(4000, 5, generator=generator) < 0.5
    shown = hide(torch.zeros(4000, 5), mask.clone(), 0.8, generator)
    assert not (shown & ~mask).any()
    assert float(shown[mask].float().mean()) == pytest.approx(0.6, abs=0.03)  # standard error 0.006
    whole = hide(torch.zeros(4000, 5), None, 0.8, generator)
    assert float(whole.float().mean()) == pytest.approx(0.6, abs=0.03)
    rows = whole.float().mean(dim=1)
    # The variance of a row's mean is (0.24 - 0.64 / 12) / 5 + 0.64 / 12 = 0.091; with one fraction for all, 0.048.
    assert float(rows.var()) == pytest.approx(0.091, abs=0.01)
    assert hide(torch.zeros(3, 2), None, 0.0, generator) is None


def test_masks_hold_where_values_are(draw):
    """Cells that are hidden from the encoder stay in the target and in its mask."""
    x = draw(400, N_FEATURES)
    x[::3, 1] = torch.nan
    layer = InputLayer(N_FEATURES, masked=(1,))
    module = make_module("autoencoder", Gaussian(N_FEATURES, scale="unit"), hidden=(4,))
    module.layer = layer
    ((batch, _),) = feed(module, Rows(x), settings_of(batch_size=400, hiding=0.9), [5])
    assert torch.equal(batch.mask, ~batch.x.isnan())
    assert batch.inputs.isfinite().all()
    assert int((batch.inputs[:, :N_FEATURES] == 0).sum()) > int(x.isnan().sum())
