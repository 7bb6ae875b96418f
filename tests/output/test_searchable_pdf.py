"""Searchable PDFs, as Poppler and PDFium read them: words where they stand, pages as they were."""

from __future__ import annotations

import io
from collections.abc import Iterator
from math import cos, radians, sin
from pathlib import Path
from typing import Any

import imaging_files as files
import numpy as np
import pikepdf
import poppler
import pypdfium2
import pytest
from PIL import Image, ImageCms

from benchmarks import corpus
from benchmarks.soak import pdf as pdf_of
from serving.config import load_config
from serving.config.options import Options
from serving.errors import Undecodable
from serving.imaging.decode import Decoder
from serving.imaging.formats import PageRanges
from serving.output.layout import baseline, bounds, words
from serving.output.pages import ReadPage
from serving.output.pdf import searchable_pdf
from serving.plan.load import open_pipeline
from serving.types import Line, Page, Quad, Word

DPI = 144


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


def line(text: str, left: int, top: int, width: int, height: int = 20, angle: float = 0) -> Line:
    """A line that starts at its own top left and runs `angle` degrees clockwise."""
    x, y = cos(radians(angle)), sin(radians(angle))
    corners: Any = [
        (round(left + x * along - y * down), round(top + y * along + x * down))
        for along, down in ((0, 0), (width, 0), (width, height), (0, height))
    ]
    turn = round(angle / 90) % 4 * 90
    first = -(turn // 90) % 4  # a quad starts at the page's top left
    return Line(text, 0.9, tuple(corners[first:] + corners[:first]), turn)


LINES = (
    line("Hello brave world", 40, 20, 220),
    line("upwards", 30, 180, 110, angle=270),
    line("downwards", 90, 60, 110, angle=90),
    line("over", 270, 90, 100, angle=180),
    line("发票 金额12", 110, 110, 160, 24),
    line("\U00020000\U0001f600", 300, 110, 60, 24),
    line("slant", 110, 150, 60, 20, angle=4),
)


def read(decoder: Decoder, *documents: bytes, lines: tuple[Line, ...] = LINES) -> bytes:
    """The searchable PDF of documents whose pages all have these lines."""
    pages = [
        ReadPage(index, page.index, 0, Page(*page.size, lines), page.dpi)
        for index, data in enumerate(documents)
        for page in decoder.pages(data).pages
    ]
    return searchable_pdf(pages, documents, decoder)


def texts(pdf: bytes) -> list[str]:
    """The text of each page, by PDFium."""
    document = pypdfium2.PdfDocument(pdf)
    found = []
    for page in document:
        text = page.get_textpage()
        found.append(text.get_text_range())
        text.close()
        page.close()
    document.close()
    return found


def drawn(pdf: bytes) -> list[Image.Image]:
    """Its pages by PDFium, at 72 dpi."""
    document = pypdfium2.PdfDocument(pdf)
    found = []
    for page in document:
        bitmap = page.render()
        found.append(bitmap.to_pil().convert("RGB").copy())
        bitmap.close()
        page.close()
    document.close()
    return found


CONTENT = b"q q q 0.5 0 0 -0.5 3 3 cm 2 Tr 0 0 50 50 re f 1 0 0 rg 0 0 9 9 re f"
"""It leaves the graphics state changed, and saved three times."""


@pytest.mark.parametrize(
    ("box", "more"),
    [
        ("0 0 200 100", b""),
        ("0 0 200.4 100.3", b""),
        ("250 170 50 70", b""),
        ("-30 -20 170 80", b"/Rotate 180"),
        ("0 0 100 200", b"/Rotate 90"),
        ("50 70 150 270", b"/Rotate -90"),
        ("0 0 300 400", b"/CropBox[20 30 120 230]/Rotate 450"),
        ("0 0 400 300", b"/CropBox[150 130 350 900]/MediaBox[0 0 400 230]"),
    ],
)
def test_words_stand_on_the_page_as_it_is_seen(decoder: Decoder, box: str, more: bytes) -> None:
    data = files.paper(box, more=more, content=CONTENT)
    made = read(decoder, data)
    [found] = poppler.words(made)
    for expected in LINES:
        for word in words(expected):
            place = [side * 72 / DPI for side in bounds(word.box)]
            [box_found] = [item.box for item in found if item.text == word.text]
            # Poppler's boxes do not slant; a wide space goes to the words beside it.
            slack = 4 if word.text in ("slant", "发票", "金额12") else 1.5
            assert box_found == pytest.approx(place, abs=slack), word.text
    assert poppler.pixels(made) == poppler.pixels(data)


def test_words_stand_where_pdfium_draws_a_page_turned_by_91_degrees(decoder: Decoder) -> None:
    made = read(decoder, files.paper("0 0 100 200", more=b"/Rotate 91"))
    with pypdfium2.PdfDocument(made) as document:
        text = document[0].get_textpage()
        index, _ = text.search("Hello").get_next()
        left, bottom, right, top = text.get_charbox(index, loose=True)
        to_bitmap = pypdfium2.PdfPosConv(document[0], (0, 0, 400, 200, 0)).to_bitmap
        corners = sorted([to_bitmap(left, bottom), to_bitmap(right, top)])
    assert corners[0] == pytest.approx((40, 20), abs=2)
    assert corners[1][1] == pytest.approx(40, abs=2)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_pdfium_finds_every_line(decoder: Decoder, turn: int) -> None:
    box = "0 0 200 100" if turn % 180 == 0 else "0 0 100 200"
    made = read(decoder, files.paper(box, more=b"/Rotate %d" % turn))
    [text] = texts(made)
    for word in ("Hello", "world", "upwards", "downwards", "over", "发票", "金额12", "\U00020000"):
        assert word in text


def test_every_word_that_is_read_is_found_where_it_is(
    decoder: Decoder, built: Path, repo: Path
) -> None:
    config = load_config(repo / "configs/PP-OCRv4_mobile.yaml")
    pipeline = open_pipeline(config, models=built, warm=False)
    samples = [sample for sample in corpus.pages(seed=3, count=12) if not sample.degraded]
    del samples[1]  # an article: lines as those of the letter, but many
    assert len(samples) == 5
    count = 0
    for sample in samples:
        data = pdf_of(sample.image, 1)
        pages = decoder.pages(data)
        page = pipeline.read(next(iter(pages)), Options(return_word_box=True))
        made = searchable_pdf([ReadPage(0, 0, 1, page, pages.pages[0].dpi)], [data], decoder)
        assert poppler.pixels(made) == poppler.pixels(data)
        [found] = poppler.words(made)
        for read_line in page.lines:
            (_, y), (_, end_y) = baseline(read_line)
            slack = 1.5 if abs(end_y - y) <= 2 else 2.0  # Poppler's boxes do not slant
            for word in words(read_line):
                left, top, right, bottom = (side * 72 / DPI for side in bounds(word.box))
                more = 0.3 * (bottom - top)  # what is too wide for a space is the words'
                near = [item.box for item in found if item.text == word.text]
                assert any(
                    (a, b, c, d) == pytest.approx((left, top, right, bottom), abs=slack + more)
                    and a <= left + slack
                    and c >= right - slack
                    and (b, d) == pytest.approx((top, bottom), abs=slack)
                    for a, b, c, d in near
                ), word
                count += 1
    pipeline.close()
    assert count > 200


def test_poppler_reads_a_line_with_wide_spaces_as_one(decoder: Decoder) -> None:
    """The boxes of words are narrower than their ink; at a wide space Poppler begins a column."""
    quads = [((x, 20), (x + 60, 20), (x + 60, 44), (x, 44)) for x in (20, 104, 240)]
    spaced = [
        Word(" ", ((x, 20), (x + gap, 20), (x + gap, 44), (x, 44)), 0.9)
        for x, gap in ((80, 24), (164, 76))
    ]
    texts = "Tomato", "soup", "1.20"
    named = [Word(text, quad, 0.9) for text, quad in zip(texts, quads, strict=True)]
    parts = (named[0], spaced[0], named[1], spaced[1], named[2])
    whole = Line(" ".join(texts), 0.9, ((20, 20), (300, 20), (300, 44), (20, 44)), words=parts)
    made = read(decoder, files.paper("0 0 200 100"), lines=(whole,))
    read_by_poppler = poppler.run("pdftotext", "-", pdf=made).decode()
    assert read_by_poppler.split("\n\n")[:2] == ["Tomato soup", "1.20"]


def test_fonts_of_the_page_and_what_pages_share_stay_as_they_are(decoder: Decoder) -> None:
    """Resources inherited from the page tree, with our font's name taken."""
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    data = files.pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R 4 0 R]/Count 2/MediaBox[0 0 200 100]"
        b"/Resources<</Font<</Invisible0 6 0 R>>>>>>",
        b"<</Type/Page/Parent 2 0 R/Contents 5 0 R>>",
        b"<</Type/Page/Parent 2 0 R/Contents[5 0 R]>>",
        files.stream(b"BT /Invisible0 20 Tf 20 12 Td (own) Tj ET"),
        font,
    )
    made = read(decoder, data)
    assert poppler.pixels(made) == poppler.pixels(data)
    for page in poppler.words(made):
        found = [word.text for word in page]
        assert {"own", "Hello", "world"} <= set(found)
        assert found.count("Hello") == 1


