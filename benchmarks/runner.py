"""Runs one system in a process, and mostly in an environment, of its own:

    python runner.py ours|paddlex|rapidocr|turboocr '{"settings": "of the system"}'

Imports nothing of this project at the top, because a peer's environment does not have it. Speaks
JSON lines: first {"version", "start_ms"}; then, for each line on stdin, one line:
    {"image": PATH}                                      -> {"texts", "ms", "peak_mb"}
    {"images": [PATH, ...], "callers": N}                -> {"texts": [[...], ...], "ms"}, {"error"}
    {"images": [PATH, ...], "callers": N, "seconds": S}  -> {"done": [SECONDS, ...]}
Times span everything from the path to the texts.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

Read = Callable[[str], list[str]]
"""Path of an image -> texts of its lines."""


def open_ours(settings: dict[str, Any]) -> tuple[Read, str]:
    """This project. settings: yaml, models, options."""
    serving = importlib.import_module("serving")
    pipeline = serving.load_pipeline(settings["yaml"], models=settings["models"])

    def read(path: str) -> list[str]:
        pages = pipeline.predict(path, **settings["options"])
        return [line.text for page in pages for line in page.lines]

    return read, _versions("paddleocr-hpi-serving", "openvino", "onnxruntime")


def open_paddlex(settings: dict[str, Any]) -> tuple[Read, str]:
    """PaddleX. settings: yaml and engine; or `models`: by section, what to change in the YAML that
    PaddleX ships, on the engine that it chooses itself."""
    os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
    paddlex = importlib.import_module("paddlex")
    if "yaml" in settings:
        pipeline = paddlex.create_pipeline(settings["yaml"], engine=settings["engine"])
    else:
        config = importlib.import_module("paddlex.inference").load_pipeline_config("OCR")
        # The models for these are only on PaddleX's hosts.
        config |= {"use_doc_preprocessor": False, "use_textline_orientation": False}
        for section, models in settings["models"].items():
            config["SubModules"][section] |= models
        pipeline = paddlex.create_pipeline(config=config)

    def read(path: str) -> list[str]:
        (page,) = pipeline.predict(path)
        return list(page["rec_texts"])

    return read, _versions("paddlex", _RUNTIMES[settings.get("engine", "paddle_static")])


def open_rapidocr(settings: dict[str, Any]) -> tuple[Read, str]:
    """RapidOCR. settings: engine, parts (the modules that run on it), params."""
    rapidocr = importlib.import_module("rapidocr")
    engine = rapidocr.EngineType(settings["engine"])
    engines = {f"{part}.engine_type": engine for part in settings["parts"]}
    ocr = rapidocr.RapidOCR(params={**settings["params"], **engines})

    def read(path: str) -> list[str]:
        texts = list(ocr(path).txts or ())
        for stage in (ocr.text_det, ocr.text_rec):  # loaded when first needed
            if stage and settings["engine"] not in type(stage.session).__module__:
                raise RuntimeError(f"RapidOCR runs on {type(stage.session)}, not on {engine}")
        return texts

    return read, _versions("rapidocr", settings["engine"])


def open_turboocr(settings: dict[str, Any]) -> tuple[Read, str]:
    """TurboOCR's engine. settings: model, models_dir, environment."""
    os.environ.update(settings["environment"])
    engine = importlib.import_module("turboocr_engine")
    ocr = engine.OCR(
        settings["model"], "cpu", models_dir=settings["models_dir"], allow_download=False
    )

    def read(path: str) -> list[str]:
        return [line.text for line in ocr.read(path, keep_image=False).lines]

    return read, _versions("turboocr-engine-cpu")


_RUNTIMES = {"paddle_static": "paddlepaddle", "onnxruntime": "onnxruntime"}
"""The distribution behind each engine of PaddleX."""


def _versions(*distributions: str) -> str:
    """Those that are installed, with their versions."""
    found = {item.metadata["Name"].lower(): item.version for item in metadata.distributions()}
    return ", ".join(f"{name} {found[name]}" for name in distributions if name in found)


OPENERS = {
    "ours": open_ours,
    "paddlex": open_paddlex,
    "rapidocr": open_rapidocr,
    "turboocr": open_turboocr,
}


def main(kind: str, settings: str) -> None:
    """Answer until stdin ends."""
    # Libraries print to stdout: send that to stderr, and keep the pipe for the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    start = time.perf_counter()
    read, version = OPENERS[kind](json.loads(settings))
    send(version=version, start_ms=(time.perf_counter() - start) * 1e3)
    for line in sys.stdin:
        request = json.loads(line)
        if "seconds" in request:
            send(done=_read_for(read, **request))
        elif "images" in request:
            send(**_read_concurrently(read, **request))
        else:
            start = time.perf_counter()
            texts = read(request["image"])
            ms = (time.perf_counter() - start) * 1e3
            send(texts=texts, ms=ms, peak_mb=_peak_mb())


def _read_concurrently(read: Read, images: list[str], callers: int) -> dict[str, Any]:
    """Every image once."""
    with ThreadPoolExecutor(callers) as pool:
        start = time.perf_counter()
        try:
            texts = list(pool.map(read, images))
        except Exception as error:  # not every peer is thread-safe
            message = " ".join(str(error).split())
            return {"error": f"{type(error).__name__}: ...{message[-160:]}"}
        return {"texts": texts, "ms": (time.perf_counter() - start) * 1e3}


def _read_for(read: Read, images: list[str], callers: int, seconds: float) -> list[float]:
    """The images again and again; when each was done."""
    done: list[float] = []
    numbers = itertools.count()
    start = time.perf_counter()

    def work(_: int) -> None:
        while time.perf_counter() - start < seconds:
            read(images[next(numbers) % len(images)])
            done.append(time.perf_counter() - start)

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(work, range(callers)))  # raises what a thread raised
    return done


def _peak_mb() -> float:
    """Of this process only: getrusage starts from the peak of its parent."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
