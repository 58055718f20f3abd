"""Likelihoods of single columns against those of all."""

import pytest
import torch

from skvae.likelihoods import Categorical, Gaussian, Mixture, StudentT
from skvae.likelihoods.separable import Separable

CASES = {
    "categorical": Categorical([2, 3, 1, 5]),
    "constant t": Mixture(StudentT(12, scale="constant"), 3),
    "dependent t": Mixture(StudentT(12, scale="dependent", floor=0.3), 3),
    "unit gaussian": Mixture(Gaussian(8, scale="unit"), 2),
    "dependent gaussian": Mixture(Gaussian(8, scale="dependent", floor=0.3), 2),
}


@pytest.fixture
def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("inner", CASES.values(), ids=CASES)
def test_a_column_alone_is_that_among_others(inner, draw):
    assert isinstance(inner, Separable)
    outputs, free, x = draw(6, inner.n_outputs), draw(inner.n_free), draw(6, 4)
    x = x if inner.values == "real" else torch.zeros_like(x)
    for column in range(4):
        alone, owners = inner._of_column(column), torch.tensor(inner.owners)
        own = outputs[:, owners == column], free[column::4]
        assert alone.n_columns == 1
        assert (alone.n_outputs, alone.n_free) == tuple(part.shape[-1] for part in own)
        found = torch.cat([alone.log_prob(x[:, [column]], *own), alone.mean(*own)])
        wanted = torch.cat([inner.log_prob(x, outputs, free), inner.mean(outputs, free)])
        torch.testing.assert_close(found, wanted[:, [column]])


def test_columns_that_share_a_scale_are_not_alone():
    assert Mixture(StudentT(12, scale="shared"), 3)._of_column(0) is None
