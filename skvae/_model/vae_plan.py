"""What "auto" means for a variational autoencoder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from .._data.columns import Columns, values_of
from .._data.families import group_likelihoods
from .._training.rows import Settings
from ..likelihoods import LIKELIHOODS, Autoregressive, Likelihood, Mixture, StudentT, make_likelihood
from .design import Design
from .plan import Plan
from .sizes import hidden_sizes, schedule

__all__ = ["VAEPlan"]

# A cap of "auto"; no results file compares it with others.
_MAX_COMPONENTS = 16
# On every table of benchmarks/density_columns.py half of these steps leaves nats behind. With so many passes a hundred
# rows lose and some hundred gain, which no results file compares: fits of few rows stay short. Over many columns a step
# takes longer: steps times columns are bounded.
_MANY_STEPS, _MANY_PASSES, _MANY_ROWS, _FEW_PASSES, _CELLS = 6000, 200, 1000, 100, 600_000
# The fewest steps of a table of many columns, and the most that a learned p(z) can use.
_FEW_STEPS = 1500
# Beyond this share of missing cells several draws follow the wide posteriors better, but not with an autoregressive
# decoder: it hides cells from other columns in training, too. Either way a step takes longer.
_MANY_MISSING, _INCOMPLETE_DRAWS, _SLOW_STEPS = 0.05, 5, 3000
# Least noise scale, in standard deviations of a column. Where cells are missing, no results file compares a lower one.
_FLOOR, _LEARNED_FLOOR, _INCOMPLETE_FLOOR = 0.01, 0.02, 0.03
# Beyond this share one noise scale for each column fills them better; up to it what is to fill weighs less than the
# nats that a scale for each cell brings.
_SOME_MISSING = 0.01
# Scored by the likelihood, a code as wide as the row ranks anomalies better and costs some log p(x); no results file
# compares them.
_ROWS_FOR_ALL_COLUMNS = 100
# On wider tables a p(z) that is learned costs likelihood, on fewer rows too.
_LEARNED_COLUMNS = 3
_LEARNED_ROWS = 800
# With an autoregressive decoder the code has less to say, and a column may follow from others to its last digits.
_JOINED_COMPONENTS = 6
_JOINED_FLOOR = 0.005
# Student-t's of each cell there: more nats in benchmarks/density_columns.py than with one, 8 no more than 5.
_JOINED_MEMBERS = 5
# The second holds that network back from single rows: on splits of benchmarks/density_columns.py that did not choose it
# letter gains, and no table loses more than its splits differ by.
_DECAY, _JOINED_DECAY = 1e-4, 0.1


@dataclass(frozen=True, kw_only=True)
class VAEPlan(Plan):
    """The parameters of a variational autoencoder."""

    model: ClassVar[str] = "vae"
    earlier_default_scores: ClassVar[tuple[str, ...]] = ("log_likelihood",)
    draws_rows: ClassVar[bool] = True

    decoder: str
    beta: float
    kl_warmup: float
    dropout: Any
    scale: str
    marginals: str | None
    min_scale: Any
    n_training_draws: Any
    binarize: bool
    latent_density: Any

    def fixed(self, names: Sequence[str]) -> dict[str, Any]:
        """Also how columns are mapped, the form of their noise, and p(z) where it is named."""
        density = self.latent_density
        named = {} if density == "auto" else {"latent_density": density if isinstance(density, str) else int(density)}
        return super().fixed(names) | {"marginals": self.marginals, "scale": self.scale} | named

    def design(self, n_samples: int, columns: Columns, *, earlier: Design | None = None) -> Design:
        """Resolve the automatic parameters."""
        self._check_training()
        complete = columns.missing_fraction <= _SOME_MISSING
        latent_density = self._latent_density(n_samples, columns, complete=complete, earlier=earlier)
        gaps = columns.missing_fraction > _MANY_MISSING
        n_draws = self._training_draws(gaps=gaps)
        n_steps = self._n_steps(n_samples, columns, gaps=gaps, learned=latent_density == "learned")
        batch_size, n_epochs = schedule(self, n_samples, n_steps=n_steps, max_batch=128, min_batch=64)
        noise = 0.0 if self.noise == "auto" else self.noise
        decay = _JOINED_DECAY if self._joined else _DECAY
        settings = Settings(
            batch_size=batch_size,
            n_epochs=n_epochs,
            learning_rate=self.learning_rate_init,
            weight_decay=decay if self.alpha == "auto" else self.alpha,
            noise=(noise, noise),
            dropout=self._dropout(n_samples) if complete or self.dropout != "auto" else 0.0,
            kl_weight=self.beta,
            kl_warmup=self.kl_warmup,
            max_gradient_norm=50.0,
            patience=self.patience,
            tol=self.tol,
            n_draws=n_draws,
            binarize=self.binarize,
            learns_prior=latent_density == "learned" and n_draws == 1,
        )
        return Design(
            model=self.model,
            n_components=self._n_components(n_samples, columns, earlier),
            hidden=hidden_sizes(self.hidden_layer_sizes, (128, 128)),
            activation=self.activation,
            likelihood=self._likelihood(columns, complete=complete, learned=latent_density == "learned"),
            n_networks=self.n_networks,
            settings=settings,
            latent_density=latent_density,
        )

    @property
    def maps_columns(self) -> bool:
        """Whether columns of numbers become normal scores rather than being centred and scaled."""
        return self.marginals == "auto"

    @property
    def _joined(self) -> bool:
        return self.decoder == "autoregressive"

    def _check_training(self) -> None:
        if self._joined and not self.standardize and not self.maps_columns:
            raise ValueError(
                "decoder='autoregressive' compares columns, which needs standardize=True, but it is False. Set it "
                "back, or decoder='independent'."
            )
        if self.binarize and self.likelihood != "bernoulli":
            raise ValueError(
                f"binarize=True draws rows of 0 and 1, which needs likelihood='bernoulli', but it is "
                f"{self.likelihood!r}. Set likelihood='bernoulli', or binarize=False."
            )
        needed = {"beta": (1.0,), "kl_warmup": (0.0,), "dropout": ("auto", 0.0)}
        for name, values in needed.items():
            if self._training_draws() > 1 and getattr(self, name) not in values:
                raise ValueError(
                    f"n_training_draws={self.n_training_draws} trains on the importance-weighted bound, which needs "
                    f"{name}={values[-1]}, but it is {getattr(self, name)}. Set it back, or n_training_draws=1."
                )

    def _n_steps(self, n_samples: int, columns: Columns, *, gaps: bool, learned: bool) -> int:
        """A number of passes over few rows, a budget of steps over many."""
        plain = not (gaps or learned or self._joined)
        passes = _MANY_PASSES if plain and n_samples >= _MANY_ROWS else _FEW_PASSES
        if plain:
            most = min(_MANY_STEPS, max(_FEW_STEPS, _CELLS // columns.n_degrees))
        else:
            most = _FEW_STEPS if learned else _SLOW_STEPS
        return min(most, passes * math.ceil(n_samples / 64))

    def _training_draws(self, *, gaps: bool = False) -> int:
        if self.n_training_draws != "auto":
            return int(self.n_training_draws)
        any_bound = self.beta == 1.0 and self.kl_warmup == 0.0 and self.dropout in ("auto", 0.0)
        several = gaps and any_bound and self.latent_density != "learned" and not self._joined
        return _INCOMPLETE_DRAWS if several else 1

    def _n_components(self, n_samples: int, columns: Columns, earlier: Design | None) -> int:
        """Size of the code, which stays while a training goes on, however many rows the next chunk has."""
        if self.n_components != "auto":
            return int(self.n_components)
        if earlier is not None:
            return earlier.n_components
        # A code as wide as the row leaves little residual to score.
        by_likelihood = self.score.by_likelihood
        fraction = 1.0 if by_likelihood and n_samples >= _ROWS_FOR_ALL_COLUMNS * columns.n_degrees else 0.8
        most = _JOINED_COMPONENTS if self._joined else _MAX_COMPONENTS
        return min(most, max(2, round(fraction * columns.n_degrees)))

    def _dropout(self, n_samples: int) -> float:
        """Few rows need much of it, many none."""
        if self.dropout != "auto":
            return self.dropout
        rate = min(0.3, 100.0 / n_samples)
        return rate if rate >= 0.02 and self._training_draws() == 1 else 0.0

    def _latent_density(self, n_samples: int, columns: Columns, *, complete: bool, earlier: Design | None) -> str | int:
        if self.latent_density != "auto":
            return self.latent_density if isinstance(self.latent_density, str) else int(self.latent_density)
        if earlier is not None:
            return earlier.latent_density
        plain_bound = self._training_draws() == 1 and self.beta == 1.0 and self.kl_warmup == 0.0
        real = columns.families is None and values_of(self.likelihood) == "real"
        few_columns = columns.n_features <= _LEARNED_COLUMNS and n_samples >= _LEARNED_ROWS
        # With an autoregressive decoder the code would carry everything while the weight of the KL is small.
        learned = plain_bound and real and complete and few_columns and not self._joined
        return "learned" if learned else "mixture"

    def _likelihood(self, columns: Columns, *, complete: bool, learned: bool) -> Likelihood:
        families = partial(self._family, complete=complete, learned=learned)
        likelihood = group_likelihoods(columns, families, self.likelihood)
        if not self._joined:
            return likelihood
        return Autoregressive(likelihood, hidden_sizes(self.hidden_layer_sizes, (128, 128))[::-1])

    def _family(self, name: str, n_columns: int, *, complete: bool, learned: bool) -> Likelihood:
        scale = "constant" if name == "auto" and not complete and self.scale == "dependent" else self.scale
        plain = _LEARNED_FLOOR if learned else _FLOOR if complete else _INCOMPLETE_FLOOR
        automatic = _JOINED_FLOOR if self._joined else plain
        floor = automatic if self.min_scale == "auto" else float(self.min_scale)
        if name == "auto" and self._joined:
            members = StudentT(_JOINED_MEMBERS * n_columns, scale=scale, floor=floor)
            return Mixture(members, _JOINED_MEMBERS)
        name = "student_t" if name == "auto" else name
        if LIKELIHOODS[name].takes_scale:
            return make_likelihood({"name": name, "n_columns": n_columns, "scale": scale, "floor": floor})
        return make_likelihood({"name": name, "n_columns": n_columns})
