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
from serving.optimize.convolutions import fold_after, fold_before, split_concatenations
from serving.optimize.ctc_head import reduce_classes
from serving.optimize.db_head import upsample_last
from serving.optimize.graph import (
    GraphEditor,
    cast,
    constant,
    default_opset,
    new_node,
    prefix_names,
    tensor,
)

if TYPE_CHECKING:
    import onnx


VARIANT = "fused-9"
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
    inputs = _inputs(graph)
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ModelInvalid(
            f"{source}: has {len(inputs)} inputs and {len(graph.output)} outputs, not 1"
        )
    old = inputs[0]
    if len(old.type.tensor_type.shape.dim) != 4:
        raise ModelInvalid(f"{source}: the input {old.name!r} is not (N, 3, H, W)")
    prefix_names(graph, "model/")
    editor = GraphEditor(graph)
    _normalise(editor, model.normalisation, old.name)
    if isinstance(model, DetectionModel):
        _check_map(source, editor)
        upsample_last(editor)
        _quantise_map(editor)
    elif isinstance(model, UnwarpingModel):
        _flat_page(editor)
    else:
        classes = class_count(source, model)
        _end_in_softmax(source, editor)
    if isinstance(model, RecognitionModel):
        reduce_classes(editor, classes, model, opset=default_opset(loaded))
    _fuse_squeeze_excite(editor)
    fold_after(editor)
    if isinstance(model, RecognitionModel):  # for a detector it saves 0.2 % of a page
        fold_before(editor)
    split_concatenations(editor)
    editor.finish()
    del graph.value_info[:]  # shapes of the old input
    graph.input.remove(old)
    graph.input.insert(0, tensor("image", np.uint8, _shape(model)))
    onnx.checker.check_model(loaded)
    onnx.save(loaded, target)


OPTIMIZED = "optimized-3"
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
    split_concatenations(editor)
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


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Without the weights that some graphs list as inputs too."""
    weights = {item.name for item in graph.initializer}
    return [item for item in graph.input if item.name not in weights]


def _fuse_squeeze_excite(editor: GraphEditor) -> None:
    """Rewrite x + x * s, with s per channel, as x * (1 + s): one pass over the map instead of two.

    PP-OCR's detectors have eight (RSEFPN: Li et al., "PP-OCRv3", 2022, section 2.1).
    """
    sums = [(node, _squeeze_excite(editor, node)) for node in editor.graph.node]
    matches = [(node, match) for node, match in sums if match is not None]
    editor.add(constant("gate_one", [1]))
    for number, (node, (x, scale)) in enumerate(matches):
        name = f"gate_{number}"
        editor.add(new_node("Add", [scale, "gate_one"], name))
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


def _quantise_map(editor: GraphEditor) -> None:
    """Convert the map of probabilities to uint8, in 255ths: a quarter of the bytes to pass.

    It takes the engine no measurable time, and halves that of the post-processing.
    """
    probabilities = editor.graph.output[0].name
    editor.set_outputs(tensor("map", np.uint8, ["N", 1, "H", "W"]))
    editor.add(
        constant("map_most", 255),
        constant("map_half", 0.5),
        new_node("Mul", [probabilities, "map_most"], "map_255ths"),
        new_node("Add", ["map_255ths", "map_half"], "map_rounded"),
        new_node("Min", ["map_rounded", "map_most"], "map_bounded"),  # 255.5 is 256 in bfloat16
        cast("map_bounded", "map", np.uint8),
    )


def _flat_page(editor: GraphEditor) -> None:
    """Convert the planes of a page (0 to 1, BGR) to bytes, and output the grid of a GridSample."""
    planes = editor.graph.output[0].name
    last = _last_computing(editor, planes)
    outputs = [tensor("page", np.uint8, ["N", "flat_H", "flat_W", 3])]
    if last is not None and last.op_type == "GridSample":
        outputs.append(tensor("grid", np.float32, ["N", "flat_H", "flat_W", 2]))
        editor.add(new_node("Identity", [last.input[1]], "grid"))
    editor.set_outputs(*outputs)
    editor.add(
        constant("page_least", 0),
        constant("page_most", 255),
        new_node("Mul", [planes, "page_most"], "page_255ths"),
        new_node("Clip", ["page_255ths", "page_least", "page_most"], "page_bounded"),
        cast("page_bounded", "page_planes", np.uint8),
        new_node("Transpose", ["page_planes"], "page", perm=[0, 2, 3, 1]),
    )


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
    dims = _inputs(graph)[0].type.tensor_type.shape.dim
    height, width = (dim.dim_value for dim in dims[2:4])  # 0 where it varies
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
    output = editor.graph.output[0]
    last = _last_computing(editor, output.name)
    ends = "a weight" if last is None else last.op_type
    if ends in _LINEAR:
        editor.add(new_node("Softmax", [output.name], "softmax", axis=-1))
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


def _normalise(editor: GraphEditor, norm: Normalisation, name: str) -> None:
    """Add nodes from `image` to the old input `name`: from BGR bytes to normalised planes."""
    if norm.order not in ("BGR", "RGB"):
        raise ModelInvalid(f"DecodeImage.img_mode is {norm.order!r}, not BGR or RGB")
    editor.add(
        cast("image", "image_float", np.float32),
        new_node("Transpose", ["image_float"], "image_planes", perm=[0, 3, 1, 2]),
    )
    planes = "image_planes"
    if norm.order == "RGB":
        planes = "image_rgb"
        editor.add(
            constant("image_order", [2, 1, 0], np.int64),
            new_node("Gather", ["image_planes", "image_order"], planes, axis=1),
        )
    std = np.array(norm.std).reshape(1, 3, 1, 1)
    editor.add(
        constant("image_scale", norm.scale / std),
        constant("image_shift", -np.array(norm.mean).reshape(1, 3, 1, 1) / std),
        new_node("Mul", [planes, "image_scale"], "image_scaled"),
        new_node("Add", ["image_scaled", "image_shift"], name),
    )
