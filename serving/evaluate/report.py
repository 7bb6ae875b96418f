"""What an evaluation found, to look at: one HTML file without a third-party host, JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass, field
from heapq import nlargest
from operator import itemgetter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from rapidfuzz.distance import Levenshtein

from serving.errors import InputError, TimedOut
from serving.evaluate.figures import FIGURES, TIMES, Evaluation
from serving.evaluate.labels import LabelledPage
from serving.imaging.source import load
from serving.output.image import jpeg_base64
from serving.scores import Polygon, box_pairs, edit_distance, not_ignored
from serving.types import Image

_LINES, _PAGES, _CONFUSIONS, _PROBLEMS = 100, 12, 60, 50
_LINE_SIZE, _PAGE_SIZE = (48, 700), (1000, 1000)
"""Pictures are at most so many pixels high and wide."""
_MAX_TEXT = 400
_MAX_PICTURES = 12 << 20
"""Bytes of all pictures; what follows has none."""


def write_report(found: Evaluation, path: Path) -> None:
    """Write `path`, and beside it .json with all figures and .csv with a row for each line.

    The HTML stays under 20 MB, however many lines there are. Raises OSError.
    """
    summary = found.to_dict()
    text = json.dumps(summary, ensure_ascii=False, indent=1)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8", errors="replace")
    lines = _read_lines(found, path.with_suffix(".csv"))
    pictures = _Pictures()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("serving", "evaluate"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(
        found=found,
        summary=summary,
        times=TIMES,
        problems=found.problems[:_PROBLEMS],
        confusions=_confusions(lines.confusions),
        sections=[
            (title, [_shown(line, pictures) for _, line in nlargest(_LINES, some, itemgetter(0))])
            for title, some in zip(_TITLES, (lines.worst, lines.lost), strict=True)
        ],
        pages=_pages(found, pictures),
    )
    path.write_text(html, encoding="utf-8", errors="replace")


_TITLES = "Worst lines", "Lines on which the second pipeline is better"
_Line = tuple[LabelledPage, str, Polygon | None, tuple[str, ...]]


@dataclass
class _Lines:
    confusions: list[Counter[tuple[str, str]]]
    """Of each pipeline: a labelled character and what was read instead; empty where nothing."""
    worst: list[tuple[int, _Line]] = field(default_factory=list)
    """Those with errors, and how many."""
    lost: list[tuple[int, _Line]] = field(default_factory=list)
    """Those on which the second pipeline has fewer errors, and how many fewer."""


def _read_lines(found: Evaluation, path: Path) -> _Lines:
    """One pass over all lines, which writes the CSV."""
    lines = _Lines([Counter() for _ in found.pipelines])
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        table = csv.writer(file)
        columns = [(name, f"errors of {name}") for name in found.pipelines]
        table.writerow(["set", "image", "truth", *(cell for pair in columns for cell in pair)])
        for index, page in enumerate(found.pages):
            for truth, box, reads in found.pairs(index):
                errors = [edit_distance(truth, read) for read in reads]
                cells = [cell for pair in zip(reads, errors, strict=True) for cell in pair]
                table.writerow([page.group, page.path, truth, *cells])
                for read, confusions in zip(reads, lines.confusions, strict=True):
                    for edit in Levenshtein.editops(truth, read) if read else ():
                        before = "" if edit.tag == "insert" else truth[edit.src_pos]
                        after = "" if edit.tag == "delete" else read[edit.dest_pos]
                        confusions[before, after] += 1
                line = page, truth, box, reads
                if errors[0] and (reads[0] or page.is_line):  # what was not found is on its page
                    lines.worst.append((errors[0], line))
                if errors[0] > errors[-1]:
                    lines.lost.append((errors[0] - errors[-1], line))
    return lines


def _confusions(found: list[Counter[tuple[str, str]]]) -> list[dict[str, Any]]:
    """The most frequent ones of the pipelines together."""
    return [
        {
            "characters": [(sign, f"U+{ord(sign):04X}") if sign else () for sign in pair],
            "counts": [counter[pair] for counter in found],
        }
        for pair, _ in sum(found, Counter()).most_common(_CONFUSIONS)
    ]


def _shown(line: _Line, pictures: _Pictures) -> dict[str, Any]:
    page, truth, box, reads = line
    image = pictures.image(page)
    if image is not None and box is not None:
        (left, top), (right, bottom) = np.clip([np.min(box, 0), np.max(box, 0)], 0, None).astype(
            int
        )
        image = image[top : bottom + 1, left : right + 1]
    return {
        "picture": pictures.add(image, _LINE_SIZE) if box is not None or page.is_line else None,
        "name": f"{page.group}: {page.path.name}",
        "truth": truth[:_MAX_TEXT],
        "reads": [_marked(truth[:_MAX_TEXT], read[:_MAX_TEXT]) for read in reads],
    }


def _marked(truth: str, read: str) -> list[tuple[str, str]]:
    """(kind, text): equal, replace, insert, or delete, whose text is the truth's."""
    return [
        (
            part.tag,
            truth[part.src_start : part.src_end]
            if part.tag == "delete"
            else read[part.dest_start : part.dest_end],
        )
        for part in Levenshtein.opcodes(truth, read)
    ]


def _pages(found: Evaluation, pictures: _Pictures) -> list[dict[str, Any]]:
    """The pages with most missed and false boxes, and these boxes by pipeline."""
    column = FIGURES.index("det_hmean")
    errors = (found.counts[:, :, column, 1] - found.counts[:, :, column, 0]).sum(1)
    shown = []
    for index in np.argsort(-errors, kind="stable")[:_PAGES].tolist():
        page = found.pages[index]
        image = pictures.image(page) if page.boxes is not None and errors[index] else None
        if image is None or page.boxes is None:
            continue
        boxes = []
        for reading in found.readings[index]:
            read = not_ignored(reading.boxes, reading.boxes, page.ignored)
            pairs = dict(box_pairs(page.boxes, read, 0.5))
            hits = set(pairs.values())
            boxes.append(
                [("ignored", box) for box in page.ignored]
                + [("hit" if i in hits else "false", box) for i, box in enumerate(read)]
                + [("missed", box) for i, box in enumerate(page.boxes) if i not in pairs]
            )
        shown.append(
            {
                "name": f"{page.group}: {page.path.name}",
                "picture": pictures.add(image, _PAGE_SIZE),
                "height": image.shape[0],
                "width": image.shape[1],
                "boxes": boxes,
            }
        )
    return shown


@dataclass
class _Pictures:
    """Reads images, and makes JPEGs of them until there are enough bytes."""

    bytes: int = 0
    last: tuple[Path, Image | None] | None = None

    def image(self, page: LabelledPage) -> Image | None:
        """The one page of a file; None for more, or if it can't be read any more."""
        if self.last is None or self.last[0] != page.path:
            try:
                images = [loaded.image for loaded in load(page.path)]
            except (InputError, TimedOut):
                images = []
            self.last = page.path, images[0] if len(images) == 1 else None
        return self.last[1]

    def add(self, image: Image | None, size: tuple[int, int]) -> str | None:
        """As a data URL; None if there is no image or no room."""
        if image is None or not image.size or self.bytes > _MAX_PICTURES:
            return None
        url = "data:image/jpeg;base64," + jpeg_base64(image, size, quality=80)
        self.bytes += len(url)
        return url
