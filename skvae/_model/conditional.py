"""Rows given some of their values: codes by importance sampling around peaks of their density, and resampling."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._densities.bounds import effective_sample_size
from .._densities.latent import LatentMixture, MixturePrior

__all__ = ["draws_given"]

# Codes that are decoded at once: bounds the memory.
_CODES_AT_ONCE = 4096
# Of the codes of a row: a fifth from p(z), a fifth from the posterior, the others around so many peaks.
_PEAK_FRACTION = 0.6
_N_PEAKS = 2
# Climbs start at codes drawn by weights so far tempered; Newton's steps, and the fractions of one that are tried.
_TEMPERATURE = 0.3
_N_STEPS = 3
_STEP_SIZES = (1.0, 0.5, 0.2, 0.05, 0.0)
_DIFFERENCE = 1e-4
# The peaks are drawn a little wider than they are, and so much of their shares is divided evenly.
_WIDENING = 1.2
_EVEN_FRACTION = 0.1
# Where columns see each other, a draw is one of so many.
_N_TRIES = 8

_LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class _Peaks:
    """A Gaussian around each of some peaks of the density of a row's code.

    Attributes
    ----------
    center : Tensor of shape (n_peaks, n_samples, n_components)
    axes : Tensor of shape (n_peaks, n_samples, n_components, n_components)
        Its columns are directions, of length 1.
    scale : Tensor of shape (n_peaks, n_samples, n_components)
        Along those.
    log_share : Tensor of shape (n_peaks, n_samples)
    """

    center: Tensor
    axes: Tensor
    scale: Tensor
    log_share: Tensor

    def sample(self, n_codes: int, generator: torch.Generator) -> Tensor:
        """Codes of shape (n_codes, n_samples, n_components)."""
        n_samples = self.center.shape[1]
        which = torch.multinomial(self.log_share.exp().T, n_codes, replacement=True, generator=generator).T
        noise = self.center.new_empty(n_codes, *self.center.shape[1:]).normal_(generator=generator)
        codes = torch.empty_like(noise)
        for row in range(n_samples):
            center, axes, scale = (part[which[:, row], row] for part in (self.center, self.axes, self.scale))
            codes[:, row] = center + torch.einsum("kij,kj->ki", axes, scale * noise[:, row])
        return codes

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of codes (n_codes, n_samples, n_components), in nats."""
        terms = []
        for center, axes, scale, log_share in zip(self.center, self.axes, self.scale, self.log_share, strict=True):
            along = torch.einsum("kni,nij->knj", z - center, axes) / scale
            terms.append(log_share - 0.5 * (along.square() + _LOG_2PI).sum(dim=-1) - scale.log().sum(dim=-1))
        return torch.logsumexp(torch.stack(terms), dim=0)


