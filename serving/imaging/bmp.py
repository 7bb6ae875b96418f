"""The header of a BMP."""

from __future__ import annotations

import struct

from serving.errors import Undecodable
from serving.imaging.header import Header
from serving.imaging.sniff import Data

_RLE = (1, 2)


def read(data: Data) -> Header:
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
