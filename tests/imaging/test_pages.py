"""Documents: all pages, upright, at the right size, or one of the four errors."""

from __future__ import annotations

import contextlib
import io
import random
import struct
from collections.abc import Iterator

import imaging_files as files
import numpy as np
import pytest
from PIL import Image

from serving.errors import InputError, TooLarge, Undecodable
from serving.imaging.decode import Decoder
from serving.imaging.formats import Limits, PageRanges

BLACK_CORNER = b"0 0 36 18 re f"


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(Limits(max_pixels=4_000_000, max_pages=20), page_seconds=2) as decoder:
        yield decoder


def pages(decoder: Decoder, data: bytes, dpi: int = 144) -> list[np.ndarray]:
    document = decoder.pages(data, pdf_dpi=dpi)
    images = list(document)
    assert [(image.shape[1], image.shape[0]) for image in images] == [
        page.size for page in document.pages
    ]
    for image in images:
        assert image.dtype == np.uint8 and image.shape[2] == 3
        assert image.flags.c_contiguous and image.flags.writeable
    return images


def test_pdf_pages_are_rendered_at_the_requested_resolution(decoder: Decoder) -> None:
    data = files.paper("0 0 72 36", "0 0 36 72", content=BLACK_CORNER)
    first, second = pages(decoder, data)
    assert (first.shape, second.shape) == ((72, 144, 3), (144, 72, 3))
    assert first[-5, 5].tolist() == [0, 0, 0] and first[5, 5].tolist() == [255, 255, 255]
    assert pages(decoder, data, dpi=72)[0].shape == (36, 72, 3)


def test_pdf_rotation_is_applied(decoder: Decoder) -> None:
    data = files.paper("0 0 72 36", content=BLACK_CORNER, more=b"/Rotate 90")
    (page,) = pages(decoder, data, dpi=72)
    assert page.shape == (72, 36, 3)
    assert page[2, 2].tolist() == [0, 0, 0]


def test_pdf_colours_are_bgr(decoder: Decoder) -> None:
    (page,) = pages(decoder, files.paper("0 0 9 9", content=b"1 0 0 rg 0 0 9 9 re f"))
    assert page[5, 5].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ("font", "ordering", "cmap", "codec", "text"),
    [
        ("STSong-Light", "GB1", "UniGB-UCS2-H", "utf-16-be", "发票号码测试文本"),
        ("SimSun", "GB1", "GBK-EUC-H", "gbk", "增值税专用发票"),
        ("MSung-Light", "CNS1", "UniCNS-UCS2-H", "utf-16-be", "電子發票證明聯"),
        ("MingLiU", "CNS1", "ETen-B5-H", "big5", "臺灣銀行繳費單"),
        ("HeiseiMin-W3", "Japan1", "UniJIS-UCS2-H", "utf-16-be", "領収書のサンプル円"),
        ("MS-Gothic", "Japan1", "90ms-RKSJ-H", "cp932", "御請求書を働込峠駅"),
        ("HYSMyeongJo-Medium", "Korea1", "UniKS-UCS2-H", "utf-16-be", "대한민국영수증"),
        ("Batang", "Korea1", "KSCms-UHC-H", "cp949", "세금계산서발행"),
    ],
)
def test_pdf_text_whose_font_is_not_embedded_is_drawn(
    decoder: Decoder, font: str, ordering: str, cmap: str, codec: str, text: str
) -> None:
    data = files.unembedded_text_pdf(font, ordering, cmap, text.encode(codec))
    (page,) = pages(decoder, data)
    cells = [page[:, 40 + 80 * k : 120 + 80 * k] < 128 for k in range(len(text) + 1)]
    assert all(cell.mean() > 0.02 for cell in cells[:-1]) and not cells[-1].any()
    shapes = {cell.tobytes() for cell in cells[:-1]}
    assert len(shapes) == len(set(text)), "equal shapes: boxes for missing glyphs"


