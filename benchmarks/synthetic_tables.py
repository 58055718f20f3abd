"""Do synthetic rows look like real ones, do classifiers learn from them, and do they repeat training rows?

In one run every method sees the same training rows and draws as many; the other real rows judge:

- C2ST: AUROC of a HistGradientBoostingClassifier that tells real from drawn rows, cross-validated; 0.5 if it cannot;
- AUROC: of one that learned the table's target from drawn rows, on real ones (one against the rest);
- columns: the mean distance of the single columns, Kolmogorov and Smirnov's of numbers, total variation of levels;
- pairs: the mean total variation of all pairs of columns, numbers in ten bins of equal shares;
- off by a factor 2: how many of the levels with at least 0.5 % of the training rows are;
- copies: drawn rows that are training rows (for the real rows: other real rows that are);
- distance ratio: the median distance to the closest training row over that to the closest of as many other real rows;
  below 1 a model tends to repeat its training rows.

Peers: CTGAN's TVAE, adversarial random forests (arfpy), a Gaussian copula, and trees one column after the other, as
synthpop has them. Tables: UCI's Adult as carried in sdv-dev/CTGAN's examples, and frames of 4,000 rows from ggplot2
(diamonds), modeldata (credit) and UCI (Beijing's air).

    python benchmarks/synthetic_tables.py --data DIR [--repeats 3] [--only VAETransformer,TVAE] [--keep]

DIR holds adult_raw.csv, mixed_diamonds.csv, mixed_credit.csv and mixed_air.csv. ``--keep`` takes over what the results
file holds already. On Adult TVAE, of thirteen CPU minutes, is measured once, and arfpy, of more, not at all.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import itertools
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import asked_for, parse, save
from scipy.special import ndtr, ndtri
from scipy.stats import ks_2samp
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skvae import VAETransformer

SEEDS = {("Adult", "TVAE"): 1, ("Adult", "arfpy"): 0}  # for other pairs as many as are asked for
# File, training rows at most, and the column that a classifier predicts.
TABLES = {
    "diamonds": ("mixed_diamonds.csv", 4_000, "cut"),
    "credit": ("mixed_credit.csv", 4_000, "Status"),
    "air": ("mixed_air.csv", 4_000, "cbwd"),
    "Adult": ("adult_raw.csv", 26_000, "income"),
}
N_DISTANCE = 2_000
N_BINS = 10


def load(path: Path) -> pd.DataFrame:
    """The table, texts as categories without the blanks around them."""
    table = pd.read_csv(path, skipinitialspace=True, dtype={"year": str}).dropna(ignore_index=True)
    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    return table.assign(**{name: table[name].str.strip().astype("category") for name in texts})


# --- Methods: of training rows and a seed, as many drawn rows -------------------------------------------------------


def ours(train: pd.DataFrame, seed: int, fit: dict[str, Any], draw: dict[str, Any]) -> pd.DataFrame:
    return VAETransformer(**fit, random_state=seed).fit(train).sample(len(train), random_state=seed, **draw)


def tvae(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    """CTGAN's, which draws from the global generators."""
    from ctgan import TVAE

    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    texts = train.select_dtypes("category").columns
    model = TVAE(enable_gpu=False)
    model.fit(train.astype(dict.fromkeys(texts, str)), list(texts))
    return model.sample(len(train))


