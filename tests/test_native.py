"""The native step against autograd, in whole fits, in threads and children, and where its object cannot be used."""

import _ctypes
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from skvae import AutoencoderTransformer, VAETransformer
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import LOG_VARIANCE_RANGE, AutoencoderModule, Batch, VAEModule
from skvae._support.device import thread_limit
from skvae._support.jobs import with_jobs
from skvae._training import native
from skvae._training.engine import Engine
from skvae._training.optimiser import Adam
from skvae._training.steps import STEPS
from skvae.likelihoods import (
    Autoregressive,
    Bernoulli,
    Categorical,
    ColumnGroups,
    Gaussian,
    Mixture,
    Poisson,
    StudentT,
)
from skvae.likelihoods.autoregressive import masked_network

SOURCE = Path(native.__file__).with_name("native.c")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # a few epochs do
needs_object = pytest.mark.skipif(
    native.native_library() is None,
    reason="there is no native object: no C compiler made one, or SKVAE_NATIVE=0",
)

KINDS = {"autoencoder": AutoencoderModule, "vae": VAEModule}


def levels(n):
    """Columns of one level, of two, of as many as fill a vector, and of more."""
    return [(1, 2, 16, 3, 37)[column % 5] for column in range(n)]


def mixed(n, scale="dependent"):
    """Families whose columns lie between each other's, but those of the last."""
    columns = [range(0, n - 1, 4), range(1, n - 1, 4), range(2, n - 1, 4), range(3, n - 1, 4), [n - 1]]
    columns = [numbers for numbers in map(list, columns) if numbers]
    first, *counts, last = map(len, columns)
    real = StudentT(first, scale="dependent") if scale == "dependent" else Gaussian(first, scale=scale)
    kinds = [lambda k: Categorical(levels(k)), Bernoulli, lambda k: Gaussian(k, scale=scale, floor=0.1)]
    between = [kind(count) for kind, count in zip(kinds, counts, strict=False)]
    return ColumnGroups([real, *between, Categorical([5] * last)], columns)


def mixture(n, scale="dependent", n_members=3):
    return Mixture(StudentT(n_members * n, scale=scale, floor=0.1), n_members)


def joined(n):
    """Mixtures, levels and shares in turn, of which no column is the last of its kind alone."""
    kinds = {mixture: range(0, n, 3), lambda k: Categorical(levels(k)): range(1, n, 3), Bernoulli: range(2, n, 3)}
    groups = [(kind(len(columns)), columns) for kind, columns in kinds.items() if columns]
    return Autoregressive(ColumnGroups(*zip(*groups, strict=True)), [7, 20])


