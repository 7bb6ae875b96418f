"""The shapes that a model's inputs can have: what a TensorRT engine is built for."""

from __future__ import annotations

from serving.config.model import DetectionModel, OrientationModel
from serving.config.options import DEFAULT_OPTIONS
from serving.config.pipeline import TextDetection
from serving.engines.tensorrt import Profile
from serving.imaging.resize import size_class
from serving.parts import Part
from serving.stages.detect import input_size, longest_side
from serving.stages.recognise import width_classes

_A4 = (1754, 1240)
_LINE = 320
"""Width of a line as most are."""


def profile(part: Part, most_lines: int) -> Profile:
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
