"""hOCR and ALTO: what their specifications ask for, on lines of every direction and any text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from benchmarks.corpus import Sample
from serving.config.options import Options
from serving.output.alto import alto
from serving.output.hocr import hocr
from serving.output.layout import paragraphs, words
from serving.output.pages import ReadPage
from serving.types import Line, Page, Quad, Word

XHTML = "{http://www.w3.org/1999/xhtml}"
ALTO = "{http://www.loc.gov/standards/alto/ns-v4#}"
EVIL = "a<b>&\"'\x00\x0b\x1f\ufffe\ud800 ]]>字\U0001f600"


def rectangle(left: int, top: int, right: int, bottom: int) -> Quad:
    return (left, top), (right, top), (right, bottom), (left, bottom)


def line(text: str, quad: Quad, turn: int = 0) -> Line:
    return Line(text, 0.9, quad, turn)


def pages() -> list[ReadPage]:
    """A page with every kind of line, an empty one, and one of a second document."""
    every = Page(
        400,
        300,
        (
            line("first line", rectangle(10, 10, 110, 30)),
            line("second", rectangle(10, 35, 70, 55)),
            line("up wards", rectangle(200, 10, 220, 110), turn=270),
            line("down", rectangle(240, 10, 260, 110), turn=90),
            line("over", rectangle(300, 10, 380, 30), turn=180),
            line(EVIL, ((10, 100), (110, 110), (108, 130), (8, 120))),
            line("   ", rectangle(10, 200, 60, 220)),
        ),
    )
    return [
        ReadPage(0, 0, 3, every, (300.0, 300.0)),
        ReadPage(0, 1, 3, Page(400, 300), (300.0, 300.0)),
        ReadPage(1, 0, 3, Page(50, 20, (line("x", rectangle(1, 1, 20, 18)),))),
    ]


def parsed(text: str) -> Element:
    return ElementTree.fromstring(text.encode())


def of_class(root: Element, kind: str) -> list[Element]:
    return [element for element in root.iter() if element.get("class") == kind]


def properties(element: Element) -> dict[str, str]:
    parts = (part.strip().partition(" ") for part in element.get("title", "").split(";"))
    return {name: value for name, _, value in parts}


def test_hocr_has_pages_lines_and_words_with_their_places() -> None:
    root = parsed(hocr(pages()))
    found = [properties(page) for page in of_class(root, "ocr_page")]
    assert [page["bbox"] for page in found] == ["0 0 400 300", "0 0 400 300", "0 0 50 20"]
    assert [page.get("scan_res") for page in found] == ["300 300", "300 300", None]
    assert [page["ppageno"] for page in found] == ["0", "1", "2"]
    texts = [
        [word.text for word in of_class(element, "ocrx_word")]
        for element in of_class(root, "ocr_line")
    ]
    assert texts[:5] == [["first", "line"], ["second"], ["up", "wards"], ["down"], ["over"]]
    word = properties(of_class(root, "ocrx_word")[1])
    assert word == {"bbox": "70 10 110 30", "x_wconf": "90"}
    angles = [properties(element).get("textangle") for element in of_class(root, "ocr_line")]
    assert angles[:5] == [None, None, "90", "270", "180"]
    slope, offset = map(float, properties(of_class(root, "ocr_line")[5])["baseline"].split())
    assert (slope, offset) == (0.1, -14)
    names = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(names) == len(set(names))
    capabilities = next(
        meta.get("content", "")
        for meta in root.iter(f"{XHTML}meta")
        if meta.get("name") == "ocr-capabilities"
    )
    used = {element.get("class") for element in root.iter() if element.get("class")}
    assert used <= set(capabilities.split())


def test_a_line_of_white_space_alone_is_left_out() -> None:
    blank = Line(" ", 0.9, ((0, 0), (50, 0), (50, 20), (0, 20)))
    made = hocr([ReadPage(0, 0, 1, Page(100, 100, (blank,)))])
    assert "ocr_page" in made and "ocr_line'" not in made and 'class="ocr_line"' not in made


def test_text_is_escaped_and_what_xml_forbids_is_replaced() -> None:
    safe = {"a<b>&\"'\ufffd", "\ufffd\ufffd", "]]>字\U0001f600"}  # two of these are white space
    html, xml = parsed(hocr(pages())), parsed(alto(pages()))
    assert safe <= {word.text for word in of_class(html, "ocrx_word")}
    assert safe <= {string.get("CONTENT") for string in xml.iter(f"{ALTO}String")}
    assert "<b>" not in hocr(pages())


def test_alto_keeps_the_rules_of_its_schema() -> None:
    root = parsed(alto(pages()))
    check_alto(root)
    found = list(root.iter(f"{ALTO}Page"))
    assert [page.get("PHYSICAL_IMG_NR") for page in found] == ["1", "2", "3"]
    assert [page.get("WIDTH") for page in found] == ["400", "400", "50"]
    settings = {
        processing.get("ID"): processing.findtext(f"{ALTO}processingStepSettings")
        for processing in root.iter(f"{ALTO}Processing")
    }
    resolutions = [settings[page.get("PROCESSINGREFS")] for page in found]
    assert resolutions == ["dpi: 300 x 300", "dpi: 300 x 300", None]
    blocks = found[0].findall(f".//{ALTO}TextBlock")
    assert [block.get("ROTATION") for block in blocks] == [None, "90", "270", "180", None, None]
    strings = blocks[0].findall(f".//{ALTO}String")
    assert [string.get("CONTENT") for string in strings] == ["first", "line", "second"]
    place = {name: strings[1].get(name) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT", "WC")}
    assert place == {"HPOS": "70", "VPOS": "10", "WIDTH": "40", "HEIGHT": "20", "WC": "0.9000"}


NUMBERS = {"HPOS", "VPOS", "WIDTH", "HEIGHT", "ROTATION", "PHYSICAL_IMG_NR", "WC"}
PLACE = {"ID", "HPOS", "VPOS", "WIDTH", "HEIGHT"}
RULES: dict[str, tuple[str, set[str], set[str]]] = {
    "alto": ("Description Layout", set(), {"SCHEMAVERSION"}),
    "Description": ("MeasurementUnit (Processing )*", set(), set()),
    "MeasurementUnit": ("", set(), set()),
    "Processing": ("(processingStepSettings )?(processingSoftware )?", {"ID"}, set()),
    "processingStepSettings": ("", set(), set()),
    "processingSoftware": ("softwareName ", set(), set()),
    "softwareName": ("", set(), set()),
    "Layout": ("(Page )+", set(), set()),
    "Page": ("(PrintSpace )?", {"ID", "PHYSICAL_IMG_NR"}, PLACE | {"PROCESSINGREFS"}),
    "PrintSpace": ("(TextBlock )*", set(), PLACE),
    "TextBlock": ("(Shape )?(TextLine )*", {"ID"}, PLACE | {"ROTATION"}),
    "TextLine": ("(Shape )?(String (SP )?)+(HYP )?", set(), PLACE | {"BASELINE"}),
    "Shape": ("Polygon ", set(), set()),
    "Polygon": ("", {"POINTS"}, set()),
    "String": ("", {"CONTENT"}, PLACE | {"WC"}),
    "SP": ("", set(), PLACE),
}
"""Element -> its children in order, as a pattern; attributes that it must and may have.

