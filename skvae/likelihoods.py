"""The noise of a column given its latent code: p(x given z) for continuous, binary, categorical and count columns.

A :class:`Likelihood` describes a group of columns of one family and holds plain Python values only. The decoder's
outputs and the free parameters, which are learned but equal for all rows, come in as tensors, laid out as blocks:
``[first parameter of all columns | second parameter of all columns]``. Log-densities are in nats, constants included.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ._likelihood import ColumnGroups, Likelihood
from ._numerics import clamp_log_rate, log_rising_ratio, residual_of, softplus

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "ColumnGroups",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "make_likelihood",
]

_LOG_2PI = math.log(2 * math.pi)
# Range of the decoder's correction to a column's log-scale, in nats: keeps one row from ruling a whole batch.
_LOG_SCALE_RANGE = 4.0
# Bounds of a linear start on the scale of a link, where a sample's mean says too little.
_MIN_SHARE, _MIN_LOGISTIC_SLOPE, _MIN_RATE = 1e-3, 0.05, 1e-2
_LOG_DISPERSION_RANGE = 15.0


class _LocationScale(Likelihood):
    """A density of (x - location) / scale, with a scale per column or, through the decoder, per cell."""

    domain = "hold finite numbers"
    remedy = "Remove the row, or set the cell to NaN to mark it as missing."
    has_scale = True
    scale_kinds: ClassVar[tuple[str, ...]]

    def __init__(self, n_columns: int, *, scale: str, floor: float, n_shapes: int):
        if scale not in self.scale_kinds:
            kinds = ", ".join(map(repr, self.scale_kinds))
            raise ValueError(
                f"scale must be one of {kinds} for likelihood {self.name!r}, but {scale!r} came. Pick one."
            )
        if not 0 <= floor < math.inf:
            raise ValueError(f"floor must be finite and at least 0, but {floor!r} came. The default is 0.02.")
        n_outputs = 2 * n_columns if scale == "dependent" else n_columns
        super().__init__(n_columns, n_outputs, 0 if scale == "unit" else n_columns * (1 + n_shapes))
        self.scale_kind = scale
        self.floor = float(floor)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "n_columns": self.n_columns, "scale": self.scale_kind, "floor": self.floor}

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

    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        return outputs.narrow(-1, 0, self.n_columns)

    def _log_scale_shift(self, outputs: Tensor) -> Tensor:
        return outputs.narrow(-1, self.n_columns, self.n_columns)

    def _variance_terms(self, outputs: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """exp(2 log-scale), and the squared scale, which adds the floor; (..., 1 or n_samples, n_columns)."""
        log_scale = free.narrow(-1, 0, self.n_columns).unsqueeze(-2)
        if self.scale_kind == "dependent":
            log_scale = log_scale + self._log_scale_shift(outputs).clamp(-_LOG_SCALE_RANGE, _LOG_SCALE_RANGE)
        above_floor = (log_scale + log_scale).exp()
        return above_floor, above_floor + self.floor**2

    def _variance(self, outputs: Tensor, free: Tensor) -> Tensor:
        return outputs.new_ones(()) if self.scale_kind == "unit" else self._variance_terms(outputs, free)[1]

    def _loss_gradient(
        self, x: Tensor, outputs: Tensor, free: Tensor, weight: Tensor | None, mask: Tensor | None, out: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = x.shape[-2] if weight is None else weight.sum(-2)
        d_outputs = torch.empty_like(outputs) if out is None else out
        dependent = self.scale_kind == "dependent"
        d_location = d_outputs.narrow(-1, 0, self.n_columns) if dependent else d_outputs
        shape = self._shape(free)
        above_floor, variance = self._variance_terms(outputs, free)
        residual = residual_of(self.mean(outputs, free) if dependent else outputs, x, mask)
        tail = self._slope(residual, variance, shape, d_location)
        if weight is not None:
            d_location.mul_(weight)
            tail = None if tail is None else tail * weight
        # The loss depends on residual / scale, so its derivative by log(scale) is 1 - residual * slope.
        pull = residual.mul_(d_location)
        pull_sum, share, log_variance = pull.sum(-2), above_floor / variance, variance.log()
        if dependent:
            d_shift = share.addcmul(share, pull, value=-1) if weight is None else share.mul_(weight - pull)
            self._write_d_shift(d_shift, outputs, d_outputs)
            d_log_scale = d_shift.sum(-2)
            log_variance_sum = (log_variance if weight is None else log_variance.mul_(weight)).sum(-2)
        else:
            d_log_scale = (count - pull_sum).mul_(share.squeeze(-2))
            log_variance_sum = log_variance.squeeze(-2) * count
        tail_sum = None if tail is None else tail.sum(-2)
        loss, d_shape = self._close(count, pull_sum, log_variance_sum, tail_sum, shape, free)
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
    :math:`\sigma_j^2 = e^{2 s_j} + f^2` for "constant", with the free parameter :math:`s_j` and the floor f, and
    :math:`\sigma_{ij}^2 = e^{2 (s_j + \mathrm{clip}(h_{ij}, -4, 4))} + f^2` for "dependent", with the decoder's h.

    *Formula*: :math:`\log p = -\tfrac12 ((x - m)^2 / \sigma^2 + \log \sigma^2 + \log 2 \pi)`.

    Parameters
    ----------
    n_columns : int
        Number of columns.
    scale : {"unit", "constant", "dependent"}, default="constant"
        Whether the noise is fixed, learned per column, or told by the decoder for each cell.
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
    scale_kinds = ("unit", "constant", "dependent")

    def __init__(self, n_columns: int, *, scale: str = "constant", floor: float = 0.02):
        super().__init__(n_columns, scale=scale, floor=floor, n_shapes=0)
        self.is_squared_error = scale == "unit"

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        variance = self._variance(outputs, free)
        return -0.5 * ((x - self.mean(outputs, free)).square() / variance + variance.log() + _LOG_2PI)

    def scale(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self._variance(outputs, free).sqrt().expand_as(self.mean(outputs, free))

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        mean = self.mean(outputs, free)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + self.scale(outputs, free) * noise

    def _loss_gradient(
        self, x: Tensor, outputs: Tensor, free: Tensor, weight: Tensor | None, mask: Tensor | None, out: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.scale_kind == "constant":
            return self._constant_gradient(x, outputs, free, weight, mask, out)
        if self.scale_kind != "unit":
            return super()._loss_gradient(x, outputs, free, weight, mask, out)
        residual = residual_of(outputs, x, mask, out)
        if weight is None:
            loss = (residual * residual).sum((-2, -1)).add_(x.shape[-2] * self.n_columns * _LOG_2PI)
            return loss.mul_(0.5), residual, torch.zeros_like(free)
        cells = (residual * residual).add_(_LOG_2PI).mul_(weight)
        return cells.sum((-2, -1)).mul_(0.5), residual.mul_(weight), torch.zeros_like(free)

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
        share = above_floor.div_(variance)
        log_variance = variance.log_().add_(_LOG_2PI)
        d_free = share * (count - squares)
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


class StudentT(_LocationScale):
    r"""Student's t noise, for continuous columns with outliers.

    *Domain*: all finite numbers.

    *Link*: identity for the location; :math:`\sigma^2` as in :class:`Gaussian`, with "constant" or "dependent" scale;
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
    scale : {"constant", "dependent"}, default="constant"
        Whether :math:`\sigma` is learned per column, or told by the decoder for each cell.
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
    scale_kinds = ("constant", "dependent")

    def __init__(self, n_columns: int, *, scale: str = "constant", floor: float = 0.02):
        super().__init__(n_columns, scale=scale, floor=floor, n_shapes=1)

    def initial_free(self) -> list[float]:
        return [0.0] * self.n_columns + [math.log(math.expm1(8.0))] * self.n_columns

    def _df(self, free: Tensor) -> Tensor:
        return softplus(free.narrow(-1, self.n_columns, self.n_columns)) + 2

    def _shape(self, free: Tensor) -> Any:
        df = self._df(free)
        return df, df + 1

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        df, variance = self._df(free).unsqueeze(-2), self._variance(outputs, free)
        half = (df + 1) / 2
        log_tail = ((x - self.mean(outputs, free)).square() / (df * variance)).log1p()
        log_norm = half.lgamma() - (df / 2).lgamma() - 0.5 * (math.pi * df).log() - 0.5 * variance.log()
        return log_norm - half * log_tail

    def scale(self, outputs: Tensor, free: Tensor) -> Tensor:
        df = self._df(free).unsqueeze(-2)
        excess = softplus(free.narrow(-1, self.n_columns, self.n_columns)).unsqueeze(-2)
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
        return twice_loss.mul_(0.5), d_df.mul_(free.narrow(-1, self.n_columns, self.n_columns).sigmoid())


