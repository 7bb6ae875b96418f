"""A picture of text."""

from __future__ import annotations

from typing import Any

import numpy as np

_WORDS = (
    "Invoice No. 2041",
    "Total 1,250.00 EUR",
    "The quick brown fox",
    "jumps over 13 lazy dogs",
)


def drawn(height: int, width: int) -> np.ndarray[Any, Any]:
    """Dark text on white, as many lines as fit: uint8 (H, W, 3)."""
    from PIL import Image, ImageDraw, ImageFont

    size = min(32, int(height * 0.7))
    font = ImageFont.load_default(size)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for row, top in enumerate(range(2, max(height - size, 3), size * 2)):
        draw.text((4, top), _WORDS[row % len(_WORDS)], fill=(20, 20, 60), font=font)
    return np.asarray(image)
