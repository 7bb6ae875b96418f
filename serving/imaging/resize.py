"""The size at which a page is searched for text."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
_STEP = 32
"""A detector halves its input five times."""
_CLASS = 64


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """`limit_side_len`, `limit_type` and `max_side_limit` of the pipeline YAML, in pixels."""

    side: int
    kind: str
    """min: enlarge a page whose shorter side is under `side`; max: shrink one whose longer side
    is over it; resize_long: make the longer side `side`."""
    longest: int = 4000


def detection_size(height: int, width: int, limit: SizeLimit) -> tuple[int, int]:
    """(height, width) for the detector: multiples of 32, as PaddleX's DetResizeForTest computes."""
    if limit.kind == "max":
        ratio = min(1.0, limit.side / max(height, width))
    elif limit.kind == "min":
        ratio = max(1.0, limit.side / min(height, width))
    else:
        ratio = limit.side / max(height, width)
    sides = int(height * ratio), int(width * ratio)
    if max(sides) > limit.longest:
        ratio = limit.longest / max(sides)
        sides = int(sides[0] * ratio), int(sides[1] * ratio)
    return max(round(sides[0] / _STEP) * _STEP, _STEP), max(round(sides[1] / _STEP) * _STEP, _STEP)


def size_class(height: int, width: int) -> tuple[int, int]:
    """The size to which a detector's input is padded, so that engines meet few shapes.

    Both sides go up to a multiple of 64: with pages of at most 960 pixels that is 225 shapes at
    the very most, and some 20 for pages of any format. The first page of a shape costs an engine
    as much as two later ones.
    """
    return ceil(height / _CLASS) * _CLASS, ceil(width / _CLASS) * _CLASS


def shrink(height: int, width: int, most: tuple[int, int]) -> tuple[int, int]:
    """The size, made smaller in proportion where an engine takes no more than `most`.

    Multiples of 32, as the sides of `most` are.
    """
    ratio = min(1.0, most[0] / height, most[1] / width)
    if ratio == 1.0:
        return height, width
    down, across = (max(int(side * ratio / _STEP) * _STEP, _STEP) for side in (height, width))
    return down, across


def resize_padded(image: Image, size: tuple[int, int], padded: tuple[int, int]) -> Image:
    """The image at `size`, its last row and column repeated up to `padded`, (height, width)."""
    (height, width), (full_height, full_width) = size, padded
    fitted = np.empty((full_height, full_width, 3), np.uint8)
    resize_into(fitted[:height, :width], image)
    fitted[:height, width:] = fitted[:height, width - 1 : width]
    fitted[height:] = fitted[height - 1]
    return fitted


def pad_tiny(image: Image) -> Image:
    """Pad an image whose sides add up to less than 64 with black to at least 32 x 32."""
    height, width = image.shape[:2]
    if height + width >= 64:
        return image
    padded = np.zeros((max(32, height), max(32, width), 3), np.uint8)
    padded[:height, :width] = image
    return padded


def resize(image: Image, height: int, width: int) -> Image:
    """Bilinear, as the reference."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height)), np.uint8)


def resize_into(target: Image, image: Image) -> None:
    """Fill a part of an array, (H, W, 3) with rows of their own, with the image at that size."""
    height, width = target.shape[:2]
    if image.shape[:2] == (height, width):
        target[:] = image
    else:
        written = cv2.resize(image, (width, height), dst=target)
        assert written is target  # OpenCV makes an array of its own where the size is another
