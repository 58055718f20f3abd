"""What is it worth that columns see each other, beside Gaussian mixtures and a spline flow? Five tables of numbers.

Held-out log p(x) in nats per row, of tables of 6 to 16 columns (UCI's abalone, letter and protein, Beijing's air and
ggplot2's diamonds; whole numbers were spread by uniform noise): 2,000 rows train, 1,000 others are scored,
standardised by the training rows. The mixture's size and the flow's epochs are chosen on a tenth of the training rows;
ours are taken as they come, with 100 draws for log p(x). "1500 steps" and "3000 steps" are the default decoder's, which
takes 5,800 of these rows; "least scale 0.03" is three times its own. "nats in the code": the divergence of the
posterior from N(0, I), mean over the rows.

    python benchmarks/density_columns.py --data DIR [--repeats 3] [--only VAETransformer] [--keep]

DIR holds numeric_abalone.npz and so on, each with an array "X". The flow needs the package zuko. With --keep, methods
that --only does not name keep their rows of the results file.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import copy
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
from _common import RESULTS, asked_for, parse, save
from sklearn.mixture import GaussianMixture

from skvae import VAETransformer

TABLES = ("abalone", "air", "diamonds", "letter", "protein")
N_TRAIN, N_TEST = 2_000, 1_000
N_MIXTURE = (1, 2, 3, 5, 8, 12, 20, 30)
N_DRAWS = 100
PATIENCE = 10


def split(X: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows."""
    order = np.random.RandomState(seed).permutation(len(X))
    train, test = X[order[:N_TRAIN]], X[order[N_TRAIN : N_TRAIN + N_TEST]]
    mean, scale = train.mean(axis=0), train.std(axis=0)
    return (train - mean) / scale, (test - mean) / scale


# --- Methods: of training rows, a seed and test rows, what they say of the test rows --------------------------------


def ours(train: np.ndarray, seed: int, test: np.ndarray, **parameters: Any) -> dict[str, float]:
    vae = VAETransformer(random_state=seed, **parameters).fit(train)
    nats = vae.set_params(n_draws=N_DRAWS).log_likelihood(test).mean()
    return {"nats": float(nats), "nats in the code": sum(vae.kl_per_component_)}


def mixture(train: np.ndarray, seed: int, test: np.ndarray) -> dict[str, float]:
    n_fit = len(train) - len(train) // 10
    models = [GaussianMixture(k, reg_covar=1e-4, random_state=seed).fit(train[:n_fit]) for k in N_MIXTURE]
    best = max(models, key=lambda model: model.score(train[n_fit:]))
    return {"nats": GaussianMixture(best.n_components, reg_covar=1e-4, random_state=seed).fit(train).score(test)}


def flow(train: np.ndarray, seed: int, test: np.ndarray) -> dict[str, float]:
    """Three autoregressive transforms by splines, Adam, the epoch that is best on rows left out."""
    import zuko

    torch.manual_seed(seed)
    rows, left_out = torch.from_numpy(train).float().split([len(train) - len(train) // 10, len(train) // 10])
    model = zuko.flows.NSF(train.shape[1], transforms=3, hidden_features=(128, 128))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    best, state, waited = -np.inf, None, 0
    while waited < PATIENCE:
        for batch in rows[torch.randperm(len(rows))].split(128):
            optimiser.zero_grad()
            (-model().log_prob(batch).mean()).backward()
            optimiser.step()
        with torch.no_grad():
            score = float(model().log_prob(left_out).mean())
        waited = 0 if score > best else waited + 1
        if score > best:
            best, state = score, copy.deepcopy(model.state_dict())
    model.load_state_dict(state)
    with torch.no_grad():
        return {"nats": float(model().log_prob(torch.from_numpy(test).float()).mean())}


METHODS: dict[str, Callable[[np.ndarray, int, np.ndarray], dict[str, float]]] = {
    "GaussianMixture": mixture,
    "spline flow (zuko)": flow,
    "VAETransformer": ours,
    "VAETransformer, 1500 steps": partial(ours, max_iter=52),
    "VAETransformer, 3000 steps": partial(ours, max_iter=104),
    "VAETransformer, least scale 0.03": partial(ours, min_scale=0.03),
    "VAETransformer, autoregressive": partial(ours, decoder="autoregressive"),
}


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the splits, with the largest distance of a split's nats from theirs."""
    grouped = pd.DataFrame(rows).groupby(["table", "method"], sort=False)
    mean = grouped[["nats", "nats in the code", "CPU s"]].mean()
    mean.insert(1, "nats +-", grouped["nats"].agg(lambda column: float((column - column.mean()).abs().max())))
    shown = mean.reset_index().to_dict("records")
    return [{key: value for key, value in row.items() if value == value} for row in shown]


def main() -> None:
    arguments = parse(__doc__.splitlines()[0], data={"type": Path, "required": True}, keep={"action": "store_true"})
    warnings.simplefilter("ignore")
    methods = asked_for(arguments, METHODS)
    rows: list[dict[str, Any]] = []
    for name in TABLES:
        X = np.load(arguments.data / f"numeric_{name}.npz")["X"]
        for seed in range(arguments.repeats):
            for method in methods:
                started = time.process_time()
                train, test = split(X, seed)
                found = METHODS[method](train, seed, test)
                seconds = time.process_time() - started
                rows.append({"table": name, "seed": seed, "method": method, **found, "CPU s": seconds})
                print(rows[-1], flush=True)
    versions = {"zuko": metadata.version("zuko")} if "spline flow (zuko)" in methods else {}
    if arguments.keep:
        earlier = json.loads((RESULTS / "density_columns.json").read_text())
        rows += [row for row in earlier["splits"] if row["method"] not in methods]
        rows.sort(key=lambda row: (list(TABLES).index(row["table"]), list(METHODS).index(row["method"])))
        versions = {name: earlier[name] for name in ("zuko",) if name in earlier} | versions
    save("density_columns", arguments, means(rows), splits=rows, **versions)


if __name__ == "__main__":
    main()
