"""Folding of per-channel affine operations (y = factor * x + offset) into adjacent convolutions,
and convolutions of concatenations as sums.

PP-LCNetV3, the backbone of PP-OCRv4's mobile models, scales and shifts before and after each
activation (LearnableAffineBlock in PaddleOCR's rec_lcnetv3.py). OpenVINO folds an affine operation
after a convolution itself; ONNX Runtime does not, and takes 0.83 of the time for PP-OCRv4 mobile's
detector and 0.86 for its recogniser with it. Neither folds one before a convolution, which takes
the recogniser to another 0.98 (OpenVINO) and 0.96 (ONNX Runtime).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from serving.optimize.graph import Array, GraphEditor, attributes, constant, new_node

if TYPE_CHECKING:
    import onnx


class _Scaled(NamedTuple):
    """factor * source + offset, per channel; float64, (C,) or (1,)."""

    source: str
    factor: Array
    offset: Array


class _Convolution(NamedTuple):
    """Weights (out, in / groups, H, W) and bias (out,), constant, float64."""

    node: onnx.NodeProto
    weights: Array
    bias: Array
    groups: int
    padded: bool


def fold_after(editor: GraphEditor) -> None:
    """Fold affine operations on a convolution's output, if nothing else uses it."""
    users = editor.use_counts()
    for node in list(editor.graph.node):
        if affine(editor, node) is not None and users[editor.source(node.output[0])] == 1:
            continue  # folded from its only user
        for index, name in enumerate(node.input):
            scaled = _scaled(editor, name, users)
            made = _convolution(editor, editor.producer(scaled.source))
            if made is None or scaled.source == editor.source(name) or users[scaled.source] != 1:
                continue
            factor = scaled.factor * np.ones(len(made.weights))
            weights = made.weights * factor[:, None, None, None]
            _write(editor, made, "behind", weights, made.bias * factor + scaled.offset)
            node.input[index] = scaled.source


def fold_before(editor: GraphEditor) -> None:
    """Fold affine operations on a convolution's input, if nothing else uses it.

    Convolutions with padding are left alone: their zeros would be shifted too.
    """
    users = editor.use_counts()
    for node in list(editor.graph.node):
        made = _convolution(editor, node)
        if made is None or made.padded:
            continue
        scaled = _scaled(editor, node.input[0], users)
        if scaled.source != editor.source(node.input[0]):
            bias = made.bias + (made.weights * _by_input(made, scaled.offset)).sum(axis=(1, 2, 3))
            _write(editor, made, "before", made.weights * _by_input(made, scaled.factor), bias)
            node.input[0] = scaled.source


def split_concatenations(editor: GraphEditor) -> None:
    """Rewrite a convolution of a concatenation as the sum of convolutions of its parts.

    At a high resolution OpenVINO copies the parts for longer than the convolution takes: without
    copies in its stem, PP-OCRv6 tiny's detector takes 0.96 of the time. Where the sums would write
    more than half of what the copies did, as behind a detector's FPN or in PP-HGNetV2's blocks, the
    graph stays.
    """
    users = editor.use_counts()
    for node in list(editor.graph.node):
        made = _convolution(editor, node)
        joined = None if made is None else editor.producer(node.input[0])
        if made is None or made.groups != 1 or joined is None or joined.op_type != "Concat":
            continue
        parts, counts = joined.input, [_channels(editor, part) for part in joined.input]
        out, within = made.weights.shape[:2]
        by_channel = attributes(joined)["axis"] in (1, -3) and 0 not in counts
        if not by_channel or sum(counts) != within or users[editor.source(node.input[0])] > 1:
            continue
        if len(parts) == 1 or 2 * (len(parts) - 1) * out > within:
            continue
        name = node.output[0]
        sums = [f"{name}/part_{index}" for index in range(len(parts))]
        for index, weights in enumerate(np.split(made.weights, np.cumsum(counts)[:-1], axis=1)):
            bias = [] if index else node.input[2:]
            copy = type(node)()
            copy.CopyFrom(node)
            copy.name = sums[index]
            copy.input[:] = [parts[index], f"{copy.name}_weights", *bias]
            copy.output[:] = [copy.name]
            editor.add(constant(f"{copy.name}_weights", weights), copy)
        for index in range(1, len(parts) - 1):
            editor.add(new_node("Add", [sums[0], sums[index]], f"{name}/sum_{index}"))
            sums[0] = f"{name}/sum_{index}"
        node.op_type = "Add"
        node.input[:] = [sums[0], sums[-1]]
        del node.attribute[:]


