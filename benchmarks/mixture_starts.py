"""How many mixtures should the joint score average? ADBench's AUROC and average precision by their number, on halves.

    python benchmarks/mixture_starts.py --data DIR

DIR holds ADBench's .npz files. One fit for each set, size of training set and seed, as in protocol S of
quality_anomaly.py; its network stays, and the density of the score is estimated anew from 1 to 4 starts of k-means,
three times each. Differences from one start are paired over the sets, all of them and the first and second ones of
each pair in alphabetical order: a number that is chosen on the first has to hold on the second.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from _common import cpu_seconds, parse, save
from quality_anomaly import load, split
from sklearn.metrics import average_precision_score, roc_auc_score

from skvae import AutoencoderTransformer
from skvae._densities import residuals
from skvae._densities.gaussian import fit_gaussian
from skvae._densities.residuals import JointDensity
from skvae._model import finishing
from skvae._model.comparison import compare_many

STARTS, SIZES, N_TIMES = (1, 2, 3, 4), (120, 250, None), 3


def compared(train: np.ndarray, test: np.ndarray, seed: int) -> tuple:
    """Rows that the densities of a default fit learn from and rows to score, each with their residuals."""
    learned = []
    taken = finishing._score_densities

    def keep(plan, prepared, module, rows, random_state):
        if not learned:
            learned.append((prepared.columns, module, rows.x))
        return taken(plan, prepared, module, rows, random_state)

    with patch.object(finishing, "_score_densities", keep):
        AutoencoderTransformer(random_state=seed).fit(train)
    columns, module, x = learned[0]
    double = module.converted(torch.float64)
    encode = columns.scaler(torch.float64, torch.device("cpu"))
    return tuple((rows, compare_many(double, rows).residual) for rows in (x.double(), encode(torch.from_numpy(test))))


def of_fit(train: np.ndarray, test: np.ndarray, truth: np.ndarray, seed: int) -> Iterator[dict]:
    """A row for each number of starts: means over the times that the density is estimated."""
    (x, residual), (fresh, fresh_residual) = compared(train, test, seed)
    density = fit_gaussian(residual)
    for n_starts in STARTS:
        found = []
        for time in range(N_TIMES):
            random_state, joint = np.random.RandomState(time), []
            with patch.multiple(residuals, _N_STARTS=n_starts, _N_WIDE_STARTS=n_starts):
                fit_s = cpu_seconds(
                    lambda joint=joint, state=random_state: joint.append(JointDensity.fit(x, density, residual, state))
                )
            odd = -joint[0].log_prob_of(fresh, fresh_residual, density).numpy()
            found.append((100 * roc_auc_score(truth, odd), 100 * average_precision_score(truth, odd), fit_s))
        yield {"n_starts": n_starts} | dict(zip(("auroc", "ap", "density_cpu_s"), np.mean(found, axis=0), strict=True))


def cube(rows: list[dict], key: str) -> np.ndarray:
    """Means over the seeds, of shape (n_numbers, n_sets)."""
    names = sorted({row["set"] for row in rows})
    return np.array(
        [
            [np.mean([row[key] for row in rows if (row["n_starts"], row["set"]) == (n, name)]) for name in names]
            for n in STARTS
        ]
    )


def summary(rows: list[dict]) -> list[dict]:
    """A line for each size and number of starts."""
    table = []
    for size in dict.fromkeys(row["train_rows"] for row in rows):
        chosen = [row for row in rows if row["train_rows"] == size]
        auroc, ap, seconds = (cube(chosen, key) for key in ("auroc", "ap", "density_cpu_s"))
        for index, n_starts in enumerate(STARTS):
            line = {"training rows": size, "starts": n_starts}
            for name, values in (("AUROC", auroc), ("AP", ap)):
                line[name] = round(float(values[index].mean()), 2)
                gap = values[index] - values[0]
                for half, part in (("", gap), (", first", gap[::2]), (", second", gap[1::2])):
                    error = part.std(ddof=1) / np.sqrt(len(part)) if len(part) > 1 else np.nan
                    line[f"{name} minus one start{half}"] = f"{part.mean():+.2f} +- {error:.2f}"
            table.append(line | {"median CPU s of the density": round(float(np.median(seconds[index])), 4)})
    return table


def main() -> None:
    arguments = parse(__doc__.splitlines()[0], data={"type": Path, "required": True})
    rows = []
    for path in sorted(arguments.data.glob("*.npz")):
        if arguments.only not in path.stem:
            continue
        X, y = load(path)
        for size in SIZES:
            for seed in range(arguments.repeats):
                train, test, truth = split(X, y, "S", seed, 0.0, size)
                origin = {"set": path.stem, "train_rows": "half" if size is None else size, "seed": seed}
                rows += [origin | row for row in of_fit(train, test, truth, seed)]
    save("mixture_starts", arguments, summary(rows), sets=rows)


if __name__ == "__main__":
    main()
