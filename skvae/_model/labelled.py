"""What is known of anomalies after `learn_anomalies`, and how it moves the score of a row."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._densities.neighbors import DistanceRatio
from .._densities.residuals import completed
from .comparison import Comparison, compare, with_levels
from .member import Member
from .thresholds import Calibration

__all__ = ["RATIO", "WHITENER", "Labelled", "joint_rows", "log_ratio", "log_ratio_among_normal"]

# Names of a member's densities: of distances to anomalies and normal rows, and of residuals where its score needs none.
RATIO, WHITENER = "labelled", "labelled_residual"


@dataclass(frozen=True)
class Labelled:
    """Known anomalies of a fitted model.

    Attributes
    ----------
    x : Tensor of shape (n_anomalies, n_features)
        Scaled, in float64, on the CPU.
    centre, scale : float
        Median and interquartile range of the scores of normal rows, in the units of scores.
    unlearned : Calibration
        As it was before.
    offset : float
        The threshold as it was before.
    """

    x: Tensor
    centre: float
    scale: float
    unlearned: Calibration
    offset: float

    def shifted(self, shift: float) -> "Labelled":
        """The same for scores that are higher by ``shift``."""
        return replace(self, centre=self.centre + shift)

    def moved(self, scores: Tensor, ratio: Tensor) -> Tensor:
        r"""Scores of rows, given what they were and the log-ratio of their distances.

        .. math:: f\left(\frac{m - s'}{r}\right) = f\left(\frac{m - s}{r}\right) + q, \quad
            f(t) = \operatorname{sign}(t) \log(1 + |t|)

        with the median m and the interquartile range r of normal rows. A score below the median lies, in units of
        1 + its distance from there, :math:`e^q` times as far away; rows of the same q keep their order.

        Parameters
        ----------
        scores, ratio : Tensor of shape (n_samples,)
            In float64.

        Returns
        -------
        scores : Tensor of shape (n_samples,)
            In the units of the given ones.
        """
        deficit = (self.centre - scores) / self.scale
        moved = deficit.sign() * deficit.abs().log1p() + ratio
        return self.centre - self.scale * moved.sign() * moved.abs().expm1()


def joint_rows(densities: dict[str, Any], compared: Comparison) -> Tensor:
    """[input; whitened residual] of each row, missing values as the model expects them."""
    x, residual = completed(*compared[:3])
    whitener = densities[WHITENER] if WHITENER in densities else densities["residual"]
    return torch.cat([x, whitener.to(x).whiten(residual)], dim=1)


def log_ratio(member: Member, module: Any, x: Tensor) -> Tensor:
    """How much nearer scaled rows lie to the known anomalies than to normal rows, by one network; a logarithm."""
    ratio, rows = _placed(member, module, x)
    return ratio.of(rows)


def log_ratio_among_normal(member: Member, module: Any, x: Tensor) -> Tensor:
    """`log_ratio` of rows that may be among the normal ones: a row is no measure of how near it is to these."""
    ratio, rows = _placed(member, module, x)
    return ratio.of_rows_among_normal(rows)


def _placed(member: Member, module: Any, x: Tensor) -> tuple[DistanceRatio, Tensor]:
    """What compares rows, and scaled rows in its space."""
    rows = joint_rows(member.densities, compare(module, with_levels(module, x)))
    return member.densities[RATIO].to(rows), rows
