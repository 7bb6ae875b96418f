"""A picture of text as a model's input: what a conversion is checked on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from serving.config.model import DetectionModel, Model, RecognitionModel, load_model
from serving.errors import ModelInvalid

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS = (
    "Invoice No. 2041",
    "Total 1,250.00 EUR",
    "The quick brown fox",
    "jumps over 13 lazy dogs",
)


def probe_inputs(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs (float32, N x 3 x H x W, normalised as inference.yml says) of two shapes.

    Two, because a conversion may have frozen the shape it was traced with.
    Raises ModelInvalid for a model that is no text detector, recogniser or line classifier.
    """
    model = load_model(folder, folder.name, _kind(folder))
    if isinstance(model, DetectionModel):
        sizes = [(1, 480, 640), (1, 320, 480)]
        if model.image_shape is not None:
            sizes = [(1, *model.image_shape)]
    else:
        wider = model.width + (96 if isinstance(model, RecognitionModel) else 0)
        sizes = [(1, model.height, model.width), (2, model.height, wider)]
    return {f"input{i}": _batch(model, *size) for i, size in enumerate(sizes)}


def _kind(folder: Path) -> str:
    """PaddleX's module name for the model, told from its inference.yml."""
    path = folder / "inference.yml"
    try:
        text = path.read_text(encoding="utf-8")
        post = yaml.load(text, Loader=_Loader)["PostProcess"]  # noqa: S506
        if "Topk" in post:
            return "textline_orientation"
        return {"DBPostProcess": "text_detection", "CTCLabelDecode": "text_recognition"}[
            post["name"]
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ModelInvalid(
            f"{path}: PostProcess is of no text detector, recogniser or line classifier"
        ) from error


def _batch(model: Model, count: int, height: int, width: int) -> np.ndarray[Any, Any]:
    norm = model.normalisation
    image = _drawn(height, width).astype(np.float32)
    scaled = (image * norm.scale - np.array(norm.mean)) / np.array(norm.std)
    turned = scaled[::-1, ::-1]  # a line classifier has two answers: ask for both
    batch = np.stack([scaled, turned][:count]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(batch, dtype=np.float32)


def _drawn(height: int, width: int) -> np.ndarray[Any, Any]:
    """Dark text on white, as many lines as fit: uint8 (H, W, 3)."""
    from PIL import Image, ImageDraw, ImageFont

    size = min(32, int(height * 0.7))
    font = ImageFont.load_default(size)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for row, top in enumerate(range(2, max(height - size, 3), size * 2)):
        draw.text((4, top), _WORDS[row % len(_WORDS)], fill=(20, 20, 60), font=font)
    return np.asarray(image)
