"""Pictures of fitted models, in the form of scikit-learn's displays.

A class holds what it shows; ``from_estimator`` computes it, ``plot`` draws it and sets ``ax_`` and ``figure_``.
Estimators may be pipelines that end in one of this package's. matplotlib is needed to draw only.
"""

from .anomalies import AnomalyScoreDisplay, ExplanationDisplay
from .curves import LossCurveDisplay
from .views import LatentSpaceDisplay, ReconstructionDisplay

__all__ = [
    "AnomalyScoreDisplay",
    "ExplanationDisplay",
    "LatentSpaceDisplay",
    "LossCurveDisplay",
    "ReconstructionDisplay",
]
