"""Do ten latent components tell digits apart better than ten principal components?

Accuracy of logistic regression on the standardised codes of test images: scikit-learn's 8 x 8 digits, four fifths to
train on, and with ``--data`` MNIST with its own test images. Our estimators at two settings: their defaults, and one
unit for all pixels with plain Gaussian noise, which suits images. No labels are used before the regression.

    python benchmarks/latent_codes.py --data mnist.npz
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
PIXELS = {"standardize": False}
NOISE = {"likelihood": "gaussian", "scale": "constant", "min_scale": 0.1, "dropout": 0.0}
ENCODERS: dict[str, Callable[[int], Any]] = {
    "PCA": lambda seed: PCA(N_COMPONENTS, random_state=seed),
    "AutoencoderTransformer, defaults": lambda seed: AutoencoderTransformer(N_COMPONENTS, random_state=seed),
    "AutoencoderTransformer, pixels": lambda seed: AutoencoderTransformer(N_COMPONENTS, **PIXELS, random_state=seed),
    "VAETransformer, defaults": lambda seed: VAETransformer(N_COMPONENTS, random_state=seed),
    "VAETransformer, pixels": lambda seed: VAETransformer(N_COMPONENTS, **PIXELS, **NOISE, random_state=seed),
}


def tables(path: str) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Training images, test images, training classes, test classes."""
    X, y = load_digits(return_X_y=True)
    found = {"digits": tuple(train_test_split(X / 16, y, test_size=0.2, random_state=0, stratify=y))}
    if path:
        with np.load(path) as file:
            train, test = (file[f"x_{part}"].reshape(-1, 784).astype(np.float32) / 255 for part in ("train", "test"))
            found["MNIST"] = (train, test, file["y_train"], file["y_test"])
    return found


def main() -> None:
    """Measure, print, write."""
    arguments = parse(__doc__, data={"default": "", "help": "mnist.npz, to take MNIST too"})
    warnings.simplefilter("ignore")
    rows = []
    for table, (train, test, y_train, y_test) in tables(arguments.data).items():
        repeats = arguments.repeats if table == "digits" else 1
        for name, make in ENCODERS.items():
            scores, seconds = [], []
            for seed in range(repeats):
                started = time.process_time()
                encoder = make(seed).fit(train)
                seconds.append(time.process_time() - started)
                judge = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
                judge.fit(encoder.transform(train), y_train)
                scores.append(float(judge.score(encoder.transform(test), y_test)))
            accuracy, spread = float(np.mean(scores)), float(np.std(scores))
            row = {"table": table, "codes": name, "accuracy": accuracy, "sd": spread, "repeats": repeats}
            rows.append(row | {"fit CPU s": float(np.mean(seconds))})
            print(rows[-1], flush=True)
    save("latent_codes", arguments, rows)


if __name__ == "__main__":
    main()
