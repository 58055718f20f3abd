"""An ONNX graph in the making: nodes, constants, and the functions that runtimes lack in one precision."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["ML", "ML_OPSET", "OPSET", "Graph", "no_graph"]

OPSET = 17
# Operators for levels, which runtimes have in a domain of their own.
ML, ML_OPSET = "ai.onnx.ml", 3
_IR_VERSION = 8  # of the same age: runtimes refuse newer ones
_AXES_ARE_INPUTS = 18  # opset from which reductions take their axes as an input


class Graph:
    """Nodes and constants of a graph in the making; every method returns the name of its result."""

    def __init__(self, onnx: Any, dtype: str, *, opset: int = OPSET, prefix: str = "") -> None:
        self.onnx, self.dtype, self.opset, self.prefix = onnx, np.dtype(dtype), opset, prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._named: dict[tuple[Any, ...], str] = {}

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Add a constant, of dtype object for text; equal ones are one."""
        value = np.ascontiguousarray(value, dtype=self.dtype if dtype is None else dtype).reshape(np.shape(value))
        content = tuple(value.ravel()) if value.dtype == object else value.tobytes()
        name = self._named.setdefault((value.dtype, value.shape, content), f"{self.prefix}c{len(self.constants)}")
        if len(self._named) > len(self.constants):
            self.constants.append(self.onnx.numpy_helper.from_array(value, name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(list(values), np.int64)

    def node(self, op_type: str, *inputs: Any, name: str | None = None, n_outputs: int = 1, **attributes: Any) -> str:
        """Add a node; inputs that are no names become constants. The name of the first output comes back."""
        name = name or f"{self.prefix}n{len(self.nodes)}"
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        outputs = [name, *(f"{name}_{index}" for index in range(1, n_outputs))]
        self.nodes.append(
            self.onnx.helper.make_node(op_type, names, outputs, name=f"{self.prefix}{op_type}_{name}", **attributes)
        )
        return name

    def cast(self, value: str, dtype: Any) -> str:
        return self.node("Cast", value, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def reduce(self, op_type: str, value: str, axis: int) -> str:
        if op_type == "ReduceSum" or self.opset >= _AXES_ARE_INPUTS:
            return self.node(op_type, value, self.integers(axis), keepdims=0)
        return self.node(op_type, value, axes=[axis], keepdims=0)

    def row_sum(self, value: str) -> str:
        return self.reduce("ReduceSum", value, -1)

    def square(self, value: str) -> str:
        return self.node("Mul", value, value)

    def clip(self, value: str, low: float, high: float) -> str:
        return self.node("Max", self.node("Min", value, high), low)

    def columns(self, value: str, start: int, stop: int) -> str:
        where = (self.integers(number) for number in (start, stop, -1))
        return self.node("Slice", value, *where)

    def softplus(self, value: str) -> str:
        # Runtimes have no Softplus in float64.
        tail = self.node("Exp", self.node("Neg", self.node("Abs", value)))
        return self.node("Add", self.node("Max", value, 0.0), self.node("Log", self.node("Add", tail, 1.0)))

    def sigmoid(self, value: str) -> str:
        if self.dtype == np.float64:
            # Some runtimes fuse its product with ``value`` into an operator that they have in float32 only.
            return self.node("Div", 1.0, self.node("Add", self.node("Exp", self.node("Neg", value)), 1.0))
        return self.node("Sigmoid", value)

    def activation(self, name: str, value: str) -> str:
        if name == "silu" and self.dtype == np.float64:
            # For the same reason: no product with a Sigmoid.
            return self.node("Div", value, self.node("Add", self.node("Exp", self.node("Neg", value)), 1.0))
        if name == "silu":
            return self.node("Mul", value, self.node("Sigmoid", value))
        if name == "gelu":
            error = self.node("Erf", self.node("Mul", value, math.sqrt(0.5)))
            return self.node("Mul", self.node("Mul", value, 0.5), self.node("Add", error, 1.0))
        if name == "elu":
            # Runtimes have no Elu in float64.
            negative = self.node("Sub", self.node("Exp", self.node("Min", value, 0.0)), 1.0)
            return self.node("Add", self.node("Max", value, 0.0), negative)
        return self.node({"logistic": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "identity": "Identity"}[name], value)

    def model(
        self, inputs: Mapping[str, tuple[Any, Sequence[Any]]], outputs: Mapping[str, tuple[Any, Sequence[Any]]]
    ) -> Any:
        """The whole graph, with the dtype and the shape of each input and output; object stands for text."""
        helper = self.onnx.helper

        def info(name: str, dtype: Any, shape: Sequence[Any]) -> Any:
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

        graph = helper.make_graph(
            self.nodes,
            "skvae",
            [info(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
            [info(name, dtype, shape) for name, (dtype, shape) in outputs.items()],
            self.constants,
        )
        opsets = {node.domain: ML_OPSET for node in self.nodes} | {"": self.opset}
        imports = [helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
        model = helper.make_model(graph, opset_imports=imports, producer_name="skvae")
        model.ir_version = _IR_VERSION
        self.onnx.checker.check_model(model)
        return model


def no_graph(name: str, term: str) -> str:
    """What an error says of a family that has no nodes for a term."""
    return (
        f"graph_{term} needs a family with an ONNX form, but {name!r} has none of it. Ask graph_terms first, or "
        "implement it."
    )
