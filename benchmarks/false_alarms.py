"""How many fresh normal rows are flagged when 5 % may be? Ours and PyOD's detectors at their defaults, over 50 repeats.

Each repeat fits to n normal rows and counts the alarms among 2,000 others: Gaussian and heavy-tailed (Student-t with 3
degrees of freedom) rows of 30 correlated columns, and the normal rows of real sets. PyOD takes the rate as its
``contamination``. The mean of a threshold on k held-out rows is the rate itself; single fits scatter around it, which
is why the 5 % and 95 % quantiles over the repeats stand beside the mean.

    python benchmarks/false_alarms.py --data DIR --repeats 50 [--only NAMES --keep] [--peer-repeats 10]

"cross-fitted" is ``calibration_fraction="cross_fit"``: every row trains, and places the threshold by the score of a
network that has not seen it.

The results file is written after each method. With --keep, the others keep their rows of it.

The real sets are two .npz files of ADBench's "Classical" folder (https://github.com/Minqi824/ADBench).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import parse, save

from skvae import AutoencoderTransformer, VAETransformer

RATE = 0.05
N_TRAIN = (60, 120, 200, 500, 2000)
N_FRESH = 2000
N_COLUMNS = 30
REAL = ("8_celeba", "24_mnist")
Draw = Callable[[np.random.Generator, int], np.ndarray]


def synthetic(degrees: float | None) -> Draw:
    """Rows of correlated columns; with ``degrees`` of freedom heavy-tailed, each row by a factor of its own."""
    loadings = np.random.default_rng(0).normal(size=(8, N_COLUMNS))

    def draw(rng: np.random.Generator, n_samples: int) -> np.ndarray:
        X = rng.normal(size=(n_samples, 8)) @ loadings + 0.5 * rng.normal(size=(n_samples, N_COLUMNS))
        return X if degrees is None else X / np.sqrt(rng.chisquare(degrees, size=(n_samples, 1)) / degrees)

    return draw


def real(path: Path) -> Draw:
    """Normal rows of a set, drawn without replacement."""
    with np.load(path) as archive:
        X = archive["X"][archive["y"].ravel() == 0].astype(float)
    return lambda rng, n_samples: X[rng.choice(len(X), n_samples, replace=False)]


def ours(estimator: type, **options: Any) -> Callable[[np.ndarray, np.ndarray, int], float]:
    def share(train: np.ndarray, fresh: np.ndarray, seed: int) -> float:
        return float((estimator(random_state=seed, **options).fit(train).predict(fresh) == -1).mean())

    return share


def pyod(train: np.ndarray, fresh: np.ndarray, seed: int) -> float:
    from pyod.models.auto_encoder import AutoEncoder

    detector = AutoEncoder(contamination=RATE, random_state=seed, device="cpu", verbose=0)
    return float(detector.fit(train).predict(fresh).mean())


METHODS = {
    "AutoencoderTransformer": ours(AutoencoderTransformer),
    "AutoencoderTransformer cross-fitted": ours(AutoencoderTransformer, calibration_fraction="cross_fit"),
    "VAETransformer": ours(VAETransformer),
    "PyOD AutoEncoder": pyod,
}


def measure(name: str, rows: str, draw: Draw, n_train: int, repeats: int) -> dict[str, Any]:
    """Share of fresh rows flagged, over the repeats, in percent."""
    shares = []
    for seed in range(repeats):
        both = draw(np.random.default_rng(1000 + seed), n_train + N_FRESH)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares.append(100.0 * METHODS[name](both[:n_train], both[n_train:], seed))
    low, high = np.quantile(shares, [0.05, 0.95])
    return {
        "method": name, "rows": rows, "n": n_train, "mean %": float(np.mean(shares)),
        "standard error %": float(np.std(shares, ddof=1) / np.sqrt(repeats)), "q05 %": float(low), "q95 %": float(high),
        "repeats": repeats,
    }  # fmt: skip


def main() -> None:
    arguments = parse(
        __doc__.splitlines()[0],
        data={"type": Path, "required": True},
        keep={"action": "store_true"},
        **{"peer-repeats": {"type": int}},
    )
    draws = {"Gaussian": synthetic(None), "heavy-tailed": synthetic(3.0)}
    draws |= {name.split("_")[1]: real(next(arguments.data.glob(f"{name}*.npz"))) for name in REAL}
    names = [name for name in METHODS if not arguments.only or name in arguments.only.split(",")]

    def repeats(name: str) -> int:
        return arguments.peer_repeats if arguments.peer_repeats and name.startswith("PyOD") else arguments.repeats

    kept = json.loads((arguments.output / "false_alarms.json").read_text())["rows"] if arguments.keep else []
    for name in names:  # a method takes up to an hour
        measured = [measure(name, rows, draws[rows], n, repeats(name)) for rows in draws for n in N_TRAIN]
        kept = measured + [row for row in kept if row["method"] != name]
        save("false_alarms", arguments, sorted(kept, key=lambda row: list(METHODS).index(row["method"])), rate=RATE)


if __name__ == "__main__":
    main()
