"""Which cells of a row make it anomalous: repair one cell after another and see how far the score rises.

A reconstruction smears one bad cell over all columns, because the code that it came from is wrong. So the question
asked of each cell is not how badly it is reconstructed, but how much more normal the row would be if this cell alone
held the value that the others imply.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["CellModel", "attribute"]

Function = Callable[[Tensor], Tensor]

# Rows times columns that are evaluated at once, and cells of such variants: they stay in the cache, a wide row's too.
_MAX_VARIANTS = 8192
_MAX_VARIANT_CELLS = 2**18
# Cells of a row that are tried: in a wider table those that the model changes most. By a symmetric linear model that
# gives a bad cell the weight h in its own reconstruction, fewer than h / (1 - h) others are changed more than it is.
# Against all of 784 pixels the first ten to blame are the same, and 2e-4 of the gains are missed.
_MAX_TRIED = 512
# A fixed point is a straight line's root only where the model is linear; two rounds polish it.
_SECANT_ROUNDS = 2
# Rounds that move a repaired cell whose row is not normal yet, and the first step, in standard deviations.
_POLISHING_ROUNDS, _FIRST_STEP = 3, 0.25
# Width of the beam search: the cell that helps most alone need not belong to the smallest set of repairs.
_BEAM = 4


class CellModel(NamedTuple):
    """What is asked of a model to find the cells that are to blame."""

    score: Function  # of scaled rows; higher = more normal
    reconstruct: Function  # reconstructions of scaled rows
    low: Tensor  # (n_columns,), range in which a repaired value may lie
    high: Tensor  # (n_columns,)
    categorical: tuple[int, ...] = ()  # columns of codes


def _tried(x: Tensor, model: CellModel) -> Tensor:
    """Columns of each row that may be to blame, ascending, of shape (n_rows, n_tried)."""
    n_rows, n_columns = x.shape
    if n_columns <= _MAX_TRIED:
        return torch.arange(n_columns, device=x.device).expand(n_rows, n_columns)
    gap = (model.reconstruct(x) - x).abs().nan_to_num(0.0)
    return gap.topk(_MAX_TRIED, dim=1).indices.sort(dim=1).values


def _of_variants(function: Function, x: Tensor, columns: Tensor, cells: Tensor) -> Iterator[Tensor]:
    """A function of each row with one of its cells replaced, some columns at a time: (n_rows, n_few, ...)."""
    size = max(1, _MAX_VARIANT_CELLS // x.numel())
    for few, values in zip(columns.split(size, dim=1), cells.split(size, dim=1), strict=True):
        variants = x.unsqueeze(1).repeat(1, few.shape[1], 1).scatter_(2, few.unsqueeze(2), values.unsqueeze(2))
        yield function(variants.flatten(0, 1)).unflatten(0, few.shape)


def _images(x: Tensor, columns: Tensor, cells: Tensor, model: CellModel) -> Tensor:
    """What the model makes of cells, each put alone into its row; of the shape of ``columns``."""
    parts, first = [], 0
    for images in _of_variants(model.reconstruct, x, columns, cells):
        few = columns[:, first : first + images.shape[1]]
        parts.append(images.gather(2, few.unsqueeze(2)).squeeze(2))
        first += images.shape[1]
    return torch.cat(parts, dim=1)


def _implied_cells(x: Tensor, columns: Tensor, model: CellModel) -> Tensor:
    """For some cells the value that the others imply: of a category what the model makes of the row without it."""
    if not model.categorical:
        return _fixed_points(x, columns, model)
    is_code = torch.isin(columns, torch.tensor(model.categorical, device=x.device))
    numbers, codes, implied = (~is_code).any(dim=0), is_code.any(dim=0), torch.empty_like(columns, dtype=x.dtype)
    if numbers.any():
        implied[:, numbers] = _fixed_points(x, columns[:, numbers], model)
    if codes.any():
        blank = torch.full_like(implied[:, codes], torch.nan)
        image = _images(x, columns[:, codes], blank, model)
        implied[:, codes] = torch.where(is_code[:, codes], image, implied[:, codes])
    return implied


def _fixed_points(x: Tensor, columns: Tensor, model: CellModel) -> Tensor:
    """For some numbers the value that the model would leave as it is, the other cells of the row given.

    The fixed point of x_j -> f(x)_j, by the secant rule. For the optimal linear denoiser it is the conditional mean of
    the noisy rows.
    """
    low, high = model.low[columns], model.high[columns]
    first = x.gather(1, columns).nan_to_num(0.0).clamp(low, high)
    second = torch.clamp(torch.where(first.abs() < 0.1, first + 0.5, torch.zeros_like(first)), low, high)
    first_gap, second_gap = (_images(x, columns, cells, model) - cells for cells in (first, second))
    for _ in range(_SECANT_ROUNDS):
        distance = second - first
        slope = torch.where(distance.abs() > 1e-9, (second_gap - first_gap) / distance, -1.0)
        # A slope that is not clearly negative has no stable root: take the image itself.
        step = torch.where(slope < -1e-3, -second_gap / slope, second_gap)
        candidate = torch.clamp(torch.nan_to_num(second + step), low, high)
        first, first_gap = second, second_gap
        second, second_gap = candidate, _images(x, columns, candidate, model) - candidate
    return second


def _gains(x: Tensor, base: Tensor, model: CellModel) -> tuple[Tensor, Tensor]:
    """Rise of the score when a cell alone is repaired, and the repaired values; both (n_rows, n_columns).

    A cell that is not tried gains nothing, and its value is the reconstruction.
    """
    columns = _tried(x, model)
    implied = _implied_cells(x, columns, model)
    gains = torch.cat(list(_of_variants(model.score, x, columns, implied)), dim=1) - base.unsqueeze(1)
    if columns.shape[1] < x.shape[1]:
        gains = torch.zeros_like(x).scatter_(1, columns, gains)
        implied = model.reconstruct(x).clamp(model.low, model.high).scatter_(1, columns, implied)
    # A missing value is no anomaly.
    return torch.where(x.isnan(), 0.0, gains).clamp_min(0.0), implied


def attribute(x: Tensor, model: CellModel, threshold: float, max_cells: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    r"""Split the score of each row over its cells.

    The cell whose repair raises the score most is repaired, and again, until the row counts as normal. The rise of the
    score from x to the repaired row is divided over the repaired cells, in proportion to what each would cost if it
    alone went back; for any other cell :math:`g_j` is the rise that its repair would still bring. Then

    .. math:: c_j = \tfrac1d \Big(s(x) + \sum_i g_i\Big) - g_j, \qquad \sum_j c_j = s(x)

    Parameters
    ----------
    x : Tensor of shape (n_samples, n_columns)
        Scaled rows.
    model : CellModel
    threshold : float
        Score from which a row counts as normal.
    max_cells : int, default=5
        At most so many cells are repaired in a row.

    Returns
    -------
    contributions : Tensor of shape (n_samples, n_columns)
        Additive to the score; the most negative value is the most anomalous.
    expected : Tensor of shape (n_samples, n_columns)
        Value of each cell that the other, repaired, cells imply; in scaled units.
    deficits : Tensor of shape (n_samples, n_columns)
        What each repaired cell takes off the score; 0 for the others.
    """
    size = max(1, _MAX_VARIANTS // x.shape[1])
    parts = [_attribute_chunk(rows, model, threshold, max_cells) for rows in x.split(size)]
    contributions, expected, deficits = (torch.cat(part) for part in zip(*parts, strict=True))
    return contributions, expected, deficits


def _attribute_chunk(x: Tensor, model: CellModel, threshold: float, max_cells: int) -> tuple[Tensor, Tensor, Tensor]:
    score = model.score
    total = score(x)
    gains, implied = _gains(x, total, model)
    repaired, done = _repair(x, total, (gains, implied), model, threshold, max_cells)
    current = score(repaired)
    changed = done.any(dim=1)
    if changed.any():  # of a row that is as it was, both are known
        gains[changed], implied[changed] = _gains(repaired[changed], current[changed], model)
    falls = torch.where(done, _falls(x, repaired, done, current, score), 0.0)
    rise = (current - total).clamp_min(0.0).unsqueeze(1)
    blame = torch.where(done, rise * falls / falls.sum(dim=1, keepdim=True), gains)
    even = (total + blame.sum(dim=1)) / x.shape[1]
    return even.unsqueeze(1) - blame, torch.where(done, repaired, implied), torch.where(done, blame, 0.0)


def _falls(x: Tensor, repaired: Tensor, done: Tensor, current: Tensor, score: Function) -> Tensor:
    """What each repaired cell costs if it alone goes back, and equal parts where none would make a difference."""
    n_repaired = int(done.sum(dim=1).amax())
    if not n_repaired:
        return torch.zeros_like(x)
    columns = done.to(torch.uint8).topk(n_repaired, dim=1).indices.sort(dim=1).values
    undone = torch.cat(list(_of_variants(score, repaired, columns, x.gather(1, columns))), dim=1)
    return torch.zeros_like(x).scatter_(1, columns, (current.unsqueeze(1) - undone).clamp_min(0.0) + 1e-12)


def _repair(
    x: Tensor, total: Tensor, alone: tuple[Tensor, Tensor], model: CellModel, threshold: float, max_cells: int
) -> tuple[Tensor, Tensor]:
    """Repair cells until a row counts as normal, from several first cells; keep the shortest way, then the best.

    ``alone`` is what `_gains` gives of the rows as they are.
    """
    n_rows, n_columns = x.shape
    width = min(_BEAM, n_columns)
    gains, implied = alone
    firsts = gains.topk(width, dim=1).indices.flatten()
    rows = torch.arange(n_rows, device=x.device).repeat_interleave(width)
    active = total[rows] < threshold
    repaired, done = x[rows], torch.zeros_like(x[rows], dtype=torch.bool)
    _set_cells(repaired, done, implied[rows], firsts, active & ~x[rows, firsts].isnan())
    current = _polish(repaired, model.score(repaired), firsts, model, threshold)
    for _ in range(min(max_cells, n_columns) - 1):
        active = current < threshold
        if not active.any():
            break
        gains, implied = _gains(repaired[active], current[active], model)
        best, chosen = gains.masked_fill(done[active], 0.0).max(dim=1)
        part, part_done = repaired[active], done[active]
        _set_cells(part, part_done, implied, chosen, best > 0.0)
        current[active] = _polish(part, model.score(part), chosen, model, threshold)
        repaired[active], done[active] = part, part_done
    normal = current >= threshold
    # Normal rows first, fewer cells first, then the score: three keys, the later ones squeezed below one step.
    rank = torch.sigmoid(current / (1.0 + current.abs().amax())) - done.sum(dim=1) * normal + n_columns * normal
    best_way = rank.view(n_rows, width).argmax(dim=1) + torch.arange(n_rows, device=x.device) * width
    return repaired[best_way], done[best_way]


def _polish(x: Tensor, current: Tensor, columns: Tensor, model: CellModel, threshold: float) -> Tensor:
    """Move one number of a row to where the score is highest, if the row then counts as normal; gives the new scores.

    What a reconstruction implies is drawn to the middle. Three scores around a value make a parabola, whose top is the
    next value where it is better. Where other cells are still bad, the highest score would make up for them.
    """
    codes = torch.tensor(model.categorical, device=x.device, dtype=columns.dtype)
    rows = ((current < threshold) & ~torch.isin(columns, codes)).nonzero().squeeze(1)
    if not len(rows):
        return current
    part, best, places = x[rows], current[rows], columns[rows].unsqueeze(1)
    low, high = model.low[places], model.high[places]

    def tried(value: Tensor) -> tuple[Tensor, Tensor]:
        value = torch.where(value.isfinite(), value, cell).clamp(low, high)
        return value, model.score(part.scatter(1, places, value)).unsqueeze(1)

    cell, best, step = part.gather(1, places), best.unsqueeze(1), _FIRST_STEP
    for _ in range(_POLISHING_ROUNDS):
        (above, high_score), (below, low_score) = tried(cell + step), tried(cell - step)
        bend = high_score - 2.0 * best + low_score
        top = tried(cell + 0.5 * step * (low_score - high_score) / bend.clamp_max(-1e-9))
        for value, score in ((above, high_score), (below, low_score), top):
            cell, best = torch.where(score > best, value, cell), torch.maximum(score, best)
        step *= 0.5
    healed = best.squeeze(1) >= threshold
    x[rows[healed]] = part.scatter(1, places, cell)[healed]
    return current.index_put((rows[healed],), best[healed].squeeze(1))


def _set_cells(values: Tensor, done: Tensor, implied: Tensor, columns: Tensor, active: Tensor) -> None:
    """Write one implied cell into each active row."""
    rows = active.nonzero().squeeze(1)
    values[rows, columns[rows]] = implied[rows, columns[rows]]
    done[rows, columns[rows]] = True
