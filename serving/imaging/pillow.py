"""Decodes images with Pillow, strictly: truncated or damaged files are rejected, not half read.

Plugins are called by name and not through `Image.open`, which tries every format it knows and
warns by a limit that is global to the process; our own limit is checked per call, before decoding.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from serving.errors import OcrError, Undecodable
from serving.imaging.formats import Data, Kind, display_name
from serving.types import Dpi, Image

PillowKind = Literal["jpeg", "png", "webp", "bmp", "gif", "tiff"]

_PLUGINS: dict[PillowKind, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImageFile,
    "png": PngImageFile,
    "webp": WebPImageFile,
    "bmp": BmpImageFile,
    "gif": GifImageFile,
    "tiff": TiffImageFile,
}


@contextmanager
def damage_as_undecodable(kind: Kind, page: int | None = None) -> Iterator[None]:
    """Turn what decoders raise for damaged data into Undecodable; MemoryError passes.

    Decoders raise a dozen types (OSError, SyntaxError, struct.error, ZeroDivisionError ...): a list
    would never be complete.
    """
    try:
        yield
    except (OcrError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise MemoryError from error
        reason = str(error) or type(error).__name__
        raise Undecodable(f"broken {display_name(kind, page)}: {reason}") from error


def open_image(kind: PillowKind, data: Data) -> ImageFile.ImageFile:
    """The image with its header read and no pixel decoded. Raises what Pillow raises."""
    return _PLUGINS[kind](io.BytesIO(data))


_PLAUSIBLE_DPI = range(10, 10_000)


def plausible(across: float, down: float) -> Dpi | None:
    """Dots per inch, to a tenth, or None for what no scanner or camera means."""
    dpi = round(across, 1), round(down, 1)
    return dpi if all(int(value) in _PLAUSIBLE_DPI for value in dpi) else None


def dpi_of(image: PillowImage.Image) -> Dpi | None:
    """What its file says."""
    try:
        across, down = image.info["dpi"]
        return plausible(float(across), float(down))
    except (KeyError, TypeError, ValueError, OverflowError, ArithmeticError):
        return None


def decode(image: PillowImage.Image, orientation: int = 1) -> Image:
    """Its pixels, (H, W) grey or (H, W, 3) RGB, upright. Raises what Pillow raises."""
    image.load()
    transpose = _TRANSPOSE.get(orientation)
    return to_array(image if transpose is None else image.transpose(transpose))


_TRANSPOSE = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}


_NEARLY_WHITE = 192
"""Luma (0 to 255) from which a pixel is hardly visible on white."""


def to_array(image: PillowImage.Image) -> Image:
    """(H, W) grey or (H, W, 3) RGB, uint8, C-contiguous.

    16-bit grey keeps its 8 highest bits *in use*, because scanners store 12 bits in 16; other
    wide modes are stretched from their lowest to their highest value. Alpha: see `flatten`.
    Raises ValueError for a mode that cannot be converted to RGB.
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


def flatten(image: PillowImage.Image) -> PillowImage.Image:
    """The image as RGB on an opaque background: white, or black where white would hide it.

    The background must contrast with the outline of what is visible: pixels with more than half
    of the maximum alpha that have a neighbour with less. If more than three quarters of them are
    nearly white, as for white letters on a transparent background, the background is black. (Not
    half: a white card with a dark caption beside it is readable on white.)
    """
    image = _with_alpha(image)
    alpha = np.asarray(image.getchannel("A"))
    if int(alpha.min()) == 255:
        return image.convert("RGB")
    opaque = alpha > alpha.max() // 2
    edge = np.zeros_like(opaque)
    edge[1:] |= ~opaque[:-1]
    edge[:-1] |= ~opaque[1:]
    edge[:, 1:] |= ~opaque[:, :-1]
    edge[:, :-1] |= ~opaque[:, 1:]
    outline = np.asarray(image.convert("RGB").convert("L"))[opaque & edge]
    invisible = (
        outline.size > 0 and np.count_nonzero(outline >= _NEARLY_WHITE) * 4 > outline.size * 3
    )
    page = PillowImage.new("RGB", image.size, "black" if invisible else "white")
    page.paste(image, mask=image.getchannel("A"))
    return page


def _with_alpha(image: PillowImage.Image) -> PillowImage.Image:
    try:
        return image.convert("RGBA")
    except ValueError:
        # A transparent colour that the mode cannot hold (16-bit PNG): no pixel has it.
        image = image.copy()
        image.info.pop("transparency", None)
        return image.convert("RGBA")


def _narrow(image: PillowImage.Image) -> PillowImage.Image:
    values = np.asarray(image).astype(np.uint16, copy=False)
    shift = max(int(values.max()).bit_length() - 8, 0)
    grey = PillowImage.fromarray((values >> shift).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(
            PillowImage.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        )
    return grey


def _stretch(image: PillowImage.Image) -> PillowImage.Image:
    values: NDArray[Any] = np.nan_to_num(np.asarray(image).astype(np.float64))
    low, high = float(values.min()), float(values.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    return PillowImage.fromarray(((values - low) * scale).astype(np.uint8))
