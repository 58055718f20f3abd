"""Laws of the likelihoods; every density is recomputed with scipy."""

import json
import math
import re

import numpy as np
import pytest
import torch
from scipy import special, stats

from skvae.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    ColumnGroups,
    Gaussian,
    NegativeBinomial,
    Poisson,
    StudentT,
    make_likelihood,
)
from skvae.likelihoods.likelihood import Buffers

FAMILIES = {
    "gaussian-unit": Gaussian(3, scale="unit"),
    "gaussian-constant": Gaussian(3, scale="constant", floor=0.1),
    "gaussian-shared": Gaussian(3, scale="shared", floor=0.1),
    "gaussian-dependent": Gaussian(3, scale="dependent", floor=0.1),
    "student_t-constant": StudentT(3, scale="constant", floor=0.1),
    "student_t-shared": StudentT(3, scale="shared", floor=0.1),
    "student_t-dependent": StudentT(3, scale="dependent", floor=0.1),
    "bernoulli": Bernoulli(3),
    "categorical": Categorical([2, 4, 3]),
    "poisson": Poisson(3),
    "negative_binomial": NegativeBinomial(3),
}
GROUPS = {
    "groups-one": ColumnGroups([StudentT(3)]),
    "groups-five": ColumnGroups(
        [StudentT(2, scale="dependent"), Bernoulli(1), Categorical([3, 2]), NegativeBinomial(2), Gaussian(1)]
    ),
}
CASES = FAMILIES | GROUPS
CONTINUOUS = {key: case for key, case in FAMILIES.items() if isinstance(case, Gaussian | StudentT)}
DISCRETE = {key: case for key, case in FAMILIES.items() if key not in CONTINUOUS}
LEADS = {"one": (), "networks": (3,), "draws-networks": (2, 3)}


def each(cases):
    return pytest.mark.parametrize("likelihood", [pytest.param(case, id=key) for key, case in cases.items()])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def draw_x(likelihood, rng, shape):
    """Values in the domain, drawn without the likelihood's own sampler."""
    if isinstance(likelihood, ColumnGroups):
        return torch.cat([draw_x(group, rng, shape) for group in likelihood.likelihoods], -1)
    shape = (*shape, likelihood.n_columns)
    if isinstance(likelihood, Categorical):
        return torch.tensor(rng.integers(0, likelihood.n_levels, shape), dtype=torch.float64)
    if isinstance(likelihood, Bernoulli):
        return torch.tensor(rng.integers(0, 2, shape), dtype=torch.float64)
    if isinstance(likelihood, Poisson | NegativeBinomial):
        return torch.tensor(rng.integers(0, 12, shape), dtype=torch.float64)
    return torch.tensor(rng.normal(size=shape) * 3)


def draw_parameters(likelihood, rng, *, n_samples=5, lead=(), spread=1.0):
    """Decoder outputs and free parameters; a spread of 10 reaches into the clipped regions."""
    outputs = torch.tensor(rng.normal(size=(*lead, n_samples, likelihood.n_outputs)) * spread)
    free = torch.tensor(likelihood.initial_free(), dtype=torch.float64)
    free_spread = spread if isinstance(likelihood, NegativeBinomial) else 0.5
    return outputs, free + torch.tensor(rng.normal(size=(*lead[-1:], likelihood.n_free)) * free_spread)


def scipy_distribution(likelihood, outputs, free):
    """The frozen distribution of each cell; all families but Categorical, which scipy lacks."""
    o, f, p = outputs.numpy(), free.numpy(), likelihood.n_columns
    if isinstance(likelihood, Bernoulli):
        return stats.bernoulli(special.expit(o))
    if isinstance(likelihood, Poisson):
        return stats.poisson(np.exp(np.clip(o, -30, 30)))
    if isinstance(likelihood, NegativeBinomial):
        size = np.exp(-np.clip(f, -15, 15))
        return stats.nbinom(size, size / (size + np.exp(np.clip(o, -30, 30))))
    if likelihood.config()["scale"] == "unit":
        return stats.norm(o, 1.0)
    shift = np.clip(o[..., p:], -4, 4) if likelihood.config()["scale"] == "dependent" else 0.0
    n_scales = 1 if likelihood.config()["scale"] == "shared" else p
    scale = np.sqrt(np.exp(2 * (f[:n_scales] + shift)) + likelihood.config()["floor"] ** 2)
    if isinstance(likelihood, StudentT):
        return stats.t(2 + np.log1p(np.exp(f[n_scales:])), o[..., :p], scale)
    return stats.norm(o[..., :p], scale)


def scipy_log_prob(likelihood, x, outputs, free):
    if isinstance(likelihood, ColumnGroups):
        widths = [
            [getattr(group, key) for group in likelihood.likelihoods] for key in ("n_columns", "n_outputs", "n_free")
        ]
        splits = [tensor.split(width, -1) for tensor, width in zip((x, outputs, free), widths, strict=True)]
        parts = zip(likelihood.likelihoods, *splits, strict=True)
        return np.concatenate([scipy_log_prob(*part) for part in parts], -1)
    if isinstance(likelihood, Categorical):
        blocks = [special.log_softmax(block.numpy(), axis=-1) for block in outputs.split(likelihood.n_levels, -1)]
        codes = x.numpy().astype(int)
        return np.stack([np.take_along_axis(b, codes[:, [j]], -1)[:, 0] for j, b in enumerate(blocks)], -1)
    if isinstance(likelihood, Bernoulli):
        # By symmetry on the side where scipy's 1 - p does not round.
        coin = stats.bernoulli(special.expit(-outputs.abs().numpy()))
        return coin.logpmf(np.where(outputs > 0, 1 - x, x))
    if isinstance(likelihood, NegativeBinomial):
        return negative_binomial_log_mass(x.numpy(), outputs.numpy(), free.numpy())
    distribution = scipy_distribution(likelihood, outputs, free)
    return distribution.logpdf(x) if isinstance(likelihood, Gaussian | StudentT) else distribution.logpmf(x)


