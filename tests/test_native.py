"""The native step against autograd, in whole fits, in threads and children, and where its object cannot be used."""

import _ctypes
import math
import os
import re
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from skvae import AutoencoderTransformer, VAETransformer
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import LOG_VARIANCE_RANGE, AutoencoderModule, Batch, VAEModule
from skvae._support.device import thread_limit
from skvae._training import native
from skvae._training.engine import Engine
from skvae._training.optimiser import Adam
from skvae._training.steps import STEPS
from skvae.likelihoods import ColumnGroups, Gaussian, Poisson, StudentT

SOURCE = Path(native.__file__).with_name("native.c")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # a few epochs do
needs_object = pytest.mark.skipif(
    native.native_library() is None,
    reason="there is no native object: no C compiler made one, or SKVAE_NATIVE=0",
)

KINDS = {"autoencoder": AutoencoderModule, "vae": VAEModule}
FAMILIES = {
    "gaussian unit": lambda n: Gaussian(n, scale="unit"),
    "gaussian constant": lambda n: Gaussian(n, scale="constant"),
    "gaussian dependent": lambda n: Gaussian(n, scale="dependent"),
    "student_t dependent": lambda n: StudentT(n, scale="dependent"),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_family = pytest.mark.parametrize("family", FAMILIES)


def make_module(draw, kind, family="gaussian unit", n_features=3, *, hidden=(5, 4), activation="silu", n_networks=1):
    """In float32, with parameters of a spread at which no output runs away."""
    likelihood, n_components = FAMILIES[family](n_features), 2
    heads = 2 if kind == "vae" else 1
    encoder = SkipMLP(n_features, heads * n_components, hidden, activation, n_networks)
    decoder = SkipMLP(n_components, likelihood.n_outputs, hidden[::-1], activation, n_networks)
    n_parameters = encoder.n_parameters + decoder.n_parameters + n_networks * likelihood.n_free
    flat = 0.6 * draw(n_parameters) / max(1, *hidden, n_features) ** 0.5
    return KINDS[kind](encoder, decoder, likelihood, flat.float())


def make_batch(draw, module, n_rows, *, dropout=False, noisy=True):
    lead = () if module.n_networks == 1 else (module.n_networks,)
    x = draw(*lead, n_rows, module.encoder.n_inputs).float()
    noise = draw(*lead, n_rows, module.n_noise).float() if module.n_noise and noisy else None
    factors = tuple(
        [(draw(*lead, n_rows, width) > -0.5).float() / 0.7 for width in net.hidden] if dropout else []
        for net in (module.encoder, module.decoder)
    )
    return Batch(x, x + 0.1 * draw(*x.shape).float(), None, None, noise, factors)


@torch.no_grad()
def stepped(module, batch, kl_weight=1.0, entry=native.NATIVE):
    engine = Engine(module, [entry], dropout=len(batch.dropout[0]) > 0)
    engine.gradient.fill_(torch.nan)
    loss = engine.step(batch.x.shape[-2])(batch, kl_weight).clone()
    return loss, engine.gradient


def by_autograd(module, batch, kl_weight=1.0):
    """In float64, of the same numbers."""
    tensors = [None if tensor is None else tensor.double() for tensor in batch[:5]]
    dropout = tuple([factor.double() for factor in factors] for factors in batch.dropout)
    return stepped(module.converted(torch.float64), Batch(*tensors, dropout), kl_weight, STEPS[-1])


def assert_as_by_autograd(module, batch, kl_weight=1.0):
    """To 1e-5 of the largest number, at least of 1. Measured with the seeds 0 to 3: at most 7e-7 of it."""
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
    assert supported(make_module(draw, kind, family, n_networks=2), dropout=True)


@needs_object
@pytest.mark.parametrize("asked", [{"n_draws": 2}, {"weighted": True}, {"masked": True}, {"learns_prior": True}])
def test_leaves_other_trainings_to_torch(asked, draw):
    assert not supported(make_module(draw, "vae"), **asked)


@needs_object
@pytest.mark.parametrize(
    "likelihood",
    [Gaussian(3, scale="shared"), StudentT(3, scale="constant"), Poisson(3), ColumnGroups([Gaussian(2), Poisson(1)])],
    ids=["shared scale", "constant t", "counts", "groups"],
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
def test_batch_that_comes_again_is_read_anew(draw):
    """The feeder fills the same tensors again and again; where one has to be copied first, the copy is made again."""
    module = make_module(draw, "autoencoder")
    engine = Engine(module, STEPS[:1])
    plain = make_batch(draw, module, 6)
    for batch in (plain, plain._replace(x=plain.x.T.contiguous().T, inputs=plain.inputs.T.contiguous().T)):
        with torch.no_grad():
            engine.step(6)(batch, 1.0)
            batch.x.copy_(2.0 * batch.x)
            batch.inputs.copy_(draw(6, 3))
            loss = engine.step(6)(batch, 1.0).clone()
        torch.testing.assert_close(loss.double(), by_autograd(module, batch)[0], rtol=1e-5, atol=0.0)


@needs_object
def test_remembered_batches_are_bounded(draw, monkeypatch):
    monkeypatch.setattr(native, "_MAX_BOUND", 3)
    module = make_module(draw, "autoencoder")
    step = Engine(module, STEPS[:1]).step(6)
    with torch.no_grad():
        for batch in [make_batch(draw, module, 6) for _ in range(8)]:
            step(batch, 1.0)
            assert len(step._bound) <= 3


@needs_object
@each_kind
def test_scratch_memory_grows_with_the_columns_alone(kind, draw):
    """Twice the columns take at most twice the floats: no matrix of columns by columns."""
    modules = [make_module(draw, kind, "student_t dependent", n_features) for n_features in (2000, 4000)]
    some, twice = (len(Engine(module, STEPS[:1]).step(6)._scratch) for module in modules)
    assert some < twice <= 2 * some


@needs_object
@each_kind
@pytest.mark.parametrize("hidden", [(), (3,), (70, 5), (5, 70)])
def test_gradient_of_few_columns_and_wide_layers_equals_autograd(kind, hidden, draw):
    module = make_module(draw, kind, "gaussian dependent", 40, hidden=hidden)
    assert_as_by_autograd(module, make_batch(draw, module, 20))


# --- Adam -----------------------------------------------------------------------------------------------------------


@needs_object
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("max_norm", [math.inf, 1.0])
@pytest.mark.parametrize("size", [1, 16, 37])
def test_adam_by_its_formula(weight_decay, max_norm, size, draw):
    """Kingma & Ba's algorithm 1 in NumPy and float64, with decoupled weight decay; what lies behind stays as it is."""
    padded = draw(size + 16).float()
    flat, behind = padded[:size], padded[size:].clone()
    adam = Adam(flat, update=native.NATIVE.update)
    wanted, first, second = flat.double().numpy().copy(), np.zeros(size), np.zeros(size)
    for step in range(1, 7):
        summed, n_rows, rate = draw(size).float() * 10.0 ** (step % 3), 3 + step, 0.1 / step
        adam.gradient.copy_(summed)
        adam.step(rate, weight_decay, n_rows, max_norm)
        g = summed.double().numpy() / n_rows
        g *= min(1.0, max_norm / np.linalg.norm(g))
        first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g**2
        wanted *= 1.0 - rate * weight_decay
        wanted -= rate * first / (1.0 - 0.9**step) / (np.sqrt(second / (1.0 - 0.99**step)) + 1e-8)
        # Measured with the seeds 0 to 3: at most 4e-7.
        np.testing.assert_allclose(flat.numpy(), wanted, rtol=0.0, atol=1e-5)
    assert float(adam.n_steps) == 6.0
    assert torch.equal(padded[size:], behind)


@needs_object
def test_adam_forgets_and_resumes(draw):
    """Its moments stay where they are, also when they are loaded or forgotten."""
    start, gradients = draw(37).float(), draw(4, 37).float()

    def run(adam, chosen):
        for gradient in chosen:
            adam.gradient.copy_(gradient)
            adam.step(0.1, 0.01, 1, math.inf)
        return adam.flat.clone()

    whole = run(Adam(start.clone(), update=native.NATIVE.update), gradients)
    half = Adam(start.clone(), update=native.NATIVE.update)
    run(half, gradients[:2])
    other = Adam(half.flat.clone(), update=native.NATIVE.update)
    other.load(half.state())
    assert torch.equal(run(other, gradients[2:]), whole)
    other.forget()
    other.flat.copy_(start)
    assert torch.equal(run(other, gradients), whole)


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
each_fit = pytest.mark.parametrize(("cls", "options"), FITS.values(), ids=FITS)


@pytest.fixture
def X(rng):
    return rng.normal(size=(300, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(300, 5))


def small(cls, options):
    return cls(**({"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 8, "random_state": 0} | options))


@pytest.fixture
def n_steps(monkeypatch):
    """Counts native steps, in a list of one number."""
    counted, run = [0], native.NativeStep.__call__

    def count(self, batch, kl_weight):
        counted[0] += 1
        return run(self, batch, kl_weight)

    monkeypatch.setattr(native.NativeStep, "__call__", count)
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