def test_encrypted_pdf(decoder: Decoder) -> None:
    lock = b"/Encrypt<</Filter/Standard/V 1/R 2/O(%s)/U(%s)/P -4>>/ID[(%s)(%s)]" % (
        b"o" * 32,
        b"u" * 32,
        b"i" * 16,
        b"i" * 16,
    )
    with pytest.raises(Undecodable, match="password"):
        decoder.pages(files.paper("0 0 9 9", trailer=lock))


def test_pdf_with_too_many_pages(decoder: Decoder) -> None:
    kids = files.pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[%s]/Count 10000>>" % (b"3 0 R " * 10_000),
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>",
    )
    with pytest.raises(TooLarge, match=r"10000 pages.*--max-pages"):
        decoder.pages(kids)


@pytest.mark.parametrize("box", ["0 0 1000000 1000000", "0 0 10000 90"])
def test_pdf_with_a_giant_page(decoder: Decoder, box: str) -> None:
    with pytest.raises(TooLarge, match=r"PDF, page 2: \d+ x \d+ pixels.*below 1200"):
        decoder.pages(files.paper("0 0 9 9", box), pdf_dpi=1200)


def test_pdf_with_invalid_boxes_gives_pages_or_an_input_error(decoder: Decoder) -> None:
    for box in ("0 0 0 0", "9 9 0 0", "0 0 1e38 nan", "", "0 0 0.001 0.001"):
        with contextlib.suppress(InputError):
            pages(decoder, files.paper(box))


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        ("RGB", None),
        ("RGB", "tiff_lzw"),
        ("RGB", "tiff_adobe_deflate"),
        ("L", "packbits"),
        ("CMYK", "tiff_lzw"),
        ("1", "group4"),
    ],
)
def test_tiff_pages(decoder: Decoder, mode: str, compression: str | None) -> None:
    frames = [files.picture(mode, (40, 24)), files.picture(mode, (16, 50))]
    data = files.encoded(
        frames[0], "TIFF", compression=compression, save_all=True, append_images=frames[1:]
    )
    for page, frame in zip(pages(decoder, data), frames, strict=True):
        np.testing.assert_array_equal(page, files.bgr(frame))


