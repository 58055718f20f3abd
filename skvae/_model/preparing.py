"""What happens between validated rows and a trained module, and what a fitted model consists of."""

import copy
import hashlib
import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from .. import likelihoods
from .._data.columns import REAL_FAMILIES, Columns
from .._data.families import column_families, comparable_rows, input_layer, least_spread
from .._data.inputs import InputLayer
from .._data.large import Large
from .._data.stream import Stream
from .._data.table import Table
from .._densities.latent import LatentMixture
from .._densities.neighbors import NeighborDistance
from .._densities.residuals import GaussianDensity, JointDensity, completed
from .._densities.trimming import central_density, trimmed_rows
from .._networks.incomplete import incomplete_start
from .._networks.mlp import SkipMLP
from .._networks.modules import AutoencoderModule, LatentModule, VAEModule
from .._networks.starts import factor_analysis_start, pca_start
from .._support.device import make_generator, seed_from
from .._support.numerics import observed
from .._training.feeder import Binarizer
from .._training.rows import Rows, Settings
from .comparison import compare_many
from .member import Member
from .passes import passes_over
from .sizes import CALIBRATION_ROWS, calibration_size, spends_budget
from .thresholds import Calibration

__all__ = [
    "Data",
    "Design",
    "Fitted",
    "check_domain",
    "copy_of",
    "finish",
    "prepare",
    "remember",
]

_MODULES: dict[str, type[LatentModule]] = {"autoencoder": AutoencoderModule, "vae": VAEModule}
_DENSITIES: dict[str, Any] = {
    kind.__name__: kind for kind in (GaussianDensity, JointDensity, LatentMixture, NeighborDistance)
}
# Rows on which densities of residuals are estimated: bounds the time of a fit's end.
_DENSITY_ROWS = 10_000
_RANGE_ROWS = 65_536
_HIDING = 0.5
# Rounds of expectation maximisation that end the learning of p(z).
_PRIOR_ROUNDS = 20


@dataclass(frozen=True)
class Design:
    """A model for a table of known size: every automatic parameter resolved."""

    kind: str  # a key of _MODULES
    n_components: int
    hidden: tuple[int, ...]
    activation: str
    likelihood: likelihoods.Likelihood
    n_networks: int
    settings: Settings
    layer: InputLayer | None = None  # None: complete rows are the encoder's inputs
    latent_density: str | int = "normal"  # of a VAE: also "mixture", "learned", or the number of mixture components

    def module(self, n_features: int, flat: Tensor | None = None) -> LatentModule:
        """Build the module; with zeros unless parameters are given."""
        heads = 2 if self.kind == "vae" else 1
        n_inputs = n_features if self.layer is None else self.layer.n_inputs
        encoder = SkipMLP(n_inputs, heads * self.n_components, self.hidden, self.activation, self.n_networks)
        decoder = SkipMLP(
            self.n_components, self.likelihood.n_outputs, self.hidden[::-1], self.activation, self.n_networks
        )
        return _MODULES[self.kind](encoder, decoder, self.likelihood, flat, self.layer)


