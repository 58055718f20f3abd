"""Columns of real numbers whose noise may have several peaks: a mixture of simple noises in each cell."""

import math
from typing import Any

import torch
from scipy.special import ndtri
from torch import Generator, Tensor
from torch.nn import functional

from .._support.graph import Graph
from .likelihood import Likelihood
from .separable import Separable

__all__ = ["Mixture"]

# So much of the noise's variance lies between the members at the start, the rest within them.
_BETWEEN = 0.36


class Mixture(Likelihood, Separable):
    r"""A mixture of Gaussians or of Student's t's in each cell, for continuous columns.

    *Domain*: all finite numbers.

    *Link*: softmax over the members k for the weights :math:`w_k`, of logits that the decoder gives. Locations and
    scales are those of the members' likelihood, each location moved by a free parameter, which starts the members
    apart.

    *Formula*: :math:`\log p = \log \sum_k w_k \, p_k(x)`.

    ``scale`` returns the standard deviation of the mixture. Outputs are those of the members' likelihood, then the
    logits; free parameters are its own, then the shifts of the locations.

    Parameters
    ----------
    likelihood : Likelihood
        Of all members of all columns, member after member: :class:`Gaussian` or :class:`StudentT`.
    n_members : int
        Members of each mixture; divides the number of columns of ``likelihood``.

    References
    ----------
    Bishop (1994), "Mixture density networks", Aston University, NCRG/94/004.

    Examples
    --------
    >>> from skvae.likelihoods import Mixture, StudentT
    >>> likelihood = Mixture(StudentT(6), 3)
    >>> likelihood.n_columns, likelihood.n_outputs  # three locations and three logits for each column
    (2, 12)
    """

    name = "mixture"
    values = "real"
    domain = "hold finite numbers"
    remedy = "Remove the row, or set the cell to NaN to mark it as missing."
    has_scale = True
    graph_terms = ("log_prob",)  # a mean needs the shifts of the locations, which are free parameters

    def __init__(self, likelihood: Likelihood, n_members: int):
        if n_members < 1 or likelihood.n_columns % n_members:
            raise ValueError(
                f"n_members must divide the {likelihood.n_columns} columns of the members' likelihood, but "
                f"{n_members!r} came. Make a likelihood of n_members columns for each column."
            )
        self.likelihood, self.n_members = likelihood, int(n_members)
        n_cells = likelihood.n_columns
        super().__init__(n_cells // self.n_members, likelihood.n_outputs + n_cells, likelihood.n_free + n_cells)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "likelihood": self.likelihood.config(), "n_members": self.n_members}

    @property
    def family(self) -> str:
        return self.likelihood.family

    def _of_column(self, index: int) -> "Mixture | None":
        config = self.likelihood.config()
        if config.get("scale") in (None, "shared"):
            return None
        family: Any = type(self.likelihood)
        return Mixture(family(self.n_members, scale=config["scale"], floor=config["floor"]), self.n_members)

    def _in_domain(self, column: Tensor, index: int) -> Tensor:
        return column.isfinite()

    def initial_free(self) -> list[float]:
        return [*self.likelihood.initial_free(), *self._places().repeat_interleave(self.n_columns).tolist()]

    def linear_free(self, noise_variance: Tensor) -> Tensor:
        own = self.likelihood.linear_free((1.0 - _BETWEEN) * self._repeated(noise_variance))
        shifts = self._places().to(noise_variance).unsqueeze(-1) * noise_variance.sqrt()
        return torch.cat([own, shifts.flatten()])

    def with_noise(self, free: Tensor, log_factor: Tensor) -> Tensor:
        own, shifts = free.split([self.likelihood.n_free, self.likelihood.n_columns])
        return torch.cat([self.likelihood.with_noise(own, self._repeated(log_factor)), shifts])

    def _places(self) -> Tensor:
        """Where the members start: quantiles of the normal distribution, as far apart as `_BETWEEN` says."""
        places = torch.from_numpy(ndtri((torch.arange(self.n_members).double().numpy() + 0.5) / self.n_members))
        return places * (math.sqrt(_BETWEEN) / places.square().mean().sqrt().clamp_min(1e-9))

    def linear_outputs(self, mean: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        surplus = (0, self.likelihood.n_columns)
        bias, weight = self.likelihood.linear_outputs(self._repeated(mean), self._repeated(loadings))
        return functional.pad(bias, surplus), functional.pad(weight, surplus)

    def _repeated(self, cells: Tensor) -> Tensor:
        return torch.cat([cells] * self.n_members, -1)

    def _by_member(self, cells: Tensor) -> Tensor:
        """Cells of shape (..., n_members, n_columns)."""
        return cells.unflatten(-1, (self.n_members, self.n_columns))

    def _parts(self, outputs: Tensor, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The members' outputs and free parameters, and their log-weights (..., n_members, n_columns)."""
        n_cells = self.likelihood.n_columns
        own, shifts = free.split([self.likelihood.n_free, n_cells], -1)
        members, logits = outputs.split([self.likelihood.n_outputs, n_cells], -1)
        shifted = members[..., :n_cells] + shifts.unsqueeze(-2)
        members = torch.cat([shifted, members[..., n_cells:]], -1)
        return members, own, self._by_member(logits).log_softmax(-2)

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        members, own, log_weight = self._parts(outputs, free)
        cells = self.likelihood.log_prob(self._repeated(x), members, own)
        return torch.logsumexp(self._by_member(cells) + log_weight, -2)

    def graph_log_prob(self, graph: Graph, x: str, outputs: str, free: Tensor) -> str:
        n_cells = self.likelihood.n_columns
        own, logits = free[: self.likelihood.n_free], self._graph_by_member(graph, self._graph_logits(graph, outputs))
        members = self._graph_locations(graph, outputs, free)
        if self.likelihood.n_outputs > n_cells:
            rest = graph.columns(outputs, n_cells, self.likelihood.n_outputs)
            members = graph.node("Concat", members, rest, axis=-1)
        repeated = graph.node("Concat", *[x] * self.n_members, axis=-1)
        cells = self._graph_by_member(graph, self.likelihood.graph_log_prob(graph, repeated, members, own))
        joint = graph.reduce("ReduceLogSumExp", graph.node("Add", cells, logits), -1)
        return graph.node("Sub", joint, graph.reduce("ReduceLogSumExp", logits, -1))

    def graph_expected_log_prob(self, graph: Graph, outputs: str, free: Tensor) -> str:
        locations, n = self._graph_locations(graph, outputs, free), self.n_columns
        share = graph.node("Softmax", self._graph_by_member(graph, self._graph_logits(graph, outputs)), axis=-1)
        cells = [
            self.graph_log_prob(graph, graph.columns(locations, k * n, (k + 1) * n), outputs, free)
            for k in range(self.n_members)
        ]
        joined = self._graph_by_member(graph, graph.node("Concat", *cells, axis=-1))
        return graph.node("Sub", graph.row_sum(graph.node("Mul", share, joined)), 0.5)

    def _graph_locations(self, graph: Graph, outputs: str, free: Tensor) -> str:
        own = graph.columns(outputs, 0, self.likelihood.n_columns)
        return graph.node("Add", own, free[self.likelihood.n_free :].numpy())

    def _graph_logits(self, graph: Graph, outputs: str) -> str:
        return graph.columns(outputs, self.likelihood.n_outputs, self.n_outputs)

    def _graph_by_member(self, graph: Graph, cells: str) -> str:
        """Cells of shape (..., n_columns, n_members)."""
        n, last = self.n_columns, graph.integers(-1)
        parts = [graph.columns(cells, k * n, (k + 1) * n) for k in range(self.n_members)]
        return graph.node("Concat", *(graph.node("Unsqueeze", part, last) for part in parts), axis=-1)

    def log_mass(self, low: Tensor, high: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        members, own, log_weight = self._parts(outputs, free)
        cells = self.likelihood.log_mass(self._repeated(low), self._repeated(high), members, own)
        return torch.logsumexp(self._by_member(cells) + log_weight, -2)

    def expected_log_prob(self, outputs: Tensor, free: Tensor) -> Tensor:
        # As the other families have it, but of each member: a mean between two peaks is unlikely itself.
        members, own, log_weight = self._parts(outputs, free)
        locations = self._by_member(self.likelihood.mean(members, own)).unbind(-2)
        cells = torch.stack([self._log_prob(location, outputs, free) for location in locations], -2)
        return (log_weight.exp() * cells).sum(-2) - 0.5

    def _moments(self, outputs: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the mixture."""
        members, own, log_weight = self._parts(outputs, free)
        weight, locations = log_weight.exp(), self._by_member(self.likelihood.mean(members, own))
        mean = (weight * locations).sum(-2)
        spread = (locations - mean.unsqueeze(-2)).square()
        return mean, (weight * (spread + self._by_member(self.likelihood.scale(members, own)).square())).sum(-2)

    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self._moments(outputs, free)[0]

    def scale(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self._moments(outputs, free)[1].sqrt()

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        members, own, log_weight = self._parts(outputs, free)
        drawn = self._by_member(self.likelihood.sample(members, own, generator))
        up_to = log_weight.exp().cumsum(-2)
        part = torch.rand(up_to[..., :1, :].shape, generator=generator, dtype=up_to.dtype, device=up_to.device)
        which = (part > up_to).sum(-2, keepdim=True).clamp_max(self.n_members - 1)
        return drawn.gather(-2, which).squeeze(-2)

    def _loss_gradient(
        self, x: Tensor, outputs: Tensor, free: Tensor, weight: Tensor | None, mask: Tensor | None, out: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        members, own, log_weight = self._parts(outputs, free)
        cells = self._repeated(x if mask is None else torch.where(mask, x, 0))
        terms = self._by_member(self.likelihood.log_prob(cells, members, own)) + log_weight
        log_prob = torch.logsumexp(terms, -2, keepdim=True)
        # Of log p the derivative is that of the members' log-densities, weighted by their responsibilities.
        share, prior = (terms - log_prob).exp_(), log_weight.exp()
        if weight is not None:
            of_cell = weight.unsqueeze(-2)
            share, prior, log_prob = share * of_cell, prior * of_cell, log_prob * of_cell
        _, d_members, d_own = self.likelihood._loss_gradient(cells, members, own, share.flatten(-2), None, None)
        d_shifts = d_members[..., : self.likelihood.n_columns].sum(-2)
        d_free = torch.cat([d_own, d_shifts.sum_to_size(*free.shape[:-1], d_shifts.shape[-1])], -1)
        d_outputs = torch.cat([d_members, (prior - share).flatten(-2)], -1)
        return -log_prob.sum((-3, -2, -1)), d_outputs if out is None else out.copy_(d_outputs), d_free
