"""The fused detector computes the plain one's map, in a form that takes less time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.corpus import Sample
from serving.config import load_config
from serving.config.model import DetectionModel, Normalisation
from serving.errors import ModelInvalid
from serving.models.pipeline_models import pipeline_models
from serving.models.store import Store
from serving.optimize.convolutions import fold_after, fold_before, split_concatenations
from serving.optimize.fuse import fuse, optimize_detector
from serving.optimize.graph import GraphEditor
from serving.optimize.parity import verify_parity
from serving.plan.graphs import Graphs

MODEL = DetectionModel("tiny", Normalisation(order="BGR"))
CHANNELS = 5


class Maker:
    """Nodes one after another, with random weights."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.last = "x"

    def weight(self, *shape: int, positive: bool = False) -> str:
        value = self.rng.normal(size=shape).astype(np.float32) / 2
        value = np.abs(value) + 0.5 if positive else value
        self.weights.append(numpy_helper.from_array(value, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def add(self, kind: str, *more: str, **attributes: object) -> str:
        """A node on the last value."""
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.last, *more], [output], **attributes))
        self.last = output
        return output

    def conv(self, into: int, out: int, side: int = 3) -> str:
        return self.add("Conv", self.weight(out, into, side, side), pads=[side // 2] * 4)

    def enlarge(self, out: int, side: int = 2, stride: int = 2) -> str:
        return self.add(
            "ConvTranspose", self.weight(CHANNELS, out, side, side), strides=[stride] * 2
        )

    def norm(self) -> str:
        sizes = [self.weight(CHANNELS, positive=place in (0, 3)) for place in range(4)]
        return self.add("BatchNormalization", *sizes, epsilon=1e-3)

    def head(self, side: int = 2, stride: int = 2) -> str:
        """Of a DB detector, as paddle2onnx writes it: biases are sums, names are many."""
        self.enlarge(CHANNELS, side, stride)
        self.add("Identity")
        self.add("Add", self.weight(1, CHANNELS, 1, 1))
        self.norm()
        self.add("Relu")
        self.enlarge(1)
        self.add("Add", self.weight(1, 1, 1, 1))
        return self.add("Sigmoid")

    def save(self, path: Path, *, weights_as_inputs: bool = False) -> None:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])
        y = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, ["N", 1, "H", "W"])
        inputs = [x]
        if weights_as_inputs:  # as older converters write them
            inputs += [
                helper.make_tensor_value_info(item.name, item.data_type, item.dims)
                for item in self.weights
            ]
        graph = helper.make_graph(self.nodes, "tiny", inputs, [y], self.weights)
        opsets = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def two_heads(scale: float) -> Maker:
    """The sum of two maps, times `scale`."""
    made = Maker()
    features = made.conv(3, CHANNELS)
    first = made.head()
    made.last = features
    made.head()
    made.add("Add", first)
    made.weights.append(numpy_helper.from_array(np.float32(scale), "scale"))
    made.add("Mul", "scale")
    return made


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def run(path: Path, feed: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: feed})[0])


def compare(folder: Path, made: Maker) -> Counter[str]:
    """The fused graph's operators, once its map is the plain one's."""
    plain, fused = folder / "plain.onnx", folder / "fused.onnx"
    made.save(plain)
    fuse(plain, MODEL, fused)
    image = np.random.default_rng(1).integers(0, 256, (2, 8, 12, 3), np.uint8)
    norm = MODEL.normalisation
    planes = ((image * norm.scale - norm.mean) / norm.std).transpose(0, 3, 1, 2)
    wanted = run(plain, planes.astype(np.float32))
    found = run(fused, image)
    assert (found.shape, found.dtype) == (wanted.shape, np.uint8)
    np.testing.assert_allclose(found, 255 * wanted, atol=0.51)
    assert np.ptp(wanted) > 0.5
    return operators(fused)


