"""The way into training: in all columns or, of few wide rows, in coordinates of the space that they span."""

from collections.abc import Sequence

from torch import Tensor

from .._networks.modules import LatentModule
from .loop import run_loop
from .rows import History, Rows, Run, Settings
from .span import flops_saved, is_narrow, train_in_span

__all__ = ["step_flops", "train"]


def train(
    module: LatentModule, rows: Rows, settings: Settings, seeds: Sequence[int], run: Run | None = None
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
    run : Run, or None

    Returns
    -------
    history : History
    optimiser_state : dict of Tensor
        In the layout of the module's flat vector.

    Raises
    ------
    FloatingPointError
        If the loss is not finite even at a 32nd of the learning rate.
    """
    run = Run() if run is None else run
    way = train_in_span if is_narrow(module, rows, settings, run) else run_loop
    return way(module, rows, settings, seeds, run)


def step_flops(module: LatentModule, rows: Rows, settings: Settings, run: Run) -> float:
    """Floating-point operations of a training step, about."""
    saved = flops_saved(module, rows) if is_narrow(module, rows, settings, run) else 0.0
    return 6.0 * settings.batch_size * (module.flops_per_row - saved)
