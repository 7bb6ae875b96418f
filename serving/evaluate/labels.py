"""Labelled images: PaddleOCR's and PPOCRLabel's files, truth.json, COCO-Text."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import ConfigError, UnsupportedMedia
from serving.imaging.formats import SNIFF_BYTES, sniff
from serving.scores import Polygon

_LOG = logging.getLogger(__name__)

FILES = "truth.json", "Label.txt", "rec_gt.txt"
"""What is looked for in a folder."""
_FORMS = (
    'truth.json with [{"image": FILE, "lines": [{"text": TEXT, "poly": [[x, y], ...]}]}], '
    "PPOCRLabel's Label.txt or rec_gt.txt"
)
_IGNORED = {"transcription": ("###", "*"), "text": ("###",), "utf8_string": ("###",)}
"""Keys of a line's text, and the texts that no reading can match."""
_POLYGONS = "points", "poly", "quad", "box", "polygon", "mask", "segmentation"
_MAX_LOGGED = 20


@dataclass(frozen=True, slots=True)
class LabelledPage:
    """An image or document file and the texts of its lines, whose order few figures depend on."""

    group: str
    """Its set: the name of its folder or label file."""
    path: Path
    texts: tuple[str, ...]
    boxes: tuple[Polygon, ...] | None = None
    """One per text; None if some text has none."""
    ignored: tuple[Polygon, ...] = ()
    """Regions in which nothing counts that is read."""
    is_line: bool = False
    """Whether it is the crop of one line, for the recogniser alone."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The labelled pages of a dataset, and what was wrong with it."""

    pages: list[LabelledPage]
    problems: list[str]
    """What was left out: file, line or entry, and why."""


def read_labels(data: Path, groups: Sequence[str] = ()) -> Labels:
    """The labels of a file; of a folder's `FILES`; or of those of every folder in it.

    A text file is PaddleOCR's, for detection (`IMAGE<TAB>[{"transcription": ..., "points": ...}]`)
    or for recognition (`IMAGE<TAB>TEXT`); a JSON file is a truth.json, or COCO-Text's. Paths are
    relative to the label file's folder, or to the one above. groups: only these subfolders.

    What is wrong with a line, or with its image, is logged and counted; the rest is used. Raises
    ConfigError if nothing is left, or a file can't be read at all.
    """
    labels = Labels([], [])
    for group, file in _label_files(data, groups):
        for where, entry in _entries(file):
            try:
                labels.pages.append(_page(group, file.parent, *entry()))
            except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else error
                labels.problems.append(f"{where}: {reason}")
    for problem in labels.problems[:_MAX_LOGGED]:
        _LOG.warning("left out: %s", problem)
    if more := len(labels.problems[_MAX_LOGGED:]):
        _LOG.warning("left out: %d more", more)
    if not labels.pages:
        first = labels.problems[0] if labels.problems else "there are no labels in it"
        raise ConfigError(f"--data {data}: no image or document to read: {first}")
    return labels


def _label_files(data: Path, groups: Sequence[str]) -> list[tuple[str, Path]]:
    """(group, file) of every label file, sorted by folder."""
    if data.is_file():
        return [(data.stem, data)]
    if not data.is_dir():
        raise ConfigError(f"--data {data}: no such file or folder")
    found = [data / name for name in FILES if (data / name).is_file()]
    if not found:
        found = sorted(file for name in FILES for file in data.glob(f"*/{name}"))
    unknown = [group for group in groups if group not in {file.parent.name for file in found}]
    if unknown or not found:
        names = f"{', '.join(unknown)}: " if unknown else ""
        raise ConfigError(
            f"--data {data}: {names}no labels; give a label file, or a folder that holds {_FORMS}"
        )
    if groups:
        found = [file for group in groups for file in found if file.parent.name == group]
    files = []
    for file in found:
        name = file.resolve().parent.name
        alone = sum(other.parent == file.parent for other in found) == 1
        files.append((name if alone else f"{name}/{file.stem}", file))
    return files


_Lines = str | list[Mapping[str, Any]]
"""The text of a crop, or the lines of a page."""
_Entry = tuple[str, _Lines, bool]
"""File name of an image, its lines, and whether a page without lines is known to have no text."""


