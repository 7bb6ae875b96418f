"""Bytes to pages: upright BGR images, whatever the file is.

JPEG, PNG, WebP and BMP are decoded in the calling thread, with their size known from the
header before. PDF, TIFF and GIF, and the rare single image whose decoding can run away, go to
the helpers of `sandbox.py`.

One image in the calling thread.

OpenCV decodes plain JPEG and WebP: the same pixels as Pillow in half the time, without the
interpreter's lock. Pillow decodes the rest: on grey PNG it is as fast, it refuses what is cut
off, and it prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from PIL.Image import DecompressionBombError

from serving.errors import BadRequest, TooLarge, Undecodable
from serving.imaging import pillow
from serving.imaging.formats import Data, Kind, Limits, sniff, title
from serving.imaging.headers import Header, read_bmp, read_jpeg, read_png, read_webp
from serving.imaging.pillow import Array, StillKind
from serving.imaging.sandbox.client import Blob, Sandbox, Size

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


def decode(kind: pillow.StillKind, header: Header) -> Array:
    """(H, W, 3) BGR, uint8, C-contiguous, upright. Raises Undecodable, TooLarge (no memory)."""
    try:
        image = _with_opencv(header) if header.plain else None
        if image is None:
            with pillow.broken(kind):
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


def _with_pillow(kind: pillow.StillKind, header: Header) -> Array:
    image = pillow.draw(pillow.open_still(kind, header.body), header.orientation)
    code = cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR
    return np.ascontiguousarray(cv2.cvtColor(image, code), np.uint8)


_HEADERS: dict[StillKind, Callable[[Data], Header]] = {
    "jpeg": read_jpeg,
    "png": read_png,
    "webp": read_webp,
    "bmp": read_bmp,
}
_DPI = range(36, 1201)

# RGBA TIFF, the hungriest, takes 16 bytes a pixel at 100 million pixels.
_MEMORY = 512 << 20
_MEMORY_A_PIXEL = 20


class Pages(Iterator[Array]):
    """The pages of one image or document, decoded one by one as they are asked for.

    Each is (H, W, 3), BGR, uint8, C-contiguous, upright. `next` raises Undecodable, TimedOut,
    NotReady. One that is dropped midway holds nothing but the file's bytes.
    """

    def __init__(self, kind: Kind, sizes: list[Size], draw: Callable[[int], Array]) -> None:
        self.kind = kind
        self.sizes = tuple(sizes)
        """(width, height) of every page."""
        self.count = len(sizes)
        self._draw = draw
        self._next = 0

    def __next__(self) -> Array:
        if self._next >= self.count:
            raise StopIteration
        page = self._next
        self._next += 1
        return self._draw(page)


class Decoder:
    """Decodes for many threads at once. Create it after the fork; `close` ends its helpers.

    `helpers` processes at most are started, when first needed. `page_seconds` of processor
    time and `memory_bytes` are what they may spend on one page (see `Sandbox`); the default
    memory suffices for every format at `limits.max_pixels`.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        helpers: int = 2,
        page_seconds: float = 10.0,
        memory_bytes: int | None = None,
    ) -> None:
        self._limits = limits or Limits()
        if memory_bytes is None:
            memory_bytes = _MEMORY + _MEMORY_A_PIXEL * self._limits.max_pixels
        self._sandbox = Sandbox(helpers, page_seconds=page_seconds, memory_bytes=memory_bytes)

    def pages(self, data: Data, *, pdf_dpi: int = 144) -> Pages:
        """The pages of `data`, which must not change while they are read.

        Format, encryption and limits are checked by this call, before any pixel is decoded.
        Raises UnsupportedMedia, Undecodable, TooLarge, BadRequest (`pdf_dpi` not 36 to 1200),
        TimedOut, NotReady.
        """
        if pdf_dpi not in _DPI:
            raise BadRequest(f"pdf_dpi is {pdf_dpi}: give a whole number from 36 to 1200")
        kind = sniff(data)
        if kind == "jpeg" or kind == "png" or kind == "webp" or kind == "bmp":
            header = _HEADERS[kind](data)
            self._limits.check_pixels(*header.size, what=title(kind))
            if not header.runaway:
                return Pages(kind, [header.size], lambda _: decode(kind, header))
        return self._document(self._sandbox.blob(kind, data, pdf_dpi))

    def close(self) -> None:
        """End the helpers. Whoever is still waiting for a page gets NotReady."""
        self._sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _document(self, blob: Blob) -> Pages:
        count, sizes = self._sandbox.sizes(blob, self._limits.max_pages)
        self._limits.check_pages(count)
        remedy = "send it smaller"
        if blob.kind == "pdf":
            remedy = f"ask for a pdf_dpi below {blob.dpi}"
        for page, size in enumerate(sizes):
            what = title(blob.kind, page)
            if min(size) < 1:
                raise Undecodable(f"broken {what}: {size[0]} x {size[1]} pixels")
            self._limits.check_pixels(*size, what=what, remedy=remedy)

        def draw(page: int) -> Array:
            return self._sandbox.draw(blob, page, sizes[page], last=page == count - 1)

        return Pages(blob.kind, sizes, draw)
