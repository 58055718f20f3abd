"""Each step by hand against the step by autograd, which does what `LatentModule.loss` says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import (
    CONFIGS,
    KINDS,
    N_COMPONENTS,
    N_ROWS,
    make_batch,
    make_mixtures,
    make_module,
    several_draws,
    with_dropout,
    with_gaps,
)

from skvae import AutoencoderTransformer, VAETransformer
from skvae._networks.modules import LOG_VARIANCE_RANGE
from skvae._training.engine import Engine
from skvae._training.steps import STEPS, AutogradStep

each_kind = pytest.mark.parametrize("kind", KINDS)
each_likelihood = pytest.mark.parametrize("likelihood", CONFIGS.values(), ids=CONFIGS)
each_count = pytest.mark.parametrize("n_networks", [1, 3])
each_shape = pytest.mark.parametrize(
    ("n_networks", "hidden"),
    [(1, ()), (3, (5, 4)), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in [(3, ()), (1, (5, 4))])],
    ids=["linear", "3 deep", "3 linear", "deep"],
)
each_draws = pytest.mark.parametrize(("kind", "n_draws"), [("autoencoder", 1), ("vae", 1), ("vae", 3)])


def random_module(draw, kind, likelihood, *shape, spread=0.5, **options):
    module = make_module(kind, likelihood, *shape, **options)
    module.flat.data.copy_(spread * draw(len(module.flat)))
    return module


def engine_of(module, batch, entries=STEPS):
    n_draws = 1 if batch.noise is None else batch.noise.shape[-1] // N_COMPONENTS
    return Engine(
        module,
        entries,
        dropout=len(batch.dropout[0]) > 0,
        n_draws=n_draws,
        weighted=batch.weight is not None,
        masked=batch.mask is not None,
    )


@torch.no_grad()
def stepped(module, batch, kl_weight, entries=STEPS):
    """Loss and gradient; what is not written stays NaN, as do the places that no parameter has."""
    engine = engine_of(module, batch, entries)
    engine.gradient.fill_(torch.nan)
    loss = engine.step(N_ROWS)(batch, kl_weight)
    assert engine.gradient.isfinite().all()
    return loss.clone(), engine.unpack(engine.gradient)


def assert_same(actual, expected):
    """To 1e-12 of the largest number. Measured with the seeds 0 to 3: at most 9e-15 of it, 1.4e-9 of 1.9e6."""
    for got, wanted in zip(actual, expected, strict=True):
        largest = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(got, wanted, rtol=0.0, atol=1e-12 * largest)


def assert_as_by_autograd(module, batch, kl_weight=1.0):
    """Of every entry that does such a training, the last aside."""
    engine, expected = engine_of(module, batch), stepped(module, batch, kl_weight, STEPS[-1:])
    by_hand = [stepped(module, batch, kl_weight, [entry]) for entry in STEPS[:-1] if entry.supports(engine)]
    assert by_hand
    for actual in by_hand:
        assert_same(actual, expected)
    return by_hand[0]


# --- Which step trains what -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "asked", "expected"),
    [
        ("autoencoder", {}, "autoencoder"),
        ("autoencoder", {"dropout": True, "weighted": True, "masked": True}, "autoencoder"),
        ("vae", {}, "vae"),
        ("vae", {"dropout": True, "weighted": True, "masked": True, "learns_prior": True}, "vae"),
        ("vae", {"n_draws": 2, "weighted": True, "masked": True}, "bound"),
        ("vae", {"n_draws": 2, "dropout": True}, "autograd"),
        ("vae", {"n_draws": 2, "learns_prior": True}, "autograd"),
    ],
    ids=str,
)
def test_first_that_supports_a_training(kind, asked, expected):
    engine = Engine(make_module(kind, CONFIGS["gaussian unit"]), STEPS, **asked)
    assert next(entry.name for entry in STEPS if entry.supports(engine)) == expected
    assert STEPS[-1].name == "autograd"
    assert STEPS[-1].supports(engine)


def test_bound_of_a_mixture_is_not_for_the_step_by_hand(draw):
    module = random_module(draw, "vae", CONFIGS["gaussian unit"])
    module.set_prior(make_mixtures(draw, 1))
    assert isinstance(Engine(module, STEPS, n_draws=2).step(N_ROWS), AutogradStep)


@each_draws
@each_count
def test_autograd_step_has_the_loss_and_its_gradient(kind, n_draws, n_networks, draw):
    """Of whatever `loss` reads: weights, missing cells, dropout, p(z)."""
    module = random_module(draw, kind, CONFIGS["student_t dependent"], n_networks)
    module.set_prior(make_mixtures(draw, n_networks))
    batch = with_dropout(with_gaps(make_batch(module, draw, weighted=True), draw), module, draw)
    batch = batch if kind == "autoencoder" else several_draws(batch, draw, n_draws)
    loss = module.loss(batch, 0.7)
    expected = loss.detach(), torch.autograd.grad(loss.sum(), module.flat)[0]
    for got, wanted in zip(stepped(module, batch, 0.7, STEPS[-1:]), expected, strict=True):
        assert torch.equal(got, wanted)


def test_autograd_step_reads_the_trained_values(draw):
    """The module's own parameters are older than the engine's while an epoch runs."""
    module = random_module(draw, "vae", CONFIGS["gaussian constant"])
    batch = make_batch(module, draw)
    engine, by_hand = engine_of(module, batch, STEPS[-1:]), engine_of(module, batch)
    for one in (engine, by_hand):
        one.values.mul_(1.5)
    with torch.no_grad():
        assert_same([engine.step(N_ROWS)(batch, 1.0)], [by_hand.step(N_ROWS)(batch, 1.0)])


# --- By hand and by autograd ----------------------------------------------------------------------------------------


@each_kind
@each_likelihood
@each_shape
@pytest.mark.parametrize(
    ("weighted", "kl_weight", "dropout"),
    [(False, 1.0, False), (True, 0.3, False), (False, 0.0, False), (False, 1.0, True), (True, 0.7, True)],
)
def test_step_equals_autograd(kind, likelihood, n_networks, hidden, weighted, kl_weight, dropout, draw):
    module = random_module(draw, kind, likelihood, n_networks, hidden)
    batch = make_batch(module, draw, weighted=weighted)
    assert_as_by_autograd(module, with_dropout(batch, module, draw) if dropout else batch, kl_weight)


@each_kind
@each_likelihood
@each_count
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dropout", [False, True])
def test_masked_step_equals_autograd(kind, likelihood, n_networks, weighted, dropout, draw):
    """The target may be NaN where it is not observed."""
    module = random_module(draw, kind, likelihood, n_networks)
    batch = with_gaps(make_batch(module, draw, weighted=weighted), draw)
    assert_as_by_autograd(module, with_dropout(batch, module, draw) if dropout else batch, 0.7)


@each_likelihood
@each_shape
@pytest.mark.parametrize(("weighted", "gaps"), [(False, False), (True, False), (False, True), (True, True)])
def test_bound_step_equals_autograd(likelihood, n_networks, hidden, weighted, gaps, draw):
    """Of three draws; one of the rows with gaps has no value at all."""
    module = random_module(draw, "vae", likelihood, n_networks, hidden)
    batch = several_draws(make_batch(module, draw, weighted=weighted), draw)
    assert_as_by_autograd(module, with_gaps(batch, draw, empty=True) if gaps else batch)


@each_likelihood
@each_count
@pytest.mark.parametrize(
    ("weighted", "gaps", "dropout"), [(False, False, False), (True, False, False), (True, True, True)]
)
def test_vae_step_with_a_mixture_equals_autograd(likelihood, n_networks, weighted, gaps, dropout, draw):
    module = random_module(draw, "vae", likelihood, n_networks)
    module.set_prior(make_mixtures(draw, n_networks))
    batch = make_batch(module, draw, weighted=weighted)
    batch = with_gaps(batch, draw) if gaps else batch
    assert_as_by_autograd(module, with_dropout(batch, module, draw) if dropout else batch, 0.7)


@each_count
def test_vae_step_without_noise_equals_autograd(n_networks, draw):
    module = random_module(draw, "vae", CONFIGS["gaussian constant"], n_networks)
    assert_as_by_autograd(module, make_batch(module, draw, noisy=False))


@each_count
@pytest.mark.parametrize("n_draws", [1, 3])
def test_clamped_log_variances_get_no_gradient(n_networks, n_draws, draw):
    """An encoder that asks for a posterior scale of e^20 or e^-20 gets the bound, and a finite loss."""
    module = random_module(draw, "vae", CONFIGS["gaussian constant"], n_networks, spread=0.1)
    module.parts()[0].biases[-1].data[..., N_COMPONENTS:] = torch.tensor([40.0, -40.0], dtype=torch.float64)
    batch = several_draws(make_batch(module, draw), draw, n_draws)
    loss, gradient = assert_as_by_autograd(module, batch)
    assert loss.isfinite().all()
    d_encoder = module.parts(gradient)[0]
    assert not d_encoder.skip[..., N_COMPONENTS:].any()
    assert not d_encoder.biases[-1][..., N_COMPONENTS:].any()
    assert d_encoder.skip[..., :N_COMPONENTS].all()
    with torch.no_grad():
        log_variance = module.posterior(batch.inputs)[1]
    expected = torch.tensor(LOG_VARIANCE_RANGE[::-1], dtype=torch.float64).expand_as(log_variance)
    assert torch.equal(log_variance, expected)


@each_draws
@each_count
@pytest.mark.parametrize("entries", [STEPS[:-1], STEPS[-1:]], ids=["by hand", "autograd"])
def test_step_repeats_itself_to_the_bit(entries, kind, n_draws, n_networks, draw):
    """Its buffers carry nothing from one batch to the next."""
    module = random_module(draw, kind, CONFIGS["student_t dependent"], n_networks)
    first, other = (several_draws(make_batch(module, draw, weighted=w), draw, n_draws) for w in (True, False))
    engine = engine_of(module, first, entries)
    with torch.no_grad():
        step = engine.step(N_ROWS)
        loss, before = step(first, 0.5).clone(), engine.gradient.clone()
        step(other, 1.0)
        assert not torch.equal(engine.gradient, before)
        assert torch.equal(step(first, 0.5), loss)
    assert torch.equal(engine.gradient, before)


# --- Whole fits -----------------------------------------------------------------------------------------------------


FITS = {
    "autoencoder": (AutoencoderTransformer, {}),
    "VAE": (VAETransformer, {"dropout": 0.0}),
    "VAE with dropout": (VAETransformer, {"dropout": 0.3}),
    "two VAEs": (VAETransformer, {"n_networks": 2}),
    "bound of three draws": (VAETransformer, {"n_training_draws": 3}),
    "learned p(z)": (VAETransformer, {"latent_density": "learned"}),
}


@pytest.fixture
def put_autograd_first():
    """Puts the step by autograd before all others; returns the sizes of the batches that it is made for."""
    before, sizes = list(STEPS), []

    def make(engine, n_rows):
        sizes.append(n_rows)
        return AutogradStep(engine, n_rows)

    def put():
        STEPS.insert(0, replace(STEPS[-1], make=make))
        return sizes

    yield put
    STEPS[:] = before


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # a few epochs are enough to compare
@pytest.mark.parametrize(("cls", "options"), FITS.values(), ids=FITS)
def test_fit_by_autograd_has_the_same_losses(cls, options, put_autograd_first, rng):
    """In float32. Measured with the seeds 0 to 3: at most 1.4e-6 of a loss."""
    X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(300, 5))
    options = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 8, "random_state": 0} | options
    by_hand = cls(**options).fit(X).loss_curve_
    sizes = put_autograd_first()
    np.testing.assert_allclose(cls(**options).fit(X).loss_curve_, by_hand, rtol=1e-3)
    assert sizes
