"""Tables too large to hold: files mapped into memory, a sample of the rows, and passes over all of them in blocks."""

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["MAX_CELLS", "Large", "Passes", "as_tensor", "check_mapped", "read_rows", "release", "spread_rows"]

# 256 MiB in float32. A fit to a larger table holds a sample of that size.
MAX_CELLS = 2**26
# 256 KiB in float32: long enough for a disk, short enough that a part mixes rows from many places.
_BLOCK_CELLS = 2**16
_BLOCKS_PER_PART = 64
_READ_ROWS = 65_536


class _Alias:
    """The memory of an array that must not be written, as NumPy's array interface describes it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # keeps the memory
        described = array.__array_interface__
        self.__array_interface__ = described | {"data": (described["data"][0], False)}


def as_tensor(array: np.ndarray) -> Tensor:
    """View an array as a tensor, without a copy where there can be one.

    Parameters
    ----------
    array : ndarray
        It may be read only; nothing in the package writes to a user's rows.

    Returns
    -------
    values : Tensor
        It remembers the file that its memory maps, for `release`.
    """
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    mapping = _mapping(array)
    values = torch.from_numpy(array if array.flags.writeable else np.asarray(_Alias(array)))
    if mapping is not None:
        values.__dict__["mapping"] = mapping
    return values


def _mapping(array: Any) -> mmap.mmap | None:
    """The mapping of a file behind an array, if its pages may be dropped without losing anything."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and array.mode != "c":  # a private copy may differ from its file
            return getattr(array, "_mmap", None)
        array = array.base
    return None


def release(values: Tensor) -> None:
    """Drop the pages of a mapped file from this process; they come back when they are read again."""
    mapping = values.__dict__.get("mapping")
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def check_mapped(X: Any) -> None:
    """Refuse a large mapped file that would have to be converted, and held, as a whole.

    Raises
    ------
    ValueError
    """
    if isinstance(X, np.memmap) and X.size > MAX_CELLS and X.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"A mapped file of more than {MAX_CELLS:,} cells must hold float32 or float64 numbers of this machine's "
            f"byte order, but X has {X.size:,} cells of dtype {X.dtype.str!r}. Write it once as float32, or pass it "
            "to partial_fit in chunks of rows."
        )


def spread_rows(n_samples: int, n_chosen: int, seed: int) -> np.ndarray:
    """Draw one row number at random from each of ``n_chosen`` stretches of equal length, in ascending order."""
    edges = np.arange(n_chosen + 1) * n_samples // n_chosen
    place = np.random.RandomState(seed).random_sample(n_chosen)
    return edges[:-1] + (place * np.diff(edges)).astype(np.int64)


def read_rows(values: Tensor, rows: np.ndarray) -> Tensor:
    """Copy rows by their numbers, some thousand at a time."""
    out = values.new_empty(len(rows), values.shape[1])
    for first in range(0, len(rows), _READ_ROWS):
        chosen = torch.from_numpy(rows[first : first + _READ_ROWS]).to(values.device)
        out[first : first + len(chosen)] = values[chosen]
        release(values)
    return out


@dataclass(frozen=True)
class Large:
    """A table of more than ``MAX_CELLS`` cells, and the rows of it that are held.

    Attributes
    ----------
    values : Tensor of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,), or None
    rows : ndarray of int
        Numbers of the rows that are held, ascending.
    complete : bool
        Whether no cell is missing.
    """

    values: Tensor
    weight: np.ndarray | None
    rows: np.ndarray
    complete: bool

    @classmethod
    def of(cls, values: Tensor, weight: np.ndarray | None, seed: int, *, complete: bool) -> "Large | None":
        """Choose the rows to hold; None where all can be held."""
        n_samples, n_features = values.shape
        n_chosen = max(1, MAX_CELLS // n_features)
        if n_chosen >= n_samples:
            return None
        return cls(values, weight, spread_rows(n_samples, n_chosen, seed), complete)

    def sample(self) -> tuple[Tensor, np.ndarray | None]:
        """Read the rows that are held, with their weights."""
        return read_rows(self.values, self.rows), None if self.weight is None else self.weight[self.rows]


@dataclass(frozen=True)
class Passes:
    """Passes over the rows of a large table: blocks of consecutive rows in random order, mixed in parts.

    Attributes
    ----------
    values : Tensor of shape (n_samples, n_features)
    weight : Tensor of shape (n_samples,), or None
    held_out : ndarray of int
        Numbers of the rows that are left out, ascending.
    encode : callable
        Scales raw rows.
    complete : bool
        Whether no cell is missing.
    keep : callable, or None
        Numbers of the scaled rows of a part that train.
    kept_fraction : float
        Their share.
    on_part : callable, or None
        Told the share of the pass that is read, before each part.
    """

    values: Tensor
    weight: Tensor | None
    held_out: np.ndarray
    encode: Callable[[Tensor], Tensor]
    complete: bool = True
    keep: Callable[[Tensor], Tensor] | None = None
    kept_fraction: float = 1.0
    on_part: Callable[[float], None] | None = None

    @property
    def n_block_rows(self) -> int:
        """Rows of a block."""
        return max(32, _BLOCK_CELLS // self.values.shape[1])

    def part_sizes(self) -> list[int]:
        """Rows of each part that train, the same in every pass; the last part has what remains."""
        return [max(1, round(self.kept_fraction * size)) for size in self._sizes()]

    def _sizes(self) -> list[int]:
        n_rows = len(self.values) - len(self.held_out)
        n_parts = max(1, -(-(n_rows // self.n_block_rows) // _BLOCKS_PER_PART))
        full = _BLOCKS_PER_PART * self.n_block_rows
        return [full] * (n_parts - 1) + [n_rows - full * (n_parts - 1)]

    def parts(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the scaled rows of one pass and their weights, part by part."""
        sizes = self._sizes()
        n_full = sum(sizes) // self.n_block_rows
        blocks = torch.randperm(n_full, generator=generator, device=generator.device).cpu().numpy()
        for index, size in enumerate(sizes):
            if self.on_part is not None:
                self.on_part(index / len(sizes))
            chosen = np.sort(blocks[index * _BLOCKS_PER_PART : (index + 1) * _BLOCKS_PER_PART])
            numbers = (chosen[:, None] * self.n_block_rows + np.arange(self.n_block_rows)).ravel()
            rest = np.arange(n_full * self.n_block_rows, n_full * self.n_block_rows + size - len(numbers))
            yield self._part(self._rows(np.concatenate([numbers, rest])))

    def _rows(self, numbers: np.ndarray) -> np.ndarray:
        """From numbers among the rows of a pass to numbers in the table."""
        return numbers + np.searchsorted(self.held_out - np.arange(len(self.held_out)), numbers, side="right")

    def _part(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        x = self.encode(read_rows(self.values, rows))
        weight = None if self.weight is None else self.weight[torch.from_numpy(rows)].to(x.device)
        if self.keep is None:
            return x, weight
        kept = self.keep(x)
        return x[kept], None if weight is None else weight[kept.cpu()].to(x.device)
