"""PP-OCR models served on the fastest engine that still reads the same text.

from serving import load_pipeline
pipeline = load_pipeline("configs/PP-OCRv4_mobile.yaml")
for result in pipeline.predict("page.jpg"):
    print([line.text for line in result.lines])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.api import OcrPipeline, PageResult, load_pipeline
    from serving.config.options import Options
    from serving.types import Image, Line, Page, Point, Quad, Word

_MODULES = {
    "serving.api": ("OcrPipeline", "PageResult", "load_pipeline"),
    "serving.config.options": ("Options",),
    "serving.types": ("Image", "Line", "Page", "Point", "Quad", "Word"),
}

__all__ = [
    "Image",
    "Line",
    "OcrPipeline",
    "Options",
    "Page",
    "PageResult",
    "Point",
    "Quad",
    "Word",
    "load_pipeline",
]


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562), so that `ocr-hpi --help` loads neither NumPy nor a backend."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
