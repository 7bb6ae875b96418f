"""Runs where PaddleX is: paddlex_child.py JOB.json RESULT.json (see test_paddlex.py)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK"] = "True"

import cv2
import paddlex
from paddleocr import PaddleOCR

import serving.paddlex
from serving.errors import OcrError

Job = dict[str, Any]


def main(job: Job) -> dict[str, Any]:
    chosen: list[str] = []

    def choose(request: serving.paddlex.ModelRequest) -> Any:
        spec = serving.paddlex.simplest(request)
        chosen.append(f"{request.name} {spec}")
        return spec

    serving.paddlex.enable(models=job["models"])
    serving.paddlex.enable(models=job["models"], choose=choose)
    config = serving.paddlex.paddlex_config(job["yaml"], models=job["models"])
    models = {
        f"text_{kind}_model_name": config["SubModules"][f"Text{kind.title()}"]["model_name"]
        for kind in ("detection", "recognition")
    }
    fixed = {"backend": "openvino", "backend_config": {"cpu_num_threads": 2, "streams": 2}}
    doors: dict[str, Callable[[], Any]] = {
        "plain": lambda: serving.paddlex.plain_pipeline(job["yaml"], models=job["models"]),
        "paddlex": lambda: paddlex.create_pipeline(config=config, use_hpip=True),
        "paddleocr": lambda: PaddleOCR(paddlex_config=config, enable_hpi=True, **models),
        "by row": lambda: PaddleOCR(
            paddlex_config={**config, "hpi_config": fixed}, enable_hpi=True, **models
        ),
    }
    texts = {}
    for door in job["doors"]:
        pipeline = doors[door]()
        texts[door] = [read(pipeline, page) for page in job["pages"]]
    return {
        "texts": texts,
        "chosen": chosen,
        "layout": layout(job),
        "refused": [refusal(config, hpi) for hpi in job["impossible"]],
        "unknown": unknown(job),
        "loaded": sorted({"paddle", "ultra_infer"} & sys.modules.keys()),
    }


def read(pipeline: Any, page: str) -> list[str]:
    (result,) = pipeline.predict(page)
    return list(result["rec_texts"])


def layout(job: Job) -> dict[str, list[Any]]:
    """A model of several inputs, on our engine and on PaddleX's own."""
    found = {}
    for engine in ("hpi", "onnxruntime"):
        model = paddlex.create_model("RT-DETR-L", job["layout"], engine=engine)
        (result,) = model.predict(cv2.imread(job["pages"][0]))
        found[engine] = [
            [float(box["score"]), *map(float, box["coordinate"])] for box in result["boxes"]
        ]
    return found


def refusal(config: dict[str, Any], hpi: dict[str, Any]) -> str:
    try:
        paddlex.create_pipeline(config={**config, "hpi_config": hpi})
    except OcrError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def unknown(job: Job) -> str:
    try:
        serving.paddlex.plain_pipeline(job["unknown"], models=job["models"])
    except OcrError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


if __name__ == "__main__":
    result = main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
