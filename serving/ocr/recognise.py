"""Text recognition: a line's picture in, its text and score out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.config.model import RecognitionModel
from serving.engines.base import Array, Engine
from serving.imaging.crop import MAX_LINE_WIDTH, line_width
from serving.imaging.resize import resize_into
from serving.ocr.ctc import letter_steps, score_at, starts, text_at, with_spaces
from serving.ocr.words import Span, spans

Image = npt.NDArray[np.uint8]

Steps = Sequence[tuple[int, int]]
"""(longest width, step) pairs, narrow to wide."""
_STEPS = ((96, 96), (320, 16), (640, 64), (1280, 128), (2048, 256), (MAX_LINE_WIDTH, 384))
"""Up to that width, in steps of so many pixels: 8 % of padding in the mean. These 32 shapes bound
what an engine keeps: each costs OpenVINO 8 to 16 MB and, at first sight, 20 to 50 ms. Finer steps
for long lines take a little more time, as the next line has another shape more often, and read no
better; the shortest lines, of a character or two, read better with some room beside them."""
_GPU_STEPS = ((640, 160), (1280, 320), (MAX_LINE_WIDTH, 640))
"""On a GPU padding costs little, lines of one width share a call, and every shape may be searched
for anew: 9 shapes."""
_GREY = 128
"""The byte nearest to the zero of the normalised image, with which the reference pads."""


class Recognised(NamedTuple):
    """A line's text, its score (0 to 1), and its words where they were asked for."""

    text: str
    score: float
    words: Sequence[Span] = ()


@dataclass(frozen=True, slots=True)
class Recogniser:
    """A recogniser; safe under many threads. A line is read at its own width alone."""

    engine: Engine
    model: RecognitionModel
    restore_spaces: bool
    """Put in the spaces that the model saw too faintly; the score is that of the line without."""

    def read(self, crop: Image, *, words: bool = False) -> Recognised:
        """Read one line, (H, W, 3) BGR, upright; with its words where they are wanted."""
        (outputs,) = self.run([self.fit(crop)])
        return self.decode(outputs, crop, words=words)

    def run(self, fitted: Sequence[Image]) -> list[tuple[Array, ...]]:
        """What the engine says of each of these lines as `fit` makes them, for `decode`.

        They have one width, and are read in one call.
        """
        images = np.stack(fitted) if len(fitted) > 1 else fitted[0][None]
        return list(zip(*self.engine.run(images), strict=True))

    def decode(self, outputs: Sequence[Array], crop: Image, *, words: bool = False) -> Recognised:
        """The reading of a line from what the engine said of it."""
        path, scores, space = (output.tolist() for output in outputs)
        characters = self.model.characters
        at = starts(path, len(characters))
        score = score_at(at, scores)
        if self.restore_spaces:
            spaced = with_spaces(path, at, space, characters)
            if spaced is not path:
                path, at = spaced, starts(spaced, len(characters))
        text = text_at(at, path, characters)
        if not words:
            return Recognised(text, score)
        # The padding on the right is no part of the line.
        own = self.own_width(crop)
        length = len(path) * own / width_class(own, self.engine.spec.kind)
        return Recognised(text, score, spans(text, letter_steps(at, path, characters), length))

    def fit(self, crop: Image) -> Image:
        """Scale to the model's height and pad to the width class of the line, and no further.

        Measured on forms, receipts and web images: padding to the next multiple of 16 reads as
        well as or better than stretching to it, and than the reference's padding to 320.
        """
        height, width = self.model.height, self.own_width(crop)
        padded = width_class(width, self.engine.spec.kind)
        fitted = np.empty((height, padded, 3), np.uint8)
        resize_into(fitted[:, :width], crop)
        fitted[:, width:] = _GREY
        return fitted

    def own_width(self, crop: Image) -> int:
        """The width of a line at the model's height, before it is padded."""
        height, width = crop.shape[:2]
        return line_width(height, width, self.model.height)


def width_class(width: int, kind: str = "cpu") -> int:
    """The width at which a line of `width` pixels is read on that kind of device: the next step."""
    return next_step(width, _STEPS if kind == "cpu" else _GPU_STEPS)


def next_step(width: int, steps: Steps) -> int:
    """`width`, made the next multiple of the step that holds for it."""
    step = next(step for longest, step in steps if width <= longest)
    return ceil(width / step) * step


def width_classes(kind: str = "cpu") -> list[int]:
    """Every width that a recogniser meets, narrow to wide."""
    return sorted({width_class(width, kind) for width in range(1, MAX_LINE_WIDTH + 1)})
