"""How well are missing cells filled? MIWAE's protocol and HI-VAE's mixed tables, against scikit-learn's imputers.

Breast cancer, standardised on all rows; half of the cells are hidden, drawn as in MIWAE's notebook; mean square error
of the hidden cells over mask seeds 1234, 1 and 2.

With --data, three mixed tables with HI-VAE's masks of 20 % and 50 % of the cells. The error of a column is the error
rate of a category, |shift| / number of levels of an ordinal, and RMSE / range otherwise; the figure is the mean over
the columns. Ordinals are numbers to all methods but the mode, and are rounded. scikit-learn's imputers see categories
one-hot, and take the largest; the neighbours are sought among 5,000 rows.

Third question: how many hidden numbers lie between the 5 % and the 95 % quantile of 200 draws of the VAE? Of a sampler
without any error it is 89.1 %, since the quantiles come from 200 draws. Completely at random, 20 % of the cells are
hidden; at random, 30 % of those in rows whose first column is above its median and 10 % of the others, and none in it.

    python benchmarks/imputation.py [--data DIR] [--tables Wine defaultCredit Adult]

With --tables the other tables keep their rows of the results file, which tells on which day each row was measured.

DIR holds Adult/, Wine/ and defaultCredit/ of https://github.com/probabilistic-learning/HI-VAE (data from UCI).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import time
import warnings
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.preprocessing import StandardScaler

from skvae import AutoencoderTransformer, VAETransformer

RESULTS = Path(__file__).parent / "results"
MASK_SEEDS = (1234, 1, 2)


class Filler:
    """One of our estimators behind the interface of an imputer."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit_transform(self, X):
        return self.estimator.fit(X).impute(X)


METHODS = {
    "VAETransformer": lambda: Filler(VAETransformer(random_state=0)),
    "VAETransformer(calibration_fraction=0)": lambda: Filler(VAETransformer(calibration_fraction=0.0, random_state=0)),
    "AutoencoderTransformer": lambda: Filler(AutoencoderTransformer(random_state=0)),
    "IterativeImputer": lambda: IterativeImputer(random_state=0),
    "KNNImputer(5)": lambda: KNNImputer(n_neighbors=5),
    "mean": lambda: SimpleImputer(),
}


