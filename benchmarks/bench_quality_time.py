"""How long until the held-out error is below that of PyOD's matched autoencoder after ten epochs?

Rows of a set are split 80 : 20 and put in standard units by the training part. Ours has the same layers, `noise=0`,
`calibration_fraction=0` as PyOD has no calibration, and is otherwise as it comes; the held-out mean squared error is
taken through `reconstruct`. Times are CPU seconds of `fit`; PyOD's is of its training alone. "s" is the whole fit, as
it ends by itself; "s to lower" that of a fit, checks, densities and threshold included, which a callback stops after
the least number of epochs that leaves a lower error; a set where most seeds never do counts as 0.
"""

import math
import statistics
import warnings
from pathlib import Path

import _common as common
import numpy as np
import torch
from pyod.models.auto_encoder import AutoEncoder
from sklearn.decomposition import PCA

import skvae

SETS = (
    "22_magic.gamma", "32_shuttle", "28_pendigits", "26_optdigits", "5_campaign", "23_mammography", "2_annthyroid",
    "24_mnist", "38_thyroid", "44_Wilt", "25_musk", "7_Cardiotocography",
)  # fmt: skip
HIDDEN, N_COMPONENTS, MAX_ROWS, MAX_EPOCHS = (64, 32), 8, 12_500, 60


def parts(path: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    X = np.load(path, allow_pickle=True)["X"].astype(np.float64)
    X = X[np.random.default_rng(seed).permutation(len(X))[:MAX_ROWS]]
    X = X[:, X.std(axis=0) > 0]
    train, held = X[: len(X) * 4 // 5], X[len(X) * 4 // 5 :]
    mean, scale = train.mean(axis=0), train.std(axis=0)
    scale[scale == 0] = 1.0
    return ((train - mean) / scale).astype(np.float32), ((held - mean) / scale).astype(np.float32)


def pyod(train: np.ndarray, held: np.ndarray, seed: int) -> tuple[float, float]:
    model = AutoEncoder(
        epoch_num=10, batch_size=32, hidden_neuron_list=[*HIDDEN, N_COMPONENTS], batch_norm=False, dropout_rate=0.0,
        preprocessing=False, optimizer_params={"weight_decay": 0.0}, verbose=0, random_state=seed,
    )  # fmt: skip
    seconds: list[float] = []
    train_itself = model.train

    def timed(loader) -> None:
        seconds.append(common.cpu_seconds(lambda: train_itself(loader)))

    model.train = timed
    model.fit(train)
    with torch.no_grad():
        return seconds[0], float(np.mean((model.model.eval()(torch.from_numpy(held)).numpy() - held) ** 2))


class Stop:
    """A callback that ends a fit after some epochs."""

    def __init__(self, n_epochs: int) -> None:
        self.n_epochs, self.n_done = n_epochs, 0

    def setup(self, estimator, context) -> None:
        pass

    def teardown(self, estimator, context) -> None:
        pass

    def on_fit_task_begin(self, estimator, context) -> None:
        pass

    def on_fit_task_end(self, estimator, context) -> bool:
        self.n_done += context.task_name == "epoch"
        return self.n_done == self.n_epochs


def ours(train: np.ndarray, held: np.ndarray, seed: int, n_epochs: int | None = None) -> tuple[float, float]:
    model = skvae.AutoencoderTransformer(
        min(N_COMPONENTS, train.shape[1]), hidden_layer_sizes=HIDDEN, noise=0.0, calibration_fraction=0.0,
        random_state=seed,
    )  # fmt: skip
    if n_epochs is not None:
        model.set_callbacks(Stop(n_epochs))
    seconds = common.cpu_seconds(lambda: model.fit(train))
    return seconds, float(np.mean((model.reconstruct(held) - held) ** 2))


def ours_until(error: float, train: np.ndarray, held: np.ndarray, seed: int) -> tuple[int, float]:
    """Epochs, and seconds of the fit with so many, after which the error is lower; none and infinity if it never is."""
    for n_epochs in range(1, MAX_EPOCHS + 1):
        seconds, reached = ours(train, held, seed, n_epochs)
        if reached < error:
            return n_epochs, seconds
    return 0, math.inf


def main() -> None:
    arguments = common.parse(__doc__, data={"type": Path, "required": True, "help": "folder of the ADBench files"})
    warnings.simplefilter("ignore")
    rows = []
    for name in arguments.only.split(",") if arguments.only else SETS:
        pairs = []
        for seed in range(arguments.repeats):
            train, held = parts(arguments.data / f"{name}.npz", seed)
            n_components = min(N_COMPONENTS, train.shape[1])
            pca = PCA(n_components).fit(train)
            error = float(np.mean((pca.inverse_transform(pca.transform(held)) - held) ** 2))
            theirs = pyod(train, held, seed)
            pairs.append((*theirs, *ours(train, held, seed), error, *ours_until(theirs[1], train, held, seed)))
        their_time, their_error, time_, error, pca_error, n_epochs, to_lower = (
            statistics.median(column) for column in zip(*pairs, strict=True)
        )
        rows.append(
            {
                "set": name, "n": len(train), "d": train.shape[1], "PCA error": pca_error, "PyOD error": their_error,
                "error": error, "PyOD s": their_time, "s": time_, "x faster": their_time / time_,
                "lower error": str(error < their_error), "not above PCA": str(error <= pca_error * (1 + 1e-6)),
                "epochs to lower": n_epochs or "", "s to lower": to_lower if n_epochs else "",
                "x to lower": their_time / to_lower if n_epochs else "",
            }
        )  # fmt: skip
        print(common.table(rows[-1:]).splitlines()[-1], flush=True)
    summary = {}
    for what in ("x faster", "x to lower"):
        factors = [row[what] or 0.0 for row in rows]
        summary |= {f"median {what}": statistics.median(factors), f"least {what}": min(factors)}
    common.save("quality_time", arguments, rows, **summary)
    print(summary)


if __name__ == "__main__":
    main()
