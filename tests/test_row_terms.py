"""Likelihoods for some rows alone, and what they take over from those for any rows."""

import numpy as np
import pytest
import torch

from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import VAEModule
from skvae.likelihoods import Autoregressive, Bernoulli, Categorical, ColumnGroups, Gaussian, Mixture, StudentT
from skvae.likelihoods.row_terms import RowTerms, with_row_terms

MIXED = ColumnGroups(
    [Mixture(StudentT(6, scale="dependent"), 3), Categorical([3, 1, 12]), Bernoulli(1)], [[1, 4], [0, 2, 5], [3]]
)
CASES = {
    "categorical": Categorical([2, 5, 1]),
    "groups": MIXED,
    "one group": ColumnGroups([Categorical([4, 3])]),
    "autoregressive": Autoregressive(MIXED, [24, 16]),
    "autoregressive numbers": Autoregressive(Gaussian(3), [8]),
    "linear autoregressive": Autoregressive(MIXED, []),
}
N_ROWS, N_DRAWS = 16, 3


def rows_of(likelihood, rng):
    levels = dict(enumerate(likelihood.widths))
    columns = [
        rng.integers(0, levels[column], N_ROWS) if kind in ("level", "share") else rng.normal(size=N_ROWS)
        for column, kind in enumerate(likelihood.columns_hold)
    ]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float64))


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def test_levels_are_summed_by_a_product_where_it_is_quick():
    """In float64, or of few levels, and of not too many columns: elsewhere nothing is made of rows alone."""
    few, many, wide = Categorical([2, 15]), Categorical([2, 16]), Categorical([2] * 129)
    found = {}
    for dtype in (torch.float64, torch.float32):
        for name, likelihood in {"few": few, "many": many, "wide": wide}.items():
            x = torch.zeros(3, likelihood.n_columns, dtype=dtype)
            found[name, dtype] = with_row_terms(likelihood, x, x[0, :0]) is not likelihood
    single, double = torch.float32, torch.float64
    assert [found[name, double] for name in ("few", "many", "wide")] == [True, True, False]
    assert [found[name, single] for name in ("few", "many", "wide")] == [True, False, False]


@pytest.mark.parametrize("is_masked", [False, True], ids=["complete", "gaps"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("likelihood", CASES.values(), ids=CASES)
def test_rows_that_are_read_once_are_as_likely_under_all_outputs(likelihood, dtype, is_masked, rng):
    x, mask = rows_of(likelihood, rng).to(dtype), None
    free = torch.from_numpy(0.3 * rng.normal(size=likelihood.n_free)).to(dtype)
    if is_masked:
        mask = torch.from_numpy(rng.random(x.shape) < 0.7)
        x = torch.where(mask, x, torch.nan)
    alone = with_row_terms(likelihood, x, free, mask)
    assert isinstance(likelihood, RowTerms)
    assert alone is not likelihood
    tol = {"rtol": 1e-13, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-4}
    for _ in range(2):  # nothing of the first outputs is left
        outputs = torch.from_numpy(rng.normal(size=(N_DRAWS, N_ROWS, likelihood.n_outputs))).to(dtype)
        given = (outputs, free, mask)
        with torch.no_grad():
            found, by_row = alone.log_prob(x, *given), alone.row_log_prob(x, *given)
            torch.testing.assert_close(found, likelihood.log_prob(x, *given), **tol)
            torch.testing.assert_close(by_row, likelihood.row_log_prob(x, *given), **tol)


def test_a_likelihood_takes_other_rows_after_it_has_read_some(rng):
    likelihood = CASES["autoregressive"]
    free = torch.from_numpy(rng.normal(size=likelihood.n_free))
    outputs = torch.from_numpy(rng.normal(size=(N_ROWS, likelihood.n_outputs)))
    first, second = rows_of(likelihood, rng), rows_of(likelihood, rng)
    wanted = likelihood.log_prob(second, outputs, free)
    with_row_terms(likelihood, first, free).log_prob(first, outputs, free)
    assert torch.equal(likelihood.log_prob(second, outputs, free), wanted)


def test_levels_keep_their_log_mass_however_far_logits_lie_apart():
    """A sum of powers of e overflows beyond e^709, and vanishes below e^-745."""
    logits = [2e3, 1e3, -5e3, 0.0, -1.0]
    likelihood, x = Categorical([3, 2]), torch.tensor([[0.0, 1.0], [2.0, 0.0]]).double()
    alone = with_row_terms(likelihood, x, torch.zeros(0).double())
    found = alone.log_prob(x, torch.tensor([logits] * 2, dtype=torch.float64), torch.zeros(0).double())
    low = float(np.log1p(np.exp(-1.0)))
    wanted = torch.tensor([[0.0, -1.0 - low], [-7e3, -low]], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-15)


def test_others_stay_as_they_are():
    likelihood = Gaussian(2)
    assert with_row_terms(likelihood, torch.zeros(1, 2), torch.zeros(2)) is likelihood


@pytest.mark.parametrize("name", ["groups", "autoregressive"])
def test_log_weights_with_and_without_gradients_are_the_same(name, rng):
    """Under autograd a likelihood reads the rows for each part of the draws."""
    likelihood = CASES[name]
    encoder, decoder = SkipMLP(6, 4, (8,)), SkipMLP(2, likelihood.n_outputs, (8,))
    size = encoder.n_parameters + decoder.n_parameters + likelihood.n_free
    module = VAEModule(encoder, decoder, likelihood, torch.from_numpy(0.3 * rng.normal(size=size)))
    x, noise = rows_of(likelihood, rng), torch.from_numpy(rng.normal(size=(5, 1, 2)))
    wanted = module.log_weights(x, x, noise)
    assert wanted.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(module.log_weights(x, x, noise), wanted.detach(), rtol=1e-13, atol=1e-12)
