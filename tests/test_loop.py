"""The training loop: its rates, what the best weights are, and what it resumes from."""

import math
from types import SimpleNamespace

import pytest
import torch

from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import AutoencoderModule, VAEModule
from skvae._support.jobs import with_jobs
from skvae._training import loop as training
from skvae._training.engine import Engine
from skvae._training.loop import evaluate
from skvae._training.optimiser import Adam
from skvae._training.rows import Rows, Run, Settings
from skvae._training.training import train
from skvae.likelihoods import Gaussian

N_ROWS, N_FEATURES = 24, 3
KINDS = {"autoencoder": AutoencoderModule, "vae": VAEModule}
each_kind = pytest.mark.parametrize("kind", KINDS)


def make_module(kind, flat=None, n_networks=1, hidden=(4,), scale="unit", n_features=N_FEATURES):
    likelihood = Gaussian(n_features, scale=scale)
    encoder = SkipMLP(n_features, 4 if kind == "vae" else 2, hidden, "tanh", n_networks)
    decoder = SkipMLP(2, likelihood.n_outputs, hidden, "tanh", n_networks)
    module = KINDS[kind](encoder, decoder, likelihood)
    module.flat.data = module.flat.data.double() if flat is None else flat.clone()
    return module


def random_module(kind, draw, **options):
    size = len(make_module(kind, **options).flat)
    return make_module(kind, 0.3 * draw(size), **options)


def settings_of(n_epochs, **options):
    defaults = {"batch_size": 8, "learning_rate": 1e-2, "one_cycle": False}
    return Settings(n_epochs=n_epochs, **(defaults | options))


class Trace:
    """Remembers the weights after each epoch."""

    def __init__(self, module):
        self.module, self.flats = module, []

    def __call__(self, history):
        self.flats.append(self.module.flat.detach().clone())
        return False


def assert_close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# --- Rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_cycle", [True, False])
def test_rates_follow_the_schedule(one_cycle, draw, monkeypatch):
    """24 rows in batches of 8 for 4 epochs: 12 steps."""
    rates, rows = [], []
    step = Adam.step

    def recorded(self, rate, weight_decay, n_rows, max_norm):
        rates.append(rate)
        rows.append(n_rows)
        return step(self, rate, weight_decay, n_rows, max_norm)

    monkeypatch.setattr(Adam, "step", recorded)
    module = random_module("autoencoder", draw)
    train(module, Rows(draw(22, N_FEATURES)), settings_of(4, one_cycle=one_cycle, learning_rate=0.25), [1])
    factors = {
        True: [1.0, 0.98296, 0.93301, 0.85355, 0.75, 0.62941, 0.5, 0.37059, 0.25, 0.14645, 0.06699, 0.01704],
        False: [1.0] * 12,
    }[one_cycle]
    assert rates == pytest.approx([0.25 * factor for factor in factors], abs=1e-5)
    assert rows == [8, 8, 6] * 4


# --- The best weights -----------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("learning_rate", [1e-3, 0.3, 30.0])
@pytest.mark.parametrize("validated", [False, True])
def test_training_never_ends_worse_than_it_began(kind, learning_rate, validated, draw):
    module = random_module(kind, draw)
    rows, held = Rows(draw(N_ROWS, N_FEATURES)), Rows(draw(9, N_FEATURES))
    settings = settings_of(3, learning_rate=learning_rate)
    monitored = held if validated else rows
    before = float(evaluate(module, monitored, settings, 1))
    history, _ = train(module, rows, settings, [1], Run(validation=held if validated else None))
    assert history.best_loss <= before
    assert float(evaluate(module, monitored, settings, 1)) == pytest.approx(history.best_loss, rel=1e-6)
    assert len(history.loss) == 3
    assert len(history.validation) == (3 if validated else 0)


@each_kind
def test_a_hopeless_rate_leaves_the_start(kind, draw):
    """Steps of length 1000 lead nowhere better."""
    module = random_module(kind, draw)
    before = module.flat.detach().clone()
    train(module, Rows(draw(N_ROWS, N_FEATURES)), settings_of(2, learning_rate=1e3), [1])
    assert torch.equal(module.flat.detach(), before)


@each_kind
def test_training_lowers_the_loss(kind, draw):
    """Rows on a line are learnt by two components."""
    line = draw(N_ROWS, 1) * torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    module = random_module(kind, draw)
    before = float(evaluate(module, Rows(line), settings_of(1), 1))
    history, _ = train(module, Rows(line), settings_of(60), [1])
    # Both have the constant of three unit Gaussians, which no model can lower.
    constant = 1.5 * math.log(2 * math.pi)
    assert history.best_loss - constant < 0.6 * (before - constant)