def edited(plain: Path, *edits: Callable[[GraphEditor], None]) -> Counter[str]:
    """The operators of a graph so edited, once it computes the same."""
    made = onnx.load(plain)
    editor = GraphEditor(made.graph)
    for change in edits:
        change(editor)
    editor.finish()
    onnx.save(made, plain.with_name("edited.onnx"))
    feed = np.random.default_rng(1).normal(size=(2, 3, 8, 12)).astype(np.float32)
    wanted = run(plain, feed)
    np.testing.assert_allclose(run(plain.with_name("edited.onnx"), feed), wanted, atol=1e-5)
    return operators(plain.with_name("edited.onnx"))


def test_the_head_works_on_the_small_map(tmp_path: Path) -> None:
    made = Maker()
    made.conv(3, CHANNELS)
    made.head()
    found = compare(tmp_path, made)
    assert (found["ConvTranspose"], found["DepthToSpace"], found["Identity"]) == (0, 1, 0)


def test_the_optimized_graph_has_the_inputs_and_outputs_of_the_plain_one(tmp_path: Path) -> None:
    made = Maker()
    made.conv(3, CHANNELS)
    made.head()
    plain, optimized = tmp_path / "plain.onnx", tmp_path / "optimized.onnx"
    made.save(plain)
    optimize_detector(plain, optimized)
    assert operators(optimized)["ConvTranspose"] == 0
    feed = np.random.default_rng(1).normal(size=(2, 3, 8, 12)).astype(np.float32)
    np.testing.assert_allclose(run(optimized, feed), run(plain, feed), atol=1e-5)
    before, after = onnx.load(plain).graph, onnx.load(optimized).graph
    assert (before.input, before.output) == (after.input, after.output)


def test_weights_that_are_no_longer_read_are_no_inputs_either(tmp_path: Path) -> None:
    made = Maker()
    made.conv(3, CHANNELS)
    made.head()
    plain, fused = tmp_path / "plain.onnx", tmp_path / "fused.onnx"
    made.save(plain, weights_as_inputs=True)
    fuse(plain, MODEL, fused)
    session = ort.InferenceSession(str(fused), providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_inputs()] == ["image"]
    assert run(fused, np.zeros((1, 8, 12, 3), np.uint8)).shape == (1, 1, 32, 48)


def test_a_fused_graph_is_held_against_the_models_own(tmp_path: Path) -> None:
    """The second has other weights."""
    plain, fused = tmp_path / "plain.onnx", tmp_path / "fused.onnx"
    for seed in (0, 1):
        made = Maker(seed)
        made.conv(3, CHANNELS)
        made.head()
        made.save(plain)
        if seed == 0:
            fuse(plain, MODEL, fused)
            verify_parity(fused, plain, MODEL)
    with pytest.raises(ModelInvalid, match=r"plain.onnx: .* something else"):
        verify_parity(fused, plain, MODEL)


def test_squares_of_other_sizes(tmp_path: Path) -> None:
    made = Maker()
    made.conv(3, CHANNELS)
    made.head(side=3, stride=3)
    assert compare(tmp_path, made)["ConvTranspose"] == 0


def test_squares_that_overlap_stay_as_they_are(tmp_path: Path) -> None:
    made = Maker()
    made.conv(3, CHANNELS)
    made.head(side=3, stride=2)
    assert compare(tmp_path, made)["ConvTranspose"] == 2


def test_a_gate_that_is_added_to_its_input_is_one_product(tmp_path: Path) -> None:
    made = Maker()
    x = made.conv(3, CHANNELS)
    made.add("GlobalAveragePool")
    made.conv(CHANNELS, CHANNELS, side=1)
    made.add("HardSigmoid")
    made.add("Mul", x)
    made.add("Add", x)
    made.head()
    found = compare(tmp_path, made)
    # One each is of the normalisation, the gate (on a pixel) and the map's bytes.
    assert (found["Add"], found["Mul"]) == (3, 3)


