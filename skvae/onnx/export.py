"""From a fitted estimator, or a pipeline that ends with one, to the nodes of a graph."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from .._support.graph import ML, ML_OPSET, OPSET, Graph
from .._tables.table import Table
from ..autoencoder import AutoencoderTransformer
from ..vae import VAETransformer
from .by_column import Expected, columns_of_array, columns_of_frame, is_by_column, read, text_columns, write_back
from .writer import Writer

__all__ = ["register_converters", "to_onnx"]

_ROWS = "n_samples"
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
        With ``standardize=False`` and columns of very different units squares cancel: float64 then agrees to 1e-8, and
        float32, in the graph as in the estimator, may be off by tens of percent.

    Returns
    -------
    model : onnx.ModelProto
        Input "X" of shape (n_samples, n_features). Outputs "scores" (n_samples,) in float64, as `score_samples`;
        "labels" (n_samples,) in int64, as `predict`; "codes" (n_samples, n_components), as `transform`;
        "reconstruction" (n_samples, n_features), as `reconstruct`, in a pipeline before the earlier steps are undone.
        Missing cells are served in columns that had some in training; in others they get their row NaN and the label
        -1.

        For a model of a frame with categories, or of an array with text: an input of shape (n_samples, 1) for each
        column, under its name, which is text, boolean, int64 or, for other numbers and for columns of booleans or
        integers that had missing cells, a float of the graph's precision; and in place of "reconstruction" an output
        of the same type for each column: ``reconstruction_`` and the column's name. A missing cell is the empty text or
        NaN. A level that no training row had counts as by the estimator.

    Raises
    ------
    ValueError
        If the estimator uses what the graph cannot express, or has columns that it cannot hold; the message names it.
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
    graph = Graph(_imported_onnx(), dtype)
    writer = Writer(estimator, graph)
    table = _table_of(writer)
    if table is not None and is_by_column(table):
        return _frame_to_onnx(writer, table)
    _write(writer, "X", {name: name for name in _OUTPUTS})
    inputs = {"X": (graph.dtype, [_ROWS, estimator.n_features_in_])}
    return graph.model(inputs, _shapes(estimator, graph.dtype))


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


# --- Arrays and frames ----------------------------------------------------------------------------------------------


def _table_of(writer: Writer) -> Table | None:
    state = writer.state["table"]
    return None if state is None else Table.from_state(state)


def _write(writer: Writer, rows: str, names: Mapping[str, str]) -> None:
    """Write an estimator of one array of numbers, some of which may be levels."""
    graph, table, dtype = writer.graph, _table_of(writer), writer.graph.dtype
    if table is None or not table.has_levels:
        is_out, seen = None, rows
        if table is not None and table.left_out:
            is_out = graph.constant(np.isin(np.arange(writer.columns.n_features), list(table.left_out)), bool)
            seen = graph.node("Where", is_out, graph.constant(0.0, dtype), rows)
        network = writer.write(seen, dtype, names)
        if "reconstruction" in names and is_out is not None:
            expected = writer.encoding.unscaled(network.decoded, dtype)
            graph.node("Where", is_out, rows, expected, name=names["reconstruction"])
        elif "reconstruction" in names:
            writer.encoding.unscaled(network.decoded, dtype, name=names["reconstruction"])
        return
    columns = columns_of_array(table, dtype)
    parts = [graph.columns(rows, index, index + 1) for index in range(len(columns))]
    raw = read(graph, columns, parts, dtype)
    network = writer.write(raw, dtype, names)
    if "reconstruction" in names:
        expected = writer.encoding.unscaled(network.decoded, dtype)
        parts = write_back(graph, columns, Expected(expected, dtype, raw, writer.undecoded(network)), parts)
        graph.node("Concat", *parts, axis=1, name=names["reconstruction"])


def _frame_to_onnx(writer: Writer, table: Table) -> Any:
    """An input and an output for each column."""
    graph, exact = writer.graph, np.dtype(np.float64)
    share = writer.columns.missing_share
    gaps = [False] * len(table.columns) if share is None else (share > 0).tolist()
    columns = columns_of_frame(table, gaps, graph.dtype, _OUTPUTS[:-1])
    while any(column.name.startswith(graph.prefix) for column in columns):
        graph.prefix += "skvae_"
    inputs = [column.name for column in columns]
    raw = read(graph, columns, inputs, exact)
    network = writer.write(raw, exact, {name: name for name in _OUTPUTS[:-1]})
    expected = Expected(writer.encoding.unscaled(network.decoded, exact), exact, raw, writer.undecoded(network))
    parts = write_back(graph, columns, expected, inputs)
    outputs = {name: shape for name, shape in _shapes(writer.estimator, graph.dtype).items() if name in _OUTPUTS[:-1]}
    read_in = [(column, part) for column, part in zip(columns, parts, strict=True) if not column.left_out]
    for column, part in read_in:
        name = graph.node("Identity", part, name=f"reconstruction_{column.name}")
        outputs[name] = (column.dtype, [_ROWS, 1])
    return graph.model({column.name: (column.dtype, [_ROWS, 1]) for column, _ in read_in}, outputs)


def _shapes(estimator: Any, dtype: np.dtype) -> dict[str, tuple[Any, list[Any]]]:
    """Precision and shape of each output."""
    return {
        "scores": ("float64", [_ROWS]),
        "labels": ("int64", [_ROWS]),
        "codes": (dtype, [_ROWS, estimator.n_components_]),
        "reconstruction": (dtype, [_ROWS, estimator.n_features_in_]),
    }


# --- Pipelines ------------------------------------------------------------------------------------------------------


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
        target_opset={"": OPSET, ML: ML_OPSET},
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
    writer = Writer(operator.raw_operator, graph)
    _refuse_text(writer)
    _write(
        writer,
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


def _refuse_text(writer: Writer) -> None:
    """Refuse levels that are text: what comes before in a pipeline hands on numbers."""
    table = _table_of(writer)
    if table is not None and (found := text_columns(table)):
        label = table.form.labels[found[0]]
        raise ValueError(
            f"An estimator in a converted pipeline must get numbers, but column {label!r} holds text. Call "
            "to_onnx(estimator) with the estimator alone, or encode the column before it."
        )
