"""Fitted models as ONNX graphs, to be served without torch and without this package.

The graph is built node by node from what a saved model holds, so that it computes what the estimator computes: the
columns' scaling, the networks, the density behind the scores, the threshold.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln

from ._device import make_generator
from ._modules import LOG_VARIANCE_RANGE
from ._scoring import GaussianDensity, JointDensity

__all__ = ["to_onnx"]

_OPSET = 17
_IR_VERSION = 8  # of the same age: runtimes refuse newer ones
_LOG_2PI = math.log(2.0 * math.pi)
_LOG_SCALE_RANGE = 4.0  # as in likelihoods
_ACTIVATIONS = {"identity", "logistic", "tanh", "relu", "elu", "silu"}
_LIKELIHOODS = {"gaussian", "student_t"}
_SCORES = {"residual", "joint", "reconstruction", "log_likelihood", "elbo"}
_WITHOUT_JACOBIAN = {"reconstruction"}


def to_onnx(estimator, *, dtype="float32"):
    """Turn a fitted estimator into an ONNX model.

    Parameters
    ----------
    estimator : AutoencoderTransformer or VAETransformer
        Fitted on numeric columns without missing cells, with a Gaussian or Student-t likelihood.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the input and of the arithmetic.

    Returns
    -------
    model : onnx.ModelProto
        Input "X" of shape (n_samples, n_features). Outputs "scores" (n_samples,) in float64, as `score_samples`;
        "labels" (n_samples,) in int64, as `predict`; "codes" (n_samples, n_components), as `transform`;
        "reconstruction" (n_samples, n_features), as `reconstruct`. A row with a missing cell gets NaN.

    Raises
    ------
    ValueError
        If the estimator uses what the graph cannot express; the message names it.
    ImportError
        If onnx is not installed.

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
    if not hasattr(estimator, "module_"):
        raise ValueError(f"to_onnx needs a fitted estimator, but this {type(estimator).__name__} has not been fitted.")
    state = estimator.__getstate__()["_fitted"]
    _refuse(estimator, state)
    return _Export(estimator, state, _Graph(dtype)).model()


def _refuse(estimator: Any, state: dict[str, Any]) -> None:
    """Name what the graph cannot express."""
    method, design, module = state["plain"]["score_method"], state["design"], estimator.module_
    widths = {module.encoder.n_inputs, module.likelihood.n_columns}
    joint = {densities["joint"]["class"] for densities in state["densities"] if "joint" in densities}
    reasons = [
        (method not in _SCORES, f"score_method={method!r}", "Fit with another one, such as 'joint'"),
        (
            design["likelihood"]["name"] not in _LIKELIHOODS,
            f"likelihood={design['likelihood']['name']!r}",
            "Fit with likelihood='gaussian'",
        ),
        (
            not joint <= {GaussianDensity.__name__, JointDensity.__name__},
            f"the density {', '.join(joint)}",
            "Fit with score_method='residual'",
        ),
        (
            design["activation"] not in _ACTIVATIONS,
            f"activation={design['activation']!r}",
            "Fit with another one, such as 'silu'",
        ),
        (
            np.any(state["columns"].get("missing_share", 0.0)),
            "missing cells in the training rows",
            "Impute them before the fit, for example with sklearn.impute.SimpleImputer",
        ),
        (
            widths != {estimator.n_features_in_},
            "categories",
            "Encode them before the fit, for example with sklearn.preprocessing.OneHotEncoder(sparse_output=False)",
        ),
    ]
    for refused, what, remedy in reasons:
        if refused:
            raise ValueError(f"to_onnx cannot express {what}. {remedy}, or serve the estimator itself.")


