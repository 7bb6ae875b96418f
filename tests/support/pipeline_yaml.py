"""A pipeline YAML with the fewest keys."""

from __future__ import annotations


def minimal(**changes: object) -> dict[str, object]:
    return {
        "pipeline_name": "OCR",
        "use_doc_preprocessor": False,
        "use_textline_orientation": False,
        "SubModules": {
            "TextDetection": {"model_name": "PP-OCRv4_mobile_det"},
            "TextRecognition": {"model_name": "PP-OCRv4_mobile_rec"},
        },
        **changes,
    }