def negative_binomial_log_mass(x, log_mean, log_dispersion):
    """Gamma(x + r) / (Gamma(r) x!) as a product over k < x: scipy's 1 - p rounds at the ends of the clipped range."""
    log_mean, log_size = np.broadcast_arrays(np.clip(log_mean, -30, 30), -np.clip(log_dispersion, -15, 15))
    size, k = np.exp(log_size)[..., None], np.arange(x.max())
    log_choices = np.where(k < x[..., None], np.log(size + k) - np.log(k + 1), 0).sum(-1)
    failures = x * np.logaddexp(0, log_size - log_mean)
    return log_choices - failures - size[..., 0] * np.logaddexp(0, log_mean - log_size)


def expected_gradient(likelihood, x, outputs, free, row_weight=None, mask=None):
    """Minus the weighted sum of log_prob, and what autograd makes of it."""
    outputs, free = outputs.clone().requires_grad_(), free.clone().requires_grad_()
    cells = likelihood.log_prob(x, outputs, free, mask)
    loss = -(cells if row_weight is None else cells * row_weight[..., None]).sum((-2, -1))
    gradients = torch.autograd.grad(loss.sum(), (outputs, free), materialize_grads=True)
    return loss.detach(), *(gradient.detach() for gradient in gradients)  # torch 2.4 leaves an empty one attached


def sub_likelihood(likelihood, keep):
    """The same family for some of the columns."""
    if isinstance(likelihood, Categorical):
        return Categorical([likelihood.n_levels[j] for j in keep])
    return make_likelihood(likelihood.config() | {"n_columns": len(keep)})


def sub_blocks(likelihood, values, keep):
    """Those decoder outputs or free parameters that belong to the kept columns."""
    if values.shape[-1] == 0:
        return values
    if isinstance(likelihood, Categorical):
        return torch.cat([values.split(likelihood.n_levels, -1)[j] for j in keep], -1)
    n_common = values.shape[-1] % likelihood.n_columns  # a scale that all columns share
    if n_common:
        return torch.cat([values[..., :n_common], sub_blocks(likelihood, values[..., n_common:], keep)], -1)
    return values.unflatten(-1, (-1, likelihood.n_columns))[..., keep].flatten(-2)


def scipy_mass(likelihood, code, outputs, free):
    """Mass of one code in each column, 0 beyond a column's last level."""
    mass = np.zeros(3)
    for j in range(3):
        if not isinstance(likelihood, Categorical) or code < likelihood.n_levels[j]:
            x = torch.full((1, 1), float(code), dtype=torch.float64)
            parameters = (sub_blocks(likelihood, values, [j]) for values in (outputs, free))
            mass[j] = np.exp(scipy_log_prob(sub_likelihood(likelihood, [j]), x, *parameters)).item()
    return mass


# -- the density


def test_families_cover_the_registry():
    assert {case.name for case in FAMILIES.values()} == set(LIKELIHOODS)


