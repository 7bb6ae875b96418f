"""Pages as hOCR 1.2: XHTML with place and confidence of every word (kba.github.io/hocr-spec)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from serving.output.layout import baseline, bounds, paragraphs, words, xml_text
from serving.output.pages import ReadPage
from serving.types import Line

_DOCTYPE = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" '
    '"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">\n'
)
_CAPABILITIES = "ocr_page ocr_par ocr_line ocrx_word ocrp_wconf"


def hocr(pages: Sequence[ReadPage]) -> str:
    """All pages as one document; what XML forbids in a text becomes U+FFFD."""
    html = Element("html", {"xmlns": "http://www.w3.org/1999/xhtml", "lang": "", "xml:lang": ""})
    head = SubElement(html, "head")
    SubElement(head, "title")
    for name, content in (
        ("ocr-system", "paddleocr-hpi-serving"),
        ("ocr-capabilities", _CAPABILITIES),
        ("ocr-number-of-pages", str(len(pages))),
    ):
        SubElement(head, "meta", {"name": name, "content": content})
    body = SubElement(html, "body")
    for number, read in enumerate(pages, 1):
        title = f"bbox 0 0 {read.page.width} {read.page.height}; ppageno {number - 1}"
        if read.dpi:
            title += f"; scan_res {read.dpi[0]:.0f} {read.dpi[1]:.0f}"
        page = _part(body, "div", "ocr_page", f"page_{number}", title)
        for index, lines in enumerate(paragraphs(read.page.lines), 1):
            name = f"{number}_{index}"
            corners = [corner for line in lines for corner in line.quad]
            paragraph = _part(page, "p", "ocr_par", f"par_{name}", _bbox(corners))
            for count, line in enumerate(lines, 1):
                _add_line(paragraph, f"{name}_{count}", line)
    indent(html, " ")
    return _DOCTYPE + tostring(html, encoding="unicode") + "\n"


def _add_line(paragraph: Element, name: str, line: Line) -> None:
    found = list(words(line))
    if not found:
        return
    title = _bbox(line.quad)
    if line.turn:
        title += f"; textangle {360 - line.turn}"  # counter-clockwise
    else:
        (x, y), (end_x, end_y) = baseline(line)
        left, _, _, bottom = bounds(line.quad)
        slope = (end_y - y) / max(1, end_x - x)
        title += f"; baseline {slope:.3f} {y - slope * (x - left) - bottom:.0f}"
    element = _part(paragraph, "span", "ocr_line", f"line_{name}", title)
    for index, word in enumerate(found, 1):
        confidence = f"{_bbox(word.box)}; x_wconf {round(100 * word.score)}"
        part = _part(element, "span", "ocrx_word", f"word_{name}_{index}", confidence)
        part.text = xml_text(word.text)


def _part(parent: Element, tag: str, kind: str, name: str, title: str) -> Element:
    return SubElement(parent, tag, {"class": kind, "id": name, "title": title})


def _bbox(corners: Iterable[Sequence[int]]) -> str:
    return "bbox " + " ".join(map(str, bounds(corners)))
