"""The training loop: the optimiser against torch's, what the best weights are, and what a step may see."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch.distributions import Normal

from skvae._data.inputs import InputLayer
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import AutoencoderModule, Batch, VAEModule
from skvae._training import loop as training
from skvae._training.feeder import corrupt, noisy_inputs
from skvae._training.loop import bound_loss, evaluate, train
from skvae._training.optimiser import Adam, one_cycle
from skvae._training.rows import History, Rows, Settings
from skvae._training.steps import Engine, _BoundStep
from skvae.likelihoods import Gaussian

N_ROWS, N_FEATURES = 24, 3
KINDS = {"autoencoder": AutoencoderModule, "vae": VAEModule}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def draw(generator):
    """Standard normal numbers of a shape, in float64."""
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


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


# --- The optimiser --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["fused", "plain"])
def make_adam(request, monkeypatch):
    """The fused call, and what stands in where torch has none."""
    if request.param == "plain":
        monkeypatch.delattr(torch, "_fused_adamw_")

    def make(flat):
        optimiser = Adam(flat)
        assert (optimiser._fused is None) == (request.param == "plain")
        return optimiser

    return make


@pytest.fixture(scope="module")
def compiler():
    """torch's own optimisers import its compiler at their first use, which takes seconds."""
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("max_norm", [math.inf, 1.0])
def test_adam_equals_torch(make_adam, compiler, weight_decay, max_norm, draw):
    """Step by step, with a rate that changes; a mean gradient longer than max_norm counts with that length."""
    parameter = torch.nn.Parameter(draw(20))
    flat = parameter.detach().clone()
    optimiser = make_adam(flat)
    oracle = torch.optim.AdamW([parameter], betas=(0.9, 0.99), eps=1e-8, weight_decay=weight_decay)
    norms = []
    for step in range(6):
        summed, n_rows, rate = draw(20) * 10.0 ** (step % 3), 4 + step, 0.1 / (1 + step)
        norms.append(float((summed / n_rows).norm()))
        parameter.grad = summed / n_rows * min(1.0, max_norm / norms[-1])
        oracle.param_groups[0]["lr"] = rate
        oracle.step()
        optimiser.gradient.copy_(summed)
        optimiser.step(rate, weight_decay, n_rows, max_norm)
        # Measured with the seeds 0 to 3: 2e-7, the step count and the row count are float32.
        assert_close(flat, parameter.detach(), 1e-6)
    assert max(norms) > 1.0


def test_adam_forgets_and_resumes(make_adam, draw):
    start, gradients = draw(5), draw(4, 5)

    def run(optimiser, chosen):
        for gradient in chosen:
            optimiser.gradient.copy_(gradient)
            optimiser.step(0.1, 0.0, 1.0, math.inf)
        return optimiser.flat.clone()

    whole = run(make_adam(start.clone()), gradients)
    first = make_adam(start.clone())
    run(first, gradients[:2])
    second = make_adam(first.flat.clone())
    second.load(first.state())
    assert torch.equal(run(second, gradients[2:]), whole)
    second.forget()
    second.flat.copy_(start)
    assert torch.equal(run(second, gradients), whole)


def test_one_cycle_by_hand():
    """Twelve steps: one of rise, then half a cosine in twelfths."""
    expected = [1.0, 0.9829629131445341, 0.9330127018922193, 0.8535533905932737, 0.75, 0.6294095225512604, 0.5]
    expected += [1.0 - value for value in expected[5:0:-1]]
    assert one_cycle(12) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_steps", [1, 2, 9, 10, 100, 1234])
