"""What follows training: densities for the scores, noise scales of a VAE, and what a series of chunks remembers."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from .._data.patterns import Patterns
from .._data.stream import Reservoir, Stream
from .._densities.density import Density
from .._densities.gaussian import fit_gaussian
from .._densities.latent import N_CODES, LatentMixture
from .._networks.modules import LatentModule, VAEModule
from .._networks.shrinkage import covariance_shrinkage
from .._support.device import make_generator, seed_from
from .._support.jobs import shared
from .._training.feeder import Binarizer
from .._training.rows import Rows
from .comparison import compare_many
from .design import Design
from .fitted import Fitted, Prepared, bounds_of, quantiles_of
from .member import Member
from .noise_scales import with_noise_of
from .plan import Plan
from .scores import SCORES, Evidence, has_residual_density
from .sizes import UNSEEN_ROWS

__all__ = ["finish", "finish_without", "remember", "taken_over"]

# Rows on which densities of residuals are estimated: bounds the time of a fit's end.
_DENSITY_ROWS = 10_000
# How far their covariance is shrunk towards a multiple of the identity: at most, and where rows may be anomalous, which
# with less would be likelier, and rank higher; at least, as with less what float32 rounds would weigh too much.
_SHRINKAGE, _LEAST_SHRINKAGE = 0.05, 0.01
# Draws of the posterior of each of few rows, that p(z) is fitted to; of many rows one is enough.
_CODE_DRAWS = 8
# Rounds of expectation maximisation that end the learning of p(z).
_PRIOR_ROUNDS = 20


def finish(plan: Plan, prepared: Prepared, random_state: np.random.RandomState) -> Fitted:
    """Estimate the densities that the scores of a trained module need, and set the noise scales of a VAE.

    Parameters
    ----------
    plan : Plan
    prepared : Prepared
        Its module has been trained.
    random_state : RandomState

    Returns
    -------
    fitted : Fitted
        Without a threshold.
    """
    members = _members(plan, prepared, random_state)
    columns, rows, patterns = prepared.columns.masked, prepared.data.training, None
    if columns and plan.draws_rows:
        patterns = Patterns.of(rows.x, columns, rows.weight)
    fitted = Fitted.of(prepared, members, prepared.data.bounds, patterns)
    return with_noise_of(fitted, prepared.data.unseen)


@torch.inference_mode()
def finish_without(plan: Plan, prepared: Prepared, fitted: Fitted, folds: Sequence[np.ndarray]) -> tuple[Fitted, ...]:
    """The same model, for each fold, with densities of its score that have not learned from rows that are held out.

    Parameters
    ----------
    plan : Plan
    prepared : Prepared
        Some of its held-out rows have taught the densities.
    fitted : Fitted
        What `finish` has made of it.
    folds : sequence of ndarray of int
        Places among the held-out rows.

    Returns
    -------
    fitted : tuple of Fitted
        Of tensors that no gradient is computed of.
    """
    modules = [member.module.with_buffers() for member in fitted.members]

    def without(places: np.ndarray) -> Fitted:
        rows, random_state = _density_rows(prepared, without=places), np.random.RandomState(prepared.seeds[0])
        members = (
            replace(member, densities=member.densities | _score_densities(plan, prepared, module, rows, random_state))
            for member, module in zip(fitted.members, modules, strict=True)
        )
        return replace(fitted, members=tuple(members))

    return tuple(map(without, folds))


def _members(plan: Plan, prepared: Prepared, random_state: np.random.RandomState) -> tuple[Member, ...]:
    """The networks with their densities; threads share them, so that each draws from a generator of its own."""
    n_networks = prepared.module.n_networks
    others = [np.random.RandomState(seed_from(random_state)) for _ in range(n_networks - 1)]
    members: dict[int, Member] = {}

    def make(numbers: Iterable[int]) -> None:
        for index in numbers:
            members[index] = _member(plan, prepared, index, [random_state, *others][index])

    shared(make, range(n_networks), 0.0, in_turn=prepared.module.flat.device.type != "cpu")
    return tuple(members[index] for index in range(n_networks))


def _member(plan: Plan, prepared: Prepared, index: int, random_state: np.random.RandomState) -> Member:
    """One network of the ensemble with its densities."""
    score, design = SCORES[prepared.score_method], prepared.design
    module = prepared.module.network(index)
    densities: dict[str, Density] = {}
    if has_residual_density(design.model, score):
        densities = _score_densities(plan, prepared, module, _density_rows(prepared), random_state)
    if isinstance(module, VAEModule) and design.latent_density != "normal":
        # Draws of its own: the density is the same whatever score_method has drawn.
        draws, prior = np.random.RandomState(prepared.noise_seed), prepared.module.prior
        learned = None if prior is None else LatentMixture.of(prior.mixtures[index])
        x, weight = _training_rows(prepared)
        densities["latent"] = _latent_mixture(module, Rows(x.double(), weight), draws, design, learned)
    return Member(module, densities)


def _score_densities(
    plan: Plan, prepared: Prepared, module: LatentModule, rows: Rows, random_state: np.random.RandomState
) -> dict[str, Density]:
    """What the score reads, by name: the density of the residuals, and one of its own if it has one."""
    score, (x, weight) = SCORES[prepared.score_method], (rows.x, rows.weight)
    compared = compare_many(module, x)
    residuals = compared.residual.double()
    shrinkage = covariance_shrinkage(residuals, _SHRINKAGE, _LEAST_SHRINKAGE) if plan.clean else _SHRINKAGE
    residual = fit_gaussian(residuals, weight, shrinkage=shrinkage)
    if score.needs_whole_rows and x[:, [column for column, _ in module.layer.probabilities]].isnan().any():
        compared = compare_many(module, x, fill_levels=True)
    density = score.fit(Evidence(compared, residual, weight, plan.clean, random_state))
    return {"residual": residual} if density is None else {"residual": residual, score.name: density}


def _density_rows(prepared: Prepared, without: np.ndarray | None = None) -> Rows:
    """The rows that densities of scores are estimated from, ``without`` some of the held-out ones."""
    (x, weight), held_out = _training_rows(prepared), prepared.data.density_rows
    if held_out is None:
        return Rows(x, weight)
    kept = np.delete(np.arange(len(held_out)), [] if without is None else without)
    unseen = held_out[torch.from_numpy(kept).to(held_out.device)]
    in_range = unseen.nan_to_num(0.0).square().sum(dim=1).isfinite()  # rows that train are checked, these are not
    return Rows(torch.cat([x, unseen[in_range]]), weight)


def _training_rows(prepared: Prepared) -> tuple[Tensor, Tensor | None]:
    """Rows that trained, as many as densities are estimated from, with their weights in float64."""
    rows = prepared.data.training
    x, weight = rows.x[:_DENSITY_ROWS], rows.weight
    if prepared.settings.binarize:
        x = Binarizer(x).draw(make_generator(prepared.noise_seed, x.device))
    return x, None if weight is None else weight[:_DENSITY_ROWS].double()


def _latent_mixture(
    module: VAEModule,
    rows: Rows,
    random_state: np.random.RandomState,
    design: Design,
    learned: LatentMixture | None,
) -> LatentMixture:
    """p(z) of a trained VAE: a mixture of the codes of the rows."""
    size = None if isinstance(design.latent_density, str) else design.latent_density
    if size is not None and size > len(rows.x):
        raise ValueError(
            f"latent_density={size} needs at least as many training rows as mixture components, but there are "
            f"n_samples={len(rows.x)} of them. Fit on more rows, or set latent_density='normal'."
        )
    double = cast(VAEModule, module.converted(torch.float64))
    with torch.no_grad():
        n_draws = max(1, min(_CODE_DRAWS, N_CODES // len(rows.x)))
        codes = double.draws(rows.x, n_draws, make_generator(seed_from(random_state), rows.x.device))
    if learned is not None:
        return learned.refined(codes, random_state, rows.weight, n_iter=_PRIOR_ROUNDS)
    return LatentMixture.fit(codes, random_state, rows.weight, size=size)


def remember(
    plan: Plan, prepared: Prepared, values: Tensor, random_state: np.random.RandomState, n_fitted: int
) -> Prepared:
    """Add a chunk to the stream that it belongs to.

    Parameters
    ----------
    plan : Plan
    prepared : Prepared
        With the chunk, and with the stream so far if there is one.
    values : Tensor of shape (n_samples, n_features)
        The chunk's raw rows.
    random_state : RandomState
    n_fitted : int
        Rows that an earlier fit has seen.

    Returns
    -------
    prepared : Prepared
        With the longer stream, and the remembered rows of all chunks in place of this chunk's.
    """
    data, stream = prepared.data, prepared.stream
    if stream is None:
        stream = Stream.empty(values.shape[1], n_fitted)
    places_threshold = data.n_held_out > 0 or not plan.clean
    held = (data.calibration_rows if places_threshold else data.calibration_rows[:0]).cpu().numpy()
    chunk, weight = values[data.rows].cpu().numpy(), data.training.weight
    stream = stream.extended(
        # The rows are in canonical order: the same rows in another order are the same chunk.
        int.from_bytes(hashlib.blake2b(chunk.tobytes(), digest_size=6).digest()),
        (chunk, None if weight is None else weight.cpu().double().numpy()),
        (held, data.calibration_weight),
        random_state,
        n_held=math.ceil(1.0 / plan.false_alarm_rate) - 1,
    )
    threshold = stream.held if len(stream.held.rows) else stream.training
    rows, training = torch.from_numpy(stream.training.rows), _remembered_rows(prepared, stream.training)
    quantiles = quantiles_of(rows, prepared.columns, plan.likelihood, training.weight) if plan.draws_rows else None
    data = replace(
        data,
        training=training,
        calibration_rows=torch.from_numpy(threshold.rows),
        calibration_weight=threshold.weight if (threshold.weight != 1.0).any() else None,
        n_held_out=len(stream.held.rows) if plan.clean else 0,
        bounds=bounds_of(rows, prepared.columns),
        quantiles=quantiles,
        unseen=_remembered_rows(prepared, stream.held, UNSEEN_ROWS) if plan.draws_rows and data.n_held_out else None,
    )
    return replace(prepared, data=data, stream=stream)


def _remembered_rows(prepared: Prepared, kept: Reservoir, n_most: int | None = None) -> Rows:
    """Rows of all chunks, scaled, the first ones if there are many."""
    device, values, weight = prepared.data.training.x.device, kept.rows[:n_most], kept.weight[:n_most]
    x = prepared.columns.gather(torch.from_numpy(values), torch.arange(len(values)), device)
    weighted = bool((weight != 1.0).any())
    of_row = torch.from_numpy(weight).to(device, torch.float32) if weighted else None
    return Rows(x, of_row, spread=prepared.columns.spread)


def taken_over(prepared: Prepared, earlier: Fitted) -> Fitted:
    """A module that has trained on, with the densities, the ranges and the calibration of its earlier state.

    Raises
    ------
    ValueError
        If another score is asked for than the one that the densities are for.
    """
    if prepared.score_method != earlier.score_method:
        raise ValueError(
            f"score_method must stay {earlier.score_method!r}, as in the fit, until the chunks hold as many rows as "
            f"it, but it is {prepared.score_method!r} now. Set it back, or call fit."
        )
    members = earlier.with_module(prepared.module).members
    later = Fitted.of(prepared, members, earlier.bounds, earlier.patterns)
    return replace(
        later,
        calibration=earlier.calibration,
        reliability=earlier.reliability,
        quantiles=earlier.quantiles,
    )
