"""Steps where no device of theirs is: replayed ones against plain ones, and that none reads a value back."""

import pytest
import torch

from skvae._densities.latent import MixturePrior
from skvae._densities.mixture import DiagonalMixture
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import AutoencoderModule, Batch, VAEModule
from skvae._training.optimiser import Adam
from skvae._training.steps import Engine, ReplayedStep
from skvae.likelihoods import make_likelihood

N_ROWS, N_FEATURES, N_COMPONENTS = 6, 4, 2
# Kind of the model, networks side by side, draws of the posterior, dropout, weights and missing cells.
CASES = {
    "autoencoder": ("autoencoder", 1, 1, 0.0, False),
    "weighted autoencoder with gaps": ("autoencoder", 1, 1, 0.0, True),
    "two autoencoders": ("autoencoder", 2, 1, 0.0, False),
    "VAE": ("vae", 1, 1, 0.0, False),
    "VAE with dropout": ("vae", 1, 1, 0.3, False),
    "weighted VAE with gaps": ("vae", 1, 1, 0.0, True),
    "two VAEs": ("vae", 2, 1, 0.0, False),
    "bound of three draws": ("vae", 1, 3, 0.0, False),
    "bound of three draws with gaps": ("vae", 1, 3, 0.0, True),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_likelihood = pytest.mark.parametrize("likelihood", ["gaussian", "student_t", "bernoulli", "poisson"])


def make_engine(case, likelihood="gaussian", device="cpu"):
    kind, n_networks, n_draws, dropout, _ = case
    family = make_likelihood({"name": likelihood, "n_columns": N_FEATURES})
    n_codes = N_COMPONENTS * (1 if kind == "autoencoder" else 2)
    nets = (
        SkipMLP(N_FEATURES, n_codes, (5,), "tanh", n_networks),
        SkipMLP(N_COMPONENTS, family.n_outputs, (5,), "tanh", n_networks),
    )
    module = (AutoencoderModule if kind == "autoencoder" else VAEModule)(*nets, family)
    generator = torch.Generator().manual_seed(3)
    module.flat.data = 0.3 * torch.randn(module.flat.shape, generator=generator)
    return Engine(module.to(device), dropout=dropout > 0, n_draws=n_draws)


def make_batch(case, engine, seed, device="cpu"):
    kind, n_networks, n_draws, dropout, gaps = case
    generator = torch.Generator().manual_seed(seed)
    lead = () if n_networks == 1 else (n_networks,)

    def rand(*shape):
        return torch.rand(*lead, N_ROWS, *shape, generator=generator).to(device)

    x = (rand(N_FEATURES) > 0.5).float()
    noise = rand(n_draws * N_COMPONENTS) if kind == "vae" else None
    factors = tuple(
        [rand(width) for width in net.hidden] if dropout else []
        for net in (engine.module.encoder, engine.module.decoder)
    )
    return Batch(
        x, rand(N_FEATURES), rand() if gaps else None, rand(N_FEATURES) > 0.3 if gaps else None, noise, factors
    )


class Recorder:
    """Stands in for a CUDA graph: what was run may be run again, on the memory that it had."""

    def __init__(self):
        self.n_recorded = self.n_replayed = 0

    def __call__(self, run):
        self.n_recorded += 1
        run()

        def replay():
            self.n_replayed += 1
            run()

        return replay


def outcome(step, engine, batch, kl_weight):
    engine.gradient.fill_(torch.nan)
    loss = step(batch, kl_weight).clone()
    return torch.cat([loss.reshape(-1), engine.unpack(engine.gradient)])


@each_case
@each_likelihood
def test_replayed_step_is_the_plain_step(case, likelihood):
    plain, other, record = make_engine(case, likelihood), make_engine(case, likelihood), Recorder()
    replayed = ReplayedStep(other, other.step(N_ROWS), record)
    for seed, kl_weight in enumerate([0.5, 0.7, 1.0, 1.0, 1.0, 1.0, 0.2]):
        batch = make_batch(case, plain, seed)
        expected = outcome(plain.step(N_ROWS), plain, batch, kl_weight)
        assert torch.equal(outcome(replayed, other, batch, kl_weight), expected)
        assert torch.isfinite(expected).all()
    assert (record.n_recorded, record.n_replayed) == (1, 3)


def test_a_new_prior_is_recorded_anew(rng):
    case = CASES["VAE"]
    plain, other, record = make_engine(case), make_engine(case), Recorder()
    replayed = ReplayedStep(other, other.step(N_ROWS), record)
    for count in (1, 2):
        means = torch.from_numpy(rng.normal(size=(count, N_COMPONENTS)))
        mixture = DiagonalMixture(torch.full((count,), 1.0 / count).double(), means, torch.ones_like(means))
        for engine in (plain, other):
            engine.module.prior = MixturePrior([mixture], engine.module.flat)
        for seed in range(3):
            batch = make_batch(case, plain, seed)
            expected = outcome(plain.step(N_ROWS), plain, batch, 1.0)
            assert torch.equal(outcome(replayed, other, batch, 1.0), expected)
        assert (record.n_recorded, record.n_replayed) == (count, 2 * count)


def test_what_cannot_be_recorded_runs_as_it_is():
    case = CASES["VAE"]
    plain, other = make_engine(case), make_engine(case)

    def refuse(run):
        raise RuntimeError("operation not permitted when stream is capturing")

    replayed = ReplayedStep(other, other.step(N_ROWS), refuse)
    batches = [make_batch(case, plain, seed) for seed in range(4)]
    expected = [outcome(plain.step(N_ROWS), plain, batch, 1.0) for batch in batches]
    first = outcome(replayed, other, batches[0], 1.0)
    with pytest.warns(RuntimeWarning, match=r"CUDA graph \(operation not permitted .* capturing\)\. Training goes on"):
        second = outcome(replayed, other, batches[1], 1.0)
    rest = [outcome(replayed, other, batch, 1.0) for batch in batches[2:]]
    assert all(torch.equal(a, b) for a, b in zip([first, second, *rest], expected, strict=True))


def test_only_steps_on_cuda_are_replayed():
    engine = make_engine(CASES["VAE"])
    assert not isinstance(engine.step(N_ROWS), ReplayedStep)
    assert not isinstance(make_engine(CASES["VAE"], device="meta").step(N_ROWS), ReplayedStep)


@each_case
@each_likelihood
def test_no_step_reads_a_value_back(case, likelihood):
    """Tensors of the meta device have no values: asking for one, which would hold up a GPU, is an error."""
    engine = make_engine(case, likelihood, "meta")
    adam = Adam(engine.values, engine.blocks if case[1] > 1 else None, gradient=engine.gradient)
    loss = engine.step(N_ROWS)(make_batch(case, engine, 0, "meta"), 0.5)
    adam.step(1e-3, 1e-4, N_ROWS, 50.0)
    assert loss.is_meta
    assert engine.gradient.is_meta
    with pytest.raises(RuntimeError):
        loss.sum().item()
