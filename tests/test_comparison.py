"""Rows beside their reconstruction, by arithmetic."""

import math

import pytest
import torch

from skvae._data.inputs import InputLayer
from skvae._model.comparison import compare, compare_many, with_levels
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import AutoencoderModule
from skvae.likelihoods import Autoregressive, Categorical, ColumnGroups, Gaussian, Poisson

NAN = float("nan")


@pytest.fixture
def module():
    """Decodes every row to 0.5, a count of 2, and the levels' probabilities 0.2 and 0.8."""
    likelihood = ColumnGroups([Gaussian(1, scale="unit"), Poisson(1), Categorical([2])], [[1], [2], [0]])
    layer = InputLayer(3, probabilities=((0, (0.25, 0.75)),), counts=((2, 1.0, 2.0),))
    module = AutoencoderModule(SkipMLP(4, 1), SkipMLP(1, 4), likelihood, None, layer).converted(torch.float64)
    biases = module.parts(module.flat.data)[1].biases[-1]
    biases.copy_(torch.tensor([0.5, math.log(2.0), math.log(0.2), math.log(0.8)]))
    return module


@torch.no_grad()
def test_residuals_are_differences_and_deviances(module):
    x = torch.tensor([[0.0, 1.5, 3.0], [1.0, 0.5, 2.0]], dtype=torch.float64)
    compared = compare(module, x)
    gap = (math.log(4.0) - math.log(3.0)) / 2.0
    expected = [[math.sqrt(-2.0 * math.log(0.2)), 1.0, gap], [math.sqrt(-2.0 * math.log(0.8)), 0.0, 0.0]]
    torch.testing.assert_close(compared.residual, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(
        compared.scalars[:, 1:],
        torch.tensor([[1.5, 0.5 * (math.log(4.0) - 1)], [0.5, 0.5 * (math.log(3.0) - 1)]]).double(),
    )
    mass = [math.log(0.2) + 3 * math.log(2) - 2 - math.log(6), math.log(0.8) + 2 * math.log(2) - 2 - math.log(2)]
    torch.testing.assert_close(compared.log_mass, torch.tensor(mass, dtype=torch.float64))


@torch.no_grad()
def test_missing_cells_are_missing_and_have_an_expectation(module):
    x = torch.tensor([[NAN, 1.5, 3.0], [1.0, NAN, NAN]], dtype=torch.float64)
    compared = compare(module, x)
    assert compared.residual.isnan().tolist() == x.isnan().tolist()
    assert compared.scalars.isnan().tolist() == x.isnan().tolist()
    assert not compared.expected_scalars.isnan().any()
    assert float(compared.log_mass[1]) == pytest.approx(math.log(0.8))


@torch.no_grad()
def test_missing_levels_are_the_likeliest_ones(module):
    """And a row without a missing level stays as it is, other missing cells included."""
    x = torch.tensor([[NAN, 1.5, NAN], [0.0, NAN, 2.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    filled = with_levels(module, x)
    assert filled[0, :2].tolist() == [1.0, 1.5]
    assert filled[0, 2].isnan()
    assert x[0, 0].isnan()
    torch.testing.assert_close(filled[1:], x[1:], rtol=0.0, atol=0.0, equal_nan=True)
    whole = x[1:]
    assert with_levels(module, whole) is whole
    many = compare_many(module, x, fill_levels=True)
    torch.testing.assert_close(tuple(many), tuple(compare(module, filled)), equal_nan=True)
    assert float(many.residual[0, 0]) == pytest.approx(math.sqrt(-2.0 * math.log(0.8)))


@torch.no_grad()
def test_numbers_alone_are_held_against_their_reconstruction():
    module = AutoencoderModule(SkipMLP(2, 1), SkipMLP(1, 2), Gaussian(2, scale="unit"))
    x = torch.tensor([[1.0, NAN], [2.0, 3.0]])
    compared = compare(module, x)
    assert compared.scalars is x
    assert compared.residual[:, 0].tolist() == [1.0, 2.0]
    assert compared.log_mass is None


@torch.no_grad()
def test_what_a_cell_is_expected_to_be_is_given_the_observed_cells_before_it():
    """The second column is three times the first beside its output, and 7 where that is missing."""
    module = AutoencoderModule(SkipMLP(2, 1), SkipMLP(1, 2), Autoregressive(Gaussian(2, scale="unit"), ()))
    _, decoder, free = module.parts(module.flat.data)
    decoder.biases[-1].copy_(torch.tensor([10.0, 1.0]))
    decoder.skip.zero_()
    free.view(4, 2)[[0, 2], 1] = torch.tensor([3.0, 7.0])  # from the first cell, and from its being missing
    compared = compare(module, torch.tensor([[12.0, 40.0], [8.0, NAN], [NAN, 9.0]]))
    torch.testing.assert_close(compared.residual, torch.tensor([[2.0, 3.0], [-2.0, NAN], [NAN, 1.0]]), equal_nan=True)
    torch.testing.assert_close(compared.expected_scalars, torch.tensor([[10.0, 37.0], [10.0, 25.0], [10.0, 8.0]]))


@pytest.mark.parametrize("n_samples", [1, 7, 1024, 2500])
@torch.no_grad()
def test_many_rows_are_compared_as_few(n_samples, module):
    """No pass overwrites what an earlier one left."""
    generator = torch.Generator().manual_seed(0)
    decoder = module.parts(module.flat.data)[1]
    decoder.skip[:, 0] = 1.0  # so that rows differ
    module.parts(module.flat.data)[0].skip.copy_(torch.randn(4, 1, generator=generator))
    numbers = torch.randn(n_samples, 1, generator=generator, dtype=torch.float64)
    counts = torch.randint(0, 5, (n_samples, 1), generator=generator)
    x = torch.cat([torch.randint(0, 2, (n_samples, 1), generator=generator), numbers, counts], dim=1)
    x[::3, 1], x[1::5, 2] = NAN, NAN
    torch.testing.assert_close(tuple(compare_many(module, x)), tuple(compare(module, x)), equal_nan=True)
    plain = AutoencoderModule(SkipMLP(2, 1, (3,)), SkipMLP(1, 2, (3,)), Gaussian(2, scale="unit"))
    plain.flat.data.normal_(generator=generator)
    rows = torch.randn(n_samples, 2, generator=generator)
    many, few = compare_many(plain, rows), compare(plain, rows)
    torch.testing.assert_close(tuple(many[:3]), tuple(few[:3]))
    assert many.log_mass is None
