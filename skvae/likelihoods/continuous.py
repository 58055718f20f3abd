"""Families of real numbers, Gaussian and Student-t, with a noise scale that is 1, shared, or one a column or cell."""

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from scipy.special import stdtr
from torch import Generator, Tensor

from .._support.graph import Graph
from .._support.numerics import residual_of, softplus, unexpanded
from .likelihood import Buffers, Likelihood
from .separable import Separable

__all__ = ["Gaussian", "StudentT"]

_LOG_2PI = math.log(2 * math.pi)
# Range of the decoder's correction to a column's log-scale, in nats: keeps one row from ruling a whole batch.
_LOG_SCALE_RANGE = 4.0
# A variance is two to this times the log-scale; torch computes powers of two faster than powers of e.
_BINARY_VARIANCE = 2.0 / math.log(2.0)
_hardtanh_backward = torch.ops.aten.hardtanh_backward.grad_input


class _LocationScale(Likelihood, Separable):
    """A density of (x - location) / scale, with a scale per column or, through the decoder, per cell."""

    values = "real"
    takes_scale = True
    domain = "hold finite numbers"
    remedy = "Remove the row, or set the cell to NaN to mark it as missing."
    has_scale = True
    graph_terms = ("mean", "log_prob")
    scale_forms: ClassVar[tuple[str, ...]]

    def __init__(self, n_columns: int, *, scale: str, floor: float, n_shapes: int):
        if scale not in self.scale_forms:
            known = ", ".join(map(repr, self.scale_forms))
            raise ValueError(
                f"scale must be one of {known} for likelihood {self.name!r}, but {scale!r} came. Pick one."
            )
        if not 0 <= floor < math.inf:
            raise ValueError(f"floor must be finite and at least 0, but {floor!r} came. The default is 0.02.")
        n_outputs = 2 * n_columns if scale == "dependent" else n_columns
        self.n_scales = {"unit": 0, "shared": 1}.get(scale, n_columns)
        super().__init__(n_columns, n_outputs, self.n_scales + n_shapes * n_columns)
        self.scale_form = scale
        self.mean_is_outputs = scale != "dependent"
        self.floor = float(floor)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "n_columns": self.n_columns, "scale": self.scale_form, "floor": self.floor}

    def _of_column(self, index: int) -> Likelihood | None:
        family: Any = type(self)
        return None if self.scale_form == "shared" else family(1, scale=self.scale_form, floor=self.floor)

    @abstractmethod
    def _shape(self, free: Tensor) -> Any:
        """What ``_slope`` and ``_close`` need of the shape parameters (..., n_columns); None if there are none."""

    @abstractmethod
    def _slope(self, residual: Tensor, variance: Tensor, shape: Any, out: Tensor) -> Any:
        """Write each cell's derivative by the location; return its log-tail where ``_close`` needs one."""

    @abstractmethod
    def _close(
        self, count: Any, pull: Tensor, log_variance: Tensor, tail: Any, shape: Any, free: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Turn the weighted sums of each column into the loss and the derivative by the shape parameters."""

    def _in_domain(self, column: Tensor, index: int) -> Tensor:
        return column.isfinite()

    @abstractmethod
    def _log_between(self, low: Tensor, high: Tensor, free: Tensor) -> Tensor:
        """Log-probability of an interval, in scales from the location, no more of it above than below that."""

    def log_mass(self, low: Tensor, high: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        mean, scale = self.mean(outputs, free), self._variance(outputs, free).sqrt()
        start, end = (low - mean) / scale, (high - mean) / scale
        # The upper tail is the lower one from the other side, where probabilities are small.
        flip = start + end > 0.0
        start, end = torch.where(flip, -end, start), torch.where(flip, -start, end)
        # So narrow, or so far off, that the probabilities at both ends are one number: width times density.
        narrow = self._log_prob(0.5 * (low + high), outputs, free) + (high - low).log()
        log_mass = self._log_between(start, end, free)
        return torch.where(log_mass.isfinite() & (end - start > 1e-3), log_mass, narrow)

    def linear_free(self, noise_variance: Tensor) -> Tensor:
        free = super().linear_free(noise_variance)
        if self.n_scales:
            variance = noise_variance.mean() if self.scale_form == "shared" else noise_variance
            free[: self.n_scales] = 0.5 * variance.log()
        return free

    def with_noise(self, free: Tensor, log_factor: Tensor) -> Tensor:
        of_scales = log_factor.mean().unsqueeze(0) if self.n_scales == 1 else log_factor[: self.n_scales]
        return torch.cat([free[: self.n_scales] + of_scales, free[self.n_scales :]])

    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        return outputs.narrow(-1, 0, self.n_columns)

    def graph_mean(self, graph: Graph, outputs: str) -> str:
        return graph.columns(outputs, 0, self.n_columns) if self.scale_form == "dependent" else outputs

    def _graph_terms(self, graph: Graph, x: str, outputs: str, free: Tensor) -> tuple[str, str]:
        """Squared distance from the location in scales, and the logarithm of the squared scale."""
        square = graph.square(graph.node("Sub", x, self.graph_mean(graph, outputs)))
        if self.scale_form == "unit":
            return square, graph.constant(0.0)
        if self.scale_form != "dependent":
            variance = (2.0 * free[: self.n_scales]).exp() + self.floor**2
            return graph.node("Div", square, variance.numpy()), graph.constant(variance.log().numpy())
        shift = graph.columns(outputs, self.n_columns, 2 * self.n_columns)
        shift = graph.clip(shift, -_LOG_SCALE_RANGE, _LOG_SCALE_RANGE)
        log_scale = graph.node("Add", shift, free[: self.n_columns].numpy())
        above_floor = graph.node("Exp", graph.node("Mul", log_scale, 2.0))
        dependent = graph.node("Add", above_floor, self.floor**2)
        return graph.node("Div", square, dependent), graph.node("Log", dependent)

    def _log_scale_shift(self, outputs: Tensor) -> Tensor:
        return outputs.narrow(-1, self.n_columns, self.n_columns)

    def _variance_terms(self, outputs: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """exp(2 log-scale), and the squared scale, which adds the floor; (..., 1 or n_samples, 1 or n_columns)."""
        log_scale = free.narrow(-1, 0, self.n_scales).unsqueeze(-2)
        if self.scale_form == "dependent":
            log_scale = log_scale + self._log_scale_shift(outputs).clamp(-_LOG_SCALE_RANGE, _LOG_SCALE_RANGE)
        above_floor = (log_scale + log_scale).exp()
        return above_floor, above_floor + self.floor**2

    def _variance(self, outputs: Tensor, free: Tensor) -> Tensor:
        return outputs.new_ones(()) if self.scale_form == "unit" else self._variance_terms(outputs, free)[1]

    def _loss_gradient(
        self, x: Tensor, outputs: Tensor, free: Tensor, weight: Tensor | None, mask: Tensor | None, out: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = x.shape[-2] if weight is None else weight.sum(-2)
        d_outputs = torch.empty_like(outputs) if out is None else out
        dependent = self.scale_form == "dependent"
        d_location = d_outputs.narrow(-1, 0, self.n_columns) if dependent else d_outputs
        once = unexpanded(free)  # draws share theirs
        shape = self._shape(once)
        above_floor, variance = self._variance_terms(outputs, once)
        residual = residual_of(self.mean(outputs, free) if dependent else outputs, x, mask)
        tail = self._slope(residual, variance, shape, d_location)  # dL/dm into d_location
        if weight is not None:
            d_location.mul_(weight)
            tail = None if tail is None else tail * weight
        # The loss depends on residual / scale, so its derivative by log(scale) is 1 - residual * slope.
        pull = residual.mul_(d_location)
        pull_sum, slope, log_variance = pull.sum(-2), above_floor / variance, variance.log()
        if dependent:
            d_shift = slope.addcmul(slope, pull, value=-1) if weight is None else slope.mul_(weight - pull)
            self._write_d_shift(d_shift, outputs, d_outputs)
            d_log_scale = d_shift.sum(-2)
            log_variance_sum = (log_variance if weight is None else log_variance.mul_(weight)).sum(-2)
        else:
            d_log_scale = (count - pull_sum).mul_(slope.squeeze(-2))
            if self.scale_form == "shared":
                d_log_scale = d_log_scale.sum(-1, keepdim=True)
            log_variance_sum = log_variance.squeeze(-2) * count
        tail_sum = None if tail is None else tail.sum(-2)
        loss, d_shape = self._close(count, pull_sum, log_variance_sum, tail_sum, shape, once)
        d_free = d_log_scale if d_shape is None else torch.cat([d_log_scale, d_shape], -1)
        return loss, d_outputs, d_free if d_free.shape == free.shape else d_free.sum_to_size(free.shape)

    def _write_d_shift(self, d_shift: Tensor, outputs: Tensor, d_outputs: Tensor) -> None:
        shift = self._log_scale_shift(outputs)
        inside = shift.clamp(-_LOG_SCALE_RANGE, _LOG_SCALE_RANGE).eq_(shift)
        torch.mul(d_shift, inside, out=self._log_scale_shift(d_outputs))


class Gaussian(_LocationScale):
    r"""Gaussian noise, for continuous columns.

    *Domain*: all finite numbers.

    *Link*: identity for the mean. The squared scale is 1 for ``scale="unit"``,
    :math:`\sigma_j^2 = e^{2 s_j} + f^2` for "constant", with the free parameter :math:`s_j` and the floor f; for
    "shared" there is one s for all columns; for "dependent", with the decoder's h, it is
    :math:`\sigma_{ij}^2 = e^{2 (s_j + \mathrm{clip}(h_{ij}, -4, 4))} + f^2`.

    *Formula*: :math:`\log p = -\tfrac12 ((x - m)^2 / \sigma^2 + \log \sigma^2 + \log 2 \pi)`.

    Parameters
    ----------
    n_columns : int
        Number of columns.
    scale : {"unit", "shared", "constant", "dependent"}, default="constant"
        Whether the noise is fixed, learned as one number, learned per column, or told by the decoder for each cell.
    floor : float, default=0.02
        Least standard deviation, in the units of x; not used by "unit".

    References
    ----------
    Kingma & Welling (2014), https://arxiv.org/abs/1312.6114, appendix C.2.

    Nix & Weigend (1994), "Estimating the mean and variance of the target probability distribution", ICNN.

    Examples
    --------
    >>> import torch
    >>> from skvae.likelihoods import Gaussian
    >>> Gaussian(1, scale="unit").log_prob(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(0))
    tensor([[-0.9189]])
    """

    name = "gaussian"
    scale_forms = ("unit", "shared", "constant", "dependent")

    def __init__(self, n_columns: int, *, scale: str = "constant", floor: float = 0.02):
        super().__init__(n_columns, scale=scale, floor=floor, n_shapes=0)

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        variance = self._variance(outputs, free)
        return -0.5 * ((x - self.mean(outputs, free)).square() / variance + variance.log() + _LOG_2PI)

    def graph_log_prob(self, graph: Graph, x: str, outputs: str, free: Tensor) -> str:
        square, log_variance = self._graph_terms(graph, x, outputs, free)
        return graph.node("Mul", graph.node("Add", square, graph.node("Add", log_variance, _LOG_2PI)), -0.5)

    def scale(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self._variance(outputs, free).sqrt().expand_as(self.mean(outputs, free))

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        mean = self.mean(outputs, free)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + self.scale(outputs, free) * noise

    def _log_between(self, low: Tensor, high: Tensor, free: Tensor) -> Tensor:
        below, up_to = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
        return up_to + torch.log1p(-torch.exp(below - up_to))

    def _loss_gradient(
        self, x: Tensor, outputs: Tensor, free: Tensor, weight: Tensor | None, mask: Tensor | None, out: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.scale_form in ("shared", "constant"):
            return self._constant_gradient(x, outputs, free, weight, mask, out)
        if self.scale_form != "unit":
            return super()._loss_gradient(x, outputs, free, weight, mask, out)
        residual = residual_of(outputs, x, mask, out)
        if weight is None:
            loss = (residual * residual).sum((-2, -1)).add_(x.shape[-2] * self.n_columns * _LOG_2PI)
            return loss.mul_(0.5), residual, torch.zeros_like(free)
        cells = (residual * residual).add_(_LOG_2PI).mul_(weight)
        return cells.sum((-2, -1)).mul_(0.5), residual.mul_(weight), torch.zeros_like(free)

    def gradient_in(self, buffers: Buffers) -> Callable[[Tensor], object] | None:
        if self.scale_form in ("dependent", "shared"):
            return None
        return _UnitGaussian(self, buffers) if self.scale_form == "unit" else _ConstantGaussian(self, buffers)

    def _constant_gradient(
        self, x: Tensor, outputs: Tensor, free: Tensor, weight: Tensor | None, mask: Tensor | None, out: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The general case in fewer operations: what does not depend on the row is computed once for each column."""
        above_floor = (free + free).exp_()
        variance = above_floor + self.floor**2
        residual = residual_of(outputs, x, mask, out)
        weighted = residual if weight is None else residual * weight
        squares = (weighted * residual).sum(-2).div_(variance)  # with draws, one more dimension than ``free`` has
        d_outputs = torch.div(weighted, variance if free.dim() == 1 else variance.unsqueeze(-2), out=residual)
        count = x.shape[-2] if weight is None else weight.sum(-2)
        slope = above_floor.div_(variance)
        log_variance = variance.log_().add_(_LOG_2PI)
        d_free = slope * (count - squares)
        loss = squares.add_(log_variance * count).sum(-1).mul_(0.5)
        return loss, d_outputs, d_free if d_free.shape == free.shape else d_free.sum_to_size(free.shape)

    def _shape(self, free: Tensor) -> Any:
        return None

    def _slope(self, residual: Tensor, variance: Tensor, shape: Any, out: Tensor) -> Any:
        torch.div(residual, variance, out=out)
        return None

    def _close(
        self, count: Any, pull: Tensor, log_variance: Tensor, tail: Any, shape: Any, free: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        return (pull + log_variance + count * _LOG_2PI).sum(-1).mul_(0.5), None


class _UnitGaussian:
    """Loss and gradient of a Gaussian of scale 1, in two operations."""

    def __init__(self, likelihood: Gaussian, buffers: Buffers) -> None:
        outputs, _, d, _, loss = buffers
        n, n_rows = likelihood.n_columns, outputs.shape[-2]
        self._subtract = partial(torch.sub, outputs[..., :n], out=d[..., :n])
        constant = 0.5 * n_rows * n * _LOG_2PI
        if loss.dim():
            rows, total = d.view(len(d), 1, -1), loss.view(-1, 1, 1)
            self._sum = partial(torch.baddbmm, torch.full_like(total, constant), rows, rows.mT, alpha=0.5, out=total)
        else:
            total = loss.view(1)
            row = d.view(1, -1)
            self._sum = partial(torch.addmv, torch.full_like(total, constant), row, row[0], alpha=0.5, out=total)

    def __call__(self, x: Tensor) -> None:
        self._subtract(x)  # dL/dm = m - x
        self._sum()  # L = |m - x|^2 / 2 + constant


class _ConstantGaussian:
    r"""Loss and gradient of a Gaussian with a scale for each column, without allocating.

    .. math:: L = \tfrac12 \sum \left( \frac{(m - x)^2}{v} + \log v + \log 2 \pi \right), \quad v = e^{2 s} + f^2
    """

    def __init__(self, likelihood: Gaussian, buffers: Buffers) -> None:
        outputs, self._free, self._d_outputs, self._d_free, loss = buffers
        n, count = likelihood.n_columns, outputs.shape[-2]
        self._own = outputs[..., :n]
        # As wide as the outputs, so that operations on all cells run over memory without gaps.
        self._cells = torch.zeros_like(outputs)
        self._residual = self._cells[..., :n]
        self._precision, self._pull = outputs.new_zeros(2, *outputs.shape[:-2], outputs.shape[-1])
        self._own_precision, self._own_pull = self._precision[..., :n], self._pull[..., :n]
        self._row_precision = self._precision.unsqueeze(-2)
        self._above, self._variance = (torch.empty_like(self._free) for _ in range(2))
        self._count, self._two, self._floor = outputs.new_tensor([count, 2.0, likelihood.floor**2]).unbind()
        self._n_rows = count
        total, half = loss.view(-1), outputs.new_full((n,), 0.5)
        constant = torch.full_like(total, 0.5 * count * n * _LOG_2PI)
        self._sum = partial(torch.addmv, constant, self._variance.view(len(total), n), half, out=total)

    def __call__(self, x: Tensor) -> None:
        above, variance, cells = self._above, self._variance, self._cells
        torch.mul(self._free, self._two, out=above).exp_()
        torch.add(above, self._floor, out=variance)
        torch.reciprocal(variance, out=self._own_precision)
        torch.sub(self._own, x, out=self._residual)
        torch.mul(cells, self._row_precision, out=self._d_outputs)  # dL/dm = (m - x) / v
        torch.sum(cells.mul_(self._d_outputs), -2, out=self._pull)  # sum over the rows of (m - x)^2 / v
        # dL/ds = (n - pull) e^(2 s) / v
        torch.sub(self._count, self._own_pull, out=self._d_free).mul_(above.mul_(self._own_precision))
        torch.add(self._own_pull, variance.log_(), alpha=self._n_rows, out=variance)  # 2 L of each column
        self._sum()


class StudentT(_LocationScale):
    r"""Student's t noise, for continuous columns with outliers.

    *Domain*: all finite numbers.

    *Link*: identity for the location; :math:`\sigma^2` as in :class:`Gaussian`, but never of "unit" scale;
    :math:`\nu = 2 + \mathrm{softplus}(r_j)` degrees of freedom, so that the variance exists; r starts at
    :math:`\nu = 10`. The free parameters are [s | r].

    *Formula*: :math:`\log p = \log\Gamma(\tfrac{\nu + 1}2) - \log\Gamma(\tfrac\nu2) - \tfrac12 \log(\pi \nu \sigma^2)
    - \tfrac{\nu + 1}2 \log(1 + (x - m)^2 / (\nu \sigma^2))`.

    ``scale`` returns the standard deviation :math:`\sigma \sqrt{\nu / (\nu - 2)}`, which is larger than
    :math:`\sigma` and grows without bound as :math:`\nu` falls to 2.

    Parameters
    ----------
    n_columns : int
        Number of columns.
    scale : {"shared", "constant", "dependent"}, default="constant"
        Whether :math:`\sigma` is learned as one number, per column, or told by the decoder for each cell.
    floor : float, default=0.02
        Least :math:`\sigma`, in the units of x.

    References
    ----------
    Bishop (2006), "Pattern recognition and machine learning", eq. 2.159.

    Bailey (1994), "Polar generation of random variates with the t-distribution", Math. Comp. 62: the sampler.

    Examples
    --------
    >>> from skvae.likelihoods import StudentT
    >>> likelihood = StudentT(3)
    >>> likelihood.n_outputs, likelihood.n_free
    (3, 6)
    """

    name = "student_t"
    scale_forms = ("shared", "constant", "dependent")

    def __init__(self, n_columns: int, *, scale: str = "constant", floor: float = 0.02):
        super().__init__(n_columns, scale=scale, floor=floor, n_shapes=1)

    def initial_free(self) -> list[float]:
        return [0.0] * self.n_scales + [math.log(math.expm1(8.0))] * self.n_columns

    def _df(self, free: Tensor) -> Tensor:
        return softplus(free.narrow(-1, self.n_scales, self.n_columns)) + 2

    def gradient_in(self, buffers: Buffers) -> Callable[[Tensor], object] | None:
        return _DependentStudentT(self, buffers) if self.scale_form == "dependent" else None

    def _shape(self, free: Tensor) -> Any:
        df = self._df(free)
        return df, df + 1

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        df, variance = self._df(free).unsqueeze(-2), self._variance(outputs, free)
        log_tail = ((x - self.mean(outputs, free)).square() / (df * variance)).log1p()
        return _log_norm(df) - 0.5 * variance.log() - (df + 1) / 2 * log_tail

    def _log_between(self, low: Tensor, high: Tensor, free: Tensor) -> Tensor:
        df, asked = self._df(free).unsqueeze(-2).expand(low.shape), ~low.isnan()
        ends = (stdtr(df[asked].cpu().numpy(), end[asked].cpu().numpy()) for end in (low, high))
        below, up_to = (torch.from_numpy(end).to(low) for end in ends)
        return torch.full_like(low, math.nan).masked_scatter_(asked, (up_to - below).log())

    def row_log_prob(self, x: Tensor, outputs: Tensor, free: Tensor, mask: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled():
            return super().row_log_prob(x, outputs, free, mask)
        # In place: with many draws, allocating costs more than arithmetic. Terms as in ``_log_prob``.
        df, variance = self._df(free).unsqueeze(-2), self._variance(outputs, free)
        square = torch.sub(x if mask is None else torch.where(mask, x, 0), self.mean(outputs, free)).square_()
        cells = square.div_(df * variance).log1p_().mul_(df + 1)
        cells = cells.add_(variance.log_()) if cells.shape == variance.shape else cells + variance.log_()
        cells = torch.sub(_log_norm(df), cells, alpha=0.5, out=cells)
        return (cells if mask is None else cells.masked_fill_(~mask, 0.0)).sum(dim=-1)

    def graph_log_prob(self, graph: Graph, x: str, outputs: str, free: Tensor) -> str:
        df = self._df(free)
        square, log_variance = self._graph_terms(graph, x, outputs, free)
        tail = graph.node("Log", graph.node("Add", graph.node("Div", square, df.numpy()), 1.0))
        cells = graph.node("Sub", _log_norm(df).numpy(), graph.node("Mul", tail, ((df + 1) / 2).numpy()))
        return graph.node("Sub", cells, graph.node("Mul", log_variance, 0.5))

    def scale(self, outputs: Tensor, free: Tensor) -> Tensor:
        df = self._df(free).unsqueeze(-2)
        excess = softplus(free.narrow(-1, self.n_scales, self.n_columns)).unsqueeze(-2)
        return (self._variance(outputs, free) * (df / excess)).sqrt().expand_as(self.mean(outputs, free))

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        mean, df = self.mean(outputs, free), self._df(free).unsqueeze(-2)
        uniform = torch.rand((2, *mean.shape), generator=generator, dtype=mean.dtype, device=mean.device)
        # Bailey's polar form; log1p(-u) because u may be 0 but not 1.
        radius = (df * torch.expm1(-2 / df * torch.log1p(-uniform[0]))).sqrt()
        return mean + self._variance(outputs, free).sqrt() * radius * torch.cos(2 * math.pi * uniform[1])

    def _slope(self, residual: Tensor, variance: Tensor, shape: Any, out: Tensor) -> Any:
        df, df_plus_1 = shape
        square, spread = residual * residual, df.unsqueeze(-2) * variance
        torch.div(residual, square + spread, out=out).mul_(df_plus_1.unsqueeze(-2))
        return square.div_(spread).log1p_()

    def _close(
        self, count: Any, pull: Tensor, log_variance: Tensor, tail: Any, shape: Any, free: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        df, df_plus_1 = shape
        half_df, half = df * 0.5, df_plus_1 * 0.5
        log_norm = (df * math.pi).log_().add_(half_df.lgamma() - half.lgamma(), alpha=2)
        twice_loss = (df_plus_1 * tail).add_(log_variance).add_(log_norm * count).sum(-1)
        d_log_norm = half_df.digamma().sub_(half.digamma()).add_(df.reciprocal())
        d_df = (tail + d_log_norm * count).sub_(pull / df).mul_(0.5)
        return twice_loss.mul_(0.5), d_df.mul_(free.narrow(-1, self.n_scales, self.n_columns).sigmoid())


def _log_norm(df: Tensor) -> Tensor:
    """Logarithm of the density at its location, for a scale of 1."""
    half = (df + 1) / 2
    return half.lgamma() - (df / 2).lgamma() - 0.5 * (math.pi * df).log()


class _DependentStudentT:
    r"""Loss and gradient of Student's t with a scale for each value, in buffers that are made once.

    .. math:: L = \sum \left( \tfrac{\nu + 1}{2} \log \left( 1 + \frac{r^2}{\nu v} \right) + \tfrac12 \log v \right)
        + \mathrm{const}(\nu), \quad r = m - x, \quad v = e^{2 (s + h)} + f^2
    """

    def __init__(self, likelihood: StudentT, buffers: Buffers) -> None:
        outputs, free, d_outputs, d_free, loss = buffers
        n, self._n_rows = likelihood.n_columns, outputs.shape[-2]
        self._location, self._shift, *_ = outputs.split(n, -1)
        self._d_location, self._d_shift, *_ = d_outputs.split(n, -1)
        self._log_scale, self._shape = free.split(n, -1)
        self._d_log_scale, self._d_shape = d_free.split(n, -1)
        cells = outputs.new_empty(8, *outputs.shape[:-1], n)
        self._above, self._variance, self._residual, self._spread, *self._terms = cells.unbind()
        self._sums = outputs.new_empty(4, *outputs.shape[:-2], n)
        self._sum_rows = partial(torch.sum, cells[4:], -2, out=self._sums)
        self._rate, self._floor, self._count, self._half = outputs.new_tensor(
            [_BINARY_VARIANCE, likelihood.floor**2, self._n_rows, 0.5]
        ).unbind()
        # df / 2 and (df + 1) / 2 of df = 2 + softplus(shape)
        self._least_halves = outputs.new_tensor([1.0, 1.5]).view(2, *[1] * free.dim())
        total, half = loss.view(-1), outputs.new_full((n,), 0.5)
        self._losses = outputs.new_empty(free.shape[:-1] + (n,))
        constant = torch.full_like(total, 0.5 * self._n_rows * n * math.log(2.0 * math.pi))
        self._sum = partial(torch.addmv, constant, self._losses.view(len(total), n), half, out=total)

    def __call__(self, x: Tensor) -> None:
        halves = torch.add(self._least_halves, softplus(self._shape), alpha=0.5)
        self._write_cells(x, halves + halves)
        self._sum_rows()
        self._close(halves)

    def _write_cells(self, x: Tensor, shapes: Tensor) -> None:
        """Derivatives by the outputs, and what is summed over the rows, from df and df + 1 of each column."""
        above, variance, residual, spread = self._above, self._variance, self._residual, self._spread
        tail, pull, d_log_scale, log_variance = self._terms
        df, df_plus_1 = shapes.unsqueeze(-2).unbind()
        torch.clamp(self._shift, -_LOG_SCALE_RANGE, _LOG_SCALE_RANGE, out=above)
        torch.add((self._log_scale * self._rate).unsqueeze(-2), above, alpha=_BINARY_VARIANCE, out=above).exp2_()
        torch.add(above, self._floor, out=variance)
        torch.sub(self._location, x, out=residual)
        square = torch.mul(residual, residual, out=tail)
        torch.mul(variance, df, out=spread)
        # dL/dm = (nu + 1) r / (r^2 + nu v)
        torch.div(residual, torch.add(square, spread, out=pull), out=self._d_location).mul_(df_plus_1)
        torch.mul(residual, self._d_location, out=pull)  # r dL/dm = (nu + 1) r^2 / (r^2 + nu v)
        square.div_(spread).log1p_()  # log(1 + r^2 / (nu v)), to be summed
        above_fraction = above.div_(variance)  # e^(2 (s + h)) / v = dlog(v) / d(2 h)
        # dL/dh = (1 - r dL/dm) e^(2 (s + h)) / v; its sum over the rows is dL/ds
        torch.addcmul(above_fraction, above_fraction, pull, value=-1.0, out=d_log_scale)
        bounds = (-_LOG_SCALE_RANGE, _LOG_SCALE_RANGE)
        _hardtanh_backward(d_log_scale, self._shift, *bounds, grad_input=self._d_shift)  # a clipped h passes none on
        torch.log(variance, out=log_variance)

    def _close(self, halves: Tensor) -> None:
        """The loss, and the derivatives by the free parameters, from the sums over the rows."""
        tail, pull, d_log_scale, log_variance = self._sums.unbind()
        half_df, half = halves.unbind()
        self._d_log_scale.copy_(d_log_scale)
        log_gamma, log_gamma_next = halves.lgamma().unbind()
        losses = torch.addcmul(log_variance, half, tail, value=2.0, out=self._losses)
        log_norm = half_df.log().add_(log_gamma, alpha=2.0).sub_(log_gamma_next, alpha=2.0)
        losses.add_(log_norm, alpha=self._n_rows)
        self._sum()
        digamma, digamma_next = halves.digamma().unbind()
        # Twice the derivative by df: tail + count (digamma(df / 2) - digamma((df + 1) / 2)) + (count - pull) / df.
        d_df = tail.add_(digamma.sub_(digamma_next), alpha=self._n_rows)
        d_df.addcdiv_(torch.sub(self._count, pull), half_df, value=0.5)
        # nu = 2 + softplus(shape): dnu/dshape = sigmoid(shape)
        torch.mul(d_df.mul_(self._half), self._shape.sigmoid(), out=self._d_shape)
