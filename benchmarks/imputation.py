"""How well are missing cells filled? MIWAE's protocol on breast cancer, against scikit-learn's imputers.

Breast cancer, standardised on all rows; half of the cells are hidden, drawn as in MIWAE's notebook; mean square error
of the hidden cells over mask seeds 1234, 1 and 2.

    python benchmarks/imputation.py
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
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

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


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    warnings.simplefilter("ignore")
    rows = breast_cancer()
    print(f"| method | {' | '.join(f'mask {seed}' for seed in MASK_SEEDS)} | mean | CPU s |\n|---|" + "---|" * 5)
    for row in rows:
        cells = " | ".join(f"{error:.4f}" for error in row["errors"])
        print(f"| {row['method']} | {cells} | {np.mean(row['errors']):.4f} | {np.mean(row['cpu_seconds']):.1f} |")
    RESULTS.mkdir(exist_ok=True)
    record = {"date": date.today().isoformat(), "machine": platform.machine(), "torch": torch.__version__, "rows": rows}
    (RESULTS / "imputation.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
