"""Headers of single images: size, EXIF orientation, and how to decode each safely.

JPEG, PNG and WebP are parsed here, with time and memory in proportion to the file. Pillow's
readers take a second for 20 MB of junk in a JPEG, reject PNGs for damaged metadata, allocate a
WebP's canvas before its size can be checked, warn about broken EXIF blocks on stderr, and read the
orientation from XMP as well, which browsers and OpenCV do not.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import chain, product
from typing import Literal

from PIL.ExifTags import Base

from serving.errors import Undecodable
from serving.imaging import pillow
from serving.imaging.formats import Data
from serving.types import Dpi

SingleKind = Literal["jpeg", "png", "webp", "bmp"]


@dataclass(frozen=True, slots=True)
class Header:
    """What an image file says of itself, before any pixel is decoded."""

    width: int
    """Pixels as stored, before the orientation is applied."""
    height: int
    body: Data
    """What to decode: the file, without chunks that do not affect the pixels."""
    orientation: int = 1
    """EXIF, 1 to 8."""
    opencv: bool = False
    """OpenCV decodes it to the same pixels as Pillow, in half the time."""
    jpeg_mode: str = ""
    """BGR, CMYK or CMYK;I (inverted) if `jpeg.decode` can read it."""
    sandboxed: bool = False
    """Decoding time is not bounded by the file's size: a decoder process must do it."""
    stored_dpi: Dpi | None = None
    """As the file says, before the orientation is applied."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image."""
        if self.orientation >= 5:
            return self.height, self.width
        return self.width, self.height

    @property
    def dpi(self) -> Dpi | None:
        """Of the upright image."""
        turned = self.stored_dpi is not None and self.orientation >= 5
        return self.stored_dpi[::-1] if self.stored_dpi and turned else self.stored_dpi


def read_header(kind: SingleKind, data: Data) -> Header:
    """Raises Undecodable for a header that is damaged, cut off or gives no size."""
    if kind == "jpeg":
        return _read_jpeg(data)
    if kind == "png":
        return _read_png(data)
    if kind == "webp":
        return _read_webp(data)
    with pillow.damage_as_undecodable("bmp"):
        image = pillow.open_image("bmp", data[:_BMP_HEADER_BYTES])
        # Pillow expands run lengths in Python: slow, and holding the interpreter's lock.
        dpi = pillow.dpi_of(image)
    sandboxed = image.info["compression"] in _RUN_LENGTH
    return Header(*image.size, data, sandboxed=sandboxed, stored_dpi=dpi)


_BMP_HEADER_BYTES = 4096
_RUN_LENGTH = (1, 2)


def exif_orientation(block: Data) -> int:
    """The orientation (1 to 8) in an EXIF block: TIFF structure, `Exif\\0\\0` before it or not.

    1 (upright) without the tag and for a broken block: unreadable metadata is no reason to reject
    the pixels.
    """
    block = bytes(block).removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(count):
            tag, kind = struct.unpack_from(f"{order}HH", block, start + 2 + 12 * entry)
            if tag == Base.Orientation:
                value_format = {1: "B", 3: "H", 4: "I"}.get(kind, "H")
                (value,) = struct.unpack_from(
                    f"{order}{value_format}", block, start + 2 + 12 * entry + 8
                )
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


_PROGRESSIVE = {0xC2, 0xCA}
_START_OF_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
_START_OF_SCAN = 0xDA
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
_JFIF_UNITS = {b"\1": 1.0, b"\2": 2.54}
"""Dots per inch, or per centimetre."""
_METADATA = set(range(0xE1, 0xF0)) - {_APP14}
"""Application segments; JFIF (0xE0) and Adobe's (0xEE) say how the colours are stored."""

# Encoders write about ten scans. Each may cover the whole image in a few bytes, so that a small
# file can cause hours of work.
_MAX_SCANS = 32
_MAX_SEGMENTS = 10_000


