"""From a fitted estimator, or a pipeline that ends with one, to the nodes of a graph."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.pipeline import Pipeline

from .._data.columns import Columns
from .._data.departures import tolerances
from .._densities.gaussian import FactoredGaussian, GaussianDensity
from .._densities.residuals import JointDensity
from .._estimators.detection import check_score_method
from .._model.scores import SCORE_DRAWS, SCORES, checked_draws
from .._model.thresholds import LOWEST_SCORE
from .._networks.modules import LOG_VARIANCE_RANGE
from .._support.device import make_generator
from .._support.graph import OPSET, Graph
from ..autoencoder import AutoencoderTransformer
from ..likelihoods import ColumnGroups, Likelihood
from ..vae import VAETransformer

__all__ = ["register_converters", "to_onnx"]

_LOG_2PI = math.log(2.0 * math.pi)
_ACTIVATIONS = {"identity", "logistic", "tanh", "relu", "elu", "silu", "gelu"}
# Neighbours whose distance is computed anew from differences: the product that finds them rounds.
_SURPLUS_NEIGHBORS = 8
# Departures from a constant count up to here, so that a quotient cannot overflow.
_FARTHEST = 1e290
_OUTPUTS = ("scores", "labels", "codes", "reconstruction")


def to_onnx(estimator, *, dtype="float32"):
    """Turn a fitted estimator, or a pipeline that ends with one, into an ONNX model.

    Parameters
    ----------
    estimator : AutoencoderTransformer, VAETransformer or Pipeline
        A pipeline needs skl2onnx, which converts its other steps.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the input and of the arithmetic. float64 agrees with the estimator to 1e-12 of the largest score;
        float32 to what float32 rounds, which is as much as the estimator's own scores in float32 and in float64 differ.

    Returns
    -------
    model : onnx.ModelProto
        Input "X" of shape (n_samples, n_features). Outputs "scores" (n_samples,) in float64, as `score_samples`;
        "labels" (n_samples,) in int64, as `predict`; "codes" (n_samples, n_components), as `transform`;
        "reconstruction" (n_samples, n_features), as `reconstruct`, in a pipeline before the earlier steps are undone.
        Missing cells are served in columns that had some in training; in others they get their row NaN and the label
        -1.

    Raises
    ------
    ValueError
        If the estimator uses what the graph cannot express; the message names it.
    TypeError
        If it is not one of ours.
    ImportError
        If onnx is not installed, or skl2onnx for a pipeline.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import AutoencoderTransformer
    >>> from skvae.onnx import to_onnx
    >>> X = np.random.default_rng(0).normal(size=(200, 5))
    >>> model = to_onnx(AutoencoderTransformer(2, random_state=0).fit(X))
    >>> [output.name for output in model.graph.output]
    ['scores', 'labels', 'codes', 'reconstruction']
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"The 'dtype' parameter must be 'float32' or 'float64'. Got {dtype!r} instead.")
    if isinstance(estimator, Pipeline):
        return _pipeline_to_onnx(estimator, dtype)
    export = _Export(estimator, Graph(_imported_onnx(), dtype))
    export.write("X", {name: name for name in _OUTPUTS})
    return export.graph.model({"X": [_ROWS, estimator.n_features_in_]}, _shapes(estimator, export.graph.dtype))


def register_converters():
    """Teach skl2onnx both estimators, so that it converts pipelines with one at any place.

    In a pipeline the estimator passes its codes on, as `transform` does. As the last step it has all outputs of
    `to_onnx` if skl2onnx is given ``options={type(estimator): {"outputs": "all"}}``.

    Raises
    ------
    ImportError
        If skl2onnx is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import skl2onnx
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from skvae import AutoencoderTransformer
    >>> from skvae.onnx import register_converters
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(200, 5)).astype("float32"), rng.integers(2, size=200)
    >>> model = make_pipeline(
    ...     AutoencoderTransformer(2, random_state=0), LogisticRegression()
    ... ).fit(X, y)
    >>> register_converters()
    >>> [output.name for output in skl2onnx.to_onnx(model, X[:1]).graph.output]
    ['output_label', 'output_probability']
    """
    skl2onnx = _imported_skl2onnx()
    for estimator_type in (AutoencoderTransformer, VAETransformer):
        skl2onnx.update_registered_converter(
            estimator_type,
            f"Skvae{estimator_type.__name__}",
            _set_output_types,
            _convert,
            parser=_parse,
            options={"outputs": ["transform", "all"]},
        )


