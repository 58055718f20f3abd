"""What "auto" means for an autoencoder."""

import math
from dataclasses import dataclass
from typing import ClassVar

from .._data.columns import Columns
from .._data.families import group_likelihoods
from .._training.rows import Settings
from ..likelihoods import Gaussian, Likelihood, make_likelihood
from .design import Design
from .plan import Plan
from .sizes import hidden_sizes, schedule

__all__ = ["AutoencoderPlan"]

# Most steps of a fit to clean rows.
_MAX_STEPS = 400
# Steps of a fit to rows that may be anomalous: without noise on its input a network learns few rows by heart in more.
_LEAST_FEW_STEPS, _MOST_FEW_STEPS, _ROWS_PER_STEP = 33, 100, 4
# Clean rows are ranked as well after a hundred passes, if these draw noise for ten thousand rows.
_MIN_PASSES, _MIN_NOISY_ROWS = 100, 10_000
# Many rows of many columns after half as many passes, with nearer reconstructions; no results file compares them.
_WIDE_PASSES, _WIDE_ROWS, _WIDE_COLUMNS = 50, 800, 200
_BATCH = 256
_DECAY = 1e-4


@dataclass(frozen=True, kw_only=True)
class AutoencoderPlan(Plan):
    """The parameters of an autoencoder."""

    model: ClassVar[str] = "autoencoder"

    def design(self, n_samples: int, columns: Columns, *, earlier: Design | None = None) -> Design:
        """Resolve the automatic parameters."""
        clean = self.clean
        n_components, hidden = self._sizes(columns) if earlier is None else (earlier.n_components, earlier.hidden)
        noise = ((0.1, 1.0) if clean else (0.0, 0.0)) if self.noise == "auto" else (self.noise, self.noise)
        # After fewer steps residuals say less, for which a score of whole rows makes up. Gaps take time to learn.
        few = self.score.needs_whole_rows and noise[1] > 0.0 and not columns.masked
        # Noise blurs the gradient of a small batch, and the same few rows with new noise are new examples.
        batch_size, n_epochs = schedule(
            self,
            n_samples,
            n_steps=_n_steps(n_samples, columns.n_features, few=few) if clean else _n_unclean_steps(n_samples),
            min_batch=_BATCH if noise[1] or not clean else 32,
            max_batch=_BATCH,
        )
        settings = Settings(
            batch_size=batch_size,
            n_epochs=n_epochs,
            learning_rate=self.learning_rate_init,
            weight_decay=_DECAY if self.alpha == "auto" else self.alpha,
            noise=noise,
            patience=self.patience,
            tol=self.tol,
        )
        return Design(
            model=self.model,
            n_components=n_components if self.n_components == "auto" else int(self.n_components),
            hidden=hidden_sizes(self.hidden_layer_sizes, hidden),
            activation=self.activation,
            likelihood=group_likelihoods(columns, _family, self.likelihood),
            n_networks=self.n_networks,
            settings=settings,
        )

    def _sizes(self, columns: Columns) -> tuple[int, tuple[int, ...]]:
        """Size of the code and of the hidden layers where they are automatic."""
        if self.clean:
            return min(64, columns.n_degrees), (128, 128)
        return max(1, round(0.15 * columns.n_degrees)), (64, 64)


def _n_steps(n_samples: int, n_columns: int, *, few: bool) -> int:
    """Steps of a fit to clean rows, where they may be few of few rows."""
    if not few:
        return _MAX_STEPS
    batches, batch = math.ceil(n_samples / _BATCH), min(n_samples, _BATCH)
    passes = _WIDE_PASSES if n_samples >= _WIDE_ROWS and n_columns >= _WIDE_COLUMNS else _MIN_PASSES
    return min(_MAX_STEPS, max(passes * batches, math.ceil(_MIN_NOISY_ROWS / batch)))


def _n_unclean_steps(n_samples: int) -> int:
    """Steps of a fit to rows some of which are anomalous."""
    return min(_MOST_FEW_STEPS, max(_LEAST_FEW_STEPS, n_samples // _ROWS_PER_STEP))


def _family(name: str, n_columns: int) -> Likelihood:
    if name in ("auto", "gaussian"):
        return Gaussian(n_columns, scale="unit")
    return make_likelihood({"name": name, "n_columns": n_columns})
