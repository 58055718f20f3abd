"""How well does VAETransformer at its defaults describe small tables, against linear models and Gaussian mixtures?

Mean held-out log p(x) in nats, on scikit-learn's breast cancer, wine and digits. Each data set is cut in half with
``train_test_split(test_size=.5, random_state=s)``. Breast cancer and wine are standardised on the training half; digits
are dequantised as (x + U[0, 1)) / 17. The VAE's log p(x) is importance-weighted with 500 draws. Peers are chosen by BIC
on the training half, and as a ceiling that nobody can reach in practice, on the test half itself.

    python benchmarks/density_tabular.py
"""

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skvae import VAETransformer

N_DRAWS = 500
N_FACTORS = {"breast_cancer": (2, 5, 10, 15, 20), "wine": (1, 2, 3, 5, 8), "digits": (10, 20, 30, 40)}
N_MIXTURE = {"breast_cancer": (1, 2, 3, 4, 6, 8), "wine": (1, 2, 3, 4, 6), "digits": (10, 20, 40)}
COVARIANCES = {"breast_cancer": ("full", "tied", "diag"), "wine": ("full", "tied", "diag"), "digits": ("tied", "diag")}
REGULARISATION = {"breast_cancer": (1e-6, 1e-3, 3e-2), "wine": (1e-6, 1e-3, 3e-2), "digits": (1e-4, 1e-3)}


def halves(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and test half of a data set."""
    if name == "digits":
        X = load_digits().data
        X = (X + np.random.RandomState(0).uniform(size=X.shape)) / 17
        return tuple(train_test_split(X, test_size=0.5, random_state=seed))
    X = {"breast_cancer": load_breast_cancer, "wine": load_wine}[name]().data
    train, test = train_test_split(X, test_size=0.5, random_state=seed)
    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(test)


def linear_models(
    make: Callable, n_parameters: Callable[[int, int], int], name: str, train: np.ndarray
) -> Iterator[tuple[float, object]]:
    """Models with their BIC, lower is better; scikit-learn's linear models have no ``bic`` method."""
    n_samples, n_features = train.shape
    for k in N_FACTORS[name]:
        model = make(k).fit(train)
        yield -2 * n_samples * model.score(train) + n_parameters(n_features, k) * np.log(n_samples), model


def mixtures(name: str, train: np.ndarray) -> Iterator[tuple[float, object]]:
    """Gaussian mixtures with their BIC."""
    for k in N_MIXTURE[name]:
        for covariance in COVARIANCES[name]:
            for regularisation in REGULARISATION[name]:
                model = GaussianMixture(k, covariance_type=covariance, reg_covar=regularisation, random_state=0)
                model.fit(train)
                yield model.bic(train), model


def rotations(k: int) -> int:
    """Numbers of a loading matrix that a rotation makes redundant."""
    return k * (k - 1) // 2


def peers(name: str, train: np.ndarray) -> dict[str, list[tuple[float, object]]]:
    """Every candidate of every peer."""
    return {
        "FactorAnalysis": list(
            linear_models(
                lambda k: FactorAnalysis(k, svd_method="lapack"), lambda p, k: 2 * p + p * k - rotations(k), name, train
            )
        ),
        "PPCA": list(linear_models(PCA, lambda p, k: p + 1 + p * k - rotations(k), name, train)),
        "GaussianMixture": list(mixtures(name, train)),
    }


def measure(name: str, seed: int) -> dict[str, float]:
    """Mean log p of the test half by every model."""
    train, test = halves(name, seed)
    row = {}
    for peer, candidates in peers(name, train).items():
        row[f"{peer} (BIC)"] = min(candidates, key=lambda pair: pair[0])[1].score(test)
        row[f"{peer} (chosen on test)"] = max(model.score(test) for _, model in candidates)
    started = time.process_time()
    vae = VAETransformer(random_state=0).fit(train)
    row["fit CPU s"] = time.process_time() - started
    row["VAETransformer"] = vae.set_params(n_draws=N_DRAWS).score(test)
    row["VAETransformer, training half"] = vae.score(train)
    row["VAETransformer, calibration_fraction=0"] = (
        VAETransformer(calibration_fraction=0, random_state=0).fit(train).set_params(n_draws=N_DRAWS).score(test)
    )
    return {key: float(value) for key, value in row.items()}


def print_table(results: dict[str, dict[str, list[float]]]) -> None:
    """Means over the splits, and the splits themselves."""
    for name, columns in results.items():
        print(f"\n{name}: mean held-out log p(x), nats")
        for model, values in columns.items():
            each = " ".join(f"{value:.2f}" for value in values)
            print(f"  {model:40s} {np.mean(values):8.2f}   [{each}]")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["breast_cancer", "wine", "digits"])
    parser.add_argument("--splits", type=int, default=8, help="splits of breast cancer and wine; digits takes three")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "density_tabular.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # of the peers' last digits
    results: dict[str, dict[str, list[float]]] = {}
    for name in options.datasets:
        rows = [measure(name, seed) for seed in range(min(options.splits, 3 if name == "digits" else options.splits))]
        results[name] = {key: [row[key] for row in rows] for key in rows[0]}
        print_table({name: results[name]})
    packages = {package: version(package) for package in ("torch", "scikit-learn", "numpy")}
    report = {"n_draws": N_DRAWS, "packages": packages, "machine": platform.machine(), "results": results}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
