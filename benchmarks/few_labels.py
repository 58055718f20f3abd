"""What are 5 or 20 labelled anomalies worth? ADBench's classical sets, `learn_anomalies` and a classifier, in one run.

Each detector trains on a random half of the normal rows, without labels, and is tested on the other half and the
anomalies, but for the labelled ones, which are drawn from them (at most half of a set's). A classifier, gradient
boosting with balanced weights, trains on the same normal rows and the labelled anomalies. In "other kinds" the
anomalies are cut in two by k-means; the labelled ones come from one part, and those of the other are the test: no label
shows their kind. AUROC and average precision x 100. Gains are those over the same detector without labels on the same
rows, with paired standard errors over the sets. Constants were chosen on the sets with odd numbers, in the order of
their file names; that a larger power costs anomalies of other kinds had been seen on those with even ones.

    python benchmarks/few_labels.py --data DIR [--seeds 3] [--quick]

The sets are the .npz files of ADBench's "Classical" folder (https://github.com/Minqi824/ADBench). --quick takes two.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import RESULTS, machine, table
from quality_anomaly import load, split
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from skvae import AutoencoderTransformer, VAETransformer

N_LABELS = (5, 20)
DETECTORS = {
    "skvae AE": AutoencoderTransformer,
    "skvae VAE": VAETransformer,
}
BOOSTING = "HistGradientBoosting"


def draw(X: np.ndarray, odd: np.ndarray, n_labels: int, kinds: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are labelled anomalies, and which anomalies are tested."""
    rng = np.random.RandomState(seed)
    if kinds == "same":
        labelled = rng.choice(odd, min(n_labels, len(odd) // 2), replace=False)
        return labelled, np.setdiff1d(odd, labelled)
    parts = KMeans(2, n_init=3, random_state=seed).fit_predict(StandardScaler().fit_transform(X)[odd])
    shown = odd[parts == seed % 2]
    return rng.choice(shown, min(n_labels, len(shown)), replace=False), odd[parts != seed % 2]


def boosted(train: np.ndarray, labelled: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Probability of an anomaly."""
    model = HistGradientBoostingClassifier(class_weight="balanced", random_state=seed)
    model.fit(np.vstack([train, labelled]), np.repeat([0, 1], [len(train), len(labelled)]))
    return model.predict_proba(test)[:, 1]


def measure(name: str, X: np.ndarray, y: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """AUROC and average precision of every method with each number of labels of either kind."""
    train, test, is_odd = split(X, y, "S", seed, 0.0)
    odd, normal = np.flatnonzero(is_odd == 1), np.flatnonzero(is_odd == 0)
    fitted = {who: detector(random_state=seed).fit(train) for who, detector in DETECTORS.items()}
    found = []
    for kinds in ("same", "other"):
        for n_labels in N_LABELS:
            labelled, tested = draw(test, odd, n_labels, kinds, seed)
            rows, truth = np.concatenate([normal, tested]), np.repeat([0, 1], [len(normal), len(tested)])
            scores = {BOOSTING: boosted(train, test[labelled], test[rows], seed)}
            for who, model in fitted.items():
                scores[f"{who}, no label"] = -model.learn_anomalies(test[:0]).score_samples(test[rows])
                scores[who] = -model.learn_anomalies(test[labelled]).score_samples(test[rows])
            where = {"set": name, "seed": seed, "kinds": kinds, "labels": n_labels}
            for method, values in scores.items():
                figures = {"auroc": roc_auc_score(truth, values), "ap": average_precision_score(truth, values)}
                found.append(where | {"method": method} | {key: 100 * value for key, value in figures.items()})
    return found


def summary(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over sets and seeds, and gains over the detector without labels, on all sets and on either half."""
    frame = pd.DataFrame(measured)
    halves = {name: ("odd", "even")[index % 2] for index, name in enumerate(sorted(frame["set"].unique()))}
    lines = []
    for (kinds, n_labels), part in frame.groupby(["kinds", "labels"], sort=False):
        of = part.groupby(["method", "set"])[["auroc", "ap"]].mean()
        for method in (*DETECTORS, BOOSTING):
            plain = f"{method if method in DETECTORS else next(iter(DETECTORS))}, no label"
            mean, gain = of.loc[method].mean(), of.loc[method] - of.loc[plain]
            line = {"kinds": kinds, "labels": n_labels, "method": method}
            line["AUROC / AP"] = f"{mean['auroc']:.1f} / {mean['ap']:.1f}"
            half = gain.index.map(halves)
            for which, chosen in (
                ("gain", gain),
                ("odd sets", gain[half == "odd"]),
                ("even sets", gain[half == "even"]),
            ):
                line[which] = " / ".join(
                    f"{chosen[key].mean():+.1f} ± {chosen[key].std(ddof=1) / np.sqrt(len(chosen)):.1f}"
                    for key in ("auroc", "ap")
                )
            lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of ADBench .npz files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two sets, one seed, no file")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths, measured = sorted(arguments.data.glob("*.npz")), []
    for path in paths[2:6:2] if arguments.quick else paths:
        for seed in range(1 if arguments.quick else arguments.seeds):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                measured += measure(path.stem, *load(path), seed)
    lines = summary(measured)
    print(table(lines))
    if not arguments.quick:
        arguments.output.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine(), "rows": lines, "measured": measured}
        (arguments.output / "few_labels.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
