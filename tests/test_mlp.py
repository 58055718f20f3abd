"""The networks against torch's own layers."""

import pytest
import torch
from networks import LAYERS, lead, stacked_layers

from skvae._networks.mlp import ACTIVATIONS, SkipMLP
from skvae._support.numerics import Affine

# Measured with the seeds 1 to 3: at most 2e-13 in float64, 2e-5 in float32.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3}
HIDDEN = {"linear": (), "one layer": (5,), "two layers": (6, 3)}
N_INPUTS, N_OUTPUTS, N_ROWS = 4, 3, 7

each_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
each_depth = pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
each_count = pytest.mark.parametrize("n_networks", [1, 3])


@pytest.fixture
def draw(seed, device, dtype):
    """Standard normal numbers of a shape."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    return normal


@pytest.fixture
def close(dtype):
    def check(actual, expected):
        torch.testing.assert_close(actual, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])

    return check


def test_every_activation_has_an_oracle():
    assert set(ACTIVATIONS) == set(LAYERS)


@each_activation
@each_depth
@each_count
def test_forward_equals_torch_layers(activation, hidden, n_networks, draw, close):
    network = SkipMLP(N_INPUTS, N_OUTPUTS, hidden, activation, n_networks)
    parameters = network.views(draw(network.n_parameters))
    x = draw(*lead(network), N_ROWS, N_INPUTS)
    close(network.forward(parameters, x), stacked_layers(network, parameters, x))


@each_activation
@each_depth
@each_count
def test_dropout_follows_the_activation(activation, hidden, n_networks, draw, close):
    network = SkipMLP(N_INPUTS, N_OUTPUTS, hidden, activation, n_networks)
    parameters = network.views(draw(network.n_parameters))
    x = draw(*lead(network), N_ROWS, N_INPUTS)
    factors = [1.25 * (draw(*lead(network), N_ROWS, width) > 0).to(x) for width in hidden]
    close(network.forward(parameters, x, factors), stacked_layers(network, parameters, x, factors))


@each_depth
def test_forward_broadcasts_draws_and_networks(hidden, draw, close):
    single, several = (SkipMLP(N_INPUTS, N_OUTPUTS, hidden, "tanh", n_networks) for n_networks in (1, 3))
    flat, x = draw(several.n_parameters), draw(5, N_ROWS, N_INPUTS)
    draws = single.forward(single.views(flat[: single.n_parameters]), x)
    close(draws, torch.stack([single.forward(single.views(flat[: single.n_parameters]), part) for part in x]))
    shared = several.forward(several.views(flat), x[0])
    for index in range(3):
        alone = single.views(several.network(flat, index))
        close(shared[index], single.forward(alone, x[0]))


@each_depth
@each_count
def test_views_cut_the_flat_vector_without_copy_or_gap(hidden, n_networks):
    network = SkipMLP(N_INPUTS, N_OUTPUTS, hidden, n_networks=n_networks)
    flat = torch.arange(float(network.n_parameters))
    parameters = network.views(flat)
    blocks = [*parameters.weights, parameters.skip, parameters.all_biases]
    assert sorted(torch.cat([block.reshape(-1) for block in blocks]).tolist()) == flat.tolist()
    assert torch.equal(torch.cat(parameters.biases, dim=-1), parameters.all_biases)
    for block in (*blocks, *parameters.biases):
        block.zero_()
    assert not flat.any()


@each_depth
def test_network_and_a_map_after_it_are_one_network(hidden, draw, close):
    network = SkipMLP(N_INPUTS, N_OUTPUTS, hidden, "tanh")
    flat, x, affine = draw(network.n_parameters), draw(7, N_INPUTS), Affine(draw(N_OUTPUTS, 2), draw(2))
    both, joint = network.followed_by(affine, flat)
    expected = network.forward(network.views(flat), x) @ affine.weight + affine.bias
    close(both.forward(both.views(joint), x), expected)


@each_depth
def test_network_of_one_is_a_copy(hidden, draw):
    network = SkipMLP(N_INPUTS, N_OUTPUTS, hidden)
    flat = draw(network.n_parameters)
    copy = network.network(flat, 0)
    assert torch.equal(copy, flat)
    assert copy.data_ptr() != flat.data_ptr()


def test_sizes_by_hand():
    """3 -> 4 -> 2 beside 3 -> 2: weights 12 + 8 + 6, biases 4 + 2; two operations for each weight."""
    network = SkipMLP(3, 2, (4,), n_networks=5)
    assert network.n_parameters == 5 * 32
    assert network.flops_per_row == 52
    assert network.sizes == [(3, 4), (4, 2)]
    linear = SkipMLP(3, 2)
    assert (linear.n_parameters, linear.flops_per_row, linear.sizes) == (8, 12, [])


def test_initial_network_is_its_linear_part(seed):
    network = SkipMLP(N_INPUTS, N_OUTPUTS, (6, 5), "gelu", 2)
    flat = torch.full((network.n_parameters,), torch.nan)
    network.initialise(flat, torch.Generator().manual_seed(seed))
    parameters = network.views(flat)
    x = torch.randn(2, N_ROWS, N_INPUTS, generator=torch.Generator().manual_seed(seed))
    assert not network.forward(parameters, x).any()
    parameters.skip.fill_(0.5)
    torch.testing.assert_close(network.forward(parameters, x), 0.5 * x.sum(-1, keepdim=True).expand(2, N_ROWS, 3))
    for weight in parameters.weights[:-1]:
        assert weight.count_nonzero() == weight.numel()


def test_initial_hidden_weights_keep_the_variance(seed):
    """20,000 draws: the standard error of their relative variance is 0.01."""
    network = SkipMLP(100, 1, (200, 100))
    flat = torch.empty(network.n_parameters)
    network.initialise(flat, torch.Generator().manual_seed(seed))
    for weight in network.views(flat).weights[:-1]:
        assert weight.square().mean() * weight.shape[0] == pytest.approx(1.0, abs=0.06)
        assert weight.mean() * weight.shape[0] ** 0.5 == pytest.approx(0.0, abs=0.05)
