"""Multilayer perceptrons with a linear path beside them: layer sizes in, tensors out; no data and no loss.

Every network lives in one flat parameter vector. `SkipMLP` describes one network and computes it in ordinary
differentiable operations; `Workspace` computes the same numbers with preallocated buffers and a hand-written backward
pass, because small networks are bound by the cost of dispatching operations rather than by arithmetic. It reads its
parameters from the layout of `PackedMLP`, which folds biases and the linear path into the products.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._numerics import Affine, rounded_width, row_product

__all__ = ["ACTIVATIONS", "Activation", "PackedMLP", "Parameters", "SkipMLP", "Workspace"]

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
        """Floating-point operations of one forward pass of one row through all networks."""
        return 2.0 * self.n_networks * (sum(a * b for a, b in self.sizes) + self.n_inputs * self.n_outputs)

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
        outputs = row_product(x, parameters.skip) + parameters.biases[-1].unsqueeze(-2)
        if not self.hidden:
            return outputs
        h = x
        for weight, bias in zip(parameters.weights[:-1], parameters.biases[:-1], strict=True):
            h = function(row_product(h, weight) + bias.unsqueeze(-2))
        return outputs + row_product(h, parameters.weights[-1])

    def initialise(self, flat: Tensor, generator: torch.Generator) -> None:
        """Fill a flat vector: hidden weights N(0, 1 / n_in), everything else zero."""
        flat.zero_()
        for weight in self.views(flat).weights[:-1]:
            weight.normal_(0.0, 1.0 / math.sqrt(weight.shape[-2]), generator=generator)


class PackedMLP:
    """The numbers of a `SkipMLP` as one matrix for each layer, for buffers that hold a column of ones.

    A layer's matrix holds its weights and, in the last row, its biases. The last layer's holds the MLP's output weights
    on top of the linear path. Widths are rounded up; what fills them up is zero and stays zero in training, because its
    gradient is zero.

    Parameters
    ----------
    network : SkipMLP
    """

    def __init__(self, network: SkipMLP) -> None:
        self.network = network
        inert = ACTIVATIONS[network.activation].keeps_zero
        self.n_inputs, self.n_outputs = rounded_width(network.n_inputs), rounded_width(network.n_outputs)
        self.hidden = [rounded_width(width) if inert else width for width in network.hidden]
        self.n_joint = (self.hidden[-1] if self.hidden else 0) + self.n_inputs
        rows = [*([self.n_inputs, *self.hidden[:-1]] if self.hidden else []), self.n_joint]
        self.shapes = list(zip([n + 1 for n in rows], [*self.hidden, self.n_outputs], strict=True))

    @property
    def n_parameters(self) -> int:
        """Length of the packed vector of all networks."""
        return self.network.n_networks * sum(math.prod(shape) for shape in self.shapes)

    def matrices(self, packed: Tensor) -> list[Tensor]:
        """Cut a packed vector into one matrix for each layer; no copy."""
        n_networks = self.network.n_networks
        lead = () if n_networks == 1 else (n_networks,)
        blocks = packed.split([n_networks * math.prod(shape) for shape in self.shapes])
        return [block.view(*lead, *shape) for block, shape in zip(blocks, self.shapes, strict=True)]

    def positions(self) -> Tensor:
        """Where each number of the network's flat vector stands in the packed one."""
        network, matrices = self.network, self.matrices(torch.arange(self.n_parameters))
        ends = [*network.hidden, network.n_outputs]
        weights = [
            matrix[..., :n_in, :n_out]
            for matrix, (n_in, n_out) in zip(matrices if network.hidden else [], network.sizes, strict=True)
        ]
        linear = self.n_joint - self.n_inputs
        skip = matrices[-1][..., linear : linear + network.n_inputs, : network.n_outputs]
        biases = torch.cat([matrix[..., -1, :end] for matrix, end in zip(matrices, ends, strict=True)], dim=-1)
        return torch.cat([block.reshape(-1) for block in (*weights, skip, biases)])


