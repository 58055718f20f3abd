"""The hand-written steps against autograd of the losses, and the losses against densities by torch and sklearn."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from torch.distributions import Normal

from skvae._densities.latent import MixturePrior
from skvae._densities.mixture import DiagonalMixture
from skvae._networks import modules
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import LOG_VARIANCE_RANGE, AutoencoderModule, Batch, VAEModule
from skvae._networks.starts import factor_analysis_start, pca_start
from skvae._training.loop import bound_loss
from skvae._training.steps import Engine
from skvae.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    ColumnGroups,
    Gaussian,
    NegativeBinomial,
    Poisson,
    StudentT,
)

N_ROWS, N_FEATURES, N_COMPONENTS = 6, 3, 2
KINDS = {"autoencoder": AutoencoderModule, "vae": VAEModule}
CONFIGS = {
    "gaussian unit": Gaussian(3, scale="unit"),
    "gaussian constant": Gaussian(3, scale="constant"),
    "gaussian shared": Gaussian(3, scale="shared"),
    "gaussian dependent": Gaussian(3, scale="dependent"),
    "student_t constant": StudentT(3, scale="constant"),
    "student_t shared": StudentT(3, scale="shared"),
    "student_t dependent": StudentT(3, scale="dependent"),
    "bernoulli": Bernoulli(3),
    "categorical": Categorical([2, 4, 3]),
    "poisson": Poisson(3),
    "negative_binomial": NegativeBinomial(3),
    "groups": ColumnGroups([Gaussian(1), Bernoulli(1), Poisson(1)]),
    "groups apart": ColumnGroups([Gaussian(2, scale="dependent"), Categorical([4])], [[0, 2], [1]]),
}

each_kind = pytest.mark.parametrize("kind", KINDS)
each_likelihood = pytest.mark.parametrize("likelihood", CONFIGS.values(), ids=CONFIGS)
each_count = pytest.mark.parametrize("n_networks", [1, 3])


@pytest.fixture
def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def draw(generator):
    """Standard normal numbers of a shape, in float64."""
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


def make_module(kind, likelihood, n_networks=1, hidden=(5,), n_components=N_COMPONENTS, dtype=torch.float64):
    heads = 2 if kind == "vae" else 1
    encoder = SkipMLP(likelihood.n_columns, heads * n_components, hidden, "tanh", n_networks)
    decoder = SkipMLP(n_components, likelihood.n_outputs, hidden[::-1], "tanh", n_networks)
    n_parameters = encoder.n_parameters + decoder.n_parameters + n_networks * likelihood.n_free
    return KINDS[kind](encoder, decoder, likelihood, torch.zeros(n_parameters, dtype=dtype))


def make_batch(module, draw, *, weighted=False, noisy=True):
    """Rows in every likelihood's domain: 0 or 1, but for the continuous families."""
    lead = () if module.n_networks == 1 else (module.n_networks,)
    x = draw(*lead, N_ROWS, N_FEATURES)
    if not isinstance(module.likelihood, Gaussian | StudentT):
        x = (x > 0).double()
    noise = draw(*lead, N_ROWS, module.n_noise) if module.n_noise and noisy else None
    weight = draw(*lead, N_ROWS).exp() if weighted else None
    return Batch(x, x + 0.1 * draw(*x.shape), weight, None, noise)


def differentiated(module, batch, kl_weight=1.0):
    """Loss of each network and the gradient of their sum, by autograd."""
    loss = module.loss(batch, kl_weight)
    return loss.detach(), torch.autograd.grad(loss.sum(), module.flat)[0]


@torch.no_grad()
def stepped(module, batch, kl_weight, **options):
    """The same by the hand-written step; what is not written stays NaN."""
    engine = Engine(module, **options)
    engine.gradient.fill_(torch.nan)
    loss = engine.step(N_ROWS)(batch, kl_weight)
    return loss.clone(), engine.unpack(engine.gradient)


def assert_same(actual, expected):
    """Measured with the seeds 0 to 3: at most 1e-13."""
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def with_gaps(batch, draw, *, empty=False):
    """The batch with missing cells; the target is NaN there. ``empty`` takes all of a row."""
    mask = draw(*batch.x.shape) > -0.5
    mask[..., 0, :] &= not empty
    return batch._replace(x=torch.where(mask, batch.x, torch.nan), mask=mask)


def bound_differentiated(module, batch):
    """`differentiated` of the importance-weighted bound."""
    loss = bound_loss(module, batch)
    return loss.detach(), torch.autograd.grad(loss.sum(), module.flat)[0]


