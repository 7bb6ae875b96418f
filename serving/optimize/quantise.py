"""The fused variant of a graph with its large layers in 8-bit integers.

Static post-training quantisation (Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", 2018): weights by output channel, and one range for
each layer's input, the least and greatest value on sample images. OpenVINO turns the QuantizeLinear
and DequantizeLinear nodes before a layer into an integer layer; ONNX Runtime's integer layers are
slower than its float32 ones for these models.

What 8 bits do to the answer differs by a factor of a hundred from layer to layer, and nothing seen
in a layer alone predicts it (its signal-to-noise ratio does not). So every large layer is quantised
alone, and the answers compared. Then all are quantised together, less those that do most harm for
their multiply-adds, until the answer is close enough.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from serving.config.model import DetectionModel, Model, RecognitionModel
from serving.engines.base import Array, EngineSpec
from serving.engines.factory import open_engine
from serving.errors import EngineError
from serving.machine import usable_cores
from serving.optimize.graph import GraphEditor, attributes, constant, new_node, tensor
from serving.types import Image

if TYPE_CHECKING:
    import onnx

QUANTISED = "int8-1"
"""Version of `quantise`. Change it whenever its result changes, or the shipped calibration set."""


class _Limits(NamedTuple):
    """Of one kind of model, found with PP-OCRv4, v5 and v6: with more of either the accuracy gate
    rejects them.
    """

    share: float
    """Layers with a smaller share of the multiply-adds stay float32."""
    change: float
    """By how much the answer's probabilities may change, on average."""


_LIMITS = {RecognitionModel: _Limits(0.02, 0.0125), DetectionModel: _Limits(0.1, 0.0004)}
_EVERY = 4
"""Single layers are compared on every fourth image."""


class _Layer(NamedTuple):
    """A convolution or matrix product of an activation with constant weights."""

    node: onnx.NodeProto
    weights: Array
    """A convolution's (out, in, H, W), or (in, out)."""
    channels: int
    """The axis of the output channels in `weights`."""
    low: float = 0.0
    high: float = 0.0
    """The range of its input."""
    multiply_adds: float = 0.0
    """On all sample images."""

    @property
    def name(self) -> str:
        """Its output's."""
        return str(self.node.output[0])

    @property
    def source(self) -> str:
        """Its input's."""
        return str(self.node.input[0])


def quantise(fused: Path, model: Model, images: Sequence[Image], target: Path) -> None:
    """Write the quantised variant of `fused`, with the same inputs and outputs, to `target`.

    model: a recogniser or a detector. images: (H, W, 3) uint8 as the model takes them.
    Raises EngineError where it is neither, or has no layer to quantise; `target` may then hold a
    trial.
    """
    import onnx

    limits = next((limits for kind, limits in _LIMITS.items() if isinstance(model, kind)), None)
    if limits is None:
        raise EngineError(f"{model.name}: int8 is for detectors and recognisers only")
    loaded = _with_scales_by_channel(onnx.load(fused))
    spec = EngineSpec("onnxruntime", threads=usable_cores())

    def answers(altered: onnx.ModelProto, images: Iterable[Image]) -> list[tuple[Array, ...]]:
        onnx.save(altered, target)
        with closing(open_engine(target, spec)) as engine:
            return [engine.run(image[None]) for image in images]

    layers = _measured(loaded, images, answers)
    least = limits.share * sum(layer.multiply_adds for layer in layers)
    expected = answers(loaded, images)

    def change(layers: Sequence[_Layer], every: int = 1) -> float:
        read = answers(_quantised(loaded, layers), images[::every])
        return _difference(model, read, expected[::every])

    harm = {
        layer.name: change([layer], _EVERY) / layer.multiply_adds
        for layer in layers
        if layer.multiply_adds >= least
    }
    chosen = [layer for layer in layers if layer.name in harm]
    chosen.sort(key=lambda layer: harm[layer.name])
    while chosen and not change(chosen) <= limits.change:  # also for NaN
        chosen.pop()
    if not chosen:
        raise EngineError(f"{model.name}: no layer keeps its accuracy in int8")
    onnx.save(_quantised(loaded, chosen), target)


def _with_scales_by_channel(loaded: onnx.ModelProto) -> onnx.ModelProto:
    """In an opset whose DequantizeLinear takes a scale for each channel."""
    from onnx import version_converter

    if next(opset.version for opset in loaded.opset_import if not opset.domain) >= 13:
        return loaded
    try:
        return version_converter.convert_version(loaded, 13)
    except RuntimeError as error:
        raise EngineError(f"cannot be converted to ONNX's opset 13: {error}") from error


