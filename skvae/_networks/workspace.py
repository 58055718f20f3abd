"""A network of `mlp` in preallocated buffers, with a backward pass by hand."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .._support.numerics import rounded_width
from .mlp import ACTIVATIONS, SkipMLP

__all__ = ["PackedMLP", "Workspace"]


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

    def pack(self, flat: Tensor, packed: Tensor) -> Tensor:
        """Write the network's flat vector into a packed one, which is returned."""
        for to, source in self.pairs(packed, flat):
            to.copy_(source)
        return packed

    def pairs(self, packed: Tensor, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views of the same numbers in the packed vector and in the flat one."""
        network, matrices = self.network, self.matrices(packed)
        weights, skip, biases, _ = network.views(flat)
        linear = self.n_joint - self.n_inputs
        places = [
            *(
                matrix[..., : weight.shape[-2], : weight.shape[-1]]
                for matrix, weight in zip(matrices[: len(weights)], weights, strict=True)
            ),
            matrices[-1][..., linear : linear + network.n_inputs, : network.n_outputs],
            *(matrix[..., -1, : bias.shape[-1]] for matrix, bias in zip(matrices, biases, strict=True)),
        ]
        return list(zip(places, [*weights, skip, *biases], strict=True))


class Workspace:
    r"""Buffers for one batch size, in which a `SkipMLP` runs forward and backward without allocating.

    Everything is bound when it is made: a pass is a list of calls without arguments. Its layers count from 0, the last
    hidden one is H. With their matrices :math:`W_i`, whose last rows hold the biases, the activation f and dropout's
    factors :math:`m_i`,

    .. math:: A_i = [H_{i-1} \; 1] W_i, \quad H_i = m_i f(A_i), \quad H_{-1} = X, \quad Y = [H \; X \; 1] W_n

    The comments name the derivatives of a loss L by these; ``d_outputs`` holds dL/dY.

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
        joint = self._with_ones(packed.n_joint)  # [H X 1]
        self.inputs = joint[..., n_last:-1]
        # What each layer reads, [H_{i-1} 1] and at last [H X 1], and where each H_i goes.
        between = [self._with_ones(width) for width in hidden[:-1]]
        self._sources = [*([joint[..., n_last:], *between] if hidden else []), joint]
        self._values = [*(part[..., :-1] for part in between), *([joint[..., :n_last]] if hidden else [])]
        # Without dropout H_i is f(A_i). That takes the place of A_i where f' can be told from it, but not where a
        # batched product would have to write to the place of H_i: it is slow there, beside the ones.
        in_place = self._single and self._activation.in_place and not dropout
        self._pre = self._values if in_place else [self._empty(width) for width in hidden]
        shared = self._activation.in_place if dropout else False
        self._post = (self._pre if shared else [self._empty(width) for width in hidden]) if dropout else self._values
        self.factors = [
            post.new_ones(*self._shape, width)[..., :n_units]
            for post, width, n_units in zip(self._post, hidden, network.hidden if dropout else (), strict=False)
        ]
        self.outputs = self._empty(packed.n_outputs) if outputs is None else outputs
        self.forward_calls = self._forward()
        if gradient is None:
            return
        self._gradients = packed.matrices(gradient)  # dL/dW_i
        # Zeros beyond the network's own width: the likelihood writes no further.
        self.d_outputs = self._empty(packed.n_outputs).zero_() if d_outputs is None else d_outputs
        # dL/d[H X], to which the first layer's part of dL/dX is added; dL/dH alone without ``d_inputs``.
        d_joint = self._empty(packed.n_joint if d_inputs else n_last)
        self._d_hidden = [*(self._empty(width) for width in hidden[:-1]), d_joint[..., :n_last]]
        self.d_inputs = d_joint[..., n_last:]  # dL/dX
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
                n_units = self.factors[i].shape[-1]
                calls.append(partial(torch.mul, post[..., :n_units], self.factors[i], out=value[..., :n_units]))
        return calls + self._product(self._sources[-1], self._matrices[-1], self.outputs)

    def _backward(self, d_joint: Tensor) -> list[Callable[[], object]]:
        width = d_joint.shape[-1]
        # dL/dW_n = [H X 1]^T dL/dY
        calls = self._product(self._sources[-1].mT, self.d_outputs, self._gradients[-1])
        if width:  # dL/d[H X] = dL/dY W_n^T, the biases' row left out
            calls += self._product(self.d_outputs, self._matrices[-1][..., :width, :].mT, d_joint)
        for i in reversed(range(len(self._values))):
            d = self._d_hidden[i]  # dL/dH_i
            if self.factors:  # dL/df(A_i) = dL/dH_i m_i
                n_units = self.factors[i].shape[-1]
                calls.append(partial(d[..., :n_units].mul_, self.factors[i]))
            # dL/dA_i = dL/df(A_i) f'(A_i)
            calls.append(partial(self._activation.backward, d, self._pre[i], self._post[i]))
            # dL/dW_i = [H_{i-1} 1]^T dL/dA_i
            calls += self._product(self._sources[i].mT, d, self._gradients[i])
            back = self._matrices[i][..., :-1, :].mT
            if i:  # dL/dH_{i-1} = dL/dA_i W_i^T, the biases' row left out
                calls += self._product(d, back, self._d_hidden[i - 1])
            elif self.d_inputs.shape[-1]:  # dL/dX has this beside what the linear path gave
                calls += self._product(d, back, self.d_inputs, add=True)
        return calls
