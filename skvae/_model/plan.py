"""What a fit is asked for: an estimator's parameters as plain values, and the rules that need no row."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from .._data.columns import Columns
from .design import Design
from .scores import SCORES, Score
from .sizes import calibration_size

__all__ = ["Plan"]


@dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """The parameters of an estimator at the moment of a fit; they are called and mean what they do there.

    Attributes
    ----------
    device : torch.device
        Where the module trains.
    one_pass : bool
        Whether the fit is one pass of a longer training, as `partial_fit` makes it.
    """

    model: ClassVar[str]  # as in `Design`
    default_score: ClassVar[str]

    device: torch.device
    one_pass: bool
    n_components: Any
    hidden_layer_sizes: Any
    activation: str
    likelihood: Any
    standardize: bool
    contamination: Any
    false_alarm_rate: float
    calibration_fraction: float
    score_method: str
    noise: Any
    alpha: float
    batch_size: Any
    learning_rate_init: Any
    max_iter: Any
    tol: float
    n_iter_no_change: int
    early_stopping: bool
    validation_fraction: float
    n_networks: int

    @abstractmethod
    def design(self, n_samples: int, columns: Columns, *, earlier: Design | None = None) -> Design:
        """Resolve the automatic parameters for a number of rows and what was learned of the columns.

        With ``earlier`` the training goes on, and what depends on the rows of the first fit stays.
        """

    @property
    def clean(self) -> bool:
        """Whether the training rows count as free of anomalies."""
        return self.contamination == "auto"

    @property
    def maps_columns(self) -> bool:
        """Whether columns of numbers become normal scores rather than being centred and scaled."""
        return False

    @property
    def score(self) -> Score:
        """The score that ``score_method`` stands for."""
        return SCORES[self.default_score if self.score_method == "auto" else self.score_method]

    def n_held_out(self, n_samples: int) -> int:
        """Rows that are set aside to place the threshold."""
        return calibration_size(n_samples, self.false_alarm_rate, self.calibration_fraction) if self.clean else 0

    def n_validation(self, n_samples: int) -> int:
        """Rows, of those that are not held out, that choose the best epoch; one is left to train."""
        return min(round(self.validation_fraction * n_samples), n_samples - 1) if self.early_stopping else 0

    @property
    def patience(self) -> int | None:
        """Epochs without improvement after which training stops; None where it does not."""
        return self.n_iter_no_change if self.early_stopping else None
