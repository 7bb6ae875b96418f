"""The EXIF orientation: read it, obey it.

Read here and not by Pillow, whose EXIF reader warns on stderr about broken blocks and
also takes XMP's word, which browsers and OpenCV do not.
"""

from __future__ import annotations

import struct

from PIL import Image

from serving.imaging.sniff import Data

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


def orientation(block: Data) -> int:
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
