"""What a likelihood offers; the families are in the files beside this one, and by name in `likelihoods`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from .._support.graph import Graph, no_graph
from .._support.numerics import cell_weight, recordable

__all__ = ["Buffers", "Likelihood"]


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

    A family says what it is in the attributes below; all others read it there, and know no family by name.

    Parameters
    ----------
    n_columns : int
        Number of columns of the group.
    n_outputs : int
        Number of decoder outputs that the group reads.
    n_free : int
        Number of learned parameters that do not depend on the row.

    Attributes
    ----------
    name : str
        Key of the family in ``LIKELIHOODS``.
    values : {"real", "count", "share", "level"}
        What a cell holds: a finite number, which is scaled before it trains; a number of events, whose logarithm the
        encoder sees; a number in [0, 1]; the code of a category. Only numbers that are "real" are ever scaled.
    takes_scale : bool
        Whether the constructor takes ``scale`` and ``floor``.
    domain : str
        What the values of a column must do: completes "Column 'a' must ...".
    remedy : str
        What to do with a column that does not.
    has_scale : bool
        Whether `scale` tells the standard deviation of the noise.
    mean_is_outputs : bool
        Whether `mean` returns the decoder's outputs as they are.
    sees_columns : bool
        Whether the density of a cell depends on other cells of its row, beside the outputs.
    graph_terms : tuple of {"mean", "log_prob"}
        What has an ONNX form, `graph_mean` or `graph_log_prob`; empty where nothing has.
    """

    name: ClassVar[str]
    values: ClassVar[Literal["real", "count", "share", "level"]]
    takes_scale: ClassVar[bool]
    domain: ClassVar[str]
    remedy: ClassVar[str]
    has_scale: bool = False
    mean_is_outputs: bool = False
    sees_columns: ClassVar[bool] = False
    graph_terms: ClassVar[tuple[Literal["mean", "log_prob"], ...]] = ()

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

    def log_mass(self, low: Tensor, high: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        """Log-probability that each cell lies in an interval, for families of real numbers.

        Parameters
        ----------
        low, high : Tensor of shape (..., n_samples, n_columns)
            Ends of the intervals, in the units of x; NaN where none is asked for.
        outputs : Tensor of shape (..., n_samples, n_outputs)
            Decoder outputs. Further leading dimensions broadcast against the ends.
        free : Tensor of shape (..., n_free)
            Free parameters.

        Returns
        -------
        log_mass : Tensor of shape (..., n_samples, n_columns)
            In nats; of no meaning where the ends are NaN.

        Raises
        ------
        NotImplementedError
            If the family is not one of real numbers.
        """
        raise NotImplementedError(
            f"log_mass needs a family of real numbers, but {self.name!r} is none. Ask for log_prob instead."
        )

    def graph_mean(self, graph: Graph, outputs: str) -> str:
        """`mean` as nodes of an ONNX graph, where ``graph_terms`` has "mean".

        Parameters
        ----------
        graph : Graph
            Gets the nodes.
        outputs : str
            Name of the decoder's outputs, of shape (..., n_samples, n_outputs).

        Returns
        -------
        mean : str
            Name of the expected cells, of shape (..., n_samples, n_columns), in the units of x.

        Raises
        ------
        NotImplementedError
            If the family has no ONNX form.
        """
        raise NotImplementedError(no_graph(self.name, "mean"))

    def graph_log_prob(self, graph: Graph, x: str, outputs: str, free: Tensor) -> str:
        """`log_prob` of observed cells as nodes of an ONNX graph, where ``graph_terms`` has "log_prob".

        Parameters
        ----------
        graph : Graph
            Gets the nodes.
        x : str
            Name of the cells, of shape (..., n_samples, n_columns), none of them NaN.
        outputs : str
            Name of the decoder's outputs, of shape (..., n_samples, n_outputs).
        free : Tensor of shape (n_free,)
            Free parameters in float64 on the CPU: the graph holds what follows from them as constants.

        Returns
        -------
        log_prob : str
            Name of the log-densities, of shape (..., n_samples, n_columns), in nats.

        Raises
        ------
        NotImplementedError
            If the family has no ONNX form.
        """
        raise NotImplementedError(no_graph(self.name, "log_prob"))

    def graph_expected_log_prob(self, graph: Graph, outputs: str, free: Tensor) -> str:
        """`expected_log_prob` as nodes of an ONNX graph, where ``graph_terms`` has "mean" and "log_prob".

        Parameters
        ----------
        graph : Graph
            Gets the nodes.
        outputs : str
            Name of the decoder's outputs, of shape (..., n_samples, n_outputs).
        free : Tensor of shape (n_free,)
            Free parameters in float64 on the CPU.

        Returns
        -------
        expected : str
            Name of the expected log-densities, of shape (..., n_samples, n_columns), in nats.
        """
        return graph.node("Sub", self.graph_log_prob(graph, self.graph_mean(graph, outputs), outputs, free), 0.5)

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

    @property
    def family(self) -> str:
        """Name of the family of the columns."""
        return self.name

    @property
    def owners(self) -> tuple[int, ...]:
        """Column that each output is of."""
        return tuple(range(self.n_columns)) * (self.n_outputs // self.n_columns)

    @property
    def columns_hold(self) -> tuple[str, ...]:
        """What a cell of each column holds, as ``values`` says."""
        return (self.values,) * self.n_columns

    def with_cells(self, change: Callable[["Likelihood"], "Likelihood"]) -> "Likelihood":
        """The same with another likelihood of its cells.

        Parameters
        ----------
        change : callable
            Of a likelihood, under which cells are independent: the other one.

        Returns
        -------
        likelihood : Likelihood
        """
        return change(self)

    def told(self, shown: Tensor | None) -> "Likelihood":
        """The same, where columns know no cells of others than those that are shown.

        Parameters
        ----------
        shown : Tensor of bool of shape (..., n_samples, n_columns), or None
            None for all.

        Returns
        -------
        likelihood : Likelihood
        """
        return self

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

    def expected_beside(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        """`expected` of the unknown cells of rows, beside known ones.

        Parameters
        ----------
        x : Tensor of shape (..., n_samples, n_columns)
            Rows, NaN where unknown.
        outputs : Tensor of shape (..., n_samples, n_outputs)
        free : Tensor of shape (..., n_free)

        Returns
        -------
        expected : Tensor of shape (..., n_samples, sum(widths))
            Of cells that are known it says nothing.
        """
        return self.expected(outputs, free)

    def sample_beside(self, x: Tensor, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        """`sample` of the unknown cells of rows, beside known ones; those are drawn anew or stay.

        Parameters
        ----------
        x : Tensor of shape (..., n_samples, n_columns)
            Rows, NaN where unknown.
        outputs : Tensor of shape (..., n_samples, n_outputs)
        free : Tensor of shape (..., n_free)
        generator : torch.Generator

        Returns
        -------
        draw : Tensor of shape (..., n_samples, n_columns)
        """
        return self.sample(outputs, free, generator)

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

    def with_noise(self, free: Tensor, log_factor: Tensor) -> Tensor:
        """Free parameters under which the noise scale of each column, above its least one, is multiplied.

        Parameters
        ----------
        free : Tensor of shape (n_free,)
        log_factor : Tensor of shape (n_columns,)
            Natural logarithm of the factor.

        Returns
        -------
        free : Tensor of shape (n_free,)
            The same where the family has no scale.
        """
        return free

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

    def row_log_prob(self, x: Tensor, outputs: Tensor, free: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of each row: the sum of `log_prob` over its cells, for scores of many draws.

        Parameters
        ----------
        x : Tensor of shape (..., n_samples, n_columns)
            Values of the columns. May be NaN where the mask is False.
        outputs : Tensor of shape (..., n_samples, n_outputs)
            Decoder outputs.
        free : Tensor of shape (..., n_free)
            Free parameters.
        mask : Tensor of bool of shape (..., n_samples, n_columns), default=None
            True where the cell is observed. None means that all are observed.

        Returns
        -------
        log_prob : Tensor of shape (..., n_samples)
            In nats.
        """
        return self.log_prob(x, outputs, free, mask).sum(dim=-1)

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
        return self._loss_gradient(x, outputs, free, cell_weight(outputs, row_weight, mask), mask, out)

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
            cells = self.log_prob(recordable(x), leaf_outputs, leaf_free, None if mask is None else recordable(mask))
            loss = -(cells if weight is None else cells * recordable(weight)).sum((-2, -1))
            d_outputs, d_free = torch.autograd.grad(loss.sum(), (leaf_outputs, leaf_free), materialize_grads=True)
        # torch 2.4 leaves the gradient of an empty tensor in the graph.
        return loss.detach(), d_outputs if out is None else out.copy_(d_outputs), d_free.detach()

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
