"""A decoded Pillow image, whatever its mode, to 8-bit grey or RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
