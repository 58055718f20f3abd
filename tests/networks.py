"""Small networks and modules that several test files compute with."""

import torch

from skvae._densities.mixture import DiagonalMixture
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import AutoencoderModule, Batch, VAEModule
from skvae.likelihoods import (
    Bernoulli,
    Categorical,
    ColumnGroups,
    Gaussian,
    NegativeBinomial,
    Poisson,
    StudentT,
)

N_ROWS, N_FEATURES, N_COMPONENTS = 6, 3, 2
KINDS = {"autoencoder": AutoencoderModule, "vae": VAEModule}
CONFIGS = {
    "gaussian unit": Gaussian(3, scale="unit"),
    "gaussian constant": Gaussian(3, scale="constant"),
    "gaussian shared": Gaussian(3, scale="shared"),
    "gaussian dependent": Gaussian(3, scale="dependent"),
    "student_t constant": StudentT(3, scale="constant"),
    "student_t dependent": StudentT(3, scale="dependent"),
    "bernoulli": Bernoulli(3),
    "categorical": Categorical([2, 4, 3]),
    "poisson": Poisson(3),
    "negative_binomial": NegativeBinomial(3),
    "groups": ColumnGroups([Gaussian(1), Bernoulli(1), Poisson(1)]),
    "groups apart": ColumnGroups([Gaussian(2, scale="dependent"), Categorical([4])], [[0, 2], [1]]),
}


def make_module(kind, likelihood, n_networks=1, hidden=(5,), n_components=N_COMPONENTS, dtype=torch.float64):
    heads = 2 if kind == "vae" else 1
    encoder = SkipMLP(likelihood.n_columns, heads * n_components, hidden, "tanh", n_networks)
    decoder = SkipMLP(n_components, likelihood.n_outputs, hidden[::-1], "tanh", n_networks)
    n_parameters = encoder.n_parameters + decoder.n_parameters + n_networks * likelihood.n_free
    return KINDS[kind](encoder, decoder, likelihood, torch.zeros(n_parameters, dtype=dtype))


def make_batch(module, draw, *, weighted=False, noisy=True):
    """Rows in every likelihood's domain: 0 or 1, but for the continuous families."""
    lead = () if module.n_networks == 1 else (module.n_networks,)
    x = draw(*lead, N_ROWS, N_FEATURES)
    if not isinstance(module.likelihood, Gaussian | StudentT):
        x = (x > 0).double()
    noise = draw(*lead, N_ROWS, module.n_noise) if module.n_noise and noisy else None
    weight = draw(*lead, N_ROWS).exp() if weighted else None
    return Batch(x, x + 0.1 * draw(*x.shape), weight, None, noise)


def with_gaps(batch, draw, *, empty=False):
    """The batch with missing cells; the target is NaN there. ``empty`` takes all of a row."""
    mask = draw(*batch.x.shape) > -0.5
    mask[..., 0, :] &= not empty
    return batch._replace(x=torch.where(mask, batch.x, torch.nan), mask=mask)


def several_draws(batch, draw, n_draws=3):
    return batch._replace(noise=draw(*batch.x.shape[:-1], n_draws * N_COMPONENTS))


def with_dropout(batch, module, draw):
    """The batch with factors at a rate of about 0.3, so that all of a small layer is hardly ever dropped."""
    encoder, decoder = (
        [(draw(*batch.x.shape[:-1], width) > -0.5).double() / 0.7 for width in net.hidden]
        for net in (module.encoder, module.decoder)
    )
    return batch._replace(dropout=(encoder, decoder))


def make_mixtures(draw, n_networks, n_mixture=4):
    return [
        DiagonalMixture(draw(n_mixture).softmax(0), draw(n_mixture, N_COMPONENTS), draw(n_mixture, N_COMPONENTS).exp())
        for _ in range(n_networks)
    ]


LAYERS = {
    "identity": torch.nn.Identity(),
    "relu": torch.nn.ReLU(),
    "tanh": torch.nn.Tanh(),
    "logistic": torch.nn.Sigmoid(),
    "elu": torch.nn.ELU(),
    "silu": torch.nn.SiLU(),
    "gelu": torch.nn.GELU(),
}


def lead(network):
    """Leading shape of the tensors of several networks."""
    return () if network.n_networks == 1 else (network.n_networks,)


def stacked_layers(network, parameters, x, factors=()):
    """The same network from torch's own modules, one network after the other."""
    if network.n_networks > 1:
        return torch.stack(
            [
                stacked_layers(
                    SkipMLP(network.n_inputs, network.n_outputs, network.hidden, network.activation),
                    type(parameters)(
                        [w[k] for w in parameters.weights],
                        parameters.skip[k],
                        [b[k] for b in parameters.biases],
                        parameters.all_biases[k],
                    ),
                    x[k],
                    [f[k] for f in factors],
                )
                for k in range(network.n_networks)
            ]
        )
    outputs = torch.nn.functional.linear(x, parameters.skip.T, parameters.biases[-1])
    if not network.hidden:
        return outputs
    h = x
    for i in range(len(network.hidden)):
        layer = torch.nn.functional.linear(h, parameters.weights[i].T, parameters.biases[i])
        h = LAYERS[network.activation](layer)
        if factors:
            h = h * factors[i]
    return outputs + torch.nn.functional.linear(h, parameters.weights[-1].T)
