"""Crops: an axis-aligned quad is a view of the page, a slanting one is rectified."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from serving.imaging.crop import crop


@pytest.fixture(scope="module")
def page() -> np.ndarray:
    """Blurred noise: every part of it is different."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
    return cv2.GaussianBlur(noise, (9, 9), 0)


def quad(*corners: tuple[int, int]) -> np.ndarray:
    return np.array(corners, np.int32)


def warped(page: np.ndarray, corners: np.ndarray, width: int, height: int) -> np.ndarray:
    """As the reference's perspective warp, but bilinear."""
    flat = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    turn = cv2.getPerspectiveTransform(corners.astype(np.float32), flat)
    return cv2.warpPerspective(page, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)


def test_an_axis_aligned_quad_is_a_part_of_the_page(page: np.ndarray) -> None:
    corners = quad((20, 30), (150, 30), (150, 50), (20, 50))
    cut, turn = crop(page, corners)
    assert turn == 0
    np.testing.assert_array_equal(cut, page[30:50, 20:150])
    np.testing.assert_array_equal(cut, warped(page, corners, 130, 20))


def test_a_quad_may_touch_the_edge_of_the_page(page: np.ndarray) -> None:
    cut, _ = crop(page, quad((0, 100), (200, 100), (200, 120), (0, 120)))
    np.testing.assert_array_equal(cut, page[100:])


@pytest.mark.parametrize("slope", [-30, -3, 4, 25])
def test_a_slanting_rectangle_is_rectified(page: np.ndarray, slope: int) -> None:
    across = np.array([100, slope])
    down = np.array([-slope, 100]) * 0.2
    start = np.array([50, 50])
    corners = np.rint([start, start + across, start + across + down, start + down])
    cut, turn = crop(page, corners.astype(np.int32))
    length = np.hypot(*across)
    assert turn == 0
    assert cut.shape[:2] == (48, pytest.approx(240, abs=20))
    expected = warped(page, corners, round(length), round(length * 0.2))
    expected = cv2.resize(expected, cut.shape[1::-1]).astype(int)
    assert np.abs(cut - expected).mean() < 6 < np.abs(cut[::-1] - expected).mean()


def test_a_rectified_line_starts_at_the_quads_first_corner(page: np.ndarray) -> None:
    corners = quad((150, 50), (20, 50), (20, 30), (150, 30))  # a line that is upside down
    source = page[31:51, 21:151]  # from the first corner's pixel leftwards and up
    for height in (20, 32, 48):
        cut, _ = crop(page, corners, height)
        expected = cv2.resize(source[::-1, ::-1], (-(-130 * height // 20), height)).astype(int)
        within = slice(2, -2), slice(2, -2)  # at its edges the page goes on
        np.testing.assert_allclose(cut[within], expected[within], atol=3)


def test_the_width_of_a_slanting_line_is_limited() -> None:
    flat = np.zeros((60, 3000, 3), np.uint8)
    cut, _ = crop(flat, quad((2, 10), (2990, 14), (2990, 18), (2, 14)))
    assert cut.shape == (48, 3200, 3)


def test_a_vertical_line_is_rotated(page: np.ndarray) -> None:
    cut, turn = crop(page, quad((20, 10), (40, 10), (40, 100), (20, 100)))
    assert turn == 90
    np.testing.assert_array_equal(cut, np.rot90(page[10:100, 20:40]))


@pytest.mark.parametrize("slope", [3, 8])
def test_a_slanting_vertical_line_is_rotated(page: np.ndarray, slope: int) -> None:
    down, left = np.array([slope, 80]), np.array([-20, slope / 4])
    start = np.array([100, 20])
    corners = np.rint([start + left, start, start + down, start + left + down]).astype(np.int32)
    cut, turn = crop(page, corners, 20)
    assert turn == 90
    # The line starts at the top right and runs down: its top is the right side.
    line = corners[[1, 2, 3, 0]]
    expected = warped(page, line, cut.shape[1], 20).astype(int)
    assert np.abs(cut - expected).mean() < 6 < np.abs(cut[::-1] - expected).mean()


@pytest.mark.parametrize(
    "corners",
    [
        quad((50, 50), (50, 50), (50, 50), (50, 50)),
        quad((20, 30), (150, 30), (150, 30), (20, 30)),
        quad((20, 30), (20, 30), (20, 50), (20, 50)),
    ],
)
def test_a_quad_without_area_gives_an_empty_crop(page: np.ndarray, corners: np.ndarray) -> None:
    assert crop(page, corners)[0].size == 0


def test_beyond_the_page_its_edge_is_repeated(page: np.ndarray) -> None:
    cut, _ = crop(page, quad((-20, -10), (100, -10), (100, 10), (-20, 10)))
    assert cut.shape[0] == 48
    assert np.abs(cut[5, 5].astype(int) - page[0, 0]).max() <= 1
