"""Fitted models as ONNX graphs, to be served without torch and without this package.

The graph is built node by node from what a saved model holds, so that it computes what the estimator computes: the
columns' scaling, the networks, the density behind the scores, the threshold. The same nodes go into the graphs that
skl2onnx makes of whole pipelines.
"""

from .export import register_converters, to_onnx

__all__ = ["register_converters", "to_onnx"]
