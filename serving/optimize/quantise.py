"""The fused variant of a graph with its large layers in 8-bit integers.

Static post-training quantisation (Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", 2018): weights by output channel, and one range for
each layer's input, the least and greatest value on sample images. Before a recogniser's layers wide
channels are made narrower, and their weights larger (Xiao et al., "SmoothQuant", 2023). By how much
the mean of an output channel is then off on the samples is added to it (Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", 2019). OpenVINO turns the
QuantizeLinear and DequantizeLinear nodes before a layer into an integer layer; ONNX Runtime's
integer layers are slower than its float32 ones for these models.

All large layers are quantised together and the answers compared. Where they differ too much, those
stay float32 that do most harm for their multiply-adds when quantised alone: that differs by a
factor of a hundred from layer to layer, and nothing seen in a layer predicts it (its
signal-to-noise ratio does not).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from serving.config.model import DetectionModel, Model, RecognitionModel
from serving.engines.base import Array, EngineSpec
from serving.engines.factory import open_engine
from serving.errors import EngineError
from serving.machine import usable_cores
from serving.optimize.graph import (
    GraphEditor,
    attributes,
    constant,
    default_opset,
    new_node,
    reduction,
    tensor,
)
from serving.types import Image

if TYPE_CHECKING:
    import onnx

QUANTISED = "int8-2"
"""Version of `quantise`. Change it whenever its result changes, or the shipped calibration set."""


class _Limits(NamedTuple):
    """Of one kind of model, found with PP-OCRv4, v5 and v6. With smaller layers than these a
    detector's search takes three times as long, and boxes on real pages differ more.
    """

    share: float
    """Layers with a smaller share of the multiply-adds stay float32."""
    change: float
    """By how much the answer's probabilities may change, on average."""
    equalise: bool
    """Whether to make wide channels narrower. A detector's maps are so large that this takes as
    long as 8 bits save, and it reads no better."""


_LIMITS = {
    RecognitionModel: _Limits(0.02, 0.0125, equalise=True),
    DetectionModel: _Limits(0.1, 0.0006, equalise=False),
}
_EVERY = 4
"""Single layers are compared on every fourth image."""
_EXPONENT = 0.7
"""Of a channel's range in its divisor, as the paper's alpha. All large layers of PP-OCRv6 tiny's
recogniser change its answers by 0.0111 with 0.6, 0.0118 with 0.7, 0.0116 with 0.8; by 0.0213
without divisors and corrections."""


class _Layer(NamedTuple):
    """A convolution or matrix product of an activation with constant weights."""

    node: onnx.NodeProto
    weights: Array
    """A convolution's (out, in, H, W), or (in, out)."""
    multiply_adds: float = 0.0
    """On all sample images."""
    lows: Array = np.zeros(0)
    highs: Array = np.zeros(0)
    """(in,): the range of each channel of its input."""
    divisors: Array | None = None
    """(in,): of the channels of its input."""
    correction: Array = np.zeros(1)
    """(out,) or (1,): what is added to the channels of its output."""

    @property
    def name(self) -> str:
        """Its output's."""
        return str(self.node.output[0])

    @property
    def source(self) -> str:
        """Its input's."""
        return str(self.node.input[0])

    @property
    def is_product(self) -> bool:
        return str(self.node.op_type) == "MatMul"

    @property
    def input(self) -> tuple[str, bool]:
        """Layers with the same one have the same input, with the same axis of channels."""
        return self.source, self.is_product

    @property
    def outputs(self) -> int:
        """The axis of the output channels in `weights`; that of the input channels is the other of
        the first two.
        """
        return 1 if self.is_product else 0

    def of_activation(self, channels: Array) -> Array:
        """Values of its input's or output's channels, shaped to go with these."""
        return channels if self.is_product else channels[:, None, None]

    def of_weights(self, channels: Array, axis: int) -> Array:
        """Values of the channels on that axis of its weights, shaped to go with these."""
        return np.expand_dims(channels, _others(self.weights, axis))


def _others(array: Array, axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(array.ndim) if other != axis)


