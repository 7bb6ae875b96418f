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
    unclip,
)
from serving.types import QuadArray

PARAMETERS = DbParameters(thresh=0.3, box_thresh=0.6, unclip_ratio=1.5)


def found_in(
    probability: np.ndarray, parameters: DbParameters, *, width: int, height: int
) -> QuadArray:
    found = np.rint(255 * probability).astype(np.uint8)
    return quads_from_map(found, parameters, width=width, height=height)[0]


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
    assert len(found_in(found, few, width=100, height=100)) == 4  # not a contour's number
    one = DbParameters(thresh=0.3, box_thresh=0.6, unclip_ratio=1.5, max_candidates=1)
    dense = np.kron(np.eye(10, dtype=np.float32), np.pad(np.ones((10, 10)), 3))
    dense *= np.linspace(0.7, 1, len(dense))[None]  # from left to right ever likelier
    probabilities = np.rint(255 * dense).astype(np.uint8)
    quads, dropped = quads_from_map(probabilities, one, width=160, height=160)
    assert (len(quads), dropped) == (5, 5)
    assert quads[..., 0].min() > 70


def test_specks_do_not_crowd_out_lines() -> None:
    page = np.zeros((400, 400), np.float32)
    page[4:14, 20:380] = 0.9  # the top row, which PaddleX reaches last
    page[40::2, ::2] = 0.9
    quads = found_in(page, PARAMETERS, width=400, height=400)
    assert len(quads) == 1


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
    corners = np.array([[[10, 20], [0, 20], [0, 0], [10, 0]]], np.float32)
    assert order_corners(corners).tolist() == [[[0, 0], [10, 0], [10, 20], [0, 20]]]


@pytest.mark.parametrize("size", [(200, 30), (30, 200), (40, 40)])
def test_the_top_of_a_box_runs_to_the_right_at_every_angle(size: tuple[int, int]) -> None:
    rects = np.array([[300, 300, *size, angle] for angle in range(-90, 91)], np.float32)
    corners = order_corners(unclip(rects, 1.5))
    top, side = corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0]
    leans = np.abs(np.degrees(np.arctan2(top[:, 1], top[:, 0])))
    is_along = np.hypot(*top.T) > np.hypot(*side.T)
    if size == (40, 40):
        assert (leans <= 45.01).all()
    else:  # a line up to 60 degrees, then a column
        assert (leans[is_along] <= 60.01).all() and 119 <= is_along.sum() <= 121
        assert (leans[~is_along] <= 30.01).all()
    assert (top[:, 0] * side[:, 1] - top[:, 1] * side[:, 0] > 0).all()  # clockwise