def hidden_half(X: np.ndarray, seed: int) -> np.ndarray:
    """Half of the cells, as MIWAE's notebook draws them: from NumPy's old generator, over the flattened table."""
    cells = np.random.RandomState(seed).choice(X.size, X.size // 2, replace=False)
    hidden = np.zeros(X.size, dtype=bool)
    hidden[cells] = True
    return hidden.reshape(X.shape)


def breast_cancer() -> list[dict]:
    X = load_breast_cancer().data
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    rows = []
    for name, make in METHODS.items():
        errors, seconds = [], []
        for seed in MASK_SEEDS:
            hidden = hidden_half(X, seed)
            started = time.process_time()
            filled = make().fit_transform(np.where(hidden, np.nan, X))
            seconds.append(time.process_time() - started)
            errors.append(float(np.square(filled - X)[hidden].mean()))
        rows.append({"table": "breast cancer", "method": name, "errors": errors, "cpu_seconds": seconds})
    return rows


# --- Draws ------------------------------------------------------------------------------------------------------------

N_DRAWS = 200
INTERVAL = (0.05, 0.95)
LOADERS = {"breast cancer": load_breast_cancer, "diabetes": load_diabetes, "wine": load_wine}


def hidden_at_random(X: np.ndarray, seed: int, *, by_first: bool) -> np.ndarray:
    """A fifth of the cells; or, by the first column, which is complete, one to three tenths of a row's."""
    share = np.where(X[:, :1] > np.median(X[:, 0]), 0.3, 0.1) if by_first else 0.2
    hidden = np.random.default_rng(seed).random(X.shape) < share
    hidden[:, 0] &= not by_first
    return hidden


def coverage() -> list[dict]:
    rows = []
    for table, load_table in LOADERS.items():
        X = load_table().data
        for by_first in (False, True):
            covered, started = [], time.process_time()
            for seed in MASK_SEEDS:
                hidden = hidden_at_random(X, seed, by_first=by_first)
                gaps = np.where(hidden, np.nan, X)
                draws = np.stack(VAETransformer(random_state=0).fit(gaps).impute(gaps, n_draws=N_DRAWS))
                low, high = np.quantile(draws, INTERVAL, axis=0)
                covered.append(100 * float(((low <= X) & (high >= X))[hidden].mean()))
            rows.append(
                {
                    "table": table, "hidden": "by another column" if by_first else "completely at random",
                    "covered %": covered, "cpu_seconds": (time.process_time() - started) / len(MASK_SEEDS),
                }
            )  # fmt: skip
    return rows


# --- Mixed tables -----------------------------------------------------------------------------------------------------

TABLES = ("Adult", "Wine", "defaultCredit")
SHARES = (20, 50)
N_DONORS = 5_000


def load(folder: Path) -> tuple[pd.DataFrame, list[tuple[str, int]]]:
    """A table whose categories are of that dtype, and the kind and number of levels of each column."""
    table = pd.read_csv(folder / "data.csv", header=None)
    table.columns = [f"c{index}" for index in range(table.shape[1])]
    types = pd.read_csv(folder / "data_types.csv")
    kinds = [(kind, int(levels) if kind in ("cat", "ordinal") else 0) for kind, _, levels in types.itertuples(False)]
    cats = [name for name, (kind, _) in zip(table, kinds, strict=True) if kind == "cat"]
    return table.astype(float).assign(**{name: table[name].astype("Int64").astype("category") for name in cats}), kinds


def by_ours(estimator):
    return lambda table: estimator(random_state=0).fit(table).impute(table)


def by_mode(table: pd.DataFrame, kinds: list[tuple[str, int]]) -> pd.DataFrame:
    """The mean of numbers, the mode of categories and ordinals."""
    fill = {
        name: table[name].mean() if kind not in ("cat", "ordinal") else table[name].mode()[0]
        for name, (kind, _) in zip(table, kinds, strict=True)
    }
    return table.fillna(fill)


def by_one_hot(imputer):
    """An imputer of numbers on standardised columns; a category is a block of columns, of which the largest wins."""

    def fill(table: pd.DataFrame) -> pd.DataFrame:
        cats = list(table.select_dtypes("category"))
        wide = pd.get_dummies(table, columns=cats, dtype=float)
        blocks = {name: [f"{name}_{level}" for level in table[name].cat.categories] for name in cats}
        for name, block in blocks.items():
            wide.loc[table[name].isna(), block] = np.nan
        scaler = StandardScaler()
        x = scaler.fit_transform(wide)
        donors = x[np.random.RandomState(0).permutation(len(x))[:N_DONORS]] if "KNN" in type(imputer).__name__ else x
        filled = pd.DataFrame(scaler.inverse_transform(imputer.fit(donors).transform(x)), columns=wide.columns)
        numbers = filled[[name for name in table if name not in blocks]]
        chosen = {
            name: pd.Categorical.from_codes(filled[block].to_numpy().argmax(axis=1), dtype=table[name].dtype)
            for name, block in blocks.items()
        }
        return numbers.assign(**chosen)[list(table)]

    return fill


def mixed_methods(kinds: list[tuple[str, int]]) -> dict:
    return {
        "VAETransformer": by_ours(VAETransformer),
        "AutoencoderTransformer": by_ours(AutoencoderTransformer),
        "IterativeImputer": by_one_hot(IterativeImputer(random_state=0)),
        "KNNImputer(5)": by_one_hot(KNNImputer(n_neighbors=5)),
        "mean/mode": lambda table: by_mode(table, kinds),
    }


def column_error(true: pd.Series, filled: pd.Series, hidden: np.ndarray, kind: str, n_levels: int) -> float:
    """HI-VAE's error of the hidden cells of a column whose true values are known."""
    known = hidden & true.notna().to_numpy()
    if kind == "cat":
        return float((true[known] != filled[known]).mean())
    shift = filled[known].to_numpy(float) - true[known].to_numpy(float)
    if kind == "ordinal":
        rounded = np.clip(np.round(filled[known].to_numpy(float)), true.min(), true.max())
        return float(np.abs(rounded - true[known].to_numpy(float)).mean() / n_levels)
    return float(np.sqrt(np.square(shift).mean()) / (true.max() - true.min()))


def mixed(data: Path, tables: list[str]) -> list[dict]:
    rows = []
    for table_name in tables:
        table, kinds = load(data / table_name)
        for share in SHARES:
            cells = np.loadtxt(data / table_name / f"Missing{share}_1.csv", delimiter=",", dtype=int) - 1
            hidden = np.zeros(table.shape, dtype=bool)
            hidden[cells[:, 0], cells[:, 1]] = True
            for name, fill in mixed_methods(kinds).items():
                started = time.process_time()
                filled = fill(table.mask(hidden))
                seconds = time.process_time() - started
                errors = [
                    column_error(table[c], filled[c], hidden[:, index], *kinds[index]) for index, c in enumerate(table)
                ]
                rows.append(
                    {
                        "table": f"{table_name} {share} %", "method": name, "error": float(np.mean(errors)),
                        "errors": errors, "cpu_seconds": seconds, "date": date.today().isoformat(),
                    }
                )  # fmt: skip
                print(rows[-1]["table"], name, f"{rows[-1]['error']:.4f}", f"{seconds:.1f} s", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of HI-VAE's tables")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES, help="of DIR; all by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = breast_cancer()
    print(f"| method | {' | '.join(f'mask {seed}' for seed in MASK_SEEDS)} | mean | CPU s |\n|---|" + "---|" * 5)
    for row in rows:
        cells = " | ".join(f"{error:.4f}" for error in row["errors"])
        print(f"| {row['method']} | {cells} | {np.mean(row['errors']):.4f} | {np.mean(row['cpu_seconds']):.1f} |")
    intervals = coverage()
    print("| table | hidden | covered % |\n|---|---|---|")
    for row in intervals:
        print(f"| {row['table']} | {row['hidden']} | {np.mean(row['covered %']):.1f} |", flush=True)
    found: list[dict] = []
    for tables in [[name] for name in arguments.tables] if arguments.data else [[]]:
        found += mixed(arguments.data, tables)
        write(rows, intervals, found)
    tables = list(dict.fromkeys(row["table"] for row in found))
    print(f"| method | {' | '.join(tables)} |\n|---|" + "---|" * len(tables))
    for method in dict.fromkeys(row["method"] for row in found):
        print(f"| {method} | " + " | ".join(f"{row['error']:.4f}" for row in found if row["method"] == method) + " |")


def write(rows: list[dict], intervals: list[dict], found: list[dict]) -> None:
    """Write the results so far."""
    found = found + kept({row["table"] for row in found})
    RESULTS.mkdir(exist_ok=True)
    record = {"date": date.today().isoformat(), "machine": platform.machine(), "torch": torch.__version__, "rows": rows}
    text = json.dumps(record | {"coverage": intervals, "mixed": found}, indent=1)
    (RESULTS / "imputation.json").write_text(text + "\n")


def kept(tables: set[str]) -> list[dict]:
    """Rows of the results file of other tables than these, with the day on which they were measured."""
    path = RESULTS / "imputation.json"
    if not path.exists():
        return []
    earlier = json.loads(path.read_text())
    return [{"date": earlier["date"]} | row for row in earlier["mixed"] if row["table"] not in tables]


if __name__ == "__main__":
    main()
