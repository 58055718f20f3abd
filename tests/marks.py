"""Marks that several test files set."""

import pytest

# Where the autoencoder's fit takes the same path, the VAE's, of several times its length, runs with the slow tests.
slow_for_vae = pytest.mark.parametrize(
    "make", ["autoencoder", pytest.param("vae", marks=pytest.mark.slow)], indirect=True
)
