"""The header of a WebP (RFC 9649).

The EXIF orientation: read it, obey it.

Read here and not by Pillow, whose EXIF reader warns on stderr about broken blocks and
also takes XMP's word, which browsers and OpenCV do not.

What the header of a single image tells before anything is decoded.

The header of a BMP.

The header of a JPEG (ITU T.81, annex B): markers up to the first scan.

The chunks of a PNG (ISO/IEC 15948): header, orientation, and the file cut to its pixels.

Only the chunks that make pixels are kept. The others (text, colour profiles, animation)
are where decoders warn on stderr, inflate bombs or refuse a file whose pixels are fine.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from PIL import Image

from serving.errors import Undecodable
from serving.imaging.formats import Data

_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def exif_orientation(block: Data) -> int:
    """1 to 8 out of an EXIF block (TIFF structure, with or without `Exif\\0\\0` before it).

    A block without the tag, or a broken one, means 1: upright. Metadata that nobody can
    read is no reason to refuse the pixels.
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
            if tag == _ORIENTATION:
                value_format = {1: "B", 3: "H", 4: "I"}.get(kind, "H")
                (value,) = struct.unpack_from(
                    f"{order}{value_format}", block, start + 2 + 12 * entry + 8
                )
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image turned and mirrored as `orientation` (1 to 8) asks."""
    transpose = _TRANSPOSE.get(orientation)
    return image if transpose is None else image.transpose(transpose)


@dataclass(frozen=True, slots=True)
class Header:
    width: int
    """Pixels as stored, before `orientation` is obeyed."""
    height: int
    body: Data
    """What to decode: the file, or what is left of it without parts nobody needs."""
    orientation: int = 1
    """EXIF, 1 to 8."""
    plain: bool = False
    """OpenCV decodes it to the same pixels as Pillow, in half the time."""
    runaway: bool = False
    """The time to decode it is not bounded by its size: only a helper may do it."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image."""
        if self.orientation >= 5:
            return self.height, self.width
        return self.width, self.height


_RLE = (1, 2)


def read_bmp(data: Data) -> Header:
    """Raises Undecodable for a header that is cut off or gives no size."""
    head = bytes(data[:34])
    size = int.from_bytes(head[14:18], "little")
    try:
        if size in (12, 16):
            width, height = struct.unpack_from("<HH" if size == 12 else "<II", head, 18)
            compression = 0
        else:
            width, height = struct.unpack_from("<ii", head, 18)
            (compression,) = struct.unpack_from("<I", head, 30)
    except struct.error:
        raise Undecodable("broken BMP: it ends inside its header") from None
    height = abs(height)  # negative: rows from the top down
    if width <= 0 or height == 0:
        raise Undecodable(f"broken BMP: its size is {width} x {height}")
    # Pillow unpacks run lengths in Python: slow, and holding the interpreter's lock.
    return Header(width, height, data, runaway=compression in _RLE)


_SEQUENTIAL = {0xC0, 0xC1}
_START_OF_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
_START_OF_SCAN = 0xDA
_APP1 = 0xE1

# Encoders write about ten scans. Each may cover the whole image and take few bytes, so
# that a small file can ask for hours of work.
_MOST_SCANS = 32
_MOST_SEGMENTS = 10_000


def read_jpeg(data: Data) -> Header:
    """Raises Undecodable where no frame header comes before the first scan."""
    data = bytes(data)
    width = height = components = precision = 0
    profile: bytes | None = None
    sequential = False
    position = 2
    for _ in range(_MOST_SEGMENTS):
        position = data.find(b"\xff", position)
        while position >= 0 and data[position + 1 : position + 2] == b"\xff":
            position += 1
        if position < 0 or position + 4 > len(data):
            raise Undecodable("broken JPEG: it ends before its first scan")
        marker = data[position + 1]
        if marker in _WITHOUT_LENGTH or marker == 0x00:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if marker in _START_OF_FRAME and len(segment) >= 6:
            sequential = marker in _SEQUENTIAL
            precision, components = segment[0], segment[5]
            height = int.from_bytes(segment[1:3], "big")
            width = int.from_bytes(segment[3:5], "big")
        elif marker == _APP1 and profile is None and segment.startswith(b"Exif\0\0"):
            profile = segment
        elif marker == _START_OF_SCAN:
            break
        position += 2 + max(length, 2)
    else:
        raise Undecodable(f"broken JPEG: more than {_MOST_SEGMENTS} segments before its first scan")
    if not width or not height:
        raise Undecodable("broken JPEG: no frame header with a width and a height")
    # Inside a scan 0xFF is always stuffed, so these two are markers and nothing else. A sequential
    # frame whose first scan has every component has no other: few files have to be counted through.
    alone = sequential and data[position + 4 : position + 5] == bytes([components])
    scans = 1 if alone else data.count(b"\xff\xda", position)
    whole = data.rfind(b"\xff\xd9", position) >= 0
    return Header(
        width,
        height,
        data,
        exif_orientation(profile or b""),
        # Without the end marker OpenCV's older releases paint the missing rows grey and say
        # nothing; Pillow tells a truncated file from one that only lacks the marker.
        plain=whole and precision == 8 and components in (1, 3),
        runaway=scans > _MOST_SCANS,
    )


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 100_000
_MOST_PROFILE = 1 << 18
_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")


