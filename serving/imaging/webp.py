"""The header of a WebP (RFC 9649)."""

from __future__ import annotations

from serving.errors import Undecodable
from serving.imaging import exif
from serving.imaging.header import Header
from serving.imaging.sniff import Data

_ANIMATED, _EXIF, _ALPHA = 0x02, 0x08, 0x10
_MOST_CHUNKS = 1000


def read(data: Data) -> Header:
    """The canvas; of an animation the first frame is read. Raises Undecodable."""
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
            orientation = exif.orientation(_chunk(data, b"EXIF"))
    else:
        raise Undecodable("broken WebP: no image header")
    if not width or not height:
        raise Undecodable(f"broken WebP: its size is {width} x {height}")
    plain = not flags & (_ANIMATED | _ALPHA)
    return Header(width, height, data, orientation, plain=plain)


def _chunk(data: Data, wanted: bytes) -> bytes:
    position = 12
    for _ in range(_MOST_CHUNKS):
        head = bytes(data[position : position + 8])
        if len(head) < 8:
            break
        length = int.from_bytes(head[4:], "little")
        if head[:4] == wanted:
            return bytes(data[position + 8 : position + 8 + length])
        position += 8 + length + (length & 1)
    return b""
