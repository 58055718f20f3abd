"""Few wide rows: an autoencoder of them is trained in coordinates of the space that they span."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .._networks.modules import AutoencoderModule, LatentModule
from .._support.spectrum import principal_axes
from ..likelihoods import Gaussian
from .loop import run_loop
from .rows import History, Rows, Run, Settings

__all__ = ["flops_saved", "is_narrow", "train_in_span"]

# Columns from which on it pays, and for each row; rows up to which the axes cost less than they save. No results file
# compares them.
_LEAST_COLUMNS, _COLUMNS_PER_ROW, _MOST_ROWS = 200, 2, 2_000


def train_in_span(
    module: LatentModule, rows: Rows, settings: Settings, seeds: Sequence[int], run: Run
) -> tuple[History, dict[str, Tensor]]:
    r"""Train a module of few wide rows in coordinates of their span, which takes a fraction of the time.

    With orthonormal axes U of the span, a row is :math:`x = U u`. The first layer's :math:`W^\top x` is
    :math:`(U^\top W)^\top u`, and for outputs :math:`y = U v` of the decoder :math:`|y - x| = |v - u|`: all that such
    rows can tell of the wide layers lies in these coordinates. Noise has the same distribution in them. What noise does
    beyond the span an encoder need not learn to ignore that does not see it.

    The axes are turned at random, so that the coordinates vary alike, as scaled columns do.

    Parameters and results are those of `training.train`.
    """
    with torch.no_grad():
        span = _Span.of(module, rows.x, seeds[0])
        return span.train(rows, settings, seeds, run)


def flops_saved(module: LatentModule, rows: Rows) -> float:
    """Floating-point operations, of a pass over a row, that its coordinates save; about."""
    n_ends = 2 * module.n_components + sum(module.encoder.hidden[:1]) + sum(module.decoder.hidden[-1:])
    return 2.0 * n_ends * (module.encoder.n_inputs - len(rows.x))


def is_narrow(module: LatentModule, rows: Rows, settings: Settings, run: Run) -> bool:
    """Whether the rows span little, and the module is at a start: later weights lie beyond the span, too."""
    n_samples, n_features = rows.x.shape
    likelihood = module.likelihood
    few = n_samples <= min(_MOST_ROWS, n_features // _COLUMNS_PER_ROW) and n_features >= _LEAST_COLUMNS
    plain = isinstance(module, AutoencoderModule) and module.layer.is_identity and not settings.binarize
    squares = type(likelihood) is Gaussian and likelihood.scale_form == "unit"
    fresh = run.optimiser_state is None and settings.one_cycle  # of chunks the next one may span more
    resident = rows.passes is None and rows.spread is None
    return (
        few
        and plain
        and squares
        and fresh
        and resident
        and all(part is None or part.complete for part in (rows, run.validation))
    )


@dataclass(frozen=True)
class _Span:
    """An autoencoder of wide rows, and the one that trains in its place.

    Attributes
    ----------
    axes : Tensor of shape (n_features, n_axes)
        Orthonormal columns, in float64 on the CPU.
    wide, narrow : LatentModule
    """

    axes: Tensor
    wide: LatentModule
    narrow: LatentModule

    @classmethod
    def of(cls, wide: LatentModule, x: Tensor, seed: int) -> "_Span":
        """With the narrow module at the point where the wide one is."""
        _, axes = principal_axes(x.cpu().double())
        turn = np.random.RandomState(seed % 2**32).standard_normal((axes.shape[1], axes.shape[1]))
        axes = axes @ torch.linalg.qr(torch.from_numpy(turn))[0]
        encoder = replace(wide.encoder, n_inputs=axes.shape[1])
        decoder = replace(wide.decoder, n_outputs=axes.shape[1])
        narrow = AutoencoderModule(encoder, decoder, Gaussian(axes.shape[1], scale="unit"))
        narrow.flat.data = narrow.flat.data.to(wide.flat.device)
        span = cls(axes, wide, narrow)
        for to, source, side in span._pairs(narrow.flat.detach(), wide.flat.detach()):
            to.copy_(source if side is None else _product(axes.T, source, side))
        return span

    def train(
        self, rows: Rows, settings: Settings, seeds: Sequence[int], run: Run
    ) -> tuple[History, dict[str, Tensor]]:
        """As `train_in_span`."""
        within, lost = self._narrowed(rows)
        validation, lost_validation = (None, lost) if run.validation is None else self._narrowed(run.validation)

        def told(history: History) -> History:
            return replace(
                history,
                loss=[loss + lost for loss in history.loss],
                validation=[loss + lost_validation for loss in history.validation],
                best_loss=history.best_loss + lost_validation,
                store=self.store,
            )

        on_epoch = run.on_epoch
        run = replace(
            run,
            validation=validation,
            on_epoch=None if on_epoch is None else lambda history: on_epoch(told(history)),
        )
        history, state = run_loop(self.narrow, within, settings, seeds, run)
        self.store()
        axes = self.axes.float()  # moments need no more digits, and are those of a sum of independent derivatives
        moments = {
            name: self._widened(state[name], map_) for name, map_ in (("first", axes), ("second", axes.square()))
        }
        return told(history), state | moments

    def store(self) -> None:
        """Write the narrow module's weights into the wide one."""
        self.wide.flat.detach().copy_(self._widened(self.narrow.flat.detach(), self.axes))

    def _widened(self, narrow: Tensor, axes: Tensor) -> Tensor:
        """A vector of the narrow module's layout in that of the wide one."""
        wide = torch.zeros_like(self.wide.flat.detach())
        for source, to, side in self._pairs(narrow, wide):
            to.copy_(source if side is None else _product(axes, source, side))
        return wide

    def _narrowed(self, rows: Rows) -> tuple[Rows, float]:
        """Rows in the coordinates, and what their mean loss loses by that, in nats."""
        x = rows.x.cpu().double()
        within = x @ self.axes
        beyond = 0.5 * (x.square().sum(dim=1) - within.square().sum(dim=1)).clamp_min(0.0)
        weight = torch.ones(len(x)) if rows.weight is None else rows.weight.cpu()
        mean = float((beyond * weight).sum() / weight.sum())
        n_lost = self.axes.shape[0] - self.axes.shape[1]
        return replace(rows, x=within.to(rows.x)), mean + 0.5 * n_lost * math.log(2.0 * math.pi)

    def _pairs(self, narrow: Tensor, wide: Tensor) -> Iterator[tuple[Tensor, Tensor, str | None]]:
        """The same parts of two vectors, and what the columns of the table are in them, if anything."""
        encoder, decoder, _ = self.narrow.parts(narrow)
        wide_encoder, wide_decoder, _ = self.wide.parts(wide)
        for one, other, side in ((encoder, wide_encoder, "inputs"), (decoder, wide_decoder, "outputs")):
            parts, wide_parts = ((*of.weights, of.skip, *of.biases) for of in (one, other))
            for part, wide_part in zip(parts, wide_parts, strict=True):
                yield part, wide_part, None if part.shape == wide_part.shape else side


def _product(map_: Tensor, part: Tensor, side: str) -> Tensor:
    """Inputs are a matrix's rows, outputs its columns."""
    part = part.cpu().to(map_.dtype)
    return map_ @ part if side == "inputs" else part @ map_.T
