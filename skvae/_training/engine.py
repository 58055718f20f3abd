"""What trains a module: its parameters packed for training, the interface of steps, and their replay on a GPU."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol, cast

import torch
from torch import Tensor

from .._densities.latent import MixturePrior
from .._networks.modules import Batch, LatentModule
from .._networks.workspace import PackedMLP
from .._support.device import cuda_graph
from .._support.warnings import warn
from .optimiser import Adam

__all__ = ["Chain", "Engine", "ReplayedStep", "Step", "StepEntry"]


class Step(ABC):
    """One optimiser step's loss and gradient, for batches of one size.

    It reads the parameters from the engine's ``values`` and overwrites all of its ``gradient``. The returned loss may
    live in a buffer: it lasts until the next call.
    """

    @abstractmethod
    def __call__(self, batch: Batch, kl_weight: float) -> Tensor:
        """Write the gradient of the summed loss, return the loss, one number for each network."""


class Chain(Protocol):
    """Several steps with their updates."""

    def __call__(
        self, batches: Sequence[Batch], rates: Sequence[float], kl_weights: Sequence[float], losses: Tensor
    ) -> None:
        """Take each batch with its learning rate and its weight of the KL; write the losses, (n_batches, ...)."""


@dataclass(frozen=True)
class StepEntry:
    """A way to compute steps, and the trainings that it can do.

    Parameters
    ----------
    name : str
    supports : callable
        Of an engine: whether the step can do all that its attributes ask for. What an entry has not been built for it
        declines, and the next one is asked.
    make : callable
        Of an engine and the number of rows of a batch: the step.
    recordable : bool
        Whether its work is the same at every call, so that a GPU can record it and launch it whole.
    chain : callable, or None
        Of an engine, its optimiser, a weight decay and a greatest norm of the gradient: what does several steps, with
        their updates, in one call.
    """

    name: str
    supports: Callable[["Engine"], bool]
    make: Callable[["Engine", int], Step]
    recordable: bool = False
    chain: Callable[["Engine", Adam, float, float], Chain] | None = None


class Engine:
    """A module's numbers laid out for training, and the step that runs on them.

    What a step must be able to do is written in the attributes that bear the parameters' names. The module tells
    the networks and how many there are, the likelihood, p(z) where it is a mixture already, precision and device.

    Parameters
    ----------
    module : LatentModule
    steps : sequence of StepEntry
        In order of preference.
    dropout : bool
        Whether batches bring dropout's factors.
    n_draws : int
        Draws of the posterior; with more than one a VAE trains on the importance-weighted bound.
    weighted, masked : bool
        Whether batches bring weights of rows, and masks of missing cells.
    learns_prior : bool
        Whether p(z) may become a mixture while training goes on.

    Attributes
    ----------
    values, gradient : Tensor of shape (n_packed,)
        What an optimiser works on.
    """

    def __init__(
        self,
        module: LatentModule,
        steps: Sequence[StepEntry],
        *,
        dropout: bool = False,
        n_draws: int = 1,
        weighted: bool = False,
        masked: bool = False,
        learns_prior: bool = False,
    ) -> None:
        self.module, self.dropout, self.n_draws = module, dropout, n_draws
        self.weighted, self.masked = weighted, masked
        self.learns_prior = learns_prior or module.prior is not None
        self._entries = steps
        self.encoder, self.decoder = PackedMLP(module.encoder), PackedMLP(module.decoder)
        n_encoder, n_decoder = self.encoder.n_parameters, self.decoder.n_parameters
        n_free = module.n_networks * module.likelihood.n_free
        self._sizes = [n_encoder, n_decoder, n_free]
        self._flat_sizes = [module.encoder.n_parameters, module.decoder.n_parameters, n_free]
        self.values = module.flat.detach().new_zeros(sum(self._sizes))
        self.gradient = torch.zeros_like(self.values)
        self._steps: dict[int, Step] = {}
        self._entry: StepEntry | None = None
        self.load()

    def load(self) -> None:
        """Take the module's parameters over."""
        self.values.zero_()
        places, parts = self._own_views
        torch._foreach_copy_(places, parts)

    def store(self) -> None:
        """Write the parameters back into the module."""
        places, parts = self._own_views
        torch._foreach_copy_(parts, places)

    @cached_property
    def _own_views(self) -> tuple[list[Tensor], list[Tensor]]:
        places, parts = zip(*self._pairs(self.values, self.module.flat.detach()), strict=True)
        return list(places), list(parts)

    def pack(self, flat: Tensor) -> Tensor:
        """Lay a vector of the module's layout out as ``values`` are."""
        packed = torch.zeros_like(self.values)
        for place, part in self._pairs(packed, flat):
            place.copy_(part)
        return packed

    def unpack(self, packed: Tensor) -> Tensor:
        """Inverse of `pack`."""
        flat = torch.empty_like(self.module.flat.detach())
        for place, part in self._pairs(packed, flat):
            part.copy_(place)
        return flat

    def _pairs(self, packed: Tensor, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views of the same numbers in a packed vector and in a flat one."""
        (*places, free_place), (*parts, free) = packed.split(self._sizes), flat.split(self._flat_sizes)
        networks = zip((self.encoder, self.decoder), places, parts, strict=True)
        return [*(pair for network, place, part in networks for pair in network.pairs(place, part)), (free_place, free)]

    def parts(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encoder's, decoder's and free parameters as views of a packed vector."""
        encoder, decoder, free = packed.split(self._sizes)
        return encoder, decoder, free.view(*((self.module.n_networks,) if self.module.n_networks > 1 else ()), -1)

    def blocks(self, packed: Tensor) -> list[Tensor]:
        """Views of a packed vector as tensors that, with several networks, have a leading dimension of them."""
        encoder, decoder, free = self.parts(packed)
        return [*self.encoder.matrices(encoder), *self.decoder.matrices(decoder), free]

    @property
    def entry(self) -> StepEntry:
        """The first that supports this engine; asked for once."""
        if self._entry is None:
            self._entry = next(entry for entry in self._entries if entry.supports(self))
        return self._entry

    def step(self, n_rows: int) -> Step:
        """The entry's, for batches of ``n_rows``; made once."""
        if n_rows not in self._steps:
            entry, device = self.entry, self.values.device
            step = entry.make(self, n_rows)
            if entry.recordable and device.type == "cuda":
                step = ReplayedStep(self.module, step, partial(cuda_graph, device))
            self._steps[n_rows] = step
        return self._steps[n_rows]


class ReplayedStep(Step):
    """A step that is recorded once and then launched whole, on copies of the batches at fixed places.

    It runs as it is while the weight of the KL changes, and is recorded anew where p(z) has changed.

    Parameters
    ----------
    module : LatentModule
        Whose p(z) the step reads.
    step : Step
    record : callable
        Takes a function without arguments, and returns one that launches the same work on the same memory.
    """

    def __init__(
        self, module: LatentModule, step: Step, record: Callable[[Callable[[], None]], Callable[[], None]]
    ) -> None:
        self._module, self._step, self._record = module, step, record
        self._given: tuple[float, MixturePrior | None] | None = None
        self._replay: Callable[[], None] | None = None
        self._works = True

    def __call__(self, batch: Batch, kl_weight: float) -> Tensor:
        given = (kl_weight, self._module.prior)
        if not self._works or given != self._given:
            self._given, self._replay = given, None
            return self._step(batch, kl_weight)
        if self._replay is None and not self._recorded(batch, kl_weight):
            return self._step(batch, kl_weight)
        for to, source in zip(_tensors(self._batch), _tensors(batch), strict=True):
            to.copy_(source)
        cast(Callable[[], None], self._replay)()
        return self._loss

    def _recorded(self, batch: Batch, kl_weight: float) -> bool:
        weight, mask, noise, shown = (None if part is None else part.clone() for part in (*batch[2:5], batch.shown))
        encoder, decoder = ([factor.clone() for factor in factors] for factors in batch.dropout)
        self._batch = Batch(batch.x.clone(), batch.inputs.clone(), weight, mask, noise, (encoder, decoder), shown)
        self._loss = self._step(self._batch, kl_weight).clone()
        try:
            self._replay = self._record(lambda: self._run(kl_weight))
        except RuntimeError as error:
            self._works = False
            warn(
                f"A training step could not be recorded as a CUDA graph ({error}). Training goes on without, only "
                "slower.",
                RuntimeWarning,
            )
        return self._works

    def _run(self, kl_weight: float) -> None:
        self._loss.copy_(self._step(self._batch, kl_weight))


def _tensors(batch: Batch) -> list[Tensor]:
    return [tensor for tensor in (*batch[:5], *batch.dropout[0], *batch.dropout[1], batch.shown) if tensor is not None]
