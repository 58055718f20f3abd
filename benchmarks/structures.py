"""Which kinds of structure, and which kinds of break with them, does each method see? Tables drawn from known ones.

Averages over tables of public repositories do not tell what a method is blind to. Each of these tables has one
structure that a sentence can tell, and anomalies that break with it alone, mostly within the range of every column:

- groups: rows in 30 Gaussian groups in 6 columns; anomalies lie between two of them;
- ring: two numbers on a ring; anomalies lie inside;
- spiral: two numbers on a spiral; anomalies lie between its turns;
- surface: a number follows from two others by a curved surface; anomalies lie off it;
- regimes: rows follow one of two linear relations; anomalies follow their mean;
- totals: a column is the sum of five skewed ones; one of the six is wrong by a quarter or more;
- low rank: 30 columns of three hidden numbers and a little noise; three columns exchange their values;
- far out: the same table; anomalies are six times as far from the mean along its hidden numbers;
- heavy tails: correlated columns with Student-t tails; three cells are from other rows;
- counts: how often 40 words occur in texts of three topics; half of a text is of another topic;
- shares: parts of a whole; two parts are exchanged;
- hours: load that follows from the hour and the weekday, 0-23 and 0-6; anomalies have the load of 8 hours later;
- windows, spike: 40 readings of a noisy wave of any phase; three of them jump;
- windows, rate: the wave is half as fast again;
- windows, still: the sensor repeats one reading, with a hundredth of the noise.

Each method trains on 1,000 rows and scores 1,000 others and 100 anomalies. "clean" are rows without anomalies; of
"5 % anomalies" 50 are anomalous, and ours know that share. AUROC x 100, means over seeds.

    python benchmarks/structures.py [--repeats 5] [--only NAMES] [--keep]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from _common import RESULTS, asked_for, parse, save
from quality_anomaly import Scorer, methods, nearest_neighbor
from sklearn.metrics import roc_auc_score

N_TRAIN, N_TEST, N_ODD, SHARE = 1_000, 1_000, 100, 0.05
Rows = np.ndarray
Draw = Callable[[np.random.Generator, int], Rows]


# --- Structures: a generator and a number in, so many rows out -------------------------------------------------------


def groups(rng: np.random.Generator, n: int, *, between: float = 0.0) -> Rows:
    centres = np.random.default_rng(0).uniform(-4, 4, size=(30, 6))
    pairs = np.argsort(rng.random((n, 30)), axis=1)[:, :2]
    middle = (1 - between) * centres[pairs[:, 0]] + between * centres[pairs[:, 1]]
    return middle + 0.3 * rng.normal(size=(n, 6))


def ring(rng: np.random.Generator, n: int, *, radius: float = 1.0) -> Rows:
    angle, length = rng.uniform(0, 2 * np.pi, n), radius * (np.sqrt(rng.random(n)) if radius < 1 else np.ones(n))
    place = np.stack([length * np.cos(angle), length * np.sin(angle)], axis=1)
    return np.hstack([place + 0.05 * rng.normal(size=(n, 2)), rng.normal(size=(n, 2))])


def spiral(rng: np.random.Generator, n: int, *, shift: float = 0.0) -> Rows:
    angle = rng.uniform(2, 5 * np.pi, n)
    length = angle + shift
    place = np.stack([length * np.cos(angle), length * np.sin(angle)], axis=1)
    return np.hstack([place + 0.3 * rng.normal(size=(n, 2)), rng.normal(size=(n, 2))])


def surface(rng: np.random.Generator, n: int, *, off: bool = False) -> Rows:
    place = rng.uniform(-2, 2, size=(n, 2))
    height = np.sin(2 * place[:, 0]) * np.cos(1.5 * place[:, 1]) + 0.1 * rng.normal(size=n)
    if off:
        height -= np.sign(height) * rng.uniform(0.6, 1.0, n)
    return np.column_stack([place, height, rng.normal(size=(n, 3))])


def regimes(rng: np.random.Generator, n: int, *, mixed: bool = False) -> Rows:
    slopes = np.random.default_rng(1).normal(size=(2, 3, 4))
    cause, regime = rng.normal(size=(n, 3)), rng.integers(0, 2, n)
    slope = np.repeat(slopes.mean(axis=0)[None], n, axis=0) if mixed else slopes[regime]
    return np.hstack([cause, np.einsum("ni,nij->nj", cause, slope) + 0.1 * rng.normal(size=(n, 4))])


def totals(rng: np.random.Generator, n: int, *, wrong: bool = False) -> Rows:
    parts = rng.lognormal(0.0, 0.8, size=(n, 5))
    X = np.column_stack([parts, parts.sum(axis=1) + 0.01 * rng.normal(size=n)])
    if wrong:
        X[np.arange(n), rng.integers(0, 6, n)] *= rng.uniform(1.25, 2.0, n) ** rng.choice([-1, 1], n)
    return X


def low_rank(rng: np.random.Generator, n: int, *, exchanged: bool = False, factor: float = 1.0) -> Rows:
    loadings = np.random.default_rng(2).normal(size=(3, 30))
    X = factor * rng.normal(size=(n, 3)) @ loadings + 0.2 * rng.normal(size=(n, 30))
    return with_cells(X, X, 3, rng) if exchanged else X


def heavy_tails(rng: np.random.Generator, n: int, *, broken: bool = False) -> Rows:
    loadings = np.random.default_rng(3).normal(size=(4, 12))
    X = (rng.normal(size=(n, 4)) @ loadings + 0.5 * rng.normal(size=(n, 12))) / np.sqrt(rng.chisquare(3, (n, 1)) / 3)
    return with_cells(X, heavy_tails(rng, n), 3, rng) if broken else X


def with_cells(X: Rows, others: Rows, n_cells: int, rng: np.random.Generator) -> Rows:
    """Rows with a few cells of each replaced: by those of another row or, where ``others`` are the same, exchanged."""
    chosen = np.argsort(rng.random(X.shape), axis=1)[:, :n_cells]
    source = np.roll(chosen, 1, axis=1) if others is X else chosen
    X, values = X.copy(), np.take_along_axis(others, source, axis=1)
    np.put_along_axis(X, chosen, values, axis=1)
    return X


def counts(rng: np.random.Generator, n: int, *, two_topics: bool = False) -> Rows:
    words = np.random.default_rng(4).dirichlet(np.full(40, 0.2), size=3)
    topic, length = rng.integers(0, 3, n), rng.integers(30, 80, n)
    other = (topic + rng.integers(1, 3, n)) % 3
    shares = (words[topic] + words[other]) / 2 if two_topics else words[topic]
    return rng.poisson(length[:, None] * shares).astype(float)


def shares(rng: np.random.Generator, n: int, *, exchanged: bool = False) -> Rows:
    X = rng.gamma(np.array([20.0, 12.0, 8.0, 5.0, 3.0, 2.0, 1.0]), size=(n, 7))
    X /= X.sum(axis=1, keepdims=True)
    return with_cells(X, X, 2, rng) if exchanged else X


def hours(rng: np.random.Generator, n: int, *, late: int = 0) -> Rows:
    hour, day = rng.integers(0, 24, n), rng.integers(0, 7, n)
    at_work = (day < 5) * np.exp(-(((hour + late) % 24 - 13) ** 2) / 18)
    load = 1.0 + 3.0 * at_work + 0.2 * rng.normal(size=n)
    return np.column_stack([hour, day, load, 0.5 * load + 0.1 * rng.normal(size=n)])


def windows(rng: np.random.Generator, n: int, *, rate: float = 1.0, spike: bool = False, still: bool = False) -> Rows:
    phase = rng.uniform(0, 2 * np.pi, (n, 1))
    X = np.sin(2 * np.pi * rate * np.arange(40) / 20 + phase)
    if still:
        X = np.repeat(X[:, :1], 40, axis=1)
    X = X + (0.002 if still else 0.2) * rng.normal(size=(n, 40))
    if spike:
        np.put_along_axis(X, chosen := np.argsort(rng.random((n, 40)), axis=1)[:, :3], 0.0, axis=1)
        np.put_along_axis(X, chosen, rng.choice([-1.5, 1.5], (n, 3)), axis=1)
    return X


# Each with its normal rows and its anomalies.
STRUCTURES: dict[str, tuple[Draw, Draw]] = {
    "groups": (groups, lambda rng, n: groups(rng, n, between=0.5)),
    "ring": (ring, lambda rng, n: ring(rng, n, radius=0.7)),
    "spiral": (spiral, lambda rng, n: spiral(rng, n, shift=np.pi)),
    "surface": (surface, lambda rng, n: surface(rng, n, off=True)),
    "regimes": (regimes, lambda rng, n: regimes(rng, n, mixed=True)),
    "totals": (totals, lambda rng, n: totals(rng, n, wrong=True)),
    "low rank": (low_rank, lambda rng, n: low_rank(rng, n, exchanged=True)),
    "far out": (low_rank, lambda rng, n: low_rank(rng, n, factor=6.0)),
    "heavy tails": (heavy_tails, lambda rng, n: heavy_tails(rng, n, broken=True)),
    "counts": (counts, lambda rng, n: counts(rng, n, two_topics=True)),
    "shares": (shares, lambda rng, n: shares(rng, n, exchanged=True)),
    "hours": (hours, lambda rng, n: hours(rng, n, late=8)),
    "windows, spike": (windows, lambda rng, n: windows(rng, n, spike=True)),
    "windows, rate": (windows, lambda rng, n: windows(rng, n, rate=1.5)),
    "windows, still": (windows, lambda rng, n: windows(rng, n, still=True)),
}

# --- Measurement -----------------------------------------------------------------------------------------------------

PEERS = (
    "kNN (1)", "kNN (5)", "kNN (20)", "GaussianMixture (1)", "GaussianMixture (8)", "PCA residual (90 %)",
    "IsolationForest", "ECOD", "PyOD AutoEncoder",
)  # fmt: skip
CLEAN = ("skvae AE", "skvae AE robust", "skvae AE local", "skvae VAE", *PEERS)
UNCLEAN = ("skvae AE", "skvae AE c=0.05", "skvae AE robust", "skvae VAE", "skvae VAE c=0.05", *PEERS)
TRAINING = {"clean": (0.0, CLEAN), "5 % anomalies": (SHARE, UNCLEAN)}


def measure(name: str, training: str, seed: int, scorers: dict[str, Scorer]) -> list[dict[str, Any]]:
    """AUROC of each method on one table of one structure."""
    draw, odd = STRUCTURES[name]
    rng, share = np.random.default_rng(seed), TRAINING[training][0]
    n_odd = round(share * N_TRAIN)
    train = rng.permutation(np.vstack([draw(rng, N_TRAIN - n_odd), odd(rng, n_odd)]))
    test, truth = np.vstack([draw(rng, N_TEST), odd(rng, N_ODD)]), np.repeat([0, 1], [N_TEST, N_ODD])
    where = {"training": training, "structure": name, "seed": seed}
    return [
        where | {"method": method, "auroc": 100 * roc_auc_score(truth, -np.asarray(scorer(train, test, seed)))}
        for method, scorer in scorers.items()
    ]


def summary(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds and structures, paired differences to the first method, and each method's worst."""
    frame = pd.DataFrame(cells)
    lines = []
    for training, part in frame.groupby("training", sort=False):
        means = part.groupby(["method", "structure"], sort=False)["auroc"].mean().unstack()
        for method, values in means.loc[[name for name in TRAINING[training][1] if name in means.index]].iterrows():
            gap = values - means.iloc[0]
            line = {"training": training, "method": method, "mean": f"{values.mean():.1f}"}
            line[f"minus {means.index[0]}"] = f"{gap.mean():+.1f} ± {gap.std(ddof=1) / np.sqrt(len(gap)):.1f}"
            lines.append(line | {"worst": f"{values.min():.1f}"} | {k: f"{values[k]:.1f}" for k in STRUCTURES})
    return lines


def main() -> None:
    arguments = parse(__doc__.splitlines()[0], keep={"action": "store_true"})
    warnings.simplefilter("ignore")
    known, cells = methods("S") | {"kNN (20)": nearest_neighbor(20)}, []
    asked = {training: asked_for(arguments, names) for training, (_, names) in TRAINING.items()}
    if arguments.keep:
        earlier = json.loads((RESULTS / "structures.json").read_text())["cells"]
        cells = [cell for cell in earlier if cell["method"] not in asked[cell["training"]]]
    for name in STRUCTURES:
        for training, names in asked.items():
            for seed in range(arguments.repeats):
                cells += measure(name, training, seed, {method: known[method] for method in names})
    save("structures", arguments, summary(cells), cells=cells)


if __name__ == "__main__":
    main()
