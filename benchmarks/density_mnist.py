"""What log p(x) does a VAE reach on MNIST in some minutes of one core, and Pythae's VAE in the same?

The published protocol: 784-200-200-50 and back, tanh, Bernoulli pixels that are drawn anew from the grey values in each
epoch, N(0, I) as p(z); the negative log-likelihood of the 10,000 test images, binarised once, by importance sampling.
Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519, print 86.76 for one draw in training and 84.78
for fifty, after 3,280 epochs. Our networks have a linear path beside the layers, the others have not.

One contender a run; the results file keeps the rows of the others. Minutes are CPU time of the process over its cores,
which neighbours on a shared machine change less than the clock on the wall. A contender first runs some hundred steps
to learn how many epochs fit into its minutes, since the learning rate falls over all of them; where the pace of a
machine wavers, --epochs tells it instead. The row holds the time that they then took. Where fewer images are scored
than there are, the figure for all rests on the difference between the 20-draw bounds of all and of these. "iwae" goes
on from the "vae" that an earlier run kept.

    python benchmarks/density_mnist.py --data mnist.npz --only vae --keep vae.pickle
    python benchmarks/density_mnist.py --data mnist.npz --only pythae
    python benchmarks/density_mnist.py --data mnist.npz --only vae --keep vae.pickle --minutes 45 --cores 2
    python benchmarks/density_mnist.py --data mnist.npz --only iwae --keep vae.pickle --minutes 45 --cores 2
"""

import json
import math
import os
import pickle
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import machine, parse, save
from torch import nn

from skvae import VAETransformer

N_PIXELS, N_HIDDEN, N_COMPONENTS = 784, 200, 50
BATCH = 128
# Of 40 epochs, 1.5e-3 and 3e-3, the better one on training images that were held out.
LEARNING_RATE = 3e-3
# Passes of a long run may take that much longer than those of the probe.
SLOWDOWN = 1.1
TRAINING_DRAWS = 50
SHORT_DRAWS = 20


