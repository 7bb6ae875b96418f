"""Variants of a model's ONNX graph, which engines load. Made before anything is served."""

from serving.graph.fuse import VARIANT, fuse
from serving.graph.lighten import LIGHTER, lighten

__all__ = ["LIGHTER", "VARIANT", "fuse", "lighten"]
