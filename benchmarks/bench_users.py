"""What do a fit, the scores and the score of one row cost with default parameters, by the tables that users have?

Every method as it comes, with its defaults, on float64 rows, in one thread of one core; each cell in a process of its
own, which gives its peak of memory beyond what it held before the fit, and which is ended after ``--limit`` seconds.
Words are one-hot for methods that take numbers alone, missing values their columns' medians; both count as part of
the fit and of the scores. MLPRegressor learns the rows from the rows, its score is the squared error. "ahead" names the
peers that need less than the AE, by more than the noise of these figures, 10 %.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import functools
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.ensemble import IsolationForest
from sklearn.impute import SimpleImputer
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skvae import AutoencoderTransformer, VAETransformer

N_LEVELS = 12
ONE_ROW_CALLS = 200


def numbers(n_samples: int, n_features: int) -> np.ndarray:
    return common.curved(n_samples, n_features).astype(np.float64)


def gaps(n_samples: int, n_features: int) -> np.ndarray:
    X = numbers(n_samples, n_features)
    X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    return X


def mixed(n_samples: int) -> pd.DataFrame:
    """Six columns of numbers and eight of words that depend on them."""
    X = numbers(n_samples, 14)
    frame = pd.DataFrame(X[:, :6], columns=[f"number {i}" for i in range(6)])
    for place in range(6, 14):
        levels = np.clip(np.round(2.0 * X[:, place] + N_LEVELS / 2), 0, N_LEVELS).astype(int)
        frame[f"word {place}"] = pd.Categorical.from_codes(levels, [f"level {i}" for i in range(N_LEVELS + 1)])
    return frame


TABLES: dict[str, Callable[[], Any]] = {
    "569 x 30": lambda: numbers(569, 30),
    "2,000 x 20": lambda: numbers(2_000, 20),
    "10,000 x 30": lambda: numbers(10_000, 30),
    "100,000 x 30": lambda: numbers(100_000, 30),
    "1,000 x 200": lambda: numbers(1_000, 200),
    "200 x 2,000": lambda: numbers(200, 2_000),
    "5,000 x 784": lambda: numbers(5_000, 784),
    "10,000 x 30, 20 % missing": lambda: gaps(10_000, 30),
    "1,000 x 14, 8 of words": lambda: mixed(1_000),
    "20,000 x 14, 8 of words": lambda: mixed(20_000),
}


class Copier(BaseEstimator):
    """scikit-learn's regressor of the rows on themselves."""

    def fit(self, X, y=None):
        self.scaler_ = StandardScaler().fit(X)
        Z = self.scaler_.transform(X)
        self.model_ = MLPRegressor(random_state=0).fit(Z, Z)
        return self

    def score_samples(self, X):
        Z = self.scaler_.transform(X)
        return -np.square(self.model_.predict(Z).reshape(Z.shape) - Z).sum(axis=1)


class Pyod(BaseEstimator):
    """A detector of PyOD with its defaults."""

    def __init__(self, name: str):
        self.name = name

    def fit(self, X, y=None):
        from pyod.models.auto_encoder import AutoEncoder
        from pyod.models.vae import VAE

        self.model_ = {"AutoEncoder": AutoEncoder, "VAE": VAE}[self.name](verbose=0).fit(X)
        return self

    def score_samples(self, X):
        return -self.model_.decision_function(X)


OURS = {
    "skvae AE": lambda: AutoencoderTransformer(random_state=0),
    "skvae VAE": lambda: VAETransformer(random_state=0),
}
PEERS: dict[str, Callable[[], Any]] = {
    "PyOD AutoEncoder": lambda: Pyod("AutoEncoder"),
    "PyOD VAE": lambda: Pyod("VAE"),
    "IsolationForest": lambda: IsolationForest(random_state=0),
    "GaussianMixture(8)": lambda: GaussianMixture(8, random_state=0),
    "LocalOutlierFactor": lambda: LocalOutlierFactor(novelty=True),
    "MLPRegressor": Copier,
}


def contender(name: str, table: Any) -> Any:
    if name in OURS:
        return OURS[name]()
    if isinstance(table, pd.DataFrame):
        words = list(table.select_dtypes("category"))
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        return make_pipeline(make_column_transformer((encoder, words), remainder="passthrough"), PEERS[name]())
    if np.isnan(table).any():
        return make_pipeline(SimpleImputer(strategy="median"), PEERS[name]())
    return PEERS[name]()


def scored(model: Any) -> Callable[[Any], Any]:
    """Scores of rows, with the steps before a pipeline's last one, which it would check again."""
    if not hasattr(model, "steps"):
        return model.score_samples
    return lambda X: model[-1].score_samples(model[:-1].transform(X))


def status_mib(field: str) -> float:
    """A line of Linux's /proc/self/status, such as VmRSS or VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def measure(name: str, table: str, repeats: int, queue: multiprocessing.Queue) -> None:
    warnings.simplefilter("ignore")
    X = TABLES[table]()
    contender(name, X[:120]).fit(X[:120])  # loads code
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status_mib("VmRSS")
    model = contender(name, X)
    fits = [common.cpu_seconds(lambda: model.fit(X))]
    peak = status_mib("VmHWM") - before
    if fits[0] < 5.0:
        fits += [common.cpu_seconds(lambda: contender(name, X).fit(X)) for _ in range(repeats - 1)]
    score, rows = scored(model), X[:10_000]
    score(rows[:100])
    scores = [common.cpu_seconds(lambda: score(rows)) for _ in range(repeats)]
    one, calls = rows[:1], []
    for _ in range(ONE_ROW_CALLS):
        started = time.perf_counter()
        score(one)
        calls.append(time.perf_counter() - started)
    queue.put({
        "fit s": statistics.median(fits), "us / row": 1e6 * statistics.median(scores) / len(rows),
        "one row ms": 1e3 * statistics.median(calls), "peak MiB": peak,
    })  # fmt: skip


def cell(name: str, table: str, arguments: Any) -> dict[str, float]:
    """Measured in a process of its own; nothing where that takes longer than it may."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=measure, args=(name, table, arguments.repeats, queue))
    process.start()
    process.join(arguments.limit)
    if process.is_alive():
        process.terminate()
        process.join()
    return {} if queue.empty() else queue.get()


def main() -> None:
    arguments = common.parse(__doc__, limit={"type": float, "default": 90.0, "help": "seconds of a cell"})
    rows = []
    for table in TABLES:
        if arguments.only and table not in arguments.only.split(";"):
            continue
        found = {name: cell(name, table, arguments) for name in (*OURS, *PEERS)}
        for name, figures in found.items():
            row: dict[str, Any] = {"table": table, "who": name}
            for figure in ("fit s", "us / row", "one row ms", "peak MiB"):
                row[figure] = figures.get(figure, f"> {arguments.limit:.0f} s in all")
            rows.append(row)
            print(row, flush=True)
        ahead = functools.partial(_ahead, found)
        rows[-len(found)] |= {"ahead in fit": ahead("fit s"), "ahead in score": ahead("us / row")}
        print({key: rows[-len(found)][key] for key in ("ahead in fit", "ahead in score")}, flush=True)
    common.save("users", arguments, rows)


def _ahead(found: dict[str, dict[str, float]], figure: str) -> str:
    mine = found["skvae AE"][figure]
    return ", ".join(name for name in PEERS if found[name].get(figure, np.inf) < 0.9 * mine)


if __name__ == "__main__":
    main()