def _entries(file: Path) -> Iterator[tuple[str, Callable[[], _Entry]]]:
    """Where each entry stands, and what reads it or raises."""
    try:
        data = file.read_bytes()
        document = json.loads(data) if file.suffix == ".json" else None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: cannot be read as labels: {error}") from error
    if file.suffix != ".json":
        read = _detection_line if b"\t[{" in data else _recognition_line
        for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            if line.strip():
                yield f"{file}:{number}", partial(read, line)
    elif isinstance(document, list):
        for number, entry in enumerate(document, 1):
            yield f"{file}: entry {number}", partial(_truth_entry, entry)
    elif isinstance(document, dict):
        yield from _coco(file, document)
    else:
        raise ConfigError(f"{file}: neither {_FORMS}, nor COCO-Text")


def _recognition_line(line: bytes) -> _Entry:
    image, tab, text = line.decode("utf-8").rstrip("\r").partition("\t")
    if not tab:
        raise ValueError("not IMAGE<TAB>LABEL: there is no tab in it")
    return image, text, True


def _detection_line(line: bytes) -> _Entry:
    image, text, _ = _recognition_line(line)
    assert isinstance(text, str)
    return image, json.loads(text), True


def _truth_entry(entry: Any) -> _Entry:
    return entry["image"], entry["lines"], False


def _coco(file: Path, document: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], _Entry]]]:
    """COCO-Text's objects by id (`imgs`, `anns`), or COCO's lists (`images`, `annotations`)."""
    images, annotations = (
        list(part.values()) if isinstance(part, dict) else part
        for part in (
            document.get("imgs", document.get("images")),
            document.get("anns", document.get("annotations")),
        )
    )
    if not (isinstance(images, list) and isinstance(annotations, list)):
        raise ConfigError(f"{file}: neither {_FORMS}, nor COCO-Text: it lacks imgs and anns")
    lines: dict[str, list[Any]] = defaultdict(list)
    for number, line in enumerate(annotations, 1):
        try:
            lines[_image_id(line)].append(line)
        except (LookupError, TypeError):
            yield f"{file}: annotation {number}", partial(_image_id, line)
    for number, image in enumerate(images, 1):
        yield f"{file}: image {number}", partial(_coco_entry, image, lines)


def _image_id(annotation: Any) -> Any:
    return str(annotation["image_id"])


def _coco_entry(image: Any, lines: Mapping[str, Any]) -> _Entry:
    return image["file_name"], lines.get(str(image["id"]), []), True


def _page(group: str, folder: Path, image: Any, lines: Any, known: bool) -> LabelledPage:
    """Raises ValueError, KeyError, TypeError or OSError for what is wrong."""
    if not isinstance(image, str) or not image:
        raise ValueError("its image is not named by a text")
    path = next((p for p in (folder / image, folder.parent / image) if p.is_file()), None)
    if path is None:
        raise ValueError(f"{image} is neither in {folder} nor in {folder.resolve().parent}")
    with path.open("rb") as opened:
        try:
            sniff(opened.read(SNIFF_BYTES))
        except UnsupportedMedia as error:
            raise ValueError(f"{image}: {error}") from error
    if isinstance(lines, str):
        return LabelledPage(group, path, (lines,), is_line=True)
    texts: list[str] = []
    boxes: list[Polygon] = []
    ignored: list[Polygon] = []
    for line in lines:
        if not isinstance(line, dict):
            raise ValueError("its lines are not a list of objects")
        key = next((key for key in _IGNORED if key in line), "text")
        polygon = _polygon(line)
        if line.get("legibility") == "illegible" or line[key] in _IGNORED[key]:
            ignored += [polygon] if polygon else []
            continue
        if not isinstance(line[key], str):
            raise ValueError(f"its {key} is not a text: {str(line[key])[:80]}")
        texts.append(line[key])
        boxes += [polygon] if polygon else []
    has_boxes = len(boxes) == len(texts) and (known or bool(lines))
    return LabelledPage(
        group, path, tuple(texts), tuple(boxes) if has_boxes else None, tuple(ignored)
    )


def _polygon(line: Mapping[str, Any]) -> Polygon | None:
    key = next((key for key in _POLYGONS if line.get(key)), "bbox")
    value = line.get(key)
    if not value:
        return None
    if key == "segmentation" and len(value) != 1:
        raise ValueError("segmentation: give one polygon")
    try:
        points = np.asarray(value, np.float64).reshape(-1, 2)
    except (ValueError, TypeError, OverflowError):
        points = np.empty((0, 2))
    if key == "bbox" and len(points) == 2:  # COCO's x, y, width, height
        (x, y), (width, height) = points
        points = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    if len(points) < 3 or not (np.abs(points) < 1e6).all():
        raise ValueError(f"{key}: give at least three corners [x, y], in pixels")
    return tuple((x, y) for x, y in points.tolist())
