"""A fitted model applied to raw rows: chunks of one size, in the precision of the rows, on the model's device."""

import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .._data.columns import Columns, Scaler, row_chunks
from .._data.large import release
from .._support.device import thread_limit
from .._support.jobs import shared
from .attribution import Model, attribute
from .fitted import Fitted
from .labelled import Labelled, log_ratio
from .member import Member

__all__ = ["apply", "attributed", "averaged", "decode"]

# Chunks after which the pages of a mapped file are given back.
_RELEASED_CHUNKS = 64
# Rows of a call for which what its passes are made of is kept: beyond, making it is cheap beside using it.
_KEPT_ROWS = 256


class _Passes(NamedTuple):
    """What passes over chunks of rows of one precision are made of."""

    member: Member
    module: Any  # the member's, with buffers
    encode: Scaler
    columns: Columns
    version: int  # of the parameters that the buffers hold a copy of


class _Kept(threading.local):
    """Passes by member and precision. Buffers belong to one thread, live as long as the model, and are never saved."""

    def __init__(self) -> None:
        self.passes: WeakKeyDictionary[Member, dict[torch.dtype, _Passes]] = WeakKeyDictionary()


_kept = _Kept()


def _passes(fitted: Fitted, member: Member, values: Tensor) -> _Passes:
    """Passes for raw rows; those of an earlier call of this thread where there are few rows."""
    flat = member.module.flat
    version = 0 if flat.is_inference() else flat._version
    kept = _kept.passes.setdefault(member, {}) if len(values) <= _KEPT_ROWS else {}
    found = kept.get(values.dtype)
    if found is None or found.columns is not fitted.columns or found.version != version:
        converted = member.converted(values.new_empty(0, device=flat.device))
        encode = fitted.columns.scaler(values.dtype, flat.device)
        found = _Passes(converted, converted.module.with_buffers(), encode, fitted.columns, version)
        kept[values.dtype] = found
    return found


def _by_chunks(values: Tensor, out: Tensor, module: Any, make: Callable[[], Callable[[Tensor], Tensor]]) -> Tensor:
    """Fill ``out`` with what a function makes of rows, chunk by chunk; each thread that takes part makes its own one.

    Chunks have one size; the last one is filled up by repeating its last row. A row lies in one piece, whatever the
    table's layout: sums over columns that lie apart are rounded otherwise.
    """

    def work(chunks: Iterable[tuple[int, int]]) -> None:
        function = make()
        with torch.inference_mode():
            for first, size in chunks:
                if first % (_RELEASED_CHUNKS * size) == 0:
                    release(values)
                rows = values[first : first + size]
                n_rows = rows.shape[0]
                if n_rows < size:
                    rows = torch.cat([rows, rows[-1:].expand(size - n_rows, -1)])
                out[first : first + n_rows] = function(rows.to(module.flat.device).contiguous())[:n_rows]

    in_turn = module.flat.device.type != "cpu"
    shared(work, row_chunks(len(values)), 1024 * module.flops_per_row, in_turn=in_turn)
    return out


def apply(fitted: Fitted, values: Tensor, function: Callable[[Tensor, Any], Tensor], *width: int) -> Tensor:
    """Apply a function of scaled rows and the first network to raw rows.

    Parameters
    ----------
    fitted : Fitted
    values : Tensor of shape (n_samples, n_features)
        Raw rows; their precision is that of the computation.
    function : callable
        Of scaled rows (n_rows, n_features) and a module; returns a tensor of shape (n_rows, *width).
    *width : int

    Returns
    -------
    results : Tensor of shape (n_samples, *width), on the CPU
    """
    member = fitted.members[0]
    out = torch.empty(len(values), *width, dtype=values.dtype)
    return _applied(fitted, out, values, member, lambda _, module, x: function(x, module))


def _applied(
    fitted: Fitted,
    out: Tensor,
    values: Tensor,
    given: Member,
    function: Callable[[Member, Any, Tensor], Tensor],
) -> Tensor:
    """The same for a member, which the function gets, too, in the precision of the rows."""

    def make() -> Callable[[Tensor], Tensor]:
        member, module, encode, *_ = _passes(fitted, given, values)
        return lambda rows: function(member, module, encode(rows))

    return _by_chunks(values, out, given.module, make)


def averaged(fitted: Fitted, values: Tensor, score: Callable[[Member, Any, Tensor], Tensor], *width: int) -> Tensor:
    """Mean over the networks of a score, or of ``width`` numbers, of each raw row, in float64."""
    total = torch.zeros(len(values), *width, dtype=torch.float64)
    for given in fitted.members:
        total += _applied(fitted, torch.empty(len(values), *width, dtype=values.dtype), values, given, score)
    return total / len(fitted.members)


def decode(fitted: Fitted, z: Tensor) -> Tensor:
    """Expected rows, in the user's units, of codes of shape (n_samples, n_components)."""
    module = fitted.features.converted(z.dtype)

    def expected(rows: Tensor) -> Tensor:
        return fitted.columns.decode(module.likelihood.mean(module.decode(rows), module.parts()[2]))

    out = torch.empty(len(z), fitted.columns.n_features, dtype=z.dtype)
    return _by_chunks(z, out, module, lambda: expected)


def attributed(
    fitted: Fitted,
    values: Tensor,
    score: Callable[[Member, Any, Tensor], Tensor],
    threshold: float,
    labelled: Labelled | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split the scores of raw rows over their cells.

    Parameters
    ----------
    fitted : Fitted
    values : Tensor of shape (n_samples, n_features)
    score : callable
        The score of scaled rows that is explained; where columns are mapped to normal scores, in the user's units.
    threshold : float
        Score from which a row counts as normal.
    labelled : Labelled, or None
        Known anomalies, which move that score.

    Returns
    -------
    contributions : Tensor of shape (n_samples, n_features)
        Additive to the score, in float64.
    expected : Tensor of shape (n_samples, n_features)
        In the user's units.
    deficits : Tensor of shape (n_samples, n_features)
        As `attribute` gives them.
    """
    device = fitted.features.flat.device
    modules = [member.module.converted(torch.float64) for member in fitted.members]
    low, high = fitted.scaled_bounds.to(device)

    def mean_of(function: Callable[[Member, Any, Tensor], Tensor], x: Tensor) -> Tensor:
        results = [function(member, module, x) for member, module in zip(fitted.members, modules, strict=True)]
        return torch.stack(results).mean(dim=0)

    def mean_score(x: Tensor) -> Tensor:
        unlearned = unlearned_score(x)
        return unlearned if labelled is None else labelled.moved(unlearned, mean_of(log_ratio, x))

    def unlearned_score(x: Tensor) -> Tensor:
        mean = mean_of(score, x)
        if fitted.columns.marginals is None or not fitted.score.is_density:
            return mean
        return mean + fitted.columns.log_slopes_at(x, by_mass=fitted.score.by_likelihood)

    x = fitted.columns.scaler(torch.float64, device)(values.double().to(device).contiguous())
    codes = tuple(column for column, _ in modules[0].layer.probabilities)
    model = Model(mean_score, modules[0].reconstruct, low, high, codes)
    with torch.inference_mode(), thread_limit(1024 * modules[0].flops_per_row):
        contributions, expected, deficits = attribute(x, model, threshold)
        # Scaled and back, an end of the range is off by its rounding.
        expected = fitted.within_bounds(fitted.columns.decode(expected).cpu())
        return contributions.cpu(), expected, deficits.cpu()