def test_factors_and_offsets_are_in_the_weights(tmp_path: Path) -> None:
    """Layers as PP-LCNetV3 has them: scaled and shifted before and after their activation."""
    made = Maker()

    def act() -> None:
        made.add("Mul", made.weight(1))
        made.add("Add", made.weight(1))
        made.add("HardSwish")
        made.add("Mul", made.weight(1))
        made.add("Identity")
        made.add("Add", made.weight(1, CHANNELS, 1, 1))

    made.conv(3, CHANNELS)
    made.norm()
    act()
    by_channel = made.weight(CHANNELS, 1, 3, 3)
    made.add("Conv", by_channel, made.weight(CHANNELS), group=CHANNELS, pads=[1] * 4)
    act()
    made.conv(CHANNELS, CHANNELS, side=1)
    act()
    made.conv(CHANNELS, CHANNELS)
    made.head()
    found = compare(tmp_path, made)
    # Left are three behind activations, the normalisation and the map's bytes.
    assert (found["Add"], found["Mul"], found["BatchNormalization"]) == (5, 5, 0)
    before = edited(tmp_path / "plain.onnx", fold_after, fold_before)
    # One of the three stood before a convolution without padding; two Adds are the head's.
    assert (before["Add"], before["Mul"]) == (4, 2)


def test_what_another_reads_as_well_stays(tmp_path: Path) -> None:
    made = Maker()
    made.conv(3, CHANNELS)
    shared = made.add("Mul", made.weight(1))
    made.conv(CHANNELS, CHANNELS, side=1)
    made.add("Add", shared)
    made.head()
    found = compare(tmp_path, made)
    # Of the pixels, the one that is shared, and of the map's bytes.
    assert (found["Mul"], found["Conv"]) == (3, 4)


def test_groups_of_channels_are_scaled_as_they_meet_the_weights(tmp_path: Path) -> None:
    made = Maker()
    made.conv(3, 6)
    made.add("HardSwish")
    made.add("Mul", made.weight(6, 1, 1))
    made.add("Add", made.weight(1, 6, 1, 1))
    made.add("Conv", made.weight(4, 3, 1, 1), group=2)
    made.add("Mul", made.weight(4, 1, 1))  # the graph ends in it: nothing reads it
    made.save(tmp_path / "plain.onnx")
    found = edited(tmp_path / "plain.onnx", fold_after, fold_before)
    assert (found["Add"], found["Mul"]) == (0, 1)


def test_a_gelu_stays_whole(tmp_path: Path) -> None:
    """Backends compute one in a single pass only if they find all of it."""
    made = Maker()
    x = made.conv(3, CHANNELS)
    for name, value in (("root", 2**0.5), ("one", 1), ("half", 0.5)):
        made.weights.append(numpy_helper.from_array(np.float32(value), name))
    made.add("Div", "root")
    made.add("Erf")
    made.add("Add", "one")
    made.add("Mul", x)
    made.add("Mul", "half")
    made.conv(CHANNELS, CHANNELS, side=1)
    made.save(tmp_path / "plain.onnx")
    found = edited(tmp_path / "plain.onnx", fold_after, fold_before)
    assert (found["Add"], found["Mul"]) == (1, 2)


@pytest.mark.parametrize(("out", "concatenations"), [(CHANNELS, 0), (CHANNELS + 1, 1)])
def test_a_concatenation_is_split_where_its_sum_writes_half_as_much(
    tmp_path: Path, out: int, concatenations: int
) -> None:
    """The stem of PP-OCRv6's detectors; two parts of CHANNELS each."""
    made = Maker()
    x = made.conv(3, CHANNELS)
    made.add("Relu")
    made.add("MaxPool", kernel_shape=[3, 3], pads=[1] * 4)
    pooled, made.last = made.last, x
    made.conv(CHANNELS, CHANNELS)
    made.add("Concat", pooled, axis=1)
    weights, bias = made.weight(out, 2 * CHANNELS, 3, 3), made.weight(out)
    made.add("Conv", weights, bias, pads=[1] * 4, strides=[2, 2])
    made.save(tmp_path / "plain.onnx")
    found = edited(tmp_path / "plain.onnx", split_concatenations)
    assert (found["Concat"], found["Conv"]) == (concatenations, 4 - concatenations)