def several_draws(batch, draw, n_draws=3):
    return batch._replace(noise=draw(*batch.x.shape[:-1], n_draws * N_COMPONENTS))


def test_every_likelihood_has_a_configuration():
    assert set(LIKELIHOODS) <= {likelihood.config()["name"] for likelihood in CONFIGS.values()}


@each_kind
@each_likelihood
@each_count
@pytest.mark.parametrize("hidden", [(), (5, 4)], ids=["linear", "deep"])
@pytest.mark.parametrize(("weighted", "kl_weight"), [(False, 1.0), (True, 0.3), (False, 0.0)])
def test_step_equals_autograd(kind, likelihood, n_networks, hidden, weighted, kl_weight, draw):
    module = make_module(kind, likelihood, n_networks, hidden)
    module.flat.data.copy_(0.5 * draw(len(module.flat)))
    batch = make_batch(module, draw, weighted=weighted)
    assert_same(stepped(module, batch, kl_weight), differentiated(module, batch, kl_weight))


@each_kind
@each_likelihood
@each_count
def test_masked_step_equals_autograd(kind, likelihood, n_networks, draw):
    """The target may be NaN where it is not observed."""
    module = make_module(kind, likelihood, n_networks)
    module.flat.data.copy_(0.5 * draw(len(module.flat)))
    batch = with_gaps(make_batch(module, draw, weighted=True), draw)
    loss, gradient = stepped(module, batch, 0.7)
    assert gradient.isfinite().all()
    assert_same((loss, gradient), differentiated(module, batch, 0.7))


@each_likelihood
@each_count
@pytest.mark.parametrize("hidden", [(), (5, 4)], ids=["linear", "deep"])
@pytest.mark.parametrize(("weighted", "gaps"), [(False, False), (True, False), (False, True), (True, True)])
def test_bound_step_equals_autograd(likelihood, n_networks, hidden, weighted, gaps, draw):
    """Of three draws; one of the rows with gaps has no value at all.

    Measured with the seeds 0 to 3: at most 1.1e-11, at numbers up to 5e3; 3.1e-15 of a gradient's largest number.
    """
    module = make_module("vae", likelihood, n_networks, hidden)
    module.flat.data.copy_(0.5 * draw(len(module.flat)))
    batch = several_draws(make_batch(module, draw, weighted=weighted), draw)
    batch = with_gaps(batch, draw, empty=True) if gaps else batch
    loss, gradient = stepped(module, batch, 1.0, n_draws=3)
    assert gradient.isfinite().all()
    assert_same((loss, gradient), bound_differentiated(module, batch))


@each_count
@pytest.mark.parametrize("weighted", [False, True])
def test_vae_step_with_a_mixture_equals_autograd(n_networks, weighted, draw):
    module = make_module("vae", CONFIGS["student_t dependent"], n_networks)
    module.flat.data.copy_(0.5 * draw(len(module.flat)))
    mixtures = [
        DiagonalMixture(draw(4).softmax(0), draw(4, N_COMPONENTS), draw(4, N_COMPONENTS).exp())
        for _ in range(n_networks)
    ]
    module.prior = MixturePrior(mixtures, module.flat)
    batch = make_batch(module, draw, weighted=weighted)
    assert_same(stepped(module, batch, 0.7), differentiated(module, batch, 0.7))


def test_loss_with_a_standard_mixture_is_that_without_on_average(draw):
    """The KL from N(0, I), estimated by draws; measured with the seeds 0 to 3: at most 0.006 away."""
    module = make_module("vae", CONFIGS["gaussian constant"])
    module.flat.data.copy_(0.3 * draw(len(module.flat)))
    batch = make_batch(module, draw)
    n_draws = 20_000
    many = Batch(*(part.repeat(n_draws, 1) for part in batch[:2]), noise=draw(n_draws * N_ROWS, N_COMPONENTS))
    exact = module.loss(many)
    standard = DiagonalMixture(torch.ones(1), torch.zeros(1, N_COMPONENTS), torch.ones(1, N_COMPONENTS))
    module.prior = MixturePrior([standard], module.flat)
    assert float((module.loss(many) - exact).detach().abs()) / len(many.x) < 0.02


@each_count
def test_vae_step_without_noise_equals_autograd(n_networks, draw):
    module = make_module("vae", CONFIGS["gaussian constant"], n_networks)
    module.flat.data.copy_(0.5 * draw(len(module.flat)))
    batch = make_batch(module, draw, noisy=False)
    assert_same(stepped(module, batch, 1.0), differentiated(module, batch, 1.0))


