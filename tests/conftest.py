"""Options and fixtures that every test file may use."""

import math
import os
import signal

# These are read once, when SciPy, OpenMP and matplotlib are first imported, hence before any other import.
os.environ["SCIPY_ARRAY_API"] = "1"  # scikit-learn's array-API checks need it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: threads cost more than they gain
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
import torch

from skvae import AutoencoderTransformer, VAETransformer
from skvae._support import interrupts

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def pytest_addoption(parser):
    group = parser.getgroup("skvae")
    group.addoption("--device", default="cpu", help="where the tests that take a device run (default: cpu)")
    group.addoption("--dtype", default="float64", choices=sorted(_DTYPES), help="precision of the tensor tests")
    group.addoption(
        "--seed",
        type=int,
        default=int(os.environ.get("SKVAE_TEST_SEED", "0")),
        help="seed of every test's random data; a law must hold for any (default: $SKVAE_TEST_SEED, else 0)",
    )


def pytest_report_header(config):
    return "skvae: " + ", ".join(f"{name} {config.getoption(name)}" for name in ("device", "dtype", "seed"))


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """A shell starts what it runs in the background deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def no_interrupt_before(monkeypatch):
    """A test that presses Ctrl-C does so for the first time."""
    monkeypatch.setattr(interrupts._Latest, "seconds", -math.inf)


@pytest.fixture(autouse=True)
def same_draws_each_time(seed):
    """What a test leaves to NumPy's global generator, as every ``random_state=None``, follows from ``--seed`` too."""
    np.random.seed(seed)  # noqa: NPY002, scikit-learn reads this very state


@pytest.fixture(scope="session")
def device(request):
    """The ``torch.device`` given by ``--device``."""
    return torch.device(request.config.getoption("device"))


@pytest.fixture(scope="session")
def dtype(request):
    """The ``torch.dtype`` given by ``--dtype``: float64 unless told, so that lost precision cannot hide."""
    return _DTYPES[request.config.getoption("dtype")]


@pytest.fixture(scope="session")
def seed(request):
    """The integer given by ``--seed``."""
    return request.config.getoption("seed")


@pytest.fixture
def rng(seed):
    """A fresh generator of NumPy's for each test."""
    return np.random.default_rng(seed)


@pytest.fixture
def generator(seed):
    """A fresh generator of torch's for each test."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def draw(generator):
    """Standard normal numbers of a shape, in float64."""
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture(params=["autoencoder", "vae"])
def make(request):
    """Constructor of a small estimator of each class; keywords override.

    The VAE's p(z) is one Gaussian: to choose among mixtures takes five times as long as the rest of so short a fit.
    """
    cls, own = {"autoencoder": (AutoencoderTransformer, {}), "vae": (VAETransformer, {"latent_density": 1})}[
        request.param
    ]
    small = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
    return lambda **parameters: cls(**(small | own | parameters))
