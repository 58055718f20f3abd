"""How well do the estimators rank anomalies? ADBench's classical sets, against PyOD and scikit-learn, in one run.

Protocol S trains on a random half of the normal rows and tests on the other half and all anomalies; protocol U fits and
scores all rows. Sets above 10,000 rows are cut to 10,000, stratified. Figures are AUROC and average precision x 100.
With --train-rows, S trains on so many normal rows, at most half of them, and tests on all others.

    python benchmarks/quality_anomaly.py --data DIR [--protocols S U] [--seeds 3] [--methods ...] [--dirt 0 0.01 0.03]
    python benchmarks/quality_anomaly.py --data DIR --protocols S --train-rows 60 120 250 500

The sets are cut in two at random five times: a rule that is chosen on one half has to hold on the other, and the last
table of a run says what each method is ahead of ours, or behind, on both, with paired standard errors over the sets.

With --keep, the methods that are not named keep their rows of the results file, and those that are named those of sets
that the folder lacks. The file tells on which day each row was taken: on the same splits, so that the figures compare
as if they came from one run, but for the seconds. --relabel keeps them too, and first renames methods of that file, all
at once, where a name has come to stand for other settings: no figure moves. Only the methods that --methods names run
then, none by default.

    python benchmarks/quality_anomaly.py --data DIR --protocols S --relabel "earlier name -> name" --save

The sets are the .npz files of ADBench's "Classical" folder (https://github.com/Minqi824/ADBench).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skvae import AutoencoderTransformer, VAETransformer

MAX_ROWS = 10_000
RESULTS = Path(__file__).parent / "results"
Scorer = Callable[[np.ndarray, np.ndarray, int], np.ndarray]  # train, test, seed -> normality of the test rows


# --- Methods: each returns scores, higher = more normal ---------------------------------------------------------------


def ours(estimator, **parameters) -> Scorer:
    def score(train, test, seed):
        return estimator(random_state=seed, **parameters).fit(train).score_samples(test)

    return score


def without_network(contamination) -> Scorer:
    """The autoencoder's joint score with a reconstruction that is always the mean: what the network adds."""

    def score(train, test, seed):
        from skvae._densities.gaussian import GaussianDensity
        from skvae._densities.residuals import JointDensity
        from skvae._densities.trimming import central_density, trimmed_rows

        scaler = StandardScaler().fit(train)
        if contamination != "auto":
            kept = trimmed_rows(torch.from_numpy(scaler.transform(train)), contamination).numpy()
            scaler, train = StandardScaler().fit(train[kept]), train[kept]
        x, fresh = (torch.from_numpy(scaler.transform(part)) for part in (train, test))
        density = GaussianDensity.fit(-x)
        fresh = torch.cat([fresh, density.whiten(-fresh)], dim=1)
        if contamination == "auto":
            return JointDensity.fit(x, density, -x, np.random.RandomState(seed)).log_prob(fresh).numpy()
        return central_density(torch.cat([x, density.whiten(-x)], dim=1), floor=0.1).log_prob(fresh).numpy()

    return score


def pyod(name) -> Scorer:
    def score(train, test, seed):
        import importlib

        module, cls = {
            "AE": ("auto_encoder", "AutoEncoder"),
            "VAE": ("vae", "VAE"),
            "ECOD": ("ecod", "ECOD"),
            "LUNAR": ("lunar", "LUNAR"),
        }[name]
        detector = getattr(importlib.import_module(f"pyod.models.{module}"), cls)
        options = {"AE": {"device": "cpu"}, "VAE": {"device": "cpu"}, "ECOD": {}, "LUNAR": {}}[name]
        if name != "ECOD":
            options |= {"random_state": seed, "verbose": 0}
        if len(train) < 32 and name in ("AE", "VAE"):
            options["batch_size"] = 8
        return -detector(**options).fit(train).decision_function(test)

    return score


def isolation_forest(train, test, seed):
    return IsolationForest(random_state=seed).fit(train).score_samples(test)


def neighbor_distances(train, test, n_neighbors) -> np.ndarray:
    """Distances (n_samples, n_neighbors) to the nearest training rows but the row itself, in standardised columns."""
    scaler = StandardScaler().fit(train)
    neighbors = NearestNeighbors().fit(scaler.transform(train))
    if train is test:
        return neighbors.kneighbors(scaler.transform(test), n_neighbors=n_neighbors + 1)[0][:, 1:]
    return neighbors.kneighbors(scaler.transform(test), n_neighbors=n_neighbors)[0]


def nearest_neighbor(n_neighbors) -> Scorer:
    return lambda train, test, seed: -neighbor_distances(train, test, n_neighbors)[:, -1]


