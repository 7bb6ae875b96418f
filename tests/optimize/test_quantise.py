"""The int8 variant of a graph reads as the float32 one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from processor import needs_vnni

from serving.config.model import (
    DetectionModel,
    Model,
    Normalisation,
    OrientationModel,
    RecognitionModel,
)
from serving.engines.base import EngineSpec
from serving.engines.factory import open_engine
from serving.errors import EngineError
from serving.optimize.fuse import fuse
from serving.optimize.quantise import _LIMITS, _Limits, quantise
from serving.types import Image

CHARACTERS = tuple("abcdefg")
HEIGHT = 8
BGR = Normalisation(order="BGR")
RECOGNISER = RecognitionModel("tiny", BGR, HEIGHT, 32, CHARACTERS)
WIDE = 3000.0
"""Range of a channel beside others of 1."""


def weights(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def save(
    path: Path, nodes: list[onnx.NodeProto], values: dict[str, np.ndarray], opset: int
) -> None:
    """Of opset 11 as old exports are: the weights are inputs, too."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    given = [numpy_helper.from_array(value, name) for name, value in values.items()]
    inputs = [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in given]
    old = opset == 11
    graph = helper.make_graph(nodes, "tiny", [x, *inputs] if old else [x], [y], given)
    opsets = [helper.make_opsetid("", opset)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=3 if old else 8)
    onnx.save(made, path)


def recogniser(path: Path, opset: int = 17, classes: int = len(CHARACTERS)) -> None:
    """Three large convolutions, of which the second reads one channel of a range of its own, a tiny
    one, and a layer of classes.
    """
    spread = np.ones((1, 32, 1, 1), np.float32)
    spread[0, 0] = WIDE
    second = weights(32, 32, 1, 1)
    second[:, 0] /= WIDE
    values = {
        "first_weights": weights(32, 3, 3, 3) * 2,
        "spread": spread,
        "second_weights": second,
        "third_weights": weights(32, 32, 3, 3) * 2,
        "small_weights": weights(32, 1, 3, 3),
        "class_weights": weights(classes, 32 * HEIGHT).T * 4,
        "shape": np.array([0, -1, 32 * HEIGHT], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "first_weights"], ["first"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["first", "spread"], ["first_spread"]),
        helper.make_node("Relu", ["first_spread"], ["wide"]),
        helper.make_node("Conv", ["wide", "second_weights"], ["second"]),
        helper.make_node("Relu", ["second"], ["second_relu"]),
        helper.make_node("Conv", ["second_relu", "third_weights"], ["third"], pads=[1, 1, 1, 1]),
        helper.make_node(
            "Conv", ["third", "small_weights"], ["small"], pads=[1, 1, 1, 1], group=32
        ),
        helper.make_node("Transpose", ["small"], ["columns"], perm=[0, 3, 1, 2]),
        helper.make_node("Reshape", ["columns", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "class_weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"], axis=2),
    ]
    save(path, nodes, values, opset)


def detector(path: Path) -> None:
    """Two convolutions read the same."""
    values = {name: weights(8, 3, 3, 3) for name in ("left_weights", "right_weights")}
    values["last_weights"] = weights(1, 8, 3, 3) * 0.05  # flat, as most of a page is
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "left_weights"], ["left"], **same),
        helper.make_node("Conv", ["x", "right_weights"], ["right"], **same),
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("Conv", ["sum", "last_weights"], ["last"], **same),
        helper.make_node("Sigmoid", ["last"], ["y"]),
    ]
    save(path, nodes, values, 17)


def images(width: int = 40) -> list[Image]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (HEIGHT, width, 3), np.uint8) for _ in range(16)]


def run(path: Path, image: Image) -> list[np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image[None]})


def fused_and_quantised(plain: Path, model: Model) -> tuple[Path, Path]:
    fused, quantised = plain.with_name("fused.onnx"), plain.with_name("int8.onnx")
    fuse(plain, model, fused)
    quantise(fused, model, images(), quantised)
    return fused, quantised


