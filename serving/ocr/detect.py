"""Text detection: from a page to quads in reading order."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod, radians, sqrt

import numpy as np

from serving.config.model import DetectionModel
from serving.config.options import DEFAULT_OPTIONS, Options, first_set
from serving.config.pipeline import TextDetection
from serving.engines.base import Engine
from serving.imaging.resize import (
    SizeLimit,
    detection_size,
    fit_within,
    pad_tiny,
    resize,
    resize_padded,
    size_class,
)
from serving.ocr.db import DbParameters, Map, quads_from_map
from serving.ocr.order import reading_order
from serving.ocr.skew import Affine, skew, to_page, turn_back, turned_size
from serving.types import Image, Quad, QuadArray

_SMALL_SCALE = 1 / 3
"""At a smaller scale ordinary print is too small to be found."""
_TILE = 960
"""Longest side of a tile in pixels."""
_OVERLAP = 128
"""By how many pixels tiles overlap at least."""
_MIN_HEIGHT = 10
"""Height in pixels, at the detector's scale, below which lines are found unreliably ..."""
_GOOD_HEIGHT = 16
"""... and to which they are enlarged."""
_MIN_SKEW = radians(2.5)
"""From here on a page is turned back before its lines are sought: of lines that lean by more, parts
are missed, and boxes reach into the neighbouring ones."""
_MAX_TURNED = 100_000_000
"""Pixels of the largest page turned back, with its empty corners: twice a square one's at most, but
any number of times those of a strip."""
_SMALLER = 0.85
"""A skewed page is turned as a whole first, which needs more room: at a scale that is smaller by
more than this, its small print could be missed, and cut off with the empty corners."""
_MAX_PIXELS = 16 * _TILE**2
"""Of all tiles of a page."""
_MAX_LENGTH = 40 * (_TILE - _OVERLAP)
"""Pixels of the longest side of all tiles: a strip of one pixel takes as many as one of 64."""


@dataclass(frozen=True, slots=True)
class Detection:
    """Where the lines of a page are."""

    quads: QuadArray
    """(N, 4, 2) int32 in pixels of `image`, in PaddleX's order."""
    image: Image
    """The page; of a skewed page, the part with text, turned back."""
    to_page: Affine | None
    """From pixels of `image` to those of a skewed page."""
    hint: str
    """Why text may be missing; empty if nothing suggests that."""


