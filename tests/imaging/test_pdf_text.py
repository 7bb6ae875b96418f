"""A PDF's own text: where it stands, and which pages are read instead."""

from __future__ import annotations

import io
from collections.abc import Iterator

import imaging_files as files
import pikepdf
import pytest

from serving.imaging.decode import Decoder
from serving.types import Page

FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"
WORDS = b"BT /F 20 Tf 20 60 Td (Hello brave world) Tj ET "
PICTURE = b"q 200 0 0 100 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x80 EI Q "
LONG = b"".join(
    b"BT /F 4 Tf 5 %d Td (many words on a page with a picture behind) Tj ET " % y
    for y in range(10, 90, 10)
)


def page(content: bytes, more: bytes = b"", box: bytes = b"0 0 200 100") -> bytes:
    return files.pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[%s]/Contents 4 0 R"
        b"/Resources<</Font<</F 5 0 R/G 6 0 R>>>>%s>>" % (box, more),
        files.stream(content),
        FONT,
        b"<</Type/Font/Subtype/Type3/FontBBox[0 0 9 9]/FontMatrix[.1 0 0 .1 0 0]/FirstChar 65"
        b"/LastChar 66/Widths[9 9]/Encoding<</Differences[65/g1/g2]>>/CharProcs<</g1 7 0 R"
        b"/g2 7 0 R>>/Resources<<>>>>",
        files.stream(b"9 0 0 0 9 9 d1 0 0 8 8 re f"),
    )


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


def own(decoder: Decoder, data: bytes) -> Page | None:
    pages = decoder.pages(data)
    return pages.own_text(pages.pages[0])


@pytest.mark.parametrize(
    ("more", "turn"), [(b"", 0), (b"/Rotate 90", 90), (b"/Rotate 180", 180), (b"/Rotate 270", 270)]
)
def test_words_stand_where_they_are_drawn(decoder: Decoder, more: bytes, turn: int) -> None:
    data = page(WORDS, more)
    found = own(decoder, data)
    assert found is not None
    [line] = found.lines
    assert (line.text, line.score, line.turn) == ("Hello brave world", 1.0, turn)
    assert found.source == "pdf_text"
    assert found.timing["pdf_text"] > 0
    assert "".join(word.text for word in line.words) == line.text
    # The ink of the page is inside, and fills most of it.
    [pixels] = decoder.pages(data)
    ys, xs = (pixels.min(axis=2) < 128).nonzero()
    left, top = line.quad[0]
    right, bottom = line.quad[2]
    assert left <= xs.min() <= xs.max() <= right
    assert top <= ys.min() <= ys.max() <= bottom
    assert (xs.max() - xs.min()) * (ys.max() - ys.min()) > 0.5 * (right - left) * (bottom - top)
    assert line.words[0].box[0] == line.box[0]  # its first word is at its start
    assert (found.width, found.height) == (pixels.shape[1], pixels.shape[0])


def test_columns_are_lines_of_their_own(decoder: Decoder) -> None:
    content = b"BT /F 10 Tf 10 50 Td (Name) Tj 120 0 Td (12.50) Tj -120 -20 Td (Date) Tj ET"
    found = own(decoder, page(content))
    assert found is not None
    assert [line.text for line in found.lines] == ["Name", "12.50", "Date"]


def test_chinese_and_what_is_beyond_the_crop_box(decoder: Decoder) -> None:
    chinese = files.unembedded_text_pdf("SimSun", "GB1", "GBK-EUC-H", "发票金额".encode("gbk"))
    found = own(decoder, chinese)
    assert found is not None
    assert [line.text for line in found.lines] == ["发票金额"]
    cropped = own(decoder, page(WORDS, b"/CropBox[0 0 70 100]"))
    assert cropped is not None
    assert [line.text for line in cropped.lines] == ["Hello"]


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        (WORDS, True),
        (b"", False),
        (PICTURE, False),
        (PICTURE + WORDS, False),  # a scan with a stamp
        (PICTURE + b"3 Tr " + LONG, False),  # a scan with its text layer
        (b"3 Tr " + LONG + PICTURE, False),
        (b"3 Tr " + WORDS, False),
        (PICTURE + LONG, True),  # a slide
        (WORDS + b"q .3 0 0 .3 0 0 cm " + PICTURE + b"Q", True),  # a letter with a logo
        (b"BT /G 10 Tf 20 60 Td (ABABAB) Tj ET", False),  # characters that nobody knows
    ],
)
def test_only_text_that_is_there_and_whole_is_taken(
    decoder: Decoder, content: bytes, taken: bool
) -> None:
    assert (own(decoder, page(content)) is not None) == taken


def test_a_picture_in_a_form_counts_as_one(decoder: Decoder) -> None:
    with pikepdf.Pdf.open(io.BytesIO(page(WORDS))) as pdf:
        form = pikepdf.Stream(
            pdf,
            PICTURE,
            Type=pikepdf.Name.XObject,
            Subtype=pikepdf.Name.Form,
            BBox=[0, 0, 200, 100],
        )
        name = pdf.pages[0].add_resource(form, pikepdf.Name.XObject)
        pdf.pages[0].contents_add(f"{name} Do ".encode(), prepend=True)
        out = io.BytesIO()
        pdf.save(out)
    assert own(decoder, out.getvalue()) is None


def test_an_image_has_no_text_of_its_own(decoder: Decoder) -> None:
    for kind in ("PNG", "TIFF"):
        assert own(decoder, files.encoded(files.picture(), kind)) is None