# --- Pipelines ------------------------------------------------------------------------------------------------------

_ROWS = "n_samples"


def _imported_onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ImportError("to_onnx needs onnx. Install it with: pip install 'skvae[onnx]'") from error
    return onnx


def _imported_skl2onnx() -> Any:
    try:
        import skl2onnx
        import skl2onnx.common.data_types
    except ImportError as error:
        raise ImportError("Converting a pipeline needs skl2onnx. Install it with: pip install 'skvae[onnx]'") from error
    return skl2onnx


def _pipeline_to_onnx(pipeline: Any, dtype: str) -> Any:
    last = pipeline.steps[-1][1]
    if not isinstance(last, (AutoencoderTransformer, VAETransformer)):
        raise ValueError(
            f"to_onnx needs a pipeline that ends with an AutoencoderTransformer or a VAETransformer, but the last step "
            f"is {type(last).__name__}. Call register_converters() and skl2onnx.to_onnx(pipeline, X)."
        )
    skl2onnx = _imported_skl2onnx()
    register_converters()
    types = skl2onnx.common.data_types
    tensor_type = types.FloatTensorType if dtype == "float32" else types.DoubleTensorType
    return skl2onnx.convert_sklearn(
        pipeline,
        initial_types=[("X", tensor_type([None, pipeline.n_features_in_]))],
        options={id(last): {"outputs": "all"}},
        target_opset={"": OPSET, "ai.onnx.ml": 3},
    )