def _read_jpeg(data: Data) -> Header:
    """ITU T.81, annex B: markers up to the first scan. Metadata segments are removed.

    Pillow warns on stderr about broken EXIF blocks, and joins thousands of them in quadratic time.
    """
    data = bytes(data)
    width = height = precision = 0
    components = b""
    profile: bytes | None = None
    progressive = adobe = False
    dpi: Dpi | None = None
    parts: list[bytes] = []
    copied = 0
    position = 2
    for _ in range(_MAX_SEGMENTS):
        position = data.find(b"\xff", position)
        while position >= 0 and data[position + 1 : position + 2] == b"\xff":
            position += 1
        if position < 0 or position + 4 >= len(data):
            raise Undecodable("broken JPEG: it ends before its first scan")
        marker = data[position + 1]
        if marker in _WITHOUT_LENGTH or marker == 0x00:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        end = position + 2 + max(length, 2)
        segment = data[position + 4 : end]
        if marker in _START_OF_FRAME and len(segment) >= 6:
            progressive = marker in _PROGRESSIVE
            precision, components = segment[0], segment[6 : 6 + 3 * segment[5] : 3]
            height = int.from_bytes(segment[1:3], "big")
            width = int.from_bytes(segment[3:5], "big")
        elif marker == _APP0 and segment.startswith(b"JFIF\0") and segment[7:8] in _JFIF_UNITS:
            per_inch = _JFIF_UNITS[segment[7:8]]
            across, down = segment[8:10], segment[10:12]
            dpi = pillow.plausible(
                int.from_bytes(across, "big") * per_inch, int.from_bytes(down, "big") * per_inch
            )
        elif marker == _APP1 and profile is None and segment.startswith(b"Exif\0\0"):
            profile = segment
        elif marker == _APP14 and segment.startswith(b"Adobe"):
            adobe = True
        elif marker == _START_OF_SCAN:
            break
        if marker in _METADATA:
            parts.append(data[copied:position])
            copied = end
        position = end
    else:
        raise Undecodable(f"broken JPEG: more than {_MAX_SEGMENTS} segments before its first scan")
    if not width or not height:
        raise Undecodable("broken JPEG: no frame header with a width and a height")
    mode = {1: "BGR", 3: "BGR", 4: "CMYK;I" if adobe else "CMYK"}.get(len(components), "")
    # If the first scan has every component, it is the only one: most files need no count.
    single = not progressive and data[position + 4] == len(components)
    return Header(
        width,
        height,
        b"".join([*parts, data[copied:]]) if parts else data,
        exif_orientation(profile or b""),
        jpeg_mode=mode if precision == 8 else "",
        sandboxed=not single and _has_many_scans(data, position, components, progressive),
        stored_dpi=dpi,
    )


def _has_many_scans(data: bytes, position: int, components: bytes, progressive: bool) -> bool:
    """From the first one's `position` on. Raises Undecodable if there are few, but not all.

    A progressive image needs every coefficient to its last bit. (T.81 allows less, but then nobody
    can tell a whole file from one that was cut between two scans.)
    """
    missing = set(product(components, range(64)))
    for _ in range(_MAX_SCANS):
        end = position + 5 + 2 * data[position + 4]
        first, last, bits = data[end : end + 3].ljust(3, b"\xff") if progressive else (0, 63, 0)
        if bits & 15 == 0:
            named = data[position + 5 : min(end, position + 13) : 2]
            missing -= set(product(named, range(first, last + 1)))
        # Inside a scan 0xFF is always stuffed, so that only markers are found.
        position = data.find(b"\xff\xda", position + 2, len(data) - 4)
        if position < 0:
            if missing:
                raise Undecodable("broken JPEG: it ends before its last scan")
            return False
    return True


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
"""In the order in which they must be in a file."""
_MAX_CHUNKS = 100_000
_MAX_PROFILE = 1 << 18
_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")


