"""A PDF page's own text, where it is all of the page's text: nothing that is only in a picture.

It parses what callers send, so it runs in a decoder process (`sandbox/worker.py`).
"""

from __future__ import annotations

import ctypes
import math
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium

from serving.imaging.sandbox.protocol import OwnLine

_MAX_CHARACTERS = 100_000
_MAX_HIDDEN = 0.1
"""Of the characters: more that are not painted are the text layer of a scan."""
_MAX_UNKNOWN = 0.02
"""Of the characters: where more map to no Unicode, the font does not tell what it shows."""
_MAX_PICTURES = 0.5
"""Of the page's area: with more it is a scan ..."""
_MIN_CHARACTERS = 200
"""... unless there are so many characters beside the picture or on it."""
_MAX_GAP = 1.5
"""Of a line's height, between two words of one line; columns of a table are further apart."""
_INVISIBLE = (pdfium.FPDF_TEXTRENDERMODE_INVISIBLE, pdfium.FPDF_TEXTRENDERMODE_CLIP)


class _Character(NamedTuple):
    text: str
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels of the page as it is drawn."""
    origin: tuple[int, int]


def own_text(page: pypdfium2.PdfPage, width: int, height: int) -> list[OwnLine] | None:
    """The lines of the page in the PDF's order, or None where the page must be read.

    That is a page without text, under a scan, with text that is not painted or whose characters are
    not known. width, height: of the page as it is drawn, in pixels.
    """
    text_page = page.get_textpage()  # closed with the page
    count = text_page.count_chars()
    if not 0 < count <= _MAX_CHARACTERS:
        return None
    letters = hidden = unknown = 0
    for index in range(count):
        code = pdfium.FPDFText_GetUnicode(text_page, index)
        if pdfium.FPDFText_IsGenerated(text_page, index) or chr(code).isspace():
            continue
        letters += 1
        text_object = pdfium.FPDFText_GetTextObject(text_page, index)
        hidden += pdfium.FPDFTextObj_GetTextRenderMode(text_object) in _INVISIBLE
        unknown += _is_unknown(text_page, index, code)
    pictures = _picture_share(page)
    if (
        letters == 0
        or hidden > _MAX_HIDDEN * letters
        or unknown > _MAX_UNKNOWN * letters
        or (pictures > _MAX_PICTURES and letters < _MIN_CHARACTERS)
    ):
        return None
    return [
        line
        for characters in _lines(page, text_page, count, (width, height))
        for line in _parted(characters)
    ]


def _is_unknown(text_page: Any, index: int, code: int) -> bool:
    if pdfium.FPDFText_IsHyphen(text_page, index) == 1:
        return False
    mapped = pdfium.FPDFText_HasUnicodeMapError(text_page, index) != 1
    return not mapped or code in (0, 0xFFFD) or unicodedata.category(chr(code)) in ("Co", "Cc")


def _picture_share(page: pypdfium2.PdfPage) -> float:
    """Of the page's area, what is under pictures; one that is drawn twice counts twice."""
    left, bottom, right, top = page.get_bbox()
    area: float = 0.0
    for item in page.get_objects(max_depth=1):
        is_form = item.type == pdfium.FPDF_PAGEOBJ_FORM
        inner = page.get_objects([pdfium.FPDF_PAGEOBJ_IMAGE], form=item, level=1)
        if item.type == pdfium.FPDF_PAGEOBJ_IMAGE or (is_form and next(inner, None) is not None):
            x1, y1, x2, y2 = item.get_bounds()
            across, down = min(x2, right) - max(x1, left), min(y2, top) - max(y1, bottom)
            area += max(0.0, across) * max(0.0, down)
    return area / max(1e-6, float((right - left) * (top - bottom)))


def _lines(
    page: pypdfium2.PdfPage, text_page: Any, count: int, size: tuple[int, int]
) -> Iterator[list[_Character]]:
    """The characters of each line, as PDFium parts them."""
    line: list[_Character] = []
    pixel = pypdfium2.PdfPosConv(page, (0, 0, *size, 0)).to_bitmap
    box, x_origin, y_origin = pdfium.FS_RECTF(), ctypes.c_double(), ctypes.c_double()
    for index in range(count):
        text = chr(pdfium.FPDFText_GetUnicode(text_page, index))
        if text in "\r\n":
            yield line
            line = []
            continue
        if pdfium.FPDFText_IsHyphen(text_page, index) == 1:
            text = "-"
        pdfium.FPDFText_GetLooseCharBox(text_page, index, box)
        pdfium.FPDFText_GetCharOrigin(text_page, index, x_origin, y_origin)
        corners = pixel(box.left, box.top), pixel(box.right, box.bottom)
        xs, ys = (sorted(values) for values in zip(*corners, strict=True))
        if not (0 <= sum(xs) <= 2 * size[0] and 0 <= sum(ys) <= 2 * size[1]):
            continue  # beyond the CropBox: nobody sees it
        left, right = (min(max(x, 0), size[0]) for x in xs)
        top, bottom = (min(max(y, 0), size[1]) for y in ys)
        origin = pixel(x_origin.value, y_origin.value)
        line.append(_Character(text, (left, top, right, bottom), origin))
    yield line


def _parted(characters: list[_Character]) -> Iterator[OwnLine]:
    """The words of a line, and where gaps part it into several lines."""
    runs = groupby(characters, key=lambda character: character.text.isspace())
    words = [list(run) for is_space, run in runs if not is_space]
    if not words:
        return
    first, last = words[0][0].origin, words[-1][-1].origin
    turn = _turn(last[0] - first[0], last[1] - first[1])
    line = OwnLine(turn=turn, words=[])
    for word in words:
        boxes = list(zip(*(character.box for character in word), strict=True))
        box = (min(boxes[0]), min(boxes[1]), max(boxes[2]), max(boxes[3]))
        if line["words"] and _gap(line["words"][-1][1], box, turn) > _MAX_GAP:
            yield line
            line = OwnLine(turn=turn, words=[])
        line["words"].append((_text(word), box))
    yield line


def _text(word: list[_Character]) -> str:
    """Surrogates joined, which PDFium has one by one."""
    text = "".join(character.text for character in word)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _turn(across: int, down: int) -> int:
    """Degrees clockwise, a multiple of 90, of a line that runs so."""
    return round(math.degrees(math.atan2(down, across)) / 90) % 4 * 90


def _gap(before: tuple[int, ...], box: tuple[int, ...], turn: int) -> float:
    """Between two words of a line, in heights of the line."""
    axis = 0 if turn % 180 == 0 else 1
    first, second = (before, box) if turn in (0, 90) else (box, before)
    across = 1 - axis
    height = max(1, box[across + 2] - box[across], before[across + 2] - before[across])
    return (second[axis] - first[axis + 2]) / height
