"""The losses against densities by torch and scikit-learn, and the linear models that modules start at."""

import numpy as np
import pytest
import torch
from networks import (
    CONFIGS,
    KINDS,
    N_COMPONENTS,
    N_FEATURES,
    N_ROWS,
    make_batch,
    make_mixtures,
    make_module,
    several_draws,
)
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA, FactorAnalysis
from torch.distributions import Independent, MixtureSameFamily, Normal

from skvae._densities.latent import LatentMixture
from skvae._densities.mixture import DiagonalMixture
from skvae._networks import modules, starts
from skvae._networks.modules import Batch
from skvae._networks.starts import factor_analysis_start, pca_start
from skvae._support.numerics import Affine
from skvae.likelihoods import (
    LIKELIHOODS,
    Gaussian,
    NegativeBinomial,
)

each_kind = pytest.mark.parametrize("kind", KINDS)
each_likelihood = pytest.mark.parametrize("likelihood", CONFIGS.values(), ids=CONFIGS)
each_count = pytest.mark.parametrize("n_networks", [1, 3])


def assert_same(actual, expected):
    """Measured with the seeds 0 to 3: at most 1e-13."""
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_every_likelihood_has_a_configuration():
    assert set(LIKELIHOODS) <= {likelihood.config()["name"] for likelihood in CONFIGS.values()}


def test_loss_with_a_standard_mixture_is_that_without_on_average(draw):
    """The KL from N(0, I), estimated by draws; measured with the seeds 0 to 3: at most 0.006 away."""
    module = make_module("vae", CONFIGS["gaussian constant"])
    module.flat.data.copy_(0.3 * draw(len(module.flat)))
    batch = make_batch(module, draw)
    n_draws = 20_000
    many = Batch(*(part.repeat(n_draws, 1) for part in batch[:2]), noise=draw(n_draws * N_ROWS, N_COMPONENTS))
    exact = module.loss(many)
    standard = DiagonalMixture(torch.ones(1), torch.zeros(1, N_COMPONENTS), torch.ones(1, N_COMPONENTS))
    module.set_prior([standard])
    assert float((module.loss(many) - exact).detach().abs()) / len(many.x) < 0.02


def differentiated(module, batch):
    """Loss of each network and the gradient of their sum, by autograd."""
    loss = module.loss(batch)
    return loss.detach(), torch.autograd.grad(loss.sum(), module.flat)[0]


@pytest.mark.parametrize(("kind", "n_draws"), [("autoencoder", 1), ("vae", 1), ("vae", 3)])
@each_count
def test_dropout_of_nothing_and_of_everything(kind, n_draws, n_networks, draw):
    """Factors of one change nothing; factors of zero leave the linear path, whose hidden weights get no gradient."""
    likelihood = CONFIGS["gaussian constant"]
    module, linear = make_module(kind, likelihood, n_networks), make_module(kind, likelihood, n_networks, hidden=())
    module.flat.data.copy_(0.5 * draw(len(module.flat)))
    batch = several_draws(make_batch(module, draw), draw, n_draws)
    lead = batch.x.shape[:-1]
    ones, zeros = ([torch.full((*lead, 5), value, dtype=torch.float64)] for value in (1.0, 0.0))
    whole = differentiated(module, batch._replace(dropout=(ones, ones)))
    assert_same(whole, differentiated(module, batch))

    for to, source in zip(linear.parts(linear.flat.data)[:2], module.parts(module.flat.data)[:2], strict=True):
        to.skip.copy_(source.skip)
        to.biases[-1].copy_(source.biases[-1])
    linear.parts(linear.flat.data)[2].copy_(module.parts(module.flat.data)[2])
    loss, gradient = differentiated(module, batch._replace(dropout=(zeros, zeros)))
    expected_loss, expected = differentiated(linear, batch)
    assert_same([loss], [expected_loss])
    for got, wanted in zip(module.parts(gradient)[:2], linear.parts(expected)[:2], strict=True):
        assert_same([got.skip, got.biases[-1]], [wanted.skip, wanted.biases[-1]])
        assert not any(weight.any() for weight in got.weights)


