"""Single images: the right pixels, upright, or one of the four errors."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import imaging_files as files
import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageOps

from serving.errors import BadRequest, InputError, TooLarge, Undecodable, UnsupportedMedia
from serving.imaging.decode import Decoder
from serving.imaging.formats import Limits
from serving.imaging.headers import exif_orientation, read_header
from serving.imaging.pillow import to_array


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


def decode_one(decoder: Decoder, data: bytes) -> np.ndarray:
    (page,) = decoder.pages(data)
    assert page.dtype == np.uint8
    assert page.ndim == 3 and page.shape[2] == 3
    assert page.flags.c_contiguous and page.flags.writeable
    return page


def orientation_block(value: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = value
    return block.tobytes()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
    ],
)
def test_images_are_decoded_as_by_opencv(
    decoder: Decoder, mode: str, kind: str, options: dict[str, bool]
) -> None:
    data = files.encoded(files.picture(mode), kind, **options)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode_one(decoder, data), expected)
    np.testing.assert_array_equal(decode_one(decoder, memoryview(data)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(decoder: Decoder, kind: str, orientation: int) -> None:
    data = files.encoded(files.picture(), kind, exif=orientation_block(orientation))
    with Image.open(io.BytesIO(data)) as image:
        expected = files.bgr(ImageOps.exif_transpose(image))
    pages = decoder.pages(data)
    assert [page.size for page in pages.pages] == [(expected.shape[1], expected.shape[0])]
    np.testing.assert_array_equal(pages.decode(pages.pages[0]), expected)


def test_orientation_in_imagemagicks_old_png_text(decoder: Decoder) -> None:
    block = b"Exif\0\0" + orientation_block(6).removeprefix(b"Exif\0\0")
    text = b"\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())
    chunk = (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    assert decode_one(decoder, files.png(3, 2, chunk, rows=b"\0abc\0def")).shape == (3, 2, 3)


@pytest.mark.parametrize(
    "block", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"]
)
def test_broken_exif_means_upright(block: bytes) -> None:
    assert exif_orientation(block) == 1


def exif_segment(content: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(content) + 8) + b"Exif\0\0" + content


def test_an_orientation_in_xmp_is_ignored(decoder: Decoder) -> None:
    picture = files.picture()
    data = files.encoded(picture, "JPEG", xmp=b'<x tiff:Orientation="6"/>')
    assert b"tiff:Orientation" in data
    assert decode_one(decoder, data).shape == (picture.height, picture.width, 3)


def test_damaged_exif_prints_nothing(decoder: Decoder, recwarn: pytest.WarningsRecorder) -> None:
    tag = struct.pack("<HHII", 0x9000, 7, 5000, 9999)  # 5000 bytes beyond the end
    data = files.encoded(files.picture("CMYK"), "JPEG")  # decoded by Pillow
    broken = data[:2] + exif_segment(b"II*\0\x08\0\0\0\1\0" + tag) + data[2:]
    np.testing.assert_array_equal(decode_one(decoder, broken), decode_one(decoder, data))
    assert not recwarn.list


def test_time_is_linear_in_the_number_of_exif_segments(decoder: Decoder) -> None:
    data = files.encoded(files.picture("CMYK"), "JPEG")
    many = data[:2] + exif_segment(bytes(2000)) * 9000 + data[2:]
    started = time.process_time()
    np.testing.assert_array_equal(decode_one(decoder, many), decode_one(decoder, data))
    assert time.process_time() - started < 2  # Pillow alone takes over 7 s


def test_cmyk_jpeg_with_and_without_adobes_inversion(decoder: Decoder) -> None:
    picture = files.picture("CMYK")
    expected = files.bgr(picture).astype(int)
    adobe = files.encoded(picture, "JPEG", quality=95)
    assert abs(decode_one(decoder, adobe) - expected).mean() < 4
    marker = adobe.index(b"\xff\xeeA" if b"\xff\xeeA" in adobe else b"\xff\xee")
    length = int.from_bytes(adobe[marker + 2 : marker + 4], "big")
    inverted = files.encoded(ImageChops.invert(picture), "JPEG", quality=95)
    plain = inverted[:marker] + inverted[marker + 2 + length :]
    assert b"Adobe" not in plain
    assert abs(decode_one(decoder, plain) - expected).mean() < 4


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "PA"])
def test_png_modes(decoder: Decoder, mode: str) -> None:
    image = files.picture("P" if mode == "PA" else mode)
    options = {"transparency": 0} if mode == "PA" else {}
    assert decode_one(decoder, files.encoded(image, "PNG", **options)).shape == (24, 40, 3)


def test_sixteen_bits(decoder: Decoder) -> None:
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    grey = decode_one(decoder, files.encoded(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(grey[..., 0], values >> 8)
    twelve = decode_one(decoder, files.encoded(Image.fromarray(values >> 4), "PNG"))
    np.testing.assert_array_equal(twelve[..., 0], values >> 8)
    colour = cv2.imencode(".png", np.dstack([values, values // 2, values // 3]))[1].tobytes()
    expected = cv2.imdecode(np.frombuffer(colour, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode_one(decoder, colour), expected)


def test_wide_modes_are_stretched() -> None:
    ramp = np.linspace(-3, 5, 12, dtype=np.float32).reshape(3, 4)
    array = to_array(Image.fromarray(ramp))
    assert (array.min(), array.max()) == (0, 255)
    assert to_array(Image.new("F", (2, 2), 7.0)).max() == 0


def letters(ink: int, *, alpha: int = 255) -> np.ndarray:
    image = np.zeros((20, 60, 4), np.uint8)
    for left in range(5, 55, 10):
        image[4:16, left : left + 3] = (ink, ink, ink, alpha)
    return image


@pytest.mark.parametrize(
    ("ink", "alpha", "background"), [(0, 255, 255), (255, 255, 0), (250, 90, 0), (120, 255, 255)]
)
def test_the_background_of_transparent_images_contrasts_with_the_visible_part(
    decoder: Decoder, ink: int, alpha: int, background: int
) -> None:
    page = decode_one(decoder, files.encoded(Image.fromarray(letters(ink, alpha=alpha)), "PNG"))
    assert page[0, 0].tolist() == [background] * 3
    assert abs(int(page[10, 6, 0]) - background) > 80


def test_a_caption_beside_a_white_card_stays_readable(decoder: Decoder) -> None:
    image = letters(0)
    image[2:18, 25:58] = 255
    page = decode_one(decoder, files.encoded(Image.fromarray(image), "WEBP", lossless=True))
    assert page[0, 0, 0] == 255 and page[10, 6, 0] == 0


def test_an_invisible_image_is_a_white_page(decoder: Decoder) -> None:
    assert (decode_one(decoder, files.encoded(Image.new("RGBA", (5, 5)), "PNG")) == 255).all()


def test_animations_give_their_first_frame(decoder: Decoder) -> None:
    first, second = files.picture(), Image.new("RGB", (40, 24), "red")
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = files.encoded(first, kind, save_all=True, append_images=[second], **options)
        np.testing.assert_array_equal(decode_one(decoder, data), files.bgr(first))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"BM is how this letter begins, dear reader",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0\0\0\x1cftypavif\0\0\0\0",
        b"P5\n1 1\n255\n\0",
        b"\0\0\1\0\1\0\x10\x10",
        b"RIFF\0\0\0\0WAVE",
    ],
)
def test_the_error_for_other_formats_lists_the_supported_ones(
    decoder: Decoder, data: bytes
) -> None:
    with pytest.raises(UnsupportedMedia, match="HEIC is not read: convert it"):
        decoder.pages(bytes.fromhex("0000001c66747970") + b"heic\0\0\0\0mif1heic")
    with pytest.raises(UnsupportedMedia, match="JPEG, PNG, WebP, BMP, TIFF, GIF and PDF"):
        decoder.pages(data)


def test_a_jpeg_that_ends_in_the_header_of_its_scan_is_broken(decoder: Decoder) -> None:
    data = files.encoded(files.picture(), "JPEG")
    start = data.index(b"\xff\xda")
    for end in range(start, start + 2 + int.from_bytes(data[start + 2 : start + 4])):
        with pytest.raises(Undecodable):
            list(decoder.pages(data[:end]))


def giant(kind: str) -> bytes:
    data = bytearray(files.encoded(files.picture(), kind))
    if kind == "PNG":
        return files.png(60_000, 60_000)
    if kind == "JPEG":
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", 60_000, -60_000)
    else:
        data[26:30] = struct.pack("<HH", 16_000, 16_000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_size_is_checked_before_decoding(decoder: Decoder, kind: str) -> None:
    with pytest.raises(TooLarge, match="--max-pixels"):
        decoder.pages(giant(kind))


def test_the_memory_of_large_pages_is_returned() -> None:
    body = f"""