@each_count
@pytest.mark.parametrize("n_draws", [1, 3])
def test_clamped_log_variances_get_no_gradient(n_networks, n_draws, draw):
    """An encoder that asks for a posterior scale of e^20 or e^-20 gets the bound, and a finite loss."""
    module = make_module("vae", CONFIGS["gaussian constant"], n_networks)
    module.flat.data.copy_(0.1 * draw(len(module.flat)))
    module.parts()[0].biases[-1].data[..., N_COMPONENTS:] = torch.tensor([40.0, -40.0], dtype=torch.float64)
    batch = several_draws(make_batch(module, draw), draw, n_draws)
    loss, gradient = stepped(module, batch, 1.0, n_draws=n_draws)
    assert loss.isfinite().all()
    assert_same((loss, gradient), (differentiated if n_draws == 1 else bound_differentiated)(module, batch))
    d_encoder = module.parts(gradient)[0]
    assert not d_encoder.skip[..., N_COMPONENTS:].any()
    assert not d_encoder.biases[-1][..., N_COMPONENTS:].any()
    assert d_encoder.skip[..., :N_COMPONENTS].all()
    with torch.no_grad():
        log_variance = module.posterior(batch.inputs)[1]
    expected = torch.tensor(LOG_VARIANCE_RANGE[::-1], dtype=torch.float64).expand_as(log_variance)
    assert torch.equal(log_variance, expected)


@each_count
@pytest.mark.parametrize(("kind", "n_draws"), [("autoencoder", 1), ("vae", 1), ("vae", 3)])
def test_step_repeats_itself_to_the_bit(kind, n_draws, n_networks, draw):
    """Its buffers carry nothing from one batch to the next."""
    module = make_module(kind, CONFIGS["student_t dependent"], n_networks)
    module.flat.data.copy_(0.5 * draw(len(module.flat)))
    first, other = (several_draws(make_batch(module, draw, weighted=w), draw, n_draws) for w in (True, False))
    engine = Engine(module, n_draws=n_draws)
    with torch.no_grad():
        step = engine.step(N_ROWS)
        loss, before = step(first, 0.5).clone(), engine.gradient.clone()
        step(other, 1.0)
        assert not torch.equal(engine.gradient, before)
        assert torch.equal(step(first, 0.5), loss)
    assert torch.equal(engine.gradient, before)


@each_kind
@each_count
def test_dropout_of_nothing_and_of_everything(kind, n_networks, draw):
    """Factors of one change nothing; factors of zero leave the linear path, whose hidden weights get no gradient."""
    likelihood = CONFIGS["gaussian constant"]
    module, linear = make_module(kind, likelihood, n_networks), make_module(kind, likelihood, n_networks, hidden=())
    module.flat.data.copy_(0.5 * draw(len(module.flat)))
    batch = make_batch(module, draw)
    lead = batch.x.shape[:-1]
    ones, zeros = ([torch.full((*lead, 5), value, dtype=torch.float64)] for value in (1.0, 0.0))
    whole = stepped(module, batch._replace(dropout=(ones, ones)), 1.0, dropout=True)
    assert_same(whole, differentiated(module, batch, 1.0))

    for to, source in zip(linear.parts(linear.flat.data)[:2], module.parts(module.flat.data)[:2], strict=True):
        to.skip.copy_(source.skip)
        to.biases[-1].copy_(source.biases[-1])
    linear.parts(linear.flat.data)[2].copy_(module.parts(module.flat.data)[2])
    loss, gradient = stepped(module, batch._replace(dropout=(zeros, zeros)), 1.0, dropout=True)
    expected_loss, expected = differentiated(linear, batch, 1.0)
    assert_same([loss], [expected_loss])
    for got, wanted in zip(module.parts(gradient)[:2], linear.parts(expected)[:2], strict=True):
        assert_same([got.skip, got.biases[-1]], [wanted.skip, wanted.biases[-1]])
        assert not any(weight.any() for weight in got.weights)


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
        torch.testing.assert_close(module.frozen().log_weights(x, x, noise), expected)


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
    """There the posterior is exact, so every draw's log-weight is factor analysis' log-density of the row."""
    module = started("vae", Gaussian(6, floor=0.0), table, 3).converted(torch.float64)
    x = torch.from_numpy(table)
    with torch.no_grad():
        actual = module.log_weights(x, x, draw(n_draws, 1, 3))
    expected = FactorAnalysis(3).fit(table).score_samples(table)
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
