"""One image with Pillow, strictly: what is cut off or damaged is refused, not half read.

The plugins are called by name and not through `Image.open`, which would try every format it
knows and warn by a limit that is global to the process; ours is checked before, per call.

A decoded Pillow image, whatever its mode, to 8-bit grey or RGB.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from serving.errors import OcrError, Undecodable
from serving.imaging.formats import Data, Kind, title
from serving.imaging.headers import upright

Array = NDArray[np.uint8]

_LIGHT = 192
"""Luma (0 to 255) from which a pixel can hardly be seen on white."""


def to_array(image: Image.Image) -> Array:
    """(H, W) grey or (H, W, 3) RGB, uint8, C-contiguous.

    16-bit grey keeps its 8 highest bits *in use*, because scanners store 12 bits in 16; other
    wide modes are stretched from their lowest to their highest value. Alpha: see `flatten`.
    Raises ValueError for a mode that has no way to RGB.
    """
    if image.mode.startswith("I;16"):
        image = _narrow(image)
    elif image.mode in ("I", "F"):
        image = _stretch(image)
    if image.has_transparency_data:
        image = flatten(image)
    if image.mode != "L":
        image = image.convert("L" if image.mode == "1" else "RGB")
    return np.asarray(image)


def flatten(image: Image.Image) -> Image.Image:
    """The image on an opaque background, RGB: white, or black where white would hide it.

    What the background must contrast with is the outline of what is visible: the pixels of
    at least half the strongest alpha beside one of less. If more than three quarters of the
    outline are nearly white (luma >= 192), as with white letters on nothing, the background is
    black. (Not half: a white card with a dark caption beside it reads well on white.)
    """
    image = _with_alpha(image)
    alpha = np.asarray(image.getchannel("A"))
    if int(alpha.min()) == 255:
        return image.convert("RGB")
    solid = alpha > alpha.max() // 2
    beside = np.zeros_like(solid)
    beside[1:] |= ~solid[:-1]
    beside[:-1] |= ~solid[1:]
    beside[:, 1:] |= ~solid[:, :-1]
    beside[:, :-1] |= ~solid[:, 1:]
    outline = np.asarray(image.convert("RGB").convert("L"))[solid & beside]
    vanishes = outline.size > 0 and np.count_nonzero(outline >= _LIGHT) * 4 > outline.size * 3
    page = Image.new("RGB", image.size, "black" if vanishes else "white")
    page.paste(image, mask=image.getchannel("A"))
    return page


def _with_alpha(image: Image.Image) -> Image.Image:
    try:
        return image.convert("RGBA")
    except ValueError:
        # A transparent colour that the mode cannot hold (16-bit PNG): no pixel has it.
        image = image.copy()
        image.info.pop("transparency", None)
        return image.convert("RGBA")


def _narrow(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint16, copy=False)
    shift = max(int(values.max()).bit_length() - 8, 0)
    grey = Image.fromarray((values >> shift).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _stretch(image: Image.Image) -> Image.Image:
    values: NDArray[Any] = np.nan_to_num(np.asarray(image).astype(np.float64))
    low, high = float(values.min()), float(values.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    return Image.fromarray(((values - low) * scale).astype(np.uint8))


StillKind = Literal["jpeg", "png", "webp", "bmp", "gif"]

_PLUGINS: dict[StillKind, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImageFile,
    "png": PngImageFile,
    "webp": WebPImageFile,
    "bmp": BmpImageFile,
    "gif": GifImageFile,
}


@contextmanager
def broken(kind: Kind, page: int | None = None) -> Iterator[None]:
    """Whatever a decoder makes of damaged bytes becomes Undecodable.

    Decoders raise a dozen types (OSError, SyntaxError, struct.error, ZeroDivisionError ...);
    a list of them would never be complete. MemoryError is raised for who knows the limit.
    """
    try:
        yield
    except (OcrError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise MemoryError from error
        reason = str(error) or type(error).__name__
        raise Undecodable(f"broken {title(kind, page)}: {reason}") from error


def open_still(kind: StillKind, data: Data) -> ImageFile.ImageFile:
    """The image with its header read and no pixel decoded. Raises what Pillow raises."""
    return _PLUGINS[kind](io.BytesIO(data))


def draw(image: ImageFile.ImageFile, orientation: int = 1) -> Array:
    """Decode it: (H, W) grey or (H, W, 3) RGB, uint8, upright. Raises what Pillow raises."""
    image.load()
    turned: Image.Image = image
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for inverted, as Adobe writes them; the marker tells.
        turned = ImageChops.invert(image)
    return to_array(upright(turned, orientation))
