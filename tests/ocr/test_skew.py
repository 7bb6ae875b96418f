"""Skewed pages are turned back before their lines are sought, and boxes are on the page as sent."""

from __future__ import annotations

from itertools import islice
from math import degrees, radians

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageDraw

from benchmarks import corpus
from benchmarks.corpus.fonts import CHINESE, load_font
from serving.config.options import Options
from serving.imaging.crop import crop
from serving.ocr.pipeline import Pipeline
from serving.ocr.skew import skew, turn_back, turned_size
from serving.scores import character_errors
from serving.types import Image, Page, QuadArray

COLUMN = "国破山河在城春草木深感时花溅泪恨别鸟惊心"
AS_IS = Options(text_det_deskew=False)


@pytest.fixture(scope="module")
def pages() -> list[Image]:
    """An English letter and a Chinese receipt.

    Clean ones: a degraded page that is hardly legible reads differently at every angle.
    """
    letter, receipt = islice(corpus.pages(seed=7, count=7), 0, None, 6)
    return [letter.image, receipt.image]


@pytest.fixture(scope="module")
def upright(pipeline: Pipeline, pages: list[Image]) -> list[Page]:
    """What is read on each of the pages as it was drawn."""
    return [pipeline.read(page) for page in pages]


def skewed(page: Image, angle: float) -> Image:
    """The whole page, turned clockwise by so many degrees, on white."""
    height, width = page.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -angle, 1)
    size = np.abs(matrix[:, :2]) @ (width, height)
    matrix[:, 2] += (size - (width, height)) / 2
    white = (255, 255, 255)
    turned = cv2.warpAffine(
        page, matrix, size.astype(int).tolist(), flags=cv2.INTER_CUBIC, borderValue=white
    )
    return np.asarray(turned, np.uint8)


def error_rate(page: Page, upright: Page) -> float:
    """Of all characters of the page in reading order, against the upright page."""
    texts = ["\n".join(line.text for line in of.lines) for of in (upright, page)]
    return character_errors(*texts)[0] / len(texts[0])


@pytest.mark.parametrize("angle", [-40, 5, 15, 30])
def test_a_skewed_page_reads_as_the_upright_one(
    pipeline: Pipeline, pages: list[Image], upright: list[Page], angle: int
) -> None:
    rates = [
        error_rate(pipeline.read(skewed(page, angle)), as_drawn)
        for page, as_drawn in zip(pages, upright, strict=True)
    ]
    assert np.mean(rates) < 0.05
    if abs(angle) >= 30:
        assert error_rate(pipeline.read(skewed(pages[0], angle), AS_IS), upright[0]) > 0.1


def test_an_upright_page_is_read_as_it_is(
    pipeline: Pipeline, pages: list[Image], upright: list[Page]
) -> None:
    assert [pipeline.read(page, AS_IS) for page in pages] == upright


def test_a_page_on_its_side_and_skewed_reads_too(
    pipeline: Pipeline, pages: list[Image], upright: list[Page]
) -> None:
    page = pipeline.read(skewed(np.rot90(pages[1], -1), 10))
    assert page.angle == 90
    assert error_rate(page, upright[1]) < 0.05


def test_boxes_are_on_the_page_as_it_was_sent(pipeline: Pipeline, pages: list[Image]) -> None:
    """A crop of the sent page inside a box reads as the line, from the line's own top left."""
    sent = skewed(pages[1], 20)
    lines = [line for line in pipeline.read(sent).lines if len(line.text) > 8]
    assert lines
    for line in lines:
        (left, top), (right, bottom) = line.box[0], line.box[1]
        assert degrees(np.arctan2(bottom - top, right - left)) == pytest.approx(20, abs=3)
        read = pipeline.recogniser.read(crop(sent, np.array(line.quad, np.int32))[0]).text
        assert character_errors(line.text, read)[0] <= 0.1 * len(line.text) + 1


