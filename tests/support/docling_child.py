"""docling's OCR stage on the first page of a PDF: `docling_child.py FILE URL`.

Prints what it finds with binary data and without, as a list. Its layout models are not needed for
that: this is what its pipeline calls with each page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from docling.backend.pypdfium2_backend import PyPdfiumDocumentBackend
from docling.datamodel.accelerator_options import AcceleratorOptions
from docling.datamodel.base_models import InputFormat, Page
from docling.datamodel.document import ConversionResult, InputDocument
from docling.datamodel.pipeline_options import KserveV2OcrOptions, OcrMode
from docling.models.stages.ocr.kserve_v2_ocr_model import KserveV2OcrModel


def read(path: Path, url: str, *, binary: bool) -> dict[str, Any]:
    document = InputDocument(
        path_or_stream=path, format=InputFormat.PDF, backend=PyPdfiumDocumentBackend
    )
    page = Page(page_no=1)
    page._backend = document._backend.load_page(0)
    page.size = page._backend.get_size()
    page.parsed_page = page._backend.get_segmented_page()
    options = KserveV2OcrOptions(
        url=url,
        model_name="accurate",
        transport="http",
        use_binary_data=binary,
        mode=OcrMode.FULL_PAGE,
    )
    model = KserveV2OcrModel(
        enabled=True,
        artifacts_path=None,
        options=options,
        accelerator_options=AcceleratorOptions(),
        enable_remote_services=True,
    )
    result = ConversionResult(input=document)
    [page] = model(result, [page])
    boxes = [(cell, cell.rect.to_bounding_box()) for cell in page.parsed_page.textline_cells]
    return {
        "errors": [error.error_message for error in result.errors],
        "model": [spec.name for spec in model._kserve_client.get_model_metadata().inputs],
        "width": page.size.width,
        "height": page.size.height,
        "cells": [
            {"text": cell.text, "left": box.l, "top": box.t, "right": box.r, "bottom": box.b}
            for cell, box in boxes
        ],
    }


if __name__ == "__main__":
    file, url = Path(sys.argv[1]), sys.argv[2]
    print(json.dumps([read(file, url, binary=binary) for binary in (True, False)]))
