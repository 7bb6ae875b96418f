"""Text that is too small at the scale of its page is found in tiles at a larger scale."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from serving.config.options import Options
from serving.models.probe import draw_text
from serving.ocr.db import Map
from serving.ocr.detect import Detector, larger_scale, tile_spans
from serving.ocr.pipeline import Pipeline
from serving.scores import character_errors
from serving.types import Image

ROWS = 120
TEXTS = [f"Row {row + 100} of the table" for row in range(ROWS)]


@pytest.fixture(scope="module")
def screenshot() -> Image:
    """A long screenshot, 600 x 7200, of numbered rows."""
    page = PillowImage.new("RGB", (600, 60 * ROWS), "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(22)
    for row, text in enumerate(TEXTS):
        pen.text((40, 60 * row + 20), text, "black", font)
    return np.array(page)[:, :, ::-1].copy()


def test_every_row_of_a_long_screenshot_is_read_once(pipeline: Pipeline, screenshot: Image) -> None:
    page = pipeline.read(screenshot)
    middles = [np.mean([y for _, y in line.box]) for line in page.lines]
    assert [round((middle - 30) / 60) for middle in middles] == list(range(ROWS))
    truth, read = "\n".join(TEXTS), "\n".join(line.text for line in page.lines)
    assert character_errors(truth, read)[0] < 0.02 * len(truth)
    assert not page.hint
    without = pipeline.read(screenshot, Options(text_det_tiling=False))
    assert len(without.lines) < ROWS and without.hint


def test_a_strip_is_detected_in_a_bounded_number_of_tiles(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of 2 KB may be as long."""
    calls: list[tuple[int, ...]] = []
    detect = Detector._map

    def counted(self: Detector, fitted: Image) -> Map:
        calls.append(fitted.shape)
        return detect(self, fitted)

    monkeypatch.setattr(Detector, "_map", counted)
    for shape in ((3_000_000, 1, 3), (1, 3_000_000, 3), (40_000, 40, 3)):
        calls.clear()
        pipeline.read(np.full(shape, 255, np.uint8))
        assert len(calls) < 130, shape


def test_the_text_of_a_wide_strip_is_found(pipeline: Pipeline) -> None:
    strip = PillowImage.new("RGB", (12_000, 40), "white")
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(22)
    for index in range(30):
        pen.text((400 * index + 20, 8), f"Invoice {index + 100}", "black", font)
    assert len(pipeline.read(np.array(strip)).lines) >= 29


def test_a_scale_that_the_request_sets_stays(pipeline: Pipeline, screenshot: Image) -> None:
    assert len(pipeline.read(screenshot, Options(text_det_limit_side_len=960)).lines) < ROWS
    both = Options(text_det_limit_side_len=960, text_det_tiling=True)
    assert len(pipeline.read(screenshot, both).lines) == ROWS


def test_ordinary_print_is_not_detected_again(pipeline: Pipeline) -> None:
    page = np.array(draw_text(1600, 1200))
    quads = pipeline.detector.detect(page, Options(text_det_tiling=False)).quads
    assert len(quads)
    assert larger_scale(quads, page, 0.6) == 0


def test_the_scale_brings_small_lines_to_a_good_height() -> None:
    page = np.empty((4000, 3000, 3), np.uint8)
    quad = np.array([[[0, 0], [400, 0], [400, 32], [0, 32]]], np.int32)
    assert larger_scale(quad, page, 0.24) == pytest.approx(0.5)
    assert larger_scale(quad, page, 0.4) == 0  # 12.8 pixels
    nothing = np.empty((0, 4, 2), np.int32)
    assert larger_scale(nothing, page, 0.24) == 1
    assert larger_scale(nothing, page, 0.5) == 0
    huge = np.empty((16000, 12000, 3), np.uint8)
    assert 0 < larger_scale(nothing, huge, 0.06) < 0.3


@pytest.mark.parametrize("length", [32, 959, 960, 961, 1100, 1793, 7484])
def test_tiles_cover_a_side_and_their_halves_of_an_overlap_meet(length: int) -> None:
    spans = tile_spans(length, 960)
    assert spans[0][0] == spans[0][2] == 0
    assert spans[-1][1] == spans[-1][3] == length
    for (_, end, _, last), (start, _, first, _) in pairwise(spans):
        assert last == first
        assert end - start >= 128
        assert start < first < end
