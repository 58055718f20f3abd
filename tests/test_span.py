"""Few wide rows in coordinates of their span: the same losses, derivatives and outputs, in less time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from skvae import AutoencoderTransformer
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import AutoencoderModule, Batch, VAEModule
from skvae._training import span
from skvae._training.rows import Rows, Run, Settings
from skvae._training.training import step_flops, train
from skvae.likelihoods import Gaussian

N_ROWS, N_COLUMNS, N_COMPONENTS = 20, 210, 3
SETTINGS = Settings(batch_size=20, n_epochs=6, learning_rate=0.01)

each_network = pytest.mark.parametrize("hidden", [(), (6,), (6, 5)], ids=["linear", "one layer", "deep"])
each_count = pytest.mark.parametrize("n_networks", [1, 2])


@pytest.fixture
def x(draw):
    """Rows of a rank below their number, not centred."""
    return (1.0 + draw(N_ROWS, 8) @ draw(8, N_COLUMNS) / 3).float()


def make_module(draw, *, hidden=(6, 5), n_networks=1, scale="unit", kind=AutoencoderModule):
    likelihood = Gaussian(N_COLUMNS, scale=scale)
    heads = 2 if kind is VAEModule else 1
    encoder = SkipMLP(N_COLUMNS, heads * N_COMPONENTS, hidden, "silu", n_networks)
    decoder = SkipMLP(N_COMPONENTS, N_COLUMNS, hidden[::-1], "silu", n_networks)
    n_parameters = encoder.n_parameters + decoder.n_parameters + n_networks * likelihood.n_free
    return kind(encoder, decoder, likelihood, 0.05 * draw(n_parameters).float())


def mean_loss(module, rows):
    """Without noise, over the rows and networks, in float64."""
    module = module.converted(torch.float64)
    x, weight = rows.x.double(), torch.ones(len(rows.x)) if rows.weight is None else rows.weight
    with torch.no_grad():
        return float((module.loss(Batch(x, x, weight.double())) / weight.sum()).mean())


@pytest.fixture
def trained_columns(monkeypatch):
    """How many columns the trainings have had that took place."""
    found, run_loop = [], span.run_loop

    def watched(module, *given):
        found.append(module.encoder.n_inputs)
        return run_loop(module, *given)

    monkeypatch.setattr(span, "run_loop", watched)
    return found


# --- Which trainings ------------------------------------------------------------------------------------------------


def test_takes_few_wide_rows(draw, x, trained_columns):
    train(make_module(draw), Rows(x), SETTINGS, [0])
    assert trained_columns == [9]  # eight directions beside the mean


@pytest.mark.parametrize(
    "other",
    [
        lambda module, x: (module, Rows(x.repeat(6, 1)), SETTINGS, Run()),  # more than half as many rows
        lambda module, x: (module, Rows(torch.where(x > 2.0, torch.nan, x)), SETTINGS, Run()),
        lambda module, x: (module, Rows(x), SETTINGS, Run(validation=Rows(torch.where(x > 2.0, torch.nan, x)))),
        lambda module, x: (module, Rows(x), SETTINGS, Run(optimiser_state={})),
        lambda module, x: (module, Rows(x), replace(SETTINGS, one_cycle=False), Run()),
        lambda module, x: (module, Rows(x, spread=lambda x, generator: x), SETTINGS, Run()),
    ],
    ids=["many rows", "gaps", "gaps in the validation rows", "later", "one pass", "masses"],
)
def test_leaves_others_as_they_are(other, draw, x):
    assert not span.is_narrow(*other(make_module(draw), x))


def test_leaves_other_models_as_they_are(draw, x):
    for options in ({"scale": "constant"}, {"kind": VAEModule}):
        assert not span.is_narrow(make_module(draw, **options), Rows(x), SETTINGS, Run())
    narrow = make_module(draw).encoder
    for n_columns in (199, 200):
        module = AutoencoderModule(
            replace(narrow, n_inputs=n_columns), SkipMLP(N_COMPONENTS, n_columns), Gaussian(n_columns, scale="unit")
        )
        assert span.is_narrow(module, Rows(x[:, :n_columns]), SETTINGS, Run()) is (n_columns == 200)


def test_operations_are_those_of_the_networks_that_train(draw, x):
    """In proportion to the weights, which stand in about as many products each."""
    module = make_module(draw)
    wide = step_flops(module, Rows(x), SETTINGS, Run(optimiser_state={}))
    assert wide == 6.0 * 20 * 2.0 * (2 * (210 * 6 + 6 * 5 + 5 * 3 + 210 * 3))
    assert step_flops(module, Rows(x), SETTINGS, Run()) == 6.0 * 20 * 2.0 * (2 * (20 * 6 + 30 + 15 + 20 * 3))


# --- The narrow module ----------------------------------------------------------------------------------------------


@each_network
@each_count
def test_narrow_module_is_the_wide_one_within_the_span(hidden, n_networks, draw, x):
    """Outputs in the coordinates, and the derivatives by every weight."""
    wide = make_module(draw, hidden=hidden, n_networks=n_networks)
    found = span._Span.of(wide, x, 0)
    axes = found.axes
    torch.testing.assert_close(axes.T @ axes, torch.eye(9).double(), rtol=0.0, atol=1e-10)
    one, other = wide.converted(torch.float64), found.narrow.converted(torch.float64)
    rows = x.double().expand(n_networks, -1, -1) if n_networks > 1 else x.double()
    outputs = one.decode(one.encode_inputs(rows)) @ axes
    torch.testing.assert_close(other.decode(other.encode_inputs(rows @ axes)), outputs, rtol=0.0, atol=1e-5)
    found.store()  # outputs beyond the span, which no narrow module has, would move the wide one's derivatives
    one = wide.converted(torch.float64)
    derivatives = []
    for module, given in ((one, rows), (other, rows @ axes)):
        module.flat.requires_grad_()
        derivatives.append(torch.autograd.grad(module.loss(Batch(given, given)).sum(), module.flat)[0])
    largest = float(derivatives[1].abs().max())
    for narrow_part, wide_part, side in found._pairs(derivatives[1], derivatives[0]):
        expected = wide_part if side is None else span._product(axes.T, wide_part, side)
        torch.testing.assert_close(narrow_part, expected, rtol=0.0, atol=1e-5 * largest)


@each_count
def test_store_changes_nothing_that_lies_in_the_span(n_networks, draw, x):
    """A start from the rows themselves lies in it, but for the hidden weights' part that no row meets."""
    wide = make_module(draw, n_networks=n_networks)
    for part in (wide.parts()[1].skip, wide.parts()[1].weights[-1]):
        part.data.copy_(draw(*part.shape[:-1], N_ROWS).float() @ x / 10)
    wide.parts()[1].biases[-1].data.copy_(x.mean(dim=0))
    rows = x.expand(n_networks, -1, -1) if n_networks > 1 else x
    before = wide.reconstruct(rows)
    found = span._Span.of(wide, x, 0)
    found.store()
    torch.testing.assert_close(wide.reconstruct(rows), before, rtol=1e-4, atol=1e-4)


