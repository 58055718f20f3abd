"""From rows to a module at its starting point: the split of the rows, their scaling, the design, the start."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .._data.columns import Columns
from .._data.families import check_domain, comparable_rows, input_layer, least_spread, make_schema
from .._data.inputs import InputLayer
from .._data.quantiles import QUANTILE_ROWS
from .._data.sample import Part, Sample, Split
from .._densities.trimming import trimmed_rows
from .._networks.incomplete_starts import incomplete_start
from .._networks.modules import LatentModule
from .._networks.starts import LinearStart, factor_analysis_start, pca_start
from .._support.device import make_generator, seed_from
from .._support.numerics import column_range, observed
from .._tables.cells import listed
from .._training.feeder import Binarizer
from .._training.rows import Rows
from .design import Design, check_unchanged
from .fitted import Data, Fitted, Prepared, bounds_of, quantiles_of
from .passes import passes_over
from .plan import Plan
from .sizes import CALIBRATION_ROWS, UNSEEN_ROWS, spends_budget

__all__ = ["prepare", "prepare_fold"]

# Greatest fraction of a row's values that is hidden while an autoencoder trains on a table with gaps.
_HIDING = 0.5
# Rounds of factor analysis where columns hold levels or counts, of which it is a rough model however long it runs.
_DISCRETE_ROUNDS = 50


def prepare(plan: Plan, sample: Sample, earlier: Fitted | None, random_state: np.random.RandomState) -> Prepared:
    """Split the rows, scale them, and put a module at its starting point.

    Parameters
    ----------
    plan : Plan
    sample : Sample
    earlier : Fitted, or None
        A model to go on with.
    random_state : RandomState

    Returns
    -------
    prepared : Prepared
    """
    fixed, before = plan.fixed(sample.own_names), {} if earlier is None else earlier.design.fixed or {}
    check_unchanged(before, fixed)
    n_held_out = plan.n_held_out(len(sample.rows))
    split = sample.split(n_held_out, plan.n_validation(len(sample.rows) - n_held_out))
    columns, training = _learned_columns(plan, sample, split.training, earlier)
    split = split._replace(training=training)
    x = columns.gather(sample.values, training.rows, plan.device)
    design, reads_all = _design(plan, sample, columns, len(x), earlier)
    design = replace(_with_inputs(design, columns, Rows(x, training.weight), earlier), fixed={**before, **fixed})
    seeds = [seed_from(random_state) for _ in range(design.n_networks)]
    _check_spread(x, columns)
    module = design.module(columns.n_features)
    if earlier is None:
        _start(module, design, x, random_state, seeds)
    else:
        _go_on(module, design, earlier, plan.device)
    data = _data(plan, sample, split, columns, Rows(x, _to(training.weight, plan.device), spread=columns.spread))
    if reads_all:
        data = replace(data, training=passes_over(plan, sample, columns, data, module.layer))
    if design.settings.binarize:  # as the rows to come
        rows = Binarizer(data.calibration_rows).draw(make_generator(sample.seed, data.calibration_rows.device))
        data = replace(data, calibration_rows=rows, density_rows=None)
    return Prepared(
        columns=columns,
        design=design,
        module=module,
        seeds=seeds,
        noise_seed=sample.seed,
        score_method=plan.score_name(sample.repeated, None if earlier is None else earlier.score_method),
        table=sample.table,
        data=data,
        optimiser_state=None if earlier is None else _moved(earlier.optimiser_state, plan.device),
        stream=None if earlier is None else earlier.stream,
    )


def prepare_fold(plan: Plan, sample: Sample, whole: Prepared, n_epochs: int | None, seed: int) -> Prepared:
    """Put the network of another fit at a starting point of its own, from some of that fit's rows.

    Parameters
    ----------
    plan : Plan
    sample : Sample
        Of those rows.
    whole : Prepared
        Of all rows, with the network's sizes and the kinds of the columns.
    n_epochs : int, or None
        None takes what the plan says for so many rows.
    seed : int

    Returns
    -------
    prepared : Prepared
    """
    random_state = np.random.RandomState(seed)
    split = sample.split(0, plan.n_validation(len(sample.rows)))
    columns = _columns_of(plan, sample, split.training, whole.columns)
    x = columns.gather(sample.values, split.training.rows, plan.device)
    rows = Rows(x, _to(split.training.weight, plan.device), spread=columns.spread)
    settings = plan.design(len(x), columns, earlier=whole.design).settings
    settings = settings if n_epochs is None else replace(settings, n_epochs=n_epochs)
    design = _with_inputs(replace(whole.design, settings=settings), columns, rows, None)
    seeds = [seed_from(random_state) for _ in range(design.n_networks)]
    module = design.module(columns.n_features)
    _start(module, design, x, random_state, seeds)
    data = _data(plan, sample, split, columns, rows)
    return replace(
        whole, columns=columns, design=design, module=module, seeds=seeds, data=data, optimiser_state=None, stream=None
    )


def _columns_of(plan: Plan, sample: Sample, rows: Part, whole: Columns | None = None) -> Columns:
    """Scales of the columns, learned of some rows."""
    n_levels = None if sample.table is None else sample.table.n_levels
    scaled = {"standardize": plan.standardize or plan.maps_columns, "marginals": plan.maps_columns}
    schema = make_schema(plan.likelihood, sample.names, n_levels, **scaled)
    return Columns.fit(sample.values, rows.rows, schema, rows.weight, whole=whole)


def _learned_columns(plan: Plan, sample: Sample, training: Part, earlier: Fitted | None) -> tuple[Columns, Part]:
    """Scales of the columns, and the rows that train: where some may be anomalous, the worst do not."""
    columns = _columns_of(plan, sample, training) if earlier is None else earlier.columns
    check_domain(plan.likelihood, sample.values, columns)
    if plan.clean or len(training.rows) <= 2:
        return columns, training
    x = columns.gather(sample.values, training.rows, plan.device)
    layer = input_layer(columns, x, training.weight)
    kept = trimmed_rows(comparable_rows(x, columns, layer), plan.contamination, least_spread(columns))
    training = training.chosen(kept)
    if earlier is None:
        columns = _columns_of(plan, sample, training, columns)
    return columns, training


def _design(
    plan: Plan, sample: Sample, columns: Columns, n_samples: int, earlier: Fitted | None
) -> tuple[Design, bool]:
    """The design, and whether passes over all rows of a large table train it rather than the sample that is held."""
    before = None if earlier is None else earlier.design
    design = plan.design(n_samples, columns, earlier=before)
    reads_all = sample.large is not None and (plan.one_pass or not spends_budget(plan, design.settings.n_epochs))
    if reads_all:
        design = plan.design(sample.n_total, columns, earlier=before)
    if plan.one_pass:
        settings = replace(design.settings, n_epochs=1, one_cycle=False, patience=None)
        if settings.learns_prior and (before is None or before.is_mixture_for_now):  # one pass parts no modes
            design = replace(design, latent_density="mixture")
            settings = replace(settings, learns_prior=False)
        design = replace(design, settings=settings)
    return design, reads_all


def _with_inputs(design: Design, columns: Columns, rows: Rows, earlier: Fitted | None) -> Design:
    """The design with what the encoder is told beside the values."""
    design = replace(design, layer=_layer(columns, rows, earlier))
    if columns.masked and design.model == "autoencoder":
        # Without a KL only hidden values teach the network what a missing one was.
        return replace(design, settings=replace(design.settings, hiding=_HIDING))
    return design


def _layer(columns: Columns, rows: Rows, earlier: Fitted | None) -> InputLayer | None:
    if earlier is not None:
        return earlier.design.layer
    layer = input_layer(columns, rows.x, rows.weight)
    return None if layer.is_identity and not layer.fill else layer


def _data(plan: Plan, sample: Sample, split: Split, columns: Columns, training: Rows) -> Data:
    """The rows of each part, scaled but for those that place the threshold."""
    held, validation, trained = split
    values, n_cross_fitted = sample.values, plan.n_cross_fitted(len(sample.rows))
    n_held_out = len(held.rows) or n_cross_fitted
    validation_rows = None
    if len(validation.rows):
        x = columns.gather(values, validation.rows, plan.device)
        validation_rows = Rows(x, _to(validation.weight, plan.device), spread=columns.spread)
    if plan.clean:
        cross_fitted = torch.from_numpy(sample.rows[:n_cross_fitted])
        values = values[torch.cat([held.rows, cross_fitted]) if n_held_out else trained.rows[:CALIBRATION_ROWS]]
    quantiles = None
    if plan.draws_rows:
        some = trained.chosen(torch.arange(min(QUANTILE_ROWS, len(trained.rows))))
        quantiles = quantiles_of(sample.values[some.rows], columns, plan.likelihood, some.weight)
    density_rows = None
    if len(held.rows) and held.weight is None and plan.learns_held_out(len(sample.rows)):
        density_rows = columns.gather(sample.values, held.rows, plan.device)
    return Data(
        training=training,
        validation=validation_rows,
        rows=trained.rows,
        calibration_rows=values,
        bounds=bounds_of(sample.values, columns, trained.rows),
        calibration_weight=None if plan.clean else sample.weight,
        n_held_out=n_held_out,
        quantiles=quantiles,
        density_rows=density_rows,
        unseen=_unseen(sample, split, columns, plan.device) if plan.draws_rows else None,
    )


def _unseen(sample: Sample, split: Split, columns: Columns, device: torch.device) -> Rows | None:
    """Some rows that do not train, scaled: first of those that are held out, then of those that validate."""
    held, validation, _ = split
    rows = torch.cat([held.rows, validation.rows])[:UNSEEN_ROWS]
    if not len(rows):
        return None
    weight = None
    if held.weight is not None and validation.weight is not None:
        weight = _to(torch.cat([held.weight, validation.weight])[:UNSEEN_ROWS], device)
    return Rows(columns.gather(sample.values, rows, device), weight, spread=columns.spread)


def _to(weight: Tensor | None, device: torch.device) -> Tensor | None:
    return None if weight is None else weight.to(device, torch.float32)


def _moved(state: dict[str, Tensor] | None, device: torch.device) -> dict[str, Tensor] | None:
    return None if state is None else {name: value.clone().to(device) for name, value in state.items()}


def _go_on(module: LatentModule, design: Design, earlier: Fitted, device: torch.device) -> None:
    """Start where an earlier fit has ended."""
    before, for_now = earlier.design, earlier.design.is_mixture_for_now
    if for_now:  # a whole training learns p(z) from here on
        before = replace(before, latent_density=design.latent_density)
    check_unchanged(before.network, design.network)
    sizes = ({"number of weights": len(flat)} for flat in (earlier.module.flat, module.flat))
    check_unchanged(*sizes)  # an older file does not say of what form the noise scales were
    module.flat.data = earlier.module.flat.detach().clone().to(device)
    if design.settings.learns_prior and earlier.members and not for_now:
        mixtures = [member.densities["latent"].diagonal() for member in earlier.members]
        module.set_prior(mixtures)


def _start(
    module: LatentModule, design: Design, x: Tensor, random_state: np.random.RandomState, seeds: list[int]
) -> None:
    """Start at a linear model of the rows, on their device."""
    rows = module.layer.incomplete_values(x)
    if design.model == "vae":
        rows = module.layer.uncorrelated(rows, random_state)
    linear = _linear_start(module, design, x, rows, random_state)
    module.start(linear, [make_generator(seed) for seed in seeds])
    module.flat.data = module.flat.data.to(x.device)


def _linear_start(
    module: LatentModule, design: Design, x: Tensor, rows: Tensor, random_state: np.random.RandomState
) -> LinearStart:
    is_autoencoder = design.model == "autoencoder"
    if observed(x) is not None:
        low, high = design.settings.noise
        noise_variance = (low * low + low * high + high * high) / 3.0  # of a scale drawn uniformly
        options = {"noise_variance": noise_variance} if is_autoencoder else {}
        return incomplete_start(rows, module.layer(x), module.n_components, random_state, **options)
    if is_autoencoder:
        return pca_start(rows, module.n_components, random_state)
    if module.layer.is_plain:
        return factor_analysis_start(rows, module.n_components, random_state)
    return factor_analysis_start(rows, module.n_components, random_state, max_iter=_DISCRETE_ROUNDS)


def _check_spread(x: Tensor, columns: Columns) -> None:
    """Refuse columns whose values or squares overflow."""
    wrong = ~np.isfinite(columns.scale) | torch.isinf(column_range(x)).any(dim=0).cpu().numpy()
    if wrong.any():
        which = listed([columns.names[index] for index in np.flatnonzero(wrong)])
        raise ValueError(
            f"Columns must keep finite when squared and scaled, but {which} holds values too large for that. Divide it "
            "by a constant, or take its logarithm."
        )