@pytest.mark.parametrize("spread", [1.0, 10.0], ids=["usual", "clipped"])
@each(CASES)
def test_log_prob_equals_scipy(likelihood, spread, rng):
    x = draw_x(likelihood, rng, (5,))
    outputs, free = draw_parameters(likelihood, rng, spread=spread)
    expected = scipy_log_prob(likelihood, x, outputs, free)
    np.testing.assert_allclose(likelihood.log_prob(x, outputs, free), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("masked", [False, True], ids=["complete", "masked"])
@pytest.mark.parametrize("spread", [1.0, 10.0], ids=["usual", "clipped"])
@each(CASES)
def test_row_log_prob_equals_scipy_with_and_without_gradients(likelihood, spread, masked, rng):
    x = draw_x(likelihood, rng, (5,))
    outputs, free = draw_parameters(likelihood, rng, spread=spread)
    mask = torch.tensor(rng.random((5, likelihood.n_columns)) < 0.5) if masked else None
    cells = scipy_log_prob(likelihood, x, outputs, free)
    expected = (cells if mask is None else np.where(mask, cells, 0.0)).sum(axis=-1)
    with torch.no_grad():
        scored = likelihood.row_log_prob(x, outputs, free, mask)
    np.testing.assert_allclose(scored, expected, rtol=1e-9, atol=1e-10)
    outputs.requires_grad_()
    trained = likelihood.row_log_prob(x, outputs, free, mask)
    np.testing.assert_allclose(trained.detach(), expected, rtol=1e-9, atol=1e-10)
    (gradient,) = torch.autograd.grad(trained.sum(), outputs)
    by_cells = torch.autograd.grad(likelihood.log_prob(x, outputs, free, mask).sum(), outputs)[0]
    np.testing.assert_allclose(gradient, by_cells, rtol=1e-12, atol=1e-14)


@each(CASES)
def test_row_log_prob_broadcasts_draws_and_changes_nothing(likelihood, rng):
    x = draw_x(likelihood, rng, (5,))
    outputs, free = draw_parameters(likelihood, rng, lead=(3,))
    free = free[0]
    before = [tensor.clone() for tensor in (x, outputs, free)]
    with torch.inference_mode():
        scored = likelihood.row_log_prob(x, outputs, free)
    expected = [scipy_log_prob(likelihood, x, draw, free).sum(axis=-1) for draw in outputs]
    np.testing.assert_allclose(scored, expected, rtol=1e-9, atol=1e-10)
    assert all(map(torch.equal, (x, outputs, free), before))


def test_bernoulli_log_prob_of_grey_values_is_the_mean_over_binarisations(rng):
    outputs, free = draw_parameters(Bernoulli(3), rng, spread=5.0)
    grey = torch.tensor(rng.uniform(size=(5, 3)))
    coin = scipy_distribution(Bernoulli(3), outputs, free)
    expected = grey.numpy() * coin.logpmf(1) + (1 - grey.numpy()) * coin.logpmf(0)
    np.testing.assert_allclose(Bernoulli(3).log_prob(grey, outputs, free), expected, rtol=1e-9, atol=1e-10)


@each(CONTINUOUS)
def test_density_integrates_to_one(likelihood, rng):
    """With x = sinh(u), the trapezoid rule in u converges beyond rounding."""
    outputs, free = draw_parameters(likelihood, rng, n_samples=1)
    u = torch.linspace(-15, 15, 6001, dtype=torch.float64)
    density = likelihood.log_prob(u.sinh()[:, None].expand(-1, 3), outputs.expand(6001, -1), free).exp()
    np.testing.assert_allclose(torch.trapezoid(density * u.cosh()[:, None], u, dim=0), np.ones(3), rtol=1e-9)


@each(DISCRETE)
def test_mass_sums_to_one(likelihood, rng):
    outputs, free = draw_parameters(likelihood, rng, n_samples=1)
    n_codes = {"bernoulli": [2, 2, 2], "categorical": [2, 4, 3]}.get(likelihood.name, [3000] * 3)
    codes = torch.arange(max(n_codes), dtype=torch.float64)[:, None].expand(-1, 3)
    mask = codes < torch.tensor(n_codes)
    mass = likelihood.log_prob(codes, outputs.expand(len(codes), -1), free, mask).exp() * mask
    np.testing.assert_allclose(mass.sum(0), np.ones(3), rtol=1e-10)


@pytest.mark.parametrize("log_dispersion", [-14.0, -6.0, -2.31, -2.30, 0.0, 6.0, 14.0])
def test_negative_binomial_equals_scipy_on_both_sides_of_the_expansion(log_dispersion, rng):
    x = torch.tensor([[0.0, 1.0, 2.0], [9.0, 40.0, 1000.0]], dtype=torch.float64)
    outputs = torch.tensor(rng.normal(size=(2, 3)) + 2)
    free = torch.full((3,), log_dispersion, dtype=torch.float64)
    expected = scipy_distribution(NegativeBinomial(3), outputs, free).logpmf(x)
    np.testing.assert_allclose(NegativeBinomial(3).log_prob(x, outputs, free), expected, rtol=1e-8, atol=1e-8)


def test_negative_binomial_float32_nears_poisson_as_dispersion_falls():
    """The difference of two log-gammas at 1 / dispersion = 3e6 would be off by whole nats in float32."""
    x, log_mean, free = torch.tensor([[0.0, 3.0, 30.0]]), torch.tensor([[1.0, 1.0, 3.0]]), torch.full((3,), -15.0)
    expected = stats.poisson(np.exp([[1.0, 1.0, 3.0]])).logpmf([[0, 3, 30]])
    # Measured error: 1.8e-5, of which 1.0e-5 is the remaining dispersion.
    np.testing.assert_allclose(NegativeBinomial(3).log_prob(x, log_mean, free), expected, atol=5e-5)


@each(CASES)
def test_log_prob_broadcasts_draws_and_networks(likelihood, rng):
    x = draw_x(likelihood, rng, (5,))
    outputs, free = draw_parameters(likelihood, rng, lead=(2, 3))
    together = likelihood.log_prob(x, outputs, free)
    assert together.shape == (2, 3, 5, likelihood.n_columns)
    for draw in range(2):
        for network in range(3):
            expected = scipy_log_prob(likelihood, x, outputs[draw, network], free[network])
            np.testing.assert_allclose(together[draw, network], expected, rtol=1e-9, atol=1e-10)


@each(FAMILIES)
def test_masked_log_prob_is_the_marginal(likelihood, rng):
    x = draw_x(likelihood, rng, (5,))
    outputs, free = draw_parameters(likelihood, rng)
    mask = torch.tensor([True, False, True]).expand(5, 3)
    parameters = (sub_blocks(likelihood, values, [0, 2]) for values in (outputs, free))
    marginal = sub_likelihood(likelihood, [0, 2]).log_prob(x[:, [0, 2]], *parameters)
    masked = likelihood.log_prob(x, outputs, free, mask)
    np.testing.assert_allclose(masked[:, [0, 2]], marginal, rtol=1e-14)
    assert (masked[:, 1] == 0).all()


# -- the gradient


@each(CASES)
def test_log_prob_passes_gradcheck(likelihood, rng):
    x = draw_x(likelihood, rng, (3,))
    parameters = [tensor.requires_grad_() for tensor in draw_parameters(likelihood, rng, n_samples=3)]
    assert torch.autograd.gradcheck(lambda outputs, free: likelihood.log_prob(x, outputs, free), parameters)


@pytest.mark.parametrize("spread", [1.0, 10.0], ids=["usual", "clipped"])
@pytest.mark.parametrize("lead", [pytest.param(lead, id=key) for key, lead in LEADS.items()])
@pytest.mark.parametrize("options", ["bare", "row_weight", "mask", "row_weight-mask"])
@each(CASES)
def test_loss_gradient_equals_autograd(likelihood, options, lead, spread, rng):
    x = draw_x(likelihood, rng, (6,))
    outputs, free = draw_parameters(likelihood, rng, n_samples=6, lead=lead, spread=spread)
    given = {}
    if "row_weight" in options:
        given["row_weight"] = torch.tensor(rng.uniform(size=(*lead, 6)))
    if "mask" in options:
        given["mask"] = torch.tensor(rng.uniform(size=x.shape) < 0.6)
    expected = expected_gradient(likelihood, x, outputs, free, **given)
    with torch.no_grad():
        result = likelihood.loss_gradient(x, outputs, free, **given)
    assert result[0].shape == lead
    for got, wanted in zip(result, expected, strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", ["bare", "row_weight-mask"])
@each(CASES)
def test_loss_gradient_writes_into_strided_out(likelihood, options, rng):
    x = draw_x(likelihood, rng, (6,))
    outputs, free = draw_parameters(likelihood, rng, n_samples=6, lead=(2,))
    weight, mask = torch.tensor(rng.uniform(size=6)), torch.tensor(rng.uniform(size=x.shape) < 0.6)
    given = (None, None) if options == "bare" else (weight, mask)
    wide = torch.full((2, 6, likelihood.n_outputs + 4), math.nan, dtype=torch.float64)
    out = wide[..., 1:-3]
    with torch.no_grad():
        _, d_outputs, _ = likelihood.loss_gradient(x, outputs, free, *given, out)
    assert d_outputs.data_ptr() == out.data_ptr()
    assert d_outputs.stride() == out.stride()
    expected = expected_gradient(likelihood, x, outputs, free, *given)[1]
    np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-10)
    assert wide[..., 0].isnan().all()
    assert wide[..., -3:].isnan().all()


@pytest.mark.parametrize("lead", [(), (2,)], ids=["alone", "networks"])
@each(CASES)
def test_gradient_in_buffers_is_the_loss_gradient(likelihood, lead, rng):
    """Batch after batch, and with outputs wider than the likelihood's."""
    wide = torch.zeros(*lead, 6, likelihood.n_outputs + 3, dtype=torch.float64)
    d_wide, free = torch.zeros_like(wide), torch.zeros(*lead, likelihood.n_free, dtype=torch.float64)
    buffers = Buffers(wide, free, d_wide, torch.zeros_like(free), torch.zeros(lead, dtype=torch.float64))
    gradient = likelihood.gradient_in(buffers)
    for _ in range(0 if gradient is None else 2):
        outputs, new_free = draw_parameters(likelihood, rng, n_samples=6, lead=lead)
        wide[..., : likelihood.n_outputs], x = outputs, draw_x(likelihood, rng, (*lead, 6))
        free.copy_(new_free)
        with torch.no_grad():
            expected = likelihood.loss_gradient(x, outputs, free)
            gradient(x)
        got = (buffers.loss, d_wide[..., : likelihood.n_outputs], buffers.d_free)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)  # measured with the seeds 0 to 3: 7e-16
        assert not d_wide[..., likelihood.n_outputs :].any()