@pytest.mark.parametrize(("kind", "n_draws"), [("autoencoder", 1), ("vae", 1), ("vae", 3)])
@each_count
def test_dropping_a_unit_is_a_module_without_it(kind, n_draws, n_networks, draw):
    """A factor f is the weights behind a unit times f, if all rows have it."""
    module = make_module(kind, CONFIGS["gaussian dependent"], n_networks, hidden=(5, 4))
    module.flat.data.copy_(0.5 * draw(len(module.flat)))
    batch = several_draws(make_batch(module, draw), draw, n_draws)
    nets = (module.encoder, module.decoder)
    factors = [[torch.tensor([0.0, 1.25, 0.0, 1.25, 1.25])[:width].double() for width in net.hidden] for net in nets]
    rows = [[factor.expand(*batch.x.shape[:-1], -1) for factor in group] for group in factors]
    with torch.no_grad():
        dropped = module.loss(batch._replace(dropout=tuple(rows)))
        for parameters, group in zip(module.parts()[:2], factors, strict=True):
            for weight, factor in zip(parameters.weights[1:], group, strict=True):
                weight.mul_(factor.unsqueeze(-1))
        assert_same([dropped], [module.loss(batch)])


@each_kind
@each_likelihood
def test_loss_adds_rows_and_weights_them(kind, likelihood, draw):
    module = make_module(kind, likelihood)
    module.flat.data.copy_(0.5 * draw(len(module.flat)))
    batch = make_batch(module, draw, weighted=True)

    def alone(row):
        noise = None if batch.noise is None else batch.noise[[row]]
        return module.loss(Batch(batch.x[[row]], batch.inputs[[row]], None, None, noise), 0.4)

    with torch.no_grad():
        losses = torch.stack([alone(row) for row in range(N_ROWS)])
        assert_same([module.loss(batch, 0.4)], [losses @ batch.weight])
        assert_same([module.loss(batch._replace(weight=None), 0.4)], [losses.sum()])


@each_likelihood
def test_vae_loss_is_linear_in_the_kl(likelihood, draw):
    """Its slope is the divergence of torch.distributions."""
    module = make_module("vae", likelihood)
    module.flat.data.copy_(0.5 * draw(len(module.flat)))
    batch = make_batch(module, draw)
    with torch.no_grad():
        mean, log_variance = module.posterior(batch.inputs)
        posterior = Normal(mean, (0.5 * log_variance).exp())
        kl = torch.distributions.kl_divergence(posterior, Normal(0.0, 1.0)).sum()
        assert_same([module.loss(batch, 2.0) - module.loss(batch, 0.5)], [1.5 * kl])


@each_likelihood
def test_log_weights_equal_torch_distributions(likelihood, draw):
    module = make_module("vae", likelihood)
    module.flat.data.copy_(0.5 * draw(len(module.flat)))
    x, noise = make_batch(module, draw).x, draw(4, 1, N_COMPONENTS)
    with torch.no_grad():
        mean, log_variance = module.posterior(x)
        posterior = Normal(mean, (0.5 * log_variance).exp())
        z = posterior.mean + posterior.stddev * noise
        log_prob = likelihood.log_prob(x, module.decode(z), module.parts()[2]).sum(-1)
        expected = log_prob + Normal(0.0, 1.0).log_prob(z).sum(-1) - posterior.log_prob(z).sum(-1)
        weights = module.log_weights(x, x, noise)
    assert weights.shape == (4, N_ROWS)
    assert_same([weights], [expected])


@each_likelihood
@torch.no_grad()
def test_frozen_module_weighs_draws_as_it_is(likelihood, draw, monkeypatch):
    """In buffers of its own, several draws at a time: all at once, one by one, and with a shorter last part."""
    module = make_module("vae", likelihood, hidden=(5, 4))
    module.flat.data.copy_(0.3 * draw(len(module.flat)))
    x = make_batch(module, draw).x
    noise = draw(7, 1, N_COMPONENTS)
    expected = module.log_weights(x, x, noise)
    width = max(*module.decoder.hidden, module.decoder.n_outputs)
    for n_at_once in (7, 1, 3):
        monkeypatch.setattr(modules, "_DRAWN_CELLS", n_at_once * N_ROWS * width)
        torch.testing.assert_close(module.with_buffers().log_weights(x, x, noise), expected)


