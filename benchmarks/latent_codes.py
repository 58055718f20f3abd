"""Do ten latent components tell digits apart better than ten principal components?

Accuracy of logistic regression on the standardised codes of test images: scikit-learn's 8 x 8 digits, four fifths to
train on, a split for each repeat, and with ``--data`` MNIST with its own test images. Our estimators at two settings:
their defaults, which standardise each pixel as "PCA, standardised" does, and settings for pixels: one unit for all,
noise on the encoder's input, more passes. Those were chosen by splits of the digits' training rows of the first split.
No labels are used before the regression.

    python benchmarks/latent_codes.py --repeats 5
    python benchmarks/latent_codes.py --repeats 5 --data mnist.npz --rows 10000
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from _common import parse, save
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import AutoencoderTransformer, VAETransformer

N_COMPONENTS = 10
PIXELS = {"standardize": False, "noise": 0.4}
NOISE = {"likelihood": "gaussian", "scale": "shared", "dropout": 0.0}
# Passes over the digits; larger tables get as many rows to see.
PASSES = {"autoencoder": 300, "vae": 200}
DIGITS_ROWS = 1437


def passes(kind: str, n_rows: int) -> int:
    """Passes over a table in which as many rows come by as in those over the digits."""
    return max(1, round(PASSES[kind] * DIGITS_ROWS / n_rows))


ENCODERS: dict[str, Callable[[int, int], Any]] = {
    "PCA": lambda seed, n: PCA(N_COMPONENTS, random_state=seed),
    "PCA, standardised": lambda seed, n: make_pipeline(StandardScaler(), PCA(N_COMPONENTS, random_state=seed)),
    "AutoencoderTransformer, defaults": lambda seed, n: AutoencoderTransformer(N_COMPONENTS, random_state=seed),
    "AutoencoderTransformer, pixels": lambda seed, n: AutoencoderTransformer(
        N_COMPONENTS, **PIXELS, max_iter=passes("autoencoder", n), random_state=seed
    ),
    "VAETransformer, defaults": lambda seed, n: VAETransformer(N_COMPONENTS, random_state=seed),
    "VAETransformer, pixels": lambda seed, n: VAETransformer(
        N_COMPONENTS, **PIXELS, **NOISE, max_iter=passes("vae", n), random_state=seed
    ),
}


Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def digits(seed: int) -> Split:
    """Training images, test images, training classes, test classes."""
    X, y = load_digits(return_X_y=True)
    return tuple(train_test_split(X / 16, y, test_size=0.2, random_state=seed, stratify=y))


def mnist(path: str, n_rows: int) -> Split:
    """The same, of the first training images."""
    with np.load(path) as file:
        train, test = (file[f"x_{part}"].reshape(-1, 784).astype(np.float32) / 255 for part in ("train", "test"))
        return train[:n_rows], test, file["y_train"][:n_rows], file["y_test"]


def main() -> None:
    """Measure, print, write."""
    arguments = parse(
        __doc__,
        data={"default": "", "help": "mnist.npz, to take MNIST too"},
        rows={"type": int, "default": 60_000, "help": "images of MNIST to train on"},
    )
    warnings.simplefilter("ignore")
    tables = {"digits": [digits(seed) for seed in range(arguments.repeats)]}
    if arguments.data:
        tables[f"MNIST, {arguments.rows} rows"] = [mnist(arguments.data, arguments.rows)]
    rows = []
    for table, splits in tables.items():
        for name, make in ENCODERS.items():
            scores, seconds = [], []
            for seed, (train, test, y_train, y_test) in enumerate(splits):
                started = time.process_time()
                encoder = make(seed, len(train)).fit(train)
                seconds.append(time.process_time() - started)
                judge = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
                judge.fit(encoder.transform(train), y_train)
                scores.append(float(judge.score(encoder.transform(test), y_test)))
            accuracy, spread = float(np.mean(scores)), float(np.std(scores))
            row = {"table": table, "codes": name, "accuracy": accuracy, "sd": spread, "repeats": len(splits)}
            rows.append(row | {"fit CPU s": float(np.mean(seconds))})
            print(rows[-1], flush=True)
    save("latent_codes", arguments, rows)


if __name__ == "__main__":
    main()