@each(CASES)
def test_loss_gradient_leaves_its_inputs_alone(likelihood, rng):
    x = draw_x(likelihood, rng, (6,))
    mask, weight = torch.tensor(rng.uniform(size=x.shape) < 0.6), torch.tensor(rng.uniform(size=6))
    inputs = [x, *draw_parameters(likelihood, rng, n_samples=6), weight, mask]
    copies = [tensor.clone() for tensor in inputs]
    with torch.no_grad():
        likelihood.loss_gradient(*inputs)
        likelihood.loss_gradient(*inputs[:3])
    for tensor, copy in zip(inputs, copies, strict=True):
        assert torch.equal(tensor, copy)


@each(CASES)
def test_loss_gradient_sums_over_networks_that_share_free_parameters(likelihood, rng):
    x = draw_x(likelihood, rng, (4,))
    outputs, _ = draw_parameters(likelihood, rng, n_samples=4, lead=(3,))
    free = draw_parameters(likelihood, rng)[1]
    with torch.no_grad():
        d_free = likelihood.loss_gradient(x, outputs, free)[2]
    assert d_free.shape == free.shape
    np.testing.assert_allclose(d_free, expected_gradient(likelihood, x, outputs, free)[2], rtol=1e-10, atol=1e-10)


@each(CASES)
def test_nan_under_the_mask_changes_no_bit(likelihood, rng):
    x = draw_x(likelihood, rng, (6,))
    outputs, free = draw_parameters(likelihood, rng, n_samples=6)
    mask = torch.tensor(rng.uniform(size=x.shape) < 0.6)
    results = []
    for cells in (torch.where(mask, x, math.nan), x):
        with torch.no_grad():
            direct = likelihood.loss_gradient(cells, outputs, free, mask=mask)
        by_autograd = expected_gradient(likelihood, cells, outputs, free, mask=mask)
        results.append([*direct, *by_autograd, likelihood.log_prob(cells, outputs, free, mask)])
    for got, wanted in zip(*results, strict=True):
        assert got.isfinite().all()
        assert torch.equal(got, wanted)


