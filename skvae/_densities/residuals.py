"""Rows beside their reconstructions: what stands in for missing cells, and the density of both side by side."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .._support.device import some_rows
from .._support.numerics import WIDTH, Affine, filled_up, log_sum_exp2, observed, row_product
from .._support.spectrum import leading_axes, padded_axes, principal_axes
from .clumps import clumps
from .density import Density
from .gaussian import MAX_FULL, Gaussian, covariance_product
from .lengths import fit_lengths, shortfall
from .mixture import DiagonalMixture, fit_mixture
from .neighbors import Nearest, references_of
from .strays import lone_rows

__all__ = ["FLOOR", "MIXTURE_ROWS", "JointDensity", "completed", "mean_square", "n_starts_of"]

# Rows on which the mixture is estimated: bounds its time.
MIXTURE_ROWS = 4_000
# Wide tables are scored on this many principal axes of the input and of the residual.
_MAX_AXES = MAX_FULL
# They are found by so many rounds of subspace iteration, with so many more of them.
_AXES_ROUNDS = 4
_SURPLUS_AXES = 20
# Variance added to every component of the mixture: a tenth of a whitened column's keeps one from closing in on a few
# rows.
FLOOR = 0.1
# A mixture depends on where k-means starts; the mean of so many ranks anomalies better (benchmarks/mixture_starts.py).
# Beyond a hundred columns three would make scores take 1.4 times as long.
_N_STARTS, _N_WIDE_STARTS, _MOST_COLUMNS = 3, 2, 100
# A robust density is half the mixture of all rows, half the mean of mixtures of some rows, without their clumps.
_N_BAGS, _BAG_ROWS = 8, 2_000
# Rows are looked through for strays where they are fewer: of less than ten components none may be a stray's own.
_SMALL_TABLE = 100
# Beyond so many standard deviations from zero the squares of rows cancel: with less, float64 keeps 13 digits.
_FAR = 30.0


def mean_square(residual: Tensor) -> Tensor:
    """Mean square over the observed cells of rows of shape (n_samples, n_features); 0 for a row without any."""
    mask = observed(residual)
    if mask is None:
        return residual.square().mean(dim=-1)
    return residual.square().nan_to_num(0.0).sum(dim=-1) / mask.sum(dim=-1).clamp_min(1)


def completed(x: Tensor, residual: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with their missing cells as the model expects them, and their residuals, which are 0 there."""
    mask = observed(residual)
    if mask is None:
        return x, residual
    return torch.where(mask, x, reconstruction), torch.where(mask, residual, 0.0)


