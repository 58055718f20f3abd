"""Names of other libraries in the constructor: the error says ours."""

import inspect
import re

import pytest
from sklearn.base import clone

from skvae import AutoencoderTransformer, VAETransformer
from skvae._estimators.arguments import _NAMES, _OURS

ESTIMATORS = [AutoencoderTransformer, VAETransformer]


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_every_name_leads_to_a_parameter(kind):
    own = set(inspect.signature(kind).parameters)
    # A word that is ours already would never be looked up.
    assert not own & set(_NAMES)
    assert set(_OURS) <= set(inspect.signature(VAETransformer).parameters)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 5}, "AutoencoderTransformer has no such parameter: 'epochs', use 'max_iter'."),
        (
            {"latent_dim": 2, "lr": 0.1, "hidden_neurons": [8]},
            "AutoencoderTransformer has no such parameter: 'latent_dim', use 'n_components'; 'lr', use "
            "'learning_rate_init'; 'hidden_neurons', use 'hidden_layer_sizes'.",
        ),
        ({"n_component": 2}, "AutoencoderTransformer has no such parameter: 'n_component', use 'n_components'."),
        ({"optimizer": "sgd"}, "AutoencoderTransformer has no such parameter: 'optimizer'."),
    ],
)
def test_names_of_other_libraries_are_answered_with_ours(given, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        AutoencoderTransformer(**given)


def test_names_of_the_vae_alone():
    message = "VAETransformer has no such parameter: 'dropout_rate', use 'dropout'."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        VAETransformer(dropout_rate=0.1)
    message = "AutoencoderTransformer has no such parameter: 'kl_weight'."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        AutoencoderTransformer(kl_weight=0.1)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_constructor_stays_what_it_was(kind):
    assert "kwargs" not in str(inspect.signature(kind))
    assert clone(kind(3, beta=2.0) if kind is VAETransformer else kind(3)).get_params()["n_components"] == 3
    with pytest.raises(TypeError, match="positional argument"):
        kind(3, 4)