def test_outlines_metadata_and_attachments_are_kept(decoder: Decoder) -> None:
    with pikepdf.Pdf.open(io.BytesIO(files.paper("0 0 200 100", "0 0 200 100"))) as source:
        with source.open_outline() as outline:
            outline.root.append(pikepdf.OutlineItem("Second", 1))
        with source.open_metadata() as metadata:
            metadata["dc:title"] = "Report"
        source.docinfo["/Author"] = "Somebody"
        source.attachments["a.txt"] = b"attached"
        out = io.BytesIO()
        source.save(out)
    made = read(decoder, out.getvalue(), files.paper("0 0 90 90"))
    with pikepdf.Pdf.open(io.BytesIO(made)) as result:
        assert len(result.pages) == 3
        with result.open_outline() as outline:
            [item] = outline.root
            assert item.title == "Second"
            assert item.destination[0].objgen == result.pages[1].obj.objgen
        assert str(result.docinfo["/Author"]) == "Somebody"
        with result.open_metadata() as metadata:
            assert metadata["dc:title"] == "Report"
        assert result.attachments["a.txt"].get_file().read_bytes() == b"attached"


PICTURE = files.picture("RGB", (400, 200))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_kept_and_stands_upright(decoder: Decoder, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = files.encoded(PICTURE, "JPEG", exif=exif, dpi=(200, 100), quality=95)
    [pixels] = decoder.pages(data)
    made = read(decoder, data)
    [page] = drawn(made)
    width, height = (400 * 72 / 200, 200 * 72 / 100)
    assert page.size == tuple(map(round, (height, width) if orientation >= 5 else (width, height)))
    shown = np.asarray(page.resize((40, 40)), float)
    upright = np.asarray(Image.fromarray(pixels[..., ::-1]).resize((40, 40)), float)
    assert np.abs(shown - upright).mean() < 4
    with pikepdf.Pdf.open(io.BytesIO(made)) as result:
        image = result.pages[0].Resources.XObject.Im
        assert Image.open(io.BytesIO(image.read_raw_bytes())).size == PICTURE.size


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGB", {"dpi": (72, 72)}),
        ("PNG", "P", {"dpi": (72, 72)}),
        ("PNG", "1", {"dpi": (72, 72)}),
        ("TIFF", "1", {"dpi": (72, 72), "compression": "group4"}),
        ("TIFF", "L", {"dpi": (72, 72)}),
        ("BMP", "RGB", {"dpi": (72, 72)}),
    ],
)
def test_pixels_of_an_image_are_kept(
    decoder: Decoder, kind: str, mode: str, options: dict[str, Any]
) -> None:
    data = files.encoded(PICTURE.convert(mode), kind, **options)
    [pixels] = decoder.pages(data)
    [page] = drawn(read(decoder, data, lines=()))
    assert np.array_equal(np.asarray(page)[..., ::-1], pixels)


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("PNG", "RGB"), ("TIFF", "L")])
def test_a_colour_profile_is_kept_where_it_fits(decoder: Decoder, kind: str, mode: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    made = read(decoder, files.encoded(PICTURE.convert(mode), kind, icc_profile=profile))
    with pikepdf.Pdf.open(io.BytesIO(made)) as result:
        space = result.pages[0].Resources.XObject.Im.ColorSpace
        if mode == "RGB":
            assert space[0] == pikepdf.Name.ICCBased
            assert space[1].read_bytes() == profile
        else:
            assert space == pikepdf.Name.DeviceGray
    assert drawn(made)[0].size == (200, 100)


def test_each_page_of_a_tiff_has_its_own_colour_profile(decoder: Decoder) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tagged = PICTURE.copy()
    tagged.info["icc_profile"] = profile
    pages = [PICTURE, tagged, PICTURE]
    data = files.encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    with Image.open(io.BytesIO(data)) as written:
        written.seek(1)
        assert written.tag_v2.get(34675)
    with pikepdf.Pdf.open(io.BytesIO(read(decoder, data))) as result:
        spaces = [page.Resources.XObject.Im.ColorSpace for page in result.pages]
    assert [space == pikepdf.Name.DeviceRGB for space in spaces] == [True, False, True]


def test_an_image_without_a_resolution_is_144_dpi(decoder: Decoder) -> None:
    made = read(decoder, files.encoded(PICTURE, "PNG"), files.encoded(PICTURE, "GIF"))
    assert [page.size for page in drawn(made)] == [(200, 100)] * 2
    assert [{"Hello", "world"} <= {word.text for word in page} for page in poppler.words(made)]


def test_cmyk_jpegs_keep_their_colours(decoder: Decoder) -> None:
    data = files.encoded(PICTURE.convert("CMYK"), "JPEG", quality=95)
    [pixels] = decoder.pages(data)
    [page] = drawn(read(decoder, data, lines=()))
    shown = np.asarray(page.resize((40, 20)), float)
    expected = np.asarray(Image.fromarray(pixels[..., ::-1]).resize((40, 20)), float)
    assert np.abs(shown - expected).mean() < 40  # inverted it would be 100 and more


def test_documents_of_all_kinds_become_one_with_their_pages_in_order(decoder: Decoder) -> None:
    tiff = files.encoded(PICTURE, "TIFF", save_all=True, append_images=[PICTURE, PICTURE])
    painted = files.paper("0 0 300 150", "0 0 310 160", content=CONTENT)
    documents = [files.encoded(PICTURE, "PNG"), painted, tiff]
    pages = []
    for index, data in enumerate(documents):
        ranges = PageRanges.parse("2") if index == 2 else PageRanges()
        for page in decoder.pages(data, ranges=ranges).pages:
            words = line(f"document{index} page{page.index}", 10, 10, 380)
            pages.append(ReadPage(index, page.index, 4, Page(*page.size, (words,)), page.dpi))
    made = searchable_pdf(pages, documents, decoder)
    assert [" ".join(text.split()) for text in texts(made)] == [
        "document0 page0", "document1 page0", "document1 page1", "document2 page1",
    ]  # fmt: skip
    assert drawn(made)[1:3] == drawn(painted)


def test_all_pages_of_a_pdf_are_kept_where_some_are_read(decoder: Decoder) -> None:
    data = files.paper("0 0 200 100", "0 0 210 100", "0 0 220 100")
    [page] = decoder.pages(data, ranges=PageRanges.parse("2")).pages
    made = searchable_pdf([ReadPage(0, 1, 1, Page(*page.size, LINES), page.dpi)], [data], decoder)
    assert ["Hello" in text for text in texts(made)] == [False, True, False]


def test_text_is_on_its_page_behind_a_broken_one_which_stays_empty(decoder: Decoder) -> None:
    """PDFium, which draws, counts a page that is no dictionary; QPDF, which writes, does not."""
    data = files.paper("0 0 200 100", "0 0 210 100", "0 0 220 100", "0 0 230 100")
    data = data.replace(b"5 0 obj\n<</Type/Page/", b"5 0 obj\n[</Type/Page/")
    [page] = decoder.pages(data, ranges=PageRanges.parse("3")).pages
    made = searchable_pdf([ReadPage(0, 2, 1, Page(*page.size, LINES), page.dpi)], [data], decoder)
    assert ["Hello" in text for text in texts(made)] == [False, False, True, False]


def encrypted() -> bytes:
    """It opens without a password, but is encrypted."""
    out = io.BytesIO()
    with pikepdf.Pdf.open(io.BytesIO(files.paper("0 0 90 90"))) as pdf:
        pdf.save(out, encryption=pikepdf.Encryption(owner="secret", user=""))
    return out.getvalue()


def signed(*, flags: bool) -> bytes:
    form = b"<</SigFlags 3/Fields[]>>" if flags else b"<</Fields[<</Kids[5 0 R]>>]>>"
    return files.pdf(
        b"<</Type/Catalog/Pages 2 0 R/AcroForm %s>>" % form,
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 90 90]/Contents 4 0 R>>",
        files.stream(b""),
        b"<</FT/Sig/T(Signature)/V<</Type/Sig/Contents<00>>>>>",
    )


