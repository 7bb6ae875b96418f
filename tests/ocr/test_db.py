"""DB post-processing, on maps whose answer is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.ocr.db import (
    DbParameters,
    order_corners,
    quads_from_map,
    reading_order,
    unclip,
)
from serving.types import QuadArray

PARAMETERS = DbParameters(thresh=0.3, box_thresh=0.6, unclip_ratio=1.5)


def found_in(
    probability: np.ndarray, parameters: DbParameters, *, width: int, height: int
) -> QuadArray:
    found = np.rint(255 * probability).astype(np.uint8)
    return quads_from_map(found, parameters, width=width, height=height)


def blob(value: float = 0.9) -> np.ndarray:
    found = np.zeros((96, 320), np.float32)
    found[40:60, 100:200] = value
    return found


def test_a_blob_becomes_a_grown_box_in_page_pixels() -> None:
    quads = found_in(blob(), PARAMETERS, width=640, height=192)
    # The blob's outline is 99 x 19; it grows by 99 * 19 * 1.5 / (2 * 118) = 11.96 on each side.
    assert quads.tolist() == [[[176, 56], [422, 56], [422, 142], [176, 142]]]


def test_faint_and_tiny_blobs_are_no_text() -> None:
    assert len(found_in(blob(0.5), PARAMETERS, width=320, height=96)) == 0
    speck = np.zeros((96, 320), np.float32)
    speck[10:12, 10:13] = 1
    assert len(found_in(speck, PARAMETERS, width=320, height=96)) == 0
    assert found_in(speck * 0, PARAMETERS, width=320, height=96).shape == (0, 4, 2)


def test_boxes_stay_on_the_page() -> None:
    found = np.zeros((64, 64), np.float32)
    found[0:20, 0:64] = 1
    quads = found_in(found, PARAMETERS, width=64, height=64)
    assert quads.min() >= 0
    assert quads.max() <= 64


def test_candidates_are_bounded() -> None:
    found = np.kron(np.eye(8, dtype=np.float32), np.ones((8, 8), np.float32) * 0.9)
    found = np.pad(np.kron(np.eye(4), np.pad(np.ones((10, 10)), 6)), 4).astype(np.float32)
    few = DbParameters(thresh=0.3, box_thresh=0.6, unclip_ratio=1.5, max_candidates=2)
    assert len(found_in(found, PARAMETERS, width=100, height=100)) == 4
    assert len(found_in(found, few, width=100, height=100)) == 2


@given(st.floats(20, 200), st.floats(6, 60), st.floats(-89, 89), st.floats(0.5, 3))
def test_unclip_moves_every_side_out_by_area_times_ratio_over_perimeter(
    width: float, height: float, angle: float, ratio: float
) -> None:
    rect = np.array([[300, 300, width, height, angle]], np.float32)
    (corners,) = unclip(rect, ratio)
    distance = width * height * ratio / (2 * (width + height))
    (_, size, _) = cv2.minAreaRect(corners.astype(np.float32))
    grown = sorted((width + 2 * distance, height + 2 * distance))
    assert sorted(size) == pytest.approx(grown, rel=2e-3, abs=0.1)
    assert corners.mean(axis=0) == pytest.approx([300, 300], abs=0.01)


def test_corners_run_clockwise_from_the_top_left() -> None:
    corners = np.array([[[10, 20], [10, 0], [0, 20], [0, 0]]], np.float32)
    assert order_corners(corners).tolist() == [[[0, 0], [10, 0], [10, 20], [0, 20]]]


def quad(x: int, y: int) -> list[list[int]]:
    return [[x, y], [x + 10, y], [x + 10, y + 8], [x, y + 8]]


def test_reading_order_is_rows_then_columns() -> None:
    quads = np.array([quad(200, 104), quad(0, 300), quad(10, 108), quad(100, 100)], np.int32)
    ordered = reading_order(quads)
    assert ordered[:, 0].tolist() == [[10, 108], [100, 100], [200, 104], [0, 300]]


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=30))
def test_reading_order_is_the_reference_bubble(points: list[tuple[int, int]]) -> None:
    """The rule as PaddleX states it: swap with the row's neighbour while it is right of us."""
    quads = np.array([quad(x, y) for x, y in points], np.int32).reshape(-1, 4, 2)
    expected = sorted((q.tolist() for q in quads), key=lambda q: (q[0][1], q[0][0]))
    for i in range(len(expected) - 1):
        for j in range(i, -1, -1):
            (x1, y1), (x0, y0) = expected[j + 1][0], expected[j][0]
            if not (abs(y1 - y0) < 10 and x1 < x0):
                break
            expected[j], expected[j + 1] = expected[j + 1], expected[j]
    assert reading_order(quads).tolist() == expected