def read_png(data: Data) -> Header:
    """The first image of the file. Raises Undecodable for a missing or damaged chunk.

    A file cut off inside or after its last IDAT is passed on with what it has: the decoder
    tells whether all rows are there.
    """
    view = memoryview(data)
    header = b""
    profile: bytes | None = None
    tables: dict[bytes, bytes] = {}
    pixels: list[memoryview] = []
    position = len(_SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(view):
            break
        length, name = struct.unpack_from(">I4s", view, position)
        body = view[position + 8 : position + 8 + length]
        checksum = bytes(view[position + 8 + length : position + 12 + length])
        whole = len(checksum) == 4
        position += 12 + length
        if name in (b"IHDR", b"PLTE", b"IDAT", b"tRNS"):
            valid = whole and zlib.crc32(body, zlib.crc32(name)) == int.from_bytes(checksum, "big")
            if whole and not valid and name != b"tRNS":
                raise Undecodable(f"broken PNG: the checksum of its {name.decode()} is wrong")
            if name == b"IDAT":
                pixels.append(body)
            elif name == b"IHDR":
                header = header or bytes(body)
            elif valid:
                tables.setdefault(name, bytes(body))
        elif name == b"IEND":
            break
        elif profile is None:
            profile = _png_exif(name, bytes(body))
    else:
        raise Undecodable(f"broken PNG: more than {_MOST_CHUNKS} chunks")
    if len(header) < 13 or not pixels:
        raise Undecodable("broken PNG: it ends before its pixels")
    width, height = struct.unpack_from(">II", header)
    if not width or not height:
        raise Undecodable(f"broken PNG: its size is {width} x {height}")
    parts = [_png_chunk(b"IHDR", header)]
    parts += [_png_chunk(name, tables[name]) for name in (b"PLTE", b"tRNS") if name in tables]
    parts += [_png_chunk(b"IDAT", b"".join(pixels)), _png_chunk(b"IEND", b"")]
    return Header(width, height, _SIGNATURE + b"".join(parts), exif_orientation(profile or b""))


def _png_chunk(name: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(name))
    return struct.pack(">I4s", len(body), name) + body + struct.pack(">I", checksum)


def _png_exif(name: bytes, body: bytes) -> bytes | None:
    """The EXIF block in an eXIf chunk, or in the hexadecimal text ImageMagick used before it."""
    if name == b"eXIf":
        return body
    keyword, _, text = body.partition(b"\0")
    if name not in (b"tEXt", b"zTXt") or keyword not in _PROFILES:
        return None
    try:
        if name == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MOST_PROFILE)
        # A line with the name, one with the length, then the bytes in hexadecimal.
        digits = text.lstrip(b"\n").split(b"\n", 2)[2]
        return bytes.fromhex(digits.decode("ascii"))
    except (zlib.error, IndexError, ValueError):
        return b""


_ANIMATED, _EXIF, _ALPHA = 0x02, 0x08, 0x10
_MOST_WEBP_CHUNKS = 1000


def read_webp(data: Data) -> Header:
    """The canvas; of an animation the first frame is read_webp. Raises Undecodable."""
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
    plain = not flags & (_ANIMATED | _ALPHA)
    return Header(width, height, data, orientation, plain=plain)


def _webp_chunk(data: Data, wanted: bytes) -> bytes:
    position = 12
    for _ in range(_MOST_WEBP_CHUNKS):
        head = bytes(data[position : position + 8])
        if len(head) < 8:
            break
        length = int.from_bytes(head[4:], "little")
        if head[:4] == wanted:
            return bytes(data[position + 8 : position + 8 + length])
        position += 8 + length + (length & 1)
    return b""
