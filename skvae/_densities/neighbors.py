"""Distances to stored rows."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .density import Density
from .strays import strays

__all__ = ["NeighborDistance"]


@dataclass(frozen=True)
class NeighborDistance(Density):
    """Distance to the k-th nearest of a bounded number of stored rows.

    Attributes
    ----------
    references : Tensor of shape (n_references, n_joint)
    n_neighbors : Tensor of shape ()
    """

    shapes: ClassVar[dict[str, str]] = {"references": "ne", "n_neighbors": ""}

    references: Tensor
    n_neighbors: Tensor

    def n_features(self) -> int:
        """Width of the rows that it scores."""
        return self.references.shape[1]

    @classmethod
    def fit(
        cls, rows: Tensor, n_neighbors: int, random_state: np.random.RandomState, *, n_references: int = 2000
    ) -> "NeighborDistance":
        """Keep at most ``n_references`` rows of shape (n_samples, n_joint), and none that is far from all others."""
        if len(rows) > n_references:
            chosen = np.sort(random_state.choice(len(rows), n_references, replace=False))
            rows = rows[torch.from_numpy(chosen).to(rows.device)]
        equal = torch.full((len(rows),), 1.0 / len(rows)).to(rows)
        rows = rows[~strays(rows, rows, equal)]
        return cls(rows.clone(), torch.tensor(min(n_neighbors, len(rows))))

    def distance(self, rows: Tensor) -> Tensor:
        """Euclidean distance of each row to its k-th nearest reference."""
        distances = torch.cdist(rows, self.references, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.kthvalue(int(self.n_neighbors), dim=-1).values
