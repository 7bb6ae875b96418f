"""Factors and offsets of channels, computed by the convolutions beside them.

A layer of PP-LCNetV3, of which PP-OCRv4's mobile models are made, is scaled and shifted before and
after its activation (LearnableAffineBlock in PaddleOCR's rec_lcnetv3.py). OpenVINO moves what
stands behind a convolution into its weights by itself; ONNX Runtime does not, and takes 0.83 of the
time for PP-OCRv4 mobile's detector and 0.86 for its recogniser where that was done. What stands
before one is left by both: for the recogniser another 0.98 and 0.96.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from serving.optimize.graph import Array, Edit, attributes, constant

if TYPE_CHECKING:
    import onnx


class _Scaled(NamedTuple):
    """factor * source + offset, by channel; float64, (C,) or (1,)."""

    source: str
    factor: Array
    offset: Array


class _Convolution(NamedTuple):
    """With constant weights (out, in / groups, H, W) and bias (out,), float64."""

    node: onnx.NodeProto
    weights: Array
    bias: Array
    groups: int
    padded: bool


def fold_behind(edit: Edit) -> None:
    """Move what scales and shifts a convolution's result, and nothing else reads, into it."""
    users = edit.users()
    for node in list(edit.graph.node):
        if affine(edit, node) is not None and users[edit.source(node.output[0])] == 1:
            continue  # its only reader will fold it
        for place, name in enumerate(node.input):
            scaled = _scaled(edit, name, users)
            made = _convolution(edit, edit.maker(scaled.source))
            if made is None or scaled.source == edit.source(name) or users[scaled.source] != 1:
                continue
            factor = scaled.factor * np.ones(len(made.weights))
            weights = made.weights * factor[:, None, None, None]
            _write(edit, made, "behind", weights, made.bias * factor + scaled.offset)
            node.input[place] = scaled.source


def fold_before(edit: Edit) -> None:
    """Move what scales and shifts a convolution's input, and nothing else reads, into it.

    Not where it pads its input with zeros, which are not shifted.
    """
    users = edit.users()
    for node in list(edit.graph.node):
        made = _convolution(edit, node)
        if made is None or made.padded:
            continue
        scaled = _scaled(edit, node.input[0], users)
        if scaled.source != edit.source(node.input[0]):
            bias = made.bias + (made.weights * _by_input(made, scaled.offset)).sum(axis=(1, 2, 3))
            _write(edit, made, "before", made.weights * _by_input(made, scaled.factor), bias)
            node.input[0] = scaled.source


def affine(edit: Edit, node: onnx.NodeProto) -> tuple[str, Array, Array] | None:
    """(x, factor, offset) of a node that computes factor * x + offset by channel; None: another."""
    values = [edit.constant(part) for part in node.input]
    known = [value.astype(np.float64).ravel() for value in values if value is not None]
    if node.op_type == "BatchNormalization" and len(known) == 4:
        gamma, beta, mean, variance = known
        factor = gamma / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
        return node.input[0], factor, beta - mean * factor
    if node.op_type in ("Add", "Mul") and len(known) == 1:
        place = 0 if values[0] is None else 1
        value = values[1 - place]
        assert value is not None
        if value.size > 1 and value.shape[-3:] != (value.size, 1, 1):
            return None
        zero, one = np.zeros(1), np.ones(1)
        return (
            node.input[place],
            *((one, known[0]) if node.op_type == "Add" else (known[0], zero)),
        )
    return None


def _scaled(edit: Edit, name: str, users: Counter[str]) -> _Scaled:
    """Where a value comes from, through what its one reader alone reads; at least itself."""
    source, factor, offset = edit.source(name), np.ones(1), np.zeros(1)
    while users[source] == 1 and (node := edit.maker(source)) is not None:
        found = affine(edit, node)
        if found is None:
            break
        before, scale, shift = found
        source, factor, offset = edit.source(before), factor * scale, offset + factor * shift
    return _Scaled(source, factor, offset)


def _convolution(edit: Edit, node: onnx.NodeProto | None) -> _Convolution | None:
    if node is None or node.op_type != "Conv":
        return None
    weights = edit.constant(node.input[1])
    bias = edit.constant(node.input[2]) if len(node.input) > 2 else np.zeros(1)
    if weights is None or bias is None or weights.ndim != 4 or weights.dtype != np.float32:
        return None
    told = attributes(node)
    padded = any(told.get("pads", ())) or told.get("auto_pad", b"NOTSET") != b"NOTSET"
    bias = bias.astype(np.float64) * np.ones(len(weights))
    return _Convolution(node, weights.astype(np.float64), bias, told.get("group", 1), padded)


def _write(edit: Edit, made: _Convolution, side: str, weights: Array, bias: Array) -> None:
    node, name = made.node, f"{made.node.output[0]}/{side}"
    edit.add(
        constant(f"{name}_weights", weights.astype(np.float32)),
        constant(f"{name}_bias", bias.astype(np.float32)),
    )
    node.input[:] = [node.input[0], f"{name}_weights", f"{name}_bias"]


def _by_input(made: _Convolution, values: Array) -> Array:
    """A number for each input channel, (C,) or (1,), as it meets the weights."""
    out, within = made.weights.shape[:2]
    grouped = (values * np.ones(within * made.groups)).reshape(made.groups, within)
    return np.repeat(grouped, out // made.groups, axis=0)[:, :, None, None]