FAMILIES = {
    "gaussian unit": lambda n: Gaussian(n, scale="unit"),
    "gaussian constant": lambda n: Gaussian(n, scale="constant"),
    "gaussian dependent": lambda n: Gaussian(n, scale="dependent"),
    "student_t dependent": lambda n: StudentT(n, scale="dependent"),
    "student_t constant": lambda n: StudentT(n, scale="constant", floor=0.1),
    "bernoulli": Bernoulli,
    "categorical": lambda n: Categorical(levels(n)),
    "mixed, dependent": mixed,
    "mixed, constant": lambda n: mixed(n, "constant"),
    "mixed, unit": lambda n: mixed(n, "unit"),
    "mixture dependent": mixture,
    "mixture constant": lambda n: mixture(n, "constant", 8),
    "autoregressive": lambda n: Autoregressive(mixture(n), [6]),
    "autoregressive, linear": lambda n: Autoregressive(Gaussian(n), []),
    "autoregressive, mixed": joined,
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_family = pytest.mark.parametrize("family", FAMILIES)
# Those of which rows may have several draws.
DRAWN = [family for family in FAMILIES if not family.startswith(("mixture", "autoregressive"))]


def make_module(
    draw, kind, family="gaussian unit", n_features=3, *, hidden=(5, 4), activation="silu", n_networks=1, n_components=2
):
    """In float32, with parameters of a spread at which no output runs away."""
    likelihood = FAMILIES[family](n_features)
    heads = 2 if kind == "vae" else 1
    encoder = SkipMLP(n_features, heads * n_components, hidden, activation, n_networks)
    decoder = SkipMLP(n_components, likelihood.n_outputs, hidden[::-1], activation, n_networks)
    n_parameters = encoder.n_parameters + decoder.n_parameters + n_networks * likelihood.n_free
    flat = 0.6 * draw(n_parameters) / max(1, *hidden, n_features) ** 0.5
    return KINDS[kind](encoder, decoder, likelihood, flat.float())


def in_domain(likelihood, x):
    """Codes where columns hold levels, probabilities where they hold shares."""
    x = x.clone()
    for column, (kind, width) in enumerate(zip(likelihood.columns_hold, likelihood.widths, strict=True)):
        share = torch.sigmoid(3.0 * x[..., column])
        if kind != "real":
            x[..., column] = share if kind == "share" else (share * width).long().clamp(max=width - 1)
    return x


JOINED = "autoregressive, mixed"


def make_batch(draw, module, n_rows, *, dropout=False, noisy=True, gaps=0.0, weighted=False, n_draws=1):
    lead = () if module.n_networks == 1 else (module.n_networks,)
    inputs = draw(*lead, n_rows, module.encoder.n_inputs).float()
    x = in_domain(module.likelihood, inputs)
    mask = torch.sigmoid(draw(*x.shape)) >= gaps if gaps else None
    weight = draw(*lead, n_rows).abs().float() if weighted else None
    noise = draw(*lead, n_rows, n_draws * module.n_noise).float() if module.n_noise and noisy else None
    factors = tuple(
        [(draw(*lead, n_rows, width) > -0.5).float() / 0.7 for width in net.hidden] if dropout else []
        for net in (module.encoder, module.decoder)
    )
    x = x if mask is None else torch.where(mask, x, torch.nan)
    told = module.likelihood.sees_columns and isinstance(module, VAEModule)
    shown = draw(*x.shape) > -0.5 if told else None
    return Batch(x, inputs + 0.1 * draw(*inputs.shape).float(), weight, mask, noise, factors, shown)


@torch.no_grad()
def stepped(module, batch, kl_weight=1.0, entry=native.NATIVE):
    brings = {"weighted": batch.weight is not None, "masked": batch.mask is not None}
    n_draws = batch.noise.shape[-1] // module.n_noise if module.n_noise and batch.noise is not None else 1
    engine = Engine(module, [entry], dropout=len(batch.dropout[0]) > 0, n_draws=n_draws, **brings)
    engine.gradient.fill_(torch.nan)
    loss = engine.step(batch.x.shape[-2])(batch, kl_weight).clone()
    return loss, engine.gradient


def by_autograd(module, batch, kl_weight=1.0):
    """In float64, of the same numbers."""
    tensors = [tensor.double() if tensor is not None and tensor.is_floating_point() else tensor for tensor in batch[:5]]
    dropout = tuple([factor.double() for factor in factors] for factors in batch.dropout)
    return stepped(module.converted(torch.float64), Batch(*tensors, dropout, batch.shown), kl_weight, STEPS[-1])


def assert_finite_and_as_by_autograd(module, batch):
    loss, gradient = stepped(module, batch)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert_as_by_autograd(module, batch)


def assert_as_by_autograd(module, batch, kl_weight=1.0):
    """To 1e-5 of the largest number, at least of 1. Measured with the seeds 0 to 3: at most 1e-6 of it."""
    for got, wanted in zip(stepped(module, batch, kl_weight), by_autograd(module, batch, kl_weight), strict=True):
        largest = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(got.double(), wanted, rtol=0.0, atol=1e-5 * largest)


# --- Which trainings ------------------------------------------------------------------------------------------------


def supported(module, **asked):
    with thread_limit(0.0):
        return native.NATIVE.supports(Engine(module, STEPS, **asked))


@needs_object
@each_kind
@each_family
def test_takes_plain_trainings(kind, family, draw):
    assert STEPS[0] is native.NATIVE
    assert supported(make_module(draw, kind, family))
    assert supported(make_module(draw, kind, family, n_networks=2), dropout=True, weighted=True, masked=True)


@needs_object
@pytest.mark.parametrize("family", DRAWN)
def test_takes_several_draws(family, draw):
    assert supported(make_module(draw, "vae", family, n_networks=2), n_draws=5, weighted=True, masked=True)


@needs_object
@pytest.mark.parametrize("family", ["mixture dependent", "autoregressive, linear", JOINED])
def test_leaves_several_draws_of_other_families_to_torch(family, draw):
    assert not supported(make_module(draw, "vae", family), n_draws=2)


@needs_object
@pytest.mark.parametrize("asked", [{"n_draws": 2, "dropout": True}, {"learns_prior": True}])
def test_leaves_other_trainings_to_torch(asked, draw):
    assert not supported(make_module(draw, "vae"), **asked)


@needs_object
@pytest.mark.parametrize(
    "likelihood",
    [
        Gaussian(3, scale="shared"),
        StudentT(3, scale="shared"),
        Poisson(3),
        ColumnGroups([Gaussian(2), Poisson(1)]),
        Mixture(Gaussian(6), 2),
        mixture(3, "shared"),
        mixture(3, n_members=9),
        Autoregressive(Poisson(3), [4]),
        Autoregressive(Gaussian(3), [2] * 9),
    ],
    ids=[
        "shared scale",
        "shared scale of t",
        "counts",
        "counts among others",
        "mixture of Gaussians",
        "mixture of one scale",
        "nine members",
        "counts that see each other",
        "nine layers between columns",
    ],
)
def test_leaves_other_families_to_torch(likelihood, draw):
    encoder, decoder = SkipMLP(3, 2), SkipMLP(2, likelihood.n_outputs)
    flat = torch.zeros(encoder.n_parameters + decoder.n_parameters + likelihood.n_free)
    assert not supported(AutoencoderModule(encoder, decoder, likelihood, flat))


@needs_object
def test_leaves_a_likelihood_of_the_users_to_torch(draw):
    class Mine(Gaussian):
        pass

    module = make_module(draw, "autoencoder")
    assert not supported(AutoencoderModule(module.encoder, module.decoder, Mine(3, scale="unit"), module.flat.detach()))


@needs_object
def test_leaves_other_networks_and_precisions_to_torch(draw):
    assert not supported(make_module(draw, "autoencoder", activation="gelu"))
    assert not supported(make_module(draw, "autoencoder", hidden=(2,) * 9))
    assert not supported(make_module(draw, "autoencoder").converted(torch.float64))


@needs_object
def test_leaves_reduced_precision_to_torch(draw):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert not supported(make_module(draw, "autoencoder"))
    finally:
        torch.set_float32_matmul_precision(before)


# --- Gradients ------------------------------------------------------------------------------------------------------


@needs_object
@each_kind
@each_family
@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("hidden", [(), (5, 4), (40,)], ids=["linear", "deep", "wide"])
@pytest.mark.parametrize("dropout", [False, True])
def test_gradient_equals_autograd(kind, family, n_networks, hidden, dropout, draw):
    """Of 18 columns, which fill no number of vectors."""
    module = make_module(draw, kind, family, 18, hidden=hidden, n_networks=n_networks)
    assert_as_by_autograd(module, make_batch(draw, module, 37, dropout=dropout), 0.7)


@needs_object
@each_kind
@each_family
@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize(
    "brings",
    [{"gaps": 0.3}, {"weighted": True}, {"gaps": 0.9, "weighted": True}],
    ids=["gaps", "weights", "many gaps and weights"],
)
def test_gradient_with_gaps_and_weights_equals_autograd(kind, family, n_networks, brings, draw):
    """Of more rows than go through the layers together, some of which have no cell."""
    module = make_module(draw, kind, family, 7, n_networks=n_networks)
    assert_as_by_autograd(module, make_batch(draw, module, 130, **brings), 0.7)


@needs_object
@pytest.mark.parametrize("family", DRAWN)
@pytest.mark.parametrize("n_networks", [1, 3])
@pytest.mark.parametrize("hidden", [(), (5, 4), (40,)], ids=["linear", "deep", "wide"])
@pytest.mark.parametrize(
    "brings",
    [{}, {"gaps": 0.3}, {"weighted": True}, {"gaps": 0.9, "weighted": True}],
    ids=["plain", "gaps", "weights", "many gaps and weights"],
)
@pytest.mark.parametrize(("n_rows", "n_draws"), [(130, 5), (41, 3), (3, 100)])
def test_gradient_of_several_draws_equals_autograd(family, n_networks, hidden, brings, n_rows, n_draws, draw):
    """Of more draws than go through the decoder together, of a row or of all. Measured: at most 2e-6 of the largest."""
    module = make_module(draw, "vae", family, 18, hidden=hidden, n_networks=n_networks)
    assert_as_by_autograd(module, make_batch(draw, module, n_rows, n_draws=n_draws, **brings))


@needs_object
@pytest.mark.parametrize("activation", ["identity", "tanh", "silu"])
@pytest.mark.parametrize("n_components", [1, 16, 37], ids=lambda n: f"{n} components")
def test_gradient_of_several_draws_of_any_code_equals_autograd(activation, n_components, draw):
    module = make_module(draw, "vae", "student_t constant", 7, n_components=n_components, activation=activation)
    assert_as_by_autograd(module, make_batch(draw, module, 30, n_draws=4, gaps=0.3))


@needs_object
def test_rows_without_a_cell_count_nothing_with_several_draws(draw):
    """Whatever their draws are: the density of no cell is one."""
    module = make_module(draw, "vae", "mixed, dependent", 7)
    batch = make_batch(draw, module, 6, n_draws=3, gaps=0.3)
    batch.mask[1:] = False
    wanted = stepped(module, batch)
    got = stepped(module, batch._replace(noise=torch.cat([batch.noise[:1], draw(5, batch.noise.shape[1]).float()])))
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


@needs_object
@pytest.mark.parametrize("cell", [torch.inf, 1e30])
def test_bound_that_is_not_finite_shows(cell, draw):
    module = make_module(draw, "vae", "gaussian constant", 7)
    batch = make_batch(draw, module, 6, n_draws=3)
    batch.inputs[2, 1] = cell
    assert not stepped(module, batch)[0].isfinite()


@needs_object
@each_kind
@pytest.mark.parametrize("family", ["mixed, dependent", JOINED])
def test_value_of_a_missing_cell_does_not_matter(kind, family, draw):
    module = make_module(draw, kind, family, 7)
    batch = make_batch(draw, module, 20, gaps=0.3)
    wanted = stepped(module, batch)
    for value in (0.0, -7.0, torch.inf):
        got = stepped(module, batch._replace(x=torch.where(batch.mask, batch.x, value)))
        assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


@needs_object
@each_kind
@pytest.mark.parametrize("family", ["mixed, dependent", JOINED])
def test_integer_weights_repeat_rows(kind, family, draw):
    """Weight 0 leaves a row out, which may then hold any number."""
    module = make_module(draw, kind, family, 7)
    batch = make_batch(draw, module, 12)
    times = torch.arange(12) % 3
    parts = [None if part is None else part.repeat_interleave(times, 0) for part in (*batch[:5], batch.shown)]
    repeated = Batch(*parts[:5], shown=parts[5])
    for got, wanted in zip(
        stepped(module, batch._replace(weight=times.float())), stepped(module, repeated), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * max(1.0, float(wanted.abs().max())))


@needs_object
@pytest.mark.parametrize("size", [1.0, 100.0, 1e4, 1e8])
@pytest.mark.parametrize("family", ["bernoulli", "categorical"])
def test_logits_of_any_size_have_their_loss(family, size, draw):
    """By the decoder's biases alone: the loss is finite, and as in float64."""
    module = make_module(draw, "autoencoder", family, 10, hidden=())
    module.flat.detach().zero_()
    biases = module.parts()[1].biases[-1].data
    biases.copy_(size * draw(len(biases)))
    assert_finite_and_as_by_autograd(module, make_batch(draw, module, 9))


@needs_object
def test_probabilities_of_levels_keep_their_digits(draw):
    """Of a level that is all but certain: the derivative of each other is its probability, e^-o for one of so small."""
    module = make_module(draw, "autoencoder", "categorical", 2, hidden=())
    module.flat.detach().zero_()
    module.parts()[1].biases[-1].data.copy_(torch.tensor([0.0, 30.0, 0.0]))
    batch = make_batch(draw, module, 4)
    batch.x.copy_(torch.tensor([0.0, 0.0]).expand(4, 2))
    loss, gradient = stepped(module, batch)
    d = module.parts(Engine(module, STEPS).unpack(gradient))[1].biases[-1]
    assert d[0] == 0.0  # of one level
    torch.testing.assert_close(d[2], torch.tensor(4.0 * math.exp(-30.0)), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(loss, torch.tensor(0.0), rtol=0.0, atol=1e-6)


@needs_object
@pytest.mark.parametrize("size", [1.0, 100.0, 1e4, 1e8])
@pytest.mark.parametrize("scale", ["dependent", "constant"])
def test_members_far_apart_have_their_loss(scale, size, draw):
    """By the decoder's biases alone: of any logits, and of a member that is all but certain."""
    module = make_module(draw, "autoencoder", f"mixture {scale}", 5, hidden=())
    module.flat.detach().zero_()
    biases, n_cells = module.parts()[1].biases[-1].data, module.likelihood.likelihood.n_columns
    biases[-n_cells:] = size * draw(n_cells)
    biases[:n_cells] = min(size, 1e4) * draw(n_cells)
    assert_finite_and_as_by_autograd(module, make_batch(draw, module, 9))


@needs_object
@pytest.mark.parametrize("brings", [{}, {"gaps": 0.3}], ids=["complete", "gaps"])
@pytest.mark.parametrize("size", [30.0, 2e3])
def test_columns_see_far_cells_as_autograd_does(size, brings, draw):
    """Beyond a thousand all look alike. Measured with the seeds 0 to 5: at most 4e-6 of the largest number."""
    module = make_module(draw, "vae", "autoregressive", 5)
    batch = make_batch(draw, module, 20, **brings)
    assert_as_by_autograd(module, batch._replace(x=size * batch.x))


@needs_object
def test_masked_weights_get_no_gradient_and_do_not_matter(draw):
    """A column's outputs know nothing of itself, nor of those after it."""
    module = make_module(draw, "vae", JOINED, 9)
    batch, likelihood = make_batch(draw, module, 20), module.likelihood
    masks = torch.cat([mask.flatten() for mask in masked_network(likelihood, module.flat).masks])
    first = module.flat.numel() - likelihood.n_free + likelihood.likelihood.n_free
    loss, gradient = stepped(module, batch)
    d = Engine(module, STEPS).unpack(gradient)[first:][: len(masks)]
    assert not d[masks == 0.0].any()
    assert d[masks == 1.0].any()
    module.flat.detach()[first:][: len(masks)] += 5.0 * (1.0 - masks)
    changed, changed_gradient = stepped(module, batch)
    assert torch.equal(changed, loss)
    assert torch.equal(changed_gradient, gradient)


@needs_object
@pytest.mark.parametrize(("weighted", "masked"), [(False, True), (True, False)])
def test_what_the_engine_does_not_know_of_is_refused(weighted, masked, draw):
    module = make_module(draw, "autoencoder")
    batch = make_batch(draw, module, 6, gaps=0.3, weighted=True)
    with pytest.raises(ValueError, match="^A batch may bring") as caught:
        Engine(module, STEPS[:1], weighted=weighted, masked=masked).step(6)(batch, 1.0)
    assert str(caught.value) == (
        "A batch may bring weights and a mask where its engine says so, but its engine has "
        f"weighted={weighted}, masked={masked}. Make the engine with those that the batches bring."
    )


@needs_object
@pytest.mark.parametrize("code", [-1.0, 5.0, torch.nan, torch.inf])
def test_code_without_a_level_shows(code, draw):
    """And writes nowhere."""
    module = make_module(draw, "autoencoder", "mixed, unit", 7)
    batch = make_batch(draw, module, 6)
    batch.x[2, 6] = code
    assert not stepped(module, batch)[0].isfinite()


@needs_object
@each_kind
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "silu"])
@pytest.mark.parametrize("n_rows", [1, 5, 6, 256, 300], ids=lambda n: f"{n} rows")
def test_gradient_of_each_activation_equals_autograd(kind, activation, n_rows, draw):
    """Of fewer rows than the kernel takes at once, and of more than go through the layers together.

    Of few units with relu: a value within rounding of its kink has one slope in float32 and another in float64.
    """
    hidden = (3, 2) if activation == "relu" else (20, 70)
    module = make_module(draw, kind, "student_t dependent", hidden=hidden, activation=activation)
    assert_as_by_autograd(module, make_batch(draw, module, n_rows, dropout=True))