def _read_png(data: Data) -> Header:
    """ISO/IEC 15948. The file is reduced to the chunks that affect the pixels of its first image.

    The others (text, colour profiles, animation) are where decoders warn on stderr, inflate bombs
    or reject a file whose pixels are fine. A file cut off inside or after its last IDAT is passed
    on as it is: the decoder checks whether all rows are there.
    """
    view = memoryview(data)
    chunks: dict[bytes, list[memoryview]] = {name: [] for name in _PIXEL_CHUNKS}
    profile: bytes | None = None
    dpi: Dpi | None = None
    position = len(_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(view):
            break
        length, name = struct.unpack_from(">I4s", view, position)
        end = position + 12 + length
        chunk, position = view[position:end], end
        body = chunk[8 : 8 + length]
        if name in chunks:
            is_whole = len(chunk) == 12 + length
            is_damaged = is_whole and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big")
            if is_damaged and name != b"tRNS":
                raise Undecodable(f"broken PNG: the checksum of its {name.decode()} is wrong")
            if not is_damaged and (name == b"IDAT" or not chunks[name]):
                chunks[name].append(chunk)
        elif name == b"IEND":
            break
        elif name == b"pHYs" and len(body) == 9:
            across, down, is_metre = struct.unpack(">IIB", body)
            dpi = pillow.plausible(across * 0.0254, down * 0.0254) if is_metre else None
        elif profile is None:
            profile = _png_exif(name, bytes(body))
    else:
        raise Undecodable(f"broken PNG: more than {_MAX_CHUNKS} chunks")
    header = b"".join(chunks[b"IHDR"])
    if len(header) < 25 or not chunks[b"IDAT"]:
        raise Undecodable("broken PNG: it ends before its pixels")
    width, height = struct.unpack_from(">II", header, 8)
    if not width or not height:
        raise Undecodable(f"broken PNG: its size is {width} x {height}")
    return Header(
        width,
        height,
        b"".join([_SIGNATURE, *chain.from_iterable(chunks.values())]),
        exif_orientation(profile or b""),
        stored_dpi=dpi,
    )


def _png_exif(name: bytes, body: bytes) -> bytes | None:
    """The EXIF block of an eXIf chunk, or of the hexadecimal text that ImageMagick used earlier."""
    if name == b"eXIf":
        return body
    keyword, _, text = body.partition(b"\0")
    if name not in (b"tEXt", b"zTXt") or keyword not in _PROFILES:
        return None
    try:
        if name == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_PROFILE)
        # A line with the name, one with the length, then the bytes in hexadecimal.
        digits = text.lstrip(b"\n").split(b"\n", 2)[2]
        return bytes.fromhex(digits.decode("ascii"))
    except (zlib.error, IndexError, ValueError):
        return b""


_ANIMATED, _EXIF, _ALPHA = 0x02, 0x08, 0x10
_MAX_WEBP_CHUNKS = 1000


def _read_webp(data: Data) -> Header:
    """RFC 9649. The size is that of the canvas, also for animations."""
    head = bytes(data[:30])
    name = head[12:16]
    flags, orientation = 0, 1
    if name == b"VP8 " and head[23:26] == b"\x9d\x01\x2a" and len(head) == 30:
        width = int.from_bytes(head[26:28], "little") & 0x3FFF
        height = int.from_bytes(head[28:30], "little") & 0x3FFF
    elif name == b"VP8L" and head[20:21] == b"\x2f" and len(head) >= 25:
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        flags = _ALPHA if bits >> 28 & 1 else 0
    elif name == b"VP8X" and len(head) == 30:
        flags = head[20]
        width = int.from_bytes(head[24:27], "little") + 1
        height = int.from_bytes(head[27:30], "little") + 1
        if flags & _EXIF:
            orientation = exif_orientation(_webp_chunk(data, b"EXIF"))
    else:
        raise Undecodable("broken WebP: no image header")
    if not width or not height:
        raise Undecodable(f"broken WebP: its size is {width} x {height}")
    # Of a shorter file OpenCV says on stderr that it is broken.
    opencv = not flags & (_ANIMATED | _ALPHA) and len(data) >= 32
    return Header(width, height, data, orientation, opencv=opencv)


def _webp_chunk(data: Data, name: bytes) -> bytes:
    position = 12
    for _ in range(_MAX_WEBP_CHUNKS):
        head = bytes(data[position : position + 8])
        if len(head) < 8:
            break
        length = int.from_bytes(head[4:], "little")
        if head[:4] == name:
            return bytes(data[position + 8 : position + 8 + length])
        position += 8 + length + (length & 1)
    return b""
