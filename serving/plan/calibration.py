"""What candidates are measured on: pages with known text (data/calibration), and the user's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.errors import ConfigError
from serving.imaging.crop import crop
from serving.imaging.source import load
from serving.types import Image

_SHIPPED = Path(__file__).resolve().parents[1] / "data" / "calibration"


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Pages for the detector; line crops with their texts for the recogniser."""

    pages: tuple[Image, ...]
    crops: tuple[Image, ...]
    texts: tuple[str, ...]
    """One per crop."""
    own_pages: tuple[Image, ...]
    """The user's pages, without texts."""
    hash: str

    def to_dict(self) -> dict[str, object]:
        """As plain values, for the plan."""
        return {
            "hash": self.hash,
            "pages": len(self.pages),
            "own_pages": len(self.own_pages),
            "lines": len(self.texts),
            "characters": sum(map(len, self.texts)),
        }


def calibration_set(own: Path | None = None) -> Calibration:
    """The shipped set, and the images of the folder `own`. Raises ConfigError, InputError."""
    truth = json.loads((_SHIPPED / "truth.json").read_text(encoding="utf-8"))
    pages = _pages(_SHIPPED / page["image"] for page in truth)
    lines = [
        (picture, line["text"])
        for page, labels in zip(pages, truth, strict=True)
        for line in labels["lines"]
        if (picture := crop(page, np.array(line["poly"], np.int32))[0]).size
    ]
    return Calibration(
        pages=pages,
        crops=tuple(picture for picture, _ in lines),
        texts=tuple(text for _, text in lines),
        own_pages=_pages(_files(own)),
        hash=calibration_hash(own),
    )


def calibration_hash(own: Path | None = None) -> str:
    """Identifies the set by its files: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in (*sorted(_SHIPPED.iterdir()), *_files(own)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _pages(files: Iterable[Path]) -> tuple[Image, ...]:
    return tuple(loaded.image for path in files for loaded in load(path))


def _files(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise ConfigError(f"--calibration {folder}: no such folder")
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".json")