@torch.no_grad()
def test_buffers_for_passes_are_bounded_and_change_no_result(draw, monkeypatch):
    """Of whatever numbers of rows a model is asked for, with one copy of the weights."""
    module = make_module("autoencoder", Gaussian(N_FEATURES, scale="unit"))
    module.flat.data.copy_(draw(len(module.flat)))
    after = Affine(draw(N_FEATURES, 3), draw(3))
    monkeypatch.setattr(modules, "_MAX_CELLS", 40 * N_FEATURES)
    held = module.with_buffers()
    assert held.with_buffers() is held
    for n_rows in (16, 32, 16, 64, 64, 16, 48):
        x = draw(n_rows, N_FEATURES)
        torch.testing.assert_close(held.encode(x).clone(), module.encode(x))
        z = draw(n_rows, N_COMPONENTS)
        torch.testing.assert_close(held.decode(z).clone(), module.decode(z))
        torch.testing.assert_close(held.decode(z, after), module.decode(z, after))
        rows = {key[1] for key in held._programs}
        assert n_rows in rows
        assert sum(rows - {n_rows}) <= 40
    assert len(held._packed) == 3


@torch.no_grad()
@pytest.mark.parametrize("with_buffers", [False, True])
@pytest.mark.parametrize("n_rows", [1, 16, 64])
@pytest.mark.parametrize("likelihood", CONFIGS.values(), ids=CONFIGS)
def test_cells_are_filled_ten_times_over(likelihood, n_rows, with_buffers, draw):
    """However few rows still move: those whose levels stay are as they would have been."""
    module = make_module("autoencoder", likelihood)
    module.flat.data.copy_(2.0 * draw(len(module.flat)))
    x = (draw(n_rows, N_FEATURES) > 0).double()
    x[draw(n_rows, N_FEATURES) > 0.5] = torch.nan
    x[0] = torch.nan
    expected = x
    for _ in range(10):
        outputs = module.decode(module.encode_inputs(module.layer(expected)))
        expected = torch.where(x.isnan(), likelihood.mean(outputs, module.free()), x)
    found = (module.with_buffers() if with_buffers else module).inputs(x)
    torch.testing.assert_close(found, module.layer(expected))


def bound_by_distributions(module, batch, prior):
    """log of the mean weight, from torch's distributions, one row and draw after the other."""
    bounds = []
    for row in range(N_ROWS):
        mean, log_variance = module.posterior(batch.inputs[row : row + 1])
        posterior = Normal(mean[0], (0.5 * log_variance[0]).exp())
        log_weights = []
        for part in batch.noise[row].split(N_COMPONENTS):
            z = posterior.mean + posterior.stddev * part
            outputs = module.decode(z.unsqueeze(0))
            scale = module.likelihood.scale(outputs, module.parts()[2])[0]
            log_weights.append(
                Normal(outputs[0, :N_FEATURES], scale).log_prob(batch.x[row]).sum()
                + prior.log_prob(z)
                - posterior.log_prob(z).sum()
            )
        bounds.append(torch.stack(log_weights).exp().mean().log())
    return torch.stack(bounds)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_draws", [2, 5])
@pytest.mark.parametrize("mixed", [False, True], ids=["normal", "mixture"])
def test_loss_of_several_draws_is_the_bound(n_draws, weighted, mixed, draw):
    """It and its gradient by torch's distributions, for the same draws; the weight of the KL has no part in it."""
    module = make_module("vae", CONFIGS["gaussian constant"])
    module.flat.data.copy_(0.3 * draw(len(module.flat)))
    batch = several_draws(make_batch(module, draw, weighted=weighted), draw, n_draws)
    prior = Independent(Normal(torch.zeros(N_COMPONENTS).double(), 1.0), 1)
    if mixed:
        module.set_prior([mixture := make_mixtures(draw, 1)[0]])
        parts = Independent(Normal(mixture.means, mixture.variances.sqrt()), 1)
        prior = MixtureSameFamily(torch.distributions.Categorical(mixture.weights), parts)
    bounds = bound_by_distributions(module, batch, prior)
    expected = -(bounds if batch.weight is None else bounds * batch.weight).sum()
    assert_same([module.loss(batch, 0.3).detach()], [expected.detach()])
    gradients = [torch.autograd.grad(loss, module.flat)[0] for loss in (module.loss(batch), expected)]
    assert_same(gradients[:1], gradients[1:])


