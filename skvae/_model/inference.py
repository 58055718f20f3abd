"""A fitted model applied to raw rows: chunks of one size, in the precision of the rows, on the model's device."""

import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .._data.columns import Columns, Scaler, row_chunks
from .._data.large import release
from .._support.jobs import shared
from .fitted import Fitted
from .member import Member

__all__ = ["apply", "averaged", "decode"]

# Chunks after which the pages of a mapped file are given back.
_RELEASED_CHUNKS = 64
# Rows of a call for which what its passes are made of is kept: beyond, making it is cheap beside using it.
_KEPT_ROWS = 256


class _Converted(NamedTuple):
    """A member in one precision, with what its passes over chunks of rows need."""

    member: Member
    module: Any  # the member's, with buffers
    encode: Scaler
    columns: Columns
    version: int  # of the parameters that the buffers hold a copy of


class _Kept(threading.local):
    """By member and precision. Buffers belong to one thread, live as long as the model, and are never saved."""

    def __init__(self) -> None:
        self.converted: WeakKeyDictionary[Member, dict[torch.dtype, _Converted]] = WeakKeyDictionary()


_kept = _Kept()


def _converted(fitted: Fitted, member: Member, values: Tensor) -> _Converted:
    """A member for raw rows; that of an earlier call of this thread where there are few rows."""
    flat = member.module.flat
    version = 0 if flat.is_inference() else flat._version
    kept = _kept.converted.setdefault(member, {}) if len(values) <= _KEPT_ROWS else {}
    found = kept.get(values.dtype)
    if found is None or found.columns is not fitted.columns or found.version != version:
        own = member.converted(values.new_empty(0, device=flat.device))
        encode = fitted.columns.scaler(values.dtype, flat.device)
        found = _Converted(own, own.module.with_buffers(), encode, fitted.columns, version)
        kept[values.dtype] = found
    return found


def _by_chunks(values: Tensor, out: Tensor, module: Any, make: Callable[[int], Callable[[Tensor], Tensor]]) -> Tensor:
    """Fill ``out`` with what a function makes of rows, chunk by chunk; each thread that takes part makes its own one.

    The function gets the rows of a chunk, which may be too few, and is made for chunks of one size: it fills them up by
    repeating the last row, and what it returns beyond the rows is dropped.
    """

    def work(chunks: Iterable[tuple[int, int]]) -> None:
        function = make(size)
        with torch.inference_mode():
            for first, _ in chunks:
                if first % (_RELEASED_CHUNKS * size) == 0:
                    release(values)
                rows = values[first : first + size].to(module.flat.device)
                out[first : first + len(rows)] = function(rows)[: len(rows)]

    chunks = row_chunks(len(values))
    size = chunks[0][1] if chunks else 0
    in_turn = module.flat.device.type != "cpu"
    shared(work, chunks, 1024 * module.flops_per_row, in_turn=in_turn)
    return out


def _filled_up(chunk: Tensor, n_rows: int) -> Tensor:
    """A chunk of which only so many rows are set, with the last of them in the others."""
    if n_rows < len(chunk):
        chunk[n_rows:] = chunk[n_rows - 1]
    return chunk


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

    def make(size: int) -> Callable[[Tensor], Tensor]:
        member, module, encode, *_ = _converted(fitted, given, values)
        # One place for all chunks; a row lies in one piece, whatever the table's layout: sums over columns that lie
        # apart are rounded otherwise.
        x = torch.empty(size, values.shape[1], dtype=values.dtype, device=module.flat.device)

        def of_chunk(rows: Tensor) -> Tensor:
            encode(rows, out=x[: len(rows)])
            return function(member, module, _filled_up(x, len(rows)))

        return of_chunk

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

    def make(size: int) -> Callable[[Tensor], Tensor]:
        codes = torch.empty(size, z.shape[1], dtype=z.dtype, device=module.flat.device)

        def expected(rows: Tensor) -> Tensor:
            codes[: len(rows)] = rows
            outputs = module.decode(_filled_up(codes, len(rows)))
            return fitted.columns.decode(module.likelihood.mean(outputs, module.free()))

        return expected

    out = torch.empty(len(z), fitted.columns.n_features, dtype=z.dtype)
    return _by_chunks(z, out, module, make)
