"""The one training loop: resident data, index batches, one optimiser call, no synchronisation inside an epoch."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from .._densities.latent import LatentMixture
from .._networks.modules import Batch, LatentModule, VAEModule
from .._support.device import make_generator
from .._support.interrupts import ends_one_fit
from .._support.jobs import shared
from .._support.numerics import observed
from .._support.warnings import warn
from .clock import Clock
from .engine import Engine
from .feeder import Binarizer, Feeder, hide, noisy_inputs
from .optimiser import Adam, one_cycle
from .rows import History, Rows, Run, Settings
from .steps import STEPS

__all__ = ["evaluate", "run_loop"]

_MAX_ROLLBACKS = 5
# Where p(z) is learned: half of the steps at this fraction of the KL's weight part the modes of the codes, a mixture of
# the codes becomes p(z), and the weight grows to its full size within the next quarter.
_PARTING_WEIGHT = 0.1
_PRIOR_ROWS = 10_000
_PRIOR_ROUNDS = 3
_EVALUATED_DRAWS = 1024  # rows times draws at once


def evaluate(module: LatentModule, rows: Rows, settings: Settings, seed: int) -> Tensor:
    """Mean loss of rows in nats, with the same noise at every call; one number for each network.

    Of several on the CPU each passes by itself, which is quicker, and threads share them as ``n_jobs`` allows.
    """
    if module.n_networks == 1 or rows.x.device.type != "cpu":
        return _mean_loss(module, rows, settings, seed)
    losses = torch.zeros(module.n_networks)

    def fill(networks: Iterable[int]) -> None:
        for network in networks:
            losses[network] = _mean_loss(module.network(network), rows, settings, seed).item()

    shared(fill, range(module.n_networks), _EVALUATED_DRAWS * module.flops_per_row)
    return losses


@torch.no_grad()
def _mean_loss(module: LatentModule, rows: Rows, settings: Settings, seed: int) -> Tensor:
    generator, module = make_generator(seed, rows.x.device), module.with_buffers()
    total, mass = torch.zeros(module.n_networks, device=rows.x.device), 0.0
    n_rows = max(16, _EVALUATED_DRAWS // settings.n_draws // 16 * 16)
    for first in range(0, len(rows.x), n_rows):
        x = rows.x[first : first + n_rows]
        x = Binarizer(x).draw(generator) if settings.binarize else x
        weight = None if rows.weight is None else rows.weight[first : first + n_rows]
        mask = observed(x)
        shown = hide(x, mask, settings.hiding, generator)
        inputs = noisy_inputs(module.layer, x, shown, settings.noise, generator)
        noise = None
        if module.n_noise:
            noise = torch.empty(len(x), settings.n_draws * module.n_noise, device=x.device).normal_(generator=generator)
        decoded = x if rows.spread is None else rows.spread(x, generator)
        batch = Batch(decoded, inputs, weight, mask, noise)
        total += module.loss(batch, settings.kl_weight)
        mass += float(len(x) if weight is None else weight.sum())
    return total / mass


class _Loop:
    """State of one fit: schedule, best weights, roll-back."""

    def __init__(
        self,
        module: LatentModule,
        rows: Rows,
        settings: Settings,
        seeds: Sequence[int],
        run: Run,
    ):
        self.module, self.settings = module, settings
        self.seed = seeds[0]
        self.rows, self.team = rows, run.team
        self.engine = engine = Engine(
            module,
            STEPS,
            dropout=settings.dropout > 0,
            n_draws=settings.n_draws,
            weighted=rows.weighted,
            masked=not rows.complete,
            learns_prior=settings.learns_prior,
        )
        blocks = engine.blocks if module.n_networks > 1 else None
        self.optimiser = Adam(engine.values, blocks, gradient=engine.gradient)
        device = rows.x.device
        generators = [make_generator(seed, device) for seed in seeds]
        # Where time is limited, it is looked at before each step.
        self.feeder = Feeder(module, rows, settings, generators, run.team, in_groups=run.max_seconds is None)
        chain = engine.entry.chain if self.team.size == 1 else None  # processes exchange between gradient and update
        self.chain = chain and chain(engine, self.optimiser, settings.weight_decay, settings.max_gradient_norm)
        self.mass = rows.mass
        # At most as many rows as validation would have: the start is compared with the end, no more.
        self.probe = run.validation or Rows(
            rows.x[:4096], None if rows.weight is None else rows.weight[:4096], spread=rows.spread
        )
        n_batches = rows.n_batches(settings.batch_size)
        # A place for each: numbers that stay among the steps' temporary tensors would break up the heap.
        shape = (n_batches,) if module.n_networks == 1 else (n_batches, module.n_networks)
        self.losses = torch.zeros(shape, dtype=rows.x.dtype, device=device)
        self.places = self.losses.unbind(0)
        self.n_steps = n_steps = settings.n_epochs * n_batches
        self.parts_modes = settings.learns_prior and module.prior is None
        self.warmup_steps = (0.75 if self.parts_modes else settings.kl_warmup) * n_steps
        self.n_done = self.n_done_before = 0
        self.clock, self.is_limited = Clock(run.max_seconds), run.max_seconds is not None
        self.spent, self.was_cut = 0.0, False
        self.rate_factor = settings.learning_rate
        self.n_rollbacks = 0

    def load(self, state: dict[str, Tensor]) -> None:
        """Resume the optimiser from `state`."""
        self.optimiser.load({k: v if k == "n_steps" else self.engine.pack(v) for k, v in state.items()})

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state in the layout of the module's flat vector."""
        return {k: v if k == "n_steps" else self.engine.unpack(v) for k, v in self.optimiser.state().items()}

    def run_epoch(self) -> Tensor:
        """One pass over the rows, or a part of it when the time is over; the mean loss stays on the device."""
        self.n_done_before = self.n_done
        if self.is_limited:
            self.spent = self.team.same(self.clock.spent())
        self.team.begin_steps(self.engine.gradient, len(self.places))
        for batches, n_rows in self.feeder.epoch():
            if self.is_limited and self.team.size == 1:  # several processes exchange as often as they have said
                self.spent = self.clock.spent()
                self.was_cut = self.spent >= 1.0 and self.n_done > 0
                if self.was_cut:
                    break
            self.take_steps(batches, n_rows)
        self.team.sum(self.losses.view(-1))
        self.engine.store()
        return self.losses.sum(dim=0) / self.mass

    def take_steps(self, batches: list[Batch], n_rows: list[int]) -> None:
        """One step for each batch, of so many rows in all processes together."""
        first, last = self.n_done - self.n_done_before, self.n_done - self.n_done_before + len(batches)
        positions = [self.position(ahead) for ahead in range(len(batches))]
        rates = [self.rate(position) for position in positions]
        kl_weights = [self.settings.kl_weight * self.kl_fraction(position) for position in positions]
        if self.chain is not None:
            self.chain(batches, rates, kl_weights, self.losses[first:last])
            self.n_done += len(batches)
            return
        settings = self.settings
        places = self.places[first:last]
        for batch, rows, rate, kl_weight, place in zip(batches, n_rows, rates, kl_weights, places, strict=True):
            self.add_gradient(batch, kl_weight, place)
            self.optimiser.step(rate, settings.weight_decay, rows, settings.max_gradient_norm)
            self.n_done += 1

    def add_gradient(self, batch: Batch, kl_weight: float, place: Tensor) -> None:
        """Compute the summed gradient of a batch, of which each process has a part, and this process's loss."""
        n_here = batch.x.shape[-2]
        if n_here:
            place.copy_(self.engine.step(n_here)(batch, kl_weight))
        else:  # a short last batch has fewer rows than there are processes
            self.engine.gradient.zero_()
            place.zero_()
        self.team.sum(self.engine.gradient)

    def monitor(self, rows: Rows) -> float:
        """Mean loss of rows, the same number in every process."""
        return self.team.same(evaluate(self.module, rows, self.settings, self.seed).mean().item())

    def position(self, ahead: int = 0) -> int:
        """Steps of the schedule that are done, and some; where time is short it runs ahead, to end when time does."""
        return max(self.n_done + ahead, int(self.spent * (self.n_steps - 1)))

    def rate(self, position: int) -> float:
        """Learning rate of a step."""
        return self.rate_factor * (one_cycle(position, self.n_steps) if self.settings.one_cycle else 1.0)

    def kl_fraction(self, position: int) -> float:
        """Fraction of its weight that the KL has in a step."""
        if position >= self.warmup_steps:
            return 1.0
        fraction = (position + 1) / self.warmup_steps
        return max(_PARTING_WEIGHT, 3.0 * fraction - 2.0) if self.parts_modes else fraction

    def learn_prior(self) -> None:
        """Make a mixture of the rows' codes p(z), or let it follow them."""
        module, early = self.module, 3 * self.position() < 2 * self.warmup_steps
        if early or not self.settings.learns_prior or not isinstance(module, VAEModule):
            return
        x, weight = self.rows.x[:_PRIOR_ROWS], self.rows.weight
        codes = module.draw(x, make_generator(self.seed, x.device)).view(module.n_networks, len(x), -1)
        draws = np.random.RandomState(self.seed)
        weight, earlier = None if weight is None else weight[:_PRIOR_ROWS], module.prior
        mixtures, size = [], None
        for index, of_network in enumerate(codes):
            if earlier is None:
                mixture = LatentMixture.fit(of_network, draws, weight, size=size)
            else:
                mixture = LatentMixture.of(earlier.mixtures[index]).refined(
                    of_network, draws, weight, n_iter=_PRIOR_ROUNDS
                )
            mixtures.append(mixture.diagonal())
            size = len(mixture.center)  # the networks' mixtures share a tensor
        module.set_prior(mixtures)

    def finish_cut(self, best: Tensor, history: History, validation: Rows | None) -> None:
        """After a part of an epoch: keep its weights if they are better, and say what happened if it was the first."""
        last, loss = self.module.flat.detach().clone(), self.monitor(self.probe)
        self.module.flat.detach().copy_(best)
        if loss < self.monitor(self.probe) or not history.loss:
            best.copy_(last)
        if not history.loss and math.isfinite(loss):
            history.loss.append(loss)
            history.validation += [] if validation is None else [loss]
        history.stopped = True

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
def run_loop(
    module: LatentModule, rows: Rows, settings: Settings, seeds: Sequence[int], run: Run
) -> tuple[History, dict[str, Tensor]]:
    """Train a module in the columns that it has; all else is as `training.train` says."""
    loop = _Loop(module, rows, settings, seeds, run)
    history = History(step=loop.engine.entry.name)
    if run.optimiser_state is not None:
        loop.load(run.optimiser_state)
    flat = module.flat.detach()
    start, best = flat.clone(), flat.clone()
    start_loss = loop.monitor(loop.probe)
    start_mixtures = None if module.prior is None else module.prior.mixtures
    try:
        _run_epochs(loop, run, history, best, start_loss)
    except KeyboardInterrupt:
        if run.team.size > 1 or not run.keeps_interrupted or not ends_one_fit():
            raise
        history.stopped = True
        warn("Training was interrupted; the best weights so far are kept.")
    flat.copy_(run.team.same(best))
    history.best_loss = loop.monitor(loop.probe)
    if not history.best_loss <= start_loss:
        flat.copy_(start)
        module.set_prior(start_mixtures)
        history.best_loss = start_loss
    del start, best  # of wide tables the moments take as much room
    return history, loop.state()


def _run_epochs(loop: _Loop, run: Run, history: History, best: Tensor, start_loss: float) -> None:
    """Train until the epochs, the patience, the time or the user ends it, and keep the best weights so far."""
    settings, validation, flat = loop.settings, run.validation, loop.module.flat.detach()
    reference, waited = math.inf if validation is None else start_loss, 0
    while len(history.loss) < settings.n_epochs:
        # Training losses under a smaller KL weight do not compare; validation always has the full one, but tells
        # nothing of a p(z) that is still to come.
        warming = (validation is None or loop.parts_modes) and loop.position() < loop.warmup_steps
        loss = loop.run_epoch().mean().item()
        if loop.was_cut:
            loop.finish_cut(best, history, validation)
            return
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
        asked = run.on_epoch is not None and run.on_epoch(history)
        asked = any(run.team.gather(asked or loop.clock.is_over()))
        if asked or (settings.patience is not None and waited >= settings.patience):
            history.stopped = True
            return
