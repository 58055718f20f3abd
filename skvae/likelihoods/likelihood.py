"""What a likelihood offers, and several of them side by side; the families are in `likelihoods`."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

__all__ = ["Buffers", "ColumnGroups", "Likelihood"]


class Buffers(NamedTuple):
    """Where a training step keeps what a likelihood reads and writes, batch after batch.

    Outputs may have columns beyond the likelihood's own, which hold zeros.
    """

    outputs: Tensor  # (..., n_rows, at least n_outputs), contiguous
    free: Tensor  # (..., n_free)
    d_outputs: Tensor  # of the shape of ``outputs``
    d_free: Tensor  # (..., n_free)
    loss: Tensor  # (...)


class Likelihood(ABC):
    """What p(x given z) of a group of columns has to offer; a subclass needs no gradient of its own.

    Parameters
    ----------
    n_columns : int
        Number of columns of the group.
    n_outputs : int
        Number of decoder outputs that the group reads.
    n_free : int
        Number of learned parameters that do not depend on the row.
    """

    name: ClassVar[str]
    domain: ClassVar[str]
    remedy: ClassVar[str]
    has_scale: bool = False
    mean_is_outputs: bool = False  # whether ``mean`` returns the decoder's outputs as they are

    def __init__(self, n_columns: int, n_outputs: int, n_free: int):
        if n_columns < 1:
            raise ValueError(f"n_columns must be at least 1, but {n_columns} came. Leave an empty group out.")
        self.n_columns = int(n_columns)
        self.n_outputs = int(n_outputs)
        self.n_free = int(n_free)

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain Python values from which ``make_likelihood`` builds the same object.

        Returns
        -------
        config : dict
            The name under "name", and the arguments of the constructor.
        """

    @abstractmethod
    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        """Log-density of each cell, all cells observed."""

    @abstractmethod
    def _in_domain(self, column: Tensor, index: int) -> Tensor:
        """Tell which values of a column the density covers."""

    @abstractmethod
    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        """Expected value of each cell; for categorical columns the code of the likeliest level.

        Parameters
        ----------
        outputs : Tensor of shape (..., n_samples, n_outputs)
            Decoder outputs.
        free : Tensor of shape (..., n_free)
            Free parameters.

        Returns
        -------
        mean : Tensor of shape (..., n_samples, n_columns)
            Expected values, in the units of x.
        """

    @abstractmethod
    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        """Draw each cell once, with randomness from ``generator`` alone.

        Parameters
        ----------
        outputs : Tensor of shape (..., n_samples, n_outputs)
            Decoder outputs.
        free : Tensor of shape (..., n_free)
            Free parameters.
        generator : torch.Generator
            Source of randomness, on the device of ``outputs``.

        Returns
        -------
        draw : Tensor of shape (..., n_samples, n_columns)
            One draw per cell, in the units of x.
        """

    def scale(self, outputs: Tensor, free: Tensor) -> Tensor:
        """Standard deviation of the noise in each cell, where ``has_scale`` is true.

        Parameters
        ----------
        outputs : Tensor of shape (..., n_samples, n_outputs)
            Decoder outputs.
        free : Tensor of shape (..., n_free)
            Free parameters.

        Returns
        -------
        scale : Tensor of shape (..., n_samples, n_columns)
            Standard deviations, in the units of x.

        Raises
        ------
        NotImplementedError
            If ``has_scale`` is false: the family has no scale parameter.
        """
        raise NotImplementedError(
            f"scale needs a likelihood with a scale of its own, but {self.name!r} has none. Ask has_scale first."
        )

    def expected_log_prob(self, outputs: Tensor, free: Tensor) -> Tensor:
        """Log-density that a cell has in expectation over its own distribution: minus its entropy.

        Exact for Gaussian, binary and categorical cells. For the others it is the log-density of the mean less 1/2,
        which a Gaussian of that height at its mean would have.

        Parameters
        ----------
        outputs : Tensor of shape (..., n_samples, n_outputs)
            Decoder outputs.
        free : Tensor of shape (..., n_free)
            Free parameters.

        Returns
        -------
        expected : Tensor of shape (..., n_samples, n_columns)
            In nats.
        """
        return self._log_prob(self.mean(outputs, free), outputs, free) - 0.5

    def initial_free(self) -> list[float]:
        """Values of the free parameters at the start of training.

        Returns
        -------
        free : list of float of length n_free
            In the order of their blocks.
        """
        return [0.0] * self.n_free

    @property
    def widths(self) -> tuple[int, ...]:
        """How many numbers the expectation of each column has: one, or one for each level of a categorical column."""
        return (1,) * self.n_columns

    def expected(self, outputs: Tensor, free: Tensor) -> Tensor:
        """Expectation of each cell, which may be averaged over codes: the mean, or the probabilities of its levels.

        Parameters
        ----------
        outputs : Tensor of shape (..., n_samples, n_outputs)
            Decoder outputs.
        free : Tensor of shape (..., n_free)
            Free parameters.

        Returns
        -------
        expected : Tensor of shape (..., n_samples, sum(widths))
        """
        return self.mean(outputs, free)

    def cells(self, expected: Tensor) -> Tensor:
        """Cells (..., n_samples, n_columns) of what `expected` returns: the mean, or the code of the likeliest level.

        Parameters
        ----------
        expected : Tensor of shape (..., n_samples, sum(widths))

        Returns
        -------
        cells : Tensor of shape (..., n_samples, n_columns)
            In the units of x.
        """
        return expected

    def linear_free(self, noise_variance: Tensor) -> Tensor:
        """Values of the free parameters where a linear model leaves some noise.

        Parameters
        ----------
        noise_variance : Tensor of shape (sum(widths),)
            In the units of x, squared.

        Returns
        -------
        free : Tensor of shape (n_free,)
        """
        return noise_variance.new_tensor(self.initial_free())

    def linear_outputs(self, mean: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder outputs whose expected row is, to first order in z, ``mean + z @ loadings``.

        A decoder that starts there begins with what a linear model knows; one that starts at zero tends to ignore z.

        Parameters
        ----------
        mean : Tensor of shape (sum(widths),)
            As `expected` gives it, in the units of x.
        loadings : Tensor of shape (n_components, sum(widths))

        Returns
        -------
        bias : Tensor of shape (n_outputs,)
        weight : Tensor of shape (n_components, n_outputs)
        """
        surplus = (0, self.n_outputs - self.n_columns)
        return functional.pad(mean, surplus), functional.pad(loadings, surplus)

    def log_prob(self, x: Tensor, outputs: Tensor, free: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of each cell, constants included.

        Parameters
        ----------
        x : Tensor of shape (..., n_samples, n_columns)
            Values of the columns. May be NaN where the mask is False.
        outputs : Tensor of shape (..., n_samples, n_outputs)
            Decoder outputs. Further leading dimensions (draws, networks) broadcast against x.
        free : Tensor of shape (..., n_free)
            Free parameters, one set per network.
        mask : Tensor of bool of shape (..., n_samples, n_columns), default=None
            True where the cell is observed. The other cells get 0, so that a row's sum is the marginal of its
            observed cells. None means that all are observed.

        Returns
        -------
        log_prob : Tensor of shape (..., n_samples, n_columns)
            Log-density or log-mass of each cell, in nats.
        """
        if mask is None:
            return self._log_prob(x, outputs, free)
        return torch.where(mask, self._log_prob(torch.where(mask, x, 0), outputs, free), 0)

    def loss_gradient(
        self,
        x: Tensor,
        outputs: Tensor,
        free: Tensor,
        row_weight: Tensor | None = None,
        mask: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted negative log-likelihood of a batch and its exact derivatives, for one step of the optimiser.

        .. math:: L = -\\sum_i w_i \\sum_j \\log p(x_{ij} \\mid z_i)

        Call it under ``torch.no_grad`` or ``torch.inference_mode``: the result carries no graph.

        Parameters
        ----------
        x : Tensor of shape (..., n_samples, n_columns)
            Values of the columns. May be NaN where the mask is False.
        outputs : Tensor of shape (..., n_samples, n_outputs)
            Decoder outputs, with every leading dimension that x or free has.
        free : Tensor of shape (..., n_free)
            Free parameters, one set per network.
        row_weight : Tensor of shape (..., n_samples), default=None
            Weight of each row, in the dtype of ``outputs``. None means 1.
        mask : Tensor of bool of shape (..., n_samples, n_columns), default=None
            True where the cell is observed. None means everywhere.
        out : Tensor of shape (..., n_samples, n_outputs), default=None
            Receives the derivative by ``outputs``; its rows may lie apart, its last stride is 1.

        Returns
        -------
        loss : Tensor of shape (...)
            Summed over rows and columns, in nats; one number per leading index of ``outputs``.
        d_outputs : Tensor of shape (..., n_samples, n_outputs)
            Derivative by ``outputs``: ``out`` itself where given.
        d_free : Tensor of shape (..., n_free)
            Derivative by ``free``.
        """
        return self._loss_gradient(x, outputs, free, _cell_weight(outputs, row_weight, mask), mask, out)

    def gradient_in(self, buffers: Buffers) -> Callable[[Tensor], object] | None:
        """What `loss_gradient` gives for complete rows of weight 1, written to buffers that are made once.

        Parameters
        ----------
        buffers : Buffers

        Returns
        -------
        gradient : callable or None
            Of rows of shape (..., n_rows, n_columns); reads outputs and free parameters, writes the derivatives and the
            loss. None where there is no shorter way than `loss_gradient`.
        """
        return None

    def _loss_gradient(
        self, x: Tensor, outputs: Tensor, free: Tensor, weight: Tensor | None, mask: Tensor | None, out: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same by autograd; ``weight`` combines the row weight and the mask, None where all cells count once."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            leaf_outputs, leaf_free = outputs.detach().clone().requires_grad_(), free.detach().clone().requires_grad_()
            cells = self.log_prob(_recordable(x), leaf_outputs, leaf_free, None if mask is None else _recordable(mask))
            loss = -(cells if weight is None else cells * _recordable(weight)).sum((-2, -1))
            d_outputs, d_free = torch.autograd.grad(loss.sum(), (leaf_outputs, leaf_free), materialize_grads=True)
        return loss.detach(), d_outputs if out is None else out.copy_(d_outputs), d_free

    def check(self, column: Any, name: str, *, index: int = 0) -> None:
        """Refuse a column that the likelihood cannot describe.

        Parameters
        ----------
        column : array or Tensor of shape (n_samples,)
            Values of the column; NaN counts as missing and passes.
        name : str
            Name of the column, for the message.
        index : int, default=0
            Position of the column in the group; categorical columns differ in their levels.

        Raises
        ------
        ValueError
            If a value lies outside the domain.
        """
        # A copy: torch warns about read-only arrays (memory maps), even where nobody writes.
        values = column if isinstance(column, Tensor) else torch.tensor(column)
        invalid = (~(self._in_domain(values, index) | values.isnan())).nonzero()
        if len(invalid):
            row = int(invalid[0, 0])
            raise ValueError(
                f"Column {name!r} must {self._domain_of(index)} for likelihood {self.name!r}, "
                f"but row {row} holds {values[row].item()!r}. {self.remedy}"
            )

    def _domain_of(self, index: int) -> str:
        return self.domain

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Likelihood) and self.config() == other.config()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        arguments = (f"{key}={value!r}" for key, value in self.config().items() if key != "name")
        return f"{type(self).__name__}({', '.join(arguments)})"


class ColumnGroups(Likelihood):
    """Groups of columns, each with a likelihood of its own; outputs and free parameters come group after group.

    *Domain*, *Link* and *Formula*: those of each group.

    ``scale`` is NaN in the columns of a group without one.

    Parameters
    ----------
    likelihoods : sequence of Likelihood
        The groups.
    columns : sequence of sequences of int, default=None
        The columns of each group, in ascending order. None means that they follow each other, group after group.

    Examples
    --------
    >>> from skvae.likelihoods import Bernoulli, ColumnGroups, Gaussian
    >>> groups = ColumnGroups([Gaussian(3), Bernoulli(2)])
    >>> groups.n_columns, groups.n_outputs, groups.n_free
    (5, 5, 3)
    >>> ColumnGroups([Gaussian(3), Bernoulli(2)], [[0, 2, 3], [1, 4]]).n_columns
    5
    """

    name = "column_groups"

    def __init__(self, likelihoods: Sequence[Likelihood], columns: Sequence[Sequence[int]] | None = None):
        self.likelihoods = tuple(likelihoods)
        n_columns = sum(group.n_columns for group in self.likelihoods)
        super().__init__(
            n_columns,
            sum(group.n_outputs for group in self.likelihoods),
            sum(group.n_free for group in self.likelihoods),
        )
        self.has_scale = any(group.has_scale for group in self.likelihoods)
        ends = [0, *itertools.accumulate(group.n_columns for group in self.likelihoods)]
        successive = [tuple(range(*ends_of_group)) for ends_of_group in itertools.pairwise(ends)]
        self.columns = successive if columns is None else [tuple(map(int, own)) for own in columns]
        if [len(own) for own in self.columns] != [group.n_columns for group in self.likelihoods] or sorted(
            itertools.chain(*self.columns)
        ) != list(range(n_columns)):
            raise ValueError(
                f"columns must hold each of the {n_columns} columns once, as many for each group as it describes, but "
                f"{self.columns} came. Leave 'columns' out where the groups follow each other."
            )
        self._in_order = self.columns == successive
        self._indices: dict[torch.device, list[Tensor]] = {}
        widths = dict(zip(itertools.chain(*self.columns), (w for g in self.likelihoods for w in g.widths), strict=True))
        self._widths = tuple(widths[column] for column in range(n_columns))

    def config(self) -> dict[str, Any]:
        config = {"name": self.name, "likelihoods": [group.config() for group in self.likelihoods]}
        return config if self._in_order else config | {"columns": [list(own) for own in self.columns]}

    @property
    def widths(self) -> tuple[int, ...]:
        return self._widths

    def initial_free(self) -> list[float]:
        return [value for group in self.likelihoods for value in group.initial_free()]

    def linear_free(self, noise_variance: Tensor) -> Tensor:
        parts = zip(self.likelihoods, self._expected_parts(noise_variance), strict=True)
        return torch.cat([group.linear_free(part) for group, part in parts])

    def linear_outputs(self, mean: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        columns = zip(self.likelihoods, self._expected_parts(mean), self._expected_parts(loadings), strict=True)
        bias, weight = zip(*(group.linear_outputs(*part) for group, *part in columns), strict=True)
        return torch.cat(bias), torch.cat(weight, -1)

    def _parts(self, outputs: Tensor, free: Tensor) -> Iterator[tuple[Likelihood, Tensor, Tensor]]:
        output_parts = outputs.split([group.n_outputs for group in self.likelihoods], -1)
        free_parts = free.split([group.n_free for group in self.likelihoods], -1)
        return zip(self.likelihoods, output_parts, free_parts, strict=True)

    def _positions(self) -> list[list[int]]:
        """Where each group's numbers lie in a row of expectations."""
        ends = [0, *itertools.accumulate(self._widths)]
        return [[place for column in own for place in range(ends[column], ends[column + 1])] for own in self.columns]

    def _expected_parts(self, values: Tensor) -> list[Tensor]:
        return [values[..., places] for places in self._positions()]

    def _columns(self, cells: Tensor) -> Sequence[Tensor]:
        if self._in_order:
            return cells.split([group.n_columns for group in self.likelihoods], -1)
        if cells.device not in self._indices:  # made once: a step of the training spends more on lists than on cells
            with torch.inference_mode(mode=False):
                self._indices[cells.device] = [torch.tensor(own, device=cells.device) for own in self.columns]
        return [cells.index_select(-1, own) for own in self._indices[cells.device]]

    def _join(self, compute: Callable[[Likelihood, Tensor, Tensor], Tensor], outputs: Tensor, free: Tensor) -> Tensor:
        return self._merge([compute(*part) for part in self._parts(outputs, free)], self.columns)

    def _merge(self, parts: Sequence[Tensor], places: Sequence[Sequence[int]]) -> Tensor:
        """Put what the groups gave in the order of the columns."""
        joined = torch.cat(list(parts), -1)
        if self._in_order:
            return joined
        order = torch.tensor(list(itertools.chain(*places))).argsort()
        return joined.index_select(-1, order.to(joined.device))

    def expected(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self._merge([group.expected(*part) for group, *part in self._parts(outputs, free)], self._positions())

    def cells(self, expected: Tensor) -> Tensor:
        parts = zip(self.likelihoods, self._expected_parts(expected), strict=True)
        return self._merge([group.cells(part) for group, part in parts], self.columns)

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        if len(self.likelihoods) == 1:
            return self.likelihoods[0].log_prob(x, outputs, free)
        columns = iter(self._columns(x))
        return self._join(lambda group, *parameters: group.log_prob(next(columns), *parameters), outputs, free)

    def loss_gradient(
        self,
        x: Tensor,
        outputs: Tensor,
        free: Tensor,
        row_weight: Tensor | None = None,
        mask: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if len(self.likelihoods) == 1:
            return self.likelihoods[0].loss_gradient(x, outputs, free, row_weight, mask, out)
        d_outputs = torch.empty_like(outputs) if out is None else out
        masks = [None] * len(self.likelihoods) if mask is None else self._columns(mask)
        losses, d_free = [], []
        parts = zip(self._columns(x), self._parts(outputs, free), self._parts(d_outputs, free), masks, strict=True)
        for x_part, (group, output_part, free_part), (_, d_output_part, _), mask_part in parts:
            loss, _, d_free_part = group.loss_gradient(
                x_part, output_part, free_part, row_weight, mask_part, d_output_part
            )
            losses.append(loss)
            d_free.append(d_free_part)
        return torch.stack(losses).sum(0), d_outputs, torch.cat(d_free, -1)

    def gradient_in(self, buffers: Buffers) -> Callable[[Tensor], object] | None:
        return self.likelihoods[0].gradient_in(buffers) if len(self.likelihoods) == 1 else None

    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self._join(lambda group, *parameters: group.mean(*parameters), outputs, free)

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        return self._join(lambda group, *parameters: group.sample(*parameters, generator), outputs, free)

    def expected_log_prob(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self._join(lambda group, *parameters: group.expected_log_prob(*parameters), outputs, free)

    def scale(self, outputs: Tensor, free: Tensor) -> Tensor:
        if not self.has_scale:
            return super().scale(outputs, free)

        def scale_or_nan(group: Likelihood, outputs: Tensor, free: Tensor) -> Tensor:
            if group.has_scale:
                return group.scale(outputs, free)
            return outputs.new_full((*outputs.shape[:-1], group.n_columns), math.nan)

        return self._join(scale_or_nan, outputs, free)

    def check(self, column: Any, name: str, *, index: int = 0) -> None:
        for group, own in zip(self.likelihoods, self.columns, strict=True):
            if index in own:
                group.check(column, name, index=own.index(index))
                return
        raise ValueError(
            f"index must be below n_columns={self.n_columns}, but {index} came. Count the columns of all groups from 0."
        )

    def _in_domain(self, column: Tensor, index: int) -> Tensor:
        raise NotImplementedError("check asks the column's own group.")


def _recordable(tensor: Tensor) -> Tensor:
    """A tensor that autograd may save: tensors made under ``inference_mode`` have to be copied."""
    return tensor.clone() if tensor.is_inference() else tensor


def _cell_weight(outputs: Tensor, row_weight: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Weight of each cell, 0 where it is missing; (..., n_samples, 1 or n_columns), None where all are 1."""
    if row_weight is None:
        return None if mask is None else mask.to(outputs.dtype)
    return row_weight.unsqueeze(-1) if mask is None else row_weight.unsqueeze(-1) * mask
