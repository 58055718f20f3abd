"""How long until the held-out error is below that of PyOD's matched autoencoder after ten epochs?

Rows of a set are split 80 : 20 and put in standard units by the training part. Ours has the same layers, `noise=0`,
`calibration_fraction=0` as PyOD has no calibration, and is otherwise as it comes; the held-out mean squared error is
taken through `reconstruct`. Times are CPU seconds of `fit`; PyOD's is of its training alone.
"""

import statistics
import time
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
HIDDEN, N_COMPONENTS, MAX_ROWS = (64, 32), 8, 12_500


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


def ours(train: np.ndarray, held: np.ndarray, seed: int) -> tuple[float, float]:
    model = skvae.AutoencoderTransformer(
        min(N_COMPONENTS, train.shape[1]), hidden_layer_sizes=HIDDEN, noise=0.0, calibration_fraction=0.0,
        random_state=seed,
    )  # fmt: skip
    started = time.process_time()
    model.fit(train)
    return time.process_time() - started, float(np.mean((model.reconstruct(held) - held) ** 2))


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
            pairs.append((*pyod(train, held, seed), *ours(train, held, seed), error))
        their_time, their_error, time_, error, pca_error = (
            statistics.median(column) for column in zip(*pairs, strict=True)
        )
        rows.append(
            {
                "set": name, "n": len(train), "d": train.shape[1], "PCA error": pca_error, "PyOD error": their_error,
                "error": error, "PyOD s": their_time, "s": time_, "x faster": their_time / time_,
                "lower error": str(error < their_error), "not above PCA": str(error <= pca_error * (1 + 1e-6)),
            }
        )  # fmt: skip
        print(common.table(rows[-1:]).splitlines()[-1], flush=True)
    factors = [row["x faster"] for row in rows]
    summary = {"median factor": statistics.median(factors), "least factor": min(factors)}
    common.save("quality_time", arguments, rows, **summary)
    print(summary)


if __name__ == "__main__":
    main()