@needs_object
def test_gradient_without_noise_equals_autograd(draw):
    module = make_module(draw, "vae", "gaussian constant")
    assert_as_by_autograd(module, make_batch(draw, module, 6, noisy=False))


@needs_object
@pytest.mark.parametrize("bias", [40.0, -40.0])
def test_clamped_log_variances_get_no_gradient(bias, draw):
    module = make_module(draw, "vae", "gaussian constant")
    module.parts()[0].biases[-1].data[2:] = bias
    batch = make_batch(draw, module, 6)
    assert_as_by_autograd(module, batch)
    engine = Engine(module, STEPS)
    d_encoder = module.parts(engine.unpack(stepped(module, batch)[1]))[0]
    assert not d_encoder.biases[-1][2:].any()
    assert LOG_VARIANCE_RANGE[0] > -40.0
    assert LOG_VARIANCE_RANGE[1] < 40.0


@needs_object
@each_kind
@pytest.mark.parametrize("size", [1e-3, 30.0, 1e4])
def test_far_cells_equal_autograd(kind, size, draw):
    """Tails, clipped scales and saturated units."""
    module = make_module(draw, kind, "student_t dependent")
    batch = make_batch(draw, module, 20)
    assert_as_by_autograd(module, batch._replace(x=size * batch.x, inputs=size * batch.inputs))