def diffusion_time(train, test, seed):
    """DTE-NP of Livernoche, Jain, Hezaveh & Ravanbakhsh (2024), https://arxiv.org/abs/2305.18593."""
    return -np.square(neighbor_distances(train, test, 5)).mean(axis=1)


def mixture(n_components) -> Scorer:
    def score(train, test, seed):
        scaler = StandardScaler().fit(train)
        model = GaussianMixture(n_components, reg_covar=1e-3, random_state=seed).fit(scaler.transform(train))
        return model.score_samples(scaler.transform(test))

    return score


def pca_residual(train, test, seed):
    scaler = StandardScaler().fit(train)
    pca = PCA(0.9, svd_solver="full").fit(scaler.transform(train))
    x = scaler.transform(test)
    return -np.square(x - pca.inverse_transform(pca.transform(x))).sum(axis=1)


def methods(protocol: str) -> dict[str, Scorer]:
    if protocol == "S":
        estimators = {"": ["auto", "residual", "neighbor", "robust", "local"], " c=0.05": ["auto"]}
        contaminations: dict[str, float | str] = {"": "auto", " c=0.05": 0.05}
    else:
        estimators = {"": ["auto", "residual", "neighbor"], " c=0.05": ["auto"], " c=0.2": ["auto"]}
        contaminations = {"": 0.1, " c=0.05": 0.05, " c=0.2": 0.2}
    table: dict[str, Scorer] = {}
    for suffix, contamination in contaminations.items():
        for score_method in estimators[suffix]:
            label = "" if score_method == "auto" else f" {score_method}"
            options = {"contamination": contamination, "score_method": score_method}
            table[f"skvae AE{label}{suffix}"] = ours(AutoencoderTransformer, **options)
        table[f"skvae VAE{suffix}"] = ours(VAETransformer, contamination=contamination)
        table[f"skvae VAE log_likelihood{suffix}"] = ours(
            VAETransformer, contamination=contamination, score_method="log_likelihood"
        )
        if contamination in ("auto", 0.1):
            table[f"skvae AE, 4 networks{suffix}"] = ours(
                AutoencoderTransformer, contamination=contamination, n_networks=4
            )
        if contamination == "auto":
            table["skvae AE, fraction 0.1"] = ours(AutoencoderTransformer, calibration_fraction=0.1)
            table["skvae AE robust, 4 networks"] = ours(AutoencoderTransformer, score_method="robust", n_networks=4)
        table[f"no network{suffix}"] = without_network(contamination)
    return table | {
        "PyOD AutoEncoder": pyod("AE"),
        "PyOD VAE": pyod("VAE"),
        "ECOD": pyod("ECOD"),
        "IsolationForest": isolation_forest,
        "kNN (1)": nearest_neighbor(1),
        "kNN (5)": nearest_neighbor(5),
        "DTE-NP": diffusion_time,
        "LUNAR": pyod("LUNAR"),
        "GaussianMixture (1)": mixture(1),
        "GaussianMixture (8)": mixture(8),
        "PCA residual (90 %)": pca_residual,
    }


# --- Protocols --------------------------------------------------------------------------------------------------------


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as archive:
        X, y = archive["X"].astype(float), archive["y"].astype(int).ravel()
    if len(X) <= MAX_ROWS:
        return X, y
    rng, share = np.random.RandomState(0), MAX_ROWS / len(X)
    kept = [
        rng.choice(rows, round(len(rows) * share), replace=False) for rows in (np.flatnonzero(y == k) for k in (0, 1))
    ]
    rows = np.sort(np.concatenate(kept))
    return X[rows], y[rows]


