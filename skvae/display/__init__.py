"""Pictures of fitted models, in the form of scikit-learn's displays.

A class holds what it shows; ``from_estimator`` computes it (a report is computed already), ``plot`` draws it and sets
``ax_`` and ``figure_``. Estimators may be pipelines that end in one of this package's. Only drawing needs matplotlib.
"""

from .anomalies import AnomalyScoreDisplay, ExplanationDisplay
from .curves import LossCurveDisplay
from .synthesis import SynthesisDisplay
from .views import LatentSpaceDisplay, ReconstructionDisplay

__all__ = [
    "AnomalyScoreDisplay",
    "ExplanationDisplay",
    "LatentSpaceDisplay",
    "LossCurveDisplay",
    "ReconstructionDisplay",
    "SynthesisDisplay",
]
