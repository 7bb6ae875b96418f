"""Inputs for a model of any other kind, told from its graph: names, shapes, types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from serving.probe.picture import drawn
from serving.probe.text import Round

_SIDE = 480
"""Of a picture, where neither the graph nor inference.yml fixes it."""
_LENGTH = 64
"""Of whatever else varies."""
_SIZES = ("target_size", "size", "image_shape", "img_size", "max_len")
"""Keys of inference.yml that say what pictures are resized to."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a graph. What varies in its shape is -1."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def other_rounds(folder: Path, inputs: Sequence[Input]) -> list[Round]:
    """One item, then two at once where the graph takes a batch.

    Pictures show text; `im_shape` and `scale_factor` are what PaddleX gives detectors; all else
    is drawn at random, the same at every call.
    """
    side = _side(folder)
    batches = [1, 2] if any(item.shape[:1] == (-1,) for item in inputs) else [1]
    return [{item.name: _array(item, count, side) for item in inputs} for count in batches]


def _array(item: Input, count: int, side: tuple[int, int]) -> np.ndarray[Any, Any]:
    picture = len(item.shape) == 4 and item.shape[1] in (3, -1)
    varying = (count, 3, *side) if picture else (count, *[_LENGTH] * (len(item.shape) - 1))
    shape = tuple(own if own > 0 else wish for own, wish in zip(item.shape, varying, strict=True))
    if picture:
        image = (drawn(*shape[2:]) / 255 - 0.5) / 0.25
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
    """(height, width) of pictures as inference.yml has them."""
    data = yaml.safe_load((folder / "inference.yml").read_text(encoding="utf-8"))
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
