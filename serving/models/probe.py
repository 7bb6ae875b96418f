"""Inputs to compare two runtimes on: a rendered image of text, normalised as the model needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.config.model import (
    MAX_BYTES,
    DetectionModel,
    Model,
    RecognitionModel,
    UnwarpingModel,
    load_model,
)
from serving.config.yaml_file import read_yaml
from serving.errors import ConfigError, ModelInvalid

_WORDS = (
    "Invoice No. 2041",
    "Total 1,250.00 EUR",
    "The quick brown fox",
    "jumps over 13 lazy dogs",
)


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


Round = Mapping[str, np.ndarray[Any, Any]]
"""An array by input name; "" stands for the only input of a text model."""


def text_rounds(folder: Path, kind: str) -> list[Round]:
    """Inputs of a text model (float32, N x 3 x H x W, normalised by inference.yml) of two shapes.

    Two, because a conversion may have frozen the shape it was traced with. Raises ModelInvalid.
    """
    model = load_model(folder, folder.name, kind)
    assert not isinstance(model, UnwarpingModel)
    if isinstance(model, DetectionModel):
        sizes = [(1, 480, 640), (1, 320, 480)]
        if model.image_shape is not None:
            sizes = [(1, *model.image_shape)]
    else:
        wider = model.width + (96 if isinstance(model, RecognitionModel) else 0)
        sizes = [(1, model.height, model.width), (2, model.height, wider)]
    return [{"": _batch(model, *size)} for size in sizes]


def model_kind(folder: Path) -> str | None:
    """PaddleX's module name for a text model, from its inference.yml; None for others.

    Raises ModelInvalid where that cannot be read.
    """
    path = folder / "inference.yml"
    try:
        data = read_yaml(path, max_bytes=MAX_BYTES)
    except FileNotFoundError:
        raise ModelInvalid(f"{path}: missing; PaddleX exports it beside the graph") from None
    except ConfigError as error:
        raise ModelInvalid(str(error)) from error
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


def _batch(model: Model, count: int, height: int, width: int) -> np.ndarray[Any, Any]:
    norm = model.normalisation
    image = draw_text(height, width).astype(np.float32)
    scaled = (image * norm.scale - np.array(norm.mean)) / np.array(norm.std)
    upside_down = scaled[::-1, ::-1]  # so that a line classifier gives both of its answers
    batch = np.stack([scaled, upside_down][:count]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(batch, dtype=np.float32)


_SIDE = 480
"""Pixels of an image's side where neither the graph nor inference.yml fixes it."""
_LENGTH = 64
"""Size of any other dynamic dimension."""
_SIZES = ("target_size", "size", "image_shape", "img_size", "max_len")
"""Keys of inference.yml with the size that images are resized to."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a graph; -1 is a dynamic dimension of its shape."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def other_rounds(folder: Path, inputs: Sequence[Input]) -> list[Round]:
    """Inputs of any other model: one item, then two at once where the graph takes a batch.

    Images show text; `im_shape` and `scale_factor` are what PaddleX feeds to detectors; all other
    inputs are random with a fixed seed.
    """
    side = _side(folder)
    batches = [1, 2] if any(item.shape[:1] == (-1,) for item in inputs) else [1]
    return [{item.name: _array(item, count, side) for item in inputs} for count in batches]


def _array(item: Input, count: int, side: tuple[int, int]) -> np.ndarray[Any, Any]:
    is_image = len(item.shape) == 4 and item.shape[1] in (3, -1)
    dynamic = (count, 3, *side) if is_image else (count, *[_LENGTH] * (len(item.shape) - 1))
    shape = tuple(a if a > 0 else b for a, b in zip(item.shape, dynamic, strict=True))
    if is_image:
        image = (draw_text(*shape[2:]) / 255 - 0.5) / 0.25
        return np.tile(image.transpose(2, 0, 1)[None], (shape[0], 1, 1, 1)).astype(item.dtype)
    if item.name == "im_shape":
        return np.tile(np.array([side], item.dtype), (shape[0], 1))
    if item.name == "scale_factor":
        return np.ones(shape, item.dtype)
    random = np.random.default_rng(0)
    if np.dtype(item.dtype).kind == "f":
        return random.standard_normal(shape).astype(item.dtype)
    return random.integers(0, 2, shape).astype(item.dtype)


def _side(folder: Path) -> tuple[int, int]:
    """(height, width) of images as inference.yml has them."""
    data = read_yaml(folder / "inference.yml", max_bytes=MAX_BYTES)
    for key, value in _pairs(data):
        sides = [value] * 2 if isinstance(value, int) else value
        if key in _SIZES and isinstance(sides, list) and all(isinstance(v, int) for v in sides):
            height, width = sides[-2:]  # `image_shape` begins with the channels
            return height, width
    return _SIDE, _SIDE


def _pairs(data: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield str(key), value
            yield from _pairs(value)
    elif isinstance(data, list):
        for value in data:
            yield from _pairs(value)
