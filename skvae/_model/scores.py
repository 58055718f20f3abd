"""Scores by name: what each needs, how it is fitted and computed; higher = more normal.

A score is added here, by one class and one entry of ``SCORES``, and to ``onnx`` if graphs are to serve it: see
CONTRIBUTING.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .._data.departures import Prices
from .._densities.bounds import importance_weighted_bound, mean_over_draws
from .._densities.density import Density
from .._densities.gaussian import FactoredGaussian, Gaussian, GaussianDensity
from .._densities.modes import ModalDensity, unclean_density
from .._densities.neighbors import NeighborDistance
from .._densities.residuals import JointDensity, completed, mean_square
from .._networks.modules import LatentModule
from .._support.device import standard_noise
from .._support.numerics import observed
from .comparison import Comparison, compare, with_levels
from .imputation import expected_of_missing
from .member import Member

__all__ = [
    "DENSITY_DRAWS",
    "LOG_DENSITIES",
    "SCORES",
    "SCORE_DRAWS",
    "Evidence",
    "EvidenceLowerBound",
    "Joint",
    "Local",
    "LogLikelihood",
    "Neighbor",
    "Reconstruction",
    "Residual",
    "Robust",
    "Score",
    "Scoring",
    "checked_draws",
    "has_residual_density",
    "log_weights",
    "score_names",
]

# Draws of the posterior for a density, and for a score by it, where a user names no number: on ADBench's sets 8 rank as
# 32 do, on either half of the sets, and 4 lose up to 1.4 of AUROC on one (benchmarks/score_draws.py).
DENSITY_DRAWS, SCORE_DRAWS = 32, 8


@dataclass(frozen=True)
class Evidence:
    """Training rows beside what a network makes of them: what the density of a score is estimated from.

    Attributes
    ----------
    compared : Comparison
    residual_density : Gaussian
    weight : Tensor of shape (n_samples,), or None
        In float64.
    clean : bool
        Whether the rows count as free of anomalies.
    random_state : RandomState
    """

    compared: Comparison
    residual_density: Gaussian
    weight: Tensor | None
    clean: bool
    random_state: np.random.RandomState

    @cached_property
    def completed(self) -> tuple[Tensor, Tensor]:
        """Rows and residuals in float64, missing values as the model expects them."""
        x, residual = completed(*self.compared[:3])
        return x.double(), residual.double()

    @cached_property
    def joint(self) -> Tensor:
        """[input; whitened residual] of each row."""
        x, residual = self.completed
        return torch.cat([x, self.residual_density.whiten(residual)], dim=1)


@dataclass(frozen=True)
class Scoring:
    """Scaled rows and one network, in one precision: what a score is computed from.

    Attributes
    ----------
    member : Member
    module : LatentModule
        Its module, with buffers for passes over chunks of one size.
    x : Tensor of shape (n_samples, n_features)
        NaN where a value is missing.
    seed, n_draws : int
        Of the posterior draws, which are the same for every row and at every call.
    """

    member: Member
    module: LatentModule
    x: Tensor
    seed: int
    n_draws: int

    @property
    def noise(self) -> Tensor:
        """Standard normal numbers of shape (n_draws, 1, n_components)."""
        return standard_noise(self.seed, (self.n_draws, 1, self.module.n_components), self.x)


class Score(ABC):
    """One way to turn rows into numbers.

    Attributes
    ----------
    name : str
        Value of ``score_method``.
    models : tuple of str
        Models that it stands for: "autoencoder", "vae".
    is_density : bool
        Whether it is a log-density, in nats, which moves with the units of the columns.
    by_likelihood : bool
        Whether it reads the likelihood of the decoder rather than the residual of the reconstruction.
    needs_residuals : bool
        Whether it needs the Gaussian density of the residuals.
    needs_whole_rows : bool
        Whether it is a density of whole rows, in which a missing category is the likeliest level.
    densities : tuple of type
        Classes of what `fit` may return, so that a saved model finds them again.
    """

    name: ClassVar[str]
    models: ClassVar[tuple[str, ...]] = ("autoencoder", "vae")
    is_density: ClassVar[bool]
    by_likelihood: ClassVar[bool] = False
    needs_residuals: ClassVar[bool]
    needs_whole_rows: ClassVar[bool] = False
    densities: ClassVar[tuple[type[Density], ...]] = ()

    def prices(self, cost: float) -> Prices:
        """What departures take off the score, where one from a constant by a factor of e takes ``cost``.

        A density of the rows themselves has a new level as likely as it is, and no less.
        """
        return Prices(cost, 1.0 if self.is_density else cost, 0.0 if self.by_likelihood else cost)

    def fit(self, evidence: Evidence) -> Density | None:
        """Estimate the density that the score reads, which the member keeps by the score's name; None for none."""
        return None

    @abstractmethod
    def compute(self, scoring: Scoring) -> Tensor:
        """Scores of shape (n_samples,), in the units of the scaled space.

        A missing value counts as the model expects it: rows with and without missing values compare.
        """


