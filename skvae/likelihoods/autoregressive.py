"""Columns that see those before them: p(x given z) as a product of conditional distributions, by one masked network."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from .._support.numerics import row_product
from .likelihood import Likelihood

__all__ = ["Autoregressive"]

# Scaled numbers beyond this many standard deviations look alike to the columns after them.
_FARTHEST = 1e3
_NO_LEVEL = -1
_silu_backward = torch.ops.aten.silu_backward


class Autoregressive(Likelihood):
    r"""Columns of which each depends on those before it, beside the latent code.

    *Domain*, *Link* and *Formula*: those of the likelihood of the columns, whose outputs are the decoder's plus those
    of a masked network of the cells:

    .. math:: \log p(x \mid z) = \sum_j \log p_j(x_j \mid o_j(z) + m_j(x_1, \ldots, x_{j-1}, z))

    The network has a linear path and hidden layers, into whose first one the decoder adds outputs of its own. It knows
    a number as it is, a count by its logarithm, a level by an indicator for each, and which cells are missing, whose
    values it does not know. Its last layer starts at zero: then the columns are independent given the code.

    ``mean`` and ``sample`` go column by column, each on what those before it became.

    Parameters
    ----------
    likelihood : Likelihood
        Of the columns.
    hidden : sequence of int
        Widths of the network's hidden layers.

    References
    ----------
    Germain, Gregor, Murray & Larochelle (2015), "MADE: masked autoencoder for distribution estimation",
    https://arxiv.org/abs/1502.03509, sections 3 and 4; Chen et al. (2017), "Variational lossy autoencoder",
    https://arxiv.org/abs/1611.02731, for such a decoder beside a code.

    Examples
    --------
    >>> from skvae.likelihoods import Autoregressive, Gaussian
    >>> Autoregressive(Gaussian(3), [8]).n_outputs  # a mean for each column, and 8 for the hidden layer
    11
    """

    name = "autoregressive"
    sees_columns = True

    def __init__(self, likelihood: Likelihood, hidden: Sequence[int]):
        self.likelihood, self.hidden = likelihood, tuple(int(width) for width in hidden)
        n_columns, n_outputs = likelihood.n_columns, likelihood.n_outputs
        kinds = zip(likelihood.columns_hold, likelihood.widths, strict=True)
        levels = [range(width) if kind == "level" else (_NO_LEVEL,) for kind, width in kinds]
        self._places = [(column, level) for column, of_column in enumerate(levels) for level in of_column]
        n_inputs = len(self._places) + n_columns
        widths = [n_inputs, *self.hidden, n_outputs]
        self._shapes = [(n_inputs, n_outputs), *(itertools.pairwise(widths) if self.hidden else ())]
        self._sizes = [*map(math.prod, self._shapes), *self.hidden]
        n_outputs += self.hidden[0] if self.hidden else 0
        super().__init__(n_columns, n_outputs, likelihood.n_free + sum(self._sizes))
        self.has_scale = likelihood.has_scale
        self._shown: Tensor | None = None
        self._made: dict[tuple[torch.dtype, torch.device], _Constants] = {}

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "likelihood": self.likelihood.config(), "hidden": list(self.hidden)}

    @property
    def family(self) -> str:
        return self.likelihood.family

    @property
    def widths(self) -> tuple[int, ...]:
        return self.likelihood.widths

    def with_cells(self, change: Callable[[Likelihood], Likelihood]) -> "Autoregressive":
        twin = copy.copy(self)
        twin.likelihood = change(self.likelihood)
        return twin

    def initial_free(self) -> list[float]:
        values = torch.zeros(self.n_free)
        values[: self.likelihood.n_free] = torch.tensor(self.likelihood.initial_free())
        generator = torch.Generator().manual_seed(0)
        parts = values[self.likelihood.n_free :].split(self._sizes)
        for part, shape, mask in list(zip(parts, self._shapes, self._constants(values).masks, strict=False))[1:-1]:
            fan_in = mask.sum(dim=0).clamp_min(1.0)
            part.copy_((torch.randn(shape, generator=generator) / fan_in.sqrt()).flatten())
        return values.tolist()

    def linear_free(self, noise_variance: Tensor) -> Tensor:
        free = noise_variance.new_tensor(self.initial_free())
        free[: self.likelihood.n_free] = self.likelihood.linear_free(noise_variance)
        return free

    def with_noise(self, free: Tensor, log_factor: Tensor) -> Tensor:
        own, network = free.split([self.likelihood.n_free, free.shape[-1] - self.likelihood.n_free])
        return torch.cat([self.likelihood.with_noise(own, log_factor), network])

    def linear_outputs(self, mean: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        surplus = (0, self.n_outputs - self.likelihood.n_outputs)
        bias, weight = self.likelihood.linear_outputs(mean, loadings)
        return functional.pad(bias, surplus), functional.pad(weight, surplus)

    def outputs_given(self, x: Tensor, outputs: Tensor, free: Tensor, shown: Tensor | None = None) -> Tensor:
        """Outputs that parametrise the likelihood of the columns, each given the cells before it.

        Parameters
        ----------
        x : Tensor of shape (..., n_samples, n_columns)
            Cells, none of them NaN.
        outputs : Tensor of shape (..., n_samples, n_outputs)
            Decoder outputs.
        free : Tensor of shape (..., n_free)
            Free parameters.
        shown : Tensor of bool of shape (..., n_samples, n_columns), default=None
            Which cells the columns after them know; None for all.

        Returns
        -------
        outputs : Tensor of shape (..., n_samples, likelihood.n_outputs)
        """
        return self._passed(x, outputs, free, shown).given

    def _passed(self, x: Tensor, outputs: Tensor, free: Tensor, shown: Tensor | None) -> "_Pass":
        made, (weights, biases) = self._constants(x), self._parameters(free)
        inputs = made.inputs(x)
        if shown is None:  # no cell is missing, and what says so is 0
            weights = [*(weight[..., : inputs.shape[-1], :] for weight in weights[:2]), *weights[2:]]
        else:
            inputs = torch.cat([inputs * shown[..., made.owner], 1.0 - shown.to(inputs)], dim=-1)
        before: list[Tensor] = []
        values = [inputs]
        for weight, bias in zip(weights[1:-1], biases, strict=True):
            sums = row_product(values[-1], weight) + bias.unsqueeze(-2)
            before.append(sums if before else sums + outputs[..., self.likelihood.n_outputs :])
            values.append(functional.silu(before[-1]))
        given = outputs[..., : self.likelihood.n_outputs] + row_product(inputs, weights[0])
        given = given + row_product(values[-1], weights[-1]) if self.hidden else given
        return _Pass(given, weights, before, values)

    def told(self, shown: Tensor | None) -> "Autoregressive":
        twin = copy.copy(self)
        twin._shown = shown
        return twin

    def log_prob(self, x: Tensor, outputs: Tensor, free: Tensor, mask: Tensor | None = None) -> Tensor:
        given = self.outputs_given(*self._known(x, mask, outputs, free))
        return self.likelihood.log_prob(x, given, self._own(free), mask)

    def _known(
        self, x: Tensor, mask: Tensor | None, outputs: Tensor, free: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What `outputs_given` takes: a cell that is missing is neither read nor shown."""
        if mask is None:
            return x, outputs, free, self._shown
        return torch.where(mask, x, 0), outputs, free, mask if self._shown is None else self._shown & mask

    def loss_gradient(
        self,
        x: Tensor,
        outputs: Tensor,
        free: Tensor,
        row_weight: Tensor | None = None,
        mask: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        passed = self._passed(*self._known(x, mask, outputs, free))
        loss, d_given, d_own = self.likelihood.loss_gradient(x, passed.given, self._own(free), row_weight, mask)
        d_weights, d = [passed.values[0].mT @ d_given], d_given
        d_biases: list[Tensor] = []
        for index in reversed(range(len(passed.weights) - 1)):  # dL/dW_i = H_i^T dL/dA_i
            d_weights.insert(1, passed.values[index].mT @ d)
            if index:  # dL/dA_{i-1} = dL/dA_i W_i^T f'(A_{i-1})
                d = _silu_backward(d @ passed.weights[index + 1].mT, passed.before[index - 1])
                d_biases.insert(0, d.sum(-2))
        d_outputs = torch.cat([d_given, d], -1) if self.hidden else d_given
        d_parts = [self._of_free(part, index, free) for index, part in enumerate((*d_weights, *d_biases))]
        return loss, d_outputs if out is None else out.copy_(d_outputs), torch.cat([d_own, *d_parts], -1)

    def _of_free(self, d: Tensor, index: int, free: Tensor) -> Tensor:
        """Derivative by a block of the free parameters, of that by its matrix or its biases."""
        if index < len(self._shapes):
            d = functional.pad(d, (0, 0, 0, self._shapes[index][0] - d.shape[-2]))
            d = (d * self._constants(free).masks[index]).flatten(-2)
        return d.sum_to_size(*free.shape[:-1], d.shape[-1])

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        return self.log_prob(x, outputs, free)

    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self._in_turn(self.likelihood.mean, outputs, free)

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        return self.sample_beside(None, outputs, free, generator)

    def sample_beside(self, x: Tensor | None, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        return self._in_turn(lambda given, own: self.likelihood.sample(given, own, generator), outputs, free, x)

    def expected(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self.expected_beside(None, outputs, free)

    def expected_beside(self, x: Tensor | None, outputs: Tensor, free: Tensor) -> Tensor:
        cells = self._in_turn(self.likelihood.mean, outputs, free, x)
        return self.likelihood.expected(self.outputs_given(cells, outputs, free), self._own(free))

    def scale(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self.likelihood.scale(self._expected_outputs(outputs, free), self._own(free))

    def expected_log_prob(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self.likelihood.expected_log_prob(self._expected_outputs(outputs, free), self._own(free))

    def cells(self, expected: Tensor) -> Tensor:
        return self.likelihood.cells(expected)

    def check(self, column: Any, name: str, *, index: int = 0) -> None:
        self.likelihood.check(column, name, index=index)

    def _in_domain(self, column: Tensor, index: int) -> Tensor:
        return self.likelihood._in_domain(column, index)

    def _expected_outputs(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self.outputs_given(self.mean(outputs, free), outputs, free)

    def _in_turn(
        self, take: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, free: Tensor, known: Tensor | None = None
    ) -> Tensor:
        """Cells that a function of the outputs and of the own free parameters gives, one column after the other."""
        cells = outputs.new_zeros(*outputs.shape[:-1], self.n_columns)
        own = self._own(free)
        for column in range(self.n_columns):
            found = take(self.outputs_given(cells, outputs, free), own)[..., column]
            if known is not None:
                found = torch.where(known[..., column].isnan(), found, known[..., column])
            cells[..., column] = found
        return cells

    def _own(self, free: Tensor) -> Tensor:
        return free[..., : self.likelihood.n_free]

    def _parameters(self, free: Tensor) -> tuple[list[Tensor], Sequence[Tensor]]:
        """Masked weights of the linear path and of each layer, and the biases of the hidden ones."""
        parts = free[..., self.likelihood.n_free :].split(self._sizes, -1)
        layers = zip(parts, self._shapes, self._constants(free).masks, strict=False)
        weights = [part.unflatten(-1, shape) * mask for part, shape, mask in layers]
        return weights, parts[len(weights) :]

    def _constants(self, like: Tensor) -> "_Constants":
        """Masks and places of inputs in the precision and on the device of ``like``, made once."""
        key = (like.dtype, like.device)
        if key not in self._made:
            with torch.inference_mode(mode=False):
                self._made[key] = self._constants_of(like)
        return self._made[key]

    def _constants_of(self, like: Tensor) -> "_Constants":
        n_columns, device = self.n_columns, like.device
        owner, level = (torch.tensor(part, device=device) for part in zip(*self._places, strict=True))
        kinds = self.likelihood.columns_hold
        is_count = torch.tensor([kind == "count" for kind in kinds], device=device)
        sources = torch.cat([owner, torch.arange(n_columns, device=device)])
        # A hidden unit knows the columns up to one, which differ evenly from unit to unit.
        known = [torch.arange(width, device=device) * (n_columns - 1) // width for width in self.hidden]
        targets = torch.tensor(self.likelihood.owners, device=device)
        masks = [sources.unsqueeze(1) < targets]
        masks += [first.unsqueeze(1) <= second for first, second in itertools.pairwise([sources, *known])]
        masks += [last.unsqueeze(1) < targets for last in known[-1:]]
        plain = set(kinds) <= {"real", "share"}
        return _Constants(owner, level, is_count, plain, [mask.to(like.dtype) for mask in masks])


class _Pass(NamedTuple):
    """A pass of the network: outputs, masked weights, and each hidden layer before and after its activation."""

    given: Tensor
    weights: list[Tensor]  # of the linear path and of each layer
    before: list[Tensor]
    values: list[Tensor]  # the inputs first


class _Constants(NamedTuple):
    """What the network knows of the columns, in one precision on one device."""

    owner: Tensor  # (n_values,), column of each input that holds a value
    level: Tensor  # (n_values,), which level it indicates
    is_count: Tensor  # (n_columns,)
    plain: bool  # whether all columns hold numbers that enter as they are
    masks: list[Tensor]  # of the linear path and of each layer: 1 where an output may know an input

    def inputs(self, x: Tensor) -> Tensor:
        """Values (..., n_samples, n_values) of cells (..., n_samples, n_columns)."""
        values = x.clamp(-_FARTHEST, _FARTHEST)
        if self.plain:
            return values
        values = torch.where(self.is_count, x.clamp_min(0.0).log1p(), values)[..., self.owner]
        return torch.where(self.level == _NO_LEVEL, values, (values == self.level).to(values))
