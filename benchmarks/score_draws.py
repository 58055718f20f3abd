"""How many posterior draws does the VAE's log-likelihood need as a score? ADBench's AUROC by ``n_draws``, on halves.

    python benchmarks/score_draws.py --data DIR

DIR holds ADBench's .npz files. One fit for each set and seed, as in protocol S of quality_anomaly.py, whose rows are
scored with each number of draws. A number that is chosen on a random half of the sets is confirmed on the other, five
times; differences from the greatest number are paired over the sets.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np
from _common import cpu_seconds, parse, save
from quality_anomaly import load, split
from sklearn.metrics import average_precision_score, roc_auc_score

from skvae import VAETransformer

DRAWS = (1, 2, 4, 8, 16, 32)


def of_set(path: Path, n_seeds: int) -> list[dict]:
    """A row for each number of draws: AUROC and average precision in percent, CPU seconds; means over the seeds."""
    X, y = load(path)
    found = {n_draws: [] for n_draws in DRAWS}
    for seed in range(n_seeds):
        train, test, truth = split(X, y, "S", seed, 0.0)
        model = VAETransformer(score_method="log_likelihood", random_state=seed).fit(train)
        for n_draws in DRAWS:
            model.set_params(n_draws=n_draws)
            scores = []
            seconds = cpu_seconds(lambda out=scores, model=model, test=test: out.append(model.score_samples(test)))
            odd = -scores[0]
            found[n_draws].append((100 * roc_auc_score(truth, odd), 100 * average_precision_score(truth, odd), seconds))
    means = {n_draws: np.mean(values, axis=0).tolist() for n_draws, values in found.items()}
    keys = ("auroc", "ap", "score_cpu_s")
    return [{"set": path.stem, "n_draws": n} | dict(zip(keys, means[n], strict=True)) for n in DRAWS]


def cube(rows: list[dict], key: str) -> np.ndarray:
    """Values of shape (n_numbers, n_sets)."""
    return np.array([[row[key] for row in rows if row["n_draws"] == n] for n in DRAWS])


def summary(rows: list[dict]) -> list[dict]:
    """Means over the sets and differences from the greatest number, with paired standard errors and the worst set."""
    table = []
    auroc, ap, seconds = (cube(rows, key) for key in ("auroc", "ap", "score_cpu_s"))
    for index, n_draws in enumerate(DRAWS):
        row = {"n_draws": n_draws}
        row |= {name: round(float(v[index].mean()), 2) for name, v in (("AUROC", auroc), ("AP", ap))}
        for name, values in (("AUROC", auroc), ("AP", ap)):
            gap = values[index] - values[-1]
            error = gap.std(ddof=1) / np.sqrt(len(gap))
            row |= {f"{name} minus {DRAWS[-1]} draws": f"{gap.mean():+.2f} +- {error:.2f}, worst {gap.min():+.2f}"}
        table.append(row | {"time / that of most": round(float(np.median(seconds[index] / seconds[-1])), 2)})
    return table


def halves(rows: list[dict], n_splits: int = 5) -> list[dict]:
    """Differences in AUROC from the greatest number on two random halves of the sets."""
    auroc, table = cube(rows, "auroc"), []
    for number in range(n_splits):
        order = np.random.RandomState(number).permutation(auroc.shape[1])
        for half, sets in zip(("choosing", "confirming"), np.array_split(order, 2), strict=True):
            gaps = auroc[:, sets] - auroc[-1, sets]
            errors = gaps.std(axis=1, ddof=1) / np.sqrt(len(sets))
            shown = [f"{gap:+.2f} +- {error:.2f}" for gap, error in zip(gaps.mean(axis=1), errors, strict=True)]
            table.append({"split": number, "half": half} | dict(zip(map(str, DRAWS), shown, strict=True)))
    return table


def main() -> None:
    arguments = parse(__doc__.splitlines()[0], data={"type": Path, "required": True})
    paths = [path for path in sorted(arguments.data.glob("*.npz")) if arguments.only in path.stem]
    rows = [row for path in paths for row in of_set(path, arguments.repeats)]
    by_half = halves(rows)
    for line in by_half:
        print(line)
    save("score_draws", arguments, summary(rows), halves=by_half, sets=rows)


if __name__ == "__main__":
    main()