class _ResidualScore(Score):
    """A score of rows that are held against their reconstruction."""

    def compute(self, scoring: Scoring) -> Tensor:
        x = with_levels(scoring.module, scoring.x) if self.needs_whole_rows else scoring.x
        return self.of(scoring.member, compare(scoring.module, x))

    @abstractmethod
    def of(self, member: Member, compared: Comparison) -> Tensor:
        """The same of rows that are compared already."""


class Reconstruction(_ResidualScore):
    """Minus the mean squared residual."""

    name = "reconstruction"
    is_density = False
    needs_residuals = False

    def of(self, member: Member, compared: Comparison) -> Tensor:
        return -mean_square(compared.residual)


class Residual(_ResidualScore):
    """Log-density of the residual under a Gaussian."""

    name = "residual"
    is_density = True
    needs_residuals = True

    def of(self, member: Member, compared: Comparison) -> Tensor:
        return member.densities["residual"].to(compared.residual).expected_log_prob(compared.residual)


class _JointScore(_ResidualScore):
    """Log-density of [input; whitened residual]: of mixtures where rows are clean, of the central ones where not."""

    is_density = True
    needs_residuals = True
    needs_whole_rows = True
    densities = (JointDensity, ModalDensity, GaussianDensity, FactoredGaussian)

    @abstractmethod
    def of_clean(self, evidence: Evidence) -> JointDensity:
        """The density of rows that count as free of anomalies."""

    def fit(self, evidence: Evidence) -> Density:
        x, residual = evidence.completed
        density = evidence.residual_density
        if not evidence.clean:
            return unclean_density(x, density, residual, evidence.weight, evidence.random_state)
        return self.of_clean(evidence).typical(x, density, residual)

    def compute(self, scoring: Scoring) -> Tensor:
        member, module, x = scoring.member, scoring.module, scoring.x
        joint = member.densities[self.name]
        plain = module.layer.is_identity and module.likelihood.mean_is_outputs
        if not plain or not isinstance(joint, JointDensity) or joint.axes.dtype != x.dtype or len(joint.centre):
            return super().compute(scoring)
        mask = observed(x)
        complete = self._of_complete(member, module, x if mask is None else x.nan_to_num())
        return complete if mask is None else torch.where(mask.all(dim=-1), complete, super().compute(scoring))

    def _of_complete(self, member: Member, module: LatentModule, x: Tensor) -> Tensor:
        """Without the reconstruction itself: what the density reads of it is much less in a wide table."""
        whitening, side_by_side = member.whitening
        expected = module.decode(module.encode_inputs(x), whitening)
        return member.densities[self.name].log_prob_of_whitened(x, side_by_side, expected)

    def of(self, member: Member, compared: Comparison) -> Tensor:
        x, residual = completed(*compared[:3])
        joint, density = (member.densities[name].to(x) for name in (self.name, "residual"))
        if isinstance(joint, JointDensity):
            return joint.log_prob_of(x, residual, density, _hidden(compared.residual))
        return joint.log_prob(torch.cat([x, density.whiten(residual)], dim=1))


def _hidden(residual: Tensor) -> Tensor | None:
    """Share of each row's cells that are missing; None where none is."""
    mask = observed(residual)
    return None if mask is None else 1.0 - mask.to(residual).mean(dim=1)


class Joint(_JointScore):
    """That of mixtures from a few starts, as one."""

    name = "joint"

    def of_clean(self, evidence: Evidence) -> JointDensity:
        x, residual = evidence.completed
        return JointDensity.fit(x, evidence.residual_density, residual, evidence.random_state)