def split(X, y, protocol, seed, dirt, n_train=None):
    """Training rows, test rows, labels of the test rows."""
    if protocol == "U":
        return X, X, y
    rng = np.random.RandomState(seed)
    normal, odd = rng.permutation(np.flatnonzero(y == 0)), rng.permutation(np.flatnonzero(y == 1))
    half = min(len(normal) // 2, n_train or len(normal))
    n_dirty = min(round(dirt * half), len(odd) // 2)
    train = rng.permutation(np.concatenate([normal[: half - n_dirty], odd[:n_dirty]])) if n_dirty else normal[:half]
    test = np.concatenate([normal[half:], odd[n_dirty:]])
    return X[train], X[test], y[test]


def run(data, names, protocol, seeds, dirt, n_train=None) -> list[dict]:
    rows = []
    for path in sorted(data.glob("*.npz")):
        X, y = load(path)
        for seed in range(seeds):
            train, test, labels = split(X, y, protocol, seed, dirt, n_train)
            for name in names:
                started = time.process_time()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    scores = methods(protocol)[name](train, test, seed)
                seconds = time.process_time() - started
                scores = np.nan_to_num(-np.asarray(scores, dtype=float), posinf=1e300, neginf=-1e300)
                rows.append(
                    {
                        "set": path.stem, "method": name, "seed": seed, "date": str(date.today()), "cpu_s": seconds,
                        "auroc": 100 * roc_auc_score(labels, scores),
                        "ap": 100 * average_precision_score(labels, scores),
                    }
                )  # fmt: skip
    return rows


def kept(path: Path, names: list[str], sets: set[str], pairs: list[str]) -> list[dict]:
    """Rows of a results file by their new names, without those of the methods named on these sets."""
    rows = relabelled(json.loads(path.read_text())["rows"], pairs)
    return [row for row in rows if row["method"] not in names or row["set"] not in sets]


def relabelled(rows: list[dict], pairs: list[str]) -> list[dict]:
    """Rows with other names of their methods, each pair "earlier name -> name"; all at once, so that names move up."""
    names = dict(pair.split(" -> ") for pair in pairs)
    return [row | {"method": names.get(row["method"], row["method"])} for row in rows]


# --- Tables -----------------------------------------------------------------------------------------------------------


def cube(rows: list[dict], key: str) -> dict[str, np.ndarray]:
    """(n_sets, n_seeds) of each method."""
    sets, seeds = sorted({r["set"] for r in rows}), sorted({r["seed"] for r in rows})
    found = {(r["method"], r["set"], r["seed"]): r[key] for r in rows}
    return {
        m: np.array([[found[m, s, k] for k in seeds] for s in sets]) for m in dict.fromkeys(r["method"] for r in rows)
    }


def summary(rows: list[dict]) -> list[dict]:
    auroc, ap, seconds = (cube(rows, key) for key in ("auroc", "ap", "cpu_s"))
    names = list(auroc)
    per_set = np.array([auroc[name].mean(axis=1) for name in names])
    ranks = (-per_set).argsort(axis=0).argsort(axis=0) + 1
    anchors = [name for name in names if not name.startswith(("skvae", "no network"))]
    best_anchor = np.max([auroc[name].mean(axis=1) for name in anchors], axis=0) if anchors else None
    table = []
    for index, name in enumerate(names):
        row = {
            "method": name, "auroc": auroc[name].mean(), "ap": ap[name].mean(), "rank": float(ranks[index].mean()),
            "sd_over_seeds": float(auroc[name].mean(axis=0).std(ddof=1)) if auroc[name].shape[1] > 1 else None,
            "median_cpu_s": float(np.median(seconds[name])), "max_cpu_s": float(seconds[name].max()),
        }  # fmt: skip
        if best_anchor is not None:
            row["worst_gap_to_best_anchor"] = float((per_set[index] - best_anchor).min())
        row["minus"] = {}
        for other in names:
            gap, gap_ap = per_set[index] - auroc[other].mean(axis=1), (ap[name] - ap[other]).mean(axis=1)
            root = np.sqrt(len(gap))
            row["minus"][other] = [gap.mean(), gap.std(ddof=1) / root, gap_ap.mean(), gap_ap.std(ddof=1) / root]
        table.append(row)
    return sorted(table, key=lambda row: -row["auroc"])


def halves(rows: list[dict], best: str = "skvae AE", n_splits: int = 5) -> list[dict]:
    """What each method is ahead of ``best`` on two random halves of the sets: means and paired standard errors."""
    auroc, ap = cube(rows, "auroc"), cube(rows, "ap")
    if best not in auroc or len(auroc[best]) < 4:
        return []
    table = []
    for seed in range(n_splits):
        order = np.random.RandomState(seed).permutation(len(auroc[best]))
        for half, sets in zip(("choosing", "confirming"), np.array_split(order, 2), strict=True):
            for name in auroc:
                if name != best:
                    gaps = [(of[name] - of[best]).mean(axis=1)[sets] for of in (auroc, ap)]
                    row = {"split": seed, "half": half, "method": name}
                    for key, gap in zip(("auroc", "ap"), gaps, strict=True):
                        row |= {key: gap.mean(), f"{key}_se": gap.std(ddof=1) / np.sqrt(len(gap))}
                    table.append(row)
    return table


def show_halves(table: list[dict], best: str = "skvae AE") -> None:
    if table:
        print(f"Minus {best} on both halves of the sets, five splits (AUROC +- se | AP +- se):")
    for name in dict.fromkeys(row["method"] for row in table):
        for half in ("choosing", "confirming"):
            chosen = [row for row in table if (row["method"], row["half"]) == (name, half)]
            auroc = " ".join(f"{row['auroc']:+5.1f} +- {row['auroc_se']:.1f}" for row in chosen)
            ap = " ".join(f"{row['ap']:+5.1f} +- {row['ap_se']:.1f}" for row in chosen)
            print(f"  {name:28s} {half:10s} {auroc} | {ap}")


def show(protocol: str, dirt: float, n_train: int | None, table: list[dict]) -> None:
    head = f"\nProtocol {protocol}" + (f", at most {n_train} training rows" if n_train else "")
    print(head + (f", {dirt:.0%} of the training rows anomalous" if dirt else ""))
    print(f"{'method':28s} AUROC    AP  rank  sd(seeds)  median s  max s  worst gap to best anchor")
    for row in table:
        sd = f"{row['sd_over_seeds']:9.2f}" if row["sd_over_seeds"] is not None else " " * 9
        gap = f"{row.get('worst_gap_to_best_anchor', np.nan):8.1f}"
        print(
            f"{row['method']:28s} {row['auroc']:5.2f} {row['ap']:5.2f} {row['rank']:5.1f} {sd}"
            f" {row['median_cpu_s']:9.2f} {row['max_cpu_s']:6.1f} {gap}"
        )
    best = next((row for row in table if row["method"] == "skvae AE"), None)
    if best:
        print("skvae AE minus (AUROC +- se, AP +- se):")
        for other, (gap, se, gap_ap, se_ap) in best["minus"].items():
            if other != "skvae AE":
                print(f"  {other:28s} {gap:+5.2f} +- {se:.2f}  {gap_ap:+5.2f} +- {se_ap:.2f}")


def picture(table: list[dict], path: Path) -> None:
    """Mean ranks on one line, as in a critical-difference diagram, with each method's mean AUROC."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = sorted(table, key=lambda row: row["rank"])
    figure, ax = plt.subplots(figsize=(7, 0.3 * len(rows) + 1), layout="constrained")
    color = ["tab:blue" if row["method"].startswith("skvae") else "0.55" for row in rows]
    ax.hlines(range(len(rows)), 1, [row["rank"] for row in rows], color=color, linewidth=1)
    ax.scatter([row["rank"] for row in rows], range(len(rows)), color=color, zorder=2)
    ax.set_yticks(range(len(rows)), [f"{row['method']}  ({row['auroc']:.1f})" for row in rows])
    ax.invert_yaxis()
    ax.set_xlabel("mean rank over the sets (mean AUROC in brackets); left is better")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of ADBench .npz files")
    parser.add_argument("--protocols", nargs="+", default=["S", "U"], choices=["S", "U"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", help="names of the table; all by default")
    parser.add_argument("--dirt", type=float, nargs="+", default=[0.0], help="shares of anomalies in S's training rows")
    parser.add_argument("--train-rows", type=int, nargs="+", help="numbers of S's training rows; half the normal ones")
    parser.add_argument("--keep", action="store_true", help="keep other rows of the results file: methods, sets")
    parser.add_argument("--relabel", nargs="+", default=[], help='names in the file that change: "earlier -> name"')
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/quality_anomaly*.json and .png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for protocol, dirt, n_train in runs(arguments):
        chosen = arguments.methods or ([] if arguments.relabel else methods(protocol))
        names = [name for name in methods(protocol) if name in chosen]
        stem = f"quality_anomaly_{protocol}" + (f"_dirt{dirt:g}" if dirt else "") + (f"_{n_train}" if n_train else "")
        rows = run(arguments.data, names, protocol, arguments.seeds, dirt, n_train) if names else []
        if arguments.keep or arguments.relabel:
            sets = {path.stem for path in arguments.data.glob("*.npz")}
            rows += kept(RESULTS / f"{stem}.json", names, sets, arguments.relabel)
        table, by_half = summary(rows), halves(rows)
        show(protocol, dirt, n_train, table)
        show_halves(by_half)
        if arguments.save:
            RESULTS.mkdir(exist_ok=True)
            head = {"date": str(date.today()), "machine": platform.processor() or platform.machine(), "dirt": dirt}
            if not names:  # nothing was measured
                earlier = json.loads((RESULTS / f"{stem}.json").read_text())
                head |= {key: earlier[key] for key in ("date", "machine")}
            head |= {"train_rows": n_train} if n_train else {}
            tables = {"table": table, "halves": by_half, "rows": rows}
            (RESULTS / f"{stem}.json").write_text(json.dumps(head | tables, indent=1))
            picture(table, RESULTS / f"{stem}.png")


def runs(arguments: argparse.Namespace) -> list[tuple[str, float, int | None]]:
    """Protocol, share of anomalies in the training rows, number of training rows; U has neither."""
    small = arguments.train_rows or [None]
    return [
        (protocol, dirt, n_train)
        for protocol in arguments.protocols
        for dirt in (arguments.dirt if protocol == "S" else [0.0])
        for n_train in (small if protocol == "S" else [None])
    ]


if __name__ == "__main__":
    main()