def integers(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of layers in int8, by the layer's output."""
    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "Constant"]
    return {
        node.output[0].removesuffix("/weights_8"): tuple(node.attribute[0].t.dims)
        for node in nodes
        if node.output[0].endswith("/weights_8")
    }


@pytest.mark.parametrize("opset", [11, 17])
def test_large_layers_that_bear_it_become_int8(tmp_path: Path, opset: int) -> None:
    recogniser(tmp_path / "plain.onnx", opset)
    fused, quantised = fused_and_quantised(tmp_path / "plain.onnx", RECOGNISER)
    shapes = list(integers(quantised).values())
    assert (32, 32, 3, 3) in shapes
    assert (32, 3, 3, 3) in shapes
    assert (32, 32, 1, 1) not in shapes  # of a wide channel, which other channels suffer from
    assert (32, 1, 3, 3) not in shapes  # depthwise
    same, steps = 0, 0
    for image in images(60)[:8]:
        index, score, _ = run(quantised, image)
        expected, expected_score, _ = run(fused, image)
        same, steps = same + int((index == expected).sum()), steps + index.size
        assert np.abs(score - expected_score).mean() < 0.03
    assert same >= 0.95 * steps


def test_wide_channels_and_shifted_means_cost_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All large layers in int8: one step of the wide channel is more than the others ever reach."""
    recogniser(tmp_path / "plain.onnx")

    def loss(*, equalise: bool) -> float:
        limits = _Limits(0.02, 1.0, equalise=equalise)
        monkeypatch.setitem(_LIMITS, RecognitionModel, limits)
        fused, quantised = fused_and_quantised(tmp_path / "plain.onnx", RECOGNISER)
        assert (32, 32, 1, 1) in integers(quantised).values()
        answers = [(run(quantised, image), run(fused, image)) for image in images(60)]
        return float(np.mean([np.abs(read[1] - expected[1]).mean() for read, expected in answers]))

    divided, corrected = loss(equalise=True), loss(equalise=False)
    monkeypatch.setattr(
        "serving.optimize.quantise._with_corrections", lambda _, layers, *__: layers
    )
    neither = loss(equalise=False)
    assert divided < 0.5 * corrected
    assert corrected < 0.8 * neither


def test_layers_with_one_input_share_its_integers(tmp_path: Path) -> None:
    detector(tmp_path / "plain.onnx")
    model = DetectionModel("tiny", BGR)
    fused, quantised = fused_and_quantised(tmp_path / "plain.onnx", model)
    nodes = onnx.load(quantised).graph.node
    layers = len(integers(quantised))
    assert layers >= 2
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) < layers
    image = images()[0]
    (read,), (expected,) = run(quantised, image), run(fused, image)
    assert np.abs(read.astype(int) - expected).mean() < 0.1


@needs_vnni
def test_openvino_computes_the_same(tmp_path: Path) -> None:
    recogniser(tmp_path / "plain.onnx")
    _, quantised = fused_and_quantised(tmp_path / "plain.onnx", RECOGNISER)
    engine = open_engine(quantised, EngineSpec("openvino", "int8"))
    for image in images(60)[:8]:
        (index, score, _), expected = engine.run(image[None]), run(quantised, image)
        assert (index == expected[0]).mean() >= 0.95
        assert np.abs(score - expected[1]).mean() < 0.02


def test_what_cannot_be_quantised_says_so(tmp_path: Path) -> None:
    plain = tmp_path / "plain.onnx"
    recogniser(plain, classes=2)
    classifier = OrientationModel("turned", BGR, HEIGHT, 32, keep_ratio=False, class_180=1)
    with pytest.raises(EngineError, match="turned: int8 is for detectors and recognisers only"):
        quantise(plain, classifier, images(), tmp_path / "int8.onnx")
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1)]
    nodes.append(helper.make_node("Sigmoid", ["mean"], ["y"]))
    save(plain, nodes, {}, 17)
    with pytest.raises(EngineError, match="tiny: no layer keeps its accuracy in int8"):
        fused_and_quantised(plain, DetectionModel("tiny", BGR))