class Robust(_JointScore):
    """That of a mixture of all rows, averaged with those of several mixtures without clumps of few rows."""

    name = "robust"

    def of_clean(self, evidence: Evidence) -> JointDensity:
        x, residual = evidence.completed
        return JointDensity.fit(x, evidence.residual_density, residual, evidence.random_state, robust=True)


class Local(_JointScore):
    """That of `Joint`, less what a row loses by its distance to the nearest of some training rows."""

    name = "local"

    def of_clean(self, evidence: Evidence) -> JointDensity:
        x, residual = evidence.completed
        density, random_state = evidence.residual_density, evidence.random_state
        joint = JointDensity.fit(x, density, residual, random_state)
        return joint.localised(x, density, residual, random_state)


class Neighbor(_ResidualScore):
    """Minus the distance to a near one of some training rows, in the space of [input; whitened residual]."""

    name = "neighbor"
    is_density = False
    needs_residuals = True
    needs_whole_rows = True
    densities = (NeighborDistance,)

    def fit(self, evidence: Evidence) -> Density:
        # 5 % of 300 neighbours look past a cluster of anomalies; among clean rows the nearest one tells most.
        n_neighbors, n_references = (1, 2000) if evidence.clean else (15, 300)
        return NeighborDistance.fit(evidence.joint, n_neighbors, evidence.random_state, n_references=n_references)

    def of(self, member: Member, compared: Comparison) -> Tensor:
        x, residual = completed(*compared[:3])
        neighbors, density = (member.densities[name].to(x) for name in (self.name, "residual"))
        return -neighbors.distance(torch.cat([x, density.whiten(residual)], dim=1))


class _LikelihoodScore(Score):
    """A bound on log p(x) by draws of the posterior."""

    models = ("vae",)
    is_density = True
    by_likelihood = True
    needs_residuals = False


class LogLikelihood(_LikelihoodScore):
    """Importance-weighted bound."""

    name = "log_likelihood"

    def compute(self, scoring: Scoring) -> Tensor:
        return importance_weighted_bound(log_weights(scoring)) + expected_of_missing(scoring.module, scoring.x)


class EvidenceLowerBound(_LikelihoodScore):
    """Mean of the log importance weights."""

    name = "elbo"

    def compute(self, scoring: Scoring) -> Tensor:
        return mean_over_draws(log_weights(scoring)) + expected_of_missing(scoring.module, scoring.x)


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Residual(),
        Joint(),
        Robust(),
        Local(),
        Neighbor(),
        Reconstruction(),
        LogLikelihood(),
        EvidenceLowerBound(),
    )
}


def score_names(model: str) -> set[str]:
    """Values of ``score_method`` for a model, "autoencoder" or "vae"."""
    return {"auto", *(name for name, score in SCORES.items() if model in score.models)}


def has_residual_density(model: str, score: Score) -> bool:
    """Whether members have a density of the residuals: an autoencoder's `score` reads it, whatever the score is."""
    return model == "autoencoder" or score.needs_residuals


def checked_draws(n_draws: Any, automatic: int) -> int:
    """Posterior draws of a score, of a parameter that may have been set after the fit; ``automatic`` for "auto"."""
    if isinstance(n_draws, str) and n_draws == "auto":
        return automatic
    if not isinstance(n_draws, Integral) or isinstance(n_draws, bool) or n_draws < 1:
        raise ValueError(f"The 'n_draws' parameter must be an int of at least 1, or 'auto'. Got {n_draws!r} instead.")
    return int(n_draws)


def log_weights(scoring: Scoring) -> Tensor:
    """Log importance weights of the posterior draws of a VAE, of shape (n_draws, n_samples), in nats."""
    module: Any = scoring.module
    prior, x = scoring.member.densities.get("latent"), scoring.x
    prior = None if prior is None else prior.to(x)
    return module.log_weights(x, module.inputs(x), scoring.noise, observed(x), prior)


def _residual_log_density(scoring: Scoring) -> Tensor:
    return scoring.member.log_density(compare(scoring.module, scoring.x))


def _importance_log_density(scoring: Scoring) -> Tensor:
    return importance_weighted_bound(log_weights(scoring))


# What `score` averages, by model: the log-density of the observed values, in nats of the scaled space.
LOG_DENSITIES: dict[str, Callable[[Scoring], Tensor]] = {
    "autoencoder": _residual_log_density,
    "vae": _importance_log_density,
}
