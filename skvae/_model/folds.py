"""Cross-fitting: networks that have not seen a row score it, and all rows train the one that scores others."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from .._data.sample import Sample
from .finishing import finish, finish_without
from .fitted import Fitted, Prepared
from .noise_scales import with_noise_of
from .plan import Plan
from .preparing import prepare_fold
from .sizes import n_density_folds

__all__ = ["Fold", "cross_fit", "density_folds", "expected_scores", "unseen_scores"]

# Relative error of scores in float32: equal rows keep equal scores, one of which may be the threshold.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Fold:
    """A model, and which of the rows that place the threshold it has not seen.

    Attributes
    ----------
    fitted : Fitted
        Without a threshold.
    places : ndarray of int
        Among the rows that place the threshold.
    """

    fitted: Fitted
    places: np.ndarray


def cross_fit(
    plan: Plan, sample: Sample, whole: Prepared, train: Callable[[Prepared], None], n_epochs: int | None
) -> tuple[Fold, ...]:
    """Fit the same model to all rows but those of a fold, for each fold.

    Parameters
    ----------
    plan : Plan
    sample : Sample
        Its rows are in random order, copies of one side by side: a fold is a block of them, so that few are parted.
    whole : Prepared
        Of all rows.
    train : callable
        Trains the module of a `Prepared` in place.
    n_epochs : int, or None
        As `prepare_fold` takes it.

    Returns
    -------
    folds : tuple of Fold
        Empty where the plan asks for none, or no row would be left to train.
    """
    n_rows = plan.n_cross_fitted(len(sample.rows))
    count = plan.n_folds(len(sample.rows))
    blocks = np.array_split(np.arange(n_rows), count) if count else []
    return tuple(_fold(plan, sample, whole, train, n_epochs, places) for places in blocks)


def _fold(
    plan: Plan,
    sample: Sample,
    whole: Prepared,
    train: Callable[[Prepared], None],
    n_epochs: int | None,
    places: np.ndarray,
) -> Fold:
    # From the seed that stays, as the split of the rows: other numbers than those of the fit, and the same every time.
    prepared = prepare_fold(plan, sample.without(places), whole, n_epochs, sample.seed)
    train(prepared)
    return Fold(finish(plan, prepared, np.random.RandomState(prepared.seeds[0])), places)


def density_folds(plan: Plan, prepared: Prepared, fitted: Fitted) -> tuple[Fold, ...]:
    """Models in which nothing has learned from a fold of the held-out rows, for each fold.

    On a small table the densities of the score learn from them, and the noise scales of a VAE whose score is a
    likelihood.

    Parameters
    ----------
    plan : Plan
    prepared : Prepared
    fitted : Fitted
        What was made of it.

    Returns
    -------
    folds : tuple of Fold
        Empty where nothing has learned from a row that is held out.
    """
    held_out = prepared.data.density_rows
    if held_out is None:
        return _noise_folds(plan, prepared, fitted)
    count = n_density_folds(len(prepared.data.rows) + len(held_out), len(held_out))
    every = [np.arange(first, len(held_out), count) for first in range(count)]
    return tuple(map(Fold, finish_without(plan, prepared, fitted, every), every))


def _noise_folds(plan: Plan, prepared: Prepared, fitted: Fitted) -> tuple[Fold, ...]:
    """`density_folds` where noise scales have learned."""
    data, unseen = prepared.data, prepared.data.unseen
    if unseen is None or not plan.score.by_likelihood or plan.cross_fits or not data.n_held_out:
        return ()
    plain = fitted.with_module(prepared.module)
    folds = []
    count = n_density_folds(len(data.rows) + data.n_held_out, data.n_held_out)
    for first in range(count):
        places = np.arange(first, data.n_held_out, count)
        kept = torch.from_numpy(np.delete(np.arange(len(unseen.x)), places[places < len(unseen.x)]))
        kept = kept.to(unseen.x.device)
        weight = None if unseen.weight is None else unseen.weight[kept]
        folds.append(Fold(with_noise_of(plain, replace(unseen, x=unseen.x[kept], weight=weight)), places))
    return tuple(folds)


def expected_scores(seen: np.ndarray, of_folds: np.ndarray, folds: tuple[Fold, ...]) -> np.ndarray:
    r"""What a model of all rows would give its training rows if it had not seen them.

    .. math:: s_i + s_{i,k(i)} - \frac1K \sum_k s_{i,k}

    with the model's own score of a row and those of the models of the K folds, k(i) the fold of the row. A fold's model
    has fewer rows to learn from than that of all rows, so that a threshold placed by the middle term alone would be too
    low; the difference of the others corrects for it in the first order.

    Parameters
    ----------
    seen : ndarray of shape (n_rows,)
        Scores by the model of all rows.
    of_folds : ndarray of shape (n_folds, n_rows)
    folds : tuple of Fold

    Returns
    -------
    scores : ndarray of shape (n_rows,)

    References
    ----------
    Burman (1989), "A comparative study of ordinary cross-validation, v-fold cross-validation and the repeated
    learning-testing methods", Biometrika 76(3), section 2.
    """
    unseen = np.empty(len(seen))
    for fold, scores in zip(folds, of_folds, strict=True):
        unseen[fold.places] = scores[fold.places]
    gap = unseen - of_folds.mean(axis=0)
    return seen + np.where(np.abs(gap) > _ROUNDING * (1.0 + np.abs(unseen)), gap, 0.0)


def unseen_scores(n_rows: int, folds: tuple[Fold, ...], score: Callable[[Fold], np.ndarray]) -> np.ndarray:
    """Scores of rows by the models that have not seen them.

    A model of one fold less has learned from fewer rows than one of all, so that fresh rows score no lower on average
    under that: a threshold placed by these scores flags no more of them than asked for.

    Parameters
    ----------
    n_rows : int
    folds : tuple of Fold
        Each row is in one of them.
    score : callable
        Scores of a fold's own rows by its model.

    Returns
    -------
    scores : ndarray of shape (n_rows,)
    """
    scores = np.empty(n_rows)
    for fold in folds:
        scores[fold.places] = score(fold)
    return scores