class _Graph:
    """Nodes and constants of a graph in the making; every method returns the name of its result."""

    def __init__(self, dtype: str) -> None:
        try:
            import onnx
        except ImportError as error:
            raise ImportError("to_onnx needs onnx. Install it with: pip install 'skvae[onnx]'") from error
        self.onnx, self.dtype = onnx, np.dtype(dtype)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, dtype: Any = None) -> str:
        name = f"c{len(self.constants)}"
        value = np.ascontiguousarray(value, dtype=self.dtype if dtype is None else dtype).reshape(np.shape(value))
        self.constants.append(self.onnx.numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, *inputs: Any, name: str | None = None, **attributes: Any) -> str:
        """Add a node; inputs that are no names become constants."""
        name = name or f"n{len(self.nodes)}"
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(self.onnx.helper.make_node(kind, names, [name], name=f"{kind}_{name}", **attributes))
        return name

    def cast(self, value: str, dtype: str) -> str:
        return self.node("Cast", value, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def row_sum(self, value: str) -> str:
        return self.node("ReduceSum", value, self.constant([-1], np.int64), keepdims=0)

    def square(self, value: str) -> str:
        return self.node("Mul", value, value)

    def columns(self, value: str, start: int, stop: int) -> str:
        where = (self.constant([number], np.int64) for number in (start, stop, -1))
        return self.node("Slice", value, *where)

    def activation(self, name: str, value: str) -> str:
        if name == "silu" and self.dtype == np.float64:
            # Some runtimes fuse the product below into an operator that they have in float32 only.
            return self.node("Div", value, self.node("Add", self.node("Exp", self.node("Neg", value)), 1.0))
        if name == "silu":
            return self.node("Mul", value, self.node("Sigmoid", value))
        if name == "elu":
            # Runtimes have no Elu in float64.
            negative = self.node("Sub", self.node("Exp", self.node("Min", value, 0.0)), 1.0)
            return self.node("Add", self.node("Max", value, 0.0), negative)
        return self.node({"logistic": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "identity": "Identity"}[name], value)

    def model(self, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, tuple[Any, Sequence[Any]]]) -> Any:
        helper = self.onnx.helper

        def info(name: str, dtype: Any, shape: Sequence[Any]) -> Any:
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

        graph = helper.make_graph(
            self.nodes,
            "skvae",
            [info(name, self.dtype, shape) for name, shape in inputs.items()],
            [info(name, dtype, shape) for name, (dtype, shape) in outputs.items()],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="skvae")
        model.ir_version = _IR_VERSION
        self.onnx.checker.check_model(model)
        return model