@dataclass(frozen=True)
class JointDensity(Density):
    r"""A mixture of many Gaussians with diagonal covariances over [input on its principal axes; whitened residual].

    .. math:: \log p(u) = \log \sum_k \pi_k \prod_j N(u_j; \mu_{kj}, \sigma_{kj}^2)

    With references v it is local, and no density of integral one any more: with J the length of u,

    .. math:: \log p(u) - \tfrac J2 \log \Big(\min_i |u - v_i| + c\Big)

    Attributes
    ----------
    axes : Tensor of shape (n_columns, n_kept)
        Principal axes of the input.
    residual_axes : Tensor of shape (n_columns, n_kept)
        Principal axes of the residual where a table is too wide to keep all; otherwise of no column, for identity.
    whitener : Tensor of the shape of ``residual_axes``
        From a centred residual to its whitened values on those axes.
    precision, linear : Tensor of shape (n_joint, n_mixture)
        Inverse variances, and means times them.
    constant : Tensor of shape (n_mixture,)
        The part of each component's log-density that does not depend on the row.
    centre : Tensor of shape (n_columns,), or of shape (0,)
        What is subtracted from the input before it is squared, where it lies far from zero.
    shares : Tensor of shape (n_mixtures,), or of shape (0,)
        Of several mixtures, of as many components each, the log-densities are averaged with these weights.
    references : Tensor of shape (n_references, n_joint), or of shape (0,)
        Rows that trained, whose distance counts beside the mixture.
    least_distance : Tensor of shape (), or of shape (0,)
        What is added to that distance: c.
    lengths : Tensor of shape (2,), or of shape (0,)
        Gamma distribution of the squared lengths of whitened residuals; rows with shorter ones than usual lose.
    """

    shapes: ClassVar[dict[str, str]] = {
        "axes": "dk", "residual_axes": "dr", "whitener": "dr", "precision": "jm", "linear": "jm", "constant": "m"
    }  # fmt: skip

    axes: Tensor
    residual_axes: Tensor
    whitener: Tensor
    precision: Tensor
    linear: Tensor
    constant: Tensor
    centre: Tensor = field(default_factory=lambda: torch.empty(0))
    shares: Tensor = field(default_factory=lambda: torch.empty(0))
    references: Tensor = field(default_factory=lambda: torch.empty(0))
    least_distance: Tensor = field(default_factory=lambda: torch.empty(0))
    lengths: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        if len(self.shares) and len(self.constant) % len(self.shares):
            raise ValueError("The mixtures of a joint density must have as many components each.")
        if self.is_local and (self.references.shape[1:] != self.precision.shape[:1] or self.least_distance.ndim):
            n_joint = len(self.precision)
            raise ValueError(f"The references of a joint density must have {n_joint} columns, and one distance.")

    @property
    def is_local(self) -> bool:
        """Whether the distance to references counts."""
        return len(self.references) > 0

    def n_features(self) -> int:
        """Width of the rows that it scores."""
        return 2 * len(self.axes)

    def state(self) -> dict[str, np.ndarray]:
        """Arrays by name, without those that are empty, so that versions that know of none read what they can."""
        state = super().state()
        for name in ("centre", "shares", "references", "least_distance", "lengths"):
            if not state[name].size:
                del state[name]
        return state

    @classmethod
    def fit(
        cls,
        x: Tensor,
        density: Gaussian,
        residual: Tensor,
        random_state: np.random.RandomState,
        *,
        robust: bool = False,
    ) -> "JointDensity":
        """Estimate from scaled rows and their residuals, both of shape (n_samples, n_columns) in float64.

        It is the mean of the densities of mixtures from a few starts, as one mixture. With ``robust`` there is one
        start, and clumps of few rows count half: they may be anomalies that are alike.
        """
        x, residual = some_rows(MIXTURE_ROWS, random_state, x, residual)
        variance, axes = _principal(x, random_state)
        residual_axes = whitener = axes.new_empty(len(axes), 0)
        if len(axes) > _MAX_AXES:
            residual_axes, whitener = density.leading(_MAX_AXES, random_state)
        empty = axes.new_empty(0)
        centre, spread = x.mean(dim=0), variance.clamp_min(FLOOR).sqrt()
        centre = centre if ((centre @ axes).abs() > _FAR * spread).any() else empty
        joint = cls(axes, residual_axes, whitener, empty, empty, empty, centre)._condensed(x, residual, density).cpu()
        if len(joint) < _SMALL_TABLE:  # axes share out what one column shows
            joint = joint[~(lone_rows(joint) | lone_rows(x.cpu()))]
        mixture, shares = fit_mixture(joint, random_state, 1 if robust else n_starts_of(x.shape[1]), floor=FLOOR), empty
        if robust:
            mixture, shares = _with_bags(mixture, joint, random_state)
        precision, linear, constant = (part.to(axes) for part in mixture.terms())
        return cls(axes, residual_axes, whitener, precision, linear, constant, centre, shares.to(axes))

    def localised(
        self, x: Tensor, density: Gaussian, residual: Tensor, random_state: np.random.RandomState
    ) -> "JointDensity":
        """The same beside the distance to some of the rows that it was estimated from, as `fit` takes them."""
        x, residual = some_rows(MIXTURE_ROWS, random_state, x, residual)
        references, between = references_of(self._condensed(x, residual, density), random_state)
        return replace(self, references=references, least_distance=between.clamp_min(math.sqrt(FLOOR)))

    def typical(self, x: Tensor, density: Gaussian, residual: Tensor) -> "JointDensity":
        """The same, less what rows lose whose residual is shorter than those of the given ones are by chance."""
        whitened = self._condensed(x, residual, density)[:, self.axes.shape[1] :]
        return replace(self, lengths=fit_lengths(whitened.square().sum(dim=1), whitened.shape[1]))

    def _condensed(self, x: Tensor, residual: Tensor, density: Gaussian) -> Tensor:
        """Rows and their whitened residuals on the axes, equal to the bit for copies, without what is not kept."""
        kept, n_rows = self.whitener.shape[1], len(x)
        x, residual = (torch.nn.functional.pad(part, (0, 0, 0, -n_rows % WIDTH)) for part in (x, residual))
        whitened = row_product(residual - density.mean, self.whitener) if kept else density.whiten(residual)
        return torch.cat([row_product(self._centred(x), self.axes), whitened], dim=-1)[:n_rows]

    def _centred(self, x: Tensor) -> Tensor:
        return x - self.centre if len(self.centre) else x

    def log_prob(self, rows: Tensor) -> Tensor:
        """Log-density of each row [input; whitened residual], in nats."""
        x, whitened = rows.tensor_split(2, dim=-1)
        if self.residual_axes.shape[1]:
            return self._log_prob(x, whitened, filled_up(self.residual_axes))
        return self._log_prob(x, whitened, filled_up(torch.eye(x.shape[1]).to(x)))

    def log_prob_of(self, x: Tensor, residual: Tensor, density: Gaussian, hidden: Tensor | None = None) -> Tensor:
        """The same of rows and their residuals, which ``density`` whitens.

        ``hidden`` is the share of each row's cells that are missing, whose residuals are 0 and count as long as others.
        """
        whitener = self._filled_maps[1] if self.whitener.shape[1] else density.filled_whitener
        return self._log_prob(x, residual - density.mean, whitener, hidden)

    def whitening(self, density: Gaussian) -> Affine:
        """The map after which rows and their reconstructions differ by the whitened residual, less a constant."""
        whitener = self.whitener if self.whitener.shape[1] else density.root
        return Affine(whitener, density.mean @ whitener)

    def log_prob_of_whitened(self, x: Tensor, whitener: Tensor, expected: Tensor) -> Tensor:
        """Log-density of rows without missing cells, whose reconstructions have gone through `whitening`.

        ``whitener`` is the weight of that map beside the axes, filled up. Not for rows that lie far from zero, which
        have a ``centre``: here they are whitened before their reconstructions are subtracted.
        """
        both = self._buffer(x)
        torch.mm(x, whitener, out=both[:, : whitener.shape[1]])
        both[:, self.axes.shape[1] : self.precision.shape[0]].sub_(expected)
        return self._log_prob_in(both)

    def _log_prob(self, x: Tensor, residual: Tensor, whitener: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Log-density of rows whose residuals are yet to be multiplied by a matrix."""
        axes, n_kept = self._filled_maps[0], self.axes.shape[1]
        both = self._buffer(x)
        torch.mm(self._centred(x), axes, out=both[:, : axes.shape[1]])
        torch.mm(residual, whitener, out=both[:, n_kept : n_kept + whitener.shape[1]])
        return self._log_prob_in(both, hidden)

    def _buffer(self, x: Tensor) -> Tensor:
        """Place for [u | u^2]: what a product writes beyond its own columns is overwritten by what comes next."""
        return x.new_empty(x.shape[0], 2 * self.precision.shape[0] + WIDTH)

    def _log_prob_in(self, both: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Log-density of rows u in the first columns of a buffer, as one product with [u | u^2]."""
        terms, constant = self._filled_terms
        n_joint = self.precision.shape[0]
        joint = both[:, :n_joint]
        torch.mul(joint, joint, out=both[:, n_joint : 2 * n_joint])
        exponents = torch.addmm(constant, both[:, : 2 * n_joint], terms)[:, : self.constant.shape[0]]
        density = self._mixed(exponents)
        if len(self.lengths):
            squares = both[:, n_joint + self.axes.shape[1] : 2 * n_joint].sum(dim=1)
            squares = squares if hidden is None else squares + hidden * self.lengths.prod()
            density = density + shortfall(squares, self.lengths)
        return density - self._distance_term(joint) if self.is_local else density

    def _mixed(self, exponents: Tensor) -> Tensor:
        """Log-density of the mixture, or the mean of those of several, given base-2 logarithms of their terms."""
        if not len(self.shares):
            return log_sum_exp2(exponents)
        return (log_sum_exp2(exponents.unflatten(1, (len(self.shares), -1))) * self.shares).sum(dim=1)

    def _distance_term(self, joint: Tensor) -> Tensor:
        """What rows u lose by their distance to the nearest reference, in nats."""
        return 0.5 * joint.shape[1] * (self._nearest.distance(joint) + self.least_distance).log()

    @cached_property
    def _nearest(self) -> Nearest:
        return Nearest(self.references)

    @cached_property
    def _filled_maps(self) -> tuple[Tensor, Tensor]:
        """Axes and whitener; large where a table is wide, and not made where both are a part of another product."""
        return filled_up(self.axes), filled_up(self.whitener)

    @cached_property
    def _filled_terms(self) -> tuple[Tensor, Tensor]:
        """What [u | u^2] is multiplied by and what is added, of which powers of two are taken."""
        terms = torch.cat([self.linear, -0.5 * self.precision])
        return filled_up(terms / math.log(2.0)), filled_up(self.constant / math.log(2.0))


def n_starts_of(n_columns: int) -> int:
    """Starts of the mixture of a table of so many columns."""
    return _N_STARTS if n_columns <= _MOST_COLUMNS else _N_WIDE_STARTS


def _with_bags(
    mixture: DiagonalMixture, joint: Tensor, random_state: np.random.RandomState
) -> tuple[DiagonalMixture, Tensor]:
    """A mixture beside those of random rows without their clumps, and the share of each in the mean.

    It is the mean of log-densities: one mixture in which a clump is left cannot outvote the others.
    """
    mixtures = [mixture]
    for _ in range(_N_BAGS):
        rows = random_state.choice(len(joint), min(_BAG_ROWS, len(joint)), replace=False)
        bag = fit_mixture(joint[torch.from_numpy(np.sort(rows))], random_state, 1, floor=FLOOR)
        mixtures.append(bag.chosen(~clumps(bag)))
    n_most = max(len(one.weights) for one in mixtures)
    padded = [one.repeated(n_most) for one in mixtures]
    shares = torch.tensor([0.5] + [0.5 / _N_BAGS] * _N_BAGS, dtype=joint.dtype)
    return DiagonalMixture(*(torch.cat(parts) for parts in zip(*padded, strict=True))), shares


def _principal(x: Tensor, random_state: np.random.RandomState) -> tuple[Tensor, Tensor]:
    """Greatest variances of rows, descending, and their axes: all of them, or as many as wide rows keep.

    Few rows leave many directions without variance: how far others go there says most, so random ones are kept too.
    """
    n_columns = x.shape[1]
    if n_columns <= _MAX_AXES:
        variance, axes = torch.linalg.eigh(torch.cov(x.T, correction=0).reshape(n_columns, n_columns))
        return variance.flip(0), axes.flip(1).contiguous()
    variance, axes = _leading(x - x.mean(dim=0), random_state)
    kept = variance[:_MAX_AXES].to(x) / len(x)
    return torch.nn.functional.pad(kept, (0, _MAX_AXES - len(kept))), padded_axes(axes.to(x), _MAX_AXES, random_state)


def _leading(centred: Tensor, random_state: np.random.RandomState) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the sums of products of wide rows: those that are not zero, or the leading."""
    thin = len(centred) < centred.shape[1]
    if min(centred.shape) > 2 * _MAX_AXES:
        moments = centred.float() if thin else covariance_product(centred.T, centred).float()
        start = torch.from_numpy(random_state.standard_normal((centred.shape[1], _MAX_AXES + _SURPLUS_AXES)))
        return leading_axes(moments, start.to(moments), _AXES_ROUNDS, thin=thin)
    if thin:
        return principal_axes(centred)
    variance, axes = torch.linalg.eigh(centred.T @ centred)
    return variance.flip(0), axes.flip(1)