def forest(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Adversarial random forests, which draw from the global generator."""
    from arfpy import arf

    vars(np).setdefault("in1d", np.isin)  # arfpy asks for a name that NumPy 2.4 has no more
    np.random.seed(seed)  # noqa: NPY002
    # Numbers for names: it asks pandas for a column by its place.
    model = arf.arf(x=train.set_axis(range(train.shape[1]), axis=1), random_state=seed, verbose=False)
    model.forde()
    return model.forge(n=len(train)).set_axis(list(train), axis=1)


def copula(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Gaussian copula of the ranks, levels ordered by frequency; back by the quantiles of the training rows."""
    rng = np.random.default_rng(seed)
    numbers, orders = {}, {}
    for name in train:
        if train[name].dtype == "category":
            orders[name] = train[name].value_counts().index
            numbers[name] = pd.Series(orders[name].get_indexer(train[name]))
        else:
            numbers[name] = train[name]
    ranks = np.column_stack([_random_ranks(column.to_numpy(float), rng) for column in numbers.values()])
    scores = rng.multivariate_normal(np.zeros(ranks.shape[1]), np.corrcoef(ndtri(ranks).T), len(train))
    drawn = {}
    for (name, column), score in zip(numbers.items(), scores.T, strict=True):
        found = np.quantile(column, ndtr(score), method="inverted_cdf")
        drawn[name] = orders[name][found.astype(int)] if name in orders else found.astype(column.dtype)
    return pd.DataFrame(drawn)


def _random_ranks(column: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places in (0, 1), those of equal values in random order."""
    order = np.lexsort((rng.random(len(column)), column))
    places = np.empty(len(column))
    places[order] = (np.arange(len(column)) + 0.5) / len(column)
    return places


def trees(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Each column by a tree on those before it: a training value of the leaf that a drawn row falls into."""
    rng, drawn = np.random.default_rng(seed), {}
    codes = pd.DataFrame({n: c.cat.codes if c.dtype == "category" else c for n, c in train.items()})
    for place, name in enumerate(train):
        if place == 0:
            found = rng.integers(0, len(train), len(train))
        else:
            kind = DecisionTreeClassifier if train[name].dtype == "category" else DecisionTreeRegressor
            tree = kind(min_samples_leaf=5, random_state=seed).fit(codes.iloc[:, :place], codes[name])
            leaves = tree.apply(codes.iloc[:, :place])
            rows = pd.Series(np.arange(len(train))).groupby(leaves).apply(np.array)
            found = np.array([rng.choice(rows[leaf]) for leaf in tree.apply(pd.DataFrame(drawn))])
        drawn[name] = codes[name].to_numpy()[found]
    return pd.DataFrame(
        {
            name: pd.Categorical.from_codes(drawn[name], dtype=train[name].dtype)
            if train[name].dtype == "category"
            else drawn[name]
            for name in train
        }
    )


METHODS: dict[str, Callable[[pd.DataFrame, int], pd.DataFrame]] = {
    "VAETransformer": partial(ours, fit={}, draw={}),
    "VAETransformer, marginals": partial(ours, fit={"marginals": "auto"}, draw={}),
    "VAETransformer, autoregressive": partial(ours, fit={"decoder": "autoregressive", "marginals": "auto"}, draw={}),
    "VAETransformer, autoregressive, no marginals": partial(ours, fit={"decoder": "autoregressive"}, draw={}),
    "VAETransformer, p(x) alone": partial(ours, fit={}, draw={"match_marginals": False}),
    "TVAE": tvae,
    "arfpy": forest,
    "Gaussian copula": copula,
    "sequential trees": trees,
}
PEERS = {"ctgan": "TVAE", "arfpy": "arfpy"}


# --- Measures -------------------------------------------------------------------------------------------------------


def like(rows: pd.DataFrame, train: pd.DataFrame) -> pd.DataFrame:
    """Rows with the columns and dtypes of the training rows."""
    texts = {name: train[name].dtype for name in train.select_dtypes("category")}
    rows = rows[list(train)].reset_index(drop=True).astype(dict.fromkeys(texts, str)).astype(texts)
    whole = train.select_dtypes("integer").columns
    return rows.assign(**{name: rows[name].round().astype(train[name].dtype) for name in whole})


def told_apart(rows: pd.DataFrame, test: pd.DataFrame) -> float:
    n = min(len(rows), len(test))
    both = pd.concat([test[:n], rows[:n]], ignore_index=True)
    is_drawn = np.repeat([0, 1], n)
    model = HistGradientBoostingClassifier(random_state=0, categorical_features="from_dtype")
    return float(roc_auc_score(is_drawn, cross_val_predict(model, both, is_drawn, cv=3, method="predict_proba")[:, 1]))


def auroc(rows: pd.DataFrame, test: pd.DataFrame, target: str) -> float:
    model = HistGradientBoostingClassifier(random_state=0, categorical_features="from_dtype")
    model.fit(rows.drop(columns=target), rows[target].astype(str))
    known = test[test[target].isin(model.classes_)]
    probability = model.predict_proba(known.drop(columns=target))
    truth = known[target].astype(str)
    if len(model.classes_) == 2:
        return float(roc_auc_score(truth, probability[:, 1]))
    return float(roc_auc_score(truth, probability, multi_class="ovr", labels=model.classes_))


def column_distance(rows: pd.DataFrame, test: pd.DataFrame) -> float:
    def distance(name: str) -> float:
        if test[name].dtype == "category":
            shares = (part[name].value_counts(normalize=True) for part in (rows, test))
            return float(next(shares).sub(next(shares)).abs().sum() / 2)
        return float(ks_2samp(rows[name], test[name]).statistic)

    return float(np.mean([distance(name) for name in test]))


def pair_distance(rows: pd.DataFrame, test: pd.DataFrame) -> float:
    def binned(part: pd.DataFrame, name: str) -> np.ndarray:
        if test[name].dtype == "category":
            return part[name].cat.codes.to_numpy().astype(int)
        return np.searchsorted(np.quantile(test[name], np.arange(1, N_BINS) / N_BINS), part[name])

    codes = [{name: binned(part, name) for name in test} for part in (rows, test)]
    distances = []
    for first, second in itertools.combinations(test, 2):
        shares = [pd.Series(part[first] * 1000 + part[second]).value_counts(normalize=True) for part in codes]
        distances.append(shares[0].sub(shares[1], fill_value=0.0).abs().sum() / 2)
    return float(np.mean(distances))


def levels(rows: pd.DataFrame, train: pd.DataFrame) -> str:
    """How many levels of at least 0.5 % are off by more than a factor 2, of how many."""
    pairs = [
        (share, float((rows[name] == level).mean()))
        for name in train.select_dtypes("category")
        for level, share in train[name].value_counts(normalize=True).items()
        if share >= 0.005
    ]
    return f"{sum(not 0.5 * share <= found <= 2.0 * share for share, found in pairs)} of {len(pairs)}"


def closeness(rows: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame) -> float:
    """On equally many training rows and other real ones."""
    texts = list(train.select_dtypes("category"))
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), texts), remainder=StandardScaler()
    ).fit(train)
    n = min(len(test), len(train))
    parts = rows[:N_DISTANCE], train.sample(n, random_state=0), test.sample(n, random_state=0)
    drawn, some, others = (encoder.transform(part) for part in parts)
    near, far = (NearestNeighbors(n_neighbors=1).fit(part).kneighbors(drawn)[0] for part in (some, others))
    return float(np.median(near) / max(np.median(far), 1e-12))