class _Export:
    """One estimator written into a graph."""

    def __init__(self, estimator: Any, state: dict[str, Any], graph: _Graph) -> None:
        self.estimator, self.state, self.graph = estimator, state, graph
        self.activation = state["design"]["activation"]
        self.is_vae = state["design"]["kind"] == "vae"
        self.method = state["plain"]["score_method"]

    def model(self) -> Any:
        g, columns = self.graph, self.state["columns"]
        constant = np.asarray(columns["constant"])
        x = g.node("Mul", g.node("Sub", "X", columns["mean"]), np.where(constant, 0.0, 1.0 / columns["scale"]))
        scores = g.constant(0.0, np.float64)
        for index, densities in enumerate(self.state["densities"]):
            codes, decoded, own = self._network(x, self.estimator.module_.network(index), densities)
            if index == 0:
                g.node("Identity", codes, name="codes")
                unscaled = g.node("Mul", decoded, np.where(constant, 0.0, columns["scale"]))
                g.node("Add", unscaled, columns["mean"], name="reconstruction")
            scores = g.node("Add", scores, g.cast(own, "float64"))
        self._finish(scores)
        n, d, k = "n_samples", self.estimator.n_features_in_, self.estimator.n_components_
        outputs = {
            "scores": ("float64", [n]),
            "labels": ("int64", [n]),
            "codes": (g.dtype, [n, k]),
            "reconstruction": (g.dtype, [n, d]),
        }
        return g.model({"X": [n, d]}, outputs)

    def _finish(self, scores: str) -> None:
        """Mean over the networks, units of the user, labels."""
        g, n_networks = self.graph, len(self.state["densities"])
        jacobian = 0.0 if self.method in _WITHOUT_JACOBIAN else -float(np.log(self.state["columns"]["scale"]).sum())
        mean = g.node("Div", scores, g.constant(float(n_networks), np.float64))
        g.node("Add", mean, g.constant(jacobian, np.float64), name="scores")
        normal = g.node("GreaterOrEqual", "scores", g.constant(self.estimator.offset_, np.float64))
        g.node("Where", normal, g.constant(1, np.int64), g.constant(-1, np.int64), name="labels")

    def _network(self, x: str, module: Any, densities: dict[str, Any]) -> tuple[str, str, str]:
        """Codes, scaled reconstruction and score of one network."""
        g, (encoder, decoder, free) = self.graph, module.parts()
        encoded = self._perceptron(encoder, x)
        codes = g.columns(encoded, 0, module.n_components) if self.is_vae else encoded
        decoded = g.columns(self._perceptron(decoder, codes), 0, module.likelihood.n_columns)
        if self.method in ("log_likelihood", "elbo"):
            return codes, decoded, self._bound(x, encoded, module, decoder, free, densities)
        return codes, decoded, self._residual_score(x, decoded, densities)

    def _perceptron(self, parameters: Any, x: str) -> str:
        g = self.graph
        arrays = [[part.detach().cpu().numpy() for part in parts] for parts in (parameters.weights, parameters.biases)]
        outputs = g.node("MatMul", x, parameters.skip.detach().cpu().numpy())
        weights, biases = arrays
        h = x
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            h = g.activation(self.activation, g.node("Add", g.node("MatMul", h, weight), bias))
        if weights:
            outputs = g.node("Add", outputs, g.node("MatMul", h, weights[-1]))
        return g.node("Add", outputs, biases[-1])

    def _residual_score(self, x: str, decoded: str, densities: dict[str, Any]) -> str:
        g = self.graph
        residual = g.node("Sub", x, decoded)
        n_columns = self.estimator.n_features_in_
        if self.method == "reconstruction":
            return g.node("Div", g.row_sum(g.square(residual)), float(-n_columns))
        density = densities["residual"]
        if self.method == "residual":
            return self._gaussian_density(residual, density)
        whitened = g.node("MatMul", g.node("Sub", residual, density["mean"]), density["whitener"])
        if densities["joint"]["class"] == JointDensity.__name__:
            return self._joint_density(x, whitened, densities["joint"])
        return self._gaussian_density(g.node("Concat", x, whitened, axis=-1), densities["joint"])

    def _gaussian_density(self, rows: str, density: dict[str, Any]) -> str:
        g = self.graph
        whitened = g.node("MatMul", g.node("Sub", rows, density["mean"]), density["whitener"])
        constant = -0.5 * len(density["mean"]) * _LOG_2PI - float(density["log_scale"])
        return g.node("Add", g.node("Mul", g.row_sum(g.square(whitened)), -0.5), constant)

    def _joint_density(self, x: str, whitened: str, joint: dict[str, Any]) -> str:
        g = self.graph
        if joint["residual_axes"].shape[1]:
            whitened = g.node("MatMul", whitened, joint["residual_axes"])
        both = g.node("Concat", g.node("MatMul", x, joint["axes"]), whitened, axis=-1)
        linear = g.node("Add", g.node("MatMul", both, joint["linear"]), joint["constant"])
        squares = g.node("MatMul", g.square(both), 0.5 * joint["precision"])
        return g.node("ReduceLogSumExp", g.node("Sub", linear, squares), axes=[-1], keepdims=0)

    def _bound(self, x: str, encoded: str, module: Any, decoder: Any, free: Any, densities: dict[str, Any]) -> str:
        """Mean or log-mean-exp of the log importance weights of the fixed draws."""
        g, n_components = self.graph, module.n_components
        noise = self._noise(n_components)
        mean = g.columns(encoded, 0, n_components)
        raw = g.columns(encoded, n_components, 2 * n_components)
        log_variance = g.node("Max", g.node("Min", raw, LOG_VARIANCE_RANGE[1]), LOG_VARIANCE_RANGE[0])
        half = g.node("Mul", log_variance, 0.5)
        z = g.node("Add", mean, g.node("Mul", g.node("Exp", half), noise))
        log_prob = self._log_prob(x, self._perceptron(decoder, z), module, free)
        entropy = g.node("Add", g.row_sum(half), 0.5 * np.square(noise).sum(axis=-1))
        if "latent" in densities:
            constant = 0.5 * n_components * _LOG_2PI
            prior = g.node("Add", self._latent(z, densities["latent"]), constant)
        else:
            prior = g.node("Mul", g.row_sum(g.square(z)), -0.5)
        log_weights = g.node("Add", log_prob, g.node("Add", entropy, prior))
        if self.method == "elbo":
            return g.node("ReduceMean", log_weights, axes=[0], keepdims=0)
        bound = g.node("ReduceLogSumExp", log_weights, axes=[0], keepdims=0)
        return g.node("Sub", bound, math.log(len(noise)))

    def _noise(self, n_components: int) -> np.ndarray:
        """The estimator's own draws, of shape (n_draws, 1, n_components)."""
        generator = make_generator(self.state["plain"]["noise_seed"])
        shape = (self.estimator.n_draws, 1, n_components)
        return torch.empty(shape, dtype=torch.float64).normal_(generator=generator).numpy()

    def _log_prob(self, x: str, outputs: str, module: Any, free: Any) -> str:
        """Log-density of rows, summed over their columns."""
        g, likelihood, n = self.graph, module.likelihood, module.likelihood.n_columns
        numbers = free.detach().cpu().double()
        variance, log_variance = self._variance(outputs, likelihood, numbers.numpy()[:n])
        square = g.node("Div", g.square(g.node("Sub", x, g.columns(outputs, 0, n))), variance)
        if likelihood.name == "gaussian":
            cells = g.node("Mul", g.node("Add", square, g.node("Add", log_variance, _LOG_2PI)), -0.5)
            return g.row_sum(cells)
        df = (2.0 + torch.nn.functional.softplus(numbers[n:], threshold=40.0)).numpy()
        constant = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * np.log(math.pi * df)
        tail = g.node("Log", g.node("Add", g.node("Div", square, df), 1.0))
        cells = g.node("Sub", constant, g.node("Mul", tail, (df + 1) / 2))
        return g.row_sum(g.node("Sub", cells, g.node("Mul", log_variance, 0.5)))

    def _variance(self, outputs: str, likelihood: Any, log_scale: np.ndarray) -> tuple[str, str]:
        """Squared scale of each cell and its logarithm."""
        g, n, kind = self.graph, likelihood.n_columns, likelihood.config()["scale"]
        if kind == "unit":
            return g.constant(1.0), g.constant(0.0)
        if kind == "constant":
            variance = np.exp(2.0 * log_scale) + likelihood.floor**2
            return g.constant(variance), g.constant(np.log(variance))
        shift = g.node("Max", g.node("Min", g.columns(outputs, n, 2 * n), _LOG_SCALE_RANGE), -_LOG_SCALE_RANGE)
        above = g.node("Exp", g.node("Mul", g.node("Add", shift, log_scale), 2.0))
        dependent = g.node("Add", above, likelihood.floor**2)
        return dependent, g.node("Log", dependent)

    def _latent(self, z: str, mixture: dict[str, Any]) -> str:
        """Log-density of codes under the Gaussian mixture that replaces N(0, I)."""
        g, whitener = self.graph, mixture["whitener"]
        n_mixture, n_components = mixture["center"].shape
        parts = []
        for weight, center, own in zip(mixture["log_weight"], mixture["center"], whitener, strict=True):
            log_determinant = np.linalg.slogdet(own)[1]
            distance = g.row_sum(g.square(g.node("MatMul", g.node("Sub", z, center), own)))
            constant = float(weight) + log_determinant - 0.5 * n_components * _LOG_2PI
            part = g.node("Add", g.node("Mul", distance, -0.5), constant)
            parts.append(g.node("Unsqueeze", part, g.constant([-1], np.int64)))
        joined = g.node("Concat", *parts, axis=-1)
        return g.node("ReduceLogSumExp", joined, axes=[-1], keepdims=0)
