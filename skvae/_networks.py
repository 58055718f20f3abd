"""Multilayer perceptrons with a linear path beside them: layer sizes in, tensors out; no data and no loss.

Every network lives in one flat parameter vector. `SkipMLP` describes one network and computes it in ordinary
differentiable operations; `Workspace` computes the same numbers with preallocated buffers and a hand-written backward
pass, because small networks are bound by the cost of dispatching operations rather than by arithmetic.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ACTIVATIONS", "Activation", "Parameters", "SkipMLP", "Workspace"]

_aten = torch.ops.aten


class Activation(NamedTuple):
    """An activation and its derivative.

    ``forward(pre, out)`` writes the activation; ``backward(gradient, pre, post)`` multiplies ``gradient`` in place by
    the derivative. ``in_place`` says that the derivative needs only ``post``, so that ``pre`` may be overwritten.
    """

    function: Callable[[Tensor], Tensor]
    forward: Callable[[Tensor, Tensor], object]
    backward: Callable[[Tensor, Tensor, Tensor], object]
    in_place: bool


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda h: h, lambda pre, out: out, lambda g, pre, post: g, True),
    "relu": Activation(
        torch.relu,
        lambda pre, out: torch.relu_(pre),
        lambda g, pre, post: _aten.threshold_backward.grad_input(g, post, 0, grad_input=g),
        True,
    ),
    "tanh": Activation(
        torch.tanh,
        lambda pre, out: torch.tanh_(pre),
        lambda g, pre, post: _aten.tanh_backward.grad_input(g, post, grad_input=g),
        True,
    ),
    "logistic": Activation(
        torch.sigmoid,
        lambda pre, out: torch.sigmoid_(pre),
        lambda g, pre, post: _aten.sigmoid_backward.grad_input(g, post, grad_input=g),
        True,
    ),
    "elu": Activation(
        F.elu,
        lambda pre, out: F.elu_(pre),
        lambda g, pre, post: _aten.elu_backward.grad_input(g, 1.0, 1.0, 1.0, True, post, grad_input=g),
        True,
    ),
    "silu": Activation(
        F.silu,
        lambda pre, out: _aten.silu.out(pre, out=out),
        lambda g, pre, post: _aten.silu_backward.grad_input(g, pre, grad_input=g),
        False,
    ),
    "gelu": Activation(
        F.gelu,
        lambda pre, out: _aten.gelu.out(pre, out=out),
        lambda g, pre, post: _aten.gelu_backward.grad_input(g, pre, grad_input=g),
        False,
    ),
}


class Parameters(NamedTuple):
    """Views into a flat vector: what one `SkipMLP` computes with.

    With several networks each tensor has a leading dimension ``n_networks``.
    """

    weights: list[Tensor]  # (n_in, n_out) of each layer of the MLP
    skip: Tensor  # (n_inputs, n_outputs), the linear path
    biases: list[Tensor]  # (n_out,) of each layer
    all_biases: Tensor  # the same numbers as one block


@dataclass(frozen=True)
class SkipMLP:
    r"""A multilayer perceptron plus a linear map.

    .. math:: f(x) = S^\top x + b + \mathrm{MLP}(x)

    With no hidden layer it is the linear map alone. The output layer of the MLP starts at zero, so that a network
    starts exactly at its linear part.

    Parameters
    ----------
    n_inputs, n_outputs : int
    hidden : tuple of int
        Widths of the hidden layers.
    activation : str
        A key of ``ACTIVATIONS``.
    n_networks : int
        Networks that are computed side by side.
    """

    n_inputs: int
    n_outputs: int
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    n_networks: int = 1

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each layer of the MLP; empty for a linear network."""
        if not self.hidden:
            return []
        widths = [self.n_inputs, *self.hidden, self.n_outputs]
        return list(zip(widths[:-1], widths[1:], strict=True))

    @property
    def bias_sizes(self) -> list[int]:
        """Number of biases of each layer; a linear network has the output's."""
        return [*self.hidden, self.n_outputs]

    @property
    def n_parameters(self) -> int:
        """Length of the flat vector of all networks."""
        weights = sum(a * b for a, b in self.sizes) + self.n_inputs * self.n_outputs
        return self.n_networks * (weights + sum(self.bias_sizes))

    @property
    def flops_per_row(self) -> float:
        """Floating-point operations of one forward pass of one row through all networks."""
        return 2.0 * self.n_networks * (sum(a * b for a, b in self.sizes) + self.n_inputs * self.n_outputs)

    def views(self, flat: Tensor) -> Parameters:
        """Cut a flat vector of shape (n_parameters,) into the tensors of `Parameters`; no copy."""
        lead = () if self.n_networks == 1 else (self.n_networks,)
        shapes = [*self.sizes, (self.n_inputs, self.n_outputs), (sum(self.bias_sizes),)]
        blocks = flat.split([self.n_networks * math.prod(shape) for shape in shapes])
        tensors = [block.view(*lead, *shape) for block, shape in zip(blocks, shapes, strict=True)]
        return Parameters(tensors[:-2], tensors[-2], list(tensors[-1].split(self.bias_sizes, dim=-1)), tensors[-1])

    def network(self, flat: Tensor, index: int) -> Tensor:
        """Copy the flat vector of one of the networks out of the common one."""
        if self.n_networks == 1:
            return flat.clone()
        weights, skip, _, biases = self.views(flat)
        return torch.cat([block[index].reshape(-1) for block in (*weights, skip, biases)])

    def forward(self, parameters: Parameters, x: Tensor) -> Tensor:
        """Compute the network in differentiable operations.

        Parameters
        ----------
        parameters : Parameters
        x : Tensor of shape (..., n_samples, n_inputs)
            With several networks the third dimension from the right is theirs, or broadcasts.

        Returns
        -------
        outputs : Tensor of shape (..., n_samples, n_outputs)
        """
        function = ACTIVATIONS[self.activation].function
        outputs = x @ parameters.skip + parameters.biases[-1].unsqueeze(-2)
        if not self.hidden:
            return outputs
        h = x
        for weight, bias in zip(parameters.weights[:-1], parameters.biases[:-1], strict=True):
            h = function(h @ weight + bias.unsqueeze(-2))
        return outputs + h @ parameters.weights[-1]

    def initialise(self, flat: Tensor, generator: torch.Generator) -> None:
        """Fill a flat vector: hidden weights N(0, 1 / n_in), everything else zero."""
        flat.zero_()
        for weight in self.views(flat).weights[:-1]:
            weight.normal_(0.0, 1.0 / math.sqrt(weight.shape[-2]), generator=generator)