def test_validation_chooses_the_epoch(draw):
    """Two training rows and a high rate: the held-out loss is far from monotone."""
    module = random_module("autoencoder", draw)
    trace = Trace(module)
    held = Rows(draw(40, N_FEATURES))
    start = module.flat.detach().clone()
    settings = settings_of(30, learning_rate=0.05)
    history, _ = train(module, Rows(draw(2, N_FEATURES)), settings, [1], Run(validation=held, on_epoch=trace))
    candidates = [start, *trace.flats]
    losses = []
    for flat in candidates:
        module_of = make_module("autoencoder", flat)
        with torch.no_grad():
            losses.append(float((module_of(held.x) - held.x).square().sum(1).mean() / 2 + 1.5 * math.log(2 * math.pi)))
    assert history.validation == pytest.approx(losses[1:], rel=1e-6)
    best = min(range(len(losses)), key=losses.__getitem__)
    assert best < 30
    assert torch.equal(module.flat.detach(), candidates[best])
    assert history.best_loss == pytest.approx(losses[best], rel=1e-6)


@pytest.mark.parametrize("patience", [1, 4])
def test_patience_counts_epochs_without_improvement(patience, draw):
    """No epoch improves by a tol of a million, so training stops after as many as are allowed."""
    module = random_module("autoencoder", draw)
    settings = settings_of(20, patience=patience, tol=1e6)
    history, _ = train(module, Rows(draw(N_ROWS, 3)), settings, [1], Run(validation=Rows(draw(6, 3))))
    assert len(history.loss) == patience
    assert history.stopped


def test_improvement_resets_patience(draw, monkeypatch):
    """Held-out losses by hand: start 5, then better, worse, better, worse, worse."""
    values = iter([5.0, 4.0, 6.0, 3.0, 3.5, 3.2, 1.0, 1.0])
    monkeypatch.setattr(training, "evaluate", lambda *arguments: torch.tensor([next(values)]))
    module = random_module("autoencoder", draw)
    trace = Trace(module)
    settings = settings_of(20, patience=2)
    history, _ = train(module, Rows(draw(N_ROWS, 3)), settings, [1], Run(validation=Rows(draw(6, 3)), on_epoch=trace))
    assert history.validation == pytest.approx([4.0, 6.0, 3.0, 3.5, 3.2])
    assert torch.equal(module.flat.detach(), trace.flats[2])


def test_callback_stops(draw):
    module = random_module("autoencoder", draw)
    history, _ = train(
        module, Rows(draw(8, 3)), settings_of(9), [1], Run(on_epoch=lambda history: len(history.loss) == 2)
    )
    assert len(history.loss) == 2
    assert history.stopped


def test_interrupt_keeps_the_best_weights(draw):
    module = random_module("autoencoder", draw)
    trace = Trace(module)

    def interrupt(history):
        trace(history)
        if len(history.loss) == 3:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match=r"\ATraining was interrupted; the best weights so far are kept\.\Z"):
        history, _ = train(module, Rows(draw(8, 3)), settings_of(9), [1], Run(on_epoch=interrupt))
    assert history.stopped
    assert len(history.loss) == 3
    best = min(range(3), key=history.loss.__getitem__)
    assert torch.equal(module.flat.detach(), trace.flats[best])


# --- A loss that is not finite --------------------------------------------------------------------------------------


@pytest.fixture
def poisoned(monkeypatch):
    """Makes chosen steps return NaN, loss and gradient; records every learning rate."""
    rates = []
    adam_step = Adam.step

    def recorded(self, rate, *others):
        rates.append(rate)
        return adam_step(self, rate, *others)

    monkeypatch.setattr(Adam, "step", recorded)

    def poison(bad):
        make, calls = Engine.step, iter(range(10**6))

        def made(engine, n_rows):
            step = make(engine, n_rows)

            def run(batch, kl_weight):
                loss = step(batch, kl_weight)
                return loss + engine.gradient.fill_(torch.nan)[0] if bad(next(calls)) else loss

            return run

        monkeypatch.setattr(Engine, "step", made)
        return rates

    return poison


