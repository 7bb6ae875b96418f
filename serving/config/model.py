"""A model's own `inference.yml`: its preprocessing and postprocessing.

PaddleX writes this file when it exports a model; a fine-tuned export has one too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.config.yaml_file import read_yaml
from serving.errors import ConfigError, ModelInvalid

MAX_BYTES = 4 * 1024 * 1024
"""Of an inference.yml, with a dictionary of 18,000 characters."""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """y = (x * scale - mean) / std for each channel; channels in the order `BGR` or `RGB`."""

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    order: str = "BGR"


@dataclass(frozen=True, slots=True)
class DetectionModel:
    """A DB text detector. `image_shape` (height, width), if set, fixes its input size."""

    name: str
    normalisation: Normalisation
    limit_side_len: int = 960
    limit_type: str = "max"
    image_shape: tuple[int, int] | None = None
    keep_ratio: bool = False
    thresh: float = 0.3
    box_thresh: float = 0.6
    unclip_ratio: float = 2.0
    max_candidates: int = 1000
    use_dilation: bool = False
    score_mode: str = "fast"


@dataclass(frozen=True, slots=True)
class OrientationModel:
    """A two-class line classifier. `keep_ratio`: resize to the height, pad to the right."""

    name: str
    normalisation: Normalisation
    height: int
    width: int
    keep_ratio: bool
    class_180: int
    """Index of the class `180_degree`."""


@dataclass(frozen=True, slots=True)
class PageOrientationModel:
    """A classifier of a page's turn: scaled to `short_side`, then its centre, height x width."""

    name: str
    normalisation: Normalisation
    height: int
    width: int
    short_side: int
    angles: tuple[int, ...]
    """By class, by how many degrees the page is turned clockwise: 0, 90, 180 or 270."""


@dataclass(frozen=True, slots=True)
class UnwarpingModel:
    """A graph from the image of a page to the same page made flat."""

    name: str
    normalisation: Normalisation = Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3)


@dataclass(frozen=True, slots=True)
class RecognitionModel:
    """A CTC text recogniser. `characters[0]` is the blank."""

    name: str
    normalisation: Normalisation
    height: int
    width: int
    """Width of the training images; longer lines keep their own width."""
    characters: tuple[str, ...]


Model = DetectionModel | OrientationModel | PageOrientationModel | UnwarpingModel | RecognitionModel


def read_inference_yml(folder: Path) -> Any:
    """The document in a model folder, as plain values. Raises ModelInvalid."""
    path = folder / "inference.yml"
    try:
        return read_yaml(path, max_bytes=MAX_BYTES)
    except FileNotFoundError:
        raise ModelInvalid(f"{path}: missing; PaddleX exports it beside the graph") from None
    except ConfigError as error:
        raise ModelInvalid(str(error)) from error


def load_model(folder: Path, name: str, kind: str) -> Model:
    """Read `folder/inference.yml` for a model of PaddleX's module `kind`.

    `kind` is one of `MODULE_NAMES`. Raises ModelInvalid.
    """
    data = read_inference_yml(folder)
    try:
        if kind == "image_unwarping":  # PaddleX's predictor uses nothing of the file
            return UnwarpingModel(name)
        ops = _operations(data["PreProcess"]["transform_ops"])
        return _READERS[kind](name, ops, data.get("PostProcess") or {})
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelInvalid(
            f"{folder / 'inference.yml'}: cannot be used as a {kind} model: {reason}"
        ) from error