class Workspace:
    """Buffers for one batch size, in which a `SkipMLP` runs forward and backward without allocating.

    Parameters
    ----------
    network : SkipMLP
    parameters : Parameters
        Values; read at each pass.
    n_rows : int
        Rows of every batch that goes through.
    gradients : Parameters or None
        Where the backward pass writes; None for a workspace that only runs forward.
    dropout : bool
        Whether factors for the hidden layers come with each batch.
    """

    def __init__(
        self,
        network: SkipMLP,
        parameters: Parameters,
        n_rows: int,
        gradients: Parameters | None = None,
        *,
        dropout: bool = False,
    ) -> None:
        self._network, self._parameters, self._gradients = network, parameters, gradients
        self._activation = ACTIVATIONS[network.activation]
        self._single = network.n_networks == 1
        self._mm = torch.mm if self._single else torch.bmm
        lead = () if self._single else (network.n_networks,)
        like = parameters.skip

        def empty(*shape: int) -> Tensor:
            return torch.empty(*lead, *shape, dtype=like.dtype, device=like.device)

        self._pre = [empty(n_rows, width) for width in network.hidden]
        self._post = self._pre if self._activation.in_place else [empty(n_rows, width) for width in network.hidden]
        self._hidden = [empty(n_rows, width) for width in network.hidden] if dropout else self._post
        self.outputs = empty(n_rows, network.n_outputs)
        self._biases = [bias if self._single else bias.unsqueeze(-2) for bias in parameters.biases]
        if gradients is None:
            return
        self._d_all = empty(n_rows, sum(network.bias_sizes))
        self._d_layers = list(self._d_all.split(network.bias_sizes, dim=-1))
        self._ones = torch.ones(*lead, 1, n_rows, dtype=like.dtype, device=like.device)
        self._bias_gradient = gradients.all_biases.unsqueeze(-2)
        self.d_outputs = self._d_layers[-1]
        self._factors: Sequence[Tensor] = ()

    def forward(self, x: Tensor, dropout: Sequence[Tensor] = ()) -> Tensor:
        """Run the network on a batch.

        Parameters
        ----------
        x : Tensor of shape (n_rows, n_inputs), or (n_networks, n_rows, n_inputs)
        dropout : sequence of Tensor of shape (n_rows, width)
            Factors for the hidden layers, 0 or 1 / (1 - rate).

        Returns
        -------
        outputs : Tensor of shape (n_rows, n_outputs), or (n_networks, n_rows, n_outputs)
            The workspace's own buffer: the next call overwrites it.
        """
        mm, parameters, h = self._mm, self._parameters, x
        for i, (pre, post) in enumerate(zip(self._pre, self._post, strict=True)):
            mm(h, parameters.weights[i], out=pre)
            pre.add_(self._biases[i])
            self._activation.forward(pre, post)
            h = post
            if dropout:
                h = torch.mul(post, dropout[i], out=self._hidden[i])
        self._factors = dropout
        outputs = self.outputs
        mm(x, parameters.skip, out=outputs)
        if self._post:
            (torch.addmm if self._single else torch.baddbmm)(outputs, h, parameters.weights[-1], out=outputs)
        return outputs.add_(self._biases[-1])

    def backward(self, x: Tensor, d_inputs: Tensor | None = None) -> None:
        """Turn ``d_outputs`` into gradients of the parameters, and of the inputs on request.

        Parameters
        ----------
        x : Tensor
            The batch of the last forward pass.
        d_inputs : Tensor of the shape of ``x``, or None
            Where the gradient of the inputs is written.
        """
        parameters, gradients = self._parameters, self._gradients
        if gradients is None:
            raise RuntimeError("This workspace was made without gradients.")
        mm, d = self._mm, self.d_outputs
        mm(x.mT, d, out=gradients.skip)
        for i in reversed(range(len(self._post))):
            mm(self._hidden[i].mT, d, out=gradients.weights[i + 1])
            mm(d, parameters.weights[i + 1].mT, out=self._d_layers[i])
            d = self._d_layers[i]
            if self._factors:
                d.mul_(self._factors[i])
            self._activation.backward(d, self._pre[i], self._post[i])
        if self._post:
            mm(x.mT, d, out=gradients.weights[0])
        mm(self._ones, self._d_all, out=self._bias_gradient)
        if d_inputs is None:
            return
        mm(self.d_outputs, parameters.skip.mT, out=d_inputs)
        if self._post:
            add = torch.addmm if self._single else torch.baddbmm
            add(d_inputs, d, parameters.weights[0].mT, out=d_inputs)