@needs_object
def test_columns_apart_in_memory_equal_autograd(draw):
    module = make_module(draw, "autoencoder")
    batch = make_batch(draw, module, 6)
    assert_as_by_autograd(module, batch._replace(x=batch.x.T.contiguous().T))


@needs_object
@each_kind
def test_what_is_not_finite_shows(kind, draw):
    """So that the training goes back to its best weights."""
    module = make_module(draw, kind, "student_t dependent")
    batch = make_batch(draw, module, 6)
    batch.inputs[3, 1] = torch.nan
    assert not stepped(module, batch)[0].isfinite()


@needs_object
@each_kind
@each_family
def test_step_repeats_itself_to_the_bit(kind, family, draw):
    """Its buffers carry nothing from one batch to the next."""
    module = make_module(draw, kind, family, n_networks=2)
    first, other = make_batch(draw, module, 300, dropout=True), make_batch(draw, module, 300, dropout=True)
    engine = Engine(module, STEPS[:1], dropout=True)
    with torch.no_grad():
        step = engine.step(300)
        loss, gradient = step(first, 0.5).clone(), engine.gradient.clone()
        step(other, 1.0)
        assert not torch.equal(engine.gradient, gradient)
        assert torch.equal(step(first, 0.5), loss)
    assert torch.equal(engine.gradient, gradient)