@torch.no_grad()
def draws_given(
    module: Any,
    guide: Any,
    x: Tensor,
    prior: LatentMixture,
    sizes: tuple[int, int],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    r"""Draw whole rows from the model's distribution given the values that are there.

    .. math:: x \sim \sum_k \tilde w_k \, p(x \mid z_k), \qquad \tilde w_k \propto
        \frac{p(x_o \mid z_k) \, p(z_k)}{\sum_r \alpha_r q_r(z_k)}

    Codes are proposed by p(z), which keeps the weights bounded; by the encoder's posterior; and by Gaussians around
    peaks of p(x_o, z), with its curvature there. Each row has proposals of its own.

    Parameters
    ----------
    module : VAEModule
        On the CPU, in float64.
    guide : VAEModule
        The same, of differentiable densities, by which peaks are found.
    x : Tensor of shape (n_samples, n_features)
        Scaled rows, NaN where unknown.
    prior : LatentMixture
        p(z).
    sizes : tuple of (int, int)
        Draws of each row, and codes that are proposed for them.
    generator : torch.Generator

    Returns
    -------
    draws : Tensor of shape (n_samples, n_draws, n_features)
        The values that are there drawn anew, too.
    size : Tensor of shape (n_samples,)
        Effective number of codes behind a row's draws.

    References
    ----------
    Rubin (1988), "Using the SIR algorithm to simulate posterior distributions", Bayesian Statistics 3; Tierney &
    Kadane (1986), "Accurate approximations for posterior moments and marginal densities", JASA 81(393), for the peaks;
    Hesterberg (1995), "Weighted average importance sampling and defensive mixture distributions", Technometrics 37(2).
    """
    n_draws, n_codes = sizes
    n_tries = _N_TRIES if module.likelihood.sees_columns else 1
    z, log_weights = _codes_by_peaks(module, guide, x, prior, n_codes, generator)
    weight = torch.softmax(log_weights, dim=0).T
    chosen = torch.multinomial(weight, n_tries * n_draws, replacement=True, generator=generator).T
    codes = z.gather(0, chosen.unsqueeze(-1).expand(-1, -1, z.shape[-1]))

    def cells(some: Tensor) -> Tensor:
        return module.likelihood.sample_beside(x, module.decode(some), module.free(), generator)

    draws = _in_parts(cells, codes)
    draws = _agreeing(module, x, codes, draws, generator) if n_tries > 1 else draws
    return draws.transpose(0, 1), effective_sample_size(log_weights)


def _agreeing(module: Any, x: Tensor, codes: Tensor, draws: Tensor, generator: torch.Generator) -> Tensor:
    """One of some tries for each draw, by how likely it makes the known values that stand after drawn ones.

    A code is weighed while the columns after an unknown value are told that it is; here they are told the draw.
    """
    known, free, likelihood = ~x.isnan(), module.free(), module.likelihood

    def log_ratio(few: Tensor) -> Tensor:
        z, rows = few.split([codes.shape[-1], x.shape[-1]], dim=-1)
        outputs = module.decode(z)
        cells = likelihood.log_prob(rows, outputs, free) - likelihood.log_prob(x, outputs, free, known)
        return torch.where(known, cells, 0.0).sum(dim=-1)

    tries = draws.unflatten(0, (_N_TRIES, -1))
    log_weight = _in_parts(log_ratio, torch.cat([codes, draws], dim=-1)).view(tries.shape[:-1])
    share = torch.softmax(log_weight, dim=0).movedim(0, -1)
    chosen = torch.multinomial(share.flatten(0, 1), 1, generator=generator).view(1, *share.shape[:-1], 1)
    return tries.gather(0, chosen.expand(1, *tries.shape[1:])).squeeze(0)


def _in_parts(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """A function of codes (n_codes, n_samples, n_components), of few of them at a time."""
    return torch.cat([function(few) for few in z.split(max(1, _CODES_AT_ONCE // z.shape[1]))])


def _codes_by_peaks(
    module: Any, guide: Any, x: Tensor, prior: LatentMixture, n_codes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Codes of shape (n_codes, n_samples, n_components) and their log-weights, but for a constant of each row."""
    n_peaked = int(_PEAK_FRACTION * n_codes)
    n_each, shape = (n_codes - n_peaked + 1) // 2, (len(x), module.n_components)
    mean, log_variance = module.posterior(x)
    scale = torch.exp(0.5 * log_variance)
    noise = torch.empty(n_each, *shape, dtype=x.dtype).normal_(generator=generator)
    z = torch.cat([prior.sample(n_each * len(x), generator).view(n_each, *shape), mean + scale * noise])
    log_joint = _in_parts(lambda few: _log_joint(module, x, few, prior), z)
    # As many codes from the prior as from the posterior, and the peaks in their proportion.
    log_proposals = torch.stack([prior.log_prob(z), _log_normal(z, mean, scale)])
    log_weights = log_joint - torch.logsumexp(log_proposals, dim=0)
    peaks = _peaks_from(guide, x, prior, _starts(z, log_weights, log_joint, generator))
    more = peaks.sample(n_peaked, generator)
    log_joint = torch.cat([log_joint, _in_parts(lambda few: _log_joint(module, x, few, prior), more)])
    z = torch.cat([z, more])
    log_peaks = peaks.log_prob(z) + math.log(n_peaked / n_each)
    log_proposals = torch.stack([prior.log_prob(z), _log_normal(z, mean, scale), log_peaks])
    return z, log_joint - torch.logsumexp(log_proposals, dim=0)


def _log_joint(module: Any, x: Tensor, z: Tensor, prior: LatentMixture | MixturePrior) -> Tensor:
    """log p(x_o, z) of codes of shape (..., n_samples, n_components)."""
    cells = module.likelihood.log_prob(x, module.decode(z), module.free(), ~x.isnan())
    return cells.sum(dim=-1) + prior.log_prob(z)


def _log_normal(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return -(0.5 * (((z - mean) / scale).square() + _LOG_2PI) + scale.log()).sum(dim=-1)


def _starts(z: Tensor, log_weights: Tensor, log_joint: Tensor, generator: torch.Generator) -> Tensor:
    """Codes of shape (n_peaks, n_samples, n_components) to climb from: the likeliest, and others by their weights."""
    weight = torch.softmax(_TEMPERATURE * log_weights, dim=0).clamp_min(1e-30).T
    others = torch.multinomial(weight, min(_N_PEAKS - 1, len(z)), generator=generator).T
    chosen = torch.cat([log_joint.argmax(dim=0, keepdim=True), others])
    return z.gather(0, chosen.unsqueeze(-1).expand(-1, -1, z.shape[-1]))


def _peaks_from(guide: Any, x: Tensor, prior: LatentMixture, start: Tensor) -> _Peaks:
    """Climb from each start by Newton's steps, of which the fraction that leads highest is taken."""
    smooth = MixturePrior([prior.diagonal()], x)
    z = start
    for _ in range(_N_STEPS):
        slope, axes, curvature = _quadratic(guide, x, smooth, z)
        along = torch.einsum("pnij,pni->pnj", axes, slope) / curvature
        step = torch.einsum("pnij,pnj->pni", axes, along)
        tried = torch.stack([z + size * step for size in _STEP_SIZES])
        height = _log_joint(guide, x, tried.flatten(0, 1), smooth).view(tried.shape[:-1]).nan_to_num(nan=-torch.inf)
        best = height.argmax(dim=0).view(1, *z.shape[:-1], 1).expand(1, *z.shape)
        z = tried.gather(0, best).squeeze(0)
    _, axes, curvature = _quadratic(guide, x, smooth, z)
    mass = _log_joint(guide, x, z, smooth).nan_to_num(nan=-1e6) - 0.5 * curvature.log().sum(dim=-1)
    share = torch.softmax(0.5 * mass, dim=0) * (1.0 - _EVEN_FRACTION) + _EVEN_FRACTION / len(z)
    return _Peaks(z, axes, _WIDENING / curvature.sqrt(), share.log())


def _quadratic(guide: Any, x: Tensor, prior: MixturePrior, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of log p(x_o, z) at codes, and the axes and curvatures of its fall, each at least that of N(0, I)."""
    n_components = z.shape[-1]
    steps = _DIFFERENCE * torch.eye(n_components, dtype=z.dtype).view(n_components, 1, 1, -1)
    points = torch.cat([z.unsqueeze(0), z + steps])
    with torch.enable_grad():
        points = points.requires_grad_(True)
        height = _log_joint(guide, x, points.flatten(0, 1), prior).sum()
        (slopes,) = torch.autograd.grad(height, points)
    slopes = slopes.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    hessian = (slopes[0] - slopes[1:]).movedim(0, -1) / _DIFFERENCE
    curvature, axes = torch.linalg.eigh(0.5 * (hessian + hessian.mT))
    return slopes[0], axes, curvature.clamp_min(1.0)
