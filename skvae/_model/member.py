"""One network with the densities that score by it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .._densities.residuals import JointDensity, completed, mean_square
from .._networks.modules import LatentModule
from .._support.numerics import Affine, filled_up, observed
from .comparison import Comparison, compare

__all__ = ["Member"]


@dataclass
class Member:
    """One network with the densities that score by it."""

    module: LatentModule
    densities: dict[str, Any] = field(default_factory=dict)

    def converted(self, like: Tensor) -> "Member":
        """The same in the precision and on the device of ``like``."""
        return Member(self.module.converted(like.dtype), {k: d.to(like) for k, d in self.densities.items()})

    def score(self, method: str, module: LatentModule, x: Tensor) -> Tensor:
        """Score scaled rows by what ``module``, this network, leaves of them; higher = more normal.

        A missing cell counts as the model expects it: rows with and without missing cells compare.
        """
        joint = self.densities.get(method)
        plain = module.layer.is_identity and module.likelihood.mean_is_outputs
        if not plain or not isinstance(joint, JointDensity) or joint.axes.dtype != x.dtype or len(joint.centre):
            return self.score_compared(method, compare(module, x))
        mask = observed(x)
        complete = self._score_complete(joint, module, x if mask is None else x.nan_to_num())
        if mask is None:
            return complete
        return torch.where(mask.all(dim=-1), complete, self.score_compared(method, compare(module, x)))

    def _score_complete(self, joint: JointDensity, module: LatentModule, x: Tensor) -> Tensor:
        """Without the reconstruction itself: what the density reads of it is much less in a wide table."""
        whitening, side_by_side = self._whitening
        expected = module.decode(module.encode_inputs(x), whitening)
        return joint.log_prob_of_whitened(x, side_by_side, expected)

    @cached_property
    def _whitening(self) -> tuple[Affine, Tensor]:
        """Of a `JointDensity`: the map, and [axes | whitener] as a product needs them."""
        joint = self.densities["joint"]
        whitening = joint.whitening(self.densities["residual"])
        return whitening, filled_up(torch.cat([joint.axes, whitening.weight], dim=1))

    def score_compared(self, method: str, compared: Comparison) -> Tensor:
        """The same of rows that are already held against their reconstruction."""
        residual = compared.residual
        if method == "reconstruction":
            return -mean_square(residual)
        density = self.densities["residual"].to(residual)
        if method == "residual":
            return density.expected_log_prob(residual)
        x, residual = completed(*compared[:4])
        if isinstance(self.densities.get(method), JointDensity):
            return self.densities["joint"].to(x).log_prob_of(x, residual, density)
        joint = torch.cat([x, density.whiten(residual)], dim=1)
        if method == "joint":
            return self.densities["joint"].to(x).log_prob(joint)
        return -self.densities["neighbor"].to(x).distance(joint)

    def log_density(self, compared: Comparison) -> Tensor:
        """Log-density of the residuals of the observed cells, in nats; categories and counts enter with their mass."""
        density = self.densities["residual"].to(compared.residual)
        if compared.log_mass is None:
            return density.log_prob(compared.residual)
        discrete = self.module.layer.discrete
        numbers = [column for column in range(density.n_features()) if column not in discrete]
        if not numbers:
            return compared.log_mass
        return density.restricted(numbers).log_prob(compared.residual[:, numbers]) + compared.log_mass
