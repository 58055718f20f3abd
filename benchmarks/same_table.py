"""How far apart are two fits whose tables say the same: in other units, in float32, with columns in another order?

The split, the batches and their order follow from where a row's values lie between the extremes of their columns: units
change nothing, float32 little, and columns in another order as much as another seed, the last line of each set. Scores
of left-out rows are compared: the correlation of the autoencoder's, the mean of the VAE's log-likelihood in the units
of the first table.

    python benchmarks/same_table.py [--repeats 5]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable

import numpy as np
from _common import parse, save
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from skvae import AutoencoderTransformer, VAETransformer

SETS = {"breast cancer": load_breast_cancer, "diabetes": load_diabetes, "wine": load_wine}
# What becomes of a table, what that adds to each log-density, and how much the seed moves.
Change = tuple[Callable[[np.ndarray], np.ndarray], float, int]
UNITS = 1000.0
SCORES = {AutoencoderTransformer: "joint", VAETransformer: "log_likelihood"}


def changes(n_columns: int, rng: np.random.Generator) -> dict[str, Change]:
    order = rng.permutation(n_columns)
    return {
        "other units": (lambda X: X * UNITS, n_columns * np.log(UNITS), 0),
        "float32": (lambda X: X.astype(np.float32), 0.0, 0),
        "other order of the columns": (lambda X: X[:, order], 0.0, 0),
        "other seed": (lambda X: X, 0.0, 1),
    }


def compare(name: str, seed: int) -> list[dict[str, object]]:
    """Two fits for each change, of one split."""
    X = SETS[name](return_X_y=True)[0]
    rng = np.random.default_rng(seed)
    X = X[rng.permutation(len(X))]
    fitted, fresh = np.split(X, [int(0.7 * len(X))])

    def scores(estimator: type, change: Change) -> np.ndarray:
        apply, shift, step = change
        model = estimator(score_method=SCORES[estimator], random_state=seed + 1000 * step).fit(apply(fitted))
        return model.score_samples(apply(fresh)).astype(float) + shift

    as_it_is: Change = (lambda X: X, 0.0, 0)
    first = [scores(estimator, as_it_is) for estimator in (AutoencoderTransformer, VAETransformer)]
    found = []
    for what, change in changes(X.shape[1], rng).items():
        autoencoder, vae = (scores(estimator, change) for estimator in (AutoencoderTransformer, VAETransformer))
        found.append({
            "table": name, "second fit": what, "correlation": float(np.corrcoef(first[0], autoencoder)[0, 1]),
            "nats": float(vae.mean() - first[1].mean()),
        })  # fmt: skip
    return found


def main() -> None:
    arguments = parse(__doc__.splitlines()[0])
    found = [row for name in SETS for seed in range(arguments.repeats) for row in compare(name, seed)]
    rows = []
    for name, what in dict.fromkeys((row["table"], row["second fit"]) for row in found):
        own = [row for row in found if (row["table"], row["second fit"]) == (name, what)]
        rows.append({
            "table": name, "second fit": what,
            "mean correlation": float(np.mean([row["correlation"] for row in own])),
            "least correlation": min(row["correlation"] for row in own),
            "mean difference": float(np.mean([abs(row["nats"]) for row in own])),
            "greatest difference": max(abs(row["nats"]) for row in own),
            "repeats": len(own),
        })  # fmt: skip
    save("same_table", arguments, rows)


if __name__ == "__main__":
    main()
