"""Accuracy of a pipeline on labelled pages: folders of images with a `truth.json`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.api import load_pipeline
from serving.errors import ConfigError, UnsupportedMedia
from serving.imaging.formats import MAX_PIXELS, SNIFF_BYTES, sniff
from serving.scores import Overlap, character_overlap, edit_distance, token_overlap

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabelledPage:
    """An image or document file and the texts of its lines; their order counts for `order` only."""

    group: str
    """The name of its folder."""
    path: Path
    texts: tuple[str, ...]


def labelled_pages(data: Path, groups: Sequence[str] = ()) -> list[LabelledPage]:
    """The pages of `data/truth.json`, or of every subfolder with a truth.json.

    truth.json: `[{"image": FILE, "lines": [{"text": TEXT}]}]`. groups: only these subfolders.
    Other files than images and documents are skipped with a warning. Raises ConfigError if there
    are no pages or a truth.json is invalid.
    """
    folders = [data] if (data / "truth.json").is_file() else _subfolders(data, groups)
    pages = [page for folder in folders for page in _read(folder) if _is_readable(page.path)]
    if not pages:
        raise ConfigError(f"--data {data}: no supported image or document in it")
    return pages


def _subfolders(data: Path, groups: Sequence[str]) -> list[Path]:
    if not data.is_dir():
        raise ConfigError(f"--data {data}: no such folder")
    folders = {path.parent.name: path.parent for path in sorted(data.glob("*/truth.json"))}
    unknown = [group for group in groups if group not in folders]
    if unknown or not folders:
        names = f"{', '.join(unknown)}: " if unknown else ""
        raise ConfigError(
            f"--data {data}: {names}no truth.json; a labelled folder holds images and a "
            'truth.json with [{"image": FILE, "lines": [{"text": TEXT}]}]'
        )
    return [folders[group] for group in groups] if groups else list(folders.values())


def _read(folder: Path) -> list[LabelledPage]:
    path = folder / "truth.json"
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        pages = [
            LabelledPage(
                group=folder.resolve().name,
                path=folder / entry["image"],
                texts=tuple(str(line["text"]) for line in entry["lines"]),
            )
            for entry in entries
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f'{path}: not in the form [{{"image": FILE, "lines": [{{"text": TEXT}}]}}]: '
            f"{type(error).__name__}: {error}"
        ) from error
    missing = [page.path.name for page in pages if not page.path.is_file()]
    if missing:
        raise ConfigError(f"{path}: names {missing[0]}, which is not in {folder}")
    return pages


def _is_readable(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            sniff(file.read(SNIFF_BYTES))
    except UnsupportedMedia as error:
        _LOG.warning("skipped %s: %s", path, error)
        return False
    return True


TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Score:
    """Overlap of the recognised text with the labels, over one or more pages."""

    pages: int = 0
    tokens: Overlap = field(default_factory=Overlap)
    characters: Overlap = field(default_factory=Overlap)
    edits: int = 0
    """Between the whole texts, a line a line, in reading order."""
    length: int = 0
    """Characters of the longer texts."""

    def __add__(self, other: Score) -> Score:
        return Score(
            self.pages + other.pages,
            self.tokens + other.tokens,
            self.characters + other.characters,
            self.edits + other.edits,
            self.length + other.length,
        )

    @property
    def order(self) -> float:
        """Normalised edit distance of the whole texts, 0 to 1: what is misread or out of order."""
        return self.edits / self.length if self.length else 0.0


def evaluate(
    yaml: Path,
    pages: Sequence[LabelledPage],
    models: Path,
    *,
    max_pixels: int = MAX_PIXELS,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Score]:
    """Scores by group, and of all pages under TOTAL. A document counts as one page.

    max_pixels: of a page. on_progress: gets a message for each page.
    Raises what load_pipeline raises, and InputError for a page that cannot be read.
    """
    scores: dict[str, Score] = {}
    with load_pipeline(yaml, models=models, max_pixels=max_pixels) as pipeline:
        for index, page in enumerate(pages, 1):
            on_progress(f"{yaml}: {index} of {len(pages)}: {page.group}/{page.path.name}")
            texts = [line.text for result in pipeline.predict(page.path) for line in result.lines]
            truth, read = "\n".join(page.texts), "\n".join(texts)
            score = Score(
                1,
                token_overlap(page.texts, texts),
                character_overlap(page.texts, texts),
                edit_distance(truth, read),
                max(len(truth), len(read)),
            )
            scores[page.group] = scores.get(page.group, Score()) + score
    return {**scores, TOTAL: sum(scores.values(), Score())}
