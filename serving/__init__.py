"""PP-OCR models served on the fastest engine that still reads the same text.

from serving import load_pipeline
pipeline = load_pipeline("configs/PP-OCRv4_mobile.yaml")
for result in pipeline.predict("page.jpg"):
    print([line.text for line in result.lines])
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.api import OcrPipeline, PageResult, load_pipeline
    from serving.config.options import Options
    from serving.types import Image, Line, Page, Point, Quad, Word

# ONNX Runtime and OpenVINO report their use over the network when they are imported, and leave ids
# in the home folder. Here, and in every child process, they do not: OpenVINO finds its reporter
# missing, which it allows for.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

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
