"""The Python API on real models: what is taken, and results used as PaddleX's are."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from benchmarks.corpus import Sample
from serving import OcrPipeline, PageResult, load_pipeline
from serving.errors import ConfigError, EngineError
from serving.scores import character_overlap
from serving.types import Image


@pytest.fixture(scope="module")
def pipeline(repo: Path, built: Path) -> Iterator[OcrPipeline]:
    yaml = repo / "configs" / "PP-OCRv4_mobile.yaml"
    with load_pipeline(yaml, models=built, warm=False) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def pixels(sample_page: Sample) -> Image:
    """The first lines of a page, which are quick to read."""
    return np.ascontiguousarray(sample_page.image[:400])


@pytest.fixture(scope="module")
def picture(pixels: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "page.png"
    PillowImage.fromarray(pixels[..., ::-1]).save(path)
    return path


@pytest.fixture
def result(pipeline: OcrPipeline, picture: Path) -> PageResult:
    (result,) = pipeline.predict(picture)
    return result


def test_it_reads_the_page(result: PageResult, picture: Path, sample_page: Sample) -> None:
    assert len(result.lines) > 3
    truth = [line.text for line in sample_page.lines]
    assert character_overlap(truth, [line.text for line in result.lines]).precision > 0.95
    assert (result.name, result.page_index) == (str(picture), None)


def test_every_kind_of_input_reads_the_same(
    pipeline: OcrPipeline, result: PageResult, picture: Path, pixels: Image
) -> None:
    opened = picture.open("rb")

    def inputs() -> Iterator[object]:
        yield from (picture, str(picture), picture.read_bytes(), opened, pixels)
        with PillowImage.open(picture) as image:
            yield image

    found = list(pipeline.predict(inputs()))  # type: ignore[arg-type]
    opened.close()
    assert [page["rec_texts"] for page in found] == 6 * [result["rec_texts"]]
    names = [*3 * [str(picture)], "image_2", "image_4", "image_5"]
    assert sorted(page.name for page in found) == sorted(names)
    assert [page["input_path"] for page in found[4:]] == [None, None]


def test_a_closed_pipeline_says_so(repo: Path, built: Path, picture: Path) -> None:
    """Also to an iteration that had begun."""
    yaml = repo / "configs" / "PP-OCRv4_mobile.yaml"
    with load_pipeline(yaml, models=built, warm=False) as pipeline:
        begun = pipeline.predict([picture, picture])
        next(begun)
    for results in (begun, pipeline.predict(picture)):
        with pytest.raises(EngineError, match="closed: load it again"):
            list(results)
    with pytest.raises(EngineError, match="closed"):
        pipeline.pipeline.read(np.zeros((64, 64, 3), np.uint8))


def test_no_threads_are_refused(repo: Path, built: Path) -> None:
    with pytest.raises(ConfigError, match="threads is 0: give 1 or more"):
        load_pipeline(repo / "configs/PP-OCRv4_mobile.yaml", models=built, threads=0)


def test_a_result_is_a_dictionary_of_arrays(result: PageResult) -> None:
    assert isinstance(result, dict)
    assert result["rec_texts"] == [line.text for line in result.lines]
    assert result["rec_scores"] == [line.score for line in result.lines]
    boxes = result["rec_boxes"]
    assert boxes.shape == (len(result.lines), 4)
    for quad, line, box in zip(result["rec_polys"], result.lines, boxes, strict=True):
        assert quad.tolist() == [list(point) for point in line.quad]
        assert box.tolist() == [*quad.min(axis=0), *quad.max(axis=0)]
    np.testing.assert_array_equal(result["doc_preprocessor_res"]["output_img"], result.image)


def test_what_is_done_to_it_is_written(result: PageResult, tmp_path: Path) -> None:
    result["rec_texts"][0] = "é"
    assert result.json["res"]["rec_texts"][0] == "é"
    path = result.save_to_json(tmp_path / "deep" / "one.json", indent=1, ensure_ascii=True)
    assert path == tmp_path / "deep" / "one.json"
    assert "\\u00e9" in path.read_text() and json.loads(path.read_text()) == result.json["res"]


def test_the_boxes_are_those_of_the_picture_that_was_read(
    pipeline: OcrPipeline, pixels: Image
) -> None:
    """On a page that was turned upright first."""
    on_its_side = np.ascontiguousarray(np.rot90(pixels))
    (result,) = pipeline.predict(on_its_side, use_doc_orientation_classify=True)
    assert result["doc_preprocessor_res"]["angle"] == 270
    np.testing.assert_array_equal(result["doc_preprocessor_res"]["output_img"], pixels)
    left, top, right, bottom = result["rec_boxes"].T
    assert (right - left > bottom - top).mean() > 0.9
    assert "output_img" not in result.json["res"]["doc_preprocessor_res"]


def test_files_are_named_after_the_input(
    pipeline: OcrPipeline, result: PageResult, pixels: Image, tmp_path: Path
) -> None:
    result.save_all(save_path=tmp_path)
    (tmp_path / "v1.5").mkdir()
    assert result.save_to_img(tmp_path / "v1.5").parent.name == "v1.5"
    assert result.save_to_img(tmp_path / "one.jpg") == tmp_path / "one.jpg"
    (unnamed,) = pipeline.predict(pixels)
    assert unnamed.save_to_json(tmp_path).name == "image_0_res.json"
    names = {"page_res.json", "page_ocr_res_img.png", "one.jpg", "image_0_res.json", "v1.5"}
    assert {path.name for path in tmp_path.iterdir()} == names
    with PillowImage.open(tmp_path / "page_ocr_res_img.png") as drawn:
        assert drawn.size == result.img["ocr_res_img"].size == (2 * result.page.width, drawn.height)


def test_print(result: PageResult, capsys: pytest.CaptureFixture[str]) -> None:
    result.print()
    shown = capsys.readouterr().out
    assert shown.startswith("{'res': {") and "..." in shown
    result.print(json_format=True, indent=1)
    assert json.loads(capsys.readouterr().out) == result.json


def test_a_result_goes_to_another_process(result: PageResult) -> None:
    again = pickle.loads(pickle.dumps(result))
    assert (again.lines, again.json, again.name) == (result.lines, result.json, result.name)
