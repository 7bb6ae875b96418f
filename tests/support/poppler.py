"""Poppler's tools on a PDF's bytes: what another reader than PDFium makes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

XHTML = "{http://www.w3.org/1999/xhtml}"


class Found(NamedTuple):
    text: str
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in points of the page, upright."""


def needs_poppler() -> None:
    """Skip without poppler-utils, but fail where they must be there."""
    if shutil.which("pdftotext") is None:
        if os.environ.get("OCR_HPI_REQUIRE_POPPLER"):
            pytest.fail("needs pdftotext: apt-get install poppler-utils")
        pytest.skip("needs pdftotext (poppler-utils)")


def run(*command: str, pdf: bytes) -> bytes:
    needs_poppler()
    done = subprocess.run([*command, "-"], input=pdf, capture_output=True, check=True)
    return done.stdout


def words(pdf: bytes) -> list[list[Found]]:
    """The words of each page."""
    needs_poppler()
    done = subprocess.run(
        ["pdftotext", "-cropbox", "-bbox", "-", "-"], input=pdf, capture_output=True, check=True
    )
    root = ElementTree.fromstring(done.stdout)
    return [
        [
            Found(
                word.text or "",
                tuple(float(word.attrib[name]) for name in ("xMin", "yMin", "xMax", "yMax")),  # type: ignore[arg-type]
            )
            for word in page.iter(f"{XHTML}word")
        ]
        for page in root.iter(f"{XHTML}page")
    ]


def pixels(pdf: bytes, dpi: int = 72) -> bytes:
    """All pages as PPM, as pdftoppm draws them."""
    return run("pdftoppm", "-cropbox", "-r", str(dpi), pdf=pdf)
