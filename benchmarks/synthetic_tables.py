"""Does a classifier learn as well from synthetic rows as from real ones? Adult census, against CTGAN's TVAE.

In one run, both models see the same 26,000 training rows, with "?" as a level of its own, and draw 26,000 rows. A
HistGradientBoostingClassifier for `income` trains on those and is tested on the real rows that were left out; its AUROC
after training on the real rows stands beside it. Further: the levels that hold at least 0.5 % of the training rows, and
how many of them a factor of two too rare or too frequent; synthetic rows that are training rows; and the ratio of the
median distance to the closest training row to that to the closest of as many left-out rows (below 1, the model tends
to repeat its training rows).

    python benchmarks/synthetic_tables.py --data DIR/adult_raw.csv [--repeats 3]

The table is UCI's Adult as carried in sdv-dev/CTGAN's examples; TVAE comes from the package ctgan with its defaults.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import parse, save
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skvae import VAETransformer

N_TRAIN = 26_000
N_DISTANCE = 2_000
TARGET = "income"


def load(path: Path) -> pd.DataFrame:
    """The table, texts as categories without the blanks around them."""
    table = pd.read_csv(path, skipinitialspace=True)
    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    return table.assign(**{name: table[name].str.strip().astype("category") for name in texts})


def ours(train: pd.DataFrame, seed: int) -> tuple[float, pd.DataFrame]:
    """CPU seconds of the fit, and the rows that it draws."""
    started = time.process_time()
    model = VAETransformer(random_state=seed).fit(train)
    return time.process_time() - started, model.sample(N_TRAIN, random_state=seed)


def tvae(train: pd.DataFrame, seed: int) -> tuple[float, pd.DataFrame]:
    """The same by CTGAN's TVAE, which draws from the global generators."""
    from ctgan import TVAE

    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    texts = train.select_dtypes("category").columns
    started = time.process_time()
    model = TVAE(enable_gpu=False)
    model.fit(train.astype(dict.fromkeys(texts, str)), list(texts))
    return time.process_time() - started, model.sample(N_TRAIN)


METHODS = {"VAETransformer": ours, "TVAE": tvae, "real rows": lambda train, seed: (0.0, train)}


def like(rows: pd.DataFrame, train: pd.DataFrame) -> pd.DataFrame:
    """Rows with the columns and categories of the training rows."""
    return rows[list(train)].astype({name: train[name].dtype for name in train.select_dtypes("category")})


def auroc(rows: pd.DataFrame, test: pd.DataFrame) -> float:
    model = HistGradientBoostingClassifier(random_state=0, categorical_features="from_dtype")
    model.fit(rows.drop(columns=TARGET), rows[TARGET])
    return float(roc_auc_score(test[TARGET], model.predict_proba(test.drop(columns=TARGET))[:, 1]))


def levels(rows: pd.DataFrame, train: pd.DataFrame) -> tuple[int, int]:
    """Number of levels with at least 0.5 % of the training rows, and of those that are off by more than a factor 2."""
    pairs = [
        (share, float((rows[name] == level).mean()))
        for name in train.select_dtypes("category")
        for level, share in train[name].value_counts(normalize=True).items()
        if share >= 0.005
    ]
    return len(pairs), sum(not 0.5 * share <= found <= 2.0 * share for share, found in pairs)


def closeness(rows: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame) -> float:
    """Median distance to the closest training row over that to the closest left-out row, on equally many of each."""
    texts = list(train.select_dtypes("category"))
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), texts), remainder=StandardScaler()
    ).fit(train)
    drawn, some, others = (
        encoder.transform(part) for part in (rows[:N_DISTANCE], train.sample(len(test), random_state=0), test)
    )
    near, far = (NearestNeighbors(n_neighbors=1).fit(part).kneighbors(drawn)[0] for part in (some, others))
    return float(np.median(near) / np.median(far))


def measure(table: pd.DataFrame, method: str, seed: int) -> dict[str, Any]:
    shuffled = table.sample(frac=1.0, random_state=seed)
    train, test = shuffled[:N_TRAIN].reset_index(drop=True), shuffled[N_TRAIN:]
    seconds, rows = METHODS[method](train, seed)
    rows = like(rows, train)
    n_levels, n_off = levels(rows, train)
    copies = len(rows.drop_duplicates().merge(train.drop_duplicates())) if method != "real rows" else len(rows)
    return {
        "method": method, "seed": seed, "fit CPU s": seconds, "AUROC": auroc(rows, test), "levels >= 0.5 %": n_levels,
        "off by a factor 2": n_off, "training rows drawn": copies, "distance ratio": closeness(rows, train, test),
    }  # fmt: skip


def main() -> None:
    arguments = parse(__doc__.splitlines()[0], data={"type": Path, "required": True})
    warnings.simplefilter("ignore")
    table = load(arguments.data)
    names = [name for name in METHODS if not arguments.only or name in arguments.only.split(",")]
    rows = [measure(table, name, seed) for seed in range(arguments.repeats) for name in names]
    save("synthetic_tables", arguments, rows, ctgan=metadata.version("ctgan"))


if __name__ == "__main__":
    main()
