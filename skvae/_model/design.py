"""The design of a model: every automatic parameter resolved, and the module that follows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .._data.inputs import InputLayer
from .._networks.mlp import SkipMLP
from .._networks.modules import AutoencoderModule, LatentModule, VAEModule
from .._training.rows import Settings
from ..likelihoods import Likelihood

__all__ = ["Design", "check_unchanged"]

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
    fixed: Mapping[str, Any] | None = None  # as `Plan.fixed` says, of all fits so far; None in older files

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

    @property
    def is_mixture_for_now(self) -> bool:
        """Whether p(z) is a mixture because the training came in passes over chunks, in which none is learned."""
        return self.latent_density == "mixture" and (self.fixed or {}).get("latent_density") == "learned"

    @property
    def network(self) -> dict[str, Any]:
        """Parameters that the network was made by, resolved."""
        return {
            "n_components": self.n_components,
            "hidden_layer_sizes": self.hidden,
            "activation": self.activation,
            "likelihood": self.likelihood.family,
            "decoder": self.decoder,
            "n_networks": self.n_networks,
            "latent_density": self.latent_density,
        }


def check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a fitted model under other parameters.

    Parameters
    ----------
    before, now : mapping of str to value
        Of the earlier fit, and of the one that goes on; what only one of them names is not compared.

    Raises
    ------
    ValueError
        If a value differs; the message names all that do, with both values.
    """
    changed = [name for name in now if name in before and before[name] != now[name]]
    if changed:
        told = " and ".join(f"{name!r} was {before[name]!r} and is now {now[name]!r}" for name in changed)
        raise ValueError(
            f"Going on with a fitted model needs the columns and the network that it was fitted with, but {told}. Set "
            "it back, or fit anew with warm_start=False."
        )
