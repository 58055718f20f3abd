"""Distances to stored rows."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .._support.device import some_rows
from .._support.numerics import row_product
from .density import Density
from .strays import strays

__all__ = ["DistanceRatio", "Nearest", "NeighborDistance", "references_of"]

# References beyond the k nearest by a product that rounds, of which the k nearest are found by their distances.
_SURPLUS = 3
# Columns are sought in this many groups where that many columns or more share one: 2.2 against 4.8 microseconds a row.
_GROUPS, _GROUP_MEMBERS = 128, 8
# References of a local density, and the share of them, farthest from their k-th nearest others, that is left out: they
# may be anomalies, and with none left out a few of them cost more than the nearest row brings.
_LOCAL_REFERENCES, _LEFT_OUT, _SPARSE_NEIGHBORS = 2_000, 0.02, 5
# Added to distances whose ratio is taken, in standard deviations, and the power of that ratio. On the odd sets of
# benchmarks/few_labels.py anything from 0.1 to 1 does as well, and a power of 1.5 ranks better than 1. With more of it
# anomalies like the labelled ones gain little, and those of other kinds nothing.
_LEAST_DISTANCE, _POWER = 0.3, 1.5
# Rows that are nearer than this are one row, rounded: far below the least distance, far above what float32 makes of it.
_SAME = 0.01


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
        (rows,) = some_rows(n_references, random_state, rows)
        equal = torch.full((len(rows),), 1.0 / len(rows)).to(rows)
        rows = rows[~strays(rows, rows, equal)]
        return cls(rows.clone(), torch.tensor(min(n_neighbors, len(rows))))

    def distance(self, rows: Tensor) -> Tensor:
        """Euclidean distance of each row, of shape (n_samples, n_joint), to its k-th nearest reference.

        A product finds references that are near but for its rounding, and their distances decide; where others may be
        as near within that rounding, all distances do. What a row gets is one of its distances, to the bit.
        """
        k = int(self.n_neighbors)
        if k + _SURPLUS >= len(self.references):
            return self._of_all(rows, k)
        center, matrix, reach = self._centred
        centred = (rows - center).float()
        # Half the squared distance, but for a number that the row's references share: |r|^2 / 2 - x r.
        rough = row_product(torch.nn.functional.pad(centred, (0, 1), value=1.0), matrix)
        value, index = _smallest(rough, k + _SURPLUS)
        nearest = _distances(rows.unsqueeze(1), self.references[index]).squeeze(1)
        distance = nearest.kthvalue(k, dim=1).values
        # A sum of n products is off by at most n eps of their absolute sum.
        scale = (centred.norm(dim=1) + reach) * reach + distance.square()
        rounding = (rows.shape[1] + 8) * torch.finfo(torch.float32).eps * scale
        doubtful = (~(value[:, -1] - value[:, k - 1] > 2.0 * rounding)).nonzero().squeeze(1)
        if len(doubtful):
            distance[doubtful] = self._of_all(rows[doubtful], k)
        return distance

    def _of_all(self, rows: Tensor, k: int) -> Tensor:
        return _distances(rows, self.references).kthvalue(k, dim=1).values

    @cached_property
    def _centred(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean of the references; what [centred rows | 1] is multiplied by, in float32; the longest centred one."""
        center = self.references.mean(dim=0)
        centred = self.references - center
        squares = centred.square().sum(dim=1)
        matrix = torch.cat([-centred, 0.5 * squares.unsqueeze(1)], dim=1).float()
        return center, matrix.T.contiguous(), squares.max().sqrt()


class Nearest:
    """Distances to the nearest of some references, found by a product in float32.

    Where that rounds, the reference found may be one that lies as near as the nearest within the rounding.

    Parameters
    ----------
    references : Tensor of shape (n_references, n_joint)
    """

    def __init__(self, references: Tensor) -> None:
        self._references = references
        self._center = references.mean(dim=0)
        centred = references - self._center
        # Half the squared distance, but for a number that the row's references share: |r|^2 / 2 - x r.
        matrix = torch.cat([-centred, 0.5 * centred.square().sum(dim=1, keepdim=True)], dim=1).float().T
        surplus = -len(references) % _GROUPS
        self._matrix = torch.nn.functional.pad(matrix, (0, surplus))
        self._matrix[-1, len(references) :] = torch.finfo(torch.float32).max

    def distance(self, rows: Tensor) -> Tensor:
        """Euclidean distance of each row of shape (n_samples, n_joint), from its differences."""
        centred = (rows - self._center).float()
        rough = row_product(torch.nn.functional.pad(centred, (0, 1), value=1.0), self._matrix)
        groups = rough.unflatten(1, (-1, _GROUPS))
        # The group of columns with the least minimum, then its least member: a sixth of the time of one argmin.
        group = groups.amin(dim=1).argmin(dim=1)
        member = groups.gather(2, group[:, None, None].expand(-1, groups.shape[1], 1)).squeeze(2).argmin(dim=1)
        # Where distances overflow, one of the columns that fill up may look nearest.
        nearest = (member * _GROUPS + group).clamp_max_(len(self._references) - 1)
        return (rows - self._references[nearest]).norm(dim=1)