@pytest.mark.parametrize("mixed", [False, True], ids=["normal", "mixture"])
def test_bound_of_several_networks_is_that_of_each(mixed, draw):
    module = make_module("vae", CONFIGS["gaussian constant"], 3)
    module.flat.data.copy_(0.3 * draw(len(module.flat)))
    module.set_prior(make_mixtures(draw, 3) if mixed else None)
    batch = several_draws(make_batch(module, draw), draw, 4)
    alone = [
        module.network(index).loss(Batch(batch.x[index], batch.inputs[index], noise=batch.noise[index]))
        for index in range(3)
    ]
    torch.testing.assert_close(module.loss(batch), torch.stack(alone))


def test_bound_of_more_draws_is_tighter(draw):
    """On average; as the mean over 2,000 draws of the noise of six rows. One draw has the closed form of the KL."""
    module = make_module("vae", CONFIGS["gaussian constant"])
    module.flat.data.copy_(0.3 * draw(len(module.flat)))
    x = make_batch(module, draw).x.repeat(2000, 1)
    losses = [
        float(module.loss(Batch(x, x, noise=draw(len(x), N_COMPONENTS * n_draws))).detach()) for n_draws in (1, 4, 16)
    ]
    assert losses[0] > losses[1] > losses[2]


@each_kind
@each_likelihood
def test_networks_side_by_side_equal_single_ones(kind, likelihood, draw):
    several = make_module(kind, likelihood, 3)
    several.flat.data.copy_(0.5 * draw(len(several.flat)))
    batch = make_batch(several, draw, weighted=True)
    with torch.no_grad():
        losses = several.loss(batch, 0.8)
        for index in range(3):
            single = several.network(index)
            assert single.n_networks == 1
            own = Batch(*(None if part is None else part[index] for part in batch[:5]))
            assert_same([single.loss(own, 0.8)], [losses[index]])
            assert_same([single.reconstruct(own.inputs)], [several.reconstruct(batch.inputs)[index]])


def test_converted_changes_the_precision_only(draw):
    module = make_module("vae", CONFIGS["gaussian constant"])
    module.flat.data.copy_(draw(len(module.flat)))
    assert module.converted(torch.float64) is module
    other = module.converted(torch.float32)
    assert other.flat.dtype == torch.float32
    assert torch.equal(other.flat.data, module.flat.data.float())


def test_a_learned_prior_comes_along(draw):
    """Each network has its own; every copy in its own precision."""
    module = make_module("vae", CONFIGS["gaussian constant"], 3)
    module.flat.data.copy_(draw(len(module.flat)))
    mixtures, z = make_mixtures(draw, 3), draw(3, 7, N_COMPONENTS)
    module.set_prior(mixtures)
    expected = torch.stack([LatentMixture.of(mixture).log_prob(own) for mixture, own in zip(mixtures, z, strict=True)])
    for index in range(3):
        assert_same([module.network(index).prior.log_prob(z[index])], [expected[index]])
        single = module.network(index).converted(torch.float32).prior.log_prob(z[index].float())
        torch.testing.assert_close(single, expected[index].float(), rtol=1e-4, atol=1e-4)
    for other in (module.copied(), module.converted(torch.float32).converted(torch.float64)):
        assert_same([other.prior.log_prob(z)], [expected])
        other.set_prior(None)
    assert module.prior.mixtures == mixtures
    module.set_prior(None)
    assert module.network(1).prior is None
    assert module.converted(torch.float32).prior is None


