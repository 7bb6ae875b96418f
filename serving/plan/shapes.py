"""The input shapes of a model: what TensorRT is built for, what serving warms, and a cold one."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import numpy as np

from serving.config.model import (
    DetectionModel,
    OrientationModel,
    PageOrientationModel,
    RecognitionModel,
    UnwarpingModel,
)
from serving.config.options import DEFAULT_OPTIONS
from serving.config.pipeline import TextDetection
from serving.engines.base import EngineSpec
from serving.engines.factory import open_fused
from serving.engines.tensorrt import Profile
from serving.imaging.resize import size_class
from serving.models.pipeline_models import PipelineModel
from serving.ocr.detect import input_size, longest_side, padded_size
from serving.ocr.recognise import line_steps, width_classes
from serving.plan.calibration import Calibration

Shapes = tuple[tuple[int, int], ...]
"""(height, width) of a model's inputs."""

_A4 = (1754, 1240)
_COMMON = (_A4, (1650, 1275), (1800, 1200), (1920, 1080), (1800, 900))
"""(height, width) of A4 and Letter at 150 dpi, of photos, screens and receipts; only the ratio
matters, and landscape is as likely."""
_PAPER = 2
"""Of these on a GPU, where every shape may need a search for convolution algorithms."""
_LINE = 320
"""Width of a typical line."""
_GPU_WIDTH = 1280
"""Recognition widths up to this are warmed on a GPU: 99 of 100 lines of forms and receipts."""


def profile(part: PipelineModel, spec: EngineSpec, max_lines: int) -> Profile:
    """From the smallest to the largest input that the pipeline's own settings lead to.

    spec: of the TensorRT engine. max_lines: of one call. A request for a larger size gets its page
    fitted to the largest.
    """
    model = part.model
    if isinstance(model, DetectionModel):
        assert isinstance(part.module, TextDetection)
        return _page_profile(model, part.module)
    if isinstance(model, UnwarpingModel):
        return Profile((1, 64, 64, 3), (1, *_A4, 3), (1, 4000, 4000, 3))
    if isinstance(model, OrientationModel | PageOrientationModel):
        widths = [model.width] * 3
    else:
        classes = width_classes(line_steps(spec))
        widths = [classes[0], _LINE, classes[-1]]
    low, typical, high = widths
    return Profile(
        (1, model.height, low, 3),
        (max_lines, model.height, typical, 3),
        (max_lines, model.height, high, 3),
    )


def _page_profile(model: DetectionModel, settings: TextDetection) -> Profile:
    typical = padded_size(model, *input_size(model, settings, *_A4, DEFAULT_OPTIONS))
    longest, _ = size_class(longest_side(model, settings), 1)
    low, high = size_class(1, 1), (longest, longest)
    if model.image_shape is not None and not model.keep_ratio:
        low = high = typical
    elif model.image_shape is not None:  # this height, and a width in proportion
        low, high = (typical[0], low[1]), (typical[0], max(longest, typical[1]))
    return Profile((1, *low, 3), (1, *typical, 3), (1, *high, 3))


def hot_shapes(part: PipelineModel, calibration: Calibration, spec: EngineSpec) -> Shapes:
    """The inputs that most pages will have.

    Of lines on a CPU every width: 1 in 100 has one of the widest 3, and their memory (some 30 MB)
    is taken at the start rather than after months. The largest first: an engine's buffers then grow
    once, and in the end take a quarter less. In ONNX Runtime, which prepares nothing for a width,
    that one is enough.
    """
    model = part.model
    if isinstance(model, DetectionModel):
        return _page_shapes(part, calibration, spec.kind)
    if isinstance(model, UnwarpingModel):
        return ()  # pages come in any size
    if isinstance(model, OrientationModel | PageOrientationModel):
        return ((model.height, model.width),)
    widths = width_classes(line_steps(spec))[::-1]
    if spec.kind == "gpu":
        widths = [width for width in widths if width <= _GPU_WIDTH]
    elif spec.backend == "onnxruntime":
        widths = widths[:1]
    return tuple((model.height, width) for width in widths)


def _page_shapes(part: PipelineModel, calibration: Calibration, kind: str) -> Shapes:
    assert isinstance(part.model, DetectionModel)
    assert isinstance(part.module, TextDetection)
    common = _COMMON if kind == "cpu" else _COMMON[:_PAPER]
    common = (*common, *((width, height) for height, width in common))
    pages = (*common, *(page.shape[:2] for page in calibration.own_pages))
    sizes = {
        padded_size(
            part.model, *input_size(part.model, part.module, height, width, DEFAULT_OPTIONS)
        )
        for height, width in pages
    }
    return tuple(sorted(sizes, key=lambda size: size[0] * size[1], reverse=True))


def cold_shape_ms(part: PipelineModel, graph: Path, spec: EngineSpec) -> float:
    """What the first input of a shape costs over the second, in ms: the median of three shapes.

    0 for a model with one shape, which is always warmed. Raises EngineError.
    """
    if part.section not in ("TextDetection", "TextRecognition"):
        return 0.0
    if getattr(part.model, "image_shape", None):
        return 0.0
    height = part.model.height if isinstance(part.model, RecognitionModel) else 640
    extra = []
    with closing(open_fused(graph, spec, part.model)) as engine:
        for width in (320, 384, 448):
            image = np.full((1, height, width, 3), 255, np.uint8)
            start = time.perf_counter()
            engine.run(image)
            middle = time.perf_counter()
            engine.run(image)
            extra.append((middle - start) - (time.perf_counter() - middle))
    return round(sorted(extra)[1] * 1e3, 3)