@needs_object
@each_kind
def test_scratch_memory_grows_with_the_columns_alone(kind, draw):
    """Twice the columns take at most twice the floats: no matrix of columns by columns."""
    modules = [make_module(draw, kind, "student_t dependent", n_features) for n_features in (2000, 4000)]
    some, twice = (Engine(module, STEPS[:1]).step(6)._scratch.numel() for module in modules)
    assert some < twice <= 2 * some


@needs_object
@each_kind
@pytest.mark.parametrize("hidden", [(), (3,), (70, 5), (5, 70)])
def test_gradient_of_few_columns_and_wide_layers_equals_autograd(kind, hidden, draw):
    module = make_module(draw, kind, "gaussian dependent", 40, hidden=hidden)
    assert_as_by_autograd(module, make_batch(draw, module, 20))


# --- Several steps --------------------------------------------------------------------------------------------------


def chained(module, groups, rates, kl_weights, weight_decay=0.0, max_norm=math.inf, **asked):
    """Parameters and losses after all groups of batches, and the optimiser."""
    with torch.no_grad():
        engine = Engine(module, STEPS[:1], **asked)
        adam = Adam(engine.values, gradient=engine.gradient)
        chain, losses, first = native.NATIVE.chain(engine, adam, weight_decay, max_norm), [], 0
        for batches in groups:
            here, last = engine.values.new_empty(len(batches), module.n_networks), first + len(batches)
            chain(batches, rates[first:last], kl_weights[first:last], here)
            losses, first = [*losses, *here], last
        return engine, adam, torch.stack(losses)


