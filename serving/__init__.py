"""PP-OCR models served on the fastest engine that still reads the same text.

from serving import load_pipeline
pipeline = load_pipeline("configs/PP-OCRv4_mobile.yaml")
for result in pipeline.predict("page.jpg"):
    print([line.text for line in result.lines])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serving.types import Line, Page, Point, Quad

if TYPE_CHECKING:
    from serving.api import PageResult, Reader, load_pipeline
    from serving.config.options import Options

__all__ = ["Line", "Options", "Page", "PageResult", "Point", "Quad", "Reader", "load_pipeline"]

_LAZY = {
    "Options": "serving.config.options",
    "PageResult": "serving.api",
    "Reader": "serving.api",
    "load_pipeline": "serving.api",
}


def __getattr__(name: str) -> Any:
    """Import the engines only for those who read, so that `ocr-hpi --help` is instant."""
    import importlib

    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