def _channels(editor: GraphEditor, name: str) -> int:
    """Of the maps (N, C, H, W) that this value holds; 0 if unknown."""
    node = editor.producer(name)
    if node is None:
        return 0
    if node.op_type == "Conv":
        weights = editor.constant(node.input[1])
        return 0 if weights is None else len(weights)
    if node.op_type in ("Add", "Mul"):
        return max(_channels(editor, part) for part in node.input)
    if node.op_type in ("HardSigmoid", "HardSwish", "MaxPool", "Relu", "Resize", "Sigmoid"):
        return _channels(editor, node.input[0])
    return 0


def affine(editor: GraphEditor, node: onnx.NodeProto) -> tuple[str, Array, Array] | None:
    """(x, factor, offset) of a node that computes factor * x + offset per channel, else None."""
    values = [editor.constant(part) for part in node.input]
    known = [value.astype(np.float64).ravel() for value in values if value is not None]
    if node.op_type == "BatchNormalization" and len(known) == 4:
        gamma, beta, mean, variance = known
        factor = gamma / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
        return node.input[0], factor, beta - mean * factor
    if node.op_type in ("Add", "Mul") and len(known) == 1 and not _ends_gelu(editor, node):
        variable = 0 if values[0] is None else 1
        value = values[1 - variable]
        assert value is not None
        if value.size > 1 and value.shape[-3:] != (value.size, 1, 1):
            return None
        zero, one = np.zeros(1), np.ones(1)
        return (
            node.input[variable],
            *((one, known[0]) if node.op_type == "Add" else (known[0], zero)),
        )
    return None


def _ends_gelu(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Whether the node is the last of a GELU, x * (1 + erf(x / sqrt 2)) * 0.5.

    Backends compute one in a single pass, if they find all of it: without its last factor, folded
    into the next convolution, PP-OCRv6 tiny's recogniser takes 1.15 times as long.
    """

    def made_by(kind: str, names: Iterable[str]) -> list[onnx.NodeProto]:
        nodes = map(editor.producer, names)
        return [made for made in nodes if made is not None and made.op_type == kind]

    products = made_by("Mul", node.input) if node.op_type == "Mul" else []
    sums = [total for product in products for total in made_by("Add", product.input)]
    return any(made_by("Erf", total.input) for total in sums)


def _scaled(editor: GraphEditor, name: str, users: Counter[str]) -> _Scaled:
    """The origin of a value through affine operations that have no other user."""
    source, factor, offset = editor.source(name), np.ones(1), np.zeros(1)
    while users[source] == 1 and (node := editor.producer(source)) is not None:
        operation = affine(editor, node)
        if operation is None:
            break
        before, scale, shift = operation
        source, factor, offset = editor.source(before), factor * scale, offset + factor * shift
    return _Scaled(source, factor, offset)


def _convolution(editor: GraphEditor, node: onnx.NodeProto | None) -> _Convolution | None:
    if node is None or node.op_type != "Conv":
        return None
    weights = editor.constant(node.input[1])
    bias = editor.constant(node.input[2]) if len(node.input) > 2 else np.zeros(1)
    if weights is None or bias is None or weights.ndim != 4 or weights.dtype != np.float32:
        return None
    values = attributes(node)
    padded = any(values.get("pads", ())) or values.get("auto_pad", b"NOTSET") != b"NOTSET"
    bias = bias.astype(np.float64) * np.ones(len(weights))
    return _Convolution(node, weights.astype(np.float64), bias, values.get("group", 1), padded)


def _write(editor: GraphEditor, made: _Convolution, side: str, weights: Array, bias: Array) -> None:
    node, name = made.node, f"{made.node.output[0]}/{side}"
    editor.add(
        constant(f"{name}_weights", weights),
        constant(f"{name}_bias", bias),
    )
    node.input[:] = [node.input[0], f"{name}_weights", f"{name}_bias"]


def _by_input(made: _Convolution, values: Array) -> Array:
    """Values per input channel, (C,) or (1,), broadcastable to the weights."""
    out, within = made.weights.shape[:2]
    grouped = (values * np.ones(within * made.groups)).reshape(made.groups, within)
    return np.repeat(grouped, out // made.groups, axis=0)[:, :, None, None]
