"""What does the way through tables cost? Numbers in a DataFrame against an array, and columns of many levels.

The same numeric table as an array and as a DataFrame of pandas and of polars, fitted in turn: the ratio of the CPU
seconds to those of the array says what looking for categories costs a table that has none.

One column of 2 to 255 levels beside ten numbers: the encoder sees an indicator for each level, so that its first layer
holds a vector for each level, an embedding as wide as the layer. The product with indicators is timed against looking
these vectors up, forward and backward, for one batch; the share is that of the saving in a training step of the
autoencoder with such a column.

    python benchmarks/bench_tables.py [--repeats 5]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import warnings
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import torch
from _common import cpu_seconds, curved, interleaved, parse, save

from skvae import AutoencoderTransformer, VAETransformer

ESTIMATORS = {"AutoencoderTransformer": AutoencoderTransformer, "VAETransformer": VAETransformer}
N_SAMPLES, N_FEATURES = 5_000, 20
LEVELS = (2, 32, 255)
LOOKUPS = (32, 255, 1_000)
BATCH, WIDTH = 128, 128


def leveled(n_levels: int) -> pd.DataFrame:
    """Ten numbers, and a category that follows from the first of them."""
    X = curved(N_SAMPLES, 10).astype(np.float64)
    place = np.argsort(np.argsort(X[:, 0])) * n_levels // len(X)
    return pd.DataFrame(X, columns=[f"x{i}" for i in range(10)]).assign(k=pd.Categorical([f"k{i:03d}" for i in place]))


def frames(name: str, repeats: int) -> list[dict[str, Any]]:
    """Fit and scoring of numbers in a frame over those of the array."""
    X = curved(N_SAMPLES, N_FEATURES).astype(np.float64)
    names = [f"x{i}" for i in range(N_FEATURES)]
    tables = {"array": X, "pandas": pd.DataFrame(X, columns=names), "polars": pl.DataFrame(X, schema=names)}
    make = partial(ESTIMATORS[name], random_state=0)
    models = {kind: make().fit(table) for kind, table in tables.items()}  # also warms everything up
    works = {
        "fit": {kind: partial(make().fit, table) for kind, table in tables.items()},
        "score": {kind: partial(models[kind].score_samples, table) for kind, table in tables.items()},
    }
    rows = []
    for verb, contenders in works.items():
        seconds = interleaved(contenders, repeats)
        rows += [
            {
                "estimator": name, "what": f"{verb}, {kind}", "CPU s": float(np.median(own)),
                "ratio": float(np.median(np.divide(own, seconds["array"]))),
            }
            for kind, own in seconds.items()
        ]  # fmt: skip
    return rows


def many_levels(name: str, repeats: int) -> list[dict[str, Any]]:
    """Fits of tables with one category, over that of the fewest levels."""
    works = {n: partial(ESTIMATORS[name](random_state=0).fit, leveled(n)) for n in LEVELS}
    seconds = interleaved(works, repeats)
    return [
        {
            "estimator": name, "what": f"fit, a column of {n} levels", "CPU s": float(np.median(own)),
            "ratio": float(np.median(np.divide(own, seconds[LEVELS[0]]))),
        }
        for n, own in seconds.items()
    ]  # fmt: skip


def step_seconds(n_levels: int, n_epochs: int) -> float:
    """CPU seconds of a training step with a column of so many levels; what epochs more cost, divided by their steps."""
    table = leveled(n_levels)
    short, long = (
        min(
            cpu_seconds(partial(AutoencoderTransformer(max_iter=n, batch_size=BATCH, random_state=0).fit, table))
            for _ in range(3)
        )
        for n in (2, 2 + n_epochs)
    )
    return (long - short) / (n_epochs * (0.9 * N_SAMPLES / BATCH))


def lookups(repeats: int) -> list[dict[str, Any]]:
    """The first layer of indicators as a product and as a lookup, forward and backward."""
    rows = []
    for n_levels in LOOKUPS:
        codes = torch.randint(n_levels, (BATCH,))
        indicators = torch.nn.functional.one_hot(codes, n_levels).float()
        weight, gradient, delta = torch.randn(n_levels, WIDTH), torch.zeros(n_levels, WIDTH), torch.randn(BATCH, WIDTH)
        out = torch.empty(BATCH, WIDTH)

        def product(x: torch.Tensor = indicators, w=weight, d=delta, g=gradient, out=out) -> None:
            for _ in range(200):
                torch.mm(x, w, out=out)
                torch.mm(x.T, d, out=g)

        def lookup(c: torch.Tensor = codes, w=weight, d=delta, g=gradient, out=out) -> None:
            for _ in range(200):
                torch.index_select(w, 0, c, out=out)
                g.zero_().index_add_(0, c, d)

        seconds = {k: min(v) / 200 for k, v in interleaved({"product": product, "lookup": lookup}, repeats).items()}
        saved = seconds["product"] - seconds["lookup"]
        row = {"levels": n_levels} | {f"{kind} us": 1e6 * value for kind, value in seconds.items()}
        if n_levels in LEVELS:
            row["saving / step"] = saved / step_seconds(n_levels, 10)
        rows.append(row)
    return rows


def main() -> None:
    arguments = parse(__doc__.splitlines()[0])
    warnings.simplefilter("ignore")
    rows = [row for name in ESTIMATORS for row in frames(name, arguments.repeats)]
    rows += [row for name in ESTIMATORS for row in many_levels(name, max(2, arguments.repeats // 2))]
    for row in (found := lookups(arguments.repeats)):
        print(row)
    save("tables", arguments, rows, first_layer=found, n_samples=N_SAMPLES, n_features=N_FEATURES)


if __name__ == "__main__":
    main()
