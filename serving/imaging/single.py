"""One image in the calling thread.

OpenCV decodes plain JPEG and WebP: the same pixels as Pillow in half the time, without the
interpreter's lock. Pillow decodes the rest: on grey PNG it is as fast, it refuses what is cut
off, and it prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from PIL.Image import DecompressionBombError

from serving.errors import TooLarge, Undecodable
from serving.imaging import still
from serving.imaging.header import Header
from serving.imaging.pixels import Array
from serving.imaging.sniff import title

_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_TURNS: dict[int, Callable[[cv2.typing.MatLike], cv2.typing.MatLike]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def decode(kind: still.StillKind, header: Header) -> Array:
    """(H, W, 3) BGR, uint8, C-contiguous, upright. Raises Undecodable, TooLarge (no memory)."""
    try:
        image = _with_opencv(header) if header.plain else None
        if image is None:
            with still.broken(kind):
                image = _with_pillow(kind, header)
    except (MemoryError, DecompressionBombError) as error:
        raise TooLarge(
            f"no memory to decode {header.width} x {header.height} pixels: send it smaller"
        ) from error
    height, width = image.shape[:2]
    if (width, height) != header.size:
        raise Undecodable(
            f"broken {title(kind)}: it has {width} x {height} pixels, and its header says "
            f"{header.size[0]} x {header.size[1]}"
        )
    return image


def _with_opencv(header: Header) -> Array | None:
    """None where OpenCV refuses the file: Pillow then decides, and says what is wrong."""
    try:
        image = cv2.imdecode(np.frombuffer(header.body, np.uint8), _FLAGS)
    except cv2.error:
        return None
    if image is None:
        return None
    turn = _TURNS.get(header.orientation)
    return np.ascontiguousarray(image if turn is None else turn(image), np.uint8)


def _with_pillow(kind: still.StillKind, header: Header) -> Array:
    image = still.draw(still.open_still(kind, header.body), header.orientation)
    code = cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR
    return np.ascontiguousarray(cv2.cvtColor(image, code), np.uint8)
