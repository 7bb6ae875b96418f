"""The chunks of a PNG (ISO/IEC 15948): header, orientation, and the file cut to its pixels.

Only the chunks that make pixels are kept. The others (text, colour profiles, animation)
are where decoders warn on stderr, inflate bombs or refuse a file whose pixels are fine.
"""

from __future__ import annotations

import struct
import zlib

from serving.errors import Undecodable
from serving.imaging import exif
from serving.imaging.header import Header
from serving.imaging.sniff import Data

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 100_000
_MOST_PROFILE = 1 << 18
_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")


def read(data: Data) -> Header:
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
            profile = _exif(name, bytes(body))
    else:
        raise Undecodable(f"broken PNG: more than {_MOST_CHUNKS} chunks")
    if len(header) < 13 or not pixels:
        raise Undecodable("broken PNG: it ends before its pixels")
    width, height = struct.unpack_from(">II", header)
    if not width or not height:
        raise Undecodable(f"broken PNG: its size is {width} x {height}")
    parts = [_chunk(b"IHDR", header)]
    parts += [_chunk(name, tables[name]) for name in (b"PLTE", b"tRNS") if name in tables]
    parts += [_chunk(b"IDAT", b"".join(pixels)), _chunk(b"IEND", b"")]
    return Header(width, height, _SIGNATURE + b"".join(parts), exif.orientation(profile or b""))


def _chunk(name: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(name))
    return struct.pack(">I4s", len(body), name) + body + struct.pack(">I", checksum)


def _exif(name: bytes, body: bytes) -> bytes | None:
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
