"""A detector's graph as it is, in the form that takes less time: same inputs, same outputs.

Squeeze-and-excitation that is added to its input, in one product.

x + x * s, where s is a number for each channel, is x * (1 + s): one pass over the map, not two.
PP-OCR's detectors have eight of these (RSEFPN: Li et al., "PP-OCRv3", 2022, section 2.1).

The fused variant of a model's ONNX graph: 8-bit pixels in, only what is needed out.

Build time only. Normalisation moves into the graph (a quarter of the bytes to hand over, and the
backend fuses it with the first convolution); a recogniser's T x 6625 probabilities become
an arg-max, its probability and the space's. What a detector computes is put in a form that takes
less time.
"""

from __future__ import annotations

from math import inf, prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serving.config.model import (
    DetectionModel,
    Model,
    Normalisation,
    OrientationModel,
    RecognitionModel,
)
from serving.errors import ModelInvalid
from serving.optimize.convolutions import fold_before, fold_behind
from serving.optimize.db_head import enlarge_last
from serving.optimize.graph import Edit, constant, prefix_names

if TYPE_CHECKING:
    import onnx


def fuse_squeeze_excite(edit: Edit) -> None:
    """Rewrite every such sum."""
    import onnx

    found = [(node, gate) for node in edit.graph.node if (gate := _gate(edit, node)) is not None]
    if found:
        edit.add(constant("gate_one", np.ones(1, np.float32)))
    for number, (node, (x, scale)) in enumerate(found):
        name = f"gate_{number}"
        edit.add(onnx.helper.make_node("Add", [scale, "gate_one"], [name]))
        node.op_type = "Mul"
        node.input[:] = [x, name]


def _gate(edit: Edit, node: onnx.NodeProto) -> tuple[str, str] | None:
    """(x, s) of a node that adds x and x * s."""
    if node.op_type != "Add":
        return None
    for x, product in (node.input[:2], node.input[1::-1]):
        made = edit.maker(product)
        if made is None or made.op_type != "Mul":
            continue
        for one, scale in (made.input[:2], made.input[1::-1]):
            gate = edit.maker(scale)
            if edit.source(one) == edit.source(x) and gate and gate.op_type in _GATES:
                return x, scale
    return None


_GATES = ("HardSigmoid", "Sigmoid")
"""What ends a gate."""


VARIANT = "fused-7"
"""Name of the recipe below, part of every engine's key. Change it when the recipe changes."""


def fuse(source: Path, model: Model, target: Path) -> None:
    """Write the fused variant of `source` to `target`.

    Input `image`: uint8 (N, H, W, 3) in BGR. Outputs: a detector's `map` uint8 (N, 1, H, W), its
    probabilities in 255ths; a classifier's probabilities; or a recogniser's `index` int64 (N, T)
    with its `score` and the probability of the last class, `space`, both float32 (N, T).
    Raises ModelInvalid for a graph of another form.
    """
    import onnx

    loaded = onnx.load(source)
    graph = loaded.graph
    inputs = [item for item in graph.input if item.name not in {i.name for i in graph.initializer}]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ModelInvalid(
            f"{source}: has {len(inputs)} inputs and {len(graph.output)} outputs, not 1"
        )
    old = inputs[0]
    if len(old.type.tensor_type.shape.dim) != 4:
        raise ModelInvalid(f"{source}: the input {old.name!r} is not (N, 3, H, W)")
    pixels = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, _shape(model))
    prefix_names(graph, "model/")
    edit = Edit(graph)
    edit.add(*_normalise(model.normalisation, old.name))
    if isinstance(model, DetectionModel):
        _check_map(source, edit)
        enlarge_last(edit)
        edit.add(*_in_bytes(graph))
    if isinstance(model, RecognitionModel):
        _check_dictionary(source, graph, model)
        edit.add(*_arg_max(graph, len(model.characters), opset=loaded.opset_import[0].version))
    fuse_squeeze_excite(edit)
    fold_behind(edit)
    if isinstance(model, RecognitionModel):  # for a detector it saves 0.2 % of a page
        fold_before(edit)
    edit.done()
    del graph.value_info[:]  # shapes of the old input
    graph.input.remove(old)
    graph.input.insert(0, pixels)
    onnx.checker.check_model(loaded)
    onnx.save(loaded, target)


def _check_map(source: Path, edit: Edit) -> None:
    """A DB detector ends in a sigmoid, PP-OCR's server models in the mean of two (PFHeadLocal)."""
    output = edit.graph.output[0].name
    if not _most(edit, output) <= 1:  # also where it is no number
        last = edit.maker(output)
        ends = "a weight" if last is None else last.op_type
        raise ModelInvalid(f"{source}: ends in {ends}, not in the Sigmoid of a DB detector")


