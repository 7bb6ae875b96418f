"""Markdown: paragraphs, and text that is never a mark."""

from __future__ import annotations

import pytest

from serving.output.markdown import markdown
from serving.output.pages import ReadPage
from serving.types import Line, Page


def page(*texts: str) -> ReadPage:
    """Lines below each other, with a gap where a text is empty."""
    lines = [
        Line(text, 0.9, ((0, y), (100, y), (100, y + 20), (0, y + 20)))
        for y, text in zip(range(0, 1000, 25), texts, strict=False)
        if text
    ]
    return ReadPage(0, 0, 1, Page(200, 1000, tuple(lines)))


def test_paragraphs_and_pages() -> None:
    pages = [page("one", "two", "", "", "three"), page("four")]
    assert markdown(pages) == "one\ntwo\n\nthree\n\n---\n\nfour\n"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("# 5 <b>*x*</b>", "\\# 5 \\<b\\>\\*x\\*\\</b\\>"),
        ("1. first", "1\\. first"),
        ("12) second", "12\\) second"),
        ("1999. a year", "1999\\. a year"),
        ("- item", "\\- item"),
        ("a - b + 1.5 = c", "a - b + 1.5 = c"),
        ("===", "\\==="),
        ("[a](b) `c` d_e", "\\[a\\](b) \\`c\\` d\\_e"),
        ("  indented\x0bcode", "indented code"),
        ("发票", "发票"),
    ],
)
def test_text_is_not_taken_for_marks(text: str, written: str) -> None:
    assert markdown([page(text)]) == f"{written}\n"
