"""Scorers that tune detectors with labelled rows: the right sign, whatever the labels are called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

__all__ = ["anomaly_scorer"]

_METRICS: dict[str, Callable[..., float]] = {
    "average_precision": average_precision_score,
    "roc_auc": roc_auc_score,
}


def anomaly_scorer(metric="average_precision", *, anomaly_label=None):
    """Make a scorer for searches over detectors: how well anomalies are ranked before normal rows.

    ``scoring="roc_auc"`` takes the greater label as the one that scores high, and `score_samples` is high for normal
    rows: with labels that are 1 for anomalies such a search finds the worst detector. This one does not.

    Parameters
    ----------
    metric : {"average_precision", "roc_auc"}, default="average_precision"
        The first looks at the alarms, of which anomalies should make the most; the second also rewards order far from
        them.
    anomaly_label : object, default=None
        The label of anomalies in ``y``. None takes -1 where labels are -1 and 1, as `predict` gives them, and 1 or True
        where they are 0 and 1.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y, sample_weight=None)``, for ``scoring=``; higher = better.

    Raises
    ------
    ValueError
        If there is no such metric.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV, StratifiedKFold
    >>> from skvae import AutoencoderTransformer
    >>> from skvae.metrics import anomaly_scorer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 1)) * np.ones(4) + 0.2 * rng.normal(size=(300, 4))
    >>> y = np.zeros(300)
    >>> X[:20, 0] *= -1; y[:20] = 1  # frauds, say
    >>> model = AutoencoderTransformer(contamination=0.1, random_state=0)
    >>> folds = StratifiedKFold(3, shuffle=True, random_state=0)
    >>> search = GridSearchCV(
    ...     model, {"n_components": [1, 4]}, scoring=anomaly_scorer(), cv=folds
    ... ).fit(X, y)
    >>> bool(search.best_score_ > 0.5)
    True
    """
    if metric not in _METRICS:
        raise ValueError(f"The 'metric' parameter must be one of {sorted(_METRICS)}. Got {metric!r} instead.")
    return _AnomalyScorer(metric, anomaly_label)


@dataclass(frozen=True)
class _AnomalyScorer:
    """What `anomaly_scorer` makes; a record, so that it travels to other processes."""

    metric: str
    anomaly_label: Any

    def __call__(self, estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        is_anomaly = self._is_anomaly(np.asarray(y))
        if is_anomaly.all() or not is_anomaly.any():
            n_anomalies = int(is_anomaly.sum())
            raise ValueError(
                f"Rows to score must hold anomalies and normal ones, but {n_anomalies} of {len(is_anomaly)} are "
                "anomalies. Split with StratifiedKFold(shuffle=True), or say which label is the anomalies' with "
                "'anomaly_label'."
            )
        scores = np.asarray(estimator.score_samples(X))
        return float(_METRICS[self.metric](is_anomaly, -scores, sample_weight=sample_weight))

    def _is_anomaly(self, y: np.ndarray) -> np.ndarray:
        if self.anomaly_label is not None:
            return y == self.anomaly_label
        labels = np.unique(y).tolist()
        if set(labels) <= {0, 1}:
            return y == 1
        if set(labels) <= {-1, 1}:
            return y == -1
        raise ValueError(
            f"y must hold 0 and 1, or 1 and -1, but it holds {labels[:5]}. Say which label is the anomalies' with "
            "'anomaly_label'."
        )
