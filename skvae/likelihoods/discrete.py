"""Families of columns that take separate values: binary, categorical and counts.

What a family is, and how its parameters are laid out, is said in the package's docstring.
"""

import copy
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from .._support.graph import Graph
from .._support.numerics import LOG_RATE_RANGE, clamp_log_rate, filled_up, log_rising_ratio, softplus
from .likelihood import Likelihood
from .row_terms import RowTerms
from .separable import Separable

__all__ = ["Bernoulli", "Categorical", "NegativeBinomial", "Poisson"]

# Bounds of a linear start on the scale of a link, where a sample's mean says too little.
_MIN_PROBABILITY, _MIN_LOGISTIC_SLOPE, _MIN_RATE = 1e-3, 0.05, 1e-2
_LOG_DISPERSION_RANGE = 15.0
# Levels that fill a register in float32, from which on torch's softmax is quick; and columns up to which one product
# sums the levels of all of them in less time, though most of its factors are zero.
_VECTOR, _MOST_SUMMED = 16, 128


class Bernoulli(Likelihood, Separable):
    r"""Coin flips, for binary columns and for grey values read as probabilities.

    *Domain*: [0, 1].

    *Link*: logit; :math:`\pi = 1 / (1 + e^{-o})`.

    *Formula*: :math:`\log p = x \log \pi + (1 - x) \log (1 - \pi) = x o - \mathrm{softplus}(o)`. For values strictly
    between 0 and 1 it is the mean log-mass over binarisations of x, not a density.

    Parameters
    ----------
    n_columns : int
        Number of columns.

    References
    ----------
    Kingma & Welling (2014), https://arxiv.org/abs/1312.6114, appendix C.1.

    Examples
    --------
    >>> import torch
    >>> from skvae.likelihoods import Bernoulli
    >>> Bernoulli(1).log_prob(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(0))
    tensor([[-0.6931]])
    """

    name = "bernoulli"
    values = "share"
    takes_scale = False
    graph_terms = ("mean", "log_prob")
    domain = "lie in [0, 1]"
    remedy = "Use 'gaussian', or encode the column first."

    def __init__(self, n_columns: int):
        super().__init__(n_columns, n_columns, 0)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "n_columns": self.n_columns}

    def _of_column(self, index: int) -> "Bernoulli":
        return Bernoulli(1)

    def _in_domain(self, column: Tensor, index: int) -> Tensor:
        return (column >= 0) & (column <= 1)

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        return x * outputs - softplus(outputs)

    def _loss_gradient(
        self, x: Tensor, outputs: Tensor, free: Tensor, weight: Tensor | None, mask: Tensor | None, out: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x if mask is None else torch.where(mask, x, 0)
        d_outputs = torch.sub(outputs.sigmoid(), x, out=out)
        cells = softplus(outputs).addcmul_(x, outputs, value=-1)
        if weight is not None:
            d_outputs.mul_(weight)
            cells.mul_(weight)
        return cells.sum((-2, -1)), d_outputs, torch.zeros_like(free)

    def linear_outputs(self, mean: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        probability = mean.clamp(_MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
        return probability.logit(), loadings / (probability * (1 - probability)).clamp_min(_MIN_LOGISTIC_SLOPE)

    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        return outputs.sigmoid()

    def expected_log_prob(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self._log_prob(outputs.sigmoid(), outputs, free)

    def graph_mean(self, graph: Graph, outputs: str) -> str:
        return graph.sigmoid(outputs)

    def graph_log_prob(self, graph: Graph, x: str, outputs: str, free: Tensor) -> str:
        return graph.node("Sub", graph.node("Mul", x, outputs), graph.softplus(outputs))

    def graph_expected_log_prob(self, graph: Graph, outputs: str, free: Tensor) -> str:
        return self.graph_log_prob(graph, self.graph_mean(graph, outputs), outputs, free)

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        return torch.bernoulli(outputs.sigmoid(), generator=generator)


class Categorical(Likelihood, Separable, RowTerms):
    r"""One of a few levels, for columns of codes.

    *Domain*: the integer codes 0, 1, ..., n_levels - 1 of each column, held as floats.

    *Link*: softmax over the column's block of outputs; the blocks follow each other,
    [levels of column 0 | levels of column 1 | ...].

    *Formula*: :math:`\log p = o_x - \log \sum_l e^{o_l}`.

    ``mean`` returns the code of the likeliest level: an average of codes means nothing.

    Parameters
    ----------
    n_levels : sequence of int
        Number of levels of each column.

    References
    ----------
    Bishop (2006), "Pattern recognition and machine learning", eqs. 2.26 and 4.104.

    Examples
    --------
    >>> import torch
    >>> from skvae.likelihoods import Categorical
    >>> Categorical([4, 2]).log_prob(torch.zeros(1, 2), torch.zeros(1, 6), torch.zeros(0))
    tensor([[-1.3863, -0.6931]])
    """

    name = "categorical"
    values = "level"
    takes_scale = False
    graph_terms = ("mean", "log_prob")
    domain = "hold integer codes of its levels"
    remedy = "Encode the column with OrdinalEncoder first."

    def __init__(self, n_levels: Sequence[int]):
        if min(n_levels, default=1) < 1:
            raise ValueError(
                f"n_levels must be at least 1 for each column, but {list(n_levels)} came. Drop the column."
            )
        super().__init__(len(n_levels), sum(n_levels), 0)
        self.n_levels = tuple(int(n) for n in n_levels)
        self._runs = [(n, len(list(columns))) for n, columns in itertools.groupby(self.n_levels)]
        self._first: dict[torch.device, Tensor] = {}
        self._made_sums: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._terms: _LevelTerms | None = None

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "n_levels": list(self.n_levels)}

    @property
    def widths(self) -> tuple[int, ...]:
        return self.n_levels

    @property
    def owners(self) -> tuple[int, ...]:
        return tuple(column for column, n_levels in enumerate(self.n_levels) for _ in range(n_levels))

    def _of_column(self, index: int) -> "Categorical":
        return Categorical([self.n_levels[index]])

    def linear_outputs(self, mean: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        # d log p = dp / p, which holds for small steps only: rare levels get a gentler slope.
        probability = mean.clamp(_MIN_PROBABILITY, 1.0)
        return probability.log(), loadings / probability.clamp_min(_MIN_LOGISTIC_SLOPE)

    def _blocks(self, outputs: Tensor) -> list[Tensor]:
        """Outputs of neighbouring columns of as many levels, (..., n_few, n_levels), for fewer calls."""
        parts = outputs.split([n_levels * count for n_levels, count in self._runs], -1)
        return [part.unflatten(-1, (count, -1)) for part, (_, count) in zip(parts, self._runs, strict=True)]

    def expected(self, outputs: Tensor, free: Tensor) -> Tensor:
        return torch.cat([block.softmax(-1).flatten(-2) for block in self._blocks(outputs)], -1)

    def expected_beside(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        if x.ndim != 2:
            return self.expected(outputs, free)
        expected, unknown = torch.zeros_like(outputs), x.isnan()
        of_column = zip(outputs.split(self.n_levels, -1), expected.split(self.n_levels, -1), strict=True)
        for column, (block, filled) in enumerate(of_column):
            rows = unknown[:, column].nonzero().squeeze(1)
            if len(rows):
                filled[..., rows, :] = block.index_select(-2, rows).softmax(-1)
        return expected

    def cells(self, expected: Tensor) -> Tensor:
        return torch.cat([block.argmax(-1) for block in self._blocks(expected)], -1).to(expected.dtype)

    def _domain_of(self, index: int) -> str:
        return f"hold integer codes from 0 to {self.n_levels[index] - 1}"

    def _in_domain(self, column: Tensor, index: int) -> Tensor:
        return (column >= 0) & (column < self.n_levels[index]) & (column == column.round())

    def _places(self, x: Tensor) -> Tensor:
        """Where the outputs of the observed levels lie."""
        if x.device not in self._first:
            with torch.inference_mode(mode=False):
                first = [0, *itertools.accumulate(self.n_levels)][:-1]
                self._first[x.device] = torch.tensor(first, device=x.device)
        return x.long() + self._first[x.device]

    def _log_probabilities(self, outputs: Tensor) -> Tensor:
        return torch.cat([block.log_softmax(-1).flatten(-2) for block in self._blocks(outputs)], -1)

    def _with_row_terms(self, x: Tensor, free: Tensor, mask: Tensor | None) -> "Categorical":
        few_levels = x.dtype == torch.float64 or max(self.n_levels) < _VECTOR
        if not few_levels or self.n_columns > _MOST_SUMMED:
            return self
        twin = copy.copy(self)
        twin._terms = _LevelTerms(self._places(x if mask is None else torch.where(mask, x, 0)), self._sums(x))
        return twin

    def _sums(self, like: Tensor) -> Tensor:
        """What sums the levels of each column, (n_outputs, n_columns), made once."""
        key = (like.dtype, like.device)
        if key not in self._made_sums:
            with torch.inference_mode(mode=False):
                owner = torch.tensor(self.owners, dtype=torch.long, device=like.device)
                self._made_sums[key] = filled_up(functional.one_hot(owner, self.n_columns).to(like))
        return self._made_sums[key]

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        if self._terms is not None:
            return self._terms.log_prob(self._blocks(outputs))
        return self._log_probabilities(outputs).gather(-1, self._places(x).expand(*outputs.shape[:-1], self.n_columns))

    def _loss_gradient(
        self, x: Tensor, outputs: Tensor, free: Tensor, weight: Tensor | None, mask: Tensor | None, out: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        places = self._places(x if mask is None else torch.where(mask, x, 0)).expand(*outputs.shape[:-1], -1)
        log_probabilities = self._log_probabilities(outputs)
        cells = log_probabilities.gather(-1, places)
        d_outputs = torch.exp(log_probabilities, out=out)
        each = torch.ones_like(cells) if weight is None else weight.expand_as(cells)
        if weight is not None:
            n_levels = torch.tensor(self.n_levels, device=x.device)
            d_outputs.mul_(each.repeat_interleave(n_levels, -1, output_size=self.n_outputs))
        d_outputs.scatter_add_(-1, places, -each)
        return -(cells * each).sum((-2, -1)), d_outputs, torch.zeros_like(free)

    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self.cells(outputs)

    def expected_log_prob(self, outputs: Tensor, free: Tensor) -> Tensor:
        blocks = (block.log_softmax(-1) for block in outputs.split(self.n_levels, -1))
        return torch.stack([(block.exp() * block).sum(-1) for block in blocks], -1)

    def graph_mean(self, graph: Graph, outputs: str) -> str:
        codes = [graph.node("ArgMax", block, axis=-1, keepdims=1) for block in self._graph_blocks(graph, outputs)]
        return graph.cast(graph.node("Concat", *codes, axis=-1), graph.dtype)

    def graph_log_prob(self, graph: Graph, x: str, outputs: str, free: Tensor) -> str:
        cells = []
        for index, block in enumerate(self._graph_blocks(graph, outputs)):
            log_probabilities = graph.node("LogSoftmax", block, axis=-1)
            codes = graph.node("Gather", x, graph.integers(index), axis=-1)
            observed = graph.node("Equal", codes, np.arange(self.n_levels[index]))
            cells.append(graph.node("Where", observed, log_probabilities, 0.0))
        return self._graph_sums(graph, cells)

    def graph_expected_log_prob(self, graph: Graph, outputs: str, free: Tensor) -> str:
        blocks = [graph.node("LogSoftmax", block, axis=-1) for block in self._graph_blocks(graph, outputs)]
        return self._graph_sums(graph, [graph.node("Mul", graph.node("Exp", block), block) for block in blocks])

    def _graph_blocks(self, graph: Graph, outputs: str) -> list[str]:
        ends = [0, *itertools.accumulate(self.n_levels)]
        return [graph.columns(outputs, *bounds) for bounds in itertools.pairwise(ends)]

    def _graph_sums(self, graph: Graph, blocks: Sequence[str]) -> str:
        """The sum over the levels of each column, side by side."""
        sums = [graph.node("ReduceSum", block, graph.integers(-1), keepdims=1) for block in blocks]
        return graph.node("Concat", *sums, axis=-1)

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        # The argmax of logits plus Gumbel noise, -log(exponential), is a draw from their softmax.
        noise = torch.empty_like(outputs).exponential_(generator=generator).log_()
        return self.mean(outputs - noise, free)


class _LevelTerms(NamedTuple):
    """What log-masses of levels need beside outputs: torch's softmax of a few levels takes longer than that."""

    places: Tensor  # (..., n_samples, n_columns), outputs of the levels that are there
    sums: Tensor  # (n_outputs, n_columns), 1 where an output is the column's; filled up

    def log_prob(self, blocks: Sequence[Tensor]) -> Tensor:
        """As `Categorical.log_prob`, of its blocks of outputs."""
        logits = torch.cat([(block - block.amax(-1, keepdim=True)).flatten(-2) for block in blocks], -1)
        chosen = logits.gather(-1, self.places.expand(*logits.shape[:-1], -1))
        return chosen - (logits.exp_() @ self.sums)[..., : chosen.shape[-1]].log()


class _Count(Likelihood, Separable):
    """What the families of counts share: non-negative integers and a log link for the mean."""

    values = "count"
    takes_scale = False
    graph_terms = ("mean",)  # runtimes have no log-gamma
    domain = "hold integers of at least 0"
    remedy = "Use 'gaussian', or encode the column first."

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "n_columns": self.n_columns}

    def _of_column(self, index: int) -> Likelihood:
        family: Any = type(self)
        return family(1)

    def _in_domain(self, column: Tensor, index: int) -> Tensor:
        return (column >= 0) & column.isfinite() & (column == column.round())

    def linear_outputs(self, mean: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        rate = mean.clamp_min(_MIN_RATE)
        # At most a factor e for each unit of z: the first order of exp() holds no further.
        return rate.log(), (loadings / rate).clamp(-1, 1)

    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        return clamp_log_rate(outputs).exp()

    def graph_mean(self, graph: Graph, outputs: str) -> str:
        return graph.node("Exp", graph.clip(outputs, -LOG_RATE_RANGE, LOG_RATE_RANGE))


class Poisson(_Count):
    r"""Counts of independent events.

    *Domain*: the integers 0, 1, 2, ...

    *Link*: log; the rate is :math:`\lambda = e^o`, with o clipped to [-30, 30].

    *Formula*: :math:`\log p = x o - \lambda - \log \Gamma(x + 1)`.

    Parameters
    ----------
    n_columns : int
        Number of columns.

    References
    ----------
    McCullagh & Nelder (1989), "Generalized linear models", chapter 6.

    Examples
    --------
    >>> import torch
    >>> from skvae.likelihoods import Poisson
    >>> Poisson(1).log_prob(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(0))
    tensor([[-1.]])
    """

    name = "poisson"

    def __init__(self, n_columns: int):
        super().__init__(n_columns, n_columns, 0)

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        log_rate = clamp_log_rate(outputs)
        return x * log_rate - log_rate.exp() - (x + 1).lgamma()

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        return torch.poisson(self.mean(outputs, free), generator=generator)


class NegativeBinomial(_Count):
    r"""Counts that spread wider than :class:`Poisson` allows.

    *Domain*: the integers 0, 1, 2, ...

    *Link*: log; the mean is :math:`\mu = e^o`, with o clipped to [-30, 30]. The free parameter is the log-dispersion
    :math:`\log \alpha_j`, clipped to [-15, 15]: the variance is :math:`\mu + \alpha_j \mu^2`.

    *Formula*: with :math:`r = 1 / \alpha`, :math:`\log p = \log \Gamma(x + r) - \log \Gamma(r) - \log \Gamma(x + 1)
    + x \log \frac{\mu}{r + \mu} - r \log (1 + \mu / r)`.

    Parameters
    ----------
    n_columns : int
        Number of columns.

    References
    ----------
    Lawless (1987), "Negative binomial and mixed Poisson regression", Canadian Journal of Statistics 15.

    Examples
    --------
    >>> import torch
    >>> from skvae.likelihoods import NegativeBinomial
    >>> NegativeBinomial(1).log_prob(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1))
    tensor([[-0.6931]])
    """

    name = "negative_binomial"

    def __init__(self, n_columns: int):
        super().__init__(n_columns, n_columns, n_columns)

    def _log_dispersion(self, free: Tensor) -> Tensor:
        return free.unsqueeze(-2).clamp(-_LOG_DISPERSION_RANGE, _LOG_DISPERSION_RANGE)

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        log_mean, log_dispersion = clamp_log_rate(outputs), self._log_dispersion(free)
        size = (-log_dispersion).exp()
        log_choices = log_rising_ratio(x, size) - (x + 1).lgamma()
        return log_choices + x * log_mean - (x + size) * softplus(log_mean + log_dispersion)

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        mean, dispersion = self.mean(outputs, free), self._log_dispersion(free).exp()
        # torch's only gamma draws that take a generator; a Poisson count at a gamma rate is negative binomial.
        gamma = torch._standard_gamma((1 / dispersion).expand_as(mean), generator=generator)
        return torch.poisson(mean * dispersion * gamma, generator=generator)
