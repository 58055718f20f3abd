"""What "auto" means for an autoencoder."""

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


@dataclass(frozen=True, kw_only=True)
class AutoencoderPlan(Plan):
    """The parameters of an autoencoder."""

    model: ClassVar[str] = "autoencoder"
    default_score: ClassVar[str] = "joint"

    def design(self, n_samples: int, columns: Columns, *, earlier: Design | None = None) -> Design:
        """Resolve the automatic parameters."""
        clean = self.clean
        n_components = min(64, columns.n_degrees) if clean else max(1, round(0.15 * columns.n_degrees))
        noise = ((0.1, 1.0) if clean else (0.0, 0.0)) if self.noise == "auto" else (self.noise, self.noise)
        # Noise blurs the gradient of a small batch, and a few rows anew with other noise are no repetition.
        batch_size, n_epochs = schedule(
            self,
            n_samples,
            n_steps=400 if clean else 100,
            min_batch=256 if noise[1] or not clean else 32,
            max_batch=256,
        )
        settings = Settings(
            batch_size=batch_size,
            n_epochs=n_epochs,
            learning_rate=self.learning_rate_init,
            weight_decay=self.alpha,
            noise=noise,
            patience=self.patience,
            tol=self.tol,
        )
        return Design(
            self.model,
            n_components if self.n_components == "auto" else int(self.n_components),
            hidden_sizes(self.hidden_layer_sizes, (128, 128) if clean else (64, 64)),
            self.activation,
            group_likelihoods(columns, _family, self.likelihood),
            self.n_networks,
            settings,
        )


def _family(name: str, n_columns: int) -> Likelihood:
    if name in ("auto", "gaussian"):
        return Gaussian(n_columns, scale="unit")
    return make_likelihood({"name": name, "n_columns": n_columns})