class Bernoulli(Likelihood):
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
    domain = "lie in [0, 1]"
    remedy = "Use 'gaussian', or encode the column first."

    def __init__(self, n_columns: int):
        super().__init__(n_columns, n_columns, 0)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "n_columns": self.n_columns}

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
        share = mean.clamp(_MIN_SHARE, 1 - _MIN_SHARE)
        return share.logit(), loadings / (share * (1 - share)).clamp_min(_MIN_LOGISTIC_SLOPE)

    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        return outputs.sigmoid()

    def expected_log_prob(self, outputs: Tensor, free: Tensor) -> Tensor:
        return self._log_prob(outputs.sigmoid(), outputs, free)

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        return torch.bernoulli(outputs.sigmoid(), generator=generator)


class Categorical(Likelihood):
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
    remedy = "Encode the column with OrdinalEncoder first."

    def __init__(self, n_levels: Sequence[int]):
        if min(n_levels, default=1) < 1:
            raise ValueError(
                f"n_levels must be at least 1 for each column, but {list(n_levels)} came. Drop the column."
            )
        super().__init__(len(n_levels), sum(n_levels), 0)
        self.n_levels = tuple(int(n) for n in n_levels)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "n_levels": list(self.n_levels)}

    def linear_outputs(self, mean: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        return mean.new_zeros(self.n_outputs), loadings.new_zeros(len(loadings), self.n_outputs)  # codes have no order

    def _domain_of(self, index: int) -> str:
        return f"hold integer codes from 0 to {self.n_levels[index] - 1}"

    def _in_domain(self, column: Tensor, index: int) -> Tensor:
        return (column >= 0) & (column < self.n_levels[index]) & (column == column.round())

    def _log_prob(self, x: Tensor, outputs: Tensor, free: Tensor) -> Tensor:
        codes = x.long().expand(*outputs.shape[:-1], self.n_columns)
        blocks = (block.log_softmax(-1) for block in outputs.split(self.n_levels, -1))
        return torch.cat([block.gather(-1, codes[..., [j]]) for j, block in enumerate(blocks)], -1)

    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        modes = [block.argmax(-1) for block in outputs.split(self.n_levels, -1)]
        return torch.stack(modes, -1).to(outputs.dtype)

    def expected_log_prob(self, outputs: Tensor, free: Tensor) -> Tensor:
        blocks = (block.log_softmax(-1) for block in outputs.split(self.n_levels, -1))
        return torch.stack([(block.exp() * block).sum(-1) for block in blocks], -1)

    def sample(self, outputs: Tensor, free: Tensor, generator: Generator) -> Tensor:
        # The argmax of logits plus Gumbel noise, -log(exponential), is a draw from their softmax.
        noise = torch.empty_like(outputs).exponential_(generator=generator).log_()
        return self.mean(outputs - noise, free)


class _Count(Likelihood):
    """What the families of counts share: non-negative integers and a log link for the mean."""

    domain = "hold integers of at least 0"
    remedy = "Use 'gaussian', or encode the column first."

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "n_columns": self.n_columns}

    def _in_domain(self, column: Tensor, index: int) -> Tensor:
        return (column >= 0) & column.isfinite() & (column == column.round())

    def linear_outputs(self, mean: Tensor, loadings: Tensor) -> tuple[Tensor, Tensor]:
        rate = mean.clamp_min(_MIN_RATE)
        # At most a factor e for each unit of z: the first order of exp() holds no further.
        return rate.log(), (loadings / rate).clamp(-1, 1)

    def mean(self, outputs: Tensor, free: Tensor) -> Tensor:
        return clamp_log_rate(outputs).exp()


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


LIKELIHOODS: dict[str, type[Likelihood]] = {
    kind.name: kind for kind in (Gaussian, StudentT, Bernoulli, Categorical, Poisson, NegativeBinomial)
}


def make_likelihood(config: dict[str, Any]) -> Likelihood:
    """Build a likelihood from what its ``config`` method returned.

    Parameters
    ----------
    config : dict
        The name under "name", and the arguments of the constructor.

    Returns
    -------
    likelihood : Likelihood
        A likelihood equal to the one that gave the dict.

    Raises
    ------
    ValueError
        If no likelihood has that name.
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name == ColumnGroups.name:
        return ColumnGroups([make_likelihood(group) for group in arguments["likelihoods"]])
    if name not in LIKELIHOODS:
        known = ", ".join(map(repr, LIKELIHOODS))
        raise ValueError(f"The name of a likelihood must be one of {known}, but {name!r} came. Pick one of them.")
    return LIKELIHOODS[name](**arguments)
