"""A fitted estimator as the nodes of a graph, from raw rows of numbers and codes to its outputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from .._data.columns import Columns
from .._data.departures import tolerances
from .._densities.lengths import LEAST_LENGTH
from .._densities.modes import ModalDensity
from .._densities.residuals import JointDensity
from .._estimators.detection import check_score_method
from .._model.scores import SCORE_DRAWS, SCORES, checked_draws
from .._model.thresholds import LOWEST_SCORE
from .._networks.modules import LOG_VARIANCE_RANGE
from .._support.device import make_generator
from .._support.graph import Graph
from ..autoencoder import AutoencoderTransformer
from ..likelihoods import Autoregressive, ColumnGroups, Likelihood
from ..vae import VAETransformer
from .encoding import Encoding, Rows
from .in_turn import ColumnsInTurn
from .refusals import refuse

__all__ = ["Network", "Writer"]

_LOG_2PI = math.log(2.0 * math.pi)
# Neighbours whose distance is computed anew from differences: the product that finds them rounds.
_SURPLUS_NEIGHBORS = 8
# Departures from a constant count up to here, so that a quotient cannot overflow.
_FARTHEST = 1e290


class Network(NamedTuple):
    """Names of what one network makes of the rows, and its numbers."""

    rows: Rows
    encoded: str
    outputs: str  # of the decoder
    decoded: str  # expected rows
    expected: str  # outputs for the columns' likelihood that say so
    decoder: Any  # Parameters
    free: torch.Tensor  # the likelihood's free parameters
    densities: dict[str, Any]  # as saved


class Writer:
    """One estimator written into a graph."""

    def __init__(self, estimator: Any, graph: Graph) -> None:
        if not isinstance(estimator, (AutoencoderTransformer, VAETransformer)):
            raise TypeError(
                "to_onnx takes an AutoencoderTransformer, a VAETransformer or a pipeline that ends with one, but "
                f"{type(estimator).__name__} came. Export it with skl2onnx."
            )
        if not hasattr(estimator, "module_"):
            raise ValueError(
                f"to_onnx needs a fitted estimator, but this {type(estimator).__name__} has not been fitted."
            )
        check_score_method(estimator)
        self.estimator, self.graph = estimator, graph
        self.state = estimator.__getstate__()["_fitted"]
        self.likelihood: Likelihood = estimator.module_.likelihood
        self.cells = self.likelihood  # without what they see of each other
        if isinstance(self.likelihood, Autoregressive):
            self.cells = self.likelihood.likelihood
        refuse(self.likelihood, self.state, graph.dtype, set(_FORMS))
        self.columns = Columns.from_state(self.state["columns"])
        self.layer = estimator.module_.layer
        self.encoding = Encoding(graph, self.columns, self.layer)
        self.activation = self.state["design"]["activation"]
        self.is_vae = self.state["design"]["kind"] == "vae"
        self.method = self.state["plain"]["score_method"]

    def write(self, raw: str, dtype: Any, names: Mapping[str, str]) -> Network:
        """Add the nodes from raw rows to "codes", "scores" and "labels", those that are named.

        Parameters
        ----------
        raw : str
            Numbers and codes of levels, of shape (n_samples, n_features); the first code beyond those of a column for
            a level that is new, NaN for a missing cell.
        dtype : dtype
            Of the rows.
        names : mapping of str to str
            Names of the outputs.

        Returns
        -------
        network : Network
            The one that encodes and decodes. In its rows, as in the codes, new levels count as missing.
        """
        rows = self.encoding.scaled(raw, dtype, scored=False)
        first = self._network(0, rows)
        if "codes" in names:
            self.graph.node("Identity", self._codes(rows, first.encoded), name=names["codes"])
        if "scores" in names:
            networks = [first]
            if self.encoding.is_level.any():
                rows = self.encoding.scaled(raw, dtype, scored=True)
                networks = [self._whole(0, rows)]
            networks += [self._whole(index, rows) for index in range(1, len(self.state["densities"]))]
            parts = [self.graph.cast(_FORMS[self.method](self, network), "float64") for network in networks]
            self._finish(parts, raw, dtype, names)
        return first

    def undecoded(self, network: Network) -> str:
        """Whether rows have a cell that the encoder does not take, of shape (n_samples, 1)."""
        total = self.graph.node("ReduceSum", network.outputs, self.graph.integers(-1), keepdims=1)
        return self.graph.node("IsNaN", total)

    def _network(self, index: int, rows: Rows) -> Network:
        module = self.estimator.module_.network(index)
        encoder, decoder, free = module.parts()
        encoded = self._perceptron(encoder, self.encoding.inputs(rows))
        outputs = self._perceptron(decoder, self._codes(rows, encoded))
        free = free.detach().cpu().double()
        if isinstance(self.likelihood, Autoregressive):
            decoded, expected = ColumnsInTurn(self.graph, self.likelihood, free).expected(outputs)
        else:
            decoded, expected = self.likelihood.graph_mean(self.graph, outputs), outputs
        return Network(rows, encoded, outputs, decoded, expected, decoder, free, self.state["densities"][index])

    def _whole(self, index: int, rows: Rows) -> Network:
        """A network of the rows that its score reads: some have the likeliest level for a missing one."""
        network, is_level = self._network(index, rows), self.encoding.is_level
        if not SCORES[self.method].needs_whole_rows or not is_level[list(self.layer.masked)].any():
            return network
        return self._network(index, self.encoding.with_levels(rows, network.decoded))

    def _finish(self, parts: list[str], raw: str, dtype: Any, names: Mapping[str, str]) -> None:
        """Mean over the networks, units of the user, labels."""
        g = self.graph
        log_scale = float(np.log(self.columns.scale).sum())
        jacobian = -log_scale if SCORES[self.method].is_density else 0.0
        mean = g.node("Div", g.node("Sum", *parts), g.constant(float(len(parts)), np.float64))
        sums = self._lowered(g.node("Add", mean, g.constant(jacobian, np.float64)), raw, dtype)
        lowest = g.constant(LOWEST_SCORE, np.float64)
        of_nan, strict, masked = lowest, self._strict(), bool(self.layer.masked)
        if len(strict):  # there, a missing cell is not expected: no score rather than a low one
            strictly = g.node("Gather", raw, g.integers(*strict), axis=1) if masked else raw
            refused = g.node("IsNaN", g.row_sum(strictly))
            of_nan = g.node("Where", refused, g.constant(np.nan, np.float64), lowest)
            if masked or self.encoding.is_level.any():  # a row without any value has a score, one of levels may have
                sums = g.node("Where", refused, g.constant(np.nan, np.float64), sums)
        scores = g.node("Where", g.node("IsNaN", sums), of_nan, g.node("Max", sums, lowest), name=names["scores"])
        normal = g.node("GreaterOrEqual", scores, g.constant(self.estimator.offset_, np.float64))
        g.node("Where", normal, g.constant(1, np.int64), g.constant(-1, np.int64), name=names["labels"])

    def _strict(self) -> list[int]:
        """Columns in which a missing cell leaves a row without a score: the encoder is not told of it."""
        told = [*self.layer.masked, *self.columns.known] if self.layer.masked else []
        return [column for column in range(self.columns.n_features) if column not in told]

    def _lowered(self, scores: str, raw: str, dtype: Any) -> str:
        """Scores in float64, less what departures from constant columns and new levels cost."""
        g, columns, cost = self.graph, self.columns, self.state["plain"].get("departure_cost", 0.0)
        of_levels = self.encoding.new_levels(raw, dtype, SCORES[self.method].prices(cost))
        scores = scores if of_levels is None else g.node("Sub", scores, of_levels)
        tolerance = tolerances(columns, single=g.dtype == np.float32)
        chosen = np.flatnonzero(np.isfinite(tolerance))
        if not len(chosen) or not cost:
            return scores
        value, unit = (g.constant(part[chosen], np.float64) for part in (columns.mean, tolerance))
        given = g.cast(g.node("Gather", raw, g.integers(*chosen), axis=1), np.float64)
        distance = g.node("Abs", g.node("Sub", given, value))
        distance = g.node("Where", g.node("IsNaN", distance), g.constant(0.0, np.float64), distance)
        bounded = g.node("Min", distance, g.constant(_FARTHEST, np.float64))
        logarithm = g.node("Log", g.node("Div", g.node("Max", bounded, unit), unit))
        return g.node("Sub", scores, g.node("Mul", g.row_sum(logarithm), g.constant(cost, np.float64)))

    def _where_missing(self, rows: Rows, value: Any, otherwise: str) -> str:
        """Put something into the missing cells of rows, if there may be any."""
        return otherwise if rows.missing is None else self.graph.node("Where", rows.missing, value, otherwise)

    def _where_empty(self, rows: Rows, value: Any, otherwise: str, *, keepdims: int) -> str:
        """Put something into the rows without any value."""
        g = self.graph
        if rows.missing is None:
            return otherwise
        n_missing = g.node("ReduceSum", g.cast(rows.missing, np.int64), g.integers(-1), keepdims=keepdims)
        everything = g.node("Equal", n_missing, g.constant(self.columns.n_features, np.int64))
        return g.node("Where", everything, value, otherwise)

    def _codes(self, rows: Rows, encoded: str) -> str:
        if not self.is_vae:
            return encoded
        codes = self.graph.columns(encoded, 0, self.estimator.n_components_)
        return self._where_empty(rows, 0.0, codes, keepdims=1)

    def _perceptron(self, parameters: Any, x: str) -> str:
        g = self.graph
        weights = [weight.detach().cpu().numpy() for weight in parameters.weights]
        biases = [bias.detach().cpu().numpy() for bias in parameters.biases]
        # The linear path carries most of a row: where columns follow from others, scores enlarge what it rounds.
        # Columns that are not centred the estimator rounds as well, and graphs give its codes.
        wide = np.float64 if self.columns.centre is None else g.dtype
        outputs = g.node("MatMul", g.cast(x, wide), g.constant(parameters.skip.detach().cpu().numpy(), wide))
        h = x
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            h = g.activation(self.activation, g.node("Add", g.node("MatMul", h, weight), bias))
        if weights:
            outputs = g.node("Add", outputs, g.cast(g.node("MatMul", h, weights[-1]), wide))
        return g.cast(g.node("Add", outputs, g.constant(biases[-1], wide)), g.dtype)

    # -- scores by the residual

    def _compared(self, network: Network) -> tuple[str, str, str]:
        """One number for each cell of the rows, their residuals, 0 where a value is missing, and expected numbers."""
        g, rows, encoding = self.graph, network.rows, self.encoding
        outputs, decoded = self._given(network, network.outputs), network.decoded
        if isinstance(self.likelihood, Autoregressive):
            decoded = ColumnsInTurn(g, self.likelihood, network.free).mean_given(outputs)
        scalars, expected = encoding.scalars(rows.x), encoding.scalars(decoded)
        residual = g.node("Sub", scalars, expected)
        if encoding.is_level.any():
            residual = g.node("Where", g.constant(encoding.is_level, bool), self._deviance(network, outputs), residual)
        return scalars, self._where_missing(rows, 0.0, residual), expected

    def _given(self, network: Network, outputs: str) -> str:
        """Outputs for the columns' likelihood, of the decoder's; given the observed cells that the columns see."""
        if not isinstance(self.likelihood, Autoregressive):
            return outputs
        rows, columns = network.rows, ColumnsInTurn(self.graph, self.likelihood, network.free)
        return columns.given(self._where_missing(rows, 0.0, rows.x), rows.missing, outputs)

    def _deviance(self, network: Network, given: str) -> str:
        """Deviance residuals of categories in their columns, of shape (n_samples, n_features)."""
        g, rows = self.graph, network.rows
        levels, numbers, outputs = self._levels_of(given)
        places = np.zeros(self.columns.n_features, dtype=np.int64)
        places[numbers] = np.arange(len(numbers))
        codes = g.node("Gather", rows.x, g.integers(*numbers), axis=1)
        log_prob = levels.graph_log_prob(g, codes, outputs, network.free[:0])
        deviance = g.node("Sqrt", g.node("Max", g.node("Mul", log_prob, -2.0), 0.0))
        return g.node("Gather", deviance, g.integers(*places), axis=1)

    def _levels_of(self, outputs: str) -> tuple[Likelihood, list[int], str]:
        """The family of categories, its columns, and its part of the decoder's outputs."""
        family = self.cells
        if not isinstance(family, ColumnGroups):
            return family, list(range(self.columns.n_features)), outputs
        place = [part.values for part in family.likelihoods].index("level")
        part, first = family.likelihoods[place], sum(part.n_outputs for part in family.likelihoods[:place])
        return part, list(family.columns[place]), self.graph.columns(outputs, first, first + part.n_outputs)

    def _completed(self, network: Network) -> tuple[str, str]:
        """Rows with missing values as expected, and their whitened residuals."""
        scalars, residual, expected = self._compared(network)
        whitened = self._whitened(residual, network.densities["residual"])
        return self._where_missing(network.rows, expected, scalars), whitened

    def reconstruction_score(self, network: Network) -> str:
        """Minus the mean squared residual of the observed values."""
        g, rows = self.graph, network.rows
        total = g.row_sum(g.square(self._compared(network)[1]))
        if rows.missing is None:
            return g.node("Div", total, float(-self.columns.n_features))
        n_observed = g.row_sum(g.node("Sub", 1.0, g.cast(rows.missing, g.dtype)))
        return g.node("Neg", g.node("Div", total, g.node("Max", n_observed, 1.0)))

    def residual_score(self, network: Network) -> str:
        """Log-density of the residual."""
        return self._gaussian_density(self._compared(network)[1], network.densities["residual"])

    def joint_score(self, network: Network) -> str:
        """Log-density of [input; whitened residual]."""
        x, whitened = self._completed(network)
        joint = network.densities[self.method]
        if joint["class"] == JointDensity.__name__:
            return self._joint_density(x, whitened, joint, network.rows.missing)
        rows = self.graph.node("Concat", x, whitened, axis=-1)
        if joint["class"] == ModalDensity.__name__:
            return self._modal_density(rows, joint)
        return self._gaussian_density(rows, joint)

    def neighbor_score(self, network: Network) -> str:
        """Minus the distance to a near reference."""
        rows, density = self.graph.node("Concat", *self._completed(network), axis=-1), network.densities["neighbor"]
        return self.graph.node("Neg", self._distance(rows, density["references"], int(density["n_neighbors"])))

    def _gaussian_density(self, rows: str, density: dict[str, Any]) -> str:
        g = self.graph
        whitened = self._whitened(rows, density)
        constant = -0.5 * len(density["mean"]) * _LOG_2PI - float(density["log_scale"])
        return g.node("Add", g.node("Mul", g.row_sum(g.square(whitened)), -0.5), constant)

    def _whitened(self, rows: str, density: dict[str, Any]) -> str:
        """Rows with unit covariance, by the symmetric root."""
        g, centred = self.graph, self.graph.node("Sub", rows, density["mean"])
        if "whitener" in density:
            return g.node("MatMul", centred, density["whitener"])
        axes, scale = density["axes"], float(density["rest"]) ** -0.5
        along = g.node("MatMul", centred, axes * (density["variance"] ** -0.5 - scale))
        return g.node("Add", g.node("Mul", centred, scale), g.node("MatMul", along, axes.T))

    def _joint_density(self, x: str, whitened: str, joint: dict[str, Any], missing: str | None) -> str:
        g = self.graph
        if joint["residual_axes"].shape[1]:
            whitened = g.node("MatMul", whitened, joint["residual_axes"])
        x = g.node("Sub", x, joint["centre"]) if len(joint.get("centre", ())) else x
        both = g.node("Concat", g.node("MatMul", x, joint["axes"]), whitened, axis=-1)
        density = g.cast(self._mixed(self._exponents(both, joint), joint.get("shares", ())), g.dtype)
        if "lengths" in joint:
            density = g.node("Add", density, self._shortfall(whitened, joint["lengths"], missing))
        if "references" not in joint:
            return density
        near = g.node("Add", self._distance(both, joint["references"], 1), joint["least_distance"])
        return g.node("Sub", density, g.node("Mul", g.node("Log", near), 0.5 * len(joint["precision"])))

    def _mixed(self, exponents: str, shares: Sequence[float]) -> str:
        """Log-density of a mixture, or the weighted mean of those of several."""
        g = self.graph
        if not len(shares):
            return g.reduce("ReduceLogSumExp", exponents, -1)
        each = g.reduce("ReduceLogSumExp", g.node("Reshape", exponents, g.integers(0, len(shares), -1)), -1)
        return g.row_sum(g.node("Mul", each, g.constant(shares, np.float64)))

    def _shortfall(self, whitened: str, lengths: np.ndarray, missing: str | None) -> str:
        """What rows lose whose residuals are shorter than usual; a missing cell's counts as long as others."""
        g, (shape, scale) = self.graph, map(float, lengths)
        squares, mode = g.row_sum(g.square(whitened)), (shape - 1.0) * scale
        if missing is not None:
            n_missing = g.row_sum(g.cast(missing, g.dtype))
            squares = g.node("Add", squares, g.node("Mul", n_missing, shape * scale / self.columns.n_features))
        short = g.node("Min", g.node("Max", squares, LEAST_LENGTH * shape * scale), mode)
        logarithm = g.node("Mul", g.node("Log", g.node("Div", short, mode)), shape - 1.0)
        return g.node("Add", logarithm, g.node("Div", g.node("Sub", mode, short), scale))

    def _modal_density(self, rows: str, modal: dict[str, Any]) -> str:
        g, gaussian = self.graph, self._gaussian_density(rows, modal)
        turned = g.node("MatMul", g.node("Sub", rows, modal["mean"]), modal["axes"])
        mixture = g.cast(g.reduce("ReduceLogSumExp", self._exponents(turned, modal), -1), g.dtype)
        return g.node("Mul", g.node("Add", gaussian, mixture), 0.5)

    def _exponents(self, rows: str, mixture: dict[str, Any]) -> str:
        """Joint log-density of each row and each component."""
        # What follows cancels: in float32 it would lose more digits than the networks do.
        g = self.graph
        exact = g.cast(rows, np.float64)
        precision, linear, constant = (
            g.constant(mixture[part], np.float64) for part in ("precision", "linear", "constant")
        )
        products = g.node("Add", g.node("MatMul", exact, linear), constant)
        squares = g.node("MatMul", g.node("Mul", g.square(exact), g.constant(0.5, np.float64)), precision)
        return g.node("Sub", products, squares)

    def _distance(self, rows: str, references: np.ndarray, k: int) -> str:
        """Distance to the k-th nearest reference, among the nearest by a product that rounds."""
        g = self.graph
        center = references.mean(axis=0)
        centred = g.node("MatMul", g.node("Sub", rows, center), (references - center).T)
        rough = g.node("Sub", 0.5 * ((references - center) ** 2).sum(axis=1), centred)
        n_candidates = g.integers(min(k + _SURPLUS_NEIGHBORS, len(references)))
        candidates = g.node("TopK", rough, n_candidates, largest=0, n_outputs=2)
        nearest = g.node("Gather", references, f"{candidates}_1", axis=0)
        difference = g.node("Sub", nearest, g.node("Unsqueeze", rows, g.integers(1)))
        distances = g.node("Sqrt", g.row_sum(g.square(difference)))
        smallest = g.node("TopK", distances, g.integers(k), largest=0, n_outputs=2)
        return g.node("Gather", smallest, g.constant(k - 1, np.int64), axis=1)

    # -- scores by the likelihood

    def log_likelihood_score(self, network: Network) -> str:
        """Importance-weighted bound, with what missing values are expected to have."""
        g, log_weights = self.graph, self._log_weights(network)
        log_mean = g.node("Sub", g.reduce("ReduceLogSumExp", log_weights, 0), math.log(self._n_draws()))
        return self._with_expected(log_mean, network)

    def elbo_score(self, network: Network) -> str:
        """Evidence lower bound, with what missing values are expected to have."""
        return self._with_expected(self.graph.reduce("ReduceMean", self._log_weights(network), 0), network)

    def _log_weights(self, network: Network) -> str:
        """Log importance weights of the fixed draws, (n_draws, n_samples)."""
        g, n_components = self.graph, self.estimator.n_components_
        noise = self._noise(n_components)
        rows = network.rows
        mean = self._codes(rows, network.encoded)
        log_variance = g.clip(g.columns(network.encoded, n_components, 2 * n_components), *LOG_VARIANCE_RANGE)
        half = g.node("Mul", self._where_empty(rows, 0.0, log_variance, keepdims=1), 0.5)
        z = g.node("Add", mean, g.node("Mul", g.node("Exp", half), noise))
        cells = self._log_prob(network, self._perceptron(network.decoder, z))
        log_prob = g.row_sum(self._where_missing(rows, 0.0, cells))
        entropy = g.node("Add", g.row_sum(half), 0.5 * np.square(noise).sum(axis=-1))
        if "latent" in network.densities:
            constant = 0.5 * n_components * _LOG_2PI
            prior = g.node("Add", self._latent(z, network.densities["latent"]), constant)
        else:
            prior = g.node("Mul", g.row_sum(g.square(z)), -0.5)
        return g.node("Add", log_prob, self._where_empty(rows, 0.0, g.node("Add", entropy, prior), keepdims=0))

    def _log_prob(self, network: Network, outputs: str) -> str:
        """Log-densities of the cells under outputs of the decoder, (n_draws, n_samples, n_features)."""
        x, own = self._where_missing(network.rows, 0.0, network.rows.x), network.free[: self.cells.n_free]
        return self.cells.graph_log_prob(self.graph, x, self._given(network, outputs), own)

    def _n_draws(self) -> int:
        return checked_draws(self.estimator.n_draws, SCORE_DRAWS)

    def _noise(self, n_components: int) -> np.ndarray:
        """The estimator's own draws, of shape (n_draws, 1, n_components)."""
        generator = make_generator(self.state["plain"]["noise_seed"])
        shape = (self._n_draws(), 1, n_components)
        return torch.empty(shape, dtype=torch.float64, device="cpu").normal_(generator=generator).numpy()

    def _with_expected(self, score: str, network: Network) -> str:
        """Add the log-densities that the missing values of each row are expected to have."""
        g, missing = self.graph, network.rows.missing
        if missing is None:
            return score
        cells = self.cells.graph_expected_log_prob(g, network.expected, network.free[: self.cells.n_free])
        return g.node("Add", score, g.row_sum(g.node("Where", g.node("Not", missing), 0.0, cells)))

    def _latent(self, z: str, mixture: dict[str, Any]) -> str:
        """Log-density of codes under the Gaussian mixture that replaces N(0, I)."""
        g, whitener = self.graph, mixture["whitener"]
        n_components = mixture["center"].shape[1]
        parts = []
        for weight, center, whitening in zip(mixture["log_weight"], mixture["center"], whitener, strict=True):
            log_determinant = np.linalg.slogdet(whitening)[1]
            distance = g.row_sum(g.square(g.node("MatMul", g.node("Sub", z, center), whitening)))
            constant = float(weight) + log_determinant - 0.5 * n_components * _LOG_2PI
            part = g.node("Add", g.node("Mul", distance, -0.5), constant)
            parts.append(g.node("Unsqueeze", part, g.integers(-1)))
        joined = g.node("Concat", *parts, axis=-1)
        return g.reduce("ReduceLogSumExp", joined, -1)


# How each score is written; one that is not here is refused by its name.
_FORMS: dict[str, Callable[[Writer, Network], str]] = {
    "reconstruction": Writer.reconstruction_score,
    "residual": Writer.residual_score,
    "joint": Writer.joint_score,
    "robust": Writer.joint_score,
    "local": Writer.joint_score,
    "neighbor": Writer.neighbor_score,
    "log_likelihood": Writer.log_likelihood_score,
    "elbo": Writer.elbo_score,
}
