"""The fonts that come with the package: subsets of Noto (data/OFL.txt), Latin and Chinese."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

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


def load(face: Face, size: int) -> FreeTypeFont:
    """`face` at `size` pixels per em. A character that it lacks is drawn as an empty box.

    Basic layout, so that text lies the same whether or not Pillow was built with Raqm.
    """
    from PIL import ImageFont

    with resources.as_file(resources.files("serving") / "data" / face) as path:
        return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
