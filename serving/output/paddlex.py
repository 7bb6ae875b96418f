"""A page as PaddleX's OCRResult has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from serving.types import Page


def paddlex_result(
    page: Page, settings: Mapping[str, Any], name: str | None, page_index: int | None
) -> dict[str, Any]:
    """The page as PaddleX's OCRResult.json has it (without its outer `res`).

    settings: what `Pipeline.settings` says was in force.
    """
    polys = [[list(point) for point in line.quad] for line in page.lines]
    oriented = settings["model_settings"]["use_textline_orientation"]
    words: dict[str, Any] = {}
    if settings["return_word_box"]:
        words = {
            "text_word_boxes": [[_bounds(word.box) for word in line.words] for line in page.lines],
            "text_word": [[word.text for word in line.words] for line in page.lines],
        }
    return {
        "input_path": name,
        "page_index": page_index,
        "model_settings": settings["model_settings"],
        "dt_polys": polys,
        "text_det_params": settings["text_det_params"],
        "text_type": settings["text_type"],
        "textline_orientation_angles": [
            int(line.turn >= 180) if oriented else -1 for line in page.lines
        ],
        "text_rec_score_thresh": settings["text_rec_score_thresh"],
        "return_word_box": settings["return_word_box"],
        "rec_texts": [line.text for line in page.lines],
        "rec_scores": [line.score for line in page.lines],
        "rec_polys": polys,
        "rec_boxes": [_bounds(poly) for poly in polys],
        **words,
    }


def _bounds(poly: Iterable[Sequence[int]]) -> list[int]:
    xs, ys = zip(*poly, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]
