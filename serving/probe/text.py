"""Inputs for the models of text, made as their inference.yml says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from serving.config.model import DetectionModel, Model, RecognitionModel, load_model
from serving.errors import ModelInvalid
from serving.probe.picture import drawn

Round = Mapping[str, np.ndarray[Any, Any]]
"""An array for each input by its name; "" is the only input."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def text_rounds(folder: Path, kind: str) -> list[Round]:
    """Inputs (float32, N x 3 x H x W, normalised as inference.yml says) of two shapes.

    Two, because a conversion may have frozen the shape it was traced with. Raises ModelInvalid.
    """
    model = load_model(folder, folder.name, kind)
    if isinstance(model, DetectionModel):
        sizes = [(1, 480, 640), (1, 320, 480)]
        if model.image_shape is not None:
            sizes = [(1, *model.image_shape)]
    else:
        wider = model.width + (96 if isinstance(model, RecognitionModel) else 0)
        sizes = [(1, model.height, model.width), (2, model.height, wider)]
    return [{"": _batch(model, *size)} for size in sizes]


def model_kind(folder: Path) -> str | None:
    """PaddleX's module name for a model of text, told from its inference.yml; None for others.

    Raises ModelInvalid where that cannot be read.
    """
    path = folder / "inference.yml"
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelInvalid(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    post = data.get("PostProcess") if isinstance(data, dict) else None
    if not isinstance(post, dict):
        return None
    topk = post.get("Topk")
    if isinstance(topk, dict) and "180_degree" in (topk.get("label_list") or ()):
        return "textline_orientation"
    kinds = {"DBPostProcess": "text_detection", "CTCLabelDecode": "text_recognition"}
    return kinds.get(str(post.get("name")))


def _batch(model: Model, count: int, height: int, width: int) -> np.ndarray[Any, Any]:
    norm = model.normalisation
    image = drawn(height, width).astype(np.float32)
    scaled = (image * norm.scale - np.array(norm.mean)) / np.array(norm.std)
    turned = scaled[::-1, ::-1]  # a line classifier has two answers: ask for both
    batch = np.stack([scaled, turned][:count]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(batch, dtype=np.float32)