def _layers(editor: GraphEditor) -> list[_Layer]:
    """Depthwise and other grouped convolutions are not among them: they gain little."""
    found = []
    for node in editor.graph.node:
        weights = editor.constant(node.input[1]) if node.op_type in ("Conv", "MatMul") else None
        if weights is None or weights.dtype != np.float32:
            continue
        if attributes(node).get("group", 1) != 1:
            continue
        if node.op_type == "Conv":
            found.append(_Layer(node, weights, channels=0))
        elif weights.ndim == 2:
            found.append(_Layer(node, weights, channels=1))
    return found


_Answers = Callable[["onnx.ModelProto", Iterable[Image]], list[tuple[Array, ...]]]
"""The outputs of an altered graph for each of these images."""


def _measured(loaded: onnx.ModelProto, images: Iterable[Image], answers: _Answers) -> list[_Layer]:
    """All layers with their ranges and multiply-adds."""
    observed = copy.deepcopy(loaded)
    editor = GraphEditor(observed.graph)
    layers = _layers(editor)
    if not layers:
        return []
    outputs = []
    for layer in layers:
        for kind in ("ReduceMin", "ReduceMax"):
            editor.add(new_node(kind, [layer.source], f"{layer.name}/{kind}", keepdims=0))
        editor.add(new_node("Size", [layer.name], f"{layer.name}/Size"))
        outputs += [
            tensor(f"{layer.name}/ReduceMin", np.float32, []),
            tensor(f"{layer.name}/ReduceMax", np.float32, []),
            tensor(f"{layer.name}/Size", np.int64, []),
        ]
    editor.set_outputs(*outputs)
    seen = np.array(answers(observed, images), np.float64).reshape(-1, len(layers), 3)
    lows, highs = seen[..., 0].min(axis=0, initial=0), seen[..., 1].max(axis=0, initial=0)
    sizes = seen[..., 2].sum(axis=0)
    return [
        layer._replace(
            low=float(low),
            high=float(high),
            multiply_adds=float(size * layer.weights.size / layer.weights.shape[layer.channels]),
        )
        for layer, low, high, size in zip(layers, lows, highs, sizes, strict=True)
        if np.isfinite(high - low)
    ]


def _difference(
    model: Model, read: Sequence[tuple[Array, ...]], expected: Sequence[tuple[Array, ...]]
) -> float:
    """By how much the answer's probabilities differ, on average; another class counts in full."""
    if isinstance(model, DetectionModel):
        changes = [np.abs(a[0] / 255 - b[0] / 255) for a, b in zip(read, expected, strict=True)]
    else:
        changes = [
            np.abs(np.where(a[0] == b[0], a[1], 0) - b[1])
            for a, b in zip(read, expected, strict=True)
        ]
    return float(np.concatenate([change.ravel() for change in changes]).mean())


def _quantised(loaded: onnx.ModelProto, layers: Collection[_Layer]) -> onnx.ModelProto:
    """A copy with these layers in 8-bit integers."""
    from onnx import checker

    altered = copy.deepcopy(loaded)
    editor = GraphEditor(altered.graph)
    nodes = {str(node.output[0]): node for node in altered.graph.node}
    inputs: dict[str, str] = {}  # one for all layers that read the same

    for layer in layers:
        node, name = nodes[layer.name], layer.name
        if layer.source not in inputs:
            scale = np.float32(max(layer.high - layer.low, 1e-6) / 255)
            zero = np.clip(round(-layer.low / scale), 0, 255)
            of_input = [f"{name}/input_scale", f"{name}/input_zero"]
            editor.add(
                constant(f"{name}/input_scale", scale),
                constant(f"{name}/input_zero", zero, np.uint8),
                new_node("QuantizeLinear", [layer.source, *of_input], f"{name}/input_8"),
                new_node("DequantizeLinear", [f"{name}/input_8", *of_input], f"{name}/input"),
            )
            inputs[layer.source] = f"{name}/input"
        others = tuple(axis for axis in range(layer.weights.ndim) if axis != layer.channels)
        largest = np.abs(layer.weights).max(axis=others, keepdims=True)
        scales = np.maximum(largest, 1e-12) / 127
        of_weights = [f"{name}/weights_8", f"{name}/weights_scale", f"{name}/weights_zero"]
        editor.add(
            constant(f"{name}/weights_8", np.rint(layer.weights / scales), np.int8),
            constant(f"{name}/weights_scale", scales.ravel()),
            constant(f"{name}/weights_zero", np.zeros(scales.size), np.int8),
            new_node("DequantizeLinear", of_weights, f"{name}/weights", axis=layer.channels),
        )
        node.input[:2] = [inputs[layer.source], f"{name}/weights"]
    editor.finish()
    checker.check_model(altered)
    return altered
