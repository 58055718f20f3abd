"""The one training loop: resident data, index batches, one optimiser call, no synchronisation inside an epoch."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ._device import make_generator
from ._distributed import ALONE, Team
from ._inputs import Coins, InputLayer, observed
from ._large import Passes
from ._mixture import MixturePrior
from ._modules import Batch, LatentModule, VAEModule
from ._optimiser import Adam, one_cycle
from ._scoring import LatentMixture, importance_weighted_bound
from ._steps import Engine
from ._warnings import warn

__all__ = [
    "History",
    "Rows",
    "Settings",
    "bound_loss",
    "corrupt",
    "evaluate",
    "hide",
    "noisy_inputs",
    "train",
]

_MAX_ROLLBACKS = 5
# Where p(z) is learned: half of the steps at this share of the KL's weight part the modes of the codes, a mixture of
# the codes becomes p(z), and the weight grows to its full size within the next quarter.
_PARTING_WEIGHT = 0.1
_PRIOR_ROWS = 10_000
_PRIOR_ROUNDS = 3
# Twenty-five modes on a grid are told from one wide Gaussian by eight components at the earliest.
_PRIOR_PATIENCE = 3
# Rows gathered at once: bounds the extra memory and amortises the calls.
_GATHER_ROWS = 8192
_EVALUATED_DRAWS = 1024  # rows times draws at once


@dataclass(frozen=True)
class Settings:
    """How to train; every field is resolved, nothing is automatic any more."""

    batch_size: int
    n_epochs: int
    learning_rate: float
    weight_decay: float = 0.0
    noise: tuple[float, float] = (0.0, 0.0)  # range of the scale of the input noise, drawn for each row
    hiding: float = 0.0  # greatest share of a row's cells that is hidden from the encoder, drawn for each row
    dropout: float = 0.0
    kl_weight: float = 1.0
    kl_warmup: float = 0.0  # share of the steps
    max_gradient_norm: float = math.inf
    one_cycle: bool = True
    patience: int | None = None  # epochs without improvement on the validation rows
    tol: float = 0.0
    n_draws: int = 1  # posterior draws of each row's bound
    binarize: bool = False  # whether cells are shares of ones, from which each pass draws anew
    learns_prior: bool = False  # whether p(z) becomes a mixture of the codes while a VAE trains


@dataclass
class Rows:
    """Resident rows: scaled values and weights; a sample of all rows where there are passes over a larger table."""

    x: Tensor  # (n_samples, n_features), NaN where a cell is missing
    weight: Tensor | None = None  # (n_samples,)
    passes: Passes | None = None

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

    def still_improving(self, tol: float) -> bool:
        """Whether the last epoch brought more than ``tol`` and more than 2 % of all that training brought."""
        if self.stopped or len(self.loss) < 2:
            return False
        return self.loss[-2] - self.loss[-1] > max(tol, 0.02 * (self.loss[0] - self.loss[-1]))


class _Feeder:
    """Gathers permuted rows and draws their noise, some thousand rows at a time, into buffers made once."""

    def __init__(
        self,
        module: LatentModule,
        rows: Rows,
        settings: Settings,
        generators: Sequence[torch.Generator],
        team: Team = ALONE,
    ):
        self._module, self._rows, self._settings, self._generators = module, rows, settings, generators
        self._team = team
        n_samples, n_features = rows.x.shape
        n_batches = max(1, min(_GATHER_ROWS, n_samples) // settings.batch_size)
        self._size = n_batches * settings.batch_size
        self._lead = () if module.n_networks == 1 else (module.n_networks,)

        def buffer(*width: int) -> Tensor:
            return rows.x.new_empty(*self._lead, self._size, *width)

        self._x = buffer(n_features)
        self._noisy = settings.noise[1] > 0
        self._complete = rows.complete
        self._plain = self._complete and module.layer.is_identity  # the encoder sees the rows themselves
        self._inputs = self._x if self._plain and not self._noisy else buffer(module.layer.n_inputs)
        self._mask = None if self._complete else torch.ones_like(self._x, dtype=torch.bool)
        self._weight = buffer() if rows.weighted else None
        self._noise = buffer(settings.n_draws * module.n_noise) if module.n_noise else None
        rate = settings.dropout
        self._dropout = tuple(
            [buffer(width) for width in net.hidden] if rate else [] for net in (module.encoder, module.decoder)
        )
        self._batches: dict[int, list[tuple[Batch, int]]] = {}
        self._coins = Coins(rows.x) if settings.binarize and rows.passes is None else None

    def epoch(self):
        """Yield the batches of one epoch in a fresh order, each with its number of rows."""
        for x, weight in self._rows.parts(self._generators[0]):
            if self._settings.binarize:
                x = (self._coins or Coins(x)).flip(self._generators[0])
            orders = [
                torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)
                for generator in self._generators
            ]
            for first in range(0, len(x), self._size):
                size = min(self._size, len(x) - first)
                for network, (order, generator) in enumerate(zip(orders, self._generators, strict=True)):
                    self._fill(Rows(x, weight), network, order[first : first + size], generator)
                yield from self._cut(size)

    def _fill(self, rows: Rows, network: int, chosen: Tensor, generator: torch.Generator) -> None:
        size = len(chosen)

        def own(buffer: Tensor) -> Tensor:
            return (buffer[network] if self._lead else buffer)[:size]

        torch.index_select(rows.x, 0, chosen, out=own(self._x))
        if not self._plain:
            self._fill_inputs(own, generator)
        elif self._noisy:
            corrupt(own(self._x), self._settings.noise, generator, out=own(self._inputs))
        if self._weight is not None and rows.weight is not None:
            torch.index_select(rows.weight, 0, chosen, out=own(self._weight))
        if self._noise is not None:
            own(self._noise).normal_(generator=generator)
        keep = 1.0 - self._settings.dropout
        for factors in (*self._dropout[0], *self._dropout[1]):
            own(factors).bernoulli_(keep, generator=generator).div_(keep)

    def _fill_inputs(self, own: Callable[[Tensor], Tensor], generator: torch.Generator) -> None:
        x, layer = own(self._x), self._module.layer
        mask = None
        if self._mask is not None:
            mask = torch.eq(x, x, out=own(self._mask))  # NaN differs from itself
        mask = hide(x, mask, self._settings.hiding, generator)
        own(self._inputs).copy_(noisy_inputs(layer, x, mask, self._settings.noise, generator))

    def _cut(self, size: int) -> list[tuple[Batch, int]]:
        """Views of the buffers, one for each batch; made once for each fill."""
        if size not in self._batches:
            batch_size, axis = self._settings.batch_size, len(self._lead)

            sizes = [min(batch_size, size - first) for first in range(0, size, batch_size)]

            def split(buffer: Tensor | None) -> list:
                if buffer is None:
                    return [None] * len(sizes)
                batches = buffer.narrow(axis, 0, size).split(batch_size, dim=axis)
                return [self._team.share(batch, axis) for batch in batches]

            columns = [split(buffer) for buffer in (self._x, self._inputs, self._weight, self._mask, self._noise)]
            first, second = ([split(buffer) for buffer in group] for group in self._dropout)
            self._batches[size] = [
                (
                    Batch(x, inputs, weight, mask, noise, ([f[i] for f in first], [f[i] for f in second])),
                    sizes[i],
                )
                for i, (x, inputs, weight, mask, noise) in enumerate(zip(*columns, strict=True))
            ]
        return self._batches[size]


def corrupt(x: Tensor, noise: tuple[float, float], generator: torch.Generator, out: Tensor | None = None) -> Tensor:
    """Add Gaussian noise to rows, its scale drawn uniformly for each row."""
    low, high = noise
    if high == 0.0:
        return x
    out = torch.empty_like(x) if out is None else out
    scale = torch.rand(len(x), 1, generator=generator, dtype=x.dtype, device=x.device).mul_(high - low).add_(low)
    return out.normal_(generator=generator).mul_(scale).add_(x)


def noisy_inputs(
    layer: InputLayer, x: Tensor, mask: Tensor | None, noise: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """What the encoder sees of rows while it trains: numbers with Gaussian noise, categories drawn anew here and there.

    The chance of the second is half the scale of the first.
    """
    if not layer.shares or noise[1] == 0.0:
        return layer.join(corrupt(layer.values(x, mask), noise, generator), mask)
    low, high = noise
    scale = torch.rand(len(x), 1, generator=generator, dtype=x.dtype, device=x.device).mul_(high - low).add_(low)
    values = layer.values(layer.swapped(x, 0.5 * scale, generator), mask)
    spread = torch.empty_like(values).normal_(generator=generator).mul_(scale)
    return layer.join(values + spread.mul_(layer.is_number(x)), mask)


def hide(x: Tensor, mask: Tensor | None, greatest: float, generator: torch.Generator) -> Tensor | None:
    """Take cells out of a mask at random, their share of a row drawn uniformly up to ``greatest``."""
    if greatest == 0.0:
        return mask
    share = torch.rand(len(x), 1, generator=generator, dtype=x.dtype, device=x.device).mul_(greatest)
    shown = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) >= share
    return shown if mask is None else shown.logical_and_(mask)


@torch.no_grad()
def evaluate(module: LatentModule, rows: Rows, settings: Settings, seed: int) -> Tensor:
    """Mean loss of rows in nats, with the same noise at every call; one number for each network."""
    generator, module = make_generator(seed, rows.x.device), module.frozen()
    total, mass = torch.zeros(module.n_networks, device=rows.x.device), 0.0
    n_rows = max(16, _EVALUATED_DRAWS // settings.n_draws // 16 * 16)
    for first in range(0, len(rows.x), n_rows):
        x = rows.x[first : first + n_rows]
        x = Coins(x).flip(generator) if settings.binarize else x
        weight = None if rows.weight is None else rows.weight[first : first + n_rows]
        mask = observed(x)
        shown = hide(x, mask, settings.hiding, generator)
        inputs = noisy_inputs(module.layer, x, shown, settings.noise, generator)
        noise = None
        if module.n_noise:
            noise = torch.empty(len(x), settings.n_draws * module.n_noise, device=x.device).normal_(generator=generator)
        batch = Batch(x, inputs, weight, mask, noise)
        loss = module.loss(batch, settings.kl_weight) if settings.n_draws == 1 else bound_loss(module, batch)
        total += loss
        mass += float(len(x) if weight is None else weight.sum())
    return total / mass


def bound_loss(module: LatentModule, batch: Batch) -> Tensor:
    """Negative importance-weighted bound of the rows, summed over them, in nats; one number for each network.

    Parameters
    ----------
    module : VAEModule
    batch : Batch
        Its noise has the shape (n_rows, n_draws * n_components), with a leading dimension or without.

    Returns
    -------
    loss : Tensor

    References
    ----------
    Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519, equation 8.
    """
    noise = cast(Tensor, batch.noise).unflatten(-1, (-1, module.n_components)).movedim(-2, 0)
    if noise.dim() == 3 and module.n_networks > 1:  # the networks share the draws
        noise = noise.unsqueeze(1)
    bound = importance_weighted_bound(cast(VAEModule, module).log_weights(batch.x, batch.inputs, noise, batch.mask))
    return -(bound if batch.weight is None else bound * batch.weight).sum(dim=-1)


class _Loop:
    """State of one fit: schedule, best weights, roll-back."""

    def __init__(
        self,
        module: LatentModule,
        rows: Rows,
        validation: Rows | None,
        settings: Settings,
        seeds: Sequence[int],
        team: Team,
    ):
        self.module, self.settings = module, settings
        self.seed = seeds[0]
        self.rows, self.validation = rows, validation
        self.engine = engine = Engine(module, dropout=settings.dropout > 0, n_draws=settings.n_draws)
        blocks = engine.blocks if module.n_networks > 1 else None
        self.optimiser = Adam(engine.values, blocks, gradient=engine.gradient)
        device = rows.x.device
        self.feeder = _Feeder(module, rows, settings, [make_generator(seed, device) for seed in seeds], team)
        self.team = team
        self.mass = rows.mass
        # At most as many rows as validation would have: the start is compared with the end, no more.
        self.probe = validation or Rows(rows.x[:4096], None if rows.weight is None else rows.weight[:4096])
        n_batches = rows.n_batches(settings.batch_size)
        # A place for each: numbers that stay among the steps' temporary tensors would break up the heap.
        shape = (n_batches,) if module.n_networks == 1 else (n_batches, module.n_networks)
        self.losses = torch.zeros(shape, dtype=rows.x.dtype, device=device)
        self.places = self.losses.unbind(0)
        n_steps = settings.n_epochs * n_batches
        self.rates = one_cycle(n_steps) if settings.one_cycle else [1.0] * n_steps
        self.parts_modes = settings.learns_prior and module.prior is None
        self.warmup_steps = (0.75 if self.parts_modes else settings.kl_warmup) * n_steps
        self.n_done = self.n_done_before = 0
        self.rate_factor = settings.learning_rate
        self.n_rollbacks = 0

    def load(self, state: dict[str, Tensor]) -> None:
        """Resume the optimiser from `state`."""
        self.optimiser.load({k: v if k == "n_steps" else self.engine.pack(v) for k, v in state.items()})

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state in the layout of the module's flat vector."""
        return {k: v if k == "n_steps" else self.engine.unpack(v) for k, v in self.optimiser.state().items()}

    def run_epoch(self) -> Tensor:
        """One pass over the rows; the mean loss stays on the device."""
        settings, optimiser = self.settings, self.optimiser
        self.n_done_before = self.n_done
        with self.team.steps(self.engine.gradient):
            for (batch, n_rows), place in zip(self.feeder.epoch(), self.places, strict=True):
                self.add_gradient(batch, place)
                rate = self.rate_factor * self.rates[self.n_done]
                optimiser.step(rate, settings.weight_decay, n_rows, settings.max_gradient_norm)
                self.n_done += 1
        self.team.sum(self.losses.view(-1))
        self.engine.store()
        return self.losses.sum(dim=0) / self.mass

    def add_gradient(self, batch: Batch, place: Tensor) -> None:
        """Compute the summed gradient of a batch, of which each process has its share, and this process's loss."""
        n_own = batch.x.shape[-2]
        if n_own:
            place.copy_(self.engine.step(n_own)(batch, self.settings.kl_weight * self.kl_share()))
        else:  # a short last batch has fewer rows than there are processes
            self.engine.gradient.zero_()
            place.zero_()
        self.team.sum(self.engine.gradient)

    def monitor(self, rows: Rows) -> float:
        """Mean loss of rows, the same number in every process."""
        return self.team.same(evaluate(self.module, rows, self.settings, self.seed).mean().item())

    def kl_share(self) -> float:
        """Share of its weight that the KL has in the next step."""
        if self.n_done >= self.warmup_steps:
            return 1.0
        share = (self.n_done + 1) / self.warmup_steps
        return max(_PARTING_WEIGHT, 3.0 * share - 2.0) if self.parts_modes else share

    def learn_prior(self) -> None:
        """Make a mixture of the rows' codes p(z), or let it follow them."""
        module, x, weight = self.module, self.rows.x[:_PRIOR_ROWS], self.rows.weight
        early = 3 * self.n_done < 2 * self.warmup_steps
        if early or not self.settings.learns_prior or not isinstance(module, VAEModule):
            return
        codes = module.draw(x, make_generator(self.seed, x.device)).view(module.n_networks, len(x), -1)
        draws = np.random.RandomState(self.seed)
        weight, earlier = None if weight is None else weight[:_PRIOR_ROWS], module.prior
        mixtures, size = [], None
        for index, own in enumerate(codes):
            if earlier is None:
                mixture = LatentMixture.fit(own, draws, weight, size=size, patience=_PRIOR_PATIENCE)
            else:
                mixture = LatentMixture.of(earlier.mixtures[index]).refined(own, draws, weight, n_iter=_PRIOR_ROUNDS)
            mixtures.append(mixture.diagonal())
            size = len(mixture.center)  # the networks' mixtures share a tensor
        module.prior = MixturePrior(mixtures, module.flat)

    def roll_back(self, best: Tensor) -> None:
        """Return to the best weights, to do the epoch again at half the rate; give up after some tries."""
        self.n_rollbacks += 1
        if self.n_rollbacks > _MAX_ROLLBACKS:
            raise FloatingPointError("not finite")
        self.module.flat.detach().copy_(best)
        self.engine.load()
        self.optimiser.forget()
        self.rate_factor *= 0.5
        self.n_done = self.n_done_before