@pytest.mark.parametrize("one_cycle", [True, False])
@pytest.mark.parametrize("validated", [False, True])
def test_roll_back_halves_the_rate_and_goes_on(one_cycle, validated, poisoned, draw):
    """The third of four epochs goes wrong once; all four are trained all the same, from the best weights."""
    module = random_module("autoencoder", draw)
    rates = poisoned(lambda call: call == 2)
    trace = Trace(module)
    held = Rows(draw(6, 3)) if validated else None
    settings = settings_of(4, batch_size=N_ROWS, one_cycle=one_cycle, learning_rate=0.01)
    history, _ = train(module, Rows(draw(N_ROWS, 3)), settings, [1], Run(validation=held, on_epoch=trace))
    assert len(history.loss) == len(trace.flats) == 4
    assert len(history.validation) == (4 if validated else 0)
    assert all(math.isfinite(value) for value in history.loss + history.validation)
    assert all(flat.isfinite().all() for flat in trace.flats)
    # One step of rise, then half a cosine in quarters.
    factors = [1.0, 0.8535533905932737, 0.5, 0.5 * 0.5, 0.5 * 0.1464466094067262] if one_cycle else [1, 1, 1, 0.5, 0.5]
    assert rates == pytest.approx([0.01 * factor for factor in factors])


def test_roll_back_forgets_the_moments(poisoned, draw):
    """After it, a step has the length of Adam's first one: the rate in every coordinate that has a gradient."""
    module = random_module("autoencoder", draw)
    poisoned(lambda call: call == 1)
    trace = Trace(module)
    train(
        module, Rows(draw(N_ROWS, 3)), settings_of(2, batch_size=N_ROWS, learning_rate=1e-4), [1], Run(on_epoch=trace)
    )
    moved = (trace.flats[1] - trace.flats[0]).abs()
    assert_close(moved[moved > 0], torch.full_like(moved[moved > 0], 0.5e-4), 1e-6)


def test_training_gives_up_after_five_roll_backs(poisoned, draw):
    """The sixth try had 1/32 of the rate."""
    module = random_module("autoencoder", draw)
    rates = poisoned(lambda call: True)
    with pytest.raises(FloatingPointError, match=r"\Anot finite\Z"):
        train(module, Rows(draw(N_ROWS, 3)), settings_of(3, batch_size=N_ROWS, learning_rate=1.0), [1])
    assert rates == [1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125]


def test_infinite_validation_loss_rolls_back(draw, monkeypatch):
    values = iter([5.0, 4.0, math.inf, 3.0, 3.0])
    monkeypatch.setattr(training, "evaluate", lambda *arguments: torch.tensor([next(values)]))
    module = random_module("autoencoder", draw)
    history, _ = train(module, Rows(draw(N_ROWS, 3)), settings_of(2), [1], Run(validation=Rows(draw(6, 3))))
    assert history.validation == [4.0, 3.0]
    assert len(history.loss) == 2


# --- Resuming, weights, networks ------------------------------------------------------------------------------------


def test_resumed_training_equals_uninterrupted(draw):
    """At a constant rate, with all rows in each batch, where their order only rounds."""
    x, flat = draw(N_ROWS, N_FEATURES), random_module("autoencoder", draw).flat.detach()
    settings = settings_of(5, batch_size=N_ROWS, weight_decay=0.01)
    whole, parts = make_module("autoencoder", flat), make_module("autoencoder", flat)
    trace = Trace(whole)
    train(whole, Rows(x), settings_of(10, batch_size=N_ROWS, weight_decay=0.01), [1], Run(on_epoch=trace))
    _, state = train(parts, Rows(x), settings, [1])
    assert_close(parts.flat.detach(), trace.flats[4])
    state = {name: value.clone() for name, value in state.items()}
    train(parts, Rows(x), settings, [1], Run(optimiser_state=state))
    assert_close(parts.flat.detach(), trace.flats[9])
    assert float(state["n_steps"]) == 5.0


def test_integer_weights_equal_repeated_rows(draw):
    """Weights of mean one, all rows in each batch."""
    x, flat = draw(6, N_FEATURES), random_module("autoencoder", draw).flat.detach()
    counts = torch.tensor([1, 3, 0, 2, 1, 5])
    results = []
    for rows in (Rows(x, counts.double() / 2.0), Rows(x.repeat_interleave(counts, dim=0))):
        module = make_module("autoencoder", flat)
        history, _ = train(module, rows, settings_of(8, batch_size=12), [1])
        results.append((module.flat.detach(), torch.tensor([*history.loss, history.best_loss], dtype=torch.float64)))
    assert_close(results[0][0], results[1][0])
    assert_close(results[0][1], results[1][1], 1e-6)
    assert not torch.equal(results[0][0], flat)


