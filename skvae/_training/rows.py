"""The records of a training: how to train, the rows, and what happened."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._data.large import Passes
from .._support.numerics import observed
from .._support.team import ALONE, Team

__all__ = ["History", "Rows", "Run", "Settings"]


@dataclass(frozen=True)
class Settings:
    """How to train; every field is resolved, nothing is automatic any more."""

    batch_size: int
    n_epochs: int
    learning_rate: float
    weight_decay: float = 0.0
    noise: tuple[float, float] = (0.0, 0.0)  # range of the scale of the input noise, drawn for each row
    hiding: float = 0.0  # greatest fraction of a row's cells that is hidden from the encoder, drawn for each row
    dropout: float = 0.0
    kl_weight: float = 1.0
    kl_warmup: float = 0.0  # fraction of the steps
    max_gradient_norm: float = math.inf
    one_cycle: bool = True
    patience: int | None = None  # epochs without improvement on the validation rows
    tol: float = 0.0
    n_draws: int = 1  # posterior draws of each row's bound
    binarize: bool = False  # whether cells are probabilities of ones, from which each pass draws anew
    learns_prior: bool = False  # whether p(z) becomes a mixture of the codes while a VAE trains


@dataclass(frozen=True)
class Rows:
    """Resident rows: scaled values and weights; a sample of all rows where there are passes over a larger table."""

    x: Tensor  # (n_samples, n_features), NaN where a cell is missing
    weight: Tensor | None = None  # (n_samples,)
    passes: Passes | None = None
    spread: Callable[[Tensor, torch.Generator], Tensor] | None = None  # draws scores anew in rows that are decoded

    @property
    def mass(self) -> float:
        """Total weight of a pass."""
        if self.passes is not None:
            return float(sum(self.passes.part_sizes()))
        return float(len(self.x) if self.weight is None else self.weight.sum())

    @property
    def complete(self) -> bool:
        """Whether no cell is missing."""
        return observed(self.x) is None and (self.passes is None or self.passes.complete)

    @property
    def weighted(self) -> bool:
        """Whether the rows of a pass bring weights."""
        return (self if self.passes is None else self.passes).weight is not None

    def n_batches(self, batch_size: int) -> int:
        """Batches of a pass."""
        sizes = [len(self.x)] if self.passes is None else self.passes.part_sizes()
        return sum(-(-size // batch_size) for size in sizes)

    def parts(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the rows of a pass and their weights: all at once, or part by part."""
        if self.passes is None:
            yield self.x, self.weight
        else:
            yield from self.passes.parts(generator)


@dataclass
class History:
    """What happened, for one network or for several as lists of numbers averaged over them."""

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    stopped: bool = False
    step: str = ""  # name of the training step
    store: Callable[[], None] | None = None  # writes the weights into the module, where another one trains for it

    def still_improving(self, tol: float) -> bool:
        """Whether the last epoch brought more than ``tol`` and more than 2 % of all that training brought."""
        if self.stopped or len(self.loss) < 2:
            return False
        return self.loss[-2] - self.loss[-1] > max(tol, 0.02 * (self.loss[0] - self.loss[-1]))


@dataclass(frozen=True)
class Run:
    """What a training is told beside its rows and settings.

    Attributes
    ----------
    validation : Rows, or None
        Rows that choose the best epoch, and stop the training with ``settings.patience``.
    optimiser_state : dict of str to Tensor, or None
        Resume from the state that an earlier training returned.
    on_epoch : callable, or None
        Called with the `History` after each epoch; returns True to stop.
    team : Team
        The processes that share the work: each takes its part of every batch. All have the same rows and arguments,
        and end with the same weights.
    keeps_interrupted : bool
        Whether a Ctrl-C ends the training with the best weights so far; where it does not, it is an error.
    max_seconds : float, or None
        Time after which the training ends with the best weights so far, of one step at least.
    """

    validation: Rows | None = None
    optimiser_state: dict[str, Tensor] | None = None
    on_epoch: Callable[[History], bool] | None = None
    team: Team = ALONE
    keeps_interrupted: bool = True
    max_seconds: float | None = None