def _largest(weights: Array, axis: int) -> Array:
    """The largest weight, without its sign, of each channel on that axis."""
    return np.asarray(np.abs(weights).max(axis=_others(weights, axis)))


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

    layers = _large_layers(loaded, limits.share, images, answers)
    if limits.equalise:
        layers = _with_divisors(layers)
    layers = _with_corrections(loaded, layers, images, answers)
    expected = answers(loaded, images)

    def change(layers: Sequence[_Layer], every: int = 1) -> float:
        read = answers(_quantised(loaded, layers), images[::every])
        return _difference(model, read, expected[::every])

    def is_close(layers: Sequence[_Layer]) -> bool:
        return change(layers) <= limits.change  # not for NaN

    if not is_close(layers):
        harm = {layer.name: change([layer], _EVERY) / layer.multiply_adds for layer in layers}
        layers.sort(key=lambda layer: harm[layer.name])
        while layers:
            layers.pop()
            if is_close(layers):
                break
    if not layers:
        raise EngineError(f"{model.name}: no layer keeps its accuracy in int8")
    onnx.save(_quantised(loaded, layers), target)


def _with_scales_by_channel(loaded: onnx.ModelProto) -> onnx.ModelProto:
    """In an opset whose DequantizeLinear takes a scale for each channel."""
    from onnx import version_converter

    if default_opset(loaded) >= 13:
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
        if weights.ndim == (4 if node.op_type == "Conv" else 2):
            found.append(_Layer(node, weights))
    return found


_Answers = Callable[["onnx.ModelProto", Iterable[Image]], list[tuple[Array, ...]]]
"""The outputs of an altered graph for each of these images."""


def _large_layers(
    loaded: onnx.ModelProto, share: float, images: Iterable[Image], answers: _Answers
) -> list[_Layer]:
    """Those with that share of the multiply-adds or more, with the ranges of their inputs."""
    observed = copy.deepcopy(loaded)
    editor = GraphEditor(observed.graph)
    layers = _layers(editor)
    if not layers:
        return []
    outputs = []
    for layer in layers:
        lows = _by_channel(editor, "ReduceMin", layer, layer.source, default_opset(loaded))
        highs = _by_channel(editor, "ReduceMax", layer, layer.source, default_opset(loaded))
        editor.add(new_node("Size", [layer.name], f"{layer.name}/Size"))
        outputs += [
            tensor(lows, np.float32, ["channels"]),
            tensor(highs, np.float32, ["channels"]),
            tensor(f"{layer.name}/Size", np.int64, []),
        ]
    editor.set_outputs(*outputs)
    seen = list(zip(*answers(observed, images), strict=True))
    measured = [
        layer._replace(
            lows=np.minimum(np.min(lows, axis=0), 0),
            highs=np.maximum(np.max(highs, axis=0), 0),
            multiply_adds=float(sum(sizes))
            * layer.weights.size
            / layer.weights.shape[layer.outputs],
        )
        for layer, lows, highs, sizes in zip(layers, seen[::3], seen[1::3], seen[2::3], strict=True)
    ]
    finite = [layer for layer in measured if np.isfinite(layer.highs - layer.lows).all()]
    minimum = share * sum(layer.multiply_adds for layer in finite)
    return [layer for layer in finite if layer.multiply_adds >= minimum]


def _with_divisors(layers: Sequence[_Layer]) -> list[_Layer]:
    """With the divisors of their input's channels: the same for all that have the same input."""
    divisors: dict[tuple[str, bool], Array] = {}
    for key in {layer.input for layer in layers}:
        same = [layer for layer in layers if layer.input == key]
        ranges = np.maximum(-same[0].lows, same[0].highs)
        weights = np.max([_largest(layer.weights, 1 - layer.outputs) for layer in same], axis=0)
        # The range of a channel that is always zero is not known.
        ranges = np.maximum(ranges, 1e-3 * ranges.max() + 1e-12)
        weights = np.maximum(weights, 1e-3 * weights.max() + 1e-12)
        divisors[key] = ranges**_EXPONENT / weights ** (1 - _EXPONENT)
    return [layer._replace(divisors=divisors[layer.input]) for layer in layers]