def test_one_cycle_rises_once_and_falls_once(n_steps):
    rates = one_cycle(n_steps)
    assert len(rates) >= n_steps
    assert min(rates) > 0.0
    assert max(rates) == 1.0
    top = rates.index(1.0)
    assert top + 1 == max(1, n_steps // 10)
    assert rates[: top + 1] == pytest.approx([(step + 1) / (top + 1) for step in range(top + 1)])
    assert rates[top:] == sorted(rates[top:], reverse=True)


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
    history, _ = train(module, rows, settings, [1], validation=held if validated else None)
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
    history, _ = train(module, Rows(draw(2, N_FEATURES)), settings, [1], validation=held, on_epoch=trace)
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
    history, _ = train(module, Rows(draw(N_ROWS, 3)), settings, [1], validation=Rows(draw(6, 3)))
    assert len(history.loss) == patience
    assert history.stopped


def test_improvement_resets_patience(draw, monkeypatch):
    """Held-out losses by hand: start 5, then better, worse, better, worse, worse."""
    values = iter([5.0, 4.0, 6.0, 3.0, 3.5, 3.2, 1.0, 1.0])
    monkeypatch.setattr(training, "evaluate", lambda *arguments: torch.tensor([next(values)]))
    module = random_module("autoencoder", draw)
    trace = Trace(module)
    settings = settings_of(20, patience=2)
    history, _ = train(module, Rows(draw(N_ROWS, 3)), settings, [1], validation=Rows(draw(6, 3)), on_epoch=trace)
    assert history.validation == pytest.approx([4.0, 6.0, 3.0, 3.5, 3.2])
    assert torch.equal(module.flat.detach(), trace.flats[2])


def test_callback_stops(draw):
    module = random_module("autoencoder", draw)
    history, _ = train(module, Rows(draw(8, 3)), settings_of(9), [1], on_epoch=lambda history: len(history.loss) == 2)
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
        history, _ = train(module, Rows(draw(8, 3)), settings_of(9), [1], on_epoch=interrupt)
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
    history, _ = train(module, Rows(draw(N_ROWS, 3)), settings, [1], validation=held, on_epoch=trace)
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
    train(module, Rows(draw(N_ROWS, 3)), settings_of(2, batch_size=N_ROWS, learning_rate=1e-4), [1], on_epoch=trace)
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
    history, _ = train(module, Rows(draw(N_ROWS, 3)), settings_of(2), [1], validation=Rows(draw(6, 3)))
    assert history.validation == [4.0, 3.0]
    assert len(history.loss) == 2


# --- Resuming, weights, networks ------------------------------------------------------------------------------------


def test_resumed_training_equals_uninterrupted(draw):
    """At a constant rate, with all rows in each batch, where their order only rounds."""
    x, flat = draw(N_ROWS, N_FEATURES), random_module("autoencoder", draw).flat.detach()
    settings = settings_of(5, batch_size=N_ROWS, weight_decay=0.01)
    whole, parts = make_module("autoencoder", flat), make_module("autoencoder", flat)
    trace = Trace(whole)
    train(whole, Rows(x), settings_of(10, batch_size=N_ROWS, weight_decay=0.01), [1], on_epoch=trace)
    _, state = train(parts, Rows(x), settings, [1])
    assert_close(parts.flat.detach(), trace.flats[4])
    state = {name: value.clone() for name, value in state.items()}
    train(parts, Rows(x), settings, [1], optimiser_state=state)
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
    train(several, rows, settings, seeds, on_epoch=trace)
    several.flat.data.copy_(trace.flats[-1])
    for index, single in enumerate(singles):
        own = Trace(single)
        train(single, rows, settings, [seeds[index]], on_epoch=own)
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


# --- What a step sees -----------------------------------------------------------------------------------------------


def feed(module, rows, settings, seeds):
    """The batches of one epoch, copied out of the feeder's buffers."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    feeder = training.Feeder(module, rows, settings, generators)
    for batch, n_rows in feeder.epoch():
        dropout = tuple([factor.clone() for factor in group] for group in batch.dropout)
        parts = [None if part is None else part.clone() for part in batch[:5]]
        yield type(batch)(*parts, dropout), n_rows


@pytest.mark.parametrize("n_networks", [1, 2])
@pytest.mark.parametrize(("n_rows", "batch_size"), [(1, 1), (5, 8), (24, 8), (25, 8), (9000, 512)])
def test_an_epoch_shows_every_row_once_with_its_weight(n_networks, n_rows, batch_size):
    """9,000 rows are more than are gathered at once."""
    module = make_module("autoencoder", n_networks=n_networks, n_features=1)
    x = torch.arange(float(n_rows), dtype=torch.float64)[:, None]
    settings = settings_of(1, batch_size=batch_size)
    batches = list(feed(module, Rows(x, 10.0 + x[:, 0]), settings, range(n_networks)))
    for batch, size in batches:
        assert batch.x.shape[-2] == size
        assert torch.equal(batch.weight, 10.0 + batch.x[..., 0])
    assert all(size == batch_size for _, size in batches[:-1])
    orders = torch.cat([batch.x[..., 0] for batch, _ in batches], dim=-1).reshape(n_networks, -1)
    for order in orders:
        assert torch.equal(order.sort().values, x[:, 0])
        assert n_rows < 24 or not torch.equal(order, x[:, 0])
    assert n_rows < 24 or n_networks == 1 or not torch.equal(*orders)


def test_noise_reaches_the_inputs_and_not_the_target(draw):
    """4,000 rows of 3 cells; the scale of a row's noise is uniform on [1, 3], so its square is 13 / 3 on average."""
    module = make_module("autoencoder")
    x = draw(4000, N_FEATURES)
    ((batch, _),) = feed(module, Rows(x), settings_of(1, batch_size=4000, noise=(1.0, 3.0)), [5])
    assert torch.equal(batch.x.sort(dim=0).values, x.sort(dim=0).values)
    noise = batch.inputs - batch.x
    assert noise.mean() == pytest.approx(0.0, abs=0.12)  # standard error 0.019
    assert noise.square().mean() == pytest.approx(13 / 3, abs=0.5)  # standard error 0.08
    scales = (noise.square().mean(dim=1)).sqrt()
    assert scales.std() > 0.5  # one scale for a row: cells of one common scale would give less spread between rows


def test_noise_of_fixed_scale_is_gaussian(generator, draw):
    noise = corrupt(torch.zeros(5000, 2, dtype=torch.float64), (0.5, 0.5), generator)
    assert kstest(noise.flatten().numpy(), "norm", args=(0.0, 0.5)).pvalue > 1e-6


def test_noise_of_a_category_is_another_level(generator):
    """Numbers get the noise of their row; a category is drawn anew with half that chance."""
    layer = InputLayer(2, shares=((0, (0.5, 0.5)),))
    x = torch.zeros(20_000, 2)
    inputs = noisy_inputs(layer, x, None, (0.6, 0.6), generator)
    clean = layer(x)[0]
    same = (inputs[:, :2] == clean[:2]).all(dim=1)
    assert torch.equal(inputs[~same, :2], layer(torch.ones(1, 2))[:, :2].expand(int((~same).sum()), -1))
    # 0.02: more than five standard errors of 0.3 / 2.
    assert float((~same).float().mean()) == pytest.approx(0.15, abs=0.02)
    assert kstest(inputs[:, 2].double().numpy(), "norm", args=(0.0, 0.6)).pvalue > 1e-6
    assert torch.equal(noisy_inputs(layer, x, None, (0.0, 0.0), generator), layer(x))


def test_no_noise_is_the_same_tensor(generator, draw):
    x = draw(3, 2)
    assert corrupt(x, (0.0, 0.0), generator) is x


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_keeps_the_mean(rate):
    """8,000 factors for each hidden layer: 0 with the given rate, 1 / (1 - rate) otherwise."""
    module = make_module("autoencoder")
    settings = settings_of(1, batch_size=2000, dropout=rate)
    ((batch, _),) = feed(module, Rows(torch.zeros(2000, N_FEATURES, dtype=torch.float64)), settings, [5])
    for (factors,) in batch.dropout:
        assert factors.shape == (2000, 4)
        assert_close(factors.unique(), torch.tensor([0.0, 1.0 / (1.0 - rate)], dtype=torch.float64))
        assert (factors == 0).double().mean() == pytest.approx(rate, abs=0.04)  # standard error 0.0056


def test_posterior_noise_is_fresh_for_each_row():
    module = make_module("vae")
    x = torch.zeros(4000, N_FEATURES, dtype=torch.float64)
    batches = [batch for batch, _ in feed(module, Rows(x), settings_of(1, batch_size=1000), [5])]
    noise = torch.cat([batch.noise for batch in batches])
    assert len(noise.unique(dim=0)) == 4000
    assert noise.mean() == pytest.approx(0.0, abs=0.07)  # standard error 0.011
    assert noise.square().mean() == pytest.approx(1.0, abs=0.1)  # standard error 0.016


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
def test_evaluate_repeats_its_noise(kind, draw):
    module = random_module(kind, draw)
    rows, settings = Rows(draw(50, N_FEATURES)), settings_of(1, noise=(0.5, 0.5))
    first = evaluate(module, rows, settings, 3)
    assert torch.equal(evaluate(module, rows, settings, 3), first)
    assert not torch.equal(evaluate(module, rows, settings, 4), first)


@pytest.mark.parametrize(
    ("loss", "stopped", "expected"),
    [
        ([10.0, 5.0, 4.9], False, False),  # 0.1 of 5.1 is less than 2 %
        ([10.0, 5.0, 4.8], False, True),
        ([10.0, 5.0, 4.8], True, False),  # somebody stopped it: that it could go on is no news
        ([10.0], False, False),
        ([5.0, 5.0 - 1e-5], False, False),  # less than tol
        ([5.0, 6.0], False, False),
    ],
)
def test_still_improving(loss, stopped, expected):
    assert History(loss=loss, stopped=stopped).still_improving(tol=1e-4) is expected


# --- Several draws of the posterior ---------------------------------------------------------------------------------


def many_draws(module, draw, n_draws, *, weighted=False):
    lead = () if module.n_networks == 1 else (module.n_networks,)
    x = draw(*lead, 8, N_FEATURES)
    weight = draw(*lead, 8).exp() if weighted else None
    return Batch(x, x, weight, None, draw(*lead, 8, 2 * n_draws))


def bound_by_distributions(module, batch, n_draws):
    """log of the mean weight, from torch's normal distributions, one row and draw after the other."""
    bounds = []
    for row in range(8):
        mean, log_variance = module.posterior(batch.x[row : row + 1])
        posterior = Normal(mean[0], (0.5 * log_variance[0]).exp())
        log_weights = []
        for part in batch.noise[row].split(2):
            z = posterior.mean + posterior.stddev * part
            outputs = module.decode(z.unsqueeze(0))
            scale = module.likelihood.scale(outputs, module.parts()[2])[0]
            log_weights.append(
                Normal(outputs[0, :N_FEATURES], scale).log_prob(batch.x[row]).sum()
                + Normal(0.0, 1.0).log_prob(z).sum()
                - posterior.log_prob(z).sum()
            )
        assert len(log_weights) == n_draws
        bounds.append(torch.stack(log_weights).exp().mean().log())
    return torch.stack(bounds)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_draws", [1, 5])
def test_bound_step_has_the_bound_and_its_gradient(n_draws, weighted, draw):
    """Both by torch's distributions and autograd, for the same draws: the gradient of the bound is not biased."""
    module = random_module("vae", draw, scale="constant")
    batch = many_draws(module, draw, n_draws, weighted=weighted)
    bounds = bound_by_distributions(module, batch, n_draws)
    expected = -(bounds if batch.weight is None else bounds * batch.weight).sum()
    gradient = torch.autograd.grad(expected, module.flat)[0]
    with torch.no_grad():
        engine = Engine(module, n_draws=n_draws)
        loss = _BoundStep(engine, 8)(batch, 1.0)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(engine.unpack(engine.gradient), gradient)


def test_bound_of_several_networks_is_that_of_each(draw):
    module = random_module("vae", draw, n_networks=3, scale="constant")
    batch = many_draws(module, draw, 4)
    alone = [
        bound_loss(module.network(index), Batch(batch.x[index], batch.x[index], noise=batch.noise[index]))
        for index in range(3)
    ]
    torch.testing.assert_close(bound_loss(module, batch), torch.stack(alone))


def test_bound_of_more_draws_is_tighter(draw):
    """On average; as the mean over 2,000 draws of the noise of eight rows."""
    module = random_module("vae", draw, scale="constant")
    batch = many_draws(module, draw, 1)
    repeated = batch.x.repeat(2000, 1)
    losses = [
        float(bound_loss(module, Batch(repeated, repeated, noise=draw(16_000, 2 * n_draws))).detach())
        for n_draws in (1, 4, 16)
    ]
    assert losses[0] > losses[1] > losses[2]


# --- Rows of 0 and 1 drawn anew -------------------------------------------------------------------------------------


def test_each_epoch_sees_other_rows_of_ones(draw):
    module = random_module("vae", draw)
    rows = Rows(torch.full((N_ROWS, N_FEATURES), 0.5, dtype=torch.float64))
    feeder = training.Feeder(module, rows, settings_of(1, binarize=True), [torch.Generator().manual_seed(0)])
    epochs = [torch.cat([batch.x.clone() for batch, _ in feeder.epoch()]) for _ in range(2)]
    assert all(set(x.unique().tolist()) == {0.0, 1.0} for x in epochs)
    assert not torch.equal(*epochs)
    assert (rows.x == 0.5).all()