# --- Trainings ------------------------------------------------------------------------------------------------------


@each_network
@each_count
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("validates", [False, True])
def test_losses_are_those_of_the_wide_module(hidden, n_networks, weighted, validates, draw, x):
    """Constants and what validation rows hold beyond the span included; measured: 2e-7 of a loss at most."""
    module = make_module(draw, hidden=hidden, n_networks=n_networks)
    rows = Rows(x, draw(N_ROWS).abs().float() if weighted else None)
    validation = Rows(draw(7, N_COLUMNS).float(), draw(7).abs().float() if weighted else None) if validates else None
    seeds = list(range(n_networks))
    history, _ = train(module, rows, SETTINGS, seeds, Run(validation=validation))
    assert history.best_loss == pytest.approx(mean_loss(module, validation or rows), rel=1e-5)
    assert history.loss[-1] < history.loss[0]
    constant = 0.5 * N_COLUMNS * math.log(2.0 * math.pi)
    assert history.loss[-1] > constant
    assert len(history.validation) == (len(history.loss) if validates else 0)


def test_weights_of_the_moment_can_be_stored(draw, x):
    module, seen = make_module(draw), []

    def on_epoch(history):
        before = module.flat.detach().clone()
        history.store()
        seen.append((len(history.loss), history.loss[-1], mean_loss(module, Rows(x))))
        assert not torch.equal(module.flat, before)

    history, _ = train(module, Rows(x), SETTINGS, [0], Run(on_epoch=on_epoch))
    assert [n for n, *_ in seen] == [1, 2, 3, 4, 5, 6]
    assert [loss for _, loss, _ in seen] == history.loss
    assert seen[-1][2] == pytest.approx(history.best_loss, rel=1e-5)


def test_training_goes_on_with_the_wide_module(draw, x):
    """From the moments in its layout: those of the weights that no column stands in are as they were."""
    module = make_module(draw)
    _, state = train(module, Rows(x), SETTINGS, [0])
    assert state["first"].shape == state["second"].shape == module.flat.shape
    assert float(state["n_steps"]) == 6.0
    assert (state["second"] >= 0.0).all()
    before = mean_loss(module, Rows(x))
    history, _ = train(module, Rows(x), SETTINGS, [0], Run(optimiser_state=state))
    assert history.best_loss < before


def test_fit_is_the_same_for_rows_in_any_order(rng):
    X = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 240)) + 0.3 * rng.normal(size=(60, 240))
    fresh = X[:7] + 0.5 * rng.normal(size=(7, 240))
    one, other = (AutoencoderTransformer(random_state=0).fit(rows) for rows in (X, X[rng.permutation(60)]))
    np.testing.assert_array_equal(one.score_samples(fresh), other.score_samples(fresh))
    assert one.loss_curve_ == other.loss_curve_


def test_fit_is_as_good_as_one_in_all_columns(rng, monkeypatch):
    """By reconstructions of fresh rows. Measured with the seeds 0 to 5: 0.951 to 0.965 of the error."""

    def rows(n):
        return np.tanh(rng.normal(size=(n, 4)) @ loadings) + 0.1 * rng.normal(size=(n, 400))

    loadings = np.random.RandomState(0).normal(size=(4, 400)) / 2
    X, fresh = rows(120), rows(200)

    def error():
        model = AutoencoderTransformer(random_state=0).fit(X)
        return float(np.square(model.reconstruct(fresh) - fresh).mean())

    within = error()
    monkeypatch.setattr(span, "_LEAST_COLUMNS", 10**9)
    assert within < error()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # 30 epochs do
def test_early_stopping_and_several_networks_train_in_the_span(rng, trained_columns):
    X = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 240)) + 0.3 * rng.normal(size=(60, 240))
    model = AutoencoderTransformer(random_state=0, early_stopping=True, n_networks=2, max_iter=30).fit(X)
    (n_columns,) = trained_columns
    assert n_columns < 60
    assert len(model.validation_curve_) == model.n_iter_ == len(model.loss_curve_)
    assert model.best_loss_ == pytest.approx(min(model.validation_curve_))
