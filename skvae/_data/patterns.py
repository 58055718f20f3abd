"""Which values of a row are missing together: the patterns of a table and their shares, of bounded number."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Patterns"]

# Patterns that are kept: as many, and fewer in tables so wide that they would hold more values.
_MOST_PATTERNS = 1_000
_LEAST_PATTERNS, _MOST_VALUES = 50, 2**20
# Rows whose patterns are matched with given values at once.
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Patterns:
    """Patterns of missing values and how often each occurs.

    Attributes
    ----------
    missing : ndarray of bool of shape (n_patterns, n_features)
        In lexicographic order.
    share : ndarray of shape (n_patterns,)
        Of the weight of the rows; they sum to 1.
    """

    missing: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, x: Tensor, columns: tuple[int, ...], weight: Tensor | None = None) -> "Patterns":
        """Count the patterns of rows, whatever their order.

        Of more patterns than are kept, a systematic sample in lexicographic order stands for all: each is kept as many
        times as its share deserves, give or take one, and so is each group of patterns with a common beginning.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
            NaN where a value is missing.
        columns : tuple of int
            Those that may miss values.
        weight : Tensor of shape (n_samples,), or None

        Returns
        -------
        patterns : Patterns

        References
        ----------
        Madow (1949), "On the theory of systematic sampling, II", Annals of Mathematical Statistics 20(3).
        """
        missing = x[:, list(columns)].isnan().cpu().numpy()
        words = _words(missing)
        order = np.lexsort(words.T[::-1])
        differs = (words[order[1:]] != words[order[:-1]]).any(axis=1)
        starts = np.concatenate([[0], np.flatnonzero(differs) + 1])
        mass = np.ones(len(order)) if weight is None else weight.cpu().double().numpy()[order]
        share = np.add.reduceat(mass, starts) / mass.sum()
        chosen, share = _thinned(share, max(_LEAST_PATTERNS, min(_MOST_PATTERNS, _MOST_VALUES // x.shape[1])))
        kept = np.zeros((len(chosen), x.shape[1]), dtype=bool)
        kept[:, list(columns)] = missing[order[starts[chosen]]]
        return cls(kept, share)

    def sample(self, known: np.ndarray, n_draws: int, generator: torch.Generator) -> np.ndarray:
        """Draw patterns by their shares, among those that leave given values in place.

        Parameters
        ----------
        known : ndarray of bool of shape (n_given, n_features)
            Values that are there.
        n_draws : int
            For each row of ``known``.
        generator : torch.Generator

        Returns
        -------
        missing : ndarray of bool of shape (n_given, n_draws, n_features)
            None missing where no pattern leaves all given values in place.
        """
        none = np.zeros((1, self.missing.shape[1]), dtype=bool)
        patterns, parts = np.concatenate([self.missing, none]), []
        for first in range(0, len(known), _ROWS_AT_ONCE):
            clashes = known[first : first + _ROWS_AT_ONCE].astype(np.float32) @ self.missing.T.astype(np.float32)
            weight = np.where(clashes > 0.0, 0.0, self.share)
            weight = np.column_stack([weight, weight.sum(axis=1) == 0.0])
            parts.append(torch.multinomial(torch.from_numpy(weight), n_draws, replacement=True, generator=generator))
        return patterns[torch.cat(parts).numpy()]

    def state(self) -> dict[str, Any]:
        """Arrays by name."""
        return dict(vars(self))


def _words(missing: np.ndarray) -> np.ndarray:
    """Rows of booleans as numbers of 64 bits, (n_samples, n_words), in the same lexicographic order."""
    packed = np.packbits(missing, axis=1)
    packed = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
    return np.ascontiguousarray(packed).view(">u8").astype(np.uint64)


def _thinned(share: np.ndarray, n_kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of some shares are kept, and what they become."""
    if len(share) <= n_kept:
        return np.arange(len(share)), share
    # Rounding may leave the last sum below the last point.
    places = np.searchsorted(np.cumsum(share), (np.arange(n_kept) + 0.5) / n_kept).clip(max=len(share) - 1)
    chosen, counts = np.unique(places, return_counts=True)
    return chosen, counts / n_kept
