"""Autoencoders and variational autoencoders that behave like scikit-learn's PCA and IsolationForest."""

from importlib.metadata import version

from .autoencoder import AutoencoderTransformer
from .vae import VAETransformer

__version__ = version("skvae")

__all__ = ["AutoencoderTransformer", "VAETransformer"]
