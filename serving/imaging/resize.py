"""Resizes pages to the input sizes of the text detector."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np

from serving.types import Image

_STRIDE = 32
"""A detector halves its input five times."""
_CLASS_STEP = 64


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """`limit_side_len`, `limit_type` and `max_side_limit` of the pipeline YAML, in pixels."""

    side: int
    kind: str
    """min: enlarge a page whose shorter side is under `side`; max: shrink one whose longer side
    is over it; resize_long: make the longer side `side`."""
    max_side: int = 4000


def detection_size(height: int, width: int, limit: SizeLimit) -> tuple[int, int]:
    """(height, width) for the detector: multiples of 32, as PaddleX's DetResizeForTest computes."""
    if limit.kind == "max":
        ratio = min(1.0, limit.side / max(height, width))
    elif limit.kind == "min":
        ratio = max(1.0, limit.side / min(height, width))
    else:
        ratio = limit.side / max(height, width)
    sides = int(height * ratio), int(width * ratio)
    if max(sides) > limit.max_side:
        ratio = limit.max_side / max(sides)
        sides = int(sides[0] * ratio), int(sides[1] * ratio)
    return max(round(sides[0] / _STRIDE) * _STRIDE, _STRIDE), max(
        round(sides[1] / _STRIDE) * _STRIDE, _STRIDE
    )


def size_class(height: int, width: int) -> tuple[int, int]:
    """The size to which a detector's input is padded, so that engines see few shapes.

    Both sides are rounded up to a multiple of 64: at most 225 shapes for pages of up to 960
    pixels, about 20 in practice. The first page of a shape costs an engine as much as two later
    ones.
    """
    return ceil(height / _CLASS_STEP) * _CLASS_STEP, ceil(width / _CLASS_STEP) * _CLASS_STEP


def fit_within(height: int, width: int, max_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) scaled down in proportion to an engine's `max_size`, to multiples of 32."""
    ratio = min(1.0, max_size[0] / height, max_size[1] / width)
    if ratio == 1.0:
        return height, width
    new_height, new_width = (
        max(int(side * ratio / _STRIDE) * _STRIDE, _STRIDE) for side in (height, width)
    )
    return new_height, new_width


def resize_padded(image: Image, size: tuple[int, int], padded: tuple[int, int]) -> Image:
    """The image resized to `size` and edge-padded to `padded`, both (height, width)."""
    height, width = size
    fitted = np.empty((*padded, 3), np.uint8)
    resize_into(fitted[:height, :width], image)
    fitted[:height, width:] = fitted[:height, width - 1 : width]
    fitted[height:] = fitted[height - 1]
    return fitted


def pad_tiny(image: Image) -> Image:
    """Pad an image whose sides sum to less than 64 with black, to at least 32 x 32."""
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
    """Resize the image into `target`, (H, W, 3), which may be a view with strided rows."""
    height, width = target.shape[:2]
    if image.shape[:2] == (height, width):
        target[:] = image
    else:
        written = cv2.resize(image, (width, height), dst=target)
        assert written is target  # OpenCV allocates a new array if the size does not match
