"""The fused graph computes what the plain one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.config.model import (
    DetectionModel,
    Model,
    Normalisation,
    OrientationModel,
    RecognitionModel,
)
from serving.errors import ModelInvalid
from serving.optimize.fuse import check_input_size, fuse
from serving.optimize.parity import verify_parity

CLASSES = 7
RGB = Normalisation(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "RGB")
BGR = Normalisation(order="BGR")


def recogniser(
    path: Path, opset: int = 17, ends: str | None = "Softmax", width: int | str = "W"
) -> None:
    """(N, 3, 8, W) -> (N, W, CLASSES): a softmax, or another end, over a mix of each column."""
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.normal(size=(24, CLASSES)).astype(np.float32), "weights")
    shape = numpy_helper.from_array(np.array([0, -1, 24], np.int64), "shape")
    nodes = [
        helper.make_node("Transpose", ["x"], ["columns"], perm=[0, 3, 1, 2]),
        helper.make_node("Reshape", ["columns", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["logits" if ends else "y"]),
    ]
    if ends is not None:
        axis = {"axis": 2} if ends == "Softmax" else {}
        nodes.append(helper.make_node(ends, ["logits"], ["y"], **axis))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "T", CLASSES])
    graph = helper.make_graph(nodes, "tiny", [x], [y], [weights, shape])
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def run(path: Path, x: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def plain_input(image: np.ndarray, norm: Normalisation) -> np.ndarray:
    pixels = image[..., ::-1] if norm.order == "RGB" else image
    planes = (pixels * norm.scale - norm.mean) / norm.std
    return planes.transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize("opset", [11, 17, 18])
@pytest.mark.parametrize("norm", [RGB, BGR], ids=["RGB", "BGR"])
def test_a_fused_recogniser_gives_the_best_class_its_probability_and_the_spaces(
    tmp_path: Path, opset: int, norm: Normalisation
) -> None:
    model = RecognitionModel("tiny", norm, 8, 32, tuple("abcdefg"))
    plain, fused = tmp_path / "plain.onnx", tmp_path / "fused.onnx"
    recogniser(plain, opset)
    fuse(plain, model, fused)
    image = np.random.default_rng(1).integers(0, 256, (2, 8, 20, 3), np.uint8)
    (wanted,) = run(plain, plain_input(image, norm))
    index, score, space = run(fused, image)
    assert index.dtype == np.int64
    np.testing.assert_array_equal(index, wanted.argmax(axis=2))
    np.testing.assert_allclose(score, wanted.max(axis=2), atol=1e-5)
    np.testing.assert_allclose(space, wanted[..., -1], atol=1e-5)


@pytest.mark.parametrize("bias", ["left", "right", None])
@pytest.mark.parametrize("classes", [64, 65, 200])
def test_the_best_of_many_classes_is_found_in_its_block(
    tmp_path: Path, classes: int, bias: str | None
) -> None:
    """Of equal ones the first, in every block of classes, in the last and unfilled one too."""
    rng = np.random.default_rng(0)
    model = RecognitionModel("tiny", BGR, 1, 32, tuple(map(chr, range(0x4E00, 0x4E00 + classes))))
    weights = rng.normal(size=(3, classes)).astype(np.float32)
    weights *= 3 / np.linalg.norm(weights, axis=0)  # each is the best in its own direction
    weights[:, [3, classes - 1]] = weights[:, [0]]
    nodes = [
        helper.make_node("Transpose", ["x"], ["columns"], perm=[0, 3, 2, 1]),
        helper.make_node("Squeeze", ["columns", "height"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"], axis=2),
    ]
    height = numpy_helper.from_array(np.array([2], np.int64), "height")
    parts = [numpy_helper.from_array(weights, "weights"), height]
    if bias is not None:
        values = rng.normal(size=classes, scale=0.1).astype(np.float32)
        values[[3, classes - 1]] = values[0] = 0.2
        parts.append(numpy_helper.from_array(values, "bias"))
        nodes[2].output[:] = ["products"]
        both = ["products", "bias"] if bias == "right" else ["bias", "products"]
        nodes.insert(3, helper.make_node("Add", both, ["logits"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 1, "W"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "T", classes])
    graph = helper.make_graph(nodes, "many", [x], [y], parts)
    opsets = [helper.make_opsetid("", 17)]
    plain, fused = tmp_path / "plain.onnx", tmp_path / "fused.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), plain)
    fuse(plain, model, fused)
    image = rng.integers(0, 256, (2, 1, 500, 3), np.uint8)
    (expected,) = run(plain, plain_input(image, BGR))
    index, score, space = run(fused, image)
    best = expected.argmax(axis=2)
    assert 0 in best
    assert len(np.unique(best // 64)) == -(-(classes - 1) // 64)
    np.testing.assert_array_equal(index, best)
    np.testing.assert_allclose(score, expected.max(axis=2), atol=1e-6)
    np.testing.assert_allclose(space, expected[..., -1], atol=1e-6)
    assert "GatherElements" in {node.op_type for node in onnx.load(fused).graph.node}


def test_another_last_layer_is_read_as_well(tmp_path: Path) -> None:
    """Float16 exports end in a Cast; whole blocks cannot be had there."""
    model = RecognitionModel("tiny", BGR, 8, 32, tuple("abcdefg"))
    plain, fused = tmp_path / "plain.onnx", tmp_path / "fused.onnx"
    recogniser(plain)
    made = onnx.load(plain)
    made.graph.node[-1].output[:] = ["probabilities"]
    made.graph.node.append(helper.make_node("Cast", ["probabilities"], ["y"], to=TensorProto.FLOAT))
    onnx.save(made, plain)
    fuse(plain, model, fused)
    image = np.random.default_rng(1).integers(0, 256, (2, 8, 20, 3), np.uint8)
    (expected,) = run(plain, plain_input(image, BGR))
    index, score, space = run(fused, image)
    np.testing.assert_array_equal(index, expected.argmax(axis=2))
    np.testing.assert_allclose(score, expected.max(axis=2), atol=1e-5)
    np.testing.assert_allclose(space, expected[..., -1], atol=1e-5)
    assert "GatherElements" not in {node.op_type for node in onnx.load(fused).graph.node}


def test_not_a_number_is_no_character(tmp_path: Path) -> None:
    """As where a sum overflows float16; the decoder skips what is beyond the characters."""
    model = RecognitionModel("tiny", BGR, 8, 32, tuple("abcdefg"))
    plain, fused = tmp_path / "plain.onnx", tmp_path / "fused.onnx"
    recogniser(plain)
    made = onnx.load(plain)
    made.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.full((24, CLASSES), np.inf, np.float32), "weights")
    )
    onnx.save(made, plain)
    fuse(plain, model, fused)
    index, _, _ = run(fused, np.zeros((1, 8, 20, 3), np.uint8))
    assert (index >= CLASSES).all()


def test_a_recogniser_without_its_softmax_gets_one(tmp_path: Path) -> None:
    model = RecognitionModel("tiny", BGR, 8, 32, tuple("abcdefg"))
    plain, fused, bare = (tmp_path / f"{name}.onnx" for name in ("plain", "fused", "bare"))
    recogniser(plain)
    recogniser(bare, ends=None)
    fuse(bare, model, fused)
    image = np.random.default_rng(1).integers(0, 256, (2, 8, 20, 3), np.uint8)
    (expected,) = run(plain, plain_input(image, BGR))
    _, score, space = run(fused, image)
    np.testing.assert_allclose(score, expected.max(axis=2), atol=1e-5)
    np.testing.assert_allclose(space, expected[..., -1], atol=1e-5)
    verify_parity(fused, bare, model)


def test_a_recogniser_that_ends_in_something_else_is_refused_by_name(tmp_path: Path) -> None:
    model = RecognitionModel("tiny", BGR, 8, 32, tuple("abcdefg"))
    recogniser(tmp_path / "plain.onnx", ends="Relu")
    with pytest.raises(ModelInvalid, match=r"plain\.onnx: ends in Relu, not in the Softmax"):
        fuse(tmp_path / "plain.onnx", model, tmp_path / "fused.onnx")


def test_a_dictionary_without_a_space_has_one_class_less(tmp_path: Path) -> None:
    """As `use_space_char: False` trains it; PaddleX adds the space to the dictionary anyway."""
    model = RecognitionModel("tiny", BGR, 8, 32, ("", *"abcdef", " "))
    plain, fused = tmp_path / "plain.onnx", tmp_path / "fused.onnx"
    recogniser(plain)
    fuse(plain, model, fused)
    image = np.random.default_rng(1).integers(0, 256, (2, 8, 20, 3), np.uint8)
    (expected,) = run(plain, plain_input(image, BGR))
    index, _, space = run(fused, image)
    np.testing.assert_array_equal(index, expected.argmax(axis=2))
    assert not space.any()
    verify_parity(fused, plain, model)


def test_another_class_of_the_same_probability_is_refused(tmp_path: Path) -> None:
    model = RecognitionModel("tiny", BGR, 8, 32, tuple("abcdefg"))
    plain, fused = tmp_path / "plain.onnx", tmp_path / "fused.onnx"
    recogniser(plain)
    fuse(plain, model, fused)
    verify_parity(fused, plain, model)
    wrong = onnx.load(fused)
    (last,) = (node for node in wrong.graph.node if "index" in node.output)
    last.output[:] = ["one_less"]
    wrong.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "step"))
    wrong.graph.node.append(helper.make_node("Add", ["one_less", "step"], ["index"]))
    onnx.save(wrong, fused)
    with pytest.raises(ModelInvalid, match="gives other classes"):
        verify_parity(fused, plain, model)


def test_scores_that_are_no_probabilities_are_refused(tmp_path: Path) -> None:
    """Whatever the form of a graph, what it computes is looked at."""
    model = OrientationModel("tiny", BGR, 8, 32, keep_ratio=False, class_180=1)
    two = numpy_helper.from_array(np.array([[2, 3]], np.float32), "two")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    nodes = [helper.make_node("Identity", ["two"], ["y"])]
    paths = []
    for name, kind in (("plain", TensorProto.FLOAT), ("fused", TensorProto.UINT8)):
        x = helper.make_tensor_value_info("x", kind, ["N", "A", "B", "C"])
        graph = helper.make_graph(nodes, "tiny", [x], [y], [two])
        paths.append(tmp_path / f"{name}.onnx")
        opsets = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), paths[-1])
    plain, fused = paths
    with pytest.raises(ModelInvalid, match=r"no probabilities \(2 to 3\)"):
        verify_parity(fused, plain, model)


@pytest.mark.parametrize(
    ("model", "width", "fix"),
    [
        (DetectionModel("tiny", BGR), 64, r"TextDetection\.input_shape: \[3, 0, 64\]"),
        (RecognitionModel("tiny", BGR, 8, 32, tuple("abcdefg")), 320, "dynamic width"),
    ],
)
def test_a_graph_of_one_size_is_refused_with_the_key(
    tmp_path: Path, model: Model, width: int, fix: str
) -> None:
    recogniser(tmp_path / "plain.onnx", width=width)
    with pytest.raises(ModelInvalid, match=fix):
        check_input_size(tmp_path / "plain.onnx", model)


def test_a_fused_detector_gives_its_map_in_255ths(tmp_path: Path) -> None:
    model: Model = DetectionModel("tiny", RGB)
    plain, fused = tmp_path / "plain.onnx", tmp_path / "fused.onnx"
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1]),
        helper.make_node("Sigmoid", ["mean"], ["map"]),
        helper.make_node("Identity", ["map"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1, "H", "W"])
    graph = helper.make_graph(nodes, "tiny", [x], [y])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), plain)
    fuse(plain, model, fused)
    image = np.random.default_rng(1).integers(0, 256, (1, 8, 20, 3), np.uint8)
    (found,), (wanted,) = run(fused, image), run(plain, plain_input(image, RGB))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, 255 * wanted, atol=0.501)


def test_a_detector_of_another_kind_is_refused(tmp_path: Path) -> None:
    recogniser(tmp_path / "plain.onnx", 17)
    with pytest.raises(ModelInvalid, match="ends in Softmax"):
        fuse(tmp_path / "plain.onnx", DetectionModel("tiny", RGB), tmp_path / "out.onnx")


def test_a_dictionary_of_another_size_is_refused(tmp_path: Path) -> None:
    recogniser(tmp_path / "plain.onnx", 17)
    model = RecognitionModel("tiny", BGR, 8, 32, tuple("abc"))
    with pytest.raises(ModelInvalid, match=r"7 classes, but its inference\.yml 3"):
        fuse(tmp_path / "plain.onnx", model, tmp_path / "out.onnx")


def test_another_kind_of_graph_is_refused(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "flat", [x], [y])
    onnx.save(helper.make_model(graph), tmp_path / "flat.onnx")
    with pytest.raises(ModelInvalid, match="not \\(N, 3, H, W\\)"):
        fuse(tmp_path / "flat.onnx", DetectionModel("flat", RGB), tmp_path / "out.onnx")