@torch.no_grad()
def train(
    module: LatentModule,
    rows: Rows,
    settings: Settings,
    seeds: Sequence[int],
    *,
    validation: Rows | None = None,
    optimiser_state: dict[str, Tensor] | None = None,
    on_epoch: Callable[[History], bool] | None = None,
    team: Team = ALONE,
) -> tuple[History, dict[str, Tensor]]:
    """Train a module in place and leave it at its best weights.

    The start counts as a candidate: training never returns anything worse than where it began, by the loss of the
    validation rows, or of a part of the training rows where there are none.

    Parameters
    ----------
    module : LatentModule
        Already at its starting point.
    rows : Rows
    settings : Settings
    seeds : sequence of int
        One for each network: order of the rows, noise.
    validation : Rows, or None
        Rows that choose the best epoch, and stop the training with ``settings.patience``.
    optimiser_state : dict, or None
        Resume from the state that an earlier call returned.
    on_epoch : callable, or None
        Called after each epoch; returns True to stop.
    team : Team
        The processes that share the work: each takes its part of every batch. All have the same rows and arguments,
        and end with the same weights.

    Returns
    -------
    history : History
    optimiser_state : dict of Tensor

    Raises
    ------
    FloatingPointError
        If the loss is not finite even at a 32nd of the learning rate.
    """
    loop, history = _Loop(module, rows, validation, settings, seeds, team), History()
    if optimiser_state is not None:
        loop.load(optimiser_state)
    flat = module.flat.detach()
    start, best, waited = flat.clone(), flat.clone(), 0
    start_loss, start_prior = loop.monitor(loop.probe), module.prior
    reference = math.inf if validation is None else start_loss
    try:
        while len(history.loss) < settings.n_epochs:
            # Training losses under a smaller KL weight do not compare; validation always has the full one, but tells
            # nothing of a p(z) that is still to come.
            warming = (validation is None or loop.parts_modes) and loop.n_done < loop.warmup_steps
            loss = loop.run_epoch().mean().item()
            monitored = loss
            if validation is not None and math.isfinite(loss):
                monitored = loop.monitor(validation)
            if not math.isfinite(loss) or not math.isfinite(monitored):
                loop.roll_back(best)
                continue
            history.loss.append(loss)
            if validation is not None:
                history.validation.append(monitored)
            waited = 0 if monitored < reference - settings.tol else waited + 1
            if warming or monitored < reference:
                best.copy_(flat)
                reference = math.inf if warming else monitored
            loop.learn_prior()
            asked = any(team.gather(on_epoch is not None and on_epoch(history)))
            if asked or (settings.patience is not None and waited >= settings.patience):
                history.stopped = True
                break
    except KeyboardInterrupt:
        if team.size > 1:
            raise
        history.stopped = True
        warn("Training was interrupted; the best weights so far are kept.")
    flat.copy_(team.same(best))
    history.best_loss = loop.monitor(loop.probe)
    if not history.best_loss <= start_loss:
        flat.copy_(start)
        module.prior = start_prior
        history.best_loss = start_loss
    return history, loop.state()
