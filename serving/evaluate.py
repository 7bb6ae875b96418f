"""How well a pipeline reads labelled pages.

Labelled pages: folders of images with a `truth.json`, or pages rendered here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.api import load_pipeline
from serving.errors import ConfigError, UnsupportedMedia
from serving.imaging.formats import SNIFF_BYTES, sniff
from serving.scores import Overlap, character_overlap, token_overlap

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabelledPage:
    """An image file and the texts of its lines, in no particular order."""

    group: str
    """The set that it belongs to: its folder's name."""
    path: Path
    texts: tuple[str, ...]


def labelled_pages(data: Path, groups: Sequence[str] = ()) -> list[LabelledPage]:
    """The pages of `data/truth.json`, or of every subfolder with a truth.json.

    truth.json: `[{"image": FILE, "lines": [{"text": TEXT}]}]`. groups: only these subfolders.
    A file that is no image or document is left out, and the log says so. Raises ConfigError when
    there is nothing, or a file is not as it should be.
    """
    folders = [data] if (data / "truth.json").is_file() else _subfolders(data, groups)
    pages = [page for folder in folders for page in _read(folder) if _is_readable(page.path)]
    if not pages:
        raise ConfigError(f"--data {data}: no image or document in it that this reads")
    return pages


def _subfolders(data: Path, groups: Sequence[str]) -> list[Path]:
    if not data.is_dir():
        raise ConfigError(f"--data {data}: no such folder")
    found = {path.parent.name: path.parent for path in sorted(data.glob("*/truth.json"))}
    unknown = [group for group in groups if group not in found]
    if unknown or not found:
        wanted = f"{', '.join(unknown)}: " if unknown else ""
        raise ConfigError(
            f"--data {data}: {wanted}no truth.json there; a labelled folder holds images and a "
            'truth.json with [{"image": FILE, "lines": [{"text": TEXT}]}]'
        )
    return [found[group] for group in groups] if groups else list(found.values())


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
        what = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f'{path}: not as [{{"image": FILE, "lines": [{{"text": TEXT}}]}}]: {what}'
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
        _LOG.warning("%s is left out: %s", path, error)
        return False
    return True


TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Score:
    """What one or more pages have in common with their truth."""

    pages: int = 0
    tokens: Overlap = field(default_factory=Overlap)
    characters: Overlap = field(default_factory=Overlap)

    def __add__(self, other: Score) -> Score:
        return Score(
            self.pages + other.pages,
            self.tokens + other.tokens,
            self.characters + other.characters,
        )


def evaluate(
    yaml: Path,
    pages: Sequence[LabelledPage],
    models: Path,
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Score]:
    """Scores by set, and of all pages under TOTAL. An image of several pages counts as one.

    Raises what load_pipeline raises, and InputError for a page that cannot be read.
    """
    scores: dict[str, Score] = {}
    with load_pipeline(yaml, models=models) as reader:
        for index, page in enumerate(pages, 1):
            tell(f"{yaml}: {index} of {len(pages)}: {page.group}/{page.path.name}")
            read = [line.text for result in reader.predict(page.path) for line in result.lines]
            score = Score(1, token_overlap(page.texts, read), character_overlap(page.texts, read))
            scores[page.group] = scores.get(page.group, Score()) + score
    return {**scores, TOTAL: sum(scores.values(), Score())}
