"""Pages as ALTO 4.4, the Library of Congress's XML of layout and text (loc.gov/standards/alto)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from serving.output.layout import baseline, bounds, paragraphs, words, xml_text
from serving.output.pages import ReadPage
from serving.types import Dpi, Line

_NAMESPACE = "http://www.loc.gov/standards/alto/ns-v4#"
_SCHEMA = "http://www.loc.gov/standards/alto/v4/alto-4-4.xsd"


def alto(pages: Sequence[ReadPage]) -> str:
    """All pages as one document, in pixels; what XML forbids in a text becomes U+FFFD."""
    root = Element(
        "alto",
        {
            "xmlns": _NAMESPACE,
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:schemaLocation": f"{_NAMESPACE} {_SCHEMA}",
            "SCHEMAVERSION": "4.4",
        },
    )
    description = SubElement(root, "Description")
    SubElement(description, "MeasurementUnit").text = "pixel"
    # ALTO has no other place for a page's resolution.
    settings: dict[Dpi | None, str] = {}
    for read in pages:
        if read.dpi not in settings:
            settings[read.dpi] = f"processing_{len(settings) + 1}"
            _add_processing(description, settings[read.dpi], read.dpi)
    layout = SubElement(root, "Layout")
    for number, read in enumerate(pages, 1):
        size = {"WIDTH": str(read.page.width), "HEIGHT": str(read.page.height)}
        page = SubElement(
            layout,
            "Page",
            {
                "ID": f"page_{number}",
                "PHYSICAL_IMG_NR": str(number),
                **size,
                "PROCESSINGREFS": settings[read.dpi],
            },
        )
        space = SubElement(page, "PrintSpace", {"HPOS": "0", "VPOS": "0", **size})
        for index, lines in enumerate(paragraphs(read.page.lines), 1):
            _add_block(space, f"{number}_{index}", lines)
    indent(root, " ")
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return head + tostring(root, encoding="unicode") + "\n"


def _add_processing(description: Element, name: str, dpi: Dpi | None) -> None:
    processing = SubElement(description, "Processing", {"ID": name})
    if dpi:
        text = f"dpi: {dpi[0]:g} x {dpi[1]:g}"
        SubElement(processing, "processingStepSettings").text = text
    software = SubElement(processing, "processingSoftware")
    SubElement(software, "softwareName").text = "paddleocr-hpi-serving"


def _add_block(space: Element, name: str, lines: Sequence[Line]) -> None:
    corners = [corner for line in lines for corner in line.quad]
    block = SubElement(space, "TextBlock", {"ID": f"block_{name}", **_place(corners)})
    if lines[0].turn:
        block.set("ROTATION", str(360 - lines[0].turn))  # counter-clockwise
    for index, line in enumerate(lines, 1):
        found = list(words(line))
        if not found:
            continue  # a line must have a String
        points = " ".join(f"{x},{y}" for x, y in baseline(line))
        attributes = {"ID": f"line_{name}_{index}", **_place(line.quad), "BASELINE": points}
        element = SubElement(block, "TextLine", attributes)
        shape = SubElement(element, "Shape")
        SubElement(shape, "Polygon", {"POINTS": " ".join(f"{x},{y}" for x, y in line.quad)})
        for count, word in enumerate(found, 1):
            if count > 1:
                SubElement(element, "SP")
            SubElement(
                element,
                "String",
                {
                    "ID": f"string_{name}_{index}_{count}",
                    **_place(word.box),
                    "CONTENT": xml_text(word.text),
                    "WC": f"{word.score:.4f}",
                },
            )


def _place(corners: Iterable[Sequence[int]]) -> dict[str, str]:
    left, top, right, bottom = bounds(corners)
    values = {"HPOS": left, "VPOS": top, "WIDTH": right - left, "HEIGHT": bottom - top}
    return {name: str(value) for name, value in values.items()}
