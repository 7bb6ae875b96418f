"""The fused variant of a model's ONNX graph, which engines load. Build time only."""

from serving.graph.fuse import VARIANT, fuse

__all__ = ["VARIANT", "fuse"]
