"""Labelled pages that are rendered here."""

from __future__ import annotations

from pathlib import Path

from benchmarks import corpus
from serving.evaluate.labels import LabelledPage

_SEED = 7


def rendered_pages(folder: Path, count: int = 24) -> list[LabelledPage]:
    """Renders `count` pages, half of them degraded, into `folder` as PNG files."""
    import cv2

    pages = []
    for sample in corpus.pages(seed=_SEED, count=count):
        path = folder / f"{sample.name}.png"
        cv2.imwrite(str(path), sample.image)
        group = "rendered, degraded" if sample.degraded else "rendered, clean"
        pages.append(LabelledPage(group, path, tuple(line.text for line in sample.lines)))
    return sorted(pages, key=lambda page: page.group)