@each(CASES)
def test_rows_without_an_observed_cell_give_zero(likelihood, rng):
    outputs, free = draw_parameters(likelihood, rng, n_samples=4)
    x = torch.full((4, likelihood.n_columns), math.nan, dtype=torch.float64)
    with torch.no_grad():
        for part in likelihood.loss_gradient(x, outputs, free, mask=x.isfinite()):
            assert (part == 0).all()


@each(CASES)
def test_loss_gradient_works_on_inference_tensors(likelihood, rng):
    x = draw_x(likelihood, rng, (6,))
    outputs, free = draw_parameters(likelihood, rng, n_samples=6)
    weight, mask = torch.tensor(rng.uniform(size=6)), torch.tensor(rng.uniform(size=x.shape) < 0.6)
    expected = expected_gradient(likelihood, x, outputs, free, weight, mask)
    with torch.inference_mode():
        copies = [tensor.clone() for tensor in (x, outputs, free, weight, mask)]
        result = likelihood.loss_gradient(*copies, torch.empty_like(outputs))
    for got, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


# -- moments and draws


def many_rows(likelihood, rng, n_samples=4000):
    outputs, free = draw_parameters(likelihood, rng, n_samples=1)
    return outputs.expand(n_samples, -1), free


@each({key: case for key, case in FAMILIES.items() if key != "categorical"})
def test_mean_equals_scipy(likelihood, rng):
    outputs, free = draw_parameters(likelihood, rng)
    expected = scipy_distribution(likelihood, outputs, free).mean()
    np.testing.assert_allclose(likelihood.mean(outputs, free), np.broadcast_to(expected, (5, 3)), rtol=1e-9)


def test_categorical_mean_is_the_code_of_the_likeliest_level():
    outputs = torch.tensor([[0.0, 2.0, 5.0, 1.0, 7.0]])
    assert Categorical([2, 3]).mean(outputs, torch.zeros(0)).tolist() == [[1.0, 2.0]]


@each(CONTINUOUS)
def test_scale_equals_scipy_standard_deviation(likelihood, rng):
    outputs, free = draw_parameters(likelihood, rng, spread=4.0)
    expected = scipy_distribution(likelihood, outputs, free).std()
    np.testing.assert_allclose(likelihood.scale(outputs, free), np.broadcast_to(expected, (5, 3)), rtol=1e-9)


@each({key: case for key, case in FAMILIES.items() if key != "categorical"})
def test_sample_mean_is_the_mean(likelihood, rng, generator):
    """Six standard errors: no false alarm to be expected, whatever the seed."""
    outputs, free = many_rows(likelihood, rng)
    draw = likelihood.sample(outputs, free, generator)
    standard_error = draw.std(0) / math.sqrt(len(draw))
    assert (draw.mean(0) - likelihood.mean(outputs, free)[0]).abs().le(6 * standard_error).all()


@each(CONTINUOUS)
def test_sample_follows_the_density(likelihood, rng, generator):
    outputs, free = many_rows(likelihood, rng)
    uniform = scipy_distribution(likelihood, outputs, free).cdf(likelihood.sample(outputs, free, generator).numpy())
    for j in range(3):
        assert stats.kstest(uniform[:, j], "uniform").pvalue > 1e-7


@each(DISCRETE)
def test_sample_follows_the_mass(likelihood, rng, generator):
    outputs, free = many_rows(likelihood, rng)
    draw = likelihood.sample(outputs, free, generator).numpy()
    for code in range(8):
        mass = scipy_mass(likelihood, code, outputs[:1], free)
        margin = 6 * np.sqrt(mass * (1 - mass) / len(draw)) + 6 / len(draw)
        assert (np.abs((draw == code).mean(0) - mass) <= margin).all()