def test_tiff_of_sixteen_bits(decoder: Decoder) -> None:
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    (page,) = pages(decoder, files.encoded(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(page[..., 2], values >> 8)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_orientation(decoder: Decoder, orientation: int, compression: str | None) -> None:
    upright = files.picture()
    stored = upright.transpose(
        {
            1: Image.Transpose.ROTATE_180,  # undone below
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }[orientation]
    )
    if orientation == 1:
        stored = upright
    data = files.encoded(stored, "TIFF", compression=compression, tiffinfo={274: orientation})
    (page,) = pages(decoder, data)
    np.testing.assert_array_equal(page, files.bgr(upright))


def test_circular_tiff_directories_end(decoder: Decoder) -> None:
    (page,) = pages(decoder, files.tiff(1, 1, next_directory=12))
    assert page.tolist() == [[[128] * 3]]


def test_tiff_with_too_many_pages(decoder: Decoder) -> None:
    frame = Image.new("1", (1, 1))
    data = files.encoded(frame, "TIFF", save_all=True, append_images=[frame] * 20)
    with pytest.raises(TooLarge, match="21 pages or more"):
        decoder.pages(data)


def test_tiff_bombs(decoder: Decoder) -> None:
    with pytest.raises(TooLarge, match="TIFF, page 1"):
        decoder.pages(files.tiff(2**31 - 1, 2**31 - 1))
    with pytest.raises(Undecodable):
        list(decoder.pages(files.tiff(2000, 2000)))
    with pytest.raises(Undecodable):
        list(decoder.pages(files.tiff(16, 16, tile=2**30)))


def test_gif_gives_its_first_frame(decoder: Decoder) -> None:
    first = files.picture().quantize(16)
    data = files.encoded(first, "GIF", save_all=True, append_images=[Image.new("P", (40, 24))])
    (page,) = pages(decoder, data)
    np.testing.assert_array_equal(page, files.bgr(first))


def test_gif_with_a_giant_screen_or_frame(decoder: Decoder) -> None:
    data = bytearray(files.encoded(files.picture().quantize(4), "GIF"))
    frame = data.index(b"\x2c", 13 + 3 * 4)
    data[frame + 5 : frame + 9] = struct.pack("<HH", 65535, 65535)
    with pytest.raises(TooLarge):
        decoder.pages(bytes(data))
    data[6:10] = struct.pack("<HH", 65535, 65535)
    with pytest.raises(TooLarge, match="GIF: 65535 x 65535"):
        decoder.pages(bytes(data))


@pytest.mark.parametrize("tenth", range(10))
def test_truncated_documents_are_rejected(decoder: Decoder, tenth: int) -> None:
    noise = Image.fromarray(np.random.default_rng(5).integers(0, 255, (50, 60), dtype=np.uint8))
    for kind in ("PDF", "TIFF", "GIF"):
        data = files.encoded(noise, kind)
        with pytest.raises(InputError):
            list(decoder.pages(data[: len(data) * tenth // 10]))


def test_corrupted_bytes_give_pages_or_an_input_error(decoder: Decoder) -> None:
    chance = random.Random(11)
    kinds = [
        files.encoded(files.picture(), "PDF"),
        files.paper("0 0 72 36", content=BLACK_CORNER),
        files.encoded(files.picture(), "TIFF", compression="tiff_lzw"),
        files.encoded(files.picture("1"), "TIFF", compression="group4"),
        files.encoded(files.picture().quantize(32), "GIF"),
    ]
    for _ in range(300):
        data = bytearray(chance.choice(kinds))
        for _ in range(chance.choice([1, 3, 20])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with contextlib.suppress(InputError):
            pages(decoder, bytes(data))


def test_many_documents_share_one_process() -> None:
    data = [
        files.paper(*[f"0 0 {9 + index} {9 + page}" for page in range(3)]) for index in range(4)
    ]
    with Decoder(processes=1) as decoder:
        documents = [iter(decoder.pages(content, pdf_dpi=72)) for content in data]
        for page in range(3):
            for index, document in enumerate(documents):
                assert next(document).shape == (9 + page, 9 + index, 3)
        for document in documents:
            with pytest.raises(StopIteration):
                next(document)


def test_an_unfinished_document_holds_no_process() -> None:
    data = files.paper(*["0 0 9 9"] * 3)
    with Decoder(processes=1) as decoder:
        for _ in range(3):
            assert next(iter(decoder.pages(data))).shape == (18, 18, 3)


def test_pages_have_kind_count_and_sizes(decoder: Decoder) -> None:
    document = decoder.pages(files.paper("0 0 9 9", "0 0 9 18"))
    assert document.kind == "pdf"
    assert [page.size for page in document.pages] == [(18, 18), (18, 36)]
    stream = io.BytesIO()
    files.picture().save(stream, "TIFF")
    assert decoder.pages(stream.getvalue()).kind == "tiff"


def test_a_selected_page_behind_a_broken_directory_is_not_said_to_be_absent(
    decoder: Decoder,
) -> None:
    first, *others = [files.picture(size=(40, 24 + number)) for number in range(5)]
    data = bytearray(files.encoded(first, "TIFF", save_all=True, append_images=others))
    with Image.open(io.BytesIO(data)) as image:
        image.seek(2)
        cut = bytes(data[: image.tag_v2.offset + 1])
    assert [page.size for page in decoder.pages(cut).pages] == [(40, 24), (40, 25), (0, 0)]
    assert len(decoder.pages(cut, ranges=PageRanges.parse("1-2")).pages) == 2
    with pytest.raises(Undecodable, match="broken TIFF"):
        decoder.pages(cut, ranges=PageRanges.parse("1,5"))
