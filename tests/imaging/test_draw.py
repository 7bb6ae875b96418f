"""Drawn results: boxes on the left, texts on the right."""

from __future__ import annotations

import numpy as np
import pytest

from serving.imaging.draw import draw
from serving.types import Line, Quad

BOX: Quad = ((20, 10), (180, 10), (180, 40), (20, 40))


def page() -> np.ndarray:
    """A light grey page without text."""
    return np.full((120, 200, 3), 200, np.uint8)


def count_ink(sheet: np.ndarray, quad: Quad) -> int:
    """Dark pixels well inside the box of `quad`."""
    (left, top), (right, bottom) = quad[0], quad[2]
    return int((sheet[top + 3 : bottom - 2, left + 3 : right - 2].max(axis=2) < 128).sum())


def test_boxes_on_the_left_texts_on_the_right() -> None:
    image = page()
    drawn = draw(image, [Line("Invoice 发票", 0.9, BOX)])
    assert drawn.shape == (120, 400, 3)
    assert drawn.dtype == np.uint8
    assert (image == 200).all(), "the caller's image is unchanged"
    assert (drawn[:, :200] != image).any(axis=2).sum() > 300
    assert count_ink(drawn[:, :200], BOX) == 0
    assert count_ink(drawn[:, 200:], BOX) > 100


def test_no_lines_is_the_page_beside_white() -> None:
    drawn = draw(page(), [])
    assert (drawn[:, :200] == 200).all()
    assert (drawn[:, 200:] == 255).all()


def test_text_follows_the_line_when_it_is_turned() -> None:
    lines = [Line("LLLL", 0.9, BOX, turn=turn) for turn in (0, 180)]
    columns = [
        np.flatnonzero((draw(page(), [line])[13:38, 223:378].max(axis=2) < 128).any(axis=0))
        for line in lines
    ]
    # Four letters fill less than half of the box, from where the line begins.
    assert columns[0].max() < 90 < columns[1].min()


def test_a_missing_glyph_shows_as_a_box() -> None:
    drawn = draw(page(), [Line("\U0001f600\u0e01", 0.9, BOX)])
    assert count_ink(drawn[:, 200:], BOX) > 20


@pytest.mark.parametrize(
    "quad",
    [
        ((5, 5), (5, 5), (5, 5), (5, 5)),
        ((-50, -20), (90, -20), (90, 10), (-50, 10)),
        ((150, 100), (400, 100), (400, 160), (150, 160)),
        ((500, 500), (600, 500), (600, 520), (500, 520)),
        ((0, 0), (199, 119), (198, 119), (0, 1)),
        ((10, 10), (30, 10), (30, 110), (10, 110)),
    ],
)
@pytest.mark.parametrize("text", ["", "a\nb\tc", "合计" * 200])
def test_any_text_stays_within_any_box(quad: Quad, text: str) -> None:
    drawn = draw(page(), [Line(text, 0.5, quad)])
    assert drawn.shape == (120, 400, 3)
    left, top = np.maximum(np.min(quad, axis=0) - 2, 0)
    right, bottom = np.maximum(np.max(quad, axis=0) + 3, 0)
    changed = drawn != np.hstack([page(), np.full_like(page(), 255)])
    for half in (changed[:, :200], changed[:, 200:]):
        half[top:bottom, left:right] = False
    assert not changed.any()
