"""Known anomalies into a fitted model, and out of it; and the normal rows that they will be held against."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._densities.gaussian import fit_gaussian
from .._densities.neighbors import DistanceRatio
from .._support.device import some_rows
from .._support.warnings import warn
from .comparison import compare_many
from .fitted import Fitted
from .labelled import RATIO, WHITENER, Labelled, joint_rows
from .member import Member
from .thresholds import LOWEST_SCORE, Calibration, moved_threshold

__all__ = ["bounded_anomalies", "forgotten", "keeping", "learned"]

# Rows of those that place the threshold that a model keeps, and cells: 4 MiB. A hundred rows rank as a thousand do.
_KEPT_ROWS, _KEPT_CELLS, _LEAST_KEPT = 2_000, 2**20, 100
# Anomalies that a model keeps.
_ANOMALIES = 1_000
# Scaled values up to here are kept as they are: beyond, float32 overflows when they are squared.
_FARTHEST = 1e15


def keeping(
    calibration: Calibration, fitted: Fitted, values: Tensor, scores: np.ndarray, departures: Any
) -> Calibration:
    """A calibration that keeps some of the rows that placed the threshold: all of them, or as many at random.

    Parameters
    ----------
    calibration : Calibration
    fitted : Fitted
    values : Tensor of shape (n_samples, n_features)
        Raw rows.
    scores : ndarray of shape (n_samples,)
        Theirs.
    departures : array of shape (n_samples,), or float
        What departures have taken off the scores.

    Returns
    -------
    calibration : Calibration
    """
    n_most = min(_KEPT_ROWS, max(_LEAST_KEPT, _KEPT_CELLS // values.shape[1]))
    fall = torch.from_numpy(np.array(np.broadcast_to(departures, scores.shape), dtype=float))
    values, kept_scores, fall = some_rows(n_most, _generator(fitted), values, torch.from_numpy(scores), fall)
    return replace(
        calibration,
        rows=_bounded(fitted, values).float().numpy(),
        row_scores=(kept_scores + fall).numpy(),
        row_departures=fall.numpy(),
    )


def bounded_anomalies(fitted: Fitted, values: Tensor) -> Tensor:
    """Raw anomalies, scaled, in float64 on the CPU; beyond a thousand, as many of them at random."""
    return _bounded(fitted, *some_rows(_ANOMALIES, _generator(fitted), values))


def _generator(fitted: Fitted) -> np.random.RandomState:
    return np.random.RandomState(fitted.noise_seed)


def _bounded(fitted: Fitted, values: Tensor) -> Tensor:
    """Raw rows, scaled, in float64 on the CPU."""
    return fitted.columns.exact_scaler(values.cpu().double()).clamp(-_FARTHEST, _FARTHEST)


def forgotten(fitted: Fitted) -> Fitted:
    """The same without known anomalies, with the calibration that it had then."""
    if fitted.labelled is None:
        return fitted
    members = tuple(
        Member(member.module, {name: d for name, d in member.densities.items() if name not in (RATIO, WHITENER)})
        for member in fitted.members
    )
    return replace(fitted, members=members, calibration=fitted.labelled.unlearned, labelled=None)


def learned(fitted: Fitted, x: Tensor, offset: float) -> tuple[Fitted, float]:
    """Let scores know of anomalies, and place the threshold anew by the scores of the rows that placed it.

    The score of each of these comes from the distance to the others, so that they count as a fresh row does.

    Parameters
    ----------
    fitted : Fitted
        That knows of none.
    x : Tensor of shape (n_anomalies, n_features)
        Scaled anomalies, in float64 on the CPU.
    offset : float
        The threshold.

    Returns
    -------
    fitted : Fitted
    offset : float

    Raises
    ------
    ValueError
        If the model keeps no normal rows.

    Warns
    -----
    UserWarning
        If all that it keeps are among the anomalies.
    """
    calibration = fitted.calibration
    others = _others(calibration, x.numpy())
    rows, scores, fall = (
        part[others] for part in (calibration.rows, calibration.row_scores, calibration.row_departures)
    )
    trained = calibration.contamination is not None
    normal = scores - fall >= offset if trained else np.full(len(scores), True)
    normal |= ~normal.any()
    found = [_learned(member, x, torch.from_numpy(rows).double(), normal, trained=trained) for member in fitted.members]
    ratio = np.mean([ratios for _, ratios in found], axis=0)
    low, centre, high = np.quantile(scores[normal], [0.25, 0.5, 0.75])
    scale = high - low if high > low else max(1.0, calibration.departure_cost)
    labelled = Labelled(x, float(centre), float(scale), calibration, offset)
    moved = np.maximum(labelled.moved(torch.from_numpy(scores), torch.from_numpy(ratio)).numpy() - fall, LOWEST_SCORE)
    place, attained_rate = moved_threshold(calibration, scores - fall, moved, offset)
    placed = replace(
        calibration, scores=np.sort(moved) if calibration.count else moved[:0], attained_rate=attained_rate
    )
    members = tuple(member for member, _ in found)
    return replace(fitted, members=members, calibration=placed, labelled=labelled), place


def _others(calibration: Calibration, anomalies: np.ndarray) -> np.ndarray:
    """Which of the rows that placed the threshold are not among the anomalies: one row less for each of these.

    Of a row that is there many times it is normal to be like that, whatever one anomaly is like.
    """
    if not len(calibration.rows):
        raise ValueError(
            "learn_anomalies needs normal rows, and this model was saved by a version that kept none. Call "
            "calibrate(X_normal) first, or fit again."
        )
    known = Counter(row.tobytes() for row in _comparable(anomalies))
    others = np.full(len(calibration.rows), True)
    for index, row in enumerate(_comparable(calibration.rows)):
        if known[row.tobytes()] > 0:
            known[row.tobytes()] -= 1
            others[index] = False
    if others.any():
        return others
    warn(
        f"All {len(others)} rows that placed the threshold are among the anomalies. They count as normal rows all the "
        "same, so that next to nothing is learned. Pass fewer anomalies, or call calibrate(X_normal) first.",
    )
    return ~others


def _comparable(rows: np.ndarray) -> np.ndarray:
    """Of equal rows the bytes are equal."""
    return np.nan_to_num(rows.astype(np.float32), nan=2 * _FARTHEST) + np.float32(0.0)


def _learned(
    member: Member, x: Tensor, rows: Tensor, normal: np.ndarray, *, trained: bool
) -> tuple[Member, np.ndarray]:
    """One network that knows anomalies, and the log-ratios of rows.

    Rows that trained are there to be scored again. The second nearest row counts: the nearest one is the row itself.
    Other normal rows are scored as if they were fresh.
    """
    device, densities = member.module.flat.device, dict(member.densities)
    module = member.module.converted(torch.float64)
    seen, odd = (compare_many(module, part.to(device), fill_levels=True) for part in (rows, x))
    if "residual" not in densities:
        n_rows, n_columns = rows.shape  # fewer rows than columns say little of how these go together
        shrinkage = max(0.05, n_columns / (n_columns + n_rows))
        densities[WHITENER] = fit_gaussian(seen.residual.cpu(), shrinkage=shrinkage)
    codes, anomalies = (joint_rows(densities, compared).cpu() for compared in (seen, odd))
    n_neighbors = torch.tensor(2 if trained else 1)
    densities[RATIO] = ratio = DistanceRatio(codes[torch.from_numpy(normal)], anomalies, n_neighbors)
    log_ratio = ratio.of(codes) if trained else ratio.of_rows_among_normal(ratio.normal)
    return Member(member.module, densities), log_ratio.numpy()
