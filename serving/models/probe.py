"""What is known of a model before it runs: its kind, and images to compare two runtimes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from serving.config.model import read_inference_yml

_WORDS = (
    "Invoice No. 2041",
    "Total 1,250.00 EUR",
    "The quick brown fox",
    "jumps over 13 lazy dogs",
)
_SIDE = 480
"""Pixels of an image's side where neither the graph nor inference.yml fixes it."""
_SIZES = ("target_size", "size", "image_shape", "img_size", "max_len")
"""Keys of inference.yml with the size that images are resized to."""


def draw_text(height: int, width: int) -> np.ndarray[Any, Any]:
    """Dark text on white, as many lines as fit: uint8 (H, W, 3)."""
    from PIL import Image, ImageDraw, ImageFont

    size = min(32, int(height * 0.7))
    font = ImageFont.load_default(size)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for row, top in enumerate(range(2, max(height - size, 3), size * 2)):
        draw.text((4, top), _WORDS[row % len(_WORDS)], fill=(20, 20, 60), font=font)
    return np.asarray(image)


def model_kind(folder: Path) -> str | None:
    """PaddleX's module name for a text model, from its inference.yml; None for others.

    Raises ModelInvalid where that cannot be read.
    """
    data = read_inference_yml(folder)
    post = data.get("PostProcess") if isinstance(data, dict) else None
    if not isinstance(post, dict):
        return None
    topk = post.get("Topk")
    labels = [*map(str, topk.get("label_list") or ())] if isinstance(topk, dict) else []
    if "180_degree" in labels:
        return "textline_orientation"
    if sorted(labels) == ["0", "180", "270", "90"]:
        return "doc_text_orientation"
    kinds = {"DBPostProcess": "text_detection", "CTCLabelDecode": "text_recognition"}
    return kinds.get(str(post.get("name")))


def image_sizes(folder: Path) -> list[tuple[int, int]]:
    """(height, width) of two images for a model whose graph takes any.

    They differ where a model reads images of any size: a conversion may have frozen the first one.
    Raises ModelInvalid.
    """
    kind = model_kind(folder)
    for key, value in _pairs(read_inference_yml(folder)):
        sides = [value] * 2 if isinstance(value, int) else value
        if key in _SIZES and isinstance(sides, list) and all(isinstance(v, int) for v in sides):
            height, width = sides[-2:]  # `image_shape` begins with the channels
            return [(height, width), (height, width + 96 * (kind == "text_recognition"))]
    return [(_SIDE, 640), (320, _SIDE)] if kind == "text_detection" else [(_SIDE, _SIDE)] * 2


def _pairs(data: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield str(key), value
            yield from _pairs(value)
    elif isinstance(data, list):
        for value in data:
            yield from _pairs(value)
