"""Text recognition: from the image of a line to its text and score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np

from serving.config.model import RecognitionModel
from serving.engines.base import Array, Engine, EngineSpec
from serving.imaging.crop import MAX_LINE_WIDTH, line_width
from serving.imaging.resize import resize_into
from serving.ocr.ctc import (
    ascii_punctuation,
    character_steps,
    letter_steps,
    mean_score,
    restore_spaces,
    text_at,
)
from serving.ocr.words import Span, word_spans
from serving.types import Image

Steps = Sequence[tuple[int, int]]
"""(longest width, step) pairs, narrow to wide."""
_STEPS = (
    (52, 256),
    (96, 96),
    (192, 32),
    (640, 64),
    (1280, 128),
    (1920, 320),
    (MAX_LINE_WIDTH, 640),
)
"""Width classes on a CPU: 20 shapes with 13 % of padding on average. Each costs OpenVINO 11 MB, and
20 to 50 ms when it is first seen; a change of shape from one line to the next costs half a
millisecond and more, and more lines of one class share a call. Twice as many classes up to 640 take
8, 8 and 5 % longer with AMX (funsd, sroie, mtwi), as long without it, and read no better. A line
about as wide as high holds a single character, of which the model, trained on lines 320 wide,
misreads more the less padding there is: of 2008 digits 127 at 96 pixels, 73 at 192, 41 at 256 and
39 at 320."""
_FINE_STEPS = (_STEPS[0], (96, 96), (640, 16), (1280, 32), (1920, 64), (MAX_LINE_WIDTH, 128))
"""Width classes in ONNX Runtime on a CPU, where another shape costs nothing: 4 % of padding. Of
PP-OCRv6 tiny a page takes 0.96, 0.94 and 0.91 of the time (funsd, sroie, mtwi) and is read as
well."""
_GPU_STEPS = ((52, 320), (640, 160), (1280, 320), (MAX_LINE_WIDTH, 640))
"""Width classes on a GPU: 9 shapes. Padding costs little there, lines of one width are batched, and
each shape may need a search for convolution algorithms."""
_GREY = 128
"""The byte nearest to zero after normalisation, with which PaddleX pads."""


class Reading(NamedTuple):
    """The text of a line, its score (0 to 1) and, where requested, its words."""

    text: str
    score: float
    words: Sequence[Span] = ()


@dataclass(frozen=True, slots=True)
class Recogniser:
    """A recogniser. Thread-safe. The text of a line does not depend on other lines."""

    engine: Engine
    model: RecognitionModel
    min_space: float | None
    """Insert spaces of this probability (see ctc.py). The score is of the line without them."""
    ascii_punctuation: bool = False
    """ASCII for full-width punctuation in lines without CJK (see ctc.py)."""
    padded_for: EngineSpec | None = None
    """Pad lines as for that engine; default: this one."""

    def read(self, crop: Image, *, words: bool = False) -> Reading:
        """Read one upright line (H, W, 3). words: also return its words."""
        (outputs,) = self.run([self.fit(crop)])
        return self.decode(outputs, crop, words=words)

    def run(self, fitted: Sequence[Image]) -> list[tuple[Array, ...]]:
        """The engine's outputs for each of these lines, for `decode`; one engine call.

        fitted: lines of one width, from `fit`.
        """
        images = np.stack(fitted) if len(fitted) > 1 else fitted[0][None]
        return list(zip(*self.engine.run(images), strict=True))

    def decode(self, outputs: Sequence[Array], crop: Image, *, words: bool = False) -> Reading:
        """The text of a line from the engine's outputs for it."""
        path, scores, space = (output.tolist() for output in outputs)
        characters = self.model.characters
        steps = character_steps(path, len(characters))
        score = mean_score(steps, scores)
        if self.min_space is not None:
            restored = restore_spaces(path, steps, space, characters, self.min_space)
            if restored is not path:
                path, steps = restored, character_steps(restored, len(characters))
        text = text_at(steps, path, characters)
        if self.ascii_punctuation:
            text = ascii_punctuation(text)
        if not words:
            return Reading(text, score)
        # Without the steps of the padding on the right.
        width = self.scaled_width(crop)
        length = len(path) * width / self._padded(width)
        letters = letter_steps(steps, path, characters)
        return Reading(text, score, word_spans(text, letters, length, scores))

    def fit(self, crop: Image) -> Image:
        """Scale to the model's height and pad to the width class of the line.

        On forms, receipts and web images, padding to the next multiple of 16 is as accurate as or
        better than stretching to it, and than PaddleX's padding to at least 320.
        """
        height, width = self.model.height, self.scaled_width(crop)
        padded = self._padded(width)
        fitted = np.empty((height, padded, 3), np.uint8)
        resize_into(fitted[:, :width], crop)
        fitted[:, width:] = _GREY
        return fitted

    def scaled_width(self, crop: Image) -> int:
        """The width of a line at the model's height, without padding."""
        height, width = crop.shape[:2]
        return line_width(height, width, self.model.height)

    def _padded(self, width: int) -> int:
        return next_step(width, line_steps(self.padded_for or self.engine.spec))


def line_steps(spec: EngineSpec) -> Steps:
    """The width classes to which an engine's lines are padded."""
    if spec.kind == "gpu":
        return _GPU_STEPS
    return _FINE_STEPS if spec.backend == "onnxruntime" else _STEPS


def next_step(width: int, steps: Steps) -> int:
    """`width` rounded up to a multiple of the step for that width."""
    step = next(step for longest, step in steps if width <= longest)
    return ceil(width / step) * step


def width_classes(steps: Steps) -> list[int]:
    """All padded widths, in ascending order."""
    return sorted({next_step(width, steps) for width in range(1, MAX_LINE_WIDTH + 1)})
