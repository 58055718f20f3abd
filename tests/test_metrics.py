"""The scorer of labelled rows: its sign, its labels, its metric."""

import pickle

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import AutoencoderTransformer
from skvae.metrics import anomaly_scorer


class Fixed:
    """A detector whose scores are the first column: higher = more normal."""

    def score_samples(self, X):
        return X[:, 0]


X = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])
Y = np.array([1, 0, 1, 0, 0])


@pytest.mark.parametrize(
    ("y", "label"),
    [(Y, None), (Y.astype(bool), None), (1 - 2 * Y, None), (np.where(Y, "fraud", "fine"), "fraud"), (1 - Y, 0)],
    ids=["0 and 1", "booleans", "1 and -1", "words", "0 for anomalies"],
)
def test_anomalies_are_the_positive_class_whatever_they_are_called(y, label):
    """The two anomalies are first and third of five from below: precisions 1 and 2/3."""
    assert anomaly_scorer(anomaly_label=label)(Fixed(), X, y) == pytest.approx((1 + 2 / 3) / 2)
    assert anomaly_scorer("roc_auc", anomaly_label=label)(Fixed(), X, y) == pytest.approx(5 / 6)


def test_is_the_metric_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    rows, y, weight = rng.normal(size=(50, 1)), rng.random(50) < 0.3, rng.random(50)
    for name, metric in (("average_precision", average_precision_score), ("roc_auc", roc_auc_score)):
        found = anomaly_scorer(name)(Fixed(), rows, y, sample_weight=weight)
        assert found == pytest.approx(metric(y, -rows[:, 0], sample_weight=weight))


def test_a_search_over_a_pipeline_finds_the_better_detector(seed):
    """A code as wide as the table without noise reproduces anything: it cannot tell broken rows."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(300, 1)) * np.ones(4) + 0.2 * rng.normal(size=(300, 4))
    y = np.r_[np.ones(30), np.zeros(270)]
    rows[:30, 0] *= -1.0
    model = AutoencoderTransformer(hidden_layer_sizes=(), contamination=0.2, score_method="reconstruction", noise=0.0)
    pipe = make_pipeline(StandardScaler(), model.set_params(max_iter=30, random_state=0))
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    grid = {"autoencodertransformer__n_components": [1, 4]}
    search = GridSearchCV(pipe, grid, scoring=pickle.loads(pickle.dumps(anomaly_scorer())), cv=folds).fit(rows, y)
    assert search.best_params_ == {"autoencodertransformer__n_components": 1}


def test_refuses_other_metrics_and_labels():
    with pytest.raises(ValueError, match="metric") as caught:
        anomaly_scorer("accuracy")
    assert str(caught.value) == (
        "The 'metric' parameter must be one of ['average_precision', 'roc_auc']. Got 'accuracy' instead."
    )
    with pytest.raises(ValueError, match="y must hold") as caught:
        anomaly_scorer()(Fixed(), X, np.array([1, 2, 1, 2, 2]))
    assert str(caught.value) == (
        "y must hold 0 and 1, or 1 and -1, but it holds [1, 2]. Say which label is the anomalies' with 'anomaly_label'."
    )
    with pytest.raises(ValueError, match="Rows to score") as caught:
        anomaly_scorer()(Fixed(), X, np.zeros(5))
    assert str(caught.value) == (
        "Rows to score must hold anomalies and normal ones, but 0 of 5 are anomalies. Split with "
        "StratifiedKFold(shuffle=True), or say which label is the anomalies' with 'anomaly_label'."
    )