def _with_corrections(
    loaded: onnx.ModelProto, layers: Sequence[_Layer], images: Iterable[Image], answers: _Answers
) -> list[_Layer]:
    """With their corrections: each layer in integers on its float32 input, beside itself."""
    if not layers:
        return []
    observed = copy.deepcopy(loaded)
    editor = GraphEditor(observed.graph)
    inputs: dict[tuple[str, bool], str] = {}
    outputs = []
    for layer in layers:
        loss = f"{layer.name}/loss"
        editor.add(new_node("Sub", [layer.name, _add_integers(editor, layer, inputs)], loss))
        mean = _by_channel(editor, "ReduceMean", layer, loss, default_opset(loaded))
        outputs.append(tensor(mean, np.float32, ["channels"]))
    editor.set_outputs(*outputs)
    corrections = zip(*answers(observed, images), strict=True)
    return [
        layer._replace(correction=np.mean(seen, axis=0))
        for layer, seen in zip(layers, corrections, strict=True)
    ]


def _by_channel(editor: GraphEditor, kind: str, layer: _Layer, value: str, opset: int) -> str:
    """Add a reduction over all but the channels of the layer's input or output; its output."""
    output, axes = f"{value}/{kind} of {layer.name}", [0, 2, 3]
    if layer.is_product:
        count = layer.weights.shape[1 - layer.outputs if value == layer.source else layer.outputs]
        rows, axes = f"{output}/rows", [0]
        editor.add(
            constant(f"{rows}_shape", [-1, count], np.int64),
            new_node("Reshape", [value, f"{rows}_shape"], rows),
        )
        value = rows
    editor.add(*reduction(kind, value, output, axes, opset=opset, keepdims=False))
    return output


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


def _quantised(loaded: onnx.ModelProto, layers: Iterable[_Layer]) -> onnx.ModelProto:
    """A copy with these layers in 8-bit integers."""
    from onnx import checker

    altered = copy.deepcopy(loaded)
    editor = GraphEditor(altered.graph)
    inputs: dict[tuple[str, bool], str] = {}
    for layer in layers:
        integers, correction = _add_integers(editor, layer, inputs), f"{layer.name}/correction"
        editor.add(
            constant(correction, layer.of_activation(layer.correction)),
            new_node("Add", [integers, correction], layer.name),
        )
    editor.finish()
    checker.check_model(altered)
    return altered


def _add_integers(editor: GraphEditor, layer: _Layer, inputs: dict[tuple[str, bool], str]) -> str:
    """Add the layer in 8-bit integers beside itself; its output, not yet corrected.

    inputs: by layer input, the same in integers, one for all layers that read it.
    """
    import onnx

    name, divided = layer.name, layer.source
    lows, highs, weights = layer.lows, layer.highs, layer.weights
    if layer.divisors is not None:
        divided = f"{name}/divided"
        lows, highs = lows / layer.divisors, highs / layer.divisors
        weights = weights * layer.of_weights(layer.divisors, 1 - layer.outputs)
    if layer.input not in inputs:
        scale = np.float32(max(highs.max() - lows.min(), 1e-6) / 255)
        zero = np.clip(round(-lows.min() / scale), 0, 255)
        of_input = [f"{name}/input_scale", f"{name}/input_zero"]
        if layer.divisors is not None:
            editor.add(
                constant(f"{name}/factors", layer.of_activation(1 / layer.divisors)),
                new_node("Mul", [layer.source, f"{name}/factors"], divided),
            )
        editor.add(
            constant(f"{name}/input_scale", scale),
            constant(f"{name}/input_zero", zero, np.uint8),
            new_node("QuantizeLinear", [divided, *of_input], f"{name}/input_8"),
            new_node("DequantizeLinear", [f"{name}/input_8", *of_input], f"{name}/input"),
        )
        inputs[layer.input] = f"{name}/input"
    scales = np.maximum(_largest(weights, layer.outputs), 1e-12) / 127
    steps = np.rint(weights / layer.of_weights(scales, layer.outputs))
    of_weights = [f"{name}/weights_8", f"{name}/weights_scale", f"{name}/weights_zero"]
    integers = onnx.NodeProto()
    integers.CopyFrom(layer.node)
    integers.input[:2] = [inputs[layer.input], f"{name}/weights"]
    integers.name = integers.output[0] = f"{name}/integers"
    editor.add(
        constant(f"{name}/weights_8", steps, np.int8),
        constant(f"{name}/weights_scale", scales),
        constant(f"{name}/weights_zero", np.zeros(scales.size), np.int8),
        new_node("DequantizeLinear", of_weights, f"{name}/weights", axis=layer.outputs),
        integers,
    )
    return f"{name}/integers"