def form_of(count: int) -> bytes:
    """A form with so many fields, none of which is signed."""
    return files.pdf(
        b"<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[%s]>>>>" % (b"5 0 R " * count),
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 90 90]/Contents 4 0 R>>",
        files.stream(b""),
        b"<</FT/Tx/T(Name)>>",
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encrypted(), "encrypted"),
        (signed(flags=True), "signed"),
        (signed(flags=False), "signed"),
        (form_of(20_000), "more than 10000 fields"),
        (files.paper(*["0 0 9 9"] * 2).replace(b"/Count 2", b"/Count 1"), "of its 2 pages, 1 can"),
    ],
)
def test_what_must_not_be_changed_is_refused(decoder: Decoder, data: bytes, reason: str) -> None:
    with pytest.raises(Undecodable, match=reason):
        decoder.check_searchable(data)
    with pytest.raises(Undecodable, match=reason):
        read(decoder, data)


def test_time_is_limited_and_the_next_document_is_made() -> None:
    endless = b"%PDF-1.4\n" + b"1 0 obj<</Type/Catalog>>endobj\n" * 2_000_000
    with Decoder(processes=1, page_seconds=0.5) as decoder:
        with pytest.raises(Undecodable, match="processor time"):
            files.given_time(lambda: decoder.check_searchable(endless))
        assert "Hello" in texts(read(decoder, files.paper("0 0 200 100")))[0]


def test_a_line_without_extent_or_text_is_left_out(decoder: Decoder) -> None:
    nothing: Quad = ((5, 5), (5, 5), (5, 5), (5, 5))
    lines = (Line("point", 0.9, nothing), line("", 10, 10, 50), *LINES[:1])
    [text] = texts(read(decoder, files.paper("0 0 200 100"), lines=lines))
    assert text.split() == ["Hello", "brave", "world"]
