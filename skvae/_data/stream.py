"""A bounded memory of a stream of rows, so that what is estimated after a chunk speaks of all chunks so far."""

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Reservoir", "Stream"]

# Rows that a stream remembers: as many as the densities of the scores use, and as many as a fit holds out.
_TRAINING_ROWS = 4_000
_HELD_ROWS = 1_000
# Chunks that are recognised when they come again, as in several passes over one table.
_CHUNKS = 1_000


@dataclass(frozen=True)
class Reservoir:
    """A uniform sample of all rows of a stream: each row draws a key, and the rows with the smallest keys stay.

    Attributes
    ----------
    rows : ndarray of shape (n_kept, n_features)
        In the order of their coming.
    weight : ndarray of shape (n_kept,)
    keys : ndarray of shape (n_kept,)
        Uniform in [0, 1).

    References
    ----------
    Efraimidis & Spirakis (2006), "Weighted random sampling with a reservoir", Inf. Process. Lett. 97(5), algorithm A-ES
    with equal weights.
    """

    rows: np.ndarray
    weight: np.ndarray
    keys: np.ndarray

    @classmethod
    def empty(cls, n_features: int) -> "Reservoir":
        """Hold no row yet."""
        return cls(np.empty((0, n_features), dtype=np.float32), np.empty(0), np.empty(0))

    def extended(
        self, rows: np.ndarray, weight: np.ndarray | None, capacity: int, random_state: np.random.RandomState
    ) -> "Reservoir":
        """Add rows of shape (n_samples, n_features) with their weights, and keep at most ``capacity`` in all."""
        weight = np.ones(len(rows)) if weight is None else weight
        keys = np.concatenate([self.keys, random_state.random_sample(len(rows))])
        kept = np.sort(np.argsort(keys, kind="stable")[:capacity])
        return Reservoir(
            np.concatenate([self.rows, rows])[kept], np.concatenate([self.weight, weight])[kept], keys[kept]
        )

    def state(self) -> dict[str, Any]:
        """Arrays by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class Stream:
    """What a series of `partial_fit` calls remembers of its chunks.

    Attributes
    ----------
    training : Reservoir
        Rows that trained, for the densities of the scores.
    held : Reservoir
        Rows that place the threshold.
    chunks : tuple of int
        Fingerprints of the last chunks: one that comes again trains again, but is no new evidence.
    n_awaited : int
        Training rows from which on the stream knows more than the `fit` before it did.
    """

    training: Reservoir
    held: Reservoir
    chunks: tuple[int, ...] = ()
    n_awaited: int = 0

    @classmethod
    def empty(cls, n_features: int, n_fitted: int = 0) -> "Stream":
        """Start after a `fit` to ``n_fitted`` rows, none of which it has kept."""
        return cls(Reservoir.empty(n_features), Reservoir.empty(n_features), n_awaited=min(n_fitted, _TRAINING_ROWS))

    @property
    def ready(self) -> bool:
        """Whether it knows more rows than the `fit` before it."""
        return len(self.training.rows) >= self.n_awaited

    def extended(
        self,
        fingerprint: int,
        training: tuple[np.ndarray, np.ndarray | None],
        held: tuple[np.ndarray, np.ndarray | None],
        random_state: np.random.RandomState,
        *,
        n_held: int = _HELD_ROWS,
    ) -> "Stream":
        """Add the rows of a chunk with their weights, unless the chunk is known already."""
        if fingerprint in self.chunks:
            return self
        return Stream(
            self.training.extended(*training, _TRAINING_ROWS, random_state),
            self.held.extended(*held, max(n_held, _HELD_ROWS), random_state),
            (*self.chunks, fingerprint)[-_CHUNKS:],
            self.n_awaited,
        )

    def state(self) -> dict[str, Any]:
        """Arrays and plain values."""
        return {
            "training": self.training.state(),
            "held": self.held.state(),
            "chunks": list(self.chunks),
            "n_awaited": self.n_awaited,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Stream":
        """Inverse of `state`."""
        training, held = (
            Reservoir(**{name: np.array(part) for name, part in state[which].items()}) for which in ("training", "held")
        )
        return cls(training, held, tuple(state["chunks"]), state["n_awaited"])
