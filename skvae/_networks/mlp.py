"""Multilayer perceptrons with a linear path beside them: layer sizes in, tensors out; no data and no loss.

Every network lives in one flat parameter vector. `SkipMLP` describes one network and computes it in ordinary
differentiable operations; `Workspace` computes the same numbers with preallocated buffers and a hand-written backward
pass, because small networks are bound by the cost of dispatching operations rather than by arithmetic. It reads its
parameters from the layout of `PackedMLP`, which folds biases and the linear path into the products.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._support.numerics import Affine, row_product

__all__ = ["ACTIVATIONS", "Activation", "Parameters", "SkipMLP"]

_aten = torch.ops.aten


class Activation(NamedTuple):
    """An activation and its derivative.

    ``forward(pre, out)`` writes the activation; ``backward(gradient, pre, post)`` multiplies ``gradient`` in place by
    the derivative. ``in_place`` says that the derivative needs only ``post``, so that ``out`` may be ``pre``.
    """

    function: Callable[[Tensor], Tensor]
    forward: Callable[[Tensor, Tensor], object]
    backward: Callable[[Tensor, Tensor, Tensor], object]
    in_place: bool

    @property
    def keeps_zero(self) -> bool:
        """Whether zero stays zero, so that a unit without weights is inert."""
        return not self.function(torch.zeros(())).any()


def _tanh(pre: Tensor, out: Tensor) -> Tensor:
    """As 2 logistic(2 h) - 1: torch computes the logistic function faster than tanh."""
    return torch.mul(pre, 2.0, out=out).sigmoid_().mul_(2.0).sub_(1.0)


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(
        lambda h: h, lambda pre, out: out if out is pre else out.copy_(pre), lambda g, pre, post: g, True
    ),
    "relu": Activation(
        torch.relu,
        lambda pre, out: torch.relu_(pre) if out is pre else torch.clamp_min(pre, 0.0, out=out),
        lambda g, pre, post: _aten.threshold_backward.grad_input(g, post, 0, grad_input=g),
        True,
    ),
    "tanh": Activation(
        torch.tanh,
        _tanh,
        lambda g, pre, post: _aten.tanh_backward.grad_input(g, post, grad_input=g),
        True,
    ),
    "logistic": Activation(
        torch.sigmoid,
        lambda pre, out: torch.sigmoid(pre, out=out),
        lambda g, pre, post: _aten.sigmoid_backward.grad_input(g, post, grad_input=g),
        True,
    ),
    "elu": Activation(
        F.elu,
        lambda pre, out: _aten.elu.out(pre, out=out),
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
        # In float32 on the CPU, torch's gelu leaves a strided ``out`` as it was.
        lambda pre, out: out.copy_(F.gelu(pre)),
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
        """Floating-point operations of one forward pass of one row through one network."""
        return 2.0 * (sum(a * b for a, b in self.sizes) + self.n_inputs * self.n_outputs)

    def views(self, flat: Tensor) -> Parameters:
        """Cut a flat vector of shape (n_parameters,) into the tensors of `Parameters`; no copy."""
        lead = () if self.n_networks == 1 else (self.n_networks,)
        shapes = [*self.sizes, (self.n_inputs, self.n_outputs), (sum(self.bias_sizes),)]
        blocks = flat.split([self.n_networks * math.prod(shape) for shape in shapes])
        tensors = [block.view(*lead, *shape) for block, shape in zip(blocks, shapes, strict=True)]
        return Parameters(tensors[:-2], tensors[-2], list(tensors[-1].split(self.bias_sizes, dim=-1)), tensors[-1])

    def followed_by(self, affine: Affine, flat: Tensor) -> tuple["SkipMLP", Tensor]:
        """One network, and its flat vector, that does what this one and a map of its outputs do."""
        weights, skip, biases, _ = self.views(flat)
        linear = [part @ affine.weight for part in (*weights[-1:], skip, biases[-1])]
        parts = [*weights[:-1], *linear[:-1], *biases[:-1], linear[-1] + affine.bias]
        return replace(self, n_outputs=len(affine.bias)), torch.cat([part.reshape(-1) for part in parts])

    def network(self, flat: Tensor, index: int) -> Tensor:
        """Copy the flat vector of one of the networks out of the common one."""
        if self.n_networks == 1:
            return flat.clone()
        weights, skip, _, biases = self.views(flat)
        return torch.cat([block[index].reshape(-1) for block in (*weights, skip, biases)])

    def forward(self, parameters: Parameters, x: Tensor, factors: Sequence[Tensor] = ()) -> Tensor:
        """Compute the network in differentiable operations.

        Parameters
        ----------
        parameters : Parameters
        x : Tensor of shape (..., n_samples, n_inputs)
            With several networks the third dimension from the right is theirs, or broadcasts.
        factors : sequence of Tensor of shape (..., n_samples, n_hidden)
            Dropout's, by which each hidden layer's values are multiplied: 0 or 1 / (1 - rate); empty for none.

        Returns
        -------
        outputs : Tensor of shape (..., n_samples, n_outputs)
        """
        function = ACTIVATIONS[self.activation].function
        outputs = row_product(x, parameters.skip) + parameters.biases[-1].unsqueeze(-2)
        if not self.hidden:
            return outputs
        h = x
        for i, (weight, bias) in enumerate(zip(parameters.weights[:-1], parameters.biases[:-1], strict=True)):
            h = function(row_product(h, weight) + bias.unsqueeze(-2))
            h = h * factors[i] if factors else h
        return outputs + row_product(h, parameters.weights[-1])

    def initialise(self, flat: Tensor, generator: torch.Generator) -> None:
        """Fill a flat vector: hidden weights N(0, 1 / n_in), everything else zero."""
        flat.zero_()
        for weight in self.views(flat).weights[:-1]:
            weight.normal_(0.0, 1.0 / math.sqrt(weight.shape[-2]), generator=generator)