def test_a_copy_has_its_own_parameters(draw):
    module = make_module("vae", CONFIGS["gaussian constant"])
    module.flat.data.copy_(draw(len(module.flat)))
    other = module.copied()
    assert torch.equal(other.flat, module.flat)
    other.flat.data.zero_()
    assert module.flat.any()


# --- Starts: the linear models that a module begins at --------------------------------------------------------------


@pytest.fixture
def table(seed):
    """300 rows of 6 correlated columns of about unit scale, with three factors and noise."""
    rng = np.random.default_rng(seed)
    loadings = rng.standard_normal((3, 6))
    return rng.standard_normal((300, 3)) @ loadings + rng.uniform(0.3, 0.8, 6) * rng.standard_normal((300, 6)) + 1.0


def started(kind, likelihood, X, n_components, n_networks=1, seeds=(5,), hidden=(7,)):
    module = make_module(kind, likelihood, n_networks, hidden, n_components, torch.float32)
    start = {"autoencoder": pca_start, "vae": factor_analysis_start}[kind]
    linear = start(torch.from_numpy(X), n_components, np.random.RandomState(0))
    module.start(linear, [torch.Generator().manual_seed(seed) for seed in seeds])
    return module


@each_count
@pytest.mark.parametrize("likelihood", [Gaussian(6, scale="unit"), Gaussian(6, scale="dependent")], ids=repr)
def test_autoencoder_starts_at_pca(n_networks, likelihood, table):
    module = started("autoencoder", likelihood, table, 3, n_networks, range(n_networks))
    pca = PCA(3).fit(table)
    expected = pca.inverse_transform(pca.transform(table))
    with torch.no_grad():
        actual = module.reconstruct(torch.from_numpy(table).float())
    # Measured with the seeds 0 to 3: at most 1.2e-6, the rounding of float32.
    np.testing.assert_allclose(actual.numpy(), np.broadcast_to(expected, actual.shape), atol=2e-5)


@pytest.mark.parametrize("n_draws", [1, 5])
def test_vae_starts_at_factor_analysis(n_draws, table, draw):
    """There the posterior is exact, so every draw's log-weight is the log-density of the row.

    It is factor analysis' with correlations shrunk, by so little here that they are all but the same.
    """
    module = started("vae", Gaussian(6, floor=0.0), table, 3).converted(torch.float64)
    x = torch.from_numpy(table)
    with torch.no_grad():
        actual = module.log_weights(x, x, draw(n_draws, 1, 3))
    shrinkage = starts.Moments.of(x).shrinkage(x)
    assert shrinkage < 0.1
    covariance = FactorAnalysis(3).fit(table).get_covariance()
    covariance = (1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance))
    expected = multivariate_normal.logpdf(table, table.mean(axis=0), covariance)
    # Measured with the seeds 0 to 3: at most 2.9e-6 nats, from parameters rounded to float32.
    np.testing.assert_allclose(actual.numpy(), np.broadcast_to(expected, actual.shape), atol=5e-5)


def test_vae_start_leaves_free_parameters_that_are_no_scale(table):
    """The dispersion of counts is not the noise of factor analysis."""
    likelihood = NegativeBinomial(6)
    module = started("vae", likelihood, np.floor(np.abs(table)), 2)
    assert module.parts()[2].tolist() == likelihood.initial_free()


@each_kind
def test_networks_start_as_single_ones_do(kind, table):
    """The same linear part and hidden weights of their own, each from its own seed."""
    likelihood = Gaussian(6)
    several = started(kind, likelihood, table, 2, 3, seeds=(3, 4, 3))
    singles = [started(kind, likelihood, table, 2, seeds=[seed]).flat for seed in (3, 4, 3)]
    for index, single in enumerate(singles):
        assert torch.equal(several.network(index).flat, single)
    assert not torch.equal(singles[0], singles[1])


def test_the_only_network_is_the_module_itself():
    """A copy of a wide table's parameters would be as large as the table."""
    module = make_module("vae", CONFIGS["gaussian constant"])
    assert module.network(0) is module
