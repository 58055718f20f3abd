"""What a fit is asked for: an estimator's parameters as plain values, and the rules that need no row."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from .._data.columns import Columns
from .._tables.table import chosen_columns, column_numbers
from .design import Design
from .scores import SCORES, Score, has_residual_density
from .sizes import calibration_size, learns_held_out, n_cross_fitted, n_folds

__all__ = ["AUTO_FRACTION", "CROSS_FIT", "Plan"]

# Values of ``calibration_fraction``, and the share that is set aside by the first, or where there can be no folds.
AUTO_FRACTION, CROSS_FIT, _HELD_OUT = "auto", "cross_fit", 0.1
# Where so large a share of the rows repeats others, a few dozen Gaussians cannot say that a row has been seen, and the
# nearest row can (benchmarks/one_class_frames.py).
_REPEATED = 0.1


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
    default_scores: ClassVar[tuple[str, str]] = ("joint", "local")  # of clean rows that differ, and that repeat
    earlier_default_scores: ClassVar[tuple[str, ...]] = ()  # what "auto" meant when older saved models were fitted
    draws_rows: ClassVar[bool] = False  # whether rows can be drawn from the model

    device: torch.device
    one_pass: bool
    n_components: Any
    hidden_layer_sizes: Any
    activation: str
    likelihood: Any
    categorical_features: Any
    standardize: bool
    contamination: Any
    false_alarm_rate: float
    calibration_fraction: Any
    score_method: str
    noise: Any
    alpha: Any
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

    def fixed(self, names: Sequence[str]) -> dict[str, Any]:
        """Parameters that must stay while a training goes on, in values that are equal where they mean the same.

        They say what the columns are, and to a series of chunks also which rows place the threshold; the sizes of the
        network are in `Design.network`.

        Parameters
        ----------
        names : sequence of str
            Of the user's columns.
        """
        likelihood, chosen = self.likelihood, chosen_columns(self.categorical_features, names)
        if isinstance(likelihood, Mapping):
            numbers = column_numbers(list(likelihood), names, "likelihood")
            families = zip(numbers, likelihood.values(), strict=True)
            likelihood = {names[index]: family for index, family in families if family != "auto"} or "auto"
        listed = "from_dtype" if chosen is None else [names[index] for index in sorted(chosen)] or None
        fixed = {"likelihood": likelihood, "categorical_features": listed, "standardize": bool(self.standardize)}
        # The rows of all chunks place it together: all of them under a share, else those that did not train.
        return fixed | ({"contamination": "auto" if self.clean else "a float"} if self.one_pass else {})

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
        """The score that ``score_method`` stands for, or one that needs as much."""
        return SCORES[self.score_name()]

    def score_name(self, repeated: float = 0.0, fitted: str | None = None) -> str:
        """Its name where such a share of the rows repeats others; training that goes on keeps what was ``fitted``."""
        if self.score_method != "auto":
            return self.score_method
        if fitted in self.default_scores:
            return fitted
        return self.default_scores[self.clean and repeated >= _REPEATED]

    def n_held_out(self, n_samples: int) -> int:
        """Rows that are set aside to place the threshold."""
        if not self.clean or self.cross_fits:
            return 0
        fraction = _HELD_OUT if self.calibration_fraction == AUTO_FRACTION else self.calibration_fraction
        return calibration_size(n_samples, self.false_alarm_rate, fraction)

    def learns_held_out(self, n_samples: int) -> bool:
        """Whether the densities of the score learn from these rows, too, which the network never sees."""
        if not self.clean or self.calibration_fraction != AUTO_FRACTION or self.one_pass:
            return False
        return has_residual_density(self.model, self.score) and learns_held_out(n_samples)

    @property
    def cross_fits(self) -> bool:
        """Whether rows that train place the threshold, by scores of networks that have not seen them."""
        return self.clean and self.calibration_fraction == CROSS_FIT

    def n_cross_fitted(self, n_samples: int) -> int:
        """How many rows do that."""
        return n_cross_fitted(n_samples, self.false_alarm_rate) if self.cross_fits else 0

    def n_folds(self, n_samples: int) -> int:
        """Into how many folds they are cut."""
        return n_folds(self.n_cross_fitted(n_samples))

    def without_folds(self) -> "Plan":
        """The same where folds cannot be: a share of the rows is set aside."""
        return replace(self, calibration_fraction=_HELD_OUT) if self.cross_fits else self

    def n_validation(self, n_samples: int) -> int:
        """Rows, of those that are not held out, that choose the best epoch; one is left to train."""
        return min(round(self.validation_fraction * n_samples), n_samples - 1) if self.early_stopping else 0

    @property
    def patience(self) -> int | None:
        """Epochs without improvement after which training stops; None where it does not."""
        return self.n_iter_no_change if self.early_stopping else None
