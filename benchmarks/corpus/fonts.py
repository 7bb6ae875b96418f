"""The typefaces of the rendered pages: subsets of Noto (data/OFL.txt)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont

from serving.imaging import draw

Face = Literal[
    "NotoSansCJKsc-Regular.otf",
    "NotoSerifCJKsc-Regular.otf",
    "NotoSans-Bold.ttf",
    "NotoSerif-Regular.ttf",
    "NotoSansMono-Regular.ttf",
]

CHINESE: tuple[Face, ...] = ("NotoSansCJKsc-Regular.otf", "NotoSerifCJKsc-Regular.otf")
"""Faces with GB2312 hanzi (the second: level 1) beside Latin-1."""

LATIN: tuple[Face, ...] = ("NotoSerif-Regular.ttf", "NotoSansMono-Regular.ttf", "NotoSans-Bold.ttf")
"""Faces with Latin-1 only."""


def font_path(face: Face) -> Path:
    """Where the file of `face` is: the package's own face is in serving/data."""
    if face == draw.FACE:
        return Path(str(resources.files("serving"))) / "data" / face
    return Path(__file__).parent / "data" / face


def load_font(face: Face, size: int) -> FreeTypeFont:
    """`face` at `size` pixels per em. A missing character is drawn as an empty box.

    Basic layout, so that the result does not depend on whether Pillow was built with Raqm.
    """
    return ImageFont.truetype(str(font_path(face)), size, layout_engine=ImageFont.Layout.BASIC)