@needs_object
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("max_norm", [math.inf, 0.05])
@pytest.mark.parametrize("n_networks", [1, 3])
def test_chain_of_steps_by_its_formula(weight_decay, max_norm, n_networks, draw):
    """Kingma & Ba's algorithm 1 in NumPy and float64, with decoupled weight decay, from each step's own gradient.

    Each network's gradient is bounded by itself.
    """
    module = make_module(draw, "vae", "gaussian constant", n_networks=n_networks)
    batches = [make_batch(draw, module, n_rows) for n_rows in (40, 40, 7)]
    rates, kl_weights = [0.1, 0.03, 0.01], [0.2, 0.5, 1.0]
    with torch.no_grad():
        engine = Engine(module, STEPS[:1])
        owner = torch.zeros_like(engine.values)
        for block in engine.blocks(owner) if n_networks > 1 else []:
            block += torch.arange(n_networks).view(-1, *[1] * (block.dim() - 1))
        values = engine.values.double().numpy().copy()
        first, second = np.zeros(len(values)), np.zeros(len(values))
        losses = []
        for step, (batch, rate, kl_weight) in enumerate(zip(batches, rates, kl_weights, strict=True), start=1):
            losses.append(engine.step(batch.x.shape[-2])(batch, kl_weight).reshape(-1).clone())
            g = engine.gradient.double().numpy() / batch.x.shape[-2]
            for network in range(n_networks):
                mine = (owner == network).numpy()
                g[mine] *= min(1.0, max_norm / np.linalg.norm(g[mine]))
            first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g**2
            values *= 1.0 - rate * weight_decay
            values -= rate * first / (1.0 - 0.9**step) / (np.sqrt(second / (1.0 - 0.99**step)) + 1e-8)
            engine.values.copy_(torch.from_numpy(values))
    got, adam, got_losses = chained(module, [batches], rates, kl_weights, weight_decay, max_norm)
    np.testing.assert_allclose(got.values.numpy(), values, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(got_losses, torch.stack(losses), rtol=1e-5, atol=0.0)
    assert float(adam.n_steps) == 3.0


PLAIN, GENERAL, SEEN = (
    ("student_t dependent", {}, {}),
    (
        "mixed, dependent",
        {"gaps": 0.3, "weighted": True},
        {"masked": True, "weighted": True},
    ),
    (JOINED, {"gaps": 0.3, "weighted": True}, {"masked": True, "weighted": True}),
)
each_table = pytest.mark.parametrize(
    ("family", "brings", "asked"), [PLAIN, GENERAL, SEEN], ids=["plain", "general", "seen"]
)


@needs_object
@each_table
def test_groups_of_batches_do_not_matter(family, brings, asked, draw):
    """One call for all, one for each, and a state that is loaded in between: the same bits."""
    module, asked = make_module(draw, "vae", family, 7), {"dropout": True} | asked
    batches = [make_batch(draw, module, n_rows, dropout=True, **brings) for n_rows in (9, 9, 9, 4)]
    course = [0.1, 0.2, 0.1, 0.05], [0.1, 0.4, 0.7, 1.0]
    whole, adam, losses = chained(module, [batches], *course, 0.01, 1.0, **asked)
    parts, _, part_losses = chained(module, [[batch] for batch in batches], *course, 0.01, 1.0, **asked)
    assert torch.equal(whole.values, parts.values)
    assert torch.equal(losses, part_losses)
    half, half_adam, _ = chained(module, [batches[:2]], *course, 0.01, 1.0, **asked)
    with torch.no_grad():
        resumed = Adam(half.values, gradient=half.gradient)
        resumed.load(half_adam.state())
        native.NATIVE.chain(half, resumed, 0.01, 1.0)(batches[2:], course[0][2:], course[1][2:], losses[2:].clone())
    assert torch.equal(half.values, whole.values)
    assert all(torch.equal(resumed.state()[name], value) for name, value in adam.state().items())


@needs_object
@each_table
def test_networks_may_be_trained_by_any_threads(family, brings, asked, draw):
    """Each has its own memory to work in: in one thread, in two, and in two with more to do than their number."""
    module = make_module(draw, "vae", family, 7, n_networks=5)
    batches = [make_batch(draw, module, n_rows, dropout=True, **brings) for n_rows in (130, 130, 7)]
    course = [0.1, 0.2, 0.1], [0.1, 0.4, 1.0]
    work = with_jobs(lambda _: chained(module, [batches], *course, 0.01, 1.0, dropout=True, **asked))
    (one, adam, losses), (two, other_adam, other_losses) = (work(SimpleNamespace(n_jobs=n)) for n in (1, 2))
    assert torch.equal(two.values, one.values)
    assert torch.equal(other_losses, losses)
    assert all(torch.equal(other_adam.state()[name], value) for name, value in adam.state().items())


@needs_object
def test_chain_reads_batches_that_come_again_anew(draw):
    """The feeder fills the same tensors again and again; where one has to be copied first, the copy is made again."""
    module = make_module(draw, "autoencoder")
    plain = make_batch(draw, module, 6)
    turned = plain._replace(x=plain.x.T.contiguous().T, inputs=plain.inputs.T.contiguous().T)
    for group in ([plain], [turned]):
        with torch.no_grad():
            engine = Engine(module, STEPS[:1])
            chain = native.NATIVE.chain(engine, Adam(engine.values, gradient=engine.gradient), 0.0, math.inf)
            loss = torch.zeros(1)
            chain(group, [0.0], [1.0], loss)
            group[0].x.copy_(2.0 * group[0].x)
            group[0].inputs.copy_(draw(6, 3))
            chain(group, [0.0], [1.0], loss)
        torch.testing.assert_close(loss[0].double(), by_autograd(module, group[0])[0], rtol=1e-5, atol=0.0)


@needs_object
def test_remembered_groups_are_bounded(draw, monkeypatch):
    monkeypatch.setattr(native, "_MAX_BOUND", 3)
    module = make_module(draw, "autoencoder")
    with torch.no_grad():
        engine = Engine(module, STEPS[:1])
        chain = native.NATIVE.chain(engine, Adam(engine.values, gradient=engine.gradient), 0.0, math.inf)
        for group in [[make_batch(draw, module, 6)] for _ in range(8)]:
            chain(group, [0.1], [1.0], torch.zeros(1))
            assert len(chain._bound) <= 3


@needs_object
@pytest.mark.parametrize("kind", KINDS)
def test_chain_shows_what_is_not_finite(kind, draw):
    """The loss of a later batch, however the gradient's norm is bounded."""
    module = make_module(draw, kind)
    broken = make_batch(draw, module, 5)
    broken.inputs[2, 1] = torch.inf
    _, _, losses = chained(module, [[broken, make_batch(draw, module, 5)]], [0.1, 0.1], [1.0, 1.0], max_norm=1.0)
    assert not losses[1].isfinite().any()


# --- Whole fits -----------------------------------------------------------------------------------------------------

FITS = {
    "autoencoder": (AutoencoderTransformer, {}),
    "dependent scale": (AutoencoderTransformer, {"likelihood": "gaussian", "activation": "tanh"}),
    "VAE": (VAETransformer, {"dropout": 0.0, "latent_density": 1}),
    "VAE with dropout": (VAETransformer, {"dropout": 0.3, "latent_density": 1}),
    "three VAEs": (
        VAETransformer,
        {"n_networks": 3, "scale": "constant", "likelihood": "gaussian", "latent_density": 1},
    ),
}
JOINT = {"decoder": "autoregressive", "latent_density": 1}
FITS["autoregressive"] = (VAETransformer, JOINT)
FITS["three autoregressive"] = (VAETransformer, JOINT | {"n_networks": 3, "scale": "constant", "dropout": 0.2})
each_fit = pytest.mark.parametrize(("cls", "options"), FITS.values(), ids=FITS)


@pytest.fixture
def X(rng):
    return rng.normal(size=(300, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(300, 5))


def small(cls, options):
    return cls(**({"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 8, "random_state": 0} | options))


@pytest.fixture
def n_steps(monkeypatch):
    """Counts native steps, in a list of one number."""
    counted, run = [0], native.NativeSteps.__call__

    def count(self, batches, *course):
        counted[0] += len(batches)
        return run(self, batches, *course)

    monkeypatch.setattr(native.NativeSteps, "__call__", count)
    return counted


@needs_object
@each_fit
def test_fit_has_the_losses_of_the_torch_step(cls, options, X, monkeypatch, n_steps):
    """Measured with the seeds 0 to 3: at most 2e-7 of a loss."""
    fitted = small(cls, options).fit(X)
    assert n_steps[0] > 0
    monkeypatch.setenv("SKVAE_NATIVE", "0")
    n_steps[0] = 0
    by_torch = small(cls, options).fit(X)
    assert n_steps[0] == 0
    assert fitted.best_loss_ == pytest.approx(by_torch.best_loss_, rel=1e-3)
    np.testing.assert_allclose(fitted.loss_curve_, by_torch.loss_curve_, rtol=1e-3)


def words(X):
    """The first column as levels, as many of them as it has whole numbers."""
    levels = np.round(2.0 * X[:, 0]).astype(int).astype(str)
    return pd.DataFrame(X).rename(columns=str).assign(word=pd.Categorical(levels))


def with_gaps(X):
    return np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)


TABLES = {
    "words": lambda X: (words(X), {}),
    "gaps": lambda X: (with_gaps(X), {}),
    "few gaps": lambda X: (np.where(np.random.default_rng(0).random(X.shape) < 0.04, np.nan, X), {}),
    "weights": lambda X: (X, {"sample_weight": np.arange(len(X)) % 3}),
    "all of these": lambda X: (
        words(X).mask(np.isnan(with_gaps(np.ones((len(X), 6))))),
        {"sample_weight": np.arange(len(X)) % 3},
    ),
}


@needs_object
@pytest.mark.parametrize(
    ("cls", "table"),
    [
        *((AutoencoderTransformer, table) for table in TABLES),
        *((VAETransformer, table) for table in TABLES),  # of gaps it takes several draws
        *((JOINT, table) for table in ("words", "few gaps", "weights")),
    ],
)
def test_fit_of_any_table_has_the_losses_of_the_torch_step(cls, table, X, monkeypatch, n_steps):
    rows, brought = TABLES[table](X)
    options = {"n_networks": 2, "latent_density": 1} if cls is not AutoencoderTransformer else {"n_networks": 2}
    cls, options = (VAETransformer, options | cls) if cls is JOINT else (cls, options)
    fitted = small(cls, options).fit(rows, **brought)
    assert n_steps[0] > 0
    again = small(cls, options | {"n_jobs": 2}).fit(rows, **brought)
    assert torch.equal(again.module_.flat, fitted.module_.flat)
    monkeypatch.setenv("SKVAE_NATIVE", "0")
    n_steps[0] = 0
    by_torch = small(cls, options).fit(rows, **brought)
    assert n_steps[0] == 0
    np.testing.assert_allclose(fitted.loss_curve_, by_torch.loss_curve_, rtol=1e-3)


@needs_object
@each_fit
def test_fits_in_threads_have_the_same_bits(cls, options, X):
    alone = small(cls, options).fit(X).module_.flat
    with ThreadPoolExecutor(4) as pool:
        flats = list(pool.map(lambda _: small(cls, options).fit(X).module_.flat, range(4)))
    assert all(torch.equal(flat, alone) for flat in flats)


@needs_object
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_fit_in_a_forked_child_has_the_same_bits(X):
    alone = small(VAETransformer, {}).fit(X).module_.flat
    child = os.fork()
    if child == 0:
        same = False
        try:
            same = torch.equal(small(VAETransformer, {}).fit(X).module_.flat, alone)
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@needs_object
@pytest.mark.parametrize("cls", [AutoencoderTransformer, VAETransformer])
def test_an_interrupt_is_heard_after_the_call(cls, X, monkeypatch):
    """The weights of the epochs before stay."""
    calls, run = [], native.NativeSteps.__call__

    def interrupted(self, *given):
        calls.append(1)
        run(self, *given)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(native.NativeSteps, "__call__", interrupted)
    with pytest.warns(UserWarning, match="^Training was interrupted; the best weights so far are kept"):
        model = small(cls, {"max_iter": 50}).fit(X)
    assert 1 <= model.n_iter_ <= 2
    assert np.isfinite(model.score_samples(X)).all()


@needs_object
def test_verbose_names_the_step(X, monkeypatch, capsys):
    small(AutoencoderTransformer, {"verbose": True}).fit(X)
    assert "[AutoencoderTransformer] trains by the step 'native'" in capsys.readouterr().out.splitlines()
    monkeypatch.setenv("SKVAE_NATIVE", "0")
    small(AutoencoderTransformer, {"verbose": True}).fit(X)
    assert "[AutoencoderTransformer] trains by the step 'autoencoder'" in capsys.readouterr().out.splitlines()


@needs_object
@pytest.mark.slow
def test_other_instructions_have_the_same_loss(X, tmp_path):
    """Those of AVX2, in a process of its own: torch reads the choice once."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("this processor has no other instructions to choose")
    code = (
        "import sys, numpy as np; from skvae import AutoencoderTransformer; from skvae._training import native\n"
        "m = AutoencoderTransformer(n_components=2, hidden_layer_sizes=(8,), max_iter=8, random_state=0)\n"
        "print(m.fit(np.load(sys.argv[1])).best_loss_, native.native_library()._name)"
    )
    np.save(tmp_path / "X.npy", X)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "X.npy")],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2"},
        capture_output=True,
        text=True,
        check=True,
    )
    loss, path = done.stdout.split(maxsplit=1)
    assert path.strip().endswith("_native_avx2.so")
    assert float(loss) == pytest.approx(small(AutoencoderTransformer, {}).fit(X).best_loss_, rel=1e-3)


# --- Objects that cannot be used ------------------------------------------------------------------------------------


@pytest.fixture
def look_in(monkeypatch):
    """Makes this process look for its object anew, in a folder."""

    def look(folder):
        monkeypatch.delenv("SKVAE_NATIVE", raising=False)
        monkeypatch.setattr(native, "_FOLDER", folder)
        monkeypatch.setattr(native._Loaded, "asked", False)
        monkeypatch.setattr(native._Loaded, "library", None)

    return look


def put_everywhere(folder, source):
    for name in native.OBJECTS.values():
        shutil.copy(source, folder / f"_native_{name}.so")


def messages_of_two_fits(X):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses = [small(AutoencoderTransformer, {}).fit(X).best_loss_ for _ in range(2)]
    assert np.isfinite(losses).all()
    return [str(warning.message) for warning in caught if "ative" in str(warning.message)]


WARNING = (
    r"The native training step in '.*_native_\w+\.so' cannot be used \(.+\)\. Training goes on without, only slower\. "
    r"Install skvae anew, or set the environment variable SKVAE_NATIVE=0\."
)


def test_broken_object_is_warned_of_once(X, tmp_path, look_in, n_steps):
    broken = tmp_path / "broken"
    broken.write_bytes(b"no object at all")
    put_everywhere(tmp_path, broken)
    look_in(tmp_path)
    (message,) = messages_of_two_fits(X)
    assert re.fullmatch(WARNING, message, flags=re.DOTALL)
    assert n_steps[0] == 0


def test_foreign_object_is_warned_of_once(X, tmp_path, look_in, n_steps):
    """One that loads, and does not say what it was made from."""
    put_everywhere(tmp_path, _ctypes.__file__)
    look_in(tmp_path)
    (message,) = messages_of_two_fits(X)
    assert re.fullmatch(WARNING, message, flags=re.DOTALL)
    assert n_steps[0] == 0


@needs_object
def test_object_of_another_source_is_warned_of_once(X, tmp_path, look_in, monkeypatch, n_steps):
    """As after an update of a checkout that was not installed anew."""
    changed = tmp_path / "native.c"
    changed.write_text(SOURCE.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    look_in(native._FOLDER)
    monkeypatch.setattr(native, "_SOURCE", changed)
    (message,) = messages_of_two_fits(X)
    assert re.fullmatch(WARNING, message, flags=re.DOTALL)
    assert re.search(r"\(it was made from the source [0-9a-f]{16}, and this is the source [0-9a-f]{16}\)", message)
    assert n_steps[0] == 0


@needs_object
def test_object_without_its_source_is_warned_of_once(X, tmp_path, look_in, monkeypatch, n_steps):
    look_in(native._FOLDER)
    monkeypatch.setattr(native, "_SOURCE", tmp_path / "native.c")
    (message,) = messages_of_two_fits(X)
    assert re.fullmatch(WARNING, message, flags=re.DOTALL)
    assert n_steps[0] == 0


@needs_object
def test_headers_are_of_the_source(tmp_path):
    """Each changes the digest, and all of the folder's are read by it."""
    shutil.copy(SOURCE, tmp_path)
    alone, headers = native.digest(tmp_path / SOURCE.name), sorted(SOURCE.parent.glob("*.h"))
    included = re.findall(r'^#include "(.+)"$', SOURCE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert included == [header.name for header in headers]
    for header in headers:
        shutil.copy(header, tmp_path)
    assert native.digest(tmp_path / SOURCE.name) == native.digest(SOURCE) != alone
    assert native.native_library().skvae_source().decode() == native.digest(SOURCE)


def test_line_ends_do_not_make_another_source(tmp_path):
    for name, text in {"a": b"a\nb\n", "b": b"a\r\nb\r\n", "c": b"a\nc\n"}.items():
        (tmp_path / name).write_bytes(text)
    assert native.digest(tmp_path / "a") == native.digest(tmp_path / "b") != native.digest(tmp_path / "c")


def test_no_object_is_no_reason_to_warn(X, tmp_path, look_in, n_steps):
    look_in(tmp_path)
    assert messages_of_two_fits(X) == []
    assert n_steps[0] == 0


def test_variable_switches_it_off(X, tmp_path, look_in, monkeypatch, n_steps):
    """Before anything is looked for, or warned of."""
    (tmp_path / "broken").write_bytes(b"")
    put_everywhere(tmp_path, tmp_path / "broken")
    look_in(tmp_path)
    monkeypatch.setenv("SKVAE_NATIVE", "0")
    assert messages_of_two_fits(X) == []
    assert n_steps[0] == 0