@dataclass(frozen=True, slots=True)
class Detector:
    """A detector with the settings of its pipeline. Thread-safe."""

    engine: Engine
    model: DetectionModel
    settings: TextDetection

    def detect(self, page: Image, options: Options) -> Detection:
        """Where the lines of a page (H, W, 3) are."""
        image, affine = pad_tiny(page), None
        quads, dropped, scale = self._detect(image, options)
        lean = self._skew(image, quads, scale, options)
        if abs(lean) >= _MIN_SKEW:
            image, affine = turn_back(page, lean)
            quads, _, _ = self._detect(image, options, scale)
            lean += skew(quads) or 0.0
            image, affine = turn_back(page, lean, around=to_page(quads, affine))
            quads, dropped, scale = self._detect(image, options)
        if affine is None:
            image, quads = page, np.minimum(quads, (page.shape[1], page.shape[0])).astype(np.int32)
        return Detection(reading_order(quads), image, affine, _hint(len(quads), dropped, scale))

    def _detect(
        self, page: Image, options: Options, min_scale: float = 0.0
    ) -> tuple[QuadArray, int, float]:
        """Quads, how many more were dropped, and the scale at which they were found.

        min_scale: the page is not to be shrunk by much more.
        """
        fitted, size = self.fit(page, options)
        scale = max(size) / max(page.shape[:2])  # of the other side it is rounded more
        if scale < _SMALLER * min_scale and self.model.image_shape is None:
            return *self._quads(self._map_of_tiles(page, min_scale), page, options), min_scale
        quads, dropped = self._quads(self._map(fitted)[: size[0], : size[1]], page, options)
        if self._tiles(options) and (larger := larger_scale(quads, page, scale)):
            scale = larger
            quads, dropped = self._quads(self._map_of_tiles(page, scale), page, options)
        return quads, dropped, scale

    def _skew(self, page: Image, quads: QuadArray, scale: float, options: Options) -> float:
        """By how much the page leans; where its lines do not tell, those at a larger scale do."""
        height, width = page.shape[:2]
        wanted = first_set(options.text_det_deskew, self.settings.deskew)
        if not wanted or height * width > _MAX_TURNED / 2:
            return 0.0
        lean = skew(quads)
        if lean is None:
            larger = min(2 * scale, max_tiled_scale(page))
            if larger > 1.2 * scale:
                lean = skew(self._quads(self._map_of_tiles(page, larger), page, options)[0])
        if lean is None or prod(turned_size(page, lean)) > _MAX_TURNED:
            return 0.0
        return lean

    def _map(self, fitted: Image) -> Map:
        probabilities: Map = self.engine.run(fitted[None])[0][0, 0]
        return probabilities

    def _quads(self, probabilities: Map, page: Image, options: Options) -> tuple[QuadArray, int]:
        parameters = db_parameters(self.model, self.settings, options)
        return quads_from_map(probabilities, parameters, width=page.shape[1], height=page.shape[0])

    def _tiles(self, options: Options) -> bool:
        """Whether small text is looked for; not where the request itself sets the scale."""
        is_set = options.text_det_limit_side_len or options.text_det_limit_type
        wanted = first_set(options.text_det_tiling, self.settings.tiling and not is_set)
        return wanted and self.model.image_shape is None

    def _map_of_tiles(self, page: Image, scale: float) -> Map:
        """The probabilities of a page at that scale, put together from those of tiles.

        Tiles overlap, and of an overlap each gives its half: a tile knows less at its edges. So a
        line is found once, and whole, wherever tiles meet.
        """
        scaled = resize(page, *(max(1, round(side * scale)) for side in page.shape[:2]))
        side = min(_TILE, *(self.engine.max_input_size or (_TILE,)))
        stitched = np.empty(scaled.shape[:2], np.uint8)
        rows, columns = (tile_spans(length, side) for length in scaled.shape[:2])
        for top, bottom, first_row, end_row in rows:
            for left, right, first_column, end_column in columns:
                tile = scaled[top:bottom, left:right]
                size = tile.shape[0], tile.shape[1]
                found = self._map(resize_padded(tile, size, padded_size(self.model, *size)))
                stitched[first_row:end_row, first_column:end_column] = found[
                    first_row - top : end_row - top, first_column - left : end_column - left
                ]
        return stitched

    def fit(self, page: Image, options: Options) -> tuple[Image, tuple[int, int]]:
        """The model's input for a page, and the (height, width) of the page within it."""
        height, width = page.shape[:2]
        size = input_size(self.model, self.settings, height, width, options)
        size = fit_within(*size, self.engine.max_input_size) if self.engine.max_input_size else size
        return resize_padded(page, size, padded_size(self.model, *size)), size

    def settings_in_force(self, options: Options) -> dict[str, int | float | str]:
        """The effective `text_det_params` of a request, under PaddleX's names."""
        limit = size_limit(self.model, self.settings, options)
        parameters = db_parameters(self.model, self.settings, options)
        return {
            "limit_side_len": limit.side,
            "limit_type": limit.kind,
            "thresh": parameters.thresh,
            "max_side_limit": limit.max_side,
            "box_thresh": parameters.box_thresh,
            "unclip_ratio": parameters.unclip_ratio,
        }


def larger_scale(quads: QuadArray, page: Image, scale: float) -> float:
    """The scale at which a page is to be detected again, because text may be too small; else 0.

    quads: of lines that were found, in pixels of the page. scale: at which they were found.
    """
    across, down = (np.hypot(*(quads[:, 0] - quads[:, corner]).T) for corner in (1, 3))
    height = float(np.median(np.minimum(across, down))) * scale if len(quads) else 0.0
    if height >= _MIN_HEIGHT or not (len(quads) or scale < _SMALL_SCALE):
        return 0.0
    wanted = scale * _GOOD_HEIGHT / height if height else 1.0
    wanted = min(wanted, max_tiled_scale(page))
    return wanted if wanted > 1.2 * scale else 0.0