@dataclass(frozen=True)
class DistanceRatio(Density):
    r"""How much nearer rows lie to some anomalies than to normal rows, as a logarithm.

    .. math:: q(u) = \tfrac32 \log \frac{\min_i |u - v_i| + 0.3}{\min_j |u - a_j| + 0.3}

    with normal rows v and anomalies a, in a space where 1 is a standard deviation. Of the v the k-th nearest counts.

    Attributes
    ----------
    normal : Tensor of shape (n_normal, n_joint)
    anomalies : Tensor of shape (n_anomalies, n_joint)
    n_neighbors : Tensor of shape ()
        k.
    """

    shapes: ClassVar[dict[str, str]] = {"normal": "ne", "anomalies": "ae", "n_neighbors": ""}

    normal: Tensor
    anomalies: Tensor
    n_neighbors: Tensor

    def n_features(self) -> int:
        """Width of the rows that it takes."""
        return self.normal.shape[1]

    def of(self, rows: Tensor) -> Tensor:
        """Of each row, of shape (n_samples, n_joint); 0 where both distances overflow."""
        return self._ratio(self._to_normal.distance(rows), rows)

    def of_rows_among_normal(self, rows: Tensor) -> Tensor:
        """Of rows, each that is a normal one as if it were not among these; 0 for such a row where no other is left."""
        ratio = self.of(rows)
        itself = NeighborDistance(self.normal, torch.tensor(1)).distance(rows) < _SAME
        if len(self.normal) <= self.n_neighbors:
            return ratio.masked_fill_(itself, 0.0)
        if itself.any():  # it is the nearest of all
            others = NeighborDistance(self.normal, self.n_neighbors + 1)
            ratio[itself] = self._ratio(others.distance(rows[itself]), rows[itself])
        return ratio

    def _ratio(self, to_normal: Tensor, rows: Tensor) -> Tensor:
        to_anomalies = self._to_anomalies.distance(rows)
        ratio = (to_normal + _LEAST_DISTANCE).log() - (to_anomalies + _LEAST_DISTANCE).log()
        return (_POWER * ratio).nan_to_num(nan=0.0)

    @cached_property
    def _to_normal(self) -> NeighborDistance:
        return NeighborDistance(self.normal, self.n_neighbors.clamp(max=len(self.normal)))

    @cached_property
    def _to_anomalies(self) -> NeighborDistance:
        return NeighborDistance(self.anomalies, torch.tensor(1))


def references_of(rows: Tensor, random_state: np.random.RandomState) -> tuple[Tensor, Tensor]:
    """Choose rows that the nearest one is sought among, and tell how far they lie apart.

    Parameters
    ----------
    rows : Tensor of shape (n_samples, n_joint)
    random_state : RandomState

    Returns
    -------
    references : Tensor of shape (n_references, n_joint)
        A bounded number of rows without those in sparse places, each once.
    between : Tensor of shape ()
        Median distance from a row to its nearest other one; 0 where there is no other.
    """
    (rows,) = some_rows(_LOCAL_REFERENCES, random_state, rows)
    distances = _distances(rows, rows)
    # The nearest of all is the row itself.
    apart, sparse = (distances.kthvalue(min(k + 1, len(rows)), dim=1).values for k in (1, _SPARSE_NEIGHBORS))
    dense = sparse.argsort(stable=True)[: len(rows) - round(_LEFT_OUT * len(rows))]
    return torch.unique(rows[dense], dim=0), apart.median()


def _distances(rows: Tensor, references: Tensor) -> Tensor:
    """Each of them from its differences: a difference of squares would cancel."""
    return torch.cdist(rows, references, compute_mode="donot_use_mm_for_euclid_dist")


def _smallest(values: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n smallest of each row, ascending, and where they are.

    Of many they are sought in the n groups of columns with the least minima, which hold them.
    """
    n_columns = values.shape[1]
    if n_columns < _GROUPS * _GROUP_MEMBERS:
        return values.topk(n, dim=1, largest=False)
    whole = n_columns // _GROUPS * _GROUPS
    least = values[:, :whole].unflatten(1, (-1, _GROUPS)).amin(dim=1)
    group = least.topk(n, dim=1, largest=False, sorted=False).indices
    members = torch.arange(0, whole, _GROUPS, device=values.device)
    rest = torch.arange(whole, n_columns, device=values.device).expand(len(values), -1)
    columns = torch.cat([(group.unsqueeze(2) + members).flatten(1), rest], dim=1)
    smallest, place = values.gather(1, columns).topk(n, dim=1, largest=False)
    return smallest, columns.gather(1, place)
