"""The passes by hand, in buffers, against autograd of torch's own layers."""

import pytest
import torch
from networks import lead, stacked_layers

from skvae._networks.mlp import ACTIVATIONS, SkipMLP
from skvae._networks.workspace import PackedMLP, Workspace

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


def packed_values(packed, flat):
    return packed.pack(flat, torch.zeros(packed.n_parameters, dtype=flat.dtype))


def unpacked(packed, vector, like):
    flat = torch.empty_like(like)
    for place, part in packed.pairs(vector, flat):
        part.copy_(place)
    return flat


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
    torch.testing.assert_close(unpacked(packed, gradient, d_flat), d_flat, rtol=tolerance, atol=tolerance)


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
    values = packed_values(packed, flat.detach())
    gradient = torch.full_like(values, torch.nan)
    workspace = Workspace(packed, values, n_rows, gradient, dropout=dropout, d_inputs=True)
    for to, factor in zip(workspace.factors, factors, strict=True):
        to.copy_(factor)
    close(forward(workspace, x.detach()), expected.detach())
    backward(workspace, d_outputs)
    close(unpacked(packed, gradient, d_flat), d_flat)
    close(workspace.d_inputs[..., :N_INPUTS], d_x)
    filling = packed.pack(torch.zeros_like(d_flat), torch.ones_like(values)) > 0
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
