"""Runs where PaddleX is: paddlex_child.py JOB.json RESULT.json (see paddlex_env.py)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddlex
from paddleocr import PaddleOCR

import serving.integrations.paddlex
from serving import load_pipeline
from serving.errors import OcrError
from serving.integrations.paddlex import hook

Job = dict[str, Any]

OPENED: list[str] = []
"""The engines that were opened, in order."""


def texts(job: Job) -> Any:
    """What each door reads."""
    config = serving.integrations.paddlex.paddlex_config(job["yaml"], models=job["models"])
    models = {
        f"text_{kind}_model_name": config["SubModules"][f"Text{kind.title()}"]["model_name"]
        for kind in ("detection", "recognition")
    }
    fixed = {"backend": "openvino", "backend_config": {"cpu_num_threads": 2, "streams": 2}}
    by_row = {**config, "hpi_config": {**fixed, "auto_config": False}}

    def exact(config: Any) -> Any:
        serving.integrations.paddlex.enable(models=job["models"], gate="exact")
        return PaddleOCR(paddlex_config=config, enable_hpi=True, **models)

    def planned() -> Any:
        serving.integrations.paddlex.enable(models=job["models"])
        return paddlex.create_pipeline(config=config, use_hpip=True)

    def unplanned() -> Any:
        for _ in range(2):  # it is told once all the same
            pipeline = paddlex.create_pipeline(config=config, use_hpip=True)
        return pipeline

    def without_plans() -> Any:
        conversions = Path(job["models"]) / "engines" / "onnx"
        store = Path(job["scratch"]) / "store"
        (store / "engines").mkdir(parents=True)
        (store / "engines" / "onnx").symlink_to(conversions)
        serving.integrations.paddlex.enable(models=store, gate="exact")
        return unplanned()

    doors: dict[str, Callable[[], Any]] = {
        "plain": lambda: serving.integrations.paddlex.plain_pipeline(
            job["yaml"], models=job["models"]
        ),
        "paddlex": planned,
        "paddleocr": lambda: exact(config),
        "by row": lambda: exact(by_row),
        "unplanned": without_plans,
    }
    found, engines = {}, {}
    for door in job["doors"]:
        OPENED.clear()
        pipeline = doors[door]()
        engines[door] = OPENED[-2:]
        found[door] = [read(pipeline, page) for page in job["pages"]]
    return {"texts": found, "engines": engines}


def named(job: Job) -> Any:
    """What opens without `model_dir`, with the folder of models named by OCR_HPI_MODELS."""
    os.environ["OCR_HPI_MODELS"] = job["models"]
    serving.integrations.paddlex.enable()
    config = serving.integrations.paddlex.paddlex_config(job["yaml"], models=job["models"])
    for module in config["SubModules"].values():
        module["model_dir"] = None
    pipeline = paddlex.create_pipeline(config=config)
    return {"named": read(pipeline, job["pages"][0])}


def results(job: Job) -> Any:
    """Of PaddleX and of ours: keys with the types of their values, and the files that they save."""
    models = job["models"]
    theirs = serving.integrations.paddlex.plain_pipeline(job["yaml"], models=models)
    steps = ("doc_orientation_classify", "doc_unwarping", "textline_orientation")
    options = {"return_word_box": True, **{f"use_{step}": False for step in steps}}
    found = {}
    with load_pipeline(job["default"], models=models, warm=False) as ours:
        for name, pipeline in (("theirs", theirs), ("ours", ours)):
            (result,) = pipeline.predict(input=job["few_lines"], **options)
            folder = Path(job["scratch"]) / name
            result.save_to_json(save_path=str(folder))
            result.save_to_img(save_path=str(folder))
            found[name] = {
                "types": typed(result),
                "json": typed(result.json),
                "str": typed(result.str),
                "img": sorted(result.img),
                "files": sorted(path.name for path in folder.iterdir()),
            }
    return {"results": found}


def typed(value: Any) -> Any:
    """The type; of a dictionary those of its values, of a list that of the first."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in sorted(value.items())}
    if isinstance(value, np.ndarray):
        return ["array", value.dtype.kind, *value.shape[1:3]]
    if isinstance(value, list | tuple):
        return [typed(value[0])] if value else []
    kind = next(kind for kind in (bool, int, float, str, object) if isinstance(value, kind))
    return kind.__name__


def read(pipeline: Any, page: str) -> list[str]:
    (result,) = pipeline.predict(page)
    return list(result["rec_texts"])


def boxes(job: Job) -> Any:
    """Detectors of several inputs: on our engine and, where there is an ONNX graph, PaddleX's."""
    serving.integrations.paddlex.enable(models=job["models"])
    found: dict[str, Any] = {}
    for folder, engine in job["detectors"]:
        model = paddlex.create_model(Path(folder).name, folder, engine=engine)
        (result,) = model.predict(cv2.imread(job["page"]))
        found[f"{folder} {engine}"] = [
            [float(box["score"]), *map(float, box["coordinate"])] for box in result["boxes"]
        ]
    return {"boxes": found}


def classes(job: Job) -> Any:
    """Classifiers: label and score of each picture."""
    serving.integrations.paddlex.enable(models=job["models"])
    found: dict[str, Any] = {}
    for folder, engine in job["classifiers"]:
        model = paddlex.create_model(Path(folder).name, folder, engine=engine)
        results = list(model.predict(list(map(cv2.imread, job["pictures"])), batch_size=2))
        found[f"{folder} {engine}"] = [
            [result["label_names"][0], float(result["scores"][0])] for result in results
        ]
    return {"classes": found}


def refused(job: Job) -> Any:
    """What is said to each impossible `hpi_config`."""
    serving.integrations.paddlex.enable(models=job["models"])
    config = serving.integrations.paddlex.paddlex_config(job["yaml"], models=job["models"])
    said = [
        refusal(lambda hpi=hpi: paddlex.create_pipeline(config={**config, "hpi_config": hpi}))
        for hpi in job["impossible"]
    ]
    return {"refused": said}


def unknown(job: Job) -> Any:
    """What is said to a model that PaddleX does not know."""
    return {
        "unknown": refusal(
            lambda: serving.integrations.paddlex.paddlex_config(
                job["default"], models=job["models"]
            )
        )
    }


def unconverted(job: Job) -> Any:
    """What is said where a conversion is needed and `auto_paddle2onnx` is False."""
    serving.integrations.paddlex.enable(models=job["empty"])
    folder = job["unconverted"]
    settings = {"auto_paddle2onnx": False}
    return {
        "unconverted": refusal(
            lambda: paddlex.create_model(
                Path(folder).name, folder, use_hpip=True, hpi_config=settings
            )
        )
    }


def refusal(door: Callable[[], Any]) -> str:
    try:
        door()
    except OcrError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


TASKS = {
    task.__name__: task
    for task in (texts, named, results, boxes, classes, refused, unknown, unconverted)
}


def main(job: Job) -> dict[str, Any]:
    open_engine = hook.open_engine

    def noted(graph: Path, spec: Any) -> Any:
        OPENED.append(str(spec))
        return open_engine(graph, spec)

    hook.open_engine = noted
    result: dict[str, Any] = {}
    for task in job["tasks"]:
        result |= TASKS[task](job)
    return {**result, "loaded": sorted({"paddle", "ultra_infer"} & sys.modules.keys())}


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer = main({"scratch": str(Path(sys.argv[1]).parent), **asked})
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")