def images(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Grey training images, and test images binarised once."""
    with np.load(path) as file:
        train, test = (file[f"x_{part}"].reshape(-1, N_PIXELS).astype(np.float32) / 255 for part in ("train", "test"))
    return train, (np.random.default_rng(0).random(test.shape) < test).astype(np.float32)


def spread(first: int, n_cores: int) -> None:
    """Give the process more than the one core that `parse` leaves it."""
    torch.set_num_threads(n_cores)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(range(first, first + n_cores)))


def n_epochs(run: Callable[[np.ndarray, int], Any], train: np.ndarray, minutes: float, share: float) -> int:
    """Passes that fit into the CPU time beside what a fit costs anyway, from one and five passes over some rows."""
    seconds = []
    for count in (1, 5):
        started = time.process_time()
        run(train[: round(share * len(train))], count)
        seconds.append(time.process_time() - started)
    each = 0.25 * (seconds[1] - seconds[0])
    return max(1, int((60 * minutes * share - (seconds[0] - each)) / (SLOWDOWN * each)))


def vae(train: np.ndarray, epochs: int, **parameters: Any) -> VAETransformer:
    """Ours, through the public estimator."""
    return VAETransformer(
        N_COMPONENTS, hidden_layer_sizes=(N_HIDDEN, N_HIDDEN), activation="tanh", likelihood="bernoulli", binarize=True,
        latent_density="normal", calibration_fraction=0.0, batch_size=BATCH, alpha=0.0, max_iter=epochs, random_state=0,
        learning_rate_init=LEARNING_RATE, **parameters,
    ).fit(train)  # fmt: skip


def tightened(kept: Path, train: np.ndarray, epochs: int) -> VAETransformer:
    """The kept VAE, trained on with the importance-weighted bound."""
    model = pickle.loads(kept.read_bytes())[0]
    model.set_params(
        n_training_draws=TRAINING_DRAWS, warm_start=True, max_iter=epochs, batch_size=20, learning_rate_init=3e-4
    )
    return model.fit(train)


def ours(model: VAETransformer, X: np.ndarray, n_draws: int) -> np.ndarray:
    """log p(x) of images."""
    model.set_params(n_draws=n_draws)
    return np.concatenate([model.log_likelihood(part) for part in np.array_split(X, max(1, len(X) // 200))])


def pythae(train: np.ndarray, epochs: int) -> nn.Module:
    """Pythae's VAE with the same layers, trained by its own trainer with a cosine schedule."""
    from pythae.data.datasets import BaseDataset, DatasetOutput
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layers = layers(N_PIXELS, 2 * N_COMPONENTS)

        def forward(self, x):
            mean, log_variance = self.layers(x).chunk(2, dim=-1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.layers = layers(N_COMPONENTS, N_PIXELS)

        def forward(self, z):
            return ModelOutput(reconstruction=self.layers(z).sigmoid())

    class Binarised(BaseDataset):
        def __getitem__(self, index):
            return DatasetOutput(data=torch.bernoulli(self.data[index]), labels=self.labels[index])

    torch.manual_seed(0)
    config = VAEConfig(input_dim=(N_PIXELS,), latent_dim=N_COMPONENTS, reconstruction_loss="bce")
    model = VAE(config, Encoder(), Decoder())
    x = torch.from_numpy(train)
    rows = Binarised(x, torch.zeros(len(x)))
    with tempfile.TemporaryDirectory() as folder:
        training = BaseTrainerConfig(
            output_dir=folder, num_epochs=epochs, learning_rate=1e-3, per_device_train_batch_size=BATCH, no_cuda=True,
            scheduler_cls="CosineAnnealingLR", scheduler_params={"T_max": epochs}, seed=0,
        )  # fmt: skip
        BaseTrainer(model=model, train_dataset=rows, training_config=training).train()
        return model


def layers(n_in: int, n_out: int) -> nn.Sequential:
    """Two hidden layers of tanh."""
    return nn.Sequential(
        nn.Linear(n_in, N_HIDDEN), nn.Tanh(), nn.Linear(N_HIDDEN, N_HIDDEN), nn.Tanh(), nn.Linear(N_HIDDEN, n_out)
    )


@torch.inference_mode()
def theirs(model: nn.Module, X: np.ndarray, n_draws: int) -> np.ndarray:
    """The same of a network that is not ours."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for x in torch.from_numpy(X).split(20):
        mean, log_variance = model.encoder.layers(x).chunk(2, dim=-1)
        parts = []
        for first in range(0, n_draws, 50):
            noise = torch.randn(min(50, n_draws - first), 1, N_COMPONENTS, generator=generator)
            z = mean + (0.5 * log_variance).exp() * noise
            log_prob = -nn.functional.binary_cross_entropy_with_logits(
                model.decoder.layers(z), x.expand(len(z), -1, -1), reduction="none"
            ).sum(dim=-1)
            parts.append(log_prob + 0.5 * (noise.square() - z.square() + log_variance).sum(dim=-1))
        found.append(torch.cat(parts).logsumexp(dim=0) - math.log(n_draws))
    return torch.cat(found).numpy()


def likelihoods(
    log_prob: Callable[[np.ndarray, int], np.ndarray], test: np.ndarray, n_images: int, n_draws: int
) -> dict:
    """Negative log-likelihood of some test images and, from the difference of short bounds, of all."""
    chosen = np.sort(np.random.default_rng(1).choice(len(test), n_images, replace=False))
    exact, short = float(log_prob(test[chosen], n_draws).mean()), log_prob(test, SHORT_DRAWS)
    everywhere = exact + float(short.mean() - short[chosen].mean())
    return {
        "draws": n_draws,
        "test images": n_images,
        "NLL of these": -exact,
        "NLL of all 10,000": -everywhere,
        f"bound of all, {SHORT_DRAWS} draws": -float(short.mean()),
    }


def main() -> None:
    """Train and score one contender; keep the rows of the others."""
    arguments = parse(
        __doc__,
        data={"required": True},
        minutes={"type": float, "default": 15.0, "help": "minutes of training on all cores"},
        cores={"type": int, "default": 1, "help": "cores to train on, from --core on"},
        epochs={"type": int, "default": 0, "help": "passes of the training, instead of as many as should fit"},
        draws={"type": int, "default": 5000},
        images={"type": int, "default": 10_000, "help": "test images that are scored with all draws"},
        again={"action": "store_true", "help": "score the kept model, without training"},
        keep={"type": Path, "default": None, "help": "where the fitted 'vae' lies between runs"},
    )
    warnings.simplefilter("ignore")
    spread(arguments.core, arguments.cores)
    train, test = images(arguments.data)
    name = arguments.only or "vae"
    if arguments.keep is None and (name == "iwae" or arguments.again):
        raise SystemExit("Name the file of an earlier 'vae' by --keep.")
    run, log_prob = {
        "vae": (vae, ours),
        "iwae": (lambda rows, count: tightened(arguments.keep, rows, count), ours),
        "pythae": (pythae, theirs),
    }[name]
    if arguments.again:
        model, epochs, seconds = pickle.loads(arguments.keep.read_bytes())
    else:
        # A pass with many draws takes a minute, whatever lies in the caches.
        share = 0.1 if name == "iwae" else 1.0
        epochs = arguments.epochs or n_epochs(run, train, arguments.minutes * arguments.cores, share)
        started = time.process_time()
        model = run(train, epochs)
        seconds = time.process_time() - started
        if name == "vae" and arguments.keep is not None:
            arguments.keep.write_bytes(pickle.dumps((model, epochs, seconds)))
    print(f"{name}: {epochs} epochs in {seconds / 60:.1f} CPU minutes", flush=True)
    row = {"contender": name, "minutes": arguments.minutes, "cores": arguments.cores, "epochs": epochs}
    row |= {"CPU minutes": seconds / 60}
    row |= likelihoods(partial(log_prob, model), test, arguments.images, arguments.draws)
    row |= {"date": machine()["date"], "command": machine()["command"]}
    file = arguments.output / "density_mnist.json"
    earlier = json.loads(file.read_text())["rows"] if file.exists() else []
    same = ("contender", "minutes", "cores")
    kept = [other for other in earlier if any(other[key] != row[key] for key in same)]
    save("density_mnist", arguments, [*kept, row])


if __name__ == "__main__":
    main()
