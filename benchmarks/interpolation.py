"""What lies between two digits: more digits, on the way through a VAE's latent space than through an autoencoder's?

scikit-learn's 8 x 8 digits, four fifths to train on; 500 random pairs of test images of different classes; nine inner
points of the straight line between two codes, decoded. "sure": share of them of which a classifier trained on real
digits is at least 90 % sure; once a support vector machine, once logistic regression, which
likes blended pixels less. "nearest": mean distance to the nearest training image. "error": mean squared
reconstruction error of the test images. Mean and standard deviation over three random states of the models. With
``--data`` MNIST stands in for the digits, its first 1,000 test images as ends.

    python benchmarks/interpolation.py
    python benchmarks/interpolation.py --data mnist.npz
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from _common import parse, save
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC

from skvae import AutoencoderTransformer, VAETransformer

N_COMPONENTS, N_STEPS, N_PAIRS = 8, 11, 500
JUDGE_ROWS = 6_000
# MNIST has forty times the rows: more steps in fewer passes.
DIGITS_EPOCHS, MNIST_EPOCHS = 200, 20
# One unit for all pixels, one scale of plain Gaussian noise, and time for the codes to spread before the KL has its
# weight. A scale for each pixel lets the bright ones blur as ``beta`` grows. Chosen, as the depth, by pairs of training
# images; of two and three layers by the VAE, while the autoencoder is better with two, so that it is shown with both.
SHARED = {"n_components": N_COMPONENTS, "standardize": False, "noise": 0.0}
NOISE = {"likelihood": "gaussian", "scale": "shared", "dropout": 0.0, "kl_warmup": 0.2}
DEEP = {"hidden_layer_sizes": (128, 128, 128)}
MODELS: dict[str, Callable[..., Any]] = {
    "AutoencoderTransformer, two layers": lambda **own: AutoencoderTransformer(**SHARED, **own),
    "AutoencoderTransformer": lambda **own: AutoencoderTransformer(**DEEP, **SHARED, **own),
    **{
        f"VAETransformer, beta {beta:g}": lambda beta=beta, **own: VAETransformer(
            beta=beta, **NOISE, **DEEP, **SHARED, **own
        )
        for beta in (1.0, 2.0, 4.0)
    },
}


def split(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test images in [0, 1], and their classes."""
    if path:
        with np.load(path) as file:
            images = [file[f"x_{part}"].reshape(-1, 784).astype(np.float32) / 255 for part in ("train", "test")]
            return images[0], images[1][:1000], file["y_train"], file["y_test"][:1000]
    X, y = load_digits(return_X_y=True)
    return train_test_split(X / 16, y, test_size=0.2, random_state=0, stratify=y)


def straight(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Points of the lines between paired rows, ends included."""
    share = np.linspace(0, 1, N_STEPS)[:, None]
    return (1 - share) * start[:, None] + share * end[:, None]


class PCAPaths:
    """PCA behind the methods of our estimators that are used here."""

    def __init__(self, X: np.ndarray) -> None:
        self.pca = PCA(N_COMPONENTS).fit(X)

    def interpolate(self, start: np.ndarray, end: np.ndarray, n_steps: int) -> np.ndarray:
        path = straight(self.pca.transform(start), self.pca.transform(end))
        return self.pca.inverse_transform(path.reshape(-1, N_COMPONENTS)).reshape(len(start), n_steps, -1)

    def reconstruct(self, X: np.ndarray) -> np.ndarray:
        return self.pca.inverse_transform(self.pca.transform(X))


class PixelPaths:
    """Blended pixels."""

    def interpolate(self, start: np.ndarray, end: np.ndarray, n_steps: int) -> np.ndarray:
        return straight(start, end)

    def reconstruct(self, X: np.ndarray) -> np.ndarray:
        return X


def main() -> None:
    """Measure, print, write."""
    arguments = parse(__doc__, data={"default": "", "help": "mnist.npz, to take MNIST instead of the digits"})
    warnings.simplefilter("ignore")
    train, test, y_train, y_test = split(arguments.data)
    seen = slice(JUDGE_ROWS)
    judges = {
        "sure, SVM": SVC(C=10.0, probability=True, random_state=0).fit(train[seen], y_train[seen]),
        "sure, logistic": LogisticRegression(max_iter=2000).fit(train[seen], y_train[seen]),
    }
    neighbours = NearestNeighbors(n_neighbors=1).fit(train)
    pairs = np.random.default_rng(0).integers(len(test), size=(2, 2 * N_PAIRS))
    start, end = (test[side] for side in pairs[:, y_test[pairs[0]] != y_test[pairs[1]]][:, :N_PAIRS])

    def judged(images: np.ndarray, error: float) -> dict[str, float]:
        images = images.reshape(-1, train.shape[1])
        sure = {name: float((judge.predict_proba(images).max(axis=1) >= 0.9).mean()) for name, judge in judges.items()}
        return sure | {"nearest": float(neighbours.kneighbors(images)[0].mean()), "error": error}

    def measure(model: Any) -> dict[str, float]:
        error = float(np.mean((model.reconstruct(test) - test) ** 2))
        return judged(np.asarray(model.interpolate(start, end, n_steps=N_STEPS))[:, 1:-1], error)

    rows = [
        {"path": "real test images"} | judged(test, 0.0),
        {"path": "pixel average"} | measure(PixelPaths()),
        {"path": f"PCA {N_COMPONENTS}"} | measure(PCAPaths(train)),
    ]
    epochs = MNIST_EPOCHS if arguments.data else DIGITS_EPOCHS
    for name, make in MODELS.items():
        each = [measure(make(random_state=seed, max_iter=epochs).fit(train)) for seed in range(arguments.repeats)]
        means = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
        spread = {f"sd of {key}": float(np.std([one[key] for one in each])) for key in ("sure, SVM", "error")}
        rows.append({"path": name} | means | spread)
        print(rows[-1], flush=True)
    save("interpolation_mnist" if arguments.data else "interpolation", arguments, rows, pairs=len(start))


if __name__ == "__main__":
    main()