def max_tiled_scale(page: Image) -> float:
    """The largest scale, up to 1, at which a page (H, W, 3) is detected in tiles."""
    height, width = page.shape[:2]
    return min(1.0, sqrt(_MAX_PIXELS / (height * width)), float(_MAX_LENGTH / max(height, width)))


def tile_spans(length: int, side: int) -> list[tuple[int, int, int, int]]:
    """(start, end, first, last) of each tile along one side of a page, in order.

    From start to end it is detected; from first to last its result counts, so that these meet.
    """
    count = max(1, ceil((length - _OVERLAP) / (side - _OVERLAP)))
    starts = [round(index * (length - side) / max(1, count - 1)) for index in range(count)]
    ends = [min(length, start + side) for start in starts]
    cuts = [(end + start) // 2 for end, start in zip(ends[:-1], starts[1:], strict=True)]
    return list(zip(starts, ends, [0, *cuts], [*cuts, length], strict=True))


def input_size(
    model: DetectionModel, settings: TextDetection, height: int, width: int, options: Options
) -> tuple[int, int]:
    """(height, width) to which a page of this size is scaled for detection."""
    if model.image_shape is not None:
        fixed_height, fixed_width = model.image_shape
        if model.keep_ratio:
            fixed_width = -(-(width * fixed_height) // (height * 32)) * 32
        return fixed_height, fixed_width
    return detection_size(height, width, size_limit(model, settings, options))


def padded_size(model: DetectionModel, height: int, width: int) -> tuple[int, int]:
    """The (height, width) to which a scaled page is padded; a model of one size takes just that."""
    fixed = model.image_shape is not None and not model.keep_ratio
    return (height, width) if fixed else size_class(height, width)


def longest_side(model: DetectionModel, settings: TextDetection) -> int:
    """The longest side of a scaled page in pixels, with the pipeline's own settings."""
    limit = size_limit(model, settings, DEFAULT_OPTIONS)
    return limit.max_side if limit.kind == "min" else min(limit.side, limit.max_side)


def size_limit(model: DetectionModel, settings: TextDetection, options: Options) -> SizeLimit:
    """The request's size limit, else the pipeline's, else the model's own."""
    return SizeLimit(
        side=first_set(
            options.text_det_limit_side_len, settings.limit_side_len, model.limit_side_len
        ),
        kind=first_set(options.text_det_limit_type, settings.limit_type, model.limit_type),
        max_side=first_set(options.text_det_max_side_limit, settings.max_side_limit),
    )


def db_parameters(model: DetectionModel, settings: TextDetection, options: Options) -> DbParameters:
    """The request's thresholds, else the pipeline's, else the model's own."""
    return DbParameters(
        thresh=first_set(options.text_det_thresh, settings.thresh, model.thresh),
        box_thresh=first_set(options.text_det_box_thresh, settings.box_thresh, model.box_thresh),
        unclip_ratio=first_set(
            options.text_det_unclip_ratio, settings.unclip_ratio, model.unclip_ratio
        ),
        max_candidates=model.max_candidates,
        use_dilation=model.use_dilation,
        score_mode=model.score_mode,
    )


def _hint(quads: int, dropped: int, scale: float) -> str:
    if dropped:
        return f"the page has more than {quads} lines; {dropped} less likely ones were dropped"
    if not quads and scale < _SMALL_SCALE:
        return (
            f"no text was found with the page scaled to {scale:.0%}; send it in parts, or raise "
            "text_det_limit_side_len"
        )
    return ""


def as_quad(quad: QuadArray) -> Quad:
    """A (4, 2) array as a Quad."""
    a, b, c, d = map(tuple, quad.tolist())
    return a, b, c, d
