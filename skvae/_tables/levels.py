"""Levels of a categorical column, and what stands for those that are too rare to be told apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .._support.warnings import cut, warn

__all__ = ["Rare", "codes_of", "split_levels", "warn_of_rare_levels"]

# As in HistGradientBoosting.
_MAX_LEVELS = 255
# Rare levels that a model keeps by name, and characters of their texts: bound its size.
_MAX_RARE = 10_000
_MAX_CHARACTERS = 2**20


@dataclass(frozen=True)
class Rare:
    """The levels of a column that count as one.

    Attributes
    ----------
    levels : tuple
        The most frequent one first; at most 10,000 of them, and texts of about 2**20 characters in all.
    shares : tuple of float
        Of the weight of these levels; they sum to 1.
    complete : bool
        Whether these are all. If not, any level that is not known is one of them.
    """

    levels: tuple[Any, ...]
    shares: tuple[float, ...]
    complete: bool

    @cached_property
    def known(self) -> frozenset[Any]:
        """The levels for a look-up."""
        return frozenset(self.levels)

    def drawn(self, n_draws: int, generator: torch.Generator) -> Tensor:
        """Places of levels, drawn in their shares."""
        uniform = torch.rand(n_draws, generator=generator, dtype=torch.float64)
        below = torch.tensor(list(accumulate(self.shares)), dtype=torch.float64)
        return torch.searchsorted(below, uniform * below[-1], right=True).clamp_max(len(below) - 1)

    def state(self) -> dict[str, Any]:
        """Plain values for a pickle."""
        return {"levels": list(self.levels), "shares": list(self.shares), "complete": self.complete}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Rare":
        """Inverse of `state`.

        Raises
        ------
        ValueError
            If there is not a positive share of each level.
        """
        levels, shares = tuple(state["levels"]), tuple(map(float, state["shares"]))
        if not levels or len(shares) != len(levels) or not all(0.0 < share <= 1.0 for share in shares):
            raise ValueError(f"{len(levels)} rare levels have {len(shares)} shares, not a positive one each")
        return cls(levels, shares, bool(state["complete"]))


def split_levels(mass: Mapping[Any, float]) -> tuple[tuple[Any, ...], Rare | None]:
    """Tell the most frequent levels of a column from those that count as one.

    Parameters
    ----------
    mass : mapping of level to float
        Weight of the rows that have it, in the order of the levels.

    Returns
    -------
    levels : tuple
        Sorted: all of them, or the 254 most frequent ones.
    rare : Rare, or None
        The others, where there are more than 255.
    """
    if len(mass) <= _MAX_LEVELS:
        return tuple(mass), None
    ranked = sorted(mass, key=lambda level: -mass[level])  # stable: among equal ones the first in order
    kept, others = set(ranked[: _MAX_LEVELS - 1]), ranked[_MAX_LEVELS - 1 :]
    lengths = accumulate(len(level) if isinstance(level, str) else 0 for level in others)
    stored = [level for level, length in zip(others[:_MAX_RARE], lengths, strict=False) if length <= _MAX_CHARACTERS]
    stored = stored or others[:1]
    total = sum(mass[level] for level in stored)
    rare = Rare(tuple(stored), tuple(mass[level] / total for level in stored), len(stored) == len(others))
    return tuple(level for level in mass if level in kept), rare


def warn_of_rare_levels(n_levels: Mapping[Any, int]) -> None:
    """Say which columns have more levels than are told apart.

    Parameters
    ----------
    n_levels : mapping of label to int

    Warns
    -----
    UserWarning
        If there is one.
    """
    if n_levels:
        n_kept = _MAX_LEVELS - 1
        told = ", ".join(f"{cut(repr(label))} ({count:,} levels)" for label, count in n_levels.items())
        warn(
            f"Of a categorical column at most {_MAX_LEVELS} levels are told apart, the {n_kept} most frequent ones and "
            f"the others as one: column {told}. Group levels yourself, or drop the column, to have it otherwise.",
            UserWarning,
        )


def codes_of(levels: tuple[Any, ...], rare: Rare | None) -> dict[Any, int]:
    """Code of each level, that of all rare ones the last."""
    codes = {level: code for code, level in enumerate(levels)}
    return codes if rare is None else dict.fromkeys(rare.levels, len(levels)) | codes