@pytest.mark.parametrize("angle", [-8, 3, 12])
def test_a_lone_column_that_leans_is_read_as_one_line(pipeline: Pipeline, angle: int) -> None:
    """Turned back, it keeps space around it: at the edge it would fall apart into characters."""
    picture = PillowImage.new("RGB", (80, 800), "white")
    pen, font = ImageDraw.Draw(picture), load_font(CHINESE[0], 34)
    for row, character in enumerate(COLUMN):
        pen.text((20, 20 + 38 * row), character, "black", font)
    page = pipeline.read(skewed(np.array(picture), angle), Options(use_textline_orientation=False))
    assert "".join(line.text for line in page.lines) == COLUMN
    assert len(page.lines) == 1


def test_a_page_of_more_than_50_megapixels_is_read_as_it_is(
    pipeline: Pipeline, pages: list[Image]
) -> None:
    """It must not take three times its memory."""
    part = skewed(pages[0], 12)
    whole = np.tile(part, (50_000_000 // part.size + 2, 4, 1))
    asked = Options(text_det_limit_side_len=4000, text_det_limit_type="max", text_det_tiling=False)
    assert pipeline.detector.detect(part, asked).to_page is not None
    assert pipeline.detector.detect(whole, asked).to_page is None


def test_a_strip_whose_corners_would_take_many_times_its_memory_is_read_as_it_is(
    pipeline: Pipeline, pages: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    part = skewed(pages[0], 12)
    strip = np.tile(part, (1, 8, 1))
    asked = Options(text_det_limit_side_len=4000, text_det_limit_type="max", text_det_tiling=False)
    for page, is_turned in ((part, True), (strip, False)):
        monkeypatch.setattr("serving.ocr.detect._MAX_TURNED", 2 * page.size / 3)
        assert (pipeline.detector.detect(page, asked).to_page is not None) == is_turned
    turned, _ = turn_back(part, radians(12))
    assert turned.shape[:2] == pytest.approx(turned_size(part, radians(12)), abs=1)


def quads(angle: float, count: int, length: int = 200, height: int = 20) -> QuadArray:
    """Lines below each other on a page that is skewed by so many degrees."""
    cos, sin = np.cos(radians(angle)), np.sin(radians(angle))
    line = np.array([(0, 0), (length, 0), (length, height), (0, height)])
    lines = 300 + np.stack([line + np.array([0, 2 * height * row]) for row in range(count)])
    return np.rint(lines @ np.array([[cos, sin], [-sin, cos]])).astype(np.int32)


@pytest.mark.parametrize("angle", [-44, -10, -1, 0, 3, 25, 44])
def test_the_skew_is_the_direction_of_most_lines(angle: float) -> None:
    lines = quads(angle, 6)
    assert degrees(skew(lines) or 0) == pytest.approx(angle, abs=0.5)
    others = np.concatenate([lines, quads(angle + 40, 2), quads(0, 9, length=25)])
    assert degrees(skew(others) or 0) == pytest.approx(angle, abs=0.5)
    upwards = np.roll(lines[:, :, ::-1] * (-1, 1) + (800, 0), 1, axis=1)
    assert degrees(skew(upwards) or 0) == pytest.approx(angle, abs=0.5)


def test_lines_in_many_directions_have_no_skew() -> None:
    assert skew(np.concatenate([quads(angle, 2) for angle in range(-40, 41, 10)])) is None
    assert skew(quads(20, 30, length=25)) is None  # single characters
    watermarks = np.concatenate([quads(-44, 8), quads(0, 2)])
    assert skew(watermarks) is None
    assert skew(np.empty((0, 4, 2), np.int32)) is None


def test_a_page_turned_back_keeps_its_scale_and_all_of_its_lines() -> None:
    page = np.full((500, 800, 3), 255, np.uint8)
    lines = quads(12, 4, length=300)
    cv2.fillPoly(page, list(lines), (0, 0, 0))
    turned, affine = turn_back(page, radians(12), around=lines)
    assert turned.shape[0] < page.shape[0] and turned.shape[1] < page.shape[1]
    dark = np.count_nonzero(turned < 128), np.count_nonzero(page < 128)
    assert dark[0] == pytest.approx(dark[1], rel=0.02)
    assert (turned[:, :, 0] < 128).any(axis=1).sum() == pytest.approx(4 * 21, abs=6)
    assert np.linalg.det(affine[:, :2]) == pytest.approx(1)