def _in_bytes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Replace a map of probabilities by one of whole 255ths: a quarter of the bytes to hand over.

    It takes the engine no time, and the boxes half of theirs.
    """
    import onnx

    probabilities = graph.output[0].name
    del graph.output[:]
    shape: list[int | str] = ["N", 1, "H", "W"]
    graph.output.append(onnx.helper.make_tensor_value_info("map", onnx.TensorProto.UINT8, shape))
    return [
        constant("map_most", np.array(255, np.float32)),
        constant("map_half", np.array(0.5, np.float32)),
        onnx.helper.make_node("Mul", [probabilities, "map_most"], ["map_255ths"]),
        onnx.helper.make_node("Add", ["map_255ths", "map_half"], ["map_rounded"]),
        # 255.5 is 256 in bfloat16.
        onnx.helper.make_node("Min", ["map_rounded", "map_most"], ["map_bounded"]),
        onnx.helper.make_node("Cast", ["map_bounded"], ["map"], to=onnx.TensorProto.UINT8),
    ]


def _most(edit: Edit, name: str) -> float:
    """The most that sigmoids, added up and scaled, come to; infinite or NaN for anything else."""
    node = edit.maker(name)
    if node is None or node.op_type not in ("Sigmoid", "Add", "Mul", "Cast"):
        return inf
    if node.op_type == "Sigmoid":
        return 1.0
    found = [
        float(np.abs(value).max())
        if (value := edit.constant(part)) is not None
        else _most(edit, part)
        for part in node.input
    ]
    return prod(found) if node.op_type == "Mul" else sum(found)


def _check_dictionary(source: Path, graph: onnx.GraphProto, model: RecognitionModel) -> None:
    classes = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    if classes and classes != len(model.characters):
        raise ModelInvalid(
            f"{source}: has {classes} classes, but its inference.yml {len(model.characters)} "
            "characters (the blank and the space counted): the dictionary of another model?"
        )


def _shape(model: Model) -> list[int | str]:
    """(N, H, W, C): what the model fixes is a number, what varies a name."""
    if isinstance(model, OrientationModel):
        return ["N", model.height, model.width, 3]
    return ["N", model.height if isinstance(model, RecognitionModel) else "H", "W", 3]


def _normalise(norm: Normalisation, name: str) -> list[onnx.NodeProto]:
    """Nodes from `image` to the old input `name`: BGR bytes to normalised planes."""
    import onnx

    scale = norm.scale / np.array(norm.std)
    shift = -np.array(norm.mean) / np.array(norm.std)
    if norm.order == "RGB":
        channels = [2, 1, 0]
    elif norm.order == "BGR":
        channels = [0, 1, 2]
    else:
        raise ModelInvalid(f"DecodeImage.img_mode is {norm.order!r}, not BGR or RGB")

    nodes = [
        onnx.helper.make_node("Cast", ["image"], ["image_float"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Transpose", ["image_float"], ["image_planes"], perm=[0, 3, 1, 2]),
    ]
    planes = "image_planes"
    if channels != [0, 1, 2]:
        nodes += [
            constant("image_order", np.array(channels, np.int64)),
            onnx.helper.make_node("Gather", [planes, "image_order"], ["image_rgb"], axis=1),
        ]
        planes = "image_rgb"
    nodes += [
        constant("image_scale", scale.astype(np.float32).reshape(1, 3, 1, 1)),
        constant("image_shift", shift.astype(np.float32).reshape(1, 3, 1, 1)),
        onnx.helper.make_node("Mul", [planes, "image_scale"], ["image_scaled"]),
        onnx.helper.make_node("Add", ["image_scaled", "image_shift"], [name]),
    ]
    return nodes


def _arg_max(graph: onnx.GraphProto, classes: int, *, opset: int) -> list[onnx.NodeProto]:
    """Replace the output (N, T, C) by its arg-max and maximum over C, and by its last class.

    The arg-max is the least index at which the maximum stands: OpenVINO's own ArgMax takes 7 % of
    the whole model's time in float32 and 14 % in bfloat16, these nodes next to nothing.
    """
    import onnx

    probabilities = graph.output[0].name
    del graph.output[:]
    graph.output.extend(
        [
            onnx.helper.make_tensor_value_info("index", onnx.TensorProto.INT64, ["N", "T"]),
            onnx.helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["N", "T"]),
            onnx.helper.make_tensor_value_info("space", onnx.TensorProto.FLOAT, ["N", "T"]),
        ]
    )

    def reduce(kind: str, source: str, target: str, keepdims: int) -> onnx.NodeProto:
        if opset < 18:
            return onnx.helper.make_node(kind, [source], [target], axes=[2], keepdims=keepdims)
        return onnx.helper.make_node(kind, [source, "class_axis"], [target], keepdims=keepdims)

    return [
        *([constant("class_axis", np.array([2], np.int64))] if opset >= 18 else []),
        constant("class_numbers", np.arange(classes, dtype=np.float32)),
        constant("no_class", np.array(classes, np.float32)),
        constant("last_class", np.array(classes - 1, np.int64)),
        reduce("ReduceMax", probabilities, "score", 0),
        reduce("ReduceMax", probabilities, "best", 1),
        onnx.helper.make_node("Equal", [probabilities, "best"], ["is_best"]),
        onnx.helper.make_node("Where", ["is_best", "class_numbers", "no_class"], ["best_numbers"]),
        reduce("ReduceMin", "best_numbers", "best_number", 0),
        onnx.helper.make_node("Cast", ["best_number"], ["index"], to=onnx.TensorProto.INT64),
        onnx.helper.make_node("Gather", [probabilities, "last_class"], ["space"], axis=2),
    ]


OPTIMIZED = "lighter-2"
"""Name of the recipe below. Change it when the recipe changes."""


def optimize_detector(source: Path, target: Path) -> None:
    """Write a graph that computes what the detector `source` does, in less time where it can be."""
    import onnx

    loaded = onnx.load(source)
    graph = loaded.graph
    prefix_names(graph, "model/", keep={item.name for item in (*graph.input, *graph.output)})
    edit = Edit(graph)
    fuse_squeeze_excite(edit)
    enlarge_last(edit)
    fold_behind(edit)
    edit.done()
    onnx.checker.check_model(loaded)
    onnx.save(loaded, target)