From alto-4-4.xsd, without what this package never writes.
"""


def check_alto(root: Element) -> None:
    ids = [element.get("ID") for element in root.iter() if element.get("ID")]
    assert len(ids) == len(set(ids))
    for element in root.iter():
        assert element.tag.startswith(ALTO)
        children, must, may = RULES[element.tag.removeprefix(ALTO)]
        found = "".join(child.tag.removeprefix(ALTO) + " " for child in element)
        assert re.fullmatch(children.strip() + " " if children.endswith("t") else children, found)
        names = {name for name in element.attrib if not name.startswith("{")}
        assert must <= names <= must | may, element.tag
        for name in names & NUMBERS:
            float(element.attrib[name])
        assert 0 <= float(element.get("WC", "0")) <= 1
        for name in element.get("PROCESSINGREFS", "").split():
            assert name in ids


def test_a_word_of_several_kinds_has_one_box() -> None:
    """As the recogniser parts it: `No`, `. ` and `12`."""
    parts = (
        Word("No", rectangle(0, 0, 20, 10), 0.8),
        Word(". ", rectangle(20, 0, 30, 10), 0.5),
        Word("12", rectangle(30, 0, 50, 10), 1.0),
    )
    found = list(words(Line("No. 12", 0.8, rectangle(0, 0, 60, 10), words=parts)))
    assert [(word.text, word.box[0], word.box[1]) for word in found] == [
        ("No.", (0, 0), (25, 0)),
        ("12", (30, 0), (50, 0)),
    ]
    assert found[0].score == pytest.approx(0.7)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_paragraphs_hold_lines_of_one_height_one_below_the_other(turn: int) -> None:
    places = [(0, 0, 100, 20), (0, 25, 90, 45), (0, 90, 100, 110), (0, 115, 100, 165)]
    places += [(200, 170, 300, 220)]

    def turned(x: int, y: int) -> tuple[int, int]:
        for _ in range(turn // 90):
            x, y = -y, x
        return x, y

    lines = []
    for place in places:
        corners: Any = [turned(*corner) for corner in rectangle(*place)]
        lines.append(Line(str(place[1]), 1.0, tuple(corners), turn))
    assert [[line.text for line in group] for group in paragraphs(lines)] == [
        ["0", "25"], ["90"], ["115"], ["170"],
    ]  # fmt: skip


def test_words_of_a_real_page_are_where_its_lines_are(
    built: Path, repo: Path, sample_page: Sample
) -> None:
    from serving.config import load_config
    from serving.plan.load import open_pipeline

    config = load_config(repo / "configs/PP-OCRv4_mobile.yaml")
    pipeline = open_pipeline(config, models=built, warm=False)
    page = pipeline.read(sample_page.image, Options(return_word_box=True))
    pipeline.close()
    root = parsed(hocr([ReadPage(0, 0, 1, page)]))
    assert page.lines
    for read, element in zip(page.lines, of_class(root, "ocr_line"), strict=True):
        texts = [word.text for word in of_class(element, "ocrx_word")]
        assert texts == read.text.split()
        box = [int(value) for value in properties(element)["bbox"].split()]
        for word in of_class(element, "ocrx_word"):
            left, top, right, bottom = map(int, properties(word)["bbox"].split())
            assert box[0] - 1 <= left < right <= box[2] + 1
            assert box[1] - 1 <= top < bottom <= box[3] + 1
            assert 0 <= int(properties(word)["x_wconf"]) <= 100
    check_alto(parsed(alto([ReadPage(0, 0, 1, page)])))
