"""Reading order, on quads whose order is known and on the texts of rendered pages."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import corpus
from serving.config import load_config
from serving.config.options import Options
from serving.ocr.order import Indices, _Cutter, by_columns, column_order, reading_order
from serving.ocr.pipeline import Pipeline
from serving.plan.load import open_pipeline
from serving.scores import edit_distance
from serving.types import QuadArray

_LAYOUTS = 8
_ROWS = ("one_column", "table-", "labels_and_values")
"""Layouts that are read by rows."""


@pytest.fixture(scope="module")
def pages() -> list[corpus.Sample]:
    """Three of each layout, in both languages."""
    return list(corpus.in_order(seed=2, count=3 * _LAYOUTS))


def turned(quads: QuadArray, degrees: float) -> QuadArray:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.rint(quads @ turn).astype(np.int32) + 300


def error(truth: list[str], read: list[str]) -> float:
    """Normalised edit distance of the whole texts."""
    expected, actual = "\n".join(truth), "\n".join(read)
    return edit_distance(expected, actual) / max(len(expected), len(actual))


@pytest.mark.parametrize("degrees", [-4.0, -0.6, 0.0, 0.6, 4.0])
def test_reading_order_follows_the_skew_of_a_page(degrees: float) -> None:
    """A table at 300 dpi: rows of 40 px every 60 px, whose cells are not equally high."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    cells = []
    for row in range(10):
        for column, (x, rise) in enumerate([(100, 0), (900, 12), (2000, -8)]):
            y, width, height = 100 + 60 * row + rise, 300 - 60 * column, 40 - rise
            corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
            cells.append(np.array(corners) @ turn)
    quads = np.rint(cells).astype(np.int32) + 300
    shuffled = np.random.default_rng(0).permutation(len(quads))
    assert reading_order(quads[shuffled]).tolist() == quads.tolist()


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


@pytest.mark.parametrize("degrees", [-3.0, 0.0, 1.0])
def test_columns_are_read_one_after_the_other_and_tables_row_by_row(
    pages: list[corpus.Sample], degrees: float
) -> None:
    rng = np.random.default_rng(0)
    across = 0.0
    for page in pages:
        quads = turned(np.array([line.quad for line in page.lines]), degrees)
        texts = {quad.tobytes(): line.text for quad, line in zip(quads, page.lines, strict=True)}
        shuffled = quads[rng.permutation(len(quads))]
        by_columns, by_rows = shuffled[column_order(shuffled)], reading_order(shuffled)
        truth = [line.text for line in page.lines]
        read, as_today = (
            [texts[quad.tobytes()] for quad in order] for order in (by_columns, by_rows)
        )
        assert error(truth, read) <= 0.02, page.name
        if page.name.startswith(_ROWS):
            assert read == as_today, page.name
        else:
            across += error(truth, as_today)
    assert across > 10  # in PaddleX's order most of these 15 texts are nonsense


@given(st.lists(st.tuples(*[st.integers(0, 40)] * 3), max_size=60), st.integers(0, 30))
def test_every_line_is_in_it_once(lines: list[tuple[int, int, int]], height: int) -> None:
    boxes = [(20 * x, 10 * y, 20 * (x + width), 10 * y + height) for x, y, width in lines]
    corners = [[[x0, y0], [x1, y0], [x1, y1], [x0, y1]] for x0, y0, x1, y1 in boxes]
    quads = np.array(corners, np.int32).reshape(-1, 4, 2)
    assert sorted(column_order(quads)) == list(range(len(quads)))


def test_a_row_of_short_words_that_lean_each_their_own_way_is_one() -> None:
    """As they were detected on an upright page: their median would tear the row apart."""
    words = [
        [[118, 200], [189, 203], [187, 234], [116, 231]],
        [[619, 197], [675, 205], [669, 242], [614, 234]],
        [[899, 200], [974, 204], [972, 235], [897, 231]],
    ]
    quads = np.array(words, np.int32)
    assert reading_order(quads[[1, 2, 0]]).tolist() == words


def test_headers_and_footers_are_apart_and_columns_may_be_short() -> None:
    def line(x: int, y: int, width: int) -> list[list[int]]:
        return [[x, y], [x + width, y], [x + width, y + 20], [x, y + 20]]

    left = [line(0, 100 + 26 * i + 14 * (i // 4), 400 - 7 * (i % 3)) for i in range(24)]
    right = [line(440, 100 + 26 * i + 14 * (i // 4), 400 - 7 * (i % 2)) for i in range(6)]
    header, footer = [line(0, 0, 120), line(700, 0, 140)], [line(0, 900, 100)]
    quads = np.array([*header, *left, *right, *footer], np.int32)
    shuffled = quads[np.random.default_rng(0).permutation(len(quads))]
    assert shuffled[column_order(shuffled)].tolist() == quads.tolist()


def test_a_table_of_1200_cells_and_boxes_without_height() -> None:
    cells = np.array([quad(60 * x, 30 * y) for y in range(40) for x in range(30)], np.int32)
    assert column_order(cells) == list(range(1200))
    assert sorted(column_order(cells * 0)) == list(range(1200))


def test_many_columns_between_headings_are_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """3000 lines: to judge what is left anew after each cut would take a minute."""
    judged: list[int] = []
    judge = _Cutter._judge

    def counted(self: _Cutter, part: Indices, *others: Any) -> Any:
        judged.append(len(part))
        return judge(self, part, *others)

    monkeypatch.setattr(_Cutter, "_judge", counted)
    boxes: list[tuple[int, int, int, int]] = []
    for y in range(0, 1700 * 30, 30):
        sides = [(0, 1000)] if y % 120 == 90 else [(0, 480), (520, 1000)]
        boxes += [(left, y, right, y + 20) for left, right in sides]
    corners = [[[x0, y0], [x1, y0], [x1, y1], [x0, y1]] for x0, y0, x1, y1 in boxes]
    order = column_order(np.array(corners, np.int32))
    assert order[:8] == [0, 2, 4, 1, 3, 5, 6, 7]
    assert sum(judged) < 3 * len(boxes)


def test_pages_of_columns_are_read_in_order(pipeline: Pipeline) -> None:
    """One of each layout but two and three columns alone: the mixed page has both."""
    for page in islice(corpus.in_order(seed=7, count=_LAYOUTS), 2, None):
        truth = [line.text for line in page.lines]
        lines = pipeline.read(page.image).lines
        default, read = ([line.text for line in order] for order in (lines, by_columns(lines)))
        assert sorted(read) == sorted(default)
        if page.name.startswith(_ROWS):
            assert read == default
        else:
            assert error(truth, read) <= 0.02 < 0.3 < error(truth, default), page.name


def test_the_yaml_sets_the_order_and_a_request_overrides_it(
    pipeline: Pipeline, built: Path, repo: Path, tmp_path: Path
) -> None:
    """On the plan of the same YAML without the key: no engine depends on it."""
    yaml = tmp_path / "columns.yaml"
    text = (repo / "configs/PP-OCRv4_mobile.yaml").read_text(encoding="utf-8")
    yaml.write_text(f"order: columns\n{text}", encoding="utf-8")
    page = next(corpus.in_order(seed=0, count=1)).image
    image = page[: len(page) // 6]
    ordered = open_pipeline(load_config(yaml), models=built, warm=False)
    rows, columns = (pipeline.read(image, Options(order=o)) for o in ("paddlex", "columns"))
    assert rows.lines != columns.lines == by_columns(rows.lines)
    assert ordered.read(image).lines == columns.lines
    assert ordered.read(image, Options(order="paddlex")).lines == rows.lines
    ordered.close()