def _operations(ops: list[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {key: value or {} for op in ops for key, value in op.items()}


def _normalisation(ops: Mapping[str, Any]) -> Normalisation:
    settings = ops.get("NormalizeImage", {})
    return Normalisation(
        scale=_scale(settings.get("scale", 1 / 255)),
        mean=tuple(map(float, settings.get("mean", (0.485, 0.456, 0.406)))),
        std=tuple(map(float, settings.get("std", (0.229, 0.224, 0.225)))),
        order=_order(ops),
    )


def _order(ops: Mapping[str, Any]) -> Any:
    return ops.get("DecodeImage", {}).get("img_mode", "RGB")


def _scale(value: float | str) -> float:
    """PaddleX writes the scale as a number or as the text `1./255.`."""
    if isinstance(value, str) and "/" in value:
        numerator, denominator = value.split("/")
        return float(numerator) / float(denominator)
    return float(value)


def _detection(name: str, ops: Mapping[str, Any], post: Mapping[str, Any]) -> DetectionModel:
    if post.get("name") != "DBPostProcess":
        raise ValueError(f"PostProcess.name is {post.get('name')!r}, not DBPostProcess")
    if post.get("box_type", "quad") != "quad":
        raise ValueError("PostProcess.box_type poly (curved text) is not supported")
    resize = ops.get("DetResizeForTest", {})
    shape = resize.get("image_shape")
    # For models that it does not know by name, PaddleX's default is 736, min.
    is_known = name.startswith("PP-OCR") and "seal" not in name
    return DetectionModel(
        name=name,
        normalisation=_normalisation(ops),
        limit_side_len=int(resize.get("resize_long", 960 if is_known else 736)),
        limit_type=str(resize.get("limit_type", "max" if is_known else "min")),
        image_shape=(int(shape[0]), int(shape[1])) if shape else None,
        keep_ratio=bool(resize.get("keep_ratio", False)),
        thresh=float(post.get("thresh", 0.3)),
        box_thresh=float(post.get("box_thresh", 0.6)),
        unclip_ratio=float(post.get("unclip_ratio", 2.0)),
        max_candidates=int(post.get("max_candidates", 1000)),
        use_dilation=bool(post.get("use_dilation", False)),
        score_mode=str(post.get("score_mode", "fast")),
    )


def _orientation(name: str, ops: Mapping[str, Any], post: Mapping[str, Any]) -> OrientationModel:
    if "ClsResizeImg" in ops:  # PaddleOCR's line classifiers: aspect kept, padded
        _, height, width = ops["ClsResizeImg"]["image_shape"]
    elif "ResizeImage" in ops and "size" in ops["ResizeImage"]:
        width, height = ops["ResizeImage"]["size"]
    else:
        raise ValueError("no ClsResizeImg and no ResizeImage with a size in transform_ops")
    labels = [str(label) for label in post["Topk"]["label_list"]]
    if "180_degree" not in labels or len(labels) != 2:
        raise ValueError(f"PostProcess.Topk.label_list is {labels}, not 0_degree and 180_degree")
    return OrientationModel(
        name=name,
        normalisation=_normalisation(ops),
        height=int(height),
        width=int(width),
        keep_ratio="ClsResizeImg" in ops,
        class_180=labels.index("180_degree"),
    )


def _page_orientation(
    name: str, ops: Mapping[str, Any], post: Mapping[str, Any]
) -> PageOrientationModel:
    angles = tuple(int(label) for label in post["Topk"]["label_list"])
    if sorted(angles) != [0, 90, 180, 270]:
        raise ValueError(f"PostProcess.Topk.label_list is {angles}, not 0, 90, 180 and 270")
    size = ops["CropImage"]["size"]
    height, width = (size, size) if isinstance(size, int) else reversed(size)
    return PageOrientationModel(
        name=name,
        normalisation=_normalisation(ops),
        height=int(height),
        width=int(width),
        short_side=int(ops["ResizeImage"]["resize_short"]),
        angles=angles,
    )


def _recognition(name: str, ops: Mapping[str, Any], post: Mapping[str, Any]) -> RecognitionModel:
    if post.get("name") != "CTCLabelDecode":
        raise ValueError(f"PostProcess.name is {post.get('name')!r}, not CTCLabelDecode")
    _, height, width = ops["RecResizeImg"]["image_shape"]
    return RecognitionModel(
        name=name,
        # RecResizeImg itself normalises to -1..1.
        normalisation=Normalisation(order=_order(ops)),
        height=int(height),
        width=int(width),
        characters=("", *map(str, post["character_dict"]), " "),
    )


_READERS: dict[str, Callable[[str, Mapping[str, Any], Mapping[str, Any]], Model]] = {
    "doc_text_orientation": _page_orientation,
    "text_detection": _detection,
    "textline_orientation": _orientation,
    "text_recognition": _recognition,
}
