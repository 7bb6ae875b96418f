"""The end of a DB detector, computed before its map is enlarged.

Liao et al., "Real-time Scene Text Detection with Differentiable Binarization" (AAAI 2020): two
transposed convolutions of stride 2, a ReLU between them. Such a convolution writes a square of
2 x 2 that no other pixel touches, so a pixel of the small map alone decides a square of 4 x 4. The
same numbers come from two 1 x 1 convolutions on the small map, whose 16 channels are laid out as
squares at the very end. PP-OCRv4 mobile's whole detector takes a quarter less time so in OpenVINO,
which computes transposed convolutions in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from serving.optimize.convolutions import affine
from serving.optimize.graph import Array, Edit, attributes, constant

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class _Enlarging:
    """A transposed convolution, with what follows it channel by channel folded in."""

    source: str
    weights: Array
    """(in, out, side, side) float64."""
    bias: Array
    """(out,) float64."""

    @property
    def side(self) -> int:
        """Of the square that a pixel becomes."""
        return int(self.weights.shape[2])


def enlarge_last(edit: Edit) -> None:
    """Make the same map on the small one, where the graph ends in the sigmoid of such a head."""
    last = edit.maker(edit.graph.output[0].name)
    if last is not None and last.op_type == "Sigmoid":
        last.input[0] = _on_small_map(edit, last.input[0])


def _on_small_map(edit: Edit, logits: str) -> str:
    """The map before its sigmoid, made on the small one; itself where it is made in another way."""
    import onnx

    second = _enlarging(edit, logits)
    relu = None if second is None else edit.maker(second.source)
    if second is None or relu is None or relu.op_type != "Relu" or second.weights.shape[1] != 1:
        return logits
    first = _enlarging(edit, relu.input[0])
    if first is None:
        return logits
    bias = np.repeat(second.bias, _area(first, second))
    edit.add(
        *_convolution("head_1", first.source, _spread(first), np.tile(first.bias, first.side**2)),
        onnx.helper.make_node("Relu", ["head_1"], ["head_relu"]),
        *_convolution("head_2", "head_relu", _squares(first, second), bias),
        onnx.helper.make_node(
            "DepthToSpace", ["head_2"], ["head_map"], blocksize=first.side * second.side
        ),
    )
    return "head_map"


def _area(first: _Enlarging, second: _Enlarging) -> int:
    return (first.side * second.side) ** 2


def _spread(first: _Enlarging) -> Array:
    """(side * side * out, in, 1, 1): the channels of one place in the square after another's."""
    return first.weights.transpose(2, 3, 1, 0).reshape(-1, len(first.weights), 1, 1)


def _squares(first: _Enlarging, second: _Enlarging) -> Array:
    """(area, side * side * in, 1, 1): a place in the large square from its place in the small."""
    small, large, channels = first.side, second.side, len(second.weights)
    # Down and across in the small square, then within one place of it; by channels of `_spread`.
    found = np.zeros((small, large, small, large, small, small, channels))
    for down in range(small):
        for across in range(small):
            found[down, :, across, :, down, across] = second.weights[:, 0].transpose(1, 2, 0)
    return found.reshape(_area(first, second), -1, 1, 1)


def _convolution(name: str, source: str, weights: Array, bias: Array) -> list[onnx.NodeProto]:
    import onnx

    return [
        constant(f"{name}_weights", weights.astype(np.float32)),
        constant(f"{name}_bias", bias.astype(np.float32)),
        onnx.helper.make_node("Conv", [source, f"{name}_weights", f"{name}_bias"], [name]),
    ]


def _enlarging(edit: Edit, name: str) -> _Enlarging | None:
    """The transposed convolution that `name` comes from, through an affine map of each channel."""
    scale, shift = np.ones(1), np.zeros(1)
    while (node := edit.maker(name)) is not None and node.op_type != "ConvTranspose":
        found = affine(edit, node)
        if found is None:
            return None
        name, factor, offset = found
        scale, shift = scale * factor, shift + scale * offset
    if node is None or not _is_plain(node):
        return None
    weights = edit.constant(node.input[1])
    bias = edit.constant(node.input[2]) if len(node.input) > 2 else np.zeros(1)
    if weights is None or bias is None or weights.shape[2:] != tuple(attributes(node)["strides"]):
        return None
    out = np.ones(weights.shape[1])
    return _Enlarging(
        node.input[0], weights * (scale * out)[:, None, None], scale * bias + shift * out
    )


def _is_plain(node: onnx.NodeProto) -> bool:
    """Whether each pixel becomes a square of its own."""
    told = attributes(node)
    sides = told.get("strides", [1, 1])
    return (
        told.get("group", 1) == 1
        and sides[0] == sides[1]
        and not any(told.get("pads", ()))
        and not any(told.get("output_padding", ()))
        and "output_shape" not in told
        and told.get("auto_pad", b"NOTSET") == b"NOTSET"
        and set(told.get("dilations", [1])) == {1}
    )