@dataclass
class Fitted:
    """A fitted model: tensors and plain values only."""

    columns: Columns
    design: Design
    module: LatentModule
    seeds: list[int]
    noise_seed: int
    score_method: str
    optimiser_state: dict[str, Tensor] | None = None
    members: list[Member] = field(default_factory=list)
    cell_range: Tensor = field(
        default_factory=lambda: torch.zeros(2, 0)
    )  # (2, n_features), least and greatest scaled value of the training rows
    calibration: Calibration | None = None
    n_calibration: int = 0
    attained_rate: float = 0.0
    stream: Stream | None = None
    table: Table | None = None  # None where every column holds numbers

    @property
    def settings(self) -> Settings:
        """How the module is trained."""
        return self.design.settings

    @property
    def features(self) -> LatentModule:
        """The network that encodes and decodes."""
        return self.members[0].module

    def state(self) -> dict[str, Any]:
        """Arrays and plain values, for a pickle without torch."""
        design = vars(self.design) | {
            "likelihood": self.design.likelihood.config(),
            "settings": dict(vars(self.design.settings)),
            "layer": None if self.design.layer is None else self.design.layer.config(),
        }
        return {
            "columns": self.columns.state(),
            "design": design,
            "flat": self.module.flat.detach().cpu().numpy(),
            "optimiser_state": {k: v.cpu().numpy() for k, v in (self.optimiser_state or {}).items()},
            "densities": [
                {k: {"class": type(d).__name__, **d.state()} for k, d in member.densities.items()}
                for member in self.members
            ],
            "cell_range": self.cell_range.cpu().numpy(),
            "calibration": None if self.calibration is None else self.calibration.scores,
            "stream": None if self.stream is None else self.stream.state(),
            "table": None if self.table is None else self.table.state(),
            "plain": {
                name: getattr(self, name)
                for name in ("seeds", "noise_seed", "score_method", "n_calibration", "attained_rate")
            },
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Fitted":
        """Inverse of `state`, on the CPU."""
        values = dict(state["design"])
        values["likelihood"] = likelihoods.make_likelihood(values["likelihood"])
        values["settings"] = Settings(**{k: _tuple(v) for k, v in values["settings"].items()})
        values["hidden"] = tuple(values["hidden"])
        values["layer"] = None if values["layer"] is None else InputLayer.from_config(values["layer"])
        columns = Columns(**{name: _tuple(value) for name, value in state["columns"].items()})
        design = Design(**values)
        module = design.module(columns.n_features, torch.from_numpy(np.array(state["flat"])))
        fitted = cls(columns, design, module, **state["plain"])
        fitted.optimiser_state = {k: torch.from_numpy(np.array(v)) for k, v in state["optimiser_state"].items()} or None
        fitted.members = [
            Member(module.network(i), {k: _density(d) for k, d in densities.items()})
            for i, densities in enumerate(state["densities"])
        ]
        fitted.cell_range = torch.from_numpy(np.array(state["cell_range"]))
        fitted.calibration = None if state["calibration"] is None else Calibration(np.array(state["calibration"]))
        fitted.stream = None if state["stream"] is None else Stream.from_state(state["stream"])
        fitted.table = None if state["table"] is None else Table.from_state(state["table"])
        return fitted

    def score_as(self, earlier: "Fitted") -> None:
        """Take over the densities and the calibration of an earlier state of the model."""
        self.members = [
            Member(self.module.network(index), member.densities) for index, member in enumerate(earlier.members)
        ]
        self.calibration, self.n_calibration = earlier.calibration, earlier.n_calibration
        self.attained_rate = earlier.attained_rate


@dataclass
class Data:
    """The rows of one fit; they leave with the end of it."""

    training: Rows
    validation: Rows | None
    rows: Tensor  # numbers of the training rows in the table
    calibration: Tensor  # (n_calibration, n_features), raw: the rows that place the threshold
    calibration_weight: np.ndarray | None = None


def _density(state: dict[str, Any]) -> Any:
    return _DENSITIES[state["class"]].from_state({k: v for k, v in state.items() if k != "class"})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def prepare(
    estimator: Any,
    values: Tensor,
    rows: np.ndarray,
    weight: np.ndarray | None,
    names: tuple[str, ...],
    random_state: np.random.RandomState,
    device: torch.device,
    *,
    seed: int,
    earlier: Fitted | None,
    one_pass: bool,
    large: Large | None = None,
    table: Table | None = None,
) -> tuple[Fitted, Data]:
    """Split the rows, scale them, and put a module at its starting point.

    Parameters
    ----------
    estimator : estimator
        Its parameters and its ``_design``.
    values : Tensor of shape (n_samples, n_features)
        Raw rows.
    rows : ndarray of int
        The rows that count, repeated as often as they count, in random order.
    weight : ndarray of the shape of ``rows``, or None
    names : tuple of str
    random_state : RandomState
    device : torch.device
    seed : int
        Of the noise that scoring averages over; it stays when a fit goes on.
    earlier : Fitted, or None
        A model to go on with.
    one_pass : bool
        Whether this is one pass of a longer training.
    large : Large, or None
        The table that ``values`` are a sample of.
    table : Table, or None
        What the codes of categorical columns stand for.

    Returns
    -------
    fitted : Fitted
        Ready to train.
    data : Data
    """
    n_held = 0
    if estimator.contamination == "auto":
        n_held = calibration_size(len(rows), estimator.false_alarm_rate, estimator.calibration_fraction)
    n_validation = 0
    if estimator.early_stopping:  # one row is left to train on
        n_validation = min(round(estimator.validation_fraction * (len(rows) - n_held)), len(rows) - n_held - 1)
    parts = np.split(rows, [n_held, n_held + n_validation])
    weights = [None] * 3 if weight is None else np.split(weight, [n_held, n_held + n_validation])
    _, validation_weight, training_weight = (_tensor(part) for part in weights)
    held, validation, training = (torch.from_numpy(part) for part in parts)

    columns = earlier.columns if earlier else None
    kinds = _kinds(estimator, names, table)
    if columns is None:
        columns = Columns.fit(values, training, names, training_weight, **kinds)
    check_domain(estimator.likelihood, values, columns)
    x = columns.gather(values, training, device)
    if estimator.contamination != "auto" and len(x) > 2:
        layer = input_layer(columns, x, training_weight)
        kept = trimmed_rows(comparable_rows(x, columns, layer), estimator.contamination, least_spread(columns))
        training = training[kept]
        training_weight = None if training_weight is None else training_weight[kept]
        if earlier is None:
            columns = Columns.fit(values, training, names, training_weight, **kinds)
        x = columns.gather(values, training, device)

    design, reads_all = _resolved(estimator, columns, len(x), large, earlier, one_pass=one_pass)
    design = replace(design, layer=_layer(columns, earlier, x, training_weight))
    if columns.masked and design.kind == "autoencoder":
        # Without a KL only hidden cells teach the network what a missing one was.
        design = replace(design, settings=replace(design.settings, hiding=_HIDING))
    seeds = [seed_from(random_state) for _ in range(design.n_networks)]
    fitted = Fitted(
        columns, design, design.module(columns.n_features), seeds, seed,
        estimator._resolved_score_method(), table=table,
    )  # fmt: skip
    fitted.n_calibration = n_held
    validation_rows = None
    if n_validation:
        validation_rows = Rows(columns.gather(values, validation, device), _to(validation_weight, device))
    _check_spread(x, columns)
    _start(fitted, earlier, x, random_state, device)
    held_rows = values if estimator.contamination != "auto" else values[held if n_held else training[:CALIBRATION_ROWS]]
    if design.settings.binarize:  # as the rows to come
        held_rows = Binarizer(held_rows).draw(make_generator(seed, held_rows.device))
    training_rows = Rows(x, _to(training_weight, device))
    if large is not None and reads_all:
        training_rows.passes = passes_over(
            large, columns, training, device, contamination=estimator.contamination, least=least_spread(columns),
            comparable=partial(comparable_rows, columns=columns, layer=fitted.module.layer),
        )  # fmt: skip
    return fitted, Data(training_rows, validation_rows, training, held_rows)


def _resolved(
    estimator: Any, columns: Columns, n_samples: int, large: Large | None, earlier: Fitted | None, *, one_pass: bool
) -> tuple[Design, bool]:
    """The design, and whether passes over all rows of a large table train it rather than the sample that is held."""
    before = None if earlier is None else earlier.design
    design = estimator._design(n_samples, columns, earlier=before)
    reads_all = large is not None and (one_pass or not spends_budget(estimator, design.settings.n_epochs))
    if large is not None and reads_all:
        design = estimator._design(len(large.values), columns, earlier=before)
    if one_pass:
        settings = replace(design.settings, n_epochs=1, one_cycle=False, patience=None)
        if earlier is None and settings.learns_prior:  # one pass parts no modes
            design = replace(design, latent_density="mixture")
            settings = replace(settings, learns_prior=False)
        design = replace(design, settings=settings)
    return design, reads_all


def _layer(columns: Columns, earlier: Fitted | None, x: Tensor, weight: Tensor | None) -> InputLayer | None:
    """What the encoder has to be told beside the values."""
    if earlier is not None:
        return earlier.design.layer
    layer = input_layer(columns, x, weight)
    return None if layer.is_identity and not layer.fill else layer


def _tensor(weight: np.ndarray | None) -> Tensor | None:
    return None if weight is None else torch.from_numpy(weight)


def _to(weight: Tensor | None, device: torch.device) -> Tensor | None:
    return None if weight is None else weight.to(device, torch.float32)


def _kinds(estimator: Any, names: tuple[str, ...], table: Table | None) -> dict[str, Any]:
    """What `Columns.fit` has to know: columns are scaled only where their likelihood speaks of real numbers."""
    n_levels = None if table is None else table.n_levels
    families = column_families(estimator.likelihood, names, n_levels, ("auto", *likelihoods.LIKELIHOODS))
    real = families is not None or estimator.likelihood in REAL_FAMILIES
    return {"standardize": estimator.standardize and real, "families": families, "n_levels": n_levels}


def check_domain(name: str, values: Tensor, columns: Columns) -> None:
    """Refuse rows outside the domain of a column's family; ``name`` is that of all where none has its own."""
    families = columns.families or (name,) * columns.n_features
    for index, family in enumerate(families):
        if family not in (*REAL_FAMILIES, "categorical"):
            likelihood = likelihoods.make_likelihood({"name": family, "n_columns": 1})
            likelihood.check(values[:, index].cpu().numpy(), columns.names[index])


def _start(
    fitted: Fitted, earlier: Fitted | None, x: Tensor, random_state: np.random.RandomState, device: torch.device
) -> None:
    module = fitted.module
    if earlier is not None:
        if earlier.module.flat.shape != module.flat.shape or replace(
            earlier.design, settings=fitted.design.settings, likelihood=fitted.design.likelihood
        ) != replace(fitted.design):
            raise ValueError(
                "Going on with a fitted model needs the network that it was fitted with, but "
                f"{_changes(earlier.design, fitted.design)}. Set it back, or fit anew with warm_start=False."
            )
        module.flat.data = earlier.module.flat.detach().clone().to(device)
        if fitted.settings.learns_prior and earlier.members:
            mixtures = [member.densities["latent"].diagonal() for member in earlier.members]
            module.set_prior(mixtures)
        if earlier.optimiser_state is not None:
            fitted.optimiser_state = {k: v.clone().to(device) for k, v in earlier.optimiser_state.items()}
        return
    low, high = fitted.settings.noise
    noise_variance = (low * low + low * high + high * high) / 3.0  # of a scale drawn uniformly
    rows = module.layer.incomplete_values(x)
    if fitted.design.kind == "vae":
        rows = module.layer.uncorrelated(rows, random_state)
    if observed(x) is not None:
        kind = {"noise_variance": noise_variance} if fitted.design.kind == "autoencoder" else {}
        linear = incomplete_start(rows, module.layer(x), module.n_components, random_state, **kind)
    elif fitted.design.kind == "autoencoder":
        linear = pca_start(rows, module.n_components, random_state, noise_variance=noise_variance)
    else:
        linear = factor_analysis_start(rows, module.n_components, random_state)
    module.start(linear, [make_generator(seed) for seed in fitted.seeds])
    module.flat.data = module.flat.data.to(device)


def _changes(before: Design, after: Design) -> str:
    """Name the parameters of the network that differ, with both values."""
    names = {"n_components": "n_components", "hidden": "hidden_layer_sizes", "activation": "activation"}
    pairs = {name: (getattr(before, field), getattr(after, field)) for field, name in names.items()}
    pairs["likelihood"] = (before.likelihood.name, after.likelihood.name)
    pairs["n_networks"] = (before.n_networks, after.n_networks)
    told = [f"{name!r} was {old!r} and is now {new!r}" for name, (old, new) in pairs.items() if old != new]
    return " and ".join(told) or "the outputs of its likelihood differ"


def _check_spread(x: Tensor, columns: Columns) -> None:
    """Refuse columns whose values or squares overflow."""
    wrong = ~np.isfinite(columns.scale) | torch.isinf(_cell_range(x)).any(dim=0).cpu().numpy()
    if wrong.any():
        name = columns.names[int(np.argmax(wrong))]
        raise ValueError(
            f"Columns must keep finite when squared and scaled, but column {name!r} holds values too large for that. "
            "Divide it by a constant, or take its logarithm."
        )


def finish(estimator: Any, fitted: Fitted, rows: Rows, random_state: np.random.RandomState) -> None:
    """Estimate, on the training rows, the densities that the scores need."""
    x = rows.x[:_DENSITY_ROWS]
    if fitted.settings.binarize:
        x = Binarizer(x).draw(make_generator(fitted.noise_seed, x.device))
    weight = None if rows.weight is None else rows.weight[:_DENSITY_ROWS].double()
    needs_residuals = fitted.design.kind == "autoencoder" or fitted.score_method in ("residual", "joint", "neighbor")
    fitted.members = []
    fitted.cell_range = _cell_range(rows.x)
    for index in range(fitted.module.n_networks):
        member = Member(fitted.module.network(index))
        if needs_residuals:
            compared = compare_many(member.module, x)
            member.densities["residual"] = GaussianDensity.fit(compared.residual.double(), weight)
        if fitted.score_method in ("joint", "neighbor"):
            values, residual = (part.double() for part in completed(*compared[:4]))
            joint = _joint_density(estimator, fitted.score_method, values, residual, weight, member, random_state)
            member.densities[fitted.score_method] = joint
        if isinstance(member.module, VAEModule) and fitted.design.latent_density != "normal":
            # Draws of its own: the density is the same whatever score_method has drawn.
            own = np.random.RandomState(fitted.noise_seed)
            prior = fitted.module.prior
            learned = None if prior is None else LatentMixture.of(prior.mixtures[index])
            member.densities["latent"] = _latent_mixture(member.module, x.double(), weight, own, fitted.design, learned)
        fitted.members.append(member)


def _cell_range(x: Tensor) -> Tensor:
    """Least and greatest observed value of each scaled column; 0 where there is none."""
    low, high = x.new_full((x.shape[1],), torch.inf), x.new_full((x.shape[1],), -torch.inf)
    for part in x.split(_RANGE_ROWS):  # bounds the memory of the masks
        mask = observed(part)
        below, above = (part, part) if mask is None else (torch.where(mask, part, end) for end in (low, high))
        low, high = torch.minimum(low, below.amin(dim=0)), torch.maximum(high, above.amax(dim=0))
    return torch.where(low <= high, torch.stack([low, high]), 0.0)


def _joint_density(
    estimator: Any,
    method: str,
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    member: Member,
    random_state: np.random.RandomState,
) -> Any:
    """What scores [input; whitened residual]: fine where the rows are clean, coarse where some are not."""
    density, clean = member.densities["residual"], estimator.contamination == "auto"
    if method == "joint" and clean:
        return JointDensity.fit(x, density, residual, random_state)
    joint = torch.cat([x, density.whiten(residual)], dim=1)
    if method == "joint":
        return central_density(joint, weight, floor=0.1)
    # 5 % of 300 neighbours look past a cluster of anomalies; among clean rows the nearest one tells most.
    return NeighborDistance.fit(joint, 1 if clean else 15, random_state, n_references=2000 if clean else 300)


def _latent_mixture(
    module: VAEModule,
    x: Tensor,
    weight: Tensor | None,
    random_state: np.random.RandomState,
    design: Design,
    learned: LatentMixture | None,
) -> LatentMixture:
    size = None if isinstance(design.latent_density, str) else design.latent_density
    if size is not None and size > len(x):
        raise ValueError(
            f"latent_density={size} needs at least as many training rows as mixture components, but there are "
            f"{len(x)}. Fit on more rows, or set latent_density='normal'."
        )
    double = cast(VAEModule, module.converted(torch.float64))
    with torch.no_grad():
        codes = double.draw(x, make_generator(seed_from(random_state), x.device))
    if learned is not None:
        return learned.refined(codes, random_state, weight, n_iter=_PRIOR_ROUNDS)
    return LatentMixture.fit(codes, random_state, weight, size=size, thorough=bool(module.layer.shares))


def remember(
    estimator: Any,
    fitted: Fitted,
    data: Data,
    values: Tensor,
    random_state: np.random.RandomState,
    *,
    earlier: Fitted | None,
    n_fitted: int,
) -> Data:
    """Add a chunk to the stream that it belongs to.

    Parameters
    ----------
    estimator : estimator
    fitted : Fitted
        Gets the longer stream.
    data : Data
        The chunk.
    values : Tensor of shape (n_samples, n_features)
        Its raw rows.
    random_state : RandomState
    earlier : Fitted, or None
        Where the stream so far is.
    n_fitted : int
        Rows that an earlier fit has seen.

    Returns
    -------
    data : Data
        The remembered rows of all chunks in place of this chunk's.
    """
    stream = None if earlier is None else earlier.stream
    if stream is None:
        stream = Stream.empty(values.shape[1], n_fitted)
    places_threshold = fitted.n_calibration > 0 or estimator.contamination != "auto"
    held = (data.calibration if places_threshold else data.calibration[:0]).cpu().numpy()
    chunk, weight = values[data.rows].cpu().numpy(), data.training.weight
    fitted.stream = stream = stream.extended(
        # The rows are in canonical order: the same rows in another order are the same chunk.
        int.from_bytes(hashlib.blake2b(chunk.tobytes(), digest_size=6).digest()),
        (chunk, None if weight is None else weight.cpu().double().numpy()),
        (held, data.calibration_weight),
        random_state,
        n_held=math.ceil(1.0 / estimator.false_alarm_rate) - 1,
    )
    rows = torch.arange(len(stream.training.rows))
    device = data.training.x.device
    x = fitted.columns.gather(torch.from_numpy(stream.training.rows), rows, device)
    weighted = (stream.training.weight != 1.0).any()
    training = Rows(x, _to(torch.from_numpy(stream.training.weight), device) if weighted else None)
    if estimator.contamination == "auto":
        fitted.n_calibration = len(stream.held.rows)
    threshold = stream.held if len(stream.held.rows) else stream.training
    return replace(
        data,
        training=training,
        calibration=torch.from_numpy(threshold.rows),
        calibration_weight=threshold.weight if (threshold.weight != 1.0).any() else None,
    )


def copy_of(fitted: Fitted) -> Fitted:
    """The same model with parameters of its own."""
    other = copy.copy(fitted)
    other.module = fitted.module.copied()
    return other