def copies(rows: pd.DataFrame, train: pd.DataFrame) -> int:
    return len(rows.merge(train.drop_duplicates(), how="inner"))


def judged(rows: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame, target: str) -> dict[str, Any]:
    return {
        "C2ST": told_apart(rows, test), "AUROC": auroc(rows, test, target), "columns": column_distance(rows, test),
        "pairs": pair_distance(rows, test), "off by a factor 2": levels(rows, train), "copies": copies(rows, train),
        "distance ratio": closeness(rows, train, test),
    }  # fmt: skip


def real_rows(train: pd.DataFrame, test: pd.DataFrame, target: str, which: dict[str, Any]) -> dict[str, Any]:
    """The best that can be: other real rows, which the same other half judges."""
    half = len(test) // 2
    real = judged(test[:half].reset_index(drop=True), train, test[half:].reset_index(drop=True), target)
    return which | {"method": "real rows", "CPU s": 0.0} | real | {"AUROC": auroc(train, test, target)}


def measure(
    name: str, table: pd.DataFrame, methods: list[str], seed: int, known: dict[tuple[str, int, str], dict[str, Any]]
) -> list[dict[str, Any]]:
    _, n_train, target = TABLES[name]
    shuffled = table.sample(frac=1.0, random_state=seed).reset_index(drop=True)
    n_train = min(n_train, len(table) // 2) if name != "Adult" else n_train
    train, test = shuffled[:n_train], shuffled[n_train : 2 * n_train].reset_index(drop=True)
    found = [known.get((name, seed, "real rows")) or real_rows(train, test, target, {"table": name, "seed": seed})]
    for method in methods:
        if (name, seed, method) in known:
            found.append(known[name, seed, method])
            continue
        if seed >= SEEDS.get((name, method), seed + 1):
            continue
        started = time.process_time()
        rows = METHODS[method](train, seed)
        seconds = time.process_time() - started
        row = {"table": name, "seed": seed, "method": method, "CPU s": seconds}
        found.append(row | judged(like(rows, train), train, test, target))
        print(found[-1], flush=True)
    return found


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds, with the largest distance of a C2ST from its mean."""
    frame = pd.DataFrame(rows)
    numbers = ["C2ST", "AUROC", "columns", "pairs", "copies", "distance ratio", "CPU s"]
    grouped = frame.groupby(["table", "method"], sort=False)
    mean = grouped[numbers].mean()
    mean.insert(1, "C2ST +-", grouped["C2ST"].agg(lambda c: float((c - c.mean()).abs().max())))
    mean.insert(5, "off by a factor 2", grouped["off by a factor 2"].agg(" / ".join))
    return mean.reset_index().to_dict("records")


def main() -> None:
    arguments = parse(__doc__.splitlines()[0], data={"type": Path, "required": True}, keep={"action": "store_true"})
    warnings.simplefilter("ignore")
    methods = asked_for(arguments, METHODS)
    rows, known, earlier = [], {}, {}
    if arguments.keep:
        earlier = json.loads((arguments.output / "synthetic_tables.json").read_text())
        known = {(row["table"], row["seed"], row["method"]): row for row in earlier["seeds"]}
    for name, (file, _, _) in TABLES.items():
        table = load(arguments.data / file)
        for seed in range(arguments.repeats):
            rows += measure(name, table, methods, seed, known)
    peers = [package for package, method in PEERS.items() if method in methods]
    versions = {package: earlier.get(package) or metadata.version(package) for package in peers}
    save("synthetic_tables", arguments, means(rows), seeds=rows, **versions)


if __name__ == "__main__":
    main()
