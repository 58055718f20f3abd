"""The product against torch's own, and its law: a row's place does not matter."""

import pytest
import torch

from skvae._support.numerics import row_product, unexpanded


@pytest.mark.parametrize("n_outputs", [1, 2, 3, 5, 8, 13, 31])
@pytest.mark.parametrize("n_inputs", [1, 3, 8, 30])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_reversed_rows_give_the_reversed_product(lead, n_inputs, n_outputs, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*lead, 48, n_inputs, generator=generator, dtype=torch.float64)
    matrix = torch.randn(n_inputs, n_outputs, generator=generator, dtype=torch.float64)
    product = row_product(x, matrix)
    torch.testing.assert_close(product, torch.einsum("...ni,io->...no", x, matrix), rtol=1e-12, atol=1e-12)
    assert torch.equal(row_product(x.flip(-2), matrix).flip(-2), product)


def test_gradients_pass(seed):
    generator = torch.Generator().manual_seed(seed)
    x, matrix = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (3, 5)))
    assert torch.autograd.gradcheck(row_product, (x.requires_grad_(), matrix.requires_grad_()))


@pytest.mark.parametrize("n_outputs", [3, 16, 30])
def test_float32_stays_float32(n_outputs, seed):
    generator = torch.Generator().manual_seed(seed)
    x, matrix = torch.randn(16, 4, generator=generator), torch.randn(4, n_outputs, generator=generator)
    product = row_product(x, matrix)
    assert product.dtype == torch.float32
    # Measured with the seeds 0 to 7: 9.2e-7.
    torch.testing.assert_close(product.double(), x.double() @ matrix.double(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(3,), (2, 1, 1, 3)])
def test_what_is_repeated_is_kept_once(shape, seed):
    own = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    repeated = own.expand(2, 5, 4, 3)
    once = unexpanded(repeated)
    assert once.numel() == own.numel()
    assert torch.equal(once.expand_as(repeated), repeated)
