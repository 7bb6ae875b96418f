"""The shapes to run once before serving, and what one that was not run costs.

The shapes that a model's inputs can have: what a TensorRT engine is built for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from serving.config.model import DetectionModel, OrientationModel, RecognitionModel
from serving.config.options import DEFAULT_OPTIONS
from serving.config.pipeline import TextDetection
from serving.engines.base import EngineSpec
from serving.engines.factory import open_fused
from serving.engines.tensorrt import Profile
from serving.imaging.resize import size_class
from serving.models.pipeline_models import PipelineModel
from serving.ocr.detect import input_size, longest_side
from serving.ocr.recognise import width_classes
from serving.plan.calibration import Calibration

_A4 = (1754, 1240)
_LINE = 320
"""Width of a line as most are."""


def profile(part: PipelineModel, most_lines: int) -> Profile:
    """From the smallest to the largest input that the pipeline's own settings lead to.

    most_lines: of one call. A request that asks for more gets its page fitted to the largest.
    """
    model = part.model
    if isinstance(model, DetectionModel):
        assert isinstance(part.module, TextDetection)
        return _pages(model, part.module)
    if isinstance(model, OrientationModel):
        widths = [model.width] * 3
    else:
        classes = width_classes("gpu")
        widths = [classes[0], _LINE, classes[-1]]
    least, best, most = widths
    return Profile(
        (1, model.height, least, 3),
        (most_lines, model.height, best, 3),
        (most_lines, model.height, most, 3),
    )


def _pages(model: DetectionModel, settings: TextDetection) -> Profile:
    best = size_class(*input_size(model, settings, *_A4, DEFAULT_OPTIONS))
    longest, _ = size_class(longest_side(model, settings), 1)
    least, most = size_class(1, 1), (longest, longest)
    if settings.input_shape is not None or (model.image_shape and not model.keep_ratio):
        least = most = best
    elif model.image_shape is not None:  # this height, and a width in proportion
        least, most = (best[0], least[1]), (best[0], max(longest, best[1]))
    return Profile((1, *least, 3), (1, *best, 3), (1, *most, 3))


if TYPE_CHECKING:
    from serving.plan.graphs import GraphOf


Shapes = tuple[tuple[int, int], ...]

_GPU_WIDTH = 1280
"""Recognition widths up to this are warmed on a GPU: 99 of 100 lines of forms and receipts."""
_PAPER = ((1754, 1240), (1240, 1754), (1650, 1275), (1275, 1650))
"""(height, width) of A4 and Letter, upright and lying, at 150 dpi; only the ratio matters."""


def hot_shapes(
    found: Mapping[str, PipelineModel], calibration: Calibration, kind: str = "cpu"
) -> dict[str, Shapes]:
    """(height, width) of model inputs that most pages will have, by section.

    Of lines on a CPU every width: 1 in 100 is in the widest 7, and what these take (some 140 MB)
    is taken at the start rather than after months. The largest first: an engine's buffers then
    grow once, and in the end hold a quarter less.
    """
    shapes: dict[str, Shapes] = {}
    for section, part in found.items():
        model = part.model
        if isinstance(model, DetectionModel):
            shapes[section] = _detection(part, calibration)
        elif isinstance(model, OrientationModel):
            shapes[section] = ((model.height, model.width),)
        else:
            widths = [
                width for width in width_classes(kind)[::-1] if kind == "cpu" or width <= _GPU_WIDTH
            ]
            shapes[section] = tuple((model.height, width) for width in widths)
    return shapes


def cold_shape_ms(part: PipelineModel, graph: GraphOf, spec: EngineSpec) -> float:
    """What the first input of a shape costs over the second, in ms: the median of three shapes."""
    extra = []
    engine = open_fused(graph(spec), spec, part.model)
    for step in range(3):
        if isinstance(part.model, OrientationModel):
            return 0.0  # one shape, always warmed
        side = part.model.height if isinstance(part.model, RecognitionModel) else 640
        image = np.full((1, side, 320 + 64 * step, 3), 255, np.uint8)
        times = []
        for _ in range(2):
            start = time.perf_counter()
            engine.run(image)
            times.append(time.perf_counter() - start)
        extra.append((times[0] - times[1]) * 1e3)
    engine.close()
    return round(sorted(extra)[1], 3)


def _detection(part: PipelineModel, calibration: Calibration) -> Shapes:
    assert isinstance(part.model, DetectionModel)
    assert isinstance(part.module, TextDetection)
    pages = (*_PAPER, *(page.shape[:2] for page in calibration.own_pages))
    sizes = {
        size_class(*input_size(part.model, part.module, height, width, DEFAULT_OPTIONS))
        for height, width in pages
    }
    return tuple(sorted(sizes, key=lambda size: size[0] * size[1], reverse=True))
