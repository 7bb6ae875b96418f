"""Labelled pages: folders of images with a `truth.json`, or pages rendered here."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import corpus
from serving.errors import ConfigError, UnsupportedMedia
from serving.imaging.sniff import HEAD, sniff

_LOG = logging.getLogger(__name__)

_RENDERED_SEED = 7


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


def rendered_pages(folder: Path, count: int = 24) -> list[LabelledPage]:
    """Renders `count` pages, half of them degraded, into `folder` as PNG files."""
    import cv2

    pages = []
    for sample in corpus.pages(seed=_RENDERED_SEED, count=count):
        path = folder / f"{sample.name}.png"
        cv2.imwrite(str(path), sample.image)
        group = "rendered, degraded" if sample.degraded else "rendered, clean"
        pages.append(LabelledPage(group, path, tuple(line.text for line in sample.lines)))
    return sorted(pages, key=lambda page: page.group)


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
            sniff(file.read(HEAD))
    except UnsupportedMedia as error:
        _LOG.warning("%s is left out: %s", path, error)
        return False
    return True
