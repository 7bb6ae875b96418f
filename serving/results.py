"""What `load_pipeline(...).predict(x)` yields, with the methods of PaddleX's results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.types import Line, Page


@dataclass(frozen=True, slots=True)
class PageResult:
    """One page, read. `name` is the path, URL or index it came from."""

    name: str
    page_index: int | None
    """Page within a document of several pages; None for an image."""
    page: Page
    image: npt.NDArray[np.uint8]
    settings: Mapping[str, Any]

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines in reading order."""
        return self.page.lines

    @property
    def json(self) -> dict[str, Any]:
        """PaddleX's form: `{"res": {...}}`."""
        return {"res": paddlex_result(self.page, self.settings, self.name, self.page_index)}

    def print(self) -> None:
        """Print the page's JSON."""
        print(json.dumps(self.json, ensure_ascii=False, indent=4))

    def save_to_json(self, path: str | Path) -> Path:
        """Write the JSON to a file, or into a folder under the image's name; returns the file."""
        target = self._target(Path(path), ".json")
        target.write_text(
            json.dumps(self.json["res"], ensure_ascii=False, indent=4) + "\n", encoding="utf-8"
        )
        return target

    def save_to_img(self, path: str | Path) -> Path:
        """Write the page with its boxes and text to a file or into a folder; returns the file."""
        from PIL import Image

        from serving.imaging.draw import draw

        target = self._target(Path(path), ".png")
        drawn = draw(self.image, self.lines)
        Image.fromarray(np.ascontiguousarray(drawn[:, :, ::-1])).save(target)
        return target

    def _target(self, path: Path, suffix: str) -> Path:
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path
        path.mkdir(parents=True, exist_ok=True)
        page = "" if self.page_index is None else f"_{self.page_index}"
        return path / f"{Path(self.name).stem}{page}_res{suffix}"


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