class Workspace:
    """Buffers for one batch size, in which a `SkipMLP` runs forward and backward without allocating.

    Everything is bound when it is made: a pass is a list of calls without arguments.

    Parameters
    ----------
    packed : PackedMLP
    values : Tensor of shape (packed.n_parameters,)
        Parameters; read at each pass.
    n_rows : int
        Rows of every batch that goes through.
    gradient : Tensor of the shape of ``values``, or None
        Where the backward pass writes; None for a workspace that only runs forward.
    outputs, d_outputs : Tensor of shape (n_rows, packed.n_outputs), or None
        Buffers to use instead of own ones, as those of the network that comes next.
    dropout : bool
        Whether ``factors`` of the hidden layers, 0 or 1 / (1 - rate), apply.
    d_inputs : bool
        Whether the backward pass goes on to the inputs.

    Attributes
    ----------
    inputs, d_inputs, outputs, d_outputs : Tensor of shape (n_rows, width)
        Widths are the packed ones; what lies beyond the network's own must stay zero.
    factors : list of Tensor of shape (n_rows, width)
        To be filled before a pass with dropout; of the network's own widths.
    forward_calls, backward_calls : list of callable
        To be called in turn.
    """

    def __init__(
        self,
        packed: PackedMLP,
        values: Tensor,
        n_rows: int,
        gradient: Tensor | None = None,
        *,
        outputs: Tensor | None = None,
        d_outputs: Tensor | None = None,
        dropout: bool = False,
        d_inputs: bool = False,
    ) -> None:
        network = packed.network
        self._packed, self._single = packed, network.n_networks == 1
        self._activation = ACTIVATIONS[network.activation]
        self._like, self._shape = values, (*(() if self._single else (network.n_networks,)), n_rows)
        self._matrices = packed.matrices(values)
        hidden = packed.hidden
        n_last = packed.n_joint - packed.n_inputs
        joint = self._with_ones(packed.n_joint)
        self.inputs = joint[..., n_last:-1]
        # What each layer reads, ones included, and where each hidden layer's values go.
        between = [self._with_ones(width) for width in hidden[:-1]]
        self._sources = [*([joint[..., n_last:], *between] if hidden else []), joint]
        self._values = [*(part[..., :-1] for part in between), *([joint[..., :n_last]] if hidden else [])]
        in_place = self._single and self._activation.in_place and not dropout
        self._pre = self._values if in_place else [self._empty(width) for width in hidden]
        shared = self._activation.in_place if dropout else False
        self._post = (self._pre if shared else [self._empty(width) for width in hidden]) if dropout else self._values
        self.factors = [
            post.new_ones(*self._shape, width)[..., :own]
            for post, width, own in zip(self._post, hidden, network.hidden if dropout else (), strict=False)
        ]
        self.outputs = self._empty(packed.n_outputs) if outputs is None else outputs
        self.forward_calls = self._forward()
        if gradient is None:
            return
        self._gradients = packed.matrices(gradient)
        # Zeros beyond the network's own width: the likelihood writes no further.
        self.d_outputs = self._empty(packed.n_outputs).zero_() if d_outputs is None else d_outputs
        d_joint = self._empty(packed.n_joint if d_inputs else n_last)
        self._d_hidden = [*(self._empty(width) for width in hidden[:-1]), d_joint[..., :n_last]]
        self.d_inputs = d_joint[..., n_last:]
        self.backward_calls = self._backward(d_joint)

    def _empty(self, width: int) -> Tensor:
        return self._like.new_empty(*self._shape, width)

    def _with_ones(self, width: int) -> Tensor:
        """Zeros of a width, followed by a column of ones."""
        buffer = self._like.new_zeros(*self._shape, rounded_width(width + 1))[..., : width + 1]
        buffer[..., -1] = 1.0
        return buffer

    def _product(self, left: Tensor, right: Tensor, out: Tensor, *, add: bool = False) -> list[Callable[[], object]]:
        """Calls that write ``left @ right`` to ``out``, or add it."""
        if self._single or out.is_contiguous():
            plain, adding = (torch.mm, torch.addmm) if self._single else (torch.bmm, torch.baddbmm)
            return [partial(adding, out, left, right, out=out) if add else partial(plain, left, right, out=out)]
        # A batched product into a strided result falls back to a loop, at twice the time.
        scratch = out.new_empty(out.shape)
        return [partial(torch.bmm, left, right, out=scratch), partial(out.add_ if add else out.copy_, scratch)]

    def _forward(self) -> list[Callable[[], object]]:
        calls = []
        for i, (source, matrix) in enumerate(zip(self._sources[:-1], self._matrices[:-1], strict=True)):
            pre, post, value = self._pre[i], self._post[i], self._values[i]
            calls += self._product(source, matrix, pre)
            calls.append(partial(self._activation.forward, pre, post))
            if self.factors:
                own = self.factors[i].shape[-1]
                calls.append(partial(torch.mul, post[..., :own], self.factors[i], out=value[..., :own]))
        return calls + self._product(self._sources[-1], self._matrices[-1], self.outputs)

    def _backward(self, d_joint: Tensor) -> list[Callable[[], object]]:
        width = d_joint.shape[-1]
        calls = self._product(self._sources[-1].mT, self.d_outputs, self._gradients[-1])
        if width:
            calls += self._product(self.d_outputs, self._matrices[-1][..., :width, :].mT, d_joint)
        for i in reversed(range(len(self._values))):
            d = self._d_hidden[i]
            if self.factors:
                own = self.factors[i].shape[-1]
                calls.append(partial(d[..., :own].mul_, self.factors[i]))
            calls.append(partial(self._activation.backward, d, self._pre[i], self._post[i]))
            calls += self._product(self._sources[i].mT, d, self._gradients[i])
            back = self._matrices[i][..., :-1, :].mT
            if i:
                calls += self._product(d, back, self._d_hidden[i - 1])
            elif self.d_inputs.shape[-1]:
                calls += self._product(d, back, self.d_inputs, add=True)
        return calls
