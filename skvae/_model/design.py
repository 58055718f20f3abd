"""The design of a model: every automatic parameter resolved, and the module that follows."""

from dataclasses import dataclass

from torch import Tensor

from .._data.inputs import InputLayer
from .._networks.mlp import SkipMLP
from .._networks.modules import AutoencoderModule, LatentModule, VAEModule
from .._training.rows import Settings
from ..likelihoods import Likelihood

__all__ = ["Design"]

_MODULES: dict[str, type[LatentModule]] = {"autoencoder": AutoencoderModule, "vae": VAEModule}


@dataclass(frozen=True)
class Design:
    """A model for a table of known size: every automatic parameter resolved."""

    model: str  # a key of _MODULES: "autoencoder" or "vae"
    n_components: int
    hidden: tuple[int, ...]
    activation: str
    likelihood: Likelihood
    n_networks: int
    settings: Settings
    layer: InputLayer | None = None  # None: complete rows are the encoder's inputs
    latent_density: str | int = "normal"  # of a VAE: also "mixture", "learned", or the number of mixture components

    @property
    def decoder(self) -> str:
        """Whether the columns of a row see each other: "autoregressive" or "independent"."""
        return "autoregressive" if self.likelihood.sees_columns else "independent"

    def module(self, n_features: int, flat: Tensor | None = None) -> LatentModule:
        """Build the module; with zeros unless parameters are given."""
        heads = 2 if self.model == "vae" else 1
        n_inputs = n_features if self.layer is None else self.layer.n_inputs
        encoder = SkipMLP(n_inputs, heads * self.n_components, self.hidden, self.activation, self.n_networks)
        decoder = SkipMLP(
            self.n_components, self.likelihood.n_outputs, self.hidden[::-1], self.activation, self.n_networks
        )
        return _MODULES[self.model](encoder, decoder, self.likelihood, flat, self.layer)

    def changes(self, later: "Design") -> str:
        """Name the parameters of the network that another design has otherwise, with both values."""
        names = {"n_components": "n_components", "hidden": "hidden_layer_sizes", "activation": "activation"}
        pairs = {name: (getattr(self, field), getattr(later, field)) for field, name in names.items()}
        pairs["likelihood"] = (self.likelihood.family, later.likelihood.family)
        pairs["decoder"] = (self.decoder, later.decoder)
        pairs["n_networks"] = (self.n_networks, later.n_networks)
        told = [f"{name!r} was {old!r} and is now {new!r}" for name, (old, new) in pairs.items() if old != new]
        return " and ".join(told) or "the outputs of its likelihood differ"
