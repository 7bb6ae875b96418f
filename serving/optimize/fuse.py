"""The fused variant of a model's ONNX graph: 8-bit pixels in, only what is needed out.

Build time only. Normalisation moves into the graph (a quarter of the bytes to pass, and the backend
fuses it with the first convolution), and a recogniser's T x 6625 probabilities are reduced to the
arg-max, its probability and that of the space. Some operations are rewritten into faster ones; for
PaddleX, which needs the model's own inputs and outputs, `optimize_detector` does only that.
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
    PageOrientationModel,
    RecognitionModel,
    UnwarpingModel,
)
from serving.errors import ModelInvalid
from serving.optimize.convolutions import fold_after, fold_before
from serving.optimize.db_head import upsample_last
from serving.optimize.graph import GraphEditor, constant, prefix_names

if TYPE_CHECKING:
    import onnx


VARIANT = "fused-8"
"""Version of `fuse`, part of every engine's key. Change it whenever its result changes."""


def fuse(source: Path, model: Model, target: Path) -> None:
    """Write the fused variant of `source` to `target`.

    Input `image`: uint8 (N, H, W, 3) in BGR. Outputs: a detector's `map` uint8 (N, 1, H, W), its
    probabilities in 255ths; a classifier's probabilities; a recogniser's `index` int64 (N, T) with
    its `score` and the probability of the last class, `space`, both float32 (N, T); or a flattened
    `page` uint8 (N, H, W, 3) and, where the graph ends in a GridSample, its `grid` float32
    (N, H, W, 2).
    Raises ModelInvalid for a graph of another form.
    """
    import onnx

    loaded = _read(source)
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
    editor = GraphEditor(graph)
    editor.add(*_normalise(model.normalisation, old.name))
    if isinstance(model, DetectionModel):
        _check_map(source, editor)
        upsample_last(editor)
        editor.add(*_quantise_map(graph))
    elif isinstance(model, UnwarpingModel):
        editor.add(*_flat_page(editor))
    else:
        classes = class_count(source, model)
        _end_in_softmax(source, editor)
    if isinstance(model, RecognitionModel):
        editor.add(*_arg_max(graph, classes, model, opset=loaded.opset_import[0].version))
    _fuse_squeeze_excite(editor)
    fold_after(editor)
    if isinstance(model, RecognitionModel):  # for a detector it saves 0.2 % of a page
        fold_before(editor)
    editor.finish()
    del graph.value_info[:]  # shapes of the old input
    graph.input.remove(old)
    graph.input.insert(0, pixels)
    onnx.checker.check_model(loaded)
    onnx.save(loaded, target)


OPTIMIZED = "optimized-2"
"""Version of `optimize_detector`. Change it whenever its result changes."""


def optimize_detector(source: Path, target: Path) -> None:
    """Write a faster graph with the inputs and outputs of the detector `source`."""
    import onnx

    loaded = _read(source)
    graph = loaded.graph
    prefix_names(graph, "model/", keep={item.name for item in (*graph.input, *graph.output)})
    editor = GraphEditor(graph)
    _fuse_squeeze_excite(editor)
    upsample_last(editor)
    fold_after(editor)
    editor.finish()
    onnx.checker.check_model(loaded)
    onnx.save(loaded, target)


def _read(source: Path, *, weights: bool = True) -> onnx.ModelProto:
    """The graph, with its external weights or without. Raises ModelInvalid."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(source, load_external_data=weights)
    except DecodeError as error:
        raise ModelInvalid(f"{source}: not a readable ONNX file: {error}") from error


def _fuse_squeeze_excite(editor: GraphEditor) -> None:
    """Rewrite x + x * s, with s per channel, as x * (1 + s): one pass over the map instead of two.

    PP-OCR's detectors have eight (RSEFPN: Li et al., "PP-OCRv3", 2022, section 2.1).
    """
    import onnx

    sums = [(node, _squeeze_excite(editor, node)) for node in editor.graph.node]
    matches = [(node, match) for node, match in sums if match is not None]
    if matches:
        editor.add(constant("gate_one", np.ones(1, np.float32)))
    for number, (node, (x, scale)) in enumerate(matches):
        name = f"gate_{number}"
        editor.add(onnx.helper.make_node("Add", [scale, "gate_one"], [name]))
        node.op_type = "Mul"
        node.input[:] = [x, name]


def _squeeze_excite(editor: GraphEditor, node: onnx.NodeProto) -> tuple[str, str] | None:
    """(x, s) of a node that computes x + x * s, with s from a sigmoid; else None."""
    if node.op_type != "Add":
        return None
    for x, product in (node.input[:2], node.input[1::-1]):
        mul = editor.producer(product)
        if mul is None or mul.op_type != "Mul":
            continue
        for factor, scale in (mul.input[:2], mul.input[1::-1]):
            sigmoid = editor.producer(scale)
            is_gate = sigmoid is not None and sigmoid.op_type in ("HardSigmoid", "Sigmoid")
            if editor.source(factor) == editor.source(x) and is_gate:
                return x, scale
    return None


def _check_map(source: Path, editor: GraphEditor) -> None:
    """A DB detector ends in a sigmoid; PP-OCR's server models in the mean of two (PFHeadLocal)."""
    output = editor.graph.output[0].name
    if not _upper_bound(editor, output) <= 1:  # also for NaN
        last = editor.producer(output)
        ends = "a weight" if last is None else last.op_type
        raise ModelInvalid(f"{source}: ends in {ends}, not in the Sigmoid of a DB detector")


