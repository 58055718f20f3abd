"""Which step an engine takes; steps where no device of theirs is: replayed ones, and that none reads a value back."""

from types import SimpleNamespace

import pytest
import torch

from skvae._densities.mixture import DiagonalMixture
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import AutoencoderModule, Batch, VAEModule
from skvae._training.engine import Engine, ReplayedStep, Step, StepEntry
from skvae._training.optimiser import Adam
from skvae._training.steps import STEPS
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
    kind, n_networks, n_draws, dropout, gaps = case
    family = make_likelihood({"name": likelihood, "n_columns": N_FEATURES})
    n_codes = N_COMPONENTS * (1 if kind == "autoencoder" else 2)
    nets = (
        SkipMLP(N_FEATURES, n_codes, (5,), "tanh", n_networks),
        SkipMLP(N_COMPONENTS, family.n_outputs, (5,), "tanh", n_networks),
    )
    module = (AutoencoderModule if kind == "autoencoder" else VAEModule)(*nets, family)
    generator = torch.Generator().manual_seed(3)
    module.flat.data = 0.3 * torch.randn(module.flat.shape, generator=generator)
    return Engine(module.to(device), STEPS, dropout=dropout > 0, n_draws=n_draws, weighted=gaps, masked=gaps)


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
    replayed = ReplayedStep(other.module, other.step(N_ROWS), record)
    for seed, kl_weight in enumerate([0.5, 0.7, 1.0, 1.0, 1.0, 1.0, 0.2]):
        batch = make_batch(case, plain, seed)
        expected = outcome(plain.step(N_ROWS), plain, batch, kl_weight)
        assert torch.equal(outcome(replayed, other, batch, kl_weight), expected)
        assert torch.isfinite(expected).all()
    assert (record.n_recorded, record.n_replayed) == (1, 3)


def test_a_new_prior_is_recorded_anew(rng):
    case = CASES["VAE"]
    plain, other, record = make_engine(case), make_engine(case), Recorder()
    replayed = ReplayedStep(other.module, other.step(N_ROWS), record)
    for count in (1, 2):
        means = torch.from_numpy(rng.normal(size=(count, N_COMPONENTS)))
        mixture = DiagonalMixture(torch.full((count,), 1.0 / count).double(), means, torch.ones_like(means))
        for engine in (plain, other):
            engine.module.set_prior([mixture])
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

    replayed = ReplayedStep(other.module, other.step(N_ROWS), refuse)
    batches = [make_batch(case, plain, seed) for seed in range(4)]
    expected = [outcome(plain.step(N_ROWS), plain, batch, 1.0) for batch in batches]
    first = outcome(replayed, other, batches[0], 1.0)
    with pytest.warns(RuntimeWarning, match=r"CUDA graph \(operation not permitted .* capturing\)\. Training goes on"):
        second = outcome(replayed, other, batches[1], 1.0)
    rest = [outcome(replayed, other, batch, 1.0) for batch in batches[2:]]
    assert all(torch.equal(a, b) for a, b in zip([first, second, *rest], expected, strict=True))


def named(name, supports, **options):
    class Named(Step):
        def __init__(self, engine, n_rows):
            self.name, self.n_rows = name, n_rows

        def __call__(self, batch, kl_weight):
            return torch.zeros(())

    return StepEntry(name, supports, Named, **options)


def test_first_entry_that_supports_the_engine_makes_its_steps():
    """What each is asked: the engine says of the training what the module does not."""
    entries = [
        named("unweighted", lambda engine: not engine.weighted),
        named("one network", lambda engine: engine.module.n_networks == 1 and not engine.masked),
        named("any", lambda engine: True),
    ]

    def chosen(case, **asked):
        return Engine(make_engine(case).module, entries, **asked).step(N_ROWS)

    one, two = CASES["autoencoder"], CASES["two autoencoders"]
    assert chosen(one).name == "unweighted"
    assert chosen(one, weighted=True).name == "one network"
    assert chosen(one, weighted=True, masked=True).name == "any"
    assert chosen(two, weighted=True).name == "any"
    assert chosen(two, weighted=True).n_rows == N_ROWS


def test_steps_are_made_once_for_each_size():
    engine = Engine(make_engine(CASES["VAE"]).module, [named("any", lambda engine: True)])
    assert engine.step(4) is engine.step(4)
    assert engine.step(4) is not engine.step(5)


@pytest.mark.parametrize("recordable", [True, False])
def test_cuda_replays_what_can_be_recorded(recordable):
    engine = Engine(make_engine(CASES["VAE"]).module, [named("any", lambda engine: True, recordable=recordable)])
    engine.values = SimpleNamespace(device=torch.device("cuda"))  # no device is needed to be asked for one
    assert isinstance(engine.step(N_ROWS), ReplayedStep) == recordable


def test_a_prior_that_is_there_counts_as_learned(rng):
    module = make_engine(CASES["VAE"]).module
    assert not Engine(module, STEPS).learns_prior
    assert Engine(module, STEPS, learns_prior=True).learns_prior
    means = torch.from_numpy(rng.normal(size=(1, N_COMPONENTS)))
    module.set_prior([DiagonalMixture(torch.ones(1).double(), means, torch.ones_like(means))])
    assert Engine(module, STEPS).learns_prior


@pytest.mark.parametrize("name", ["autoencoder", "two VAEs"])
def test_packed_and_flat_are_inverse(name, generator):
    """Places that no parameter has are zero."""
    engine = make_engine(CASES[name])
    flat = torch.randn(len(engine.module.flat), generator=generator)
    packed = engine.pack(flat)
    assert torch.equal(engine.unpack(packed), flat)
    assert packed.count_nonzero() == len(flat)
    engine.values.copy_(packed)
    engine.store()
    assert torch.equal(engine.module.flat, flat)
    engine.values.zero_()
    engine.load()
    assert torch.equal(engine.values, packed)


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
