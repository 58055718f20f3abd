"""Columns that see those before them: p(x given z) as a product of conditional distributions, by one masked network."""

import bisect
import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from .._support.numerics import row_product
from .groups import ColumnGroups
from .likelihood import Likelihood
from .row_terms import RowTerms, with_row_terms
from .separable import Separable

__all__ = ["FARTHEST", "Autoregressive", "MaskedNetwork", "columns_of", "masked_network"]

# Scaled numbers beyond this many standard deviations look alike to the columns after them.
FARTHEST = 1e3
_NO_LEVEL = -1
_silu_backward = torch.ops.aten.silu_backward


class Autoregressive(Likelihood, RowTerms):
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
        self._terms: _RowTerms | None = None
        self._made: dict[tuple[torch.dtype, torch.device], _Constants] = {}

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "likelihood": self.likelihood.config(), "hidden": list(self.hidden)}

    @property
    def family(self) -> str:
        return self.likelihood.family

    @property
    def widths(self) -> tuple[int, ...]:
        return self.likelihood.widths

    @property
    def columns_hold(self) -> tuple[str, ...]:
        return self.likelihood.columns_hold

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
        return self._passed(x, outputs, free, shown, keep=torch.is_grad_enabled()).given

    def _passed(self, x: Tensor, outputs: Tensor, free: Tensor, shown: Tensor | None, *, keep: bool = True) -> "_Pass":
        """A pass; what a derivative needs is overwritten unless one is to ``keep`` it."""
        terms = self._row_terms(x, free, shown) if self._terms is None else self._terms
        before: list[Tensor] = []
        values = [terms.inputs]
        for weight, bias in zip(terms.weights[1:-1], terms.biases, strict=True):
            if before:
                sums = row_product(values[-1], weight).add_(bias.unsqueeze(-2))
            else:
                sums = terms.first + outputs[..., self.likelihood.n_outputs :]
            before.append(sums)
            values.append(functional.silu(sums, inplace=not keep))
        given = outputs[..., : self.likelihood.n_outputs] + terms.linear
        given = given.add_(row_product(values[-1], terms.weights[-1])) if self.hidden else given
        return _Pass(given, terms.weights, before, values)

    def _row_terms(self, x: Tensor, free: Tensor, shown: Tensor | None) -> "_RowTerms":
        made, (weights, biases) = self._constants(x), self._parameters(free)
        inputs = made.inputs(x)
        if shown is None:  # no cell is missing, and what says so is 0
            weights = [*(weight[..., : inputs.shape[-1], :] for weight in weights[:2]), *weights[2:]]
        else:
            inputs = torch.cat([inputs * shown[..., made.owner], 1.0 - shown.to(inputs)], dim=-1)
        linear, first = row_product(inputs, weights[0]), inputs.new_empty(0)
        if self.hidden:
            first = row_product(inputs, weights[1]) + biases[0].unsqueeze(-2)
        return _RowTerms(inputs, weights, biases, linear, first)

    def _with_row_terms(self, x: Tensor, free: Tensor, mask: Tensor | None) -> "Autoregressive":
        twin, (known, _, _, shown) = copy.copy(self), self._known(x, mask, x, free)
        twin._terms = self._row_terms(known, free, shown)
        twin.likelihood = with_row_terms(self.likelihood, x, self._own(free), mask)
        return twin

    def told(self, shown: Tensor | None) -> "Autoregressive":
        twin = copy.copy(self)
        twin._shown = shown
        return twin

    def log_prob(self, x: Tensor, outputs: Tensor, free: Tensor, mask: Tensor | None = None) -> Tensor:
        likelihood, given, own = self.given_cells(x, outputs, free, mask)
        return likelihood.log_prob(x, given, own, mask)

    def given_cells(
        self, x: Tensor, outputs: Tensor, free: Tensor, mask: Tensor | None = None
    ) -> tuple[Likelihood, Tensor, Tensor]:
        """The likelihood of the columns, with its outputs given the observed cells before each and its own parameters.

        Parameters
        ----------
        x : Tensor of shape (..., n_samples, n_columns)
        outputs : Tensor of shape (..., n_samples, n_outputs)
            Decoder outputs.
        free : Tensor of shape (..., n_free)
        mask : Tensor of bool of the shape of ``x``, default=None
            Which cells are observed; None for all.

        Returns
        -------
        likelihood : Likelihood
        outputs : Tensor of shape (..., n_samples, likelihood.n_outputs)
        free : Tensor of shape (..., likelihood.n_free)
        """
        return self.likelihood, self.outputs_given(*self._known(x, mask, outputs, free)), self._own(free)

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
        return self._in_turn(_mean, outputs, free)[0]

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        return self.sample_beside(None, outputs, free, generator)

    def sample_beside(self, x: Tensor | None, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        return self._in_turn(lambda cells, *given: cells.sample(*given, generator), outputs, free, x)[0]

    def expected(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self.expected_beside(None, outputs, free)

    def expected_beside(self, x: Tensor | None, outputs: Tensor, free: Tensor) -> Tensor:
        return self.likelihood.expected(self._in_turn(_mean, outputs, free, x)[1], self._own(free))

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
        return self._in_turn(_mean, outputs, free)[1]

    def _in_turn(
        self, take: Callable[..., Tensor], outputs: Tensor, free: Tensor, known: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cells that ``take`` gives, one column after the other, and the outputs given them.

        It is asked for the cells of a likelihood of the column and perhaps of others, given their outputs and their own
        free parameters.
        """
        cells = outputs.new_zeros(*outputs.shape[:-1], self.n_columns)
        course, own = _Course(self, outputs, free), self._own(free)
        for column, (group, place, of_outputs, of_free) in enumerate(columns_of(self.likelihood)):
            course.turn_to(column)
            found = take(group, course.given[..., of_outputs], own[..., of_free])[..., place]
            if known is not None:
                found = torch.where(known[..., column].isnan(), found, known[..., column])
            cells[..., column] = found
            course.tell(column, found)
        return cells, course.given

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
        known = [torch.tensor(_known_columns(width, n_columns), device=device) for width in self.hidden]
        targets = torch.tensor(self.likelihood.owners, device=device)
        masks = [sources.unsqueeze(1) < targets]
        masks += [first.unsqueeze(1) <= second for first, second in itertools.pairwise([sources, *known])]
        masks += [last.unsqueeze(1) < targets for last in known[-1:]]
        plain = set(kinds) <= {"real", "share"}
        return _Constants(owner, level, is_count, plain, [mask.to(like.dtype) for mask in masks])


def _known_columns(width: int, n_columns: int) -> list[int]:
    """A hidden unit knows the columns up to one, which differ evenly from unit to unit."""
    return [unit * (n_columns - 1) // width for unit in range(width)]


def _mean(likelihood: Likelihood, outputs: Tensor, free: Tensor) -> Tensor:
    return likelihood.mean(outputs, free)


def columns_of(likelihood: Likelihood) -> list[tuple[Likelihood, int, slice, slice]]:
    """Each column with as few others as can be.

    Parameters
    ----------
    likelihood : Likelihood

    Returns
    -------
    columns : list of tuple of (Likelihood, int, slice, slice)
        A likelihood that has the column, its place there, and where that likelihood's outputs and free parameters lie.
    """
    groups: list[tuple[Likelihood, Sequence[int]]] = [(likelihood, range(likelihood.n_columns))]
    if isinstance(likelihood, ColumnGroups):
        groups = list(zip(likelihood.likelihoods, likelihood.columns, strict=True))
    found, n_outputs, n_free = {}, 0, 0
    for group, columns in groups:
        after = n_outputs + group.n_outputs, n_free + group.n_free
        for place, column in enumerate(columns):
            alone = group._of_column(place) if isinstance(group, Separable) else None
            if alone is None:
                found[column] = (group, place, slice(n_outputs, after[0]), slice(n_free, after[1]))
            else:
                outputs = [n_outputs + i for i, owner in enumerate(group.owners) if owner == place]
                found[column] = (alone, 0, _progression(outputs), slice(n_free + place, after[1], group.n_columns))
        n_outputs, n_free = after
    return [found[column] for column in range(likelihood.n_columns)]


def _progression(places: Sequence[int]) -> slice:
    """Places that lie evenly apart, as the outputs of a column do."""
    step = places[1] - places[0] if len(places) > 1 else 1
    return slice(places[0], places[-1] + 1, step)


class _Course:
    """A pass of the network that goes column by column, and computes what each column is the first to need.

    Inputs and hidden units stand in the order of the columns that they know, so that what a column may know are the
    first of them.

    Attributes
    ----------
    given : Tensor of shape (..., n_samples, likelihood.n_outputs)
        Outputs, complete for the columns up to the one whose turn it is.
    """

    def __init__(self, likelihood: Autoregressive, outputs: Tensor, free: Tensor) -> None:
        n_outputs, n_columns = likelihood.likelihood.n_outputs, likelihood.n_columns
        self.given, self._added = outputs[..., :n_outputs].clone(), outputs[..., n_outputs:]
        self._made, (self._weights, self._biases) = likelihood._constants(outputs), likelihood._parameters(free)
        owners = [column for column, _ in likelihood._places]
        widths = [len(owners), *likelihood.hidden]
        self._values = [outputs.new_zeros(*outputs.shape[:-1], width) for width in widths]  # the inputs first
        known = [owners, *(_known_columns(width, n_columns) for width in likelihood.hidden)]
        # Of the inputs and of each hidden layer: how many know no column from this one on.
        self._ends = [[bisect.bisect_left(part, column) for column in range(n_columns + 1)] for part in known]
        places: list[list[int]] = [[] for _ in range(n_columns)]
        for place, column in enumerate(likelihood.likelihood.owners):
            places[column].append(place)
        self._outputs = [_progression(of_column) for of_column in places]

    def turn_to(self, column: int) -> None:
        """Complete the outputs of a column, from the cells of all columns before it."""
        if column == 0:
            return
        for layer, (before, values) in enumerate(itertools.pairwise(self._values)):
            units = slice(self._ends[layer + 1][column - 1], self._ends[layer + 1][column])
            if units.start == units.stop:
                continue
            weight, n_known = self._weights[layer + 1], self._ends[layer][column]
            sums = row_product(before[..., :n_known], weight[..., :n_known, units])
            sums = sums + self._biases[layer][..., units].unsqueeze(-2)
            values[..., units] = functional.silu(sums if layer else sums + self._added[..., units])
        places = self._outputs[column]
        ends = {0: self._ends[0][column]} | {len(self._weights) - 1: self._ends[-1][column]}
        for layer, n_known in ends.items():  # the linear path, and the last layer where there are any
            values = self._values[layer - 1 if layer else 0]
            weight = self._weights[layer][..., :n_known, places]
            self.given[..., places] += row_product(values[..., :n_known], weight)

    def tell(self, column: int, cells: Tensor) -> None:
        """Let the columns after this one know its cells."""
        first, last = self._ends[0][column], self._ends[0][column + 1]
        self._values[0][..., first:last] = self._made.inputs_of(column, slice(first, last), cells)


class MaskedNetwork(NamedTuple):
    """What the masked network sees of a row's cells, and which of its weights there are.

    After an input for each value comes one for each column, 1 where its cell is not shown.
    """

    columns: tuple[int, ...]  # of each input that holds a value
    levels: tuple[int, ...]  # which level it indicates, -1 where it is a number
    known: list[list[int]]  # the last column that each unit of a hidden layer knows, in ascending order
    masks: list[Tensor]  # (n_in, n_out) of the linear path and of each layer: 1 for a weight that is there


def masked_network(likelihood: Autoregressive, like: Tensor) -> MaskedNetwork:
    """The network of a likelihood, for a step that computes its passes by itself.

    Free parameters follow those of the columns' likelihood: the weights of the linear path and of each layer, by rows,
    then the biases of each hidden layer.

    Parameters
    ----------
    likelihood : Autoregressive
    like : Tensor
        Of the precision and on the device that the masks shall have.

    Returns
    -------
    network : MaskedNetwork
    """
    columns, levels = zip(*likelihood._places, strict=True)
    known = [_known_columns(width, likelihood.n_columns) for width in likelihood.hidden]
    return MaskedNetwork(columns, levels, known, likelihood._constants(like).masks)


class _RowTerms(NamedTuple):
    """What the network makes of cells before it sees decoder outputs."""

    inputs: Tensor
    weights: list[Tensor]  # masked, of the linear path and of each layer
    biases: Sequence[Tensor]  # of each hidden layer
    linear: Tensor  # what the linear path gives
    first: Tensor  # sums of the first hidden layer; empty if there is none


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

    def inputs_of(self, column: int, places: slice, cells: Tensor) -> Tensor:
        """Inputs at some places, of cells (..., n_samples) of the column that they are of."""
        values = cells.clamp(-FARTHEST, FARTHEST).unsqueeze(-1)
        if self.plain:
            return values
        values = cells.clamp_min(0.0).log1p().unsqueeze(-1) if self.is_count[column] else values
        level = self.level[places]
        return torch.where(level == _NO_LEVEL, values, (values == level).to(values))

    def inputs(self, x: Tensor) -> Tensor:
        """Values (..., n_samples, n_values) of cells (..., n_samples, n_columns)."""
        values = x.clamp(-FARTHEST, FARTHEST)
        if self.plain:
            return values
        values = torch.where(self.is_count, x.clamp_min(0.0).log1p(), values)[..., self.owner]
        return torch.where(self.level == _NO_LEVEL, values, (values == self.level).to(values))
