"""What a training step is fed: permuted rows, their noise, hidden and swapped values, dropout's factors."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from .._data.inputs import InputLayer
from .._networks.modules import Batch, LatentModule
from .._support.jobs import shared
from .._support.team import ALONE, Team
from .rows import Rows, Settings

__all__ = ["Binarizer", "Feeder", "corrupt", "hide", "noisy_inputs", "toss", "withhold"]


class Binarizer:
    """Rows of 0 and 1 drawn from the probabilities of ones.

    Parameters
    ----------
    x : Tensor of shape (n_samples, n_features)
        Cells that are 0, 1 or NaN stay as they are.
    """

    def __init__(self, x: Tensor) -> None:
        self._cells = x.reshape(-1).clone()
        self._shape, self._open = x.shape, ((x > 0) & (x < 1)).reshape(-1).nonzero().squeeze(1)
        self._probability = self._cells[self._open]
        self._draws = torch.empty_like(self._probability)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw all rows, into the same memory at every call."""
        self._draws.uniform_(generator=generator)
        self._cells[self._open] = torch.lt(self._draws, self._probability).to(self._cells)
        return self._cells.view(self._shape)


# Rows gathered at once: bounds the extra memory and amortises the calls.
_GATHER_ROWS = 8192
# Share of the rows in which an autoregressive decoder does not show some cells to the columns after them: these learn
# what to expect where one is missing.
_WITHHELD = 0.15


class Feeder:
    """Gathers permuted rows and draws their noise, some thousand rows at a time, into buffers made once."""

    def __init__(
        self,
        module: LatentModule,
        rows: Rows,
        settings: Settings,
        generators: Sequence[torch.Generator],
        team: Team = ALONE,
        *,
        in_groups: bool = True,
    ):
        self._module, self._rows, self._settings, self._generators = module, rows, settings, generators
        self._team, self._in_groups = team, in_groups
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
        self._spread = rows.spread
        same = self._plain and not self._noisy and rows.spread is None
        self._inputs = self._x if same else buffer(module.layer.n_inputs)
        self._mask = None if self._complete else torch.ones_like(self._x, dtype=torch.bool)
        self._weight = buffer() if rows.weighted else None
        self._noise = buffer(settings.n_draws * module.n_noise) if module.n_noise else None
        rate = settings.dropout
        self._dropout = tuple(
            [buffer(width) for width in net.hidden] if rate else [] for net in (module.encoder, module.decoder)
        )
        withholds = module.likelihood.sees_columns and settings.n_draws == 1
        self._shown = torch.ones_like(self._x, dtype=torch.bool) if withholds else None
        self._groups: dict[int, list[tuple[list[Batch], list[int]]]] = {}
        self._binarizer = Binarizer(rows.x) if settings.binarize and rows.passes is None else None

    def epoch(self):
        """Yield the batches of one epoch in a fresh order, some at a time, and the number of rows of each."""
        for x, weight in self._rows.parts(self._generators[0]):
            if self._settings.binarize:
                x = (self._binarizer or Binarizer(x)).draw(self._generators[0])
            orders = [
                torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)
                for generator in self._generators
            ]
            for first in range(0, len(x), self._size):
                size = min(self._size, len(x) - first)
                self._fill_all(Rows(x, weight), [order[first : first + size] for order in orders])
                yield from self._cut(size)

    def _fill_all(self, rows: Rows, chosen: list[Tensor]) -> None:
        """Fill the buffers of all networks, which threads share as ``n_jobs`` allows."""

        def fill(networks: Iterable[int]) -> None:
            with torch.no_grad():
                for network in networks:
                    self._fill(rows, network, chosen[network], self._generators[network])

        shared(fill, range(len(chosen)), 0.0, in_turn=rows.x.device.type != "cpu")

    def _fill(self, rows: Rows, network: int, chosen: Tensor, generator: torch.Generator) -> None:
        size = len(chosen)

        def rows_of(buffer: Tensor) -> Tensor:
            return (buffer[network] if self._lead else buffer).narrow(0, 0, size)

        torch.index_select(rows.x, 0, chosen, out=rows_of(self._x))
        if not self._plain:
            self._fill_inputs(rows_of, generator)
        elif self._noisy:
            corrupt(rows_of(self._x), self._settings.noise, generator, out=rows_of(self._inputs))
        elif self._spread is not None:
            rows_of(self._inputs).copy_(rows_of(self._x))
        if self._spread is not None:  # the encoder sees the values, the decoder is to give them their masses
            rows_of(self._x).copy_(self._spread(rows_of(self._x), generator))
        if self._weight is not None and rows.weight is not None:
            torch.index_select(rows.weight, 0, chosen, out=rows_of(self._weight))
        if self._noise is not None:
            rows_of(self._noise).normal_(generator=generator)
        if self._shown is not None:
            withhold(rows_of(self._shown), _WITHHELD, generator)
        for factors in (*self._dropout[0], *self._dropout[1]):
            toss(rows_of(factors), 1.0 - self._settings.dropout, generator)

    def _fill_inputs(self, rows_of: Callable[[Tensor], Tensor], generator: torch.Generator) -> None:
        x, layer = rows_of(self._x), self._module.layer
        mask = None
        if self._mask is not None:
            mask = torch.eq(x, x, out=rows_of(self._mask))  # NaN differs from itself
        mask = hide(x, mask, self._settings.hiding, generator)
        rows_of(self._inputs).copy_(noisy_inputs(layer, x, mask, self._settings.noise, generator))

    def _cut(self, size: int) -> list[tuple[list[Batch], list[int]]]:
        """Views of the buffers, one for each batch, by groups; made once for each fill."""
        if size not in self._groups:
            batch_size, axis = self._settings.batch_size, len(self._lead)
            sizes = [min(batch_size, size - first) for first in range(0, size, batch_size)]

            def split(buffer: Tensor | None) -> list:
                if buffer is None:
                    return [None] * len(sizes)
                batches = buffer.narrow(axis, 0, size).split(batch_size, dim=axis)
                return [self._team.part(batch, axis) for batch in batches]

            buffers = (self._x, self._inputs, self._weight, self._mask, self._noise, self._shown)
            first, second = ([split(buffer) for buffer in group] for group in self._dropout)
            batches = [
                Batch(x, inputs, weight, mask, noise, ([f[i] for f in first], [f[i] for f in second]), shown)
                for i, (x, inputs, weight, mask, noise, shown) in enumerate(zip(*map(split, buffers), strict=True))
            ]
            one_each = [([batch], [n_rows]) for batch, n_rows in zip(batches, sizes, strict=True)]
            self._groups[size] = [(batches, sizes)] if self._in_groups else one_each
        return self._groups[size]


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
    low, high = noise
    if not layer.probabilities or high == 0.0:
        return layer.join(corrupt(layer.values(x, mask), noise, generator), mask)
    scale = torch.rand(len(x), 1, generator=generator, dtype=x.dtype, device=x.device).mul_(high - low).add_(low)
    return layer.noisy(x, mask, scale, generator)