def test_a_concatenation_of_one_part_stays(tmp_path: Path) -> None:
    made = Maker()
    made.conv(3, CHANNELS)
    made.add("Concat", axis=1)
    made.conv(CHANNELS, 1)
    made.save(tmp_path / "plain.onnx")
    assert edited(tmp_path / "plain.onnx", split_concatenations)["Concat"] == 1


def test_a_concatenation_that_another_reads_stays(tmp_path: Path) -> None:
    made = Maker()
    x = made.conv(3, CHANNELS)
    made.conv(CHANNELS, CHANNELS)
    both = made.add("Concat", x, axis=1)
    made.conv(2 * CHANNELS, 1)
    small, made.last = made.last, both
    made.conv(2 * CHANNELS, 1)
    made.add("Add", small)
    made.add("Concat", both, axis=1)
    made.save(tmp_path / "plain.onnx")
    assert edited(tmp_path / "plain.onnx", split_concatenations)["Concat"] == 2


def test_a_branch_reads_weights_by_their_new_names(tmp_path: Path) -> None:
    made = Maker()
    made.conv(3, CHANNELS)
    features = made.last
    weight = made.weight(CHANNELS, 1, 1)
    made.weights.append(numpy_helper.from_array(np.array(True), "always"))
    branches = {}
    for name, kind in (("then_branch", "Mul"), ("else_branch", "Add")):
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        node = helper.make_node(kind, [features, weight], ["y"])
        branches[name] = helper.make_graph([node], name, [], [y])
    made.nodes.append(helper.make_node("If", ["always"], ["chosen"], **branches))
    made.last = "chosen"
    made.head()
    assert compare(tmp_path, made)["If"] == 1


def test_a_server_models_mean_of_two_maps_stays_as_it_is(tmp_path: Path) -> None:
    """PFHeadLocal of PP-OCRv4_server_det and PP-OCRv5_server_det."""
    assert compare(tmp_path, two_heads(0.5))["Sigmoid"] == 2


def test_a_sum_of_two_probabilities_is_refused(tmp_path: Path) -> None:
    """It looks like the mean of two, and is none."""
    two_heads(1.0).save(tmp_path / "plain.onnx")
    with pytest.raises(ModelInvalid, match="not in the Sigmoid"):
        fuse(tmp_path / "plain.onnx", MODEL, tmp_path / "out.onnx")


def test_a_map_that_is_no_probability_is_refused(tmp_path: Path) -> None:
    made = Maker()
    made.conv(3, 1)
    made.add("Mul", made.weight(1))
    made.save(tmp_path / "plain.onnx")
    with pytest.raises(ModelInvalid, match="ends in Mul, not in the Sigmoid"):
        fuse(tmp_path / "plain.onnx", MODEL, tmp_path / "out.onnx")


def test_the_real_detector_is_rewritten_and_finds_the_same(
    built: Path, model_store: Store, repo: Path, sample_page: Sample
) -> None:
    found = pipeline_models(load_config(repo / "configs/PP-OCRv4_mobile.yaml"), built)
    (part,) = (part for part in found if part.section == "TextDetection")
    graphs = Graphs(built)
    fused = graphs.find(part.folder, part.model)
    assert operators(fused)["ConvTranspose"] == 0
    page = cv2.resize(sample_page.image, (320, 480))[None]
    norm = part.model.normalisation
    planes = (page * norm.scale - np.array(norm.mean)) / np.array(norm.std)
    (plain,) = (built / "engines" / "onnx").glob("PP-OCRv4_mobile_det-*.onnx")
    wanted = run(plain, planes.transpose(0, 3, 1, 2).astype(np.float32))
    np.testing.assert_allclose(run(fused, page), 255 * wanted, atol=1)
    assert (wanted > 0.5).sum() > 1000
