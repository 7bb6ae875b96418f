"""Builds the images and documents of the imaging tests, hostile ones too."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from serving.errors import TimedOut


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    """A gradient: smooth, so that lossy codecs preserve it, and different in every corner."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    rgb = np.stack([x, y, (x + y) / 2], axis=2).astype(np.uint8)
    return Image.fromarray(rgb).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def bgr(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))[..., ::-1]


def png(width: int, height: int, *chunks: tuple[bytes, bytes], rows: bytes = b"") -> bytes:
    """A PNG of 8-bit grey with any header, further chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in body
    )


def pdf(*objects: bytes, trailer: bytes = b"") -> bytes:
    """A PDF of numbered objects; the first must be the catalog."""
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    count = len(objects) + 1
    return (
        body
        + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<</Size %d/Root 1 0 R%s>>\n"
        % (
            count,
            table,
            count,
            trailer,
        )
        + b"startxref\n%d\n%%%%EOF\n" % len(body)
    )


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<<%s/Length %d>>\nstream\n%s\nendstream" % (entries, len(content), content)


def paper(*boxes: str, content: bytes = b"", more: bytes = b"", trailer: bytes = b"") -> bytes:
    """A PDF with a page for every MediaBox, all with the same content stream."""
    kids = b" ".join(b"%d 0 R" % (4 + index) for index in range(len(boxes)))
    return pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, len(boxes)),
        stream(content),
        *(
            b"<</Type/Page/Parent 2 0 R/MediaBox[%s]/Contents 3 0 R%s>>" % (box.encode(), more)
            for box in boxes
        ),
        trailer=trailer,
    )


def unembedded_text_pdf(font: str, ordering: str, cmap: str, text: bytes) -> bytes:
    """A page of 500 x 60 points with text of 40 points from (20, 12), whose font is not embedded.

    `ordering` is the character collection of Adobe (GB1, CNS1, Japan1, Korea1), `cmap` the
    encoding of `text`.
    """
    name = font.encode()
    return pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 500 60]/Contents 4 0 R"
        b"/Resources<</Font<</F 5 0 R>>>>>>",
        stream(b"BT /F 40 Tf 20 12 Td <%s> Tj ET" % text.hex().encode()),
        b"<</Type/Font/Subtype/Type0/BaseFont/%s/Encoding/%s/DescendantFonts[6 0 R]>>"
        % (name, cmap.encode()),
        b"<</Type/Font/Subtype/CIDFontType2/BaseFont/%s/DW 1000/FontDescriptor 7 0 R"
        b"/CIDSystemInfo<</Registry(Adobe)/Ordering(%s)/Supplement 0>>>>"
        % (name, ordering.encode()),
        b"<</Type/FontDescriptor/FontName/%s/Flags 4/FontBBox[0 -200 1000 900]/ItalicAngle 0"
        b"/Ascent 800/Descent -200/CapHeight 700/StemV 80>>" % name,
    )


def endless_pdf() -> bytes:
    """Opens at once; rendering takes hours: nested forms, each drawn ten times."""
    forms = [
        stream(
            b"/F Do " * 10,
            b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</F %d 0 R>>>>" % number,
        )
        for number in range(6, 18)
    ]
    return pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R"
        b"/Resources<</XObject<</F 5 0 R>>>>>>",
        stream(b"/F Do " * 10),
        *forms,
        stream(b"0 0 5 5 re f", b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]"),
    )


def tiff(width: int, height: int, *, next_directory: int = 0, tile: int = 0) -> bytes:
    """A TIFF with the given tags whose pixels are one byte."""
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (277, 3, 1),
    ]
    if tile:
        tags += [(322, 4, tile), (323, 4, tile), (324, 4, 8), (325, 4, 1)]
    else:
        tags += [(273, 4, 8), (278, 4, height), (279, 4, 1)]
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value)
        for tag, kind, value in sorted(tags)
    )
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_directory)
    return b"II*\0" + struct.pack("<I", 12) + b"\x80\0\0\0" + directory


def children() -> set[int]:
    """Process ids of this process's children."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(status.parent.name))
    return found


def given_time(call: Callable[[], Any]) -> Any:
    """What `call` returns or raises; again where a busy machine had no time for it."""
    for _ in range(10):
        with suppress(TimedOut):
            return call()
    return call()