@each(CASES)
def test_sample_uses_the_generator_alone(likelihood, rng):
    outputs, free = draw_parameters(likelihood, rng)
    before = torch.get_rng_state()
    draws = [likelihood.sample(outputs, free, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(before, torch.get_rng_state())


@each(CASES)
def test_sample_lies_in_the_domain(likelihood, rng, generator):
    outputs, free = draw_parameters(likelihood, rng, n_samples=50)
    draw = likelihood.sample(outputs, free, generator)
    for index in range(likelihood.n_columns):
        likelihood.check(draw[:, index], "draw", index=index)


# -- small, large, and other types


@each(CASES)
def test_float32_stays_float32(likelihood, rng, generator):
    outputs, free = (tensor.float() for tensor in draw_parameters(likelihood, rng))
    x = draw_x(likelihood, rng, (5,)).float()
    with torch.no_grad():
        results = [*likelihood.loss_gradient(x, outputs, free, torch.ones(5), torch.ones_like(x, dtype=torch.bool))]
        results += [*likelihood.loss_gradient(x, outputs, free)]
    results += [likelihood.log_prob(x, outputs, free), likelihood.mean(outputs, free)]
    results += [likelihood.sample(outputs, free, generator)]
    results += [likelihood.scale(outputs, free)] if likelihood.has_scale else []
    assert {result.dtype for result in results} == {torch.float32}


@each(FAMILIES)
def test_one_row_of_one_column(likelihood, rng):
    part = sub_likelihood(likelihood, [0])
    x = draw_x(part, rng, (1,))
    outputs, free = draw_parameters(part, rng, n_samples=1)
    np.testing.assert_allclose(part.log_prob(x, outputs, free), scipy_log_prob(part, x, outputs, free), rtol=1e-9)
    with torch.no_grad():
        loss, d_outputs, d_free = part.loss_gradient(x, outputs, free)
    assert (loss.shape, d_outputs.shape, d_free.shape) == ((), outputs.shape, free.shape)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@each(CASES)
def test_huge_float32_outputs_stay_finite(likelihood, sign, rng, generator):
    """1e12, because its square, divided by the squared floor and summed, still fits into float32."""
    x = draw_x(likelihood, rng, (5,)).float()
    outputs = torch.full((5, likelihood.n_outputs), sign * 1e12)
    free = torch.tensor(likelihood.initial_free())
    with torch.no_grad():
        results = [*likelihood.loss_gradient(x, outputs, free), likelihood.log_prob(x, outputs, free)]
    results += [likelihood.mean(outputs, free), likelihood.sample(outputs, free, generator)]
    for result in results:
        assert result.isfinite().all()


# -- configuration


@each(CASES)
def test_config_round_trip_through_json(likelihood):
    copy = make_likelihood(json.loads(json.dumps(likelihood.config())))
    assert type(copy) is type(likelihood)
    assert copy == likelihood
    assert hash(copy) == hash(likelihood)
    assert vars(copy).keys() == vars(likelihood).keys()
    assert (copy.n_columns, copy.n_outputs, copy.n_free) == (
        likelihood.n_columns,
        likelihood.n_outputs,
        likelihood.n_free,
    )


def test_config_holds_plain_numbers():
    likelihoods = [Gaussian(np.int64(2), floor=np.float64(0.5)), Categorical(np.array([2, 3]))]
    assert json.dumps([likelihood.config() for likelihood in likelihoods]) == (
        '[{"name": "gaussian", "n_columns": 2, "scale": "constant", "floor": 0.5}, '
        '{"name": "categorical", "n_levels": [2, 3]}]'
    )


def test_likelihoods_of_other_configuration_differ():
    assert Gaussian(2) != Gaussian(3)
    assert Gaussian(2) != Bernoulli(2)
    assert Gaussian(2) != "gaussian"


@each(CASES)
def test_initial_free_has_one_value_per_free_parameter(likelihood):
    assert len(likelihood.initial_free()) == likelihood.n_free
    assert all(type(value) is float for value in likelihood.initial_free())


def test_student_t_starts_at_ten_degrees_of_freedom():
    """The variance of a t distribution is df / (df - 2) times its squared scale: 10 / 8 here."""
    likelihood = StudentT(1, floor=0.0)
    free = torch.tensor(likelihood.initial_free(), dtype=torch.float64)
    scale = likelihood.scale(torch.zeros(1, 1, dtype=torch.float64), free)
    np.testing.assert_allclose(scale, [[math.sqrt(1.25)]], rtol=1e-12)


def test_shared_scale_of_a_linear_model_is_the_root_of_the_mean_variance():
    """Columns of variance 1 and 7 share 2, the root of their mean 4."""
    likelihood = Gaussian(2, scale="shared", floor=0.0)
    free = likelihood.linear_free(torch.tensor([1.0, 7.0], dtype=torch.float64))
    scale = likelihood.scale(torch.zeros(1, 2, dtype=torch.float64), free)
    np.testing.assert_allclose(scale, [[2.0, 2.0]], rtol=1e-12)


SCATTERED = ColumnGroups([Gaussian(2), Categorical([3, 2]), Poisson(1)], [[1, 4], [0, 3], [2]])
SUCCESSIVE = ColumnGroups([Gaussian(2), Categorical([3, 2]), Poisson(1)])
ORDER = [1, 4, 0, 3, 2]  # the columns, group after group


def test_scattered_groups_are_successive_ones_in_another_order(rng, generator):
    x = torch.empty(5, 5, dtype=torch.float64)
    x[:, ORDER] = draw_x(SUCCESSIVE, rng, (5,))
    mask = torch.tensor(rng.uniform(size=(5, 5)) < 0.7)
    outputs, free = draw_parameters(SUCCESSIVE, rng)
    log_prob = SUCCESSIVE.log_prob(x[:, ORDER], outputs, free, mask[:, ORDER])
    torch.testing.assert_close(SCATTERED.log_prob(x, outputs, free, mask)[:, ORDER], log_prob)
    for name in ("mean", "scale", "expected_log_prob"):
        got, wanted = (getattr(one, name)(outputs, free) for one in (SCATTERED, SUCCESSIVE))
        torch.testing.assert_close(got[:, ORDER], wanted, equal_nan=True)
    with torch.no_grad():
        given = {"row_weight": torch.tensor(rng.uniform(size=5))}
        got = SCATTERED.loss_gradient(x, outputs, free, mask=mask, **given)
        wanted = SUCCESSIVE.loss_gradient(x[:, ORDER], outputs, free, mask=mask[:, ORDER], **given)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)
    drawn = SCATTERED.sample(outputs, free, generator)
    assert ((drawn[:, 0] >= 0) & (drawn[:, 0] < 3)).all()
    assert make_likelihood(SCATTERED.config()) == SCATTERED
    assert SCATTERED != SUCCESSIVE
    SCATTERED.check(np.array([2.0]), "k", index=0)
    with pytest.raises(ValueError, match="'k' must hold integer codes from 0 to 1"):
        SCATTERED.check(np.array([2.0]), "k", index=3)


def test_expectations_are_means_and_probabilities_in_the_order_of_the_columns(rng):
    outputs, free = draw_parameters(SUCCESSIVE, rng)
    assert SCATTERED.widths == (3, 1, 1, 2, 1)
    expected = SCATTERED.expected(outputs, free)
    first, second = (block.softmax(-1) for block in (outputs[:, 2:5], outputs[:, 5:7]))
    wanted = torch.cat([first, outputs[:, :1], outputs[:, 7:].exp(), second, outputs[:, 1:2]], dim=1)
    torch.testing.assert_close(expected, wanted)
    torch.testing.assert_close(SCATTERED.cells(expected), SCATTERED.mean(outputs, free))


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)], ids=["rows", "draws", "draws of networks"])
@each(CASES | {"scattered": ColumnGroups([Categorical([3, 2]), Gaussian(2)], [[3, 0], [1, 2]])})
def test_expectations_beside_known_cells_are_those_of_the_others(likelihood, lead, rng):
    """To the bit, where a column is unknown in all rows, in some or in none; columns are independent here."""
    outputs, free = draw_parameters(likelihood, rng, lead=lead)
    x = torch.zeros(5, likelihood.n_columns, dtype=torch.float64)
    x[rng.random(x.shape) < 0.5] = torch.nan
    x[:, 0], x[:, 1] = torch.nan, 0.0
    unknown = x.isnan().repeat_interleave(torch.tensor(likelihood.widths), dim=1).expand(*lead, -1, -1)
    beside, expected = likelihood.expected_beside(x, outputs, free), likelihood.expected(outputs, free)
    assert beside.shape == expected.shape
    torch.testing.assert_close(beside[unknown], expected[unknown], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("lead", [(), (2, 3)], ids=["rows", "draws of networks"])
def test_neighbours_of_as_many_levels_are_as_alone(lead, dtype, rng):
    """To the bit: one call for all of them, or one for each."""
    n_levels = [2, 2, 2, 5, 3, 3, 1, 20, 20]
    outputs = torch.tensor(rng.normal(size=(*lead, 16, sum(n_levels)))).to(dtype)
    x, free = torch.tensor(rng.integers(0, n_levels, (16, 9))).to(dtype), torch.zeros(0, dtype=dtype)
    alone = list(zip(map(Categorical, [[n] for n in n_levels]), outputs.split(n_levels, -1), strict=True))
    together = Categorical(n_levels)
    for verb in ("expected", "mean"):
        parts = torch.cat([getattr(one, verb)(part, free) for one, part in alone], -1)
        assert torch.equal(getattr(together, verb)(outputs, free), parts)
    parts = [one.log_prob(x[:, [column]], part, free) for column, (one, part) in enumerate(alone)]
    assert torch.equal(together.log_prob(x, outputs, free), torch.cat(parts, -1))


def test_linear_start_of_scattered_groups():
    """To first order in z the expectations are the linear model's, where the links let them be."""
    mean = torch.tensor([0.2, 0.3, 0.5, 1.0, 3.0, 0.4, 0.6, -2.0])
    loadings = torch.tensor([[0.02, -0.01, -0.01, 0.5, 0.3, 0.05, -0.05, 0.7]])
    bias, weight = SCATTERED.linear_outputs(mean, loadings)
    free = SCATTERED.linear_free(torch.full((8,), 0.25))
    torch.testing.assert_close(SCATTERED.expected(bias.unsqueeze(0), free)[0], mean)
    step = 1e-3
    slope = (SCATTERED.expected((bias + step * weight[0]).unsqueeze(0), free)[0] - mean) / step
    torch.testing.assert_close(slope, loadings[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(free, torch.full((2,), math.log(0.5)))


def test_columns_of_groups_must_be_each_once():
    message = (
        "columns must hold each of the 3 columns once, as many for each group as it describes, but [(0, 1), (1,)] "
        "came. Leave 'columns' out where the groups follow each other."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ColumnGroups([Gaussian(2), Poisson(1)], [[0, 1], [1]])


def test_column_groups_scale_is_nan_where_a_group_has_none():
    likelihood = ColumnGroups([Gaussian(1, scale="unit"), Bernoulli(2)])
    scale = likelihood.scale(torch.zeros(1, 3), torch.zeros(0))
    np.testing.assert_array_equal(scale, [[1.0, math.nan, math.nan]])


# -- domains and messages

ENCODE = "Use 'gaussian', or encode the column first."
ORDINAL = "Encode the column with OrdinalEncoder first."
MISSING = "Remove the row, or set the cell to NaN to mark it as missing."


@pytest.mark.parametrize(
    ("likelihood", "column", "message"),
    [
        pytest.param(
            Gaussian(1),
            [1.0, np.nan, np.inf],
            f"Column 'age' must hold finite numbers for likelihood 'gaussian', but row 2 holds inf. {MISSING}",
            id="gaussian",
        ),
        pytest.param(
            StudentT(1),
            [-np.inf],
            f"Column 'age' must hold finite numbers for likelihood 'student_t', but row 0 holds -inf. {MISSING}",
            id="student_t",
        ),
        pytest.param(
            Bernoulli(1),
            [0.0, 0.5, 1.0, 3.0, -1.0],
            f"Column 'age' must lie in [0, 1] for likelihood 'bernoulli', but row 3 holds 3.0. {ENCODE}",
            id="bernoulli",
        ),
        pytest.param(
            Categorical([3]),
            [2, 0, 3],
            "Column 'age' must hold integer codes from 0 to 2 for likelihood 'categorical', "
            f"but row 2 holds 3. {ORDINAL}",
            id="categorical",
        ),
        pytest.param(
            Categorical([3]),
            [0.5],
            "Column 'age' must hold integer codes from 0 to 2 for likelihood 'categorical', "
            f"but row 0 holds 0.5. {ORDINAL}",
            id="categorical-half",
        ),
        pytest.param(
            Poisson(1),
            [1.0, 1.5],
            f"Column 'age' must hold integers of at least 0 for likelihood 'poisson', but row 1 holds 1.5. {ENCODE}",
            id="poisson",
        ),
        pytest.param(
            NegativeBinomial(1),
            [np.nan, -1.0],
            "Column 'age' must hold integers of at least 0 for likelihood 'negative_binomial', "
            f"but row 1 holds -1.0. {ENCODE}",
            id="negative_binomial",
        ),
    ],
)
@pytest.mark.parametrize("kind", [np.array, torch.tensor], ids=["array", "tensor"])
def test_check_names_column_row_and_value(likelihood, column, message, kind):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        likelihood.check(kind(column), "age")


@each(CASES)
def test_check_accepts_the_domain_and_missing_values(likelihood, rng):
    """Read-only, as a memory map is: torch would warn about sharing it."""
    x = draw_x(likelihood, rng, (6,)).numpy()
    x[2] = np.nan
    x.flags.writeable = False
    for index in range(likelihood.n_columns):
        likelihood.check(x[:, index], "x", index=index)


def test_check_accepts_grey_values_for_bernoulli():
    Bernoulli(1).check(np.array([0.0, 0.25, 1.0]), "grey")


def test_check_asks_the_group_of_the_column():
    likelihood = ColumnGroups([Gaussian(1), Categorical([2, 4])])
    likelihood.check(np.array([3.0]), "colour", index=2)
    message = (
        "Column 'colour' must hold integer codes from 0 to 1 for likelihood 'categorical', but row 0 holds 3.0. "
        "Encode the column with OrdinalEncoder first."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        likelihood.check(np.array([3.0]), "colour", index=1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(
            lambda: Poisson(0), "n_columns must be at least 1, but 0 came. Leave an empty group out.", id="n_columns"
        ),
        pytest.param(
            lambda: ColumnGroups([]),
            "n_columns must be at least 1, but 0 came. Leave an empty group out.",
            id="no-group",
        ),
        pytest.param(
            lambda: Gaussian(2, scale="learned"),
            "scale must be one of 'unit', 'shared', 'constant', 'dependent' for likelihood 'gaussian', "
            "but 'learned' came. Pick one.",
            id="scale-gaussian",
        ),
        pytest.param(
            lambda: StudentT(2, scale="unit"),
            "scale must be one of 'shared', 'constant', 'dependent' for likelihood 'student_t', but 'unit' came. "
            "Pick one.",
            id="scale-student_t",
        ),
        pytest.param(
            lambda: Gaussian(2, floor=-1.0),
            "floor must be finite and at least 0, but -1.0 came. The default is 0.02.",
            id="floor",
        ),
        pytest.param(
            lambda: Categorical([2, 0]),
            "n_levels must be at least 1 for each column, but [2, 0] came. Drop the column.",
            id="n_levels",
        ),
        pytest.param(
            lambda: make_likelihood({"name": "gausian", "n_columns": 2}),
            "The name of a likelihood must be one of 'gaussian', 'student_t', 'bernoulli', 'categorical', 'poisson', "
            "'negative_binomial', but 'gausian' came. Pick one of them.",
            id="name",
        ),
        pytest.param(
            lambda: ColumnGroups([Gaussian(1), Poisson(2)]).check(np.zeros(1), "x", index=5),
            "index must be below n_columns=3, but 5 came. Count the columns of all groups from 0.",
            id="index",
        ),
    ],
)
def test_bad_arguments_say_what_to_do(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        pytest.param(
            Poisson(2),
            "scale needs a likelihood with a scale of its own, but 'poisson' has none. Ask has_scale first.",
            id="poisson",
        ),
        pytest.param(
            ColumnGroups([Bernoulli(1), Poisson(1)]),
            "scale needs a likelihood with a scale of its own, but 'column_groups' has none. Ask has_scale first.",
            id="groups",
        ),
    ],
)
def test_scale_refuses_where_there_is_none(likelihood, message, rng):
    assert not likelihood.has_scale
    with pytest.raises(NotImplementedError, match=f"^{re.escape(message)}$"):
        likelihood.scale(*draw_parameters(likelihood, rng))
