"""The networks against torch's own layers, and the hand-written passes against autograd."""

import pytest
import torch

from skvae._networks.mlp import ACTIVATIONS, SkipMLP
from skvae._networks.workspace import PackedMLP, Workspace
from skvae._support.numerics import Affine

# Measured with the seeds 1 to 3: at most 2e-13 in float64, 2e-5 in float32.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3}
LAYERS = {
    "identity": torch.nn.Identity(),
    "relu": torch.nn.ReLU(),
    "tanh": torch.nn.Tanh(),
    "logistic": torch.nn.Sigmoid(),
    "elu": torch.nn.ELU(),
    "silu": torch.nn.SiLU(),
    "gelu": torch.nn.GELU(),
}
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


def packed_values(packed, flat):
    return torch.zeros(packed.n_parameters, dtype=flat.dtype).index_copy(0, packed.positions(), flat)


@torch.no_grad()
def forward(workspace, x):
    workspace.inputs[..., :N_INPUTS].copy_(x)
    for call in workspace.forward_calls:
        call()
    return workspace.outputs[..., :N_OUTPUTS]


@torch.no_grad()
def backward(workspace, d_outputs):
    workspace.d_outputs[..., :N_OUTPUTS].copy_(d_outputs)
    for call in workspace.backward_calls:
        call()


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
def test_workspace_of_float32_equals_torch_layers(activation, seed):
    """The precision that trains has kernels of its own: one of torch's wrote nothing into a strided buffer."""
    network, tolerance = SkipMLP(N_INPUTS, N_OUTPUTS, (6, 3), activation), TOLERANCE[torch.float32]
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(network.n_parameters, generator=generator).requires_grad_()
    x, d_outputs = (torch.randn(N_ROWS, width, generator=generator) for width in (N_INPUTS, N_OUTPUTS))
    expected = stacked_layers(network, network.views(flat), x)
    packed = PackedMLP(network)
    values = packed_values(packed, flat.detach())
    gradient = torch.full_like(values, torch.nan)
    workspace = Workspace(packed, values, N_ROWS, gradient)
    torch.testing.assert_close(forward(workspace, x), expected.detach(), rtol=tolerance, atol=tolerance)
    backward(workspace, d_outputs)
    d_flat = torch.autograd.grad(expected, flat, d_outputs)[0]
    torch.testing.assert_close(gradient[packed.positions()], d_flat, rtol=tolerance, atol=tolerance)


@each_activation
@each_depth
@each_count
@pytest.mark.parametrize("dropout", [False, True], ids=["whole", "dropout"])
@pytest.mark.parametrize(("n_rows", "spread"), [(N_ROWS, 1.0), (1, 1.0), (N_ROWS, 30.0)])
def test_workspace_equals_autograd(activation, hidden, n_networks, dropout, n_rows, spread, draw, close):
    """Outputs, gradients of the parameters and of the inputs; a spread of 30 saturates the activations."""
    network = SkipMLP(N_INPUTS, N_OUTPUTS, hidden, activation, n_networks)
    flat = draw(network.n_parameters).requires_grad_()
    x = (spread * draw(*lead(network), n_rows, N_INPUTS)).requires_grad_()
    d_outputs = draw(*lead(network), n_rows, N_OUTPUTS)
    factors = [1.25 * (draw(*lead(network), n_rows, width) > 0) for width in hidden] if dropout else []
    factors = [factor.to(flat) for factor in factors]
    expected = stacked_layers(network, network.views(flat), x, factors)
    d_flat, d_x = torch.autograd.grad(expected, (flat, x), d_outputs)

    packed = PackedMLP(network)
    positions, values = packed.positions(), packed_values(packed, flat.detach())
    gradient = torch.full_like(values, torch.nan)
    workspace = Workspace(packed, values, n_rows, gradient, dropout=dropout, d_inputs=True)
    for to, factor in zip(workspace.factors, factors, strict=True):
        to.copy_(factor)
    close(forward(workspace, x.detach()), expected.detach())
    backward(workspace, d_outputs)
    close(gradient[positions], d_flat)
    close(workspace.d_inputs[..., :N_INPUTS], d_x)
    filling = torch.ones_like(values).index_fill(0, positions, 0.0) > 0
    assert not gradient[filling].any()


@each_activation
def test_workspace_forgets_the_batch_before(activation, draw):
    """A second batch through the same buffers gives the bits of a first one, and reads the parameters anew."""
    network = SkipMLP(N_INPUTS, N_OUTPUTS, (6, 3), activation)
    flat, x, d_outputs = draw(network.n_parameters), draw(N_ROWS, N_INPUTS), draw(N_ROWS, N_OUTPUTS)

    packed = PackedMLP(SkipMLP(N_INPUTS, N_OUTPUTS, (6, 3), activation))

    def run(workspace, gradient):
        outputs = forward(workspace, x).clone()
        backward(workspace, d_outputs)
        return outputs, gradient.clone()

    values = torch.zeros(packed.n_parameters, dtype=flat.dtype)
    used_gradient, fresh_gradient = torch.empty_like(values), torch.empty_like(values)
    used = Workspace(packed, values, N_ROWS, used_gradient)
    forward(used, draw(N_ROWS, N_INPUTS))
    backward(used, draw(N_ROWS, N_OUTPUTS))
    values.copy_(packed_values(packed, flat))
    fresh = Workspace(packed, packed_values(packed, flat), N_ROWS, fresh_gradient)
    for again, first in zip(run(used, used_gradient), run(fresh, fresh_gradient), strict=True):
        assert torch.equal(again, first)


def test_units_that_fill_up_a_layer_start_and_stay_inert(draw):
    """Only where the activation keeps zero; the logistic function does not."""
    assert PackedMLP(SkipMLP(3, 2, (5,), "tanh")).hidden == [16]
    assert PackedMLP(SkipMLP(3, 2, (5,), "logistic")).hidden == [5]


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
    assert network.flops_per_row == 5 * 52
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
