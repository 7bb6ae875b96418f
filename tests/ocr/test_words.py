"""Words of a line: how they are parted, and that their boxes stand on the printed words."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.corpus.fonts import LATIN, load_font
from serving.config.options import Options
from serving.ocr.pipeline import Pipeline
from serving.ocr.words import Span, word_on_page, word_spans
from serving.output.paddlex import pruned_result

WANTED = Options(return_word_box=True)


def words(text: str) -> list[str]:
    steps = range(0, 2 * len(text), 2)
    return [span.text for span in word_spans(text, steps, 2 * len(text), [1.0] * 2 * len(text))]


@pytest.mark.parametrize(
    ("text", "parted"),
    [
        ("", []),
        ("Hello World", ["Hello", " ", "World"]),
        ("VGG-16 is 1.25.", ["VGG-16", " ", "is", " ", "1.25", "."]),
        ("-5 a- b", ["-", "5", " ", "a-", " ", "b"]),
        ("总计12元", ["总", "计", "12", "元"]),
        ("£ (net)", ["£ (", "net", ")"]),
        ("café à Köln", ["café", " ", "à", " ", "Köln"]),
        ("cafe\u0301 noir", ["cafe\u0301", " ", "noir"]),
        ("Привет, мир", ["Привет", ", ", "мир"]),
        ("東京タワー3F", ["東", "京", "タ", "ワ", "ー", "3F"]),
    ],
)
def test_a_line_is_split_into_words(text: str, parted: list[str]) -> None:
    assert words(text) == parted


def test_a_word_spans_its_steps_and_no_more_than_the_line() -> None:
    scores = [0.0, 0.9, 0.0, 0.7, 0.0, 0.5, 0.0, 0.0, 0.6]
    assert word_spans("ab c", [1, 3, 5, 8], 8, scores) == [
        Span("ab", 1 / 8, 4 / 8, pytest.approx(0.8)),
        Span(" ", 5 / 8, 6 / 8, 0.5),
        Span("c", 1.0, 1.0, 0.6),
    ]


def test_chinese_characters_are_as_wide_as_they_stand_apart() -> None:
    assert word_spans("总计元", [0, 4, 8], 10, [1.0] * 10) == [
        Span("总", 0.0, (0.5 + 2.25) / 10, 1.0),
        Span("计", (4.5 - 2.25) / 10, (4.5 + 2.25) / 10, 1.0),
        Span("元", (8.5 - 2.25) / 10, 1.0, 1.0),
    ]


def test_a_word_follows_its_line_across_the_page() -> None:
    down = ((10, 0), (10, 100), (0, 100), (0, 0))  # the line runs down
    assert word_on_page(Span("w", 0.25, 0.5), down).box == ((10, 25), (10, 50), (0, 50), (0, 25))


def printed(text: str) -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """A page with one line, and where each of its words begins and ends in x.

    Words parted by more than a space: this recogniser drops many spaces.
    """
    font = load_font(LATIN[0], 40)
    page = Image.new("RGB", (900, 160), "white")
    ImageDraw.Draw(page).text((60, 50), text, font=font, fill="black")
    found, start = [], 0
    for word in re.findall(r"[A-Za-z0-9.]+", text):
        start = text.index(word, start)
        left = 60 + font.getlength(text[:start])
        found.append((word, left, left + font.getlength(word)))
        start += len(word)
    return np.asarray(page)[:, :, ::-1].copy(), found


@pytest.mark.parametrize("upside_down", [False, True])
def test_boxes_stand_on_the_printed_words(pipeline: Pipeline, upside_down: bool) -> None:
    page, known = printed("Invoice: 20714 / 1832.50 (paid)")
    if upside_down:
        page = np.ascontiguousarray(page[::-1, ::-1])
    (line,) = pipeline.read(page, WANTED).lines
    assert "".join(word.text for word in line.words) == line.text
    boxes = {word.text: word.box for word in line.words}
    for word, left, right in known:
        xs = [x for x, _ in boxes[word]]
        if upside_down:
            xs = [900 - x for x in xs]
            assert boxes[word][0][0] > boxes[word][1][0]  # from the word's own top left
        assert min(xs) == pytest.approx(left, abs=15)
        assert max(xs) == pytest.approx(right, abs=15)


def test_words_come_only_when_asked_for(pipeline: Pipeline) -> None:
    page, _ = printed("Total 17")
    plain = pipeline.read(page)
    assert plain.lines[0].words == ()
    assert "text_word" not in pruned_result(plain, pipeline.settings())
    asked = pruned_result(pipeline.read(page, WANTED), pipeline.settings(WANTED))
    assert asked["return_word_box"] is True
    assert asked["text_word"] == [["Total", " ", "17"]]
    assert [len(box) for box in asked["text_word_boxes"][0]] == [4, 4, 4]
