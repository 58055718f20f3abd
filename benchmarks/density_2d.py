"""Do samples of VAETransformer at its defaults keep every mode of a two-dimensional mixture?

``ring``: 8 Gaussians on the unit circle; ``grid``: 25 means on {-4, -2, 0, 2, 4}^2; variance 0.05 each,
10,000 training rows. "true": mean log-density of 10,000 samples under the true mixture, in nats. "fresh": a diagonal
Gaussian mixture fitted to the samples scores 10,000 fresh real rows. "least share": the rarest mode's share of the
samples over its fair share. The first row puts real rows in the place of the samples.

    python benchmarks/density_2d.py
"""

import argparse
import json
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
from scipy.special import logsumexp
from sklearn.mixture import GaussianMixture

from skvae import VAETransformer

SCALE = 0.05**0.5
ANGLES = 2 * np.pi * np.arange(8) / 8
MEANS = {
    "ring": np.column_stack([np.cos(ANGLES), np.sin(ANGLES)]),
    "grid": np.array(list(product([-4.0, -2.0, 0.0, 2.0, 4.0], repeat=2))),
}
SIZES = {"ring": (10, 30), "grid": (25, 40)}
SETTINGS = {
    "defaults": {},
    "latent_density='mixture'": {"latent_density": "mixture"},
    "latent_density='normal'": {"latent_density": "normal"},
    "beta=0.1": {"beta": 0.1},
    "kl_warmup=0.8": {"kl_warmup": 0.8},
}


def draw(name: str, n_samples: int, seed: int) -> np.ndarray:
    """Rows of the true mixture."""
    rng = np.random.default_rng(seed)
    return MEANS[name][rng.integers(len(MEANS[name]), size=n_samples)] + SCALE * rng.normal(size=(n_samples, 2))


def true_log_density(name: str, X: np.ndarray) -> float:
    """Mean over the rows, in nats."""
    squares = ((X[:, None] - MEANS[name]) ** 2).sum(axis=2) / SCALE**2
    return float((logsumexp(-0.5 * squares, axis=1) - np.log(len(MEANS[name]) * 2 * np.pi * SCALE**2)).mean())


def judge(name: str, X: np.ndarray) -> dict[str, float]:
    """What a set of samples is worth."""
    fresh = draw(name, 10_000, 2)
    mixtures = [GaussianMixture(k, covariance_type="diag", random_state=0).fit(X) for k in SIZES[name]]
    nearest = ((X[:, None] - MEANS[name]) ** 2).sum(axis=2).argmin(axis=1)
    shares = np.bincount(nearest, minlength=len(MEANS[name])) * len(MEANS[name]) / len(X)
    return {
        "true": true_log_density(name, X),
        "fresh": max(float(mixture.score(fresh)) for mixture in mixtures),
        "least share": float(shares.min()),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "density_2d.json")
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name in MEANS:
        results[name] = {"real rows": judge(name, draw(name, 10_000, 1))}
        for label, parameters in SETTINGS.items():
            started = time.process_time()
            vae = VAETransformer(random_state=0, **parameters).fit(draw(name, 10_000, 0))
            seconds = time.process_time() - started
            rows = vae.sample(10_000, random_state=0, match_marginals=False)
            results[name][label] = judge(name, rows) | {"fit CPU s": seconds}
        for label, row in results[name].items():
            print(
                f"{name:5s} {label:24s} " + "  ".join(f"{key} {value:7.3f}" for key, value in row.items()), flush=True
            )
    packages = {package: version(package) for package in ("torch", "scikit-learn", "numpy")}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"packages": packages, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
