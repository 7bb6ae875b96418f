"""PaddleX's pipeline YAML of the 3.0 betas, translated so that an error can show the mend."""

from __future__ import annotations

from typing import Any

import yaml

# key of the beta form -> section and key of today's form
_MOVED = {
    "det_model": ("TextDetection", "model"),
    "text_det_model": ("TextDetection", "model"),
    "rec_model": ("TextRecognition", "model"),
    "text_rec_model": ("TextRecognition", "model"),
    "rec_batch_size": ("TextRecognition", "batch_size"),
    "text_rec_batch_size": ("TextRecognition", "batch_size"),
}
_MODULE_NAMES = {"TextDetection": "text_detection", "TextRecognition": "text_recognition"}


def translated_beta(data: dict[str, Any]) -> str | None:
    """Today's YAML for a document in the beta form; None for any other document."""
    old = data.get("Pipeline")
    if not isinstance(old, dict):
        return None
    modules: dict[str, dict[str, Any]] = {}
    for section, module_name in _MODULE_NAMES.items():
        modules[section] = {
            "module_name": module_name,
            "model_name": f"PP-OCRv4_mobile_{module_name[5:8]}",
        }
        modules[section]["model_dir"] = None
    for key, (section, what) in _MOVED.items():
        if key not in old:
            continue
        value = old[key]
        if what == "model" and "/" in str(value):
            modules[section]["model_dir"] = value
        else:
            modules[section]["model_name" if what == "model" else what] = value
    today = {
        "pipeline_name": "OCR",
        "text_type": "general",
        "use_doc_preprocessor": False,
        "use_textline_orientation": False,
        "enable_hpi": True,
        "SubModules": modules,
    }
    return yaml.safe_dump(today, sort_keys=False, allow_unicode=True)