import sys; sys.path[:] = {sys.path!r}
import gc, threading
from pathlib import Path
import imaging_files as files
from serving.imaging.decode import Decoder

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

small, large = (files.encoded(files.Image.new("RGB", (side, side)), "PNG") for side in (99, 5000))
gate = threading.Barrier(4)

def read():
    gate.wait()
    [page] = decoder.pages(large)
    gate.wait()

with Decoder() as decoder:
    list(decoder.pages(small))
    before = resident()
    for _ in "ab":
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100, done.stdout  # MiB


def test_the_limit_is_inclusive() -> None:
    data = files.encoded(files.picture(size=(10, 10)), "PNG")
    with Decoder(Limits(max_pixels=100)) as decoder:
        assert len(decoder.pages(data).pages) == 1
    with Decoder(Limits(max_pixels=99)) as decoder, pytest.raises(TooLarge, match="10 x 10"):
        decoder.pages(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
@pytest.mark.parametrize("tenth", range(10))
def test_truncated_images_are_rejected(decoder: Decoder, kind: str, tenth: int) -> None:
    noise = np.random.default_rng(5).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    data = files.encoded(Image.fromarray(noise), kind)
    with pytest.raises((Undecodable, UnsupportedMedia)):
        list(decoder.pages(data[: len(data) * tenth // 10]))


JPEGS: dict[str, tuple[str, dict[str, object]]] = {
    "baseline": ("RGB", {}),
    "4:4:4": ("RGB", {"subsampling": 0}),
    "4:2:2": ("RGB", {"subsampling": 1}),
    "grey": ("L", {}),
    "CMYK": ("CMYK", {}),
    "optimised": ("RGB", {"optimize": True, "quality": 10}),
    "fine": ("RGB", {"quality": 100}),
    "progressive": ("RGB", {"progressive": True}),
    "progressive grey": ("L", {"progressive": True}),
    "restarts": ("RGB", {"restart_marker_rows": 1}),
    "frequent restarts": ("L", {"restart_marker_blocks": 2}),
    "progressive restarts": ("RGB", {"progressive": True, "restart_marker_rows": 1}),
}
END = b"\xff\xd9"


@pytest.fixture(params=JPEGS)
def whole_jpeg(request: pytest.FixtureRequest) -> bytes:
    """A rendered page of text: large parts of it are blank, as of a real page."""
    mode, options = JPEGS[request.param]
    page = files.picture(size=(300, 200))
    draw = ImageDraw.Draw(page)
    for row in range(10, 150, 14):
        draw.text((10, row), "Whole data is read, cut data is not.", fill="black")
    draw.rectangle((0, 150, 300, 200), fill="white")
    return files.encoded(page.convert(mode), "JPEG", **options)


def test_a_jpeg_without_its_end_marker_is_whole(
    decoder: Decoder, whole_jpeg: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert whole_jpeg.endswith(END)
    expected = decode_one(decoder, whole_jpeg)
    np.testing.assert_array_equal(decode_one(decoder, whole_jpeg[:-2]), expected)
    np.testing.assert_array_equal(decode_one(decoder, whole_jpeg[:-1]), expected)
    np.testing.assert_array_equal(decode_one(decoder, whole_jpeg + b"\0junk"), expected)
    assert capfd.readouterr() == ("", "")


def test_a_cut_jpeg_is_rejected_whatever_its_end(
    decoder: Decoder, whole_jpeg: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    size = len(whole_jpeg)
    for length in [*range(size // 20, size - 2, size // 41), *range(size - 20, size - 2)]:
        for end in (b"", END, END + b"\0" * 50):
            with pytest.raises(Undecodable):
                list(decoder.pages(whole_jpeg[:length] + end))
    assert capfd.readouterr() == ("", "")


def test_a_cut_jpeg_of_many_scans_is_rejected(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = files.picture()
    data = files.encoded(picture, "JPEG", progressive=True)
    expected = decode_one(decoder, data)
    monkeypatch.setattr("serving.imaging.headers._MAX_SCANS", 2)
    assert read_header("jpeg", data).sandboxed
    np.testing.assert_array_equal(decode_one(decoder, data[:-2]), expected)
    for length in (len(data) * 3 // 4, len(data) - 4):
        with pytest.raises(Undecodable, match=r"data is missing|last scan"):
            list(decoder.pages(data[:length] + END))


def test_damaged_images_print_nothing(
    decoder: Decoder, whole_jpeg: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Decoders print warnings unless they are told not to; a server's log is JSON."""
    chance = random.Random(3)
    others = [files.encoded(files.picture(), kind) for kind in ("WEBP", "PNG", "BMP", "TIFF")]
    for good in [whole_jpeg] * 60 + others * 30:
        data = bytearray(good)
        for _ in range(chance.choice([0, 1, 4])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        cut = chance.choice([len(data), chance.randrange(len(data)), chance.randrange(40)])
        with suppress(InputError):
            list(decoder.pages(bytes(data[:cut])))
    assert capfd.readouterr() == ("", "")


def test_a_png_without_a_complete_end_is_decoded(decoder: Decoder) -> None:
    picture = files.picture()
    data = files.encoded(picture, "PNG")
    np.testing.assert_array_equal(decode_one(decoder, data[:-12]), files.bgr(picture))
    np.testing.assert_array_equal(decode_one(decoder, data[:-14]), files.bgr(picture))


def test_a_damaged_png_is_rejected(decoder: Decoder) -> None:
    data = bytearray(files.encoded(files.picture(), "PNG"))
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(Undecodable, match="checksum of its IDAT"):
        decoder.pages(bytes(data))


def test_metadata_bombs_and_damaged_metadata_in_a_png_are_ignored(
    decoder: Decoder, capfd: pytest.CaptureFixture[str]
) -> None:
    bomb = zlib.compress(bytes(50_000_000))
    data = files.png(
        2,
        1,
        (b"zTXt", b"Comment\0\0" + bomb),
        (b"iCCP", b"profile\0\7" + bomb),
        (b"acTL", b"\0\0"),
        (b"zTXt", b"Raw profile type exif\0\0" + bomb),
        rows=b"\0\1\2",
    )
    assert decode_one(decoder, data)[0, :, 0].tolist() == [1, 2]
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_whose_decoding_ends_after_a_warning_is_rejected(decoder: Decoder) -> None:
    whole = files.encoded(files.picture(), "JPEG", progressive=True)
    scan_end = whole.find(b"\xff\xc4", whole.find(b"\xff\xda"))
    unknown_marker = b"\xff\x7f"
    with pytest.raises(Undecodable, match="broken JPEG"):
        decode_one(decoder, whole[: scan_end - 4] + unknown_marker + whole[scan_end:])


def test_a_jpeg_of_many_scans_is_decoded_in_the_sandbox(decoder: Decoder) -> None:
    data = files.encoded(files.picture(), "JPEG", progressive=True)
    assert not read_header("jpeg", data).sandboxed
    scans = data + b"\xff\xda\0\0" * 100
    assert read_header("jpeg", scans).sandboxed
    np.testing.assert_array_equal(decode_one(decoder, scans), decode_one(decoder, data))


def test_a_sequential_jpeg_has_one_scan(decoder: Decoder) -> None:
    data = files.encoded(files.picture(), "JPEG")
    scan = data[data.rindex(b"\xff\xda") : -2]
    many = data[:-2] + scan * 100 + data[-2:]
    assert not read_header("jpeg", many).sandboxed
    np.testing.assert_array_equal(decode_one(decoder, many), decode_one(decoder, data))


def test_run_length_bmp(decoder: Decoder) -> None:
    # Two rows of two pixels, absolute and encoded runs, palette of two greys.
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 8, 1, 8, 0, 0, 2, 0)
    rows = b"\2\0\0\0" + b"\1\0\1\1\0\1"
    palette = b"\x10\x10\x10\0\xf0\xf0\xf0\0"
    offset = 14 + len(header) + len(palette)
    data = b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + palette + rows
    assert read_header("bmp", data).sandboxed
    assert decode_one(decoder, data)[..., 0].tolist() == [[0x10, 0xF0], [0x10, 0x10]]


def test_header_and_pixels_must_agree(decoder: Decoder) -> None:
    data = bytearray(files.encoded(files.picture(), "WEBP", exif=orientation_block(1)))
    data[24] += 1
    with pytest.raises(Undecodable):
        list(decoder.pages(bytes(data)))


def test_corrupted_bytes_give_pages_or_an_input_error(decoder: Decoder) -> None:
    chance = random.Random(7)
    kinds = [files.encoded(files.picture(), kind) for kind in ("PNG", "JPEG", "BMP", "WEBP")]
    for _ in range(400):
        data = bytearray(chance.choice(kinds))
        for _ in range(chance.choice([1, 3, 20])):
            data[chance.randrange(chance.choice([60, len(data)])) % len(data)] = chance.randrange(
                256
            )
        try:
            for page in decoder.pages(bytes(data)):
                assert page.shape[2] == 3
        except InputError:
            pass


@pytest.mark.parametrize("dpi", [0, 35, 1201, -144])
def test_resolution_is_bounded(decoder: Decoder, dpi: int) -> None:
    with pytest.raises(BadRequest, match="36 to 1200"):
        decoder.pages(b"%PDF-1.4", pdf_dpi=dpi)


def test_unusual_real_files_give_pages_or_an_error(
    decoder: Decoder, shared_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    read = set()
    for path in sorted([*(shared_data / "odd").iterdir(), *(shared_data / "pdf").iterdir()]):
        try:
            for page in decoder.pages(path.read_bytes()):
                assert page.dtype == np.uint8 and page.shape[2] == 3
            read.add(path.name)
        except InputError as error:
            assert len(str(error)) > 20
    assert len(read) > 35
    assert capfd.readouterr() == ("", "")
    [white] = decoder.pages(
        (shared_data / "odd/rapidocr__white_font_color_transparent.png").read_bytes()
    )
    assert white[0, 0].tolist() == [0, 0, 0]
