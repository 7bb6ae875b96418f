"""What candidates are measured on: rendered pages whose text is known, and the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import corpus
from serving.errors import ConfigError
from serving.imaging.crop import crop
from serving.imaging.source import load
from serving.types import Image


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Pages for the detector; line crops for the recogniser, with their text where it is known."""

    pages: tuple[Image, ...]
    crops: tuple[Image, ...]
    texts: tuple[str, ...]
    """One a crop."""
    own_pages: tuple[Image, ...]
    """The user's pages, whose text nobody knows."""
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
    """The rendered set, and the images of the folder `own`. Raises ConfigError, InputError."""
    samples = corpus.calibration()
    cut = [
        (picture, line.text)
        for sample in samples
        for line in sample.lines
        if (picture := crop(sample.image, np.array(line.quad, np.int32))[0]).size
    ]
    return Calibration(
        pages=tuple(sample.image for sample in samples),
        crops=tuple(picture for picture, _ in cut),
        texts=tuple(text for _, text in cut),
        own_pages=tuple(_own_pages(own)) if own is not None else (),
        hash=calibration_hash(own),
    )


def calibration_hash(own: Path | None = None) -> str:
    """Names the set without rendering or decoding it."""
    digest = hashlib.sha256(corpus.corpus_hash().encode())
    for path in _files(own):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _own_pages(folder: Path) -> Iterator[Image]:
    for path in _files(folder):
        yield from (image for _, _, image in load(path))


def _files(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise ConfigError(f"--calibration {folder}: no such folder")
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".json")