def hide(x: Tensor, mask: Tensor | None, greatest: float, generator: torch.Generator) -> Tensor | None:
    """Take cells out of a mask at random, the fraction of a row's drawn uniformly up to ``greatest``."""
    if greatest == 0.0:
        return mask
    fraction = torch.rand(len(x), 1, generator=generator, dtype=x.dtype, device=x.device).mul_(greatest)
    shown = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) >= fraction
    return shown if mask is None else shown.logical_and_(mask)


def toss(factors: Tensor, keep: float, generator: torch.Generator) -> None:
    """Write dropout's factors: 1 / keep with a chance of ``keep``, to within 2^-16 of it, and 0 otherwise."""
    if factors.device.type != "cpu":
        factors.bernoulli_(keep, generator=generator).div_(keep)
        return
    # Four of 16 bits from each draw: torch's own way takes one or two draws for each.
    draws = torch.empty((factors.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    coins = draws.view(torch.int16)[: factors.numel()].view(factors.shape)
    torch.le(coins, max(1, round(keep * 2**16)) - 2**15 - 1, out=factors)
    factors.div_(keep)


def withhold(shown: Tensor, share: float, generator: torch.Generator) -> None:
    """Write which cells of rows are shown: in a share of the rows some fraction, which is drawn uniformly, is not."""
    each, which = torch.rand(2, len(shown), 1, generator=generator, device=shown.device)
    fraction = each * (which < share)
    torch.ge(torch.rand(shown.shape, generator=generator, device=shown.device), fraction, out=shown)
