"""Pages of all sizes, for a server to read: 200 pixels to 4000 x 6000, few lines to many."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from benchmarks import corpus

Image = npt.NDArray[np.uint8]

_SMALLEST, _LARGEST, _WIDEST = 200, 6000, 4000
_SAMPLES = 6
_QUALITY = 85


def originals() -> list[Image]:
    """The rendered pages that the mixed ones are made of."""
    return [sample.image for sample in corpus.pages(count=_SAMPLES)]


class Mixed:
    """Endless JPEG files of all sizes made of `pages`; the same seed gives the same."""

    def __init__(self, pages: Sequence[Image], seed: int = 0) -> None:
        self.pages = pages
        self._random = random.Random(seed)  # noqa: S311  repeatable, not secret

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield jpeg(self._next())

    def _next(self) -> Image:
        """A page, a sheet of pages or a cutting of one, at a size drawn evenly by its logarithm."""
        draw = self._random
        longer = round(_SMALLEST * (_LARGEST / _SMALLEST) ** draw.random())
        shorter = min(_WIDEST, max(_SMALLEST, round(longer * draw.uniform(0.4, 1.0))))
        upright = draw.random() < 0.7
        height, width = (longer, shorter) if upright else (shorter, longer)
        page = draw.choice(self.pages)
        if longer < 700:
            top = draw.randrange(max(1, page.shape[0] - height))
            left = draw.randrange(max(1, page.shape[1] - width))
            page = page[top : top + height, left : left + width]
        elif draw.random() < 0.3:
            page = sheet(page, draw.choice((2, 3, 4)))
        return scaled(page, height, width)


def sheet(page: Image, side: int) -> Image:
    """A page so many times beside and below itself."""
    return np.tile(page, (side, side, 1))


def scaled(page: Image, height: int, width: int) -> Image:
    """A page at another size."""
    return np.asarray(cv2.resize(page, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def jpeg(page: Image) -> bytes:
    """As a JPEG file."""
    _, data = cv2.imencode(".jpg", page, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    return data.tobytes()


def pdf(page: Image, count: int) -> bytes:
    """As a PDF of `count` such pages, 144 dots an inch."""
    sheets = [Pillow.fromarray(np.ascontiguousarray(page[:, :, ::-1]))] * count
    out = io.BytesIO()
    sheets[0].save(out, "PDF", save_all=True, append_images=sheets[1:], resolution=144)
    return out.getvalue()