@each_kind
def test_rows_of_weight_zero_have_no_say(kind, draw):
    x, flat = draw(N_ROWS, N_FEATURES), random_module(kind, draw).flat.detach()
    weight = (torch.arange(N_ROWS) % 3 != 0).double() * 1.5
    other = torch.where(weight[:, None] > 0, x, 7.0)
    flats = []
    for values in (x, other):
        module = make_module(kind, flat)
        train(module, Rows(values, weight), settings_of(3), [1])
        flats.append(module.flat.detach())
    assert torch.equal(*flats)
    assert not torch.equal(flats[0], flat)


@each_kind
@pytest.mark.parametrize("options", [{}, {"noise": (0.1, 0.5)}, {"dropout": 0.5}, {"max_gradient_norm": 0.5}], ids=str)
def test_networks_train_as_single_ones_do(kind, options, draw):
    """Each with its own seed: order of the rows, noise, dropout, length of its gradient."""
    several = random_module(kind, draw, n_networks=3, scale="constant")
    singles = [several.network(index) for index in range(3)]
    rows, settings, seeds = Rows(draw(22, N_FEATURES)), settings_of(3, **options), [3, 4, 5]
    trace = Trace(several)
    train(several, rows, settings, seeds, Run(on_epoch=trace))
    several.flat.data.copy_(trace.flats[-1])
    for index, single in enumerate(singles):
        own = Trace(single)
        train(single, rows, settings, [seeds[index]], Run(on_epoch=own))
        # 1e-8: the length of one network's gradient is kept in float32; measured with the seeds 0 to 3: 1.4e-9.
        tolerance = 1e-8 if "max_gradient_norm" in options else 1e-10
        assert_close(several.network(index).flat.detach(), own.flats[-1], tolerance)


@each_kind
def test_same_seed_same_bits(kind, draw):
    x, flat = draw(N_ROWS, N_FEATURES), random_module(kind, draw).flat.detach()
    state = torch.get_rng_state()
    flats = []
    for seed in (1, 1, 2):
        module = make_module(kind, flat)
        train(module, Rows(x), settings_of(3, noise=(0.1, 0.2), dropout=0.2), [seed])
        flats.append(module.flat.detach())
    assert torch.equal(flats[0], flats[1])
    assert not torch.equal(flats[0], flats[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_kl_weight_grows_over_the_warm_up(draw, monkeypatch):
    """Half of 12 steps, in sixths of 0.6."""
    module = random_module("vae", draw)
    make, seen = Engine.step, []

    def made(engine, n_rows):
        step = make(engine, n_rows)

        def run(batch, kl_weight):
            seen.append(kl_weight)
            return step(batch, kl_weight)

        return run

    monkeypatch.setattr(Engine, "step", made)
    train(module, Rows(draw(N_ROWS, 3)), settings_of(4, kl_weight=0.6, kl_warmup=0.5), [1])
    assert seen == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6] + [0.6] * 6)


# --- Evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_evaluate_is_the_weighted_mean_loss(n_networks, weighted, draw):
    """2,500 rows are more than one chunk; without noise the loss of an autoencoder is the squared residual's."""
    module = random_module("autoencoder", draw, n_networks=n_networks)
    x = draw(2500, N_FEATURES)
    weight = draw(2500).exp() if weighted else torch.ones(2500, dtype=torch.float64)
    with torch.no_grad():
        losses = 0.5 * ((module(x) - x).square() + math.log(2 * math.pi)).sum(-1)
    expected = (losses * weight).sum(-1) / weight.sum()
    actual = evaluate(module, Rows(x, weight if weighted else None), settings_of(1), 0)
    assert actual.shape == (n_networks,)
    assert_close(actual.double(), expected.reshape(n_networks), 1e-6)


@each_kind
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_networks_are_evaluated_as_each_alone(kind, n_jobs, draw):
    """With the same noise, whoever computes it."""
    module = random_module(kind, draw, n_networks=3)
    rows, settings = Rows(draw(50, N_FEATURES)), settings_of(1, noise=(0.5, 0.5))
    alone = torch.cat([evaluate(module.network(index), rows, settings, 3) for index in range(3)])
    found = with_jobs(lambda _: evaluate(module, rows, settings, 3))(SimpleNamespace(n_jobs=n_jobs))
    assert len(set(alone.tolist())) == 3
    torch.testing.assert_close(found, alone.to(found), rtol=1e-7, atol=0.0)


@each_kind
def test_evaluate_repeats_its_noise(kind, draw):
    module = random_module(kind, draw)
    rows, settings = Rows(draw(50, N_FEATURES)), settings_of(1, noise=(0.5, 0.5))
    first = evaluate(module, rows, settings, 3)
    assert torch.equal(evaluate(module, rows, settings, 3), first)
    assert not torch.equal(evaluate(module, rows, settings, 4), first)
