"""What scanners, fax machines, phones and mail gateways do to a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus.canvas import Sample, TruthLine
from serving.types import Image, Point

Matrix = NDArray[np.float64]

JPEG_QUALITY = 30


def degrade(sample: Sample, recipe: int, seed: int) -> Sample:
    """`sample` after one of RECIPES (by number, modulo their count) and JPEG at quality 30."""
    rng = np.random.default_rng(seed)
    image, matrix = RECIPES[recipe % len(RECIPES)](sample.image, rng)
    lines = tuple(_moved(line, matrix) for line in sample.lines)
    return replace(sample, image=compress(image), lines=lines, degraded=True)


def scan(image: Image, rng: np.random.Generator) -> tuple[Image, Matrix]:
    """Laid on the glass askew, out of focus, with a noisy sensor."""
    image, matrix = _rotated(image, rng.uniform(-2.0, 2.0))
    return noisy(blurred(image, rng.uniform(0.8, 1.2)), rng, rng.uniform(8, 14)), matrix


def fax(image: Image, rng: np.random.Generator) -> tuple[Image, Matrix]:
    """Sent at low resolution in pure black and white, with specks."""
    import cv2

    small, matrix = _shrunk(image, rng.uniform(0.75, 0.9))
    grey = cv2.cvtColor(noisy(small, rng, rng.uniform(16, 24)), cv2.COLOR_BGR2GRAY)
    _, bilevel = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    speck = rng.random(bilevel.shape)
    bilevel[speck < 0.002] = 0
    bilevel[speck > 0.985] = 255
    return _as_image(cv2.cvtColor(bilevel, cv2.COLOR_GRAY2BGR)), matrix


def photo(image: Image, rng: np.random.Generator) -> tuple[Image, Matrix]:
    """Taken by hand: perspective, uneven light, a moving camera."""
    import cv2

    height, width = image.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    pull = rng.uniform(0, 0.025, (4, 2)) * (width, height)
    inward = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    matrix = cv2.getPerspectiveTransform(corners, (corners + inward * pull).astype(np.float32))
    warped = cv2.warpPerspective(image, matrix, (width, height), borderValue=(70, 75, 80))
    length = int(rng.integers(2, 4))
    warped = cv2.blur(warped, (length, 1) if rng.random() < 0.5 else (1, length))
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    slope = rng.uniform(-0.35, 0.35, 2)
    light = 0.8 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5)
    lit = np.clip(warped * light[:, :, None] + 18, 0, 255).astype(np.uint8)
    return noisy(lit, rng, rng.uniform(4, 8)), np.asarray(matrix, np.float64)


def thumbnail(image: Image, rng: np.random.Generator) -> tuple[Image, Matrix]:
    """Made small for the web, faded."""
    small, matrix = _shrunk(image, rng.uniform(0.68, 0.8))
    faded = 255 - (255 - small.astype(np.float32)) * rng.uniform(0.5, 0.75)
    return noisy(faded.astype(np.uint8), rng, 4), matrix


RECIPES: tuple[Callable[[Image, np.random.Generator], tuple[Image, Matrix]], ...] = (
    scan,
    fax,
    photo,
    thumbnail,
)


def blurred(image: Image, sigma: float) -> Image:
    """Gaussian blur of `sigma` pixels."""
    import cv2

    return _as_image(cv2.GaussianBlur(image, (0, 0), sigma))


def noisy(image: Image, rng: np.random.Generator, sigma: float) -> Image:
    """Gaussian noise of `sigma` grey levels, the same in the three channels."""
    noise = rng.standard_normal(image.shape[:2], np.float32) * np.float32(sigma)
    return np.clip(image + noise[:, :, None], 0, 255).astype(np.uint8)


def compress(image: Image) -> Image:
    """The image after JPEG at JPEG_QUALITY."""
    import cv2

    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return _as_image(cv2.imdecode(data, cv2.IMREAD_COLOR))


def _as_image(array: Any) -> Image:
    return np.asarray(array, np.uint8)


def _rotated(image: Image, degrees: float) -> tuple[Image, Matrix]:
    import cv2

    height, width = image.shape[:2]
    affine = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    paper = tuple(int(v) for v in np.median(image.reshape(-1, 3)[::997], axis=0))
    turned = cv2.warpAffine(image, affine, (width, height), borderValue=paper)
    return _as_image(turned), np.vstack([affine, (0.0, 0.0, 1.0)])


def _shrunk(image: Image, factor: float) -> tuple[Image, Matrix]:
    import cv2

    height, width = image.shape[:2]
    size = round(width * factor), round(height * factor)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return _as_image(small), np.diag([size[0] / width, size[1] / height, 1.0])


def _moved(line: TruthLine, matrix: Matrix) -> TruthLine:
    def move(point: Point) -> Point:
        x, y, w = matrix @ (*point, 1.0)
        return round(x / w), round(y / w)

    a, b, c, d = line.quad
    return TruthLine(line.text, (move(a), move(b), move(c), move(d)))
