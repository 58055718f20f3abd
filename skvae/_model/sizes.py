"""Sizes that follow from the number of rows: layers, batches, epochs, rows held out."""

import math
from typing import Any

import numpy as np

from .._support.team import n_processes

__all__ = [
    "CALIBRATION_ROWS",
    "UNSEEN_ROWS",
    "calibration_size",
    "hidden_sizes",
    "learns_held_out",
    "n_cross_fitted",
    "n_density_folds",
    "n_folds",
    "schedule",
    "spends_budget",
]

# Rows held out to place the threshold, unless the rate needs more.
CALIBRATION_ROWS = 1_000
# Of those, and of rows that validate, so many set the noise scales of a VAE: of more these hardly change.
UNSEEN_ROWS = 256
_MIN_EPOCHS = 3
# Rows that networks which have not seen them score, unless the rate needs more: bounds what a model keeps of them.
_CROSS_FITTED_ROWS = 2_000
# With fewer rows a fifth or more is set aside at a rate of 5 %, and densities miss it: on 60 rows
# learning from them gains beyond its error, on 120 within it (protocol S of benchmarks/quality_anomaly.py).
_SMALL_TABLE = 200
# Folds of many rows and of few, which a fold costs more: a network's, and those that only densities learn from.
_FOLDS, _MANY_FOLDS, _FEW_ROWS, _FEW_DENSITY_ROWS = 5, 10, 200, 100


def hidden_sizes(given: Any, auto: tuple[int, ...]) -> tuple[int, ...]:
    """Resolve ``hidden_layer_sizes``.

    Raises
    ------
    ValueError
        If a width is not a positive int.
    """
    if isinstance(given, str):
        return auto
    widths = [given] if isinstance(given, (int, np.integer)) else list(given)
    if any(not isinstance(width, (int, np.integer)) or width < 1 for width in widths):
        raise ValueError(
            f"The 'hidden_layer_sizes' parameter must hold positive ints, one for each layer. Got {given!r} instead."
        )
    return tuple(int(width) for width in widths)


def schedule(plan: Any, n_samples: int, *, n_steps: int, min_batch: int = 32, max_batch: int) -> tuple[int, int]:
    """Resolve ``batch_size`` and ``max_iter``: a budget of steps, because steps and not epochs make a fit.

    A batch size that is given is that of each process.

    Returns
    -------
    batch_size, n_epochs : int
    """
    automatic = min(max_batch, max(min_batch, 2 ** round(math.log2(max(n_samples / 32, 1)))))
    given = None if plan.batch_size == "auto" else int(plan.batch_size) * n_processes()
    batch_size = min(automatic if given is None else given, n_samples)
    if plan.max_iter != "auto":
        return batch_size, int(plan.max_iter)
    return batch_size, max(_MIN_EPOCHS, math.ceil(n_steps / math.ceil(n_samples / batch_size)))


def spends_budget(plan: Any, n_epochs: int) -> bool:
    """Whether the fewest passes over the rows take all the steps that ``max_iter="auto"`` asks for."""
    return plan.max_iter == "auto" and n_epochs <= _MIN_EPOCHS


def calibration_size(n_samples: int, rate: float, fraction: float) -> int:
    """Number of rows to set aside.

    About the fraction asked for, and at least what puts the threshold at the second-lowest score where that leaves four
    fifths to train on, or at the lowest one where that leaves two thirds; so many that a whole number of scores lies
    below the threshold, and the rate is met exactly rather than rounded down.
    """
    if not fraction:
        return 0
    needed = [math.ceil(k / rate - 1e-9) - 1 for k in (1, 2)]
    wanted = max(round(fraction * n_samples), min(needed[1], n_samples // 5), min(needed[0], n_samples // 3))
    wanted = min(wanted, max(CALIBRATION_ROWS, needed[0]), n_samples - 1)
    n_below = round(rate * (wanted + 1))
    exact = math.ceil(n_below / rate - 1e-9) - 1
    return exact if wanted >= needed[0] and exact < n_samples else wanted


def n_cross_fitted(n_samples: int, rate: float) -> int:
    """Number of rows that networks which have not seen them score; none where no row is left to train such a one."""
    return min(n_samples, max(_CROSS_FITTED_ROWS, math.ceil(1.0 / rate - 1e-9) - 1)) if n_samples > 1 else 0


def learns_held_out(n_samples: int) -> bool:
    """Whether rows are so few that the densities of the score learn from those set aside, too."""
    return n_samples < _SMALL_TABLE


def n_folds(n_samples: int) -> int:
    """Number of folds of rows that train: as many as rows where these are few."""
    return min(n_samples, _MANY_FOLDS if n_samples < _FEW_ROWS else _FOLDS)


def n_density_folds(n_samples: int, n_held_out: int) -> int:
    """Number of folds of the rows that are held out of that many, where densities learn from them."""
    return min(n_held_out, _MANY_FOLDS if n_samples < _FEW_DENSITY_ROWS else _FOLDS)