def _quantise_map(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Convert the map of probabilities to uint8, in 255ths: a quarter of the bytes to pass.

    It takes the engine no measurable time, and halves that of the post-processing.
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


def _flat_page(editor: GraphEditor) -> list[onnx.NodeProto]:
    """Convert the planes of a page (0 to 1, BGR) to bytes, and output the grid of a GridSample."""
    import onnx

    output = editor.graph.output[0].name
    last = _last_computing(editor, output)
    grid = last.input[1] if last is not None and last.op_type == "GridSample" else None
    del editor.graph.output[:]
    shape: list[int | str] = ["N", "flat_H", "flat_W", 3]
    editor.graph.output.append(
        onnx.helper.make_tensor_value_info("page", onnx.TensorProto.UINT8, shape)
    )
    nodes = [
        constant("page_least", np.array(0, np.float32)),
        constant("page_most", np.array(255, np.float32)),
        onnx.helper.make_node("Mul", [output, "page_most"], ["page_255ths"]),
        onnx.helper.make_node("Clip", ["page_255ths", "page_least", "page_most"], ["page_bounded"]),
        onnx.helper.make_node("Cast", ["page_bounded"], ["page_planes"], to=onnx.TensorProto.UINT8),
        onnx.helper.make_node("Transpose", ["page_planes"], ["page"], perm=[0, 2, 3, 1]),
    ]
    if grid is not None:
        shape = ["N", "flat_H", "flat_W", 2]
        editor.graph.output.append(
            onnx.helper.make_tensor_value_info("grid", onnx.TensorProto.FLOAT, shape)
        )
        nodes.append(onnx.helper.make_node("Identity", [grid], ["grid"]))
    return nodes


def _upper_bound(editor: GraphEditor, name: str) -> float:
    """Upper bound of a scaled sum of sigmoids; infinite or NaN for anything else."""
    node = editor.producer(name)
    if node is None or node.op_type not in ("Sigmoid", "Add", "Mul", "Cast"):
        return inf
    if node.op_type == "Sigmoid":
        return 1.0
    bounds = [
        float(np.abs(value).max())
        if (value := editor.constant(part)) is not None
        else _upper_bound(editor, part)
        for part in node.input
    ]
    return prod(bounds) if node.op_type == "Mul" else sum(bounds)


def check_input_size(source: Path, model: Model) -> None:
    """Raise ModelInvalid where the graph takes images of one size only, and the model another."""
    graph = _read(source, weights=False).graph
    weights = {item.name for item in graph.initializer}
    inputs = [item.type.tensor_type.shape.dim for item in graph.input if item.name not in weights]
    height, width = (dim.dim_value for dim in inputs[0][2:4])  # 0 where it varies
    if isinstance(model, DetectionModel):
        fixed = None if model.keep_ratio else model.image_shape
        if (height or width) and fixed != (height, width):
            raise ModelInvalid(
                f"{source}: a detector of images of {height} x {width} pixels only; set "
                f"SubModules.TextDetection.input_shape: [3, {height}, {width}] in the pipeline "
                "YAML, or export it with a dynamic height and width"
            )
    if isinstance(model, RecognitionModel) and width:
        raise ModelInvalid(
            f"{source}: a recogniser of lines of {width} pixels only (SubModules.TextRecognition), "
            "and lines are read at their own width here; export it with a dynamic width"
        )


def _end_in_softmax(source: Path, editor: GraphEditor) -> None:
    """Add the Softmax to a classifier or recogniser whose export left it to the training loss.

    Raises ModelInvalid for a graph that ends in neither a Softmax nor a linear layer.
    """
    import onnx

    output = editor.graph.output[0]
    last = _last_computing(editor, output.name)
    ends = "a weight" if last is None else last.op_type
    if ends in _LINEAR:
        editor.add(onnx.helper.make_node("Softmax", [output.name], ["softmax"], axis=-1))
        output.name = "softmax"
    elif ends != "Softmax":
        raise ModelInvalid(f"{source}: ends in {ends}, not in the Softmax of a classifier")


def _last_computing(editor: GraphEditor, name: str) -> onnx.NodeProto | None:
    """The node whose values these are, moved at most."""
    node = editor.producer(name)
    while node is not None and node.op_type in _MOVES:
        node = editor.producer(node.input[0])
    return node


_MOVES = ("Cast", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""What may follow the last layer: it moves values and computes none."""
_LINEAR = ("Add", "Gemm", "MatMul")


def class_count(
    source: Path, model: RecognitionModel | OrientationModel | PageOrientationModel
) -> int:
    """The classes of a graph; a recogniser's are its characters, or one less, without the space.

    (PaddleX's CTCLabelDecode always adds the space to the dictionary; a model trained with
    `use_space_char: False` never gives that class.) Raises ModelInvalid for another number.
    """
    shape = _read(source, weights=False).graph.output[0].type.tensor_type.shape
    classes = shape.dim[-1].dim_value if shape.dim else 0  # 0 where the graph does not say
    if not isinstance(model, RecognitionModel):
        known = 2 if isinstance(model, OrientationModel) else len(model.angles)
        if classes not in (0, known):
            raise ModelInvalid(f"{source}: has {classes} classes, not {known}")
        return known
    classes = classes or len(model.characters)
    if len(model.characters) - classes not in (0, 1):
        raise ModelInvalid(
            f"{source}: has {classes} classes, but its inference.yml {len(model.characters)} "
            "characters (the blank and the space counted): the dictionary of another model? One of "
            f"{classes - 2} characters would fit, or of {classes - 1} without use_space_char"
        )
    return int(classes)


def _shape(model: Model) -> list[int | str]:
    """(N, H, W, C): a number where the model fixes it, else a name."""
    if isinstance(model, OrientationModel | PageOrientationModel):
        return ["N", model.height, model.width, 3]
    return ["N", model.height if isinstance(model, RecognitionModel) else "H", "W", 3]


def _normalise(norm: Normalisation, name: str) -> list[onnx.NodeProto]:
    """Nodes from `image` to the old input `name`: from BGR bytes to normalised planes."""
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


def _arg_max(
    graph: onnx.GraphProto, classes: int, model: RecognitionModel, *, opset: int
) -> list[onnx.NodeProto]:
    """Replace the output (N, T, C) by its arg-max, its maximum over C and the space's probability.

    The arg-max is computed as the lowest index that has the maximum: OpenVINO's ArgMax takes 7 % of
    the whole model's time in float32 and 14 % in bfloat16, these nodes almost none.
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

    if classes == len(model.characters):
        space = [
            constant("last_class", np.array(classes - 1, np.int64)),
            onnx.helper.make_node("Gather", [probabilities, "last_class"], ["space"], axis=2),
        ]
    else:  # the model has no space
        space = [
            constant("zero", np.array(0, np.float32)),
            onnx.helper.make_node("Mul", ["score", "zero"], ["space"]),
        ]
    return [
        *([constant("class_axis", np.array([2], np.int64))] if opset >= 18 else []),
        constant("class_numbers", np.arange(classes, dtype=np.float32)),
        constant("no_class", np.array(len(model.characters), np.float32)),
        reduce("ReduceMax", probabilities, "score", 0),
        reduce("ReduceMax", probabilities, "best", 1),
        onnx.helper.make_node("Equal", [probabilities, "best"], ["is_best"]),
        onnx.helper.make_node("Where", ["is_best", "class_numbers", "no_class"], ["best_numbers"]),
        reduce("ReduceMin", "best_numbers", "best_number", 0),
        onnx.helper.make_node("Cast", ["best_number"], ["index"], to=onnx.TensorProto.INT64),
        *space,
    ]