def _parse(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Declare what an estimator computes in a graph of skl2onnx."""
    types = _imported_skl2onnx().common.data_types
    operator = scope.declare_local_operator(f"Skvae{type(model).__name__}", model)
    operator.inputs = inputs
    wanted = scope.get_options(model, {"outputs": "transform"}, fail=False)["outputs"]
    tensor_types = {"scores": types.DoubleTensorType, "labels": types.Int64TensorType}
    real = type(types.guess_tensor_type(inputs[0].type))
    for name in _OUTPUTS if wanted == "all" else ("codes",):
        operator.outputs.append(scope.declare_local_variable(name, tensor_types.get(name, real)()))
    return operator.outputs


def _set_output_types(operator: Any) -> None:
    """Give the outputs their shapes."""
    model = operator.raw_operator
    widths = [variable.type.shape[1] for variable in operator.inputs if len(variable.type.shape) == 2]
    if None not in widths and sum(widths) != model.n_features_in_:
        raise ValueError(
            f"{type(model).__name__} was fitted on {model.n_features_in_} columns, but the graph gives it "
            f"{sum(widths)}. Pass initial_types of that width."
        )
    shapes = {name: [None, *shape[1:]] for name, (_, shape) in _shapes(model, np.dtype("float32")).items()}
    for variable in operator.outputs:
        variable.type.shape = shapes[variable.raw_name]


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Write an estimator's nodes into a graph of skl2onnx."""
    onnx, types = _imported_onnx(), _imported_skl2onnx().common.data_types
    is_double = isinstance(types.guess_tensor_type(operator.inputs[0].type), types.DoubleTensorType)
    graph = Graph(onnx, "float64" if is_double else "float32", opset=container.target_opset, prefix=operator.onnx_name)
    rows = [graph.cast(name, graph.dtype) for name in operator.input_full_names]
    export = _Export(operator.raw_operator, graph)
    export.write(
        rows[0] if len(rows) == 1 else graph.node("Concat", *rows, axis=1),
        {variable.raw_name: variable.full_name for variable in operator.outputs},
    )
    for constant in graph.constants:
        container.add_initializer(constant.name, constant.data_type, list(constant.dims), constant)
    for node in graph.nodes:
        attributes = {part.name: onnx.helper.get_attribute_value(part) for part in node.attribute}
        container.add_node(
            node.op_type, list(node.input), list(node.output), op_version=graph.opset, name=node.name, **attributes
        )


# --- What cannot be expressed ---------------------------------------------------------------------------------------


def _refuse(likelihood: Likelihood, state: dict[str, Any], dtype: np.dtype) -> None:
    """Name what the graph cannot express."""
    method, design = state["plain"]["score_method"], state["design"]
    activation, without = design["activation"], _families_without(likelihood, "mean")
    massless = _families_without(likelihood, "log_prob") if SCORES[method].by_likelihood else []
    missing = state["columns"].get("missing_share")
    missing = np.zeros(1) if missing is None else np.asarray(missing)
    joint = {densities["joint"]["class"] for densities in state["densities"] if "joint" in densities}
    reasons = [
        (
            state["columns"].get("n_levels") is not None,
            "categories",
            "Encode them before the fit, for example with sklearn.preprocessing.OneHotEncoder(sparse_output=False)",
        ),
        (
            state["columns"].get("marginals") is not None,
            "the maps that marginals='auto' learns",
            "Fit with marginals=None",
        ),
        (likelihood.sees_columns, "decoder='autoregressive'", "Fit with decoder='independent'"),
        (
            bool((design["layer"] or {}).get("counts")),
            "counts that a dict in 'likelihood' names",
            "Fit with likelihood='poisson' for all columns",
        ),
        (
            state["labelled"] is not None,
            "learned anomalies",
            "Forget them by learn_anomalies(X[:0])",
        ),
        (method not in _FORMS, f"score_method={method!r}", "Fit with another one, such as 'joint'"),
        (without, f"likelihood={', '.join(without)}", "Fit with likelihood='gaussian'"),
        (
            massless,
            f"score_method={method!r} with likelihood={', '.join(massless)}",
            "Fit with score_method='joint'",
        ),
        (
            not joint <= {density.__name__ for density in (GaussianDensity, FactoredGaussian, JointDensity)},
            f"the density {', '.join(joint)}",
            "Fit with score_method='residual'",
        ),
        (activation not in _ACTIVATIONS, f"activation={activation!r}", "Fit with another one, such as 'silu'"),
        (
            activation == "gelu" and dtype == np.float64,
            "activation='gelu' in float64, for which runtimes have no error function",
            "Fit with another one, such as 'silu', export with dtype='float32'",
        ),
        (
            np.any(missing > 0) and method == "residual",
            "score_method='residual' with missing cells in the training rows",
            "Fit with score_method='joint'",
        ),
        (np.any(missing == 1), "a column without any value in the training rows", "Drop the column before the fit"),
    ]
    for refused, what, remedy in reasons:
        if refused:
            raise ValueError(f"to_onnx cannot express {what}. {remedy}, or serve the estimator itself.")


def _families_without(likelihood: Likelihood, term: str) -> list[str]:
    """Quoted names of the families that have no ONNX form of "mean" or "log_prob"."""
    families = likelihood.likelihoods if isinstance(likelihood, ColumnGroups) else (likelihood,)
    return sorted({repr(family.name) for family in families if term not in family.graph_terms})


def _shapes(estimator: Any, dtype: np.dtype) -> dict[str, tuple[Any, list[Any]]]:
    """Precision and shape of each output."""
    return {
        "scores": ("float64", [_ROWS]),
        "labels": ("int64", [_ROWS]),
        "codes": (dtype, [_ROWS, estimator.n_components_]),
        "reconstruction": (dtype, [_ROWS, estimator.n_features_in_]),
    }


class _Network(NamedTuple):
    """Names of what one network makes of the rows, and its numbers."""

    x: str  # scaled rows
    encoded: str
    outputs: str  # of the decoder
    decoded: str  # expected rows
    decoder: Any  # Parameters
    free: torch.Tensor  # the likelihood's free parameters
    densities: dict[str, Any]  # as saved


class _Export:
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
        self.columns = Columns.from_state(self.state["columns"])
        self.likelihood: Likelihood = estimator.module_.likelihood
        _refuse(self.likelihood, self.state, graph.dtype)
        self.activation = self.state["design"]["activation"]
        self.is_vae = self.state["design"]["kind"] == "vae"
        self.method = self.state["plain"]["score_method"]
        self.layer = self.state["design"]["layer"] or {"masked": [], "fill": []}
        self.missing: str | None = None  # which cells are, if there may be any

    def write(self, rows: str, names: Mapping[str, str]) -> None:
        """Add the nodes from raw rows to the outputs that are named."""
        g, columns = self.graph, self.state["columns"]
        constant = np.asarray(columns["constant"])
        x = g.node("Mul", g.node("Sub", rows, columns["mean"]), np.where(constant, 0.0, 1.0 / columns["scale"]))
        if self.columns.known and self.layer["masked"]:
            x = g.node("Where", g.constant(np.isin(np.arange(len(constant)), self.columns.known), bool), 0.0, x)
        inputs = self._inputs(x)
        scores = []
        for index, densities in enumerate(self.state["densities"]):
            module = self.estimator.module_.network(index)
            encoder, decoder, free = module.parts()
            free = free.detach().cpu().double()
            encoded = self._perceptron(encoder, inputs)
            codes = self._codes(encoded, module.n_components)
            if index == 0 and "codes" in names:
                g.node("Identity", codes, name=names["codes"])
            if set(names) == {"codes"}:
                return
            outputs = self._perceptron(decoder, codes)
            decoded = self.likelihood.graph_mean(g, outputs)
            if index == 0 and "reconstruction" in names:
                unscaled = g.node("Mul", decoded, np.where(constant, 0.0, columns["scale"]))
                g.node("Add", unscaled, columns["mean"], name=names["reconstruction"])
            network = _Network(x, encoded, outputs, decoded, decoder, free, densities)
            scores.append(g.cast(_FORMS[self.method](self, network), "float64"))
        self._finish(scores, rows, names)

    def _finish(self, parts: list[str], rows: str, names: Mapping[str, str]) -> None:
        """Mean over the networks, units of the user, labels."""
        g = self.graph
        log_scale = float(np.log(self.state["columns"]["scale"]).sum())
        jacobian = -log_scale if SCORES[self.method].is_density else 0.0
        mean = g.node("Div", g.node("Sum", *parts), g.constant(float(len(parts)), np.float64))
        sums = self._lowered(g.node("Add", mean, g.constant(jacobian, np.float64)), rows)
        lowest = g.constant(LOWEST_SCORE, np.float64)
        of_nan, strict = lowest, self._strict()
        if len(strict):  # there, a missing cell is not expected: no score rather than a low one
            strictly = rows if self.missing is None else g.node("Gather", rows, g.integers(*strict), axis=1)
            refused = g.node("IsNaN", g.row_sum(strictly))
            of_nan = g.node("Where", refused, g.constant(np.nan, np.float64), lowest)
            if self.missing is not None:  # a row without any value has a score
                sums = g.node("Where", refused, g.constant(np.nan, np.float64), sums)
        scores = g.node("Where", g.node("IsNaN", sums), of_nan, g.node("Max", sums, lowest), name=names["scores"])
        normal = g.node("GreaterOrEqual", scores, g.constant(self.estimator.offset_, np.float64))
        g.node("Where", normal, g.constant(1, np.int64), g.constant(-1, np.int64), name=names["labels"])

    def _strict(self) -> list[int]:
        """Columns in which a missing cell leaves a row without a score: the encoder is not told of it."""
        told = [*self.layer["masked"], *self.columns.known] if self.layer["masked"] else []
        return [column for column in range(self.columns.n_features) if column not in told]

    def _lowered(self, scores: str, rows: str) -> str:
        """Scores in float64, less what departures from constant columns cost."""
        g, columns, cost = self.graph, self.columns, self.state["plain"].get("departure_cost", 0.0)
        tolerance = tolerances(columns, single=g.dtype == np.float32)
        chosen = np.flatnonzero(np.isfinite(tolerance))
        if not len(chosen) or not cost:
            return scores
        value, unit = (g.constant(part[chosen], np.float64) for part in (columns.mean, tolerance))
        given = g.cast(g.node("Gather", rows, g.integers(*chosen), axis=1), np.float64)
        distance = g.node("Abs", g.node("Sub", given, value))
        distance = g.node("Where", g.node("IsNaN", distance), g.constant(0.0, np.float64), distance)
        bounded = g.node("Min", distance, g.constant(_FARTHEST, np.float64))
        logarithm = g.node("Log", g.node("Div", g.node("Max", bounded, unit), unit))
        return g.node("Sub", scores, g.node("Mul", g.row_sum(logarithm), g.constant(cost, np.float64)))

    def _inputs(self, x: str) -> str:
        """What the encoder sees of scaled rows."""
        g, masked = self.graph, list(self.layer["masked"])
        if not masked:
            return x
        self.missing = g.node("IsNaN", x)
        fill = np.asarray(self.layer["fill"]) if len(self.layer["fill"]) else np.zeros(self.estimator.n_features_in_)
        fill = np.where(np.isin(np.arange(len(fill)), masked), fill, np.nan)
        filled = g.node("Where", self.missing, fill, x)
        seen = g.node("Sub", 1.0, g.cast(self.missing, g.dtype))
        return g.node("Concat", filled, g.node("Gather", seen, g.integers(*masked), axis=1), axis=-1)

    def _where_missing(self, value: Any, otherwise: str) -> str:
        """Put something into the missing cells of rows, if there may be any."""
        return otherwise if self.missing is None else self.graph.node("Where", self.missing, value, otherwise)

    def _where_empty(self, value: Any, otherwise: str, *, keepdims: int) -> str:
        """Put something into the rows without any value."""
        g = self.graph
        if self.missing is None:
            return otherwise
        n_missing = g.node("ReduceSum", g.cast(self.missing, np.int64), g.integers(-1), keepdims=keepdims)
        everything = g.node("Equal", n_missing, g.constant(self.estimator.n_features_in_, np.int64))
        return g.node("Where", everything, value, otherwise)

    def _codes(self, encoded: str, n_components: int) -> str:
        if not self.is_vae:
            return encoded
        return self._where_empty(0.0, self.graph.columns(encoded, 0, n_components), keepdims=1)

    def _perceptron(self, parameters: Any, x: str) -> str:
        g = self.graph
        weights = [weight.detach().cpu().numpy() for weight in parameters.weights]
        biases = [bias.detach().cpu().numpy() for bias in parameters.biases]
        outputs = g.node("MatMul", x, parameters.skip.detach().cpu().numpy())
        h = x
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            h = g.activation(self.activation, g.node("Add", g.node("MatMul", h, weight), bias))
        if weights:
            outputs = g.node("Add", outputs, g.node("MatMul", h, weights[-1]))
        return g.node("Add", outputs, biases[-1])

    # -- scores by the residual

    def _residual(self, network: "_Network") -> str:
        """Residuals, 0 where a value is missing."""
        return self._where_missing(0.0, self.graph.node("Sub", network.x, network.decoded))

    def _completed(self, network: "_Network") -> tuple[str, str]:
        """Rows with missing values as expected, and their whitened residuals."""
        whitened = self._whitened(self._residual(network), network.densities["residual"])
        return self._where_missing(network.decoded, network.x), whitened

    def reconstruction_score(self, network: "_Network") -> str:
        """Minus the mean squared residual of the observed values."""
        g = self.graph
        total = g.row_sum(g.square(self._residual(network)))
        if self.missing is None:
            return g.node("Div", total, float(-self.estimator.n_features_in_))
        n_observed = g.row_sum(g.node("Sub", 1.0, g.cast(self.missing, g.dtype)))
        return g.node("Neg", g.node("Div", total, g.node("Max", n_observed, 1.0)))

    def residual_score(self, network: "_Network") -> str:
        """Log-density of the residual."""
        return self._gaussian_density(self._residual(network), network.densities["residual"])

    def joint_score(self, network: "_Network") -> str:
        """Log-density of [input; whitened residual]."""
        x, whitened = self._completed(network)
        joint = network.densities["joint"]
        if joint["class"] == JointDensity.__name__:
            return self._joint_density(x, whitened, joint)
        return self._gaussian_density(self.graph.node("Concat", x, whitened, axis=-1), joint)

    def neighbor_score(self, network: "_Network") -> str:
        """Minus the distance to a near reference."""
        return self._neighbor(
            self.graph.node("Concat", *self._completed(network), axis=-1), network.densities["neighbor"]
        )

    def _gaussian_density(self, rows: str, density: dict[str, Any]) -> str:
        g = self.graph
        whitened = self._whitened(rows, density)
        constant = -0.5 * len(density["mean"]) * _LOG_2PI - float(density["log_scale"])
        return g.node("Add", g.node("Mul", g.row_sum(g.square(whitened)), -0.5), constant)

    def _whitened(self, rows: str, density: dict[str, Any]) -> str:
        """Rows with unit covariance, by the symmetric root."""
        g, centred = self.graph, self.graph.node("Sub", rows, density["mean"])
        if density["class"] == GaussianDensity.__name__:
            return g.node("MatMul", centred, density["whitener"])
        axes, scale = density["axes"], float(density["rest"]) ** -0.5
        along = g.node("MatMul", centred, axes * (density["variance"] ** -0.5 - scale))
        return g.node("Add", g.node("Mul", centred, scale), g.node("MatMul", along, axes.T))

    def _joint_density(self, x: str, whitened: str, joint: dict[str, Any]) -> str:
        g = self.graph
        if joint["residual_axes"].shape[1]:
            whitened = g.node("MatMul", whitened, joint["residual_axes"])
        x = g.node("Sub", x, joint["centre"]) if len(joint.get("centre", ())) else x
        both = g.node("Concat", g.node("MatMul", x, joint["axes"]), whitened, axis=-1)
        linear = g.node("Add", g.node("MatMul", both, joint["linear"]), joint["constant"])
        squares = g.node("MatMul", g.square(both), 0.5 * joint["precision"])
        return g.reduce("ReduceLogSumExp", g.node("Sub", linear, squares), -1)

    def _neighbor(self, rows: str, density: dict[str, Any]) -> str:
        """Distance to the k-th nearest reference, among the nearest by a product that rounds."""
        g, references = self.graph, np.asarray(density["references"])
        k = int(density["n_neighbors"])
        center = references.mean(axis=0)
        centred = g.node("MatMul", g.node("Sub", rows, center), (references - center).T)
        rough = g.node("Sub", 0.5 * ((references - center) ** 2).sum(axis=1), centred)
        n_candidates = g.integers(min(k + _SURPLUS_NEIGHBORS, len(references)))
        candidates = g.node("TopK", rough, n_candidates, largest=0, n_outputs=2)
        nearest = g.node("Gather", references, f"{candidates}_1", axis=0)
        difference = g.node("Sub", nearest, g.node("Unsqueeze", rows, g.integers(1)))
        distances = g.node("Sqrt", g.row_sum(g.square(difference)))
        smallest = g.node("TopK", distances, g.integers(k), largest=0, n_outputs=2)
        return g.node("Neg", g.node("Gather", smallest, g.constant(k - 1, np.int64), axis=1))

    # -- scores by the likelihood

    def log_likelihood_score(self, network: "_Network") -> str:
        """Importance-weighted bound, with what missing values are expected to have."""
        g, log_weights = self.graph, self._log_weights(network)
        log_mean = g.node("Sub", g.reduce("ReduceLogSumExp", log_weights, 0), math.log(self._n_draws()))
        return self._with_expected(log_mean, network)

    def elbo_score(self, network: "_Network") -> str:
        """Evidence lower bound, with what missing values are expected to have."""
        return self._with_expected(self.graph.reduce("ReduceMean", self._log_weights(network), 0), network)

    def _log_weights(self, network: "_Network") -> str:
        """Log importance weights of the fixed draws, (n_draws, n_samples)."""
        g, n_components = self.graph, self.estimator.n_components_
        noise = self._noise(n_components)
        mean = self._codes(network.encoded, n_components)
        log_variance = g.clip(g.columns(network.encoded, n_components, 2 * n_components), *LOG_VARIANCE_RANGE)
        half = g.node("Mul", self._where_empty(0.0, log_variance, keepdims=1), 0.5)
        z = g.node("Add", mean, g.node("Mul", g.node("Exp", half), noise))
        x = self._where_missing(0.0, network.x)
        cells = self.likelihood.graph_log_prob(g, x, self._perceptron(network.decoder, z), network.free)
        log_prob = g.row_sum(self._where_missing(0.0, cells))
        entropy = g.node("Add", g.row_sum(half), 0.5 * np.square(noise).sum(axis=-1))
        if "latent" in network.densities:
            constant = 0.5 * n_components * _LOG_2PI
            prior = g.node("Add", self._latent(z, network.densities["latent"]), constant)
        else:
            prior = g.node("Mul", g.row_sum(g.square(z)), -0.5)
        return g.node("Add", log_prob, self._where_empty(0.0, g.node("Add", entropy, prior), keepdims=0))

    def _n_draws(self) -> int:
        return checked_draws(self.estimator.n_draws, SCORE_DRAWS)

    def _noise(self, n_components: int) -> np.ndarray:
        """The estimator's own draws, of shape (n_draws, 1, n_components)."""
        generator = make_generator(self.state["plain"]["noise_seed"])
        shape = (self._n_draws(), 1, n_components)
        return torch.empty(shape, dtype=torch.float64, device="cpu").normal_(generator=generator).numpy()

    def _with_expected(self, score: str, network: "_Network") -> str:
        """Add the log-densities that the missing values of each row are expected to have."""
        g = self.graph
        if self.missing is None:
            return score
        cells = self.likelihood.graph_expected_log_prob(g, network.outputs, network.free)
        return g.node("Add", score, g.row_sum(g.node("Where", g.node("Not", self.missing), 0.0, cells)))

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
_FORMS: dict[str, Callable[[_Export, _Network], str]] = {
    "reconstruction": _Export.reconstruction_score,
    "residual": _Export.residual_score,
    "joint": _Export.joint_score,
    "neighbor": _Export.neighbor_score,
    "log_likelihood": _Export.log_likelihood_score,
    "elbo": _Export.elbo_score,
}
