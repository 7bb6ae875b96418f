"""One image with Pillow, strictly: what is cut off or damaged is refused, not half read.

The plugins are called by name and not through `Image.open`, which would try every format it
knows and warn by a limit that is global to the process; ours is checked before, per call.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from PIL import Image, ImageChops, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from serving.errors import OcrError, Undecodable
from serving.imaging import exif
from serving.imaging.pixels import Array, to_array
from serving.imaging.sniff import Data, Kind, title

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
    return to_array(exif.upright(turned, orientation))
