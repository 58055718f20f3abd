"""One network with the densities that score by it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .._densities.residuals import JointDensity
from .._networks.modules import LatentModule
from .._support.numerics import Affine, filled_up
from .comparison import Comparison

__all__ = ["Member"]


@dataclass(frozen=True, eq=False)
class Member:
    """One network of the ensemble with the densities that score by it.

    Attributes
    ----------
    module : LatentModule
    densities : dict of str to Density
        "residual" of the reconstruction residuals, "latent" for p(z) of a VAE, and that of the score by its name.
    """

    module: LatentModule
    densities: dict[str, Any] = field(default_factory=dict)

    def converted(self, like: Tensor) -> "Member":
        """The same in the precision and on the device of ``like``."""
        return Member(self.module.converted(like.dtype), {k: d.to(like) for k, d in self.densities.items()})

    @cached_property
    def whitening(self) -> tuple[Affine, Tensor]:
        """Of the joint density: the map of the residual, and [axes | whitener] as a product needs them."""
        joint = next(density for density in self.densities.values() if isinstance(density, JointDensity))
        whitening = joint.whitening(self.densities["residual"])
        return whitening, filled_up(torch.cat([joint.axes, whitening.weight], dim=1))

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
