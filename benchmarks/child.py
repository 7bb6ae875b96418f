"""One contender in a process, and mostly in an environment, of its own. Run as a file:

    python child.py ours|paddlex|rapidocr '{"its": "settings"}'

Imports nothing of this package's at the top: a peer's environment does not have it. Speaks JSON
lines: first {"version", "start_ms"}; then, for each line on stdin, one line:
    {"image": PATH}                      -> {"texts", "polys", "ms", "peak_mb"}
    {"images": [PATH, ...], "callers": N}  -> {"texts": [[...], ...], "ms"} or {"failed": WHY}
The time holds everything from the path to the texts; of many images, from the first to the last,
read by N threads.
"""

from __future__ import annotations

import importlib
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

Read = Callable[[str], tuple[list[str], list[Any]]]
"""Path of an image -> texts and polygons of its lines."""


def open_ours(settings: dict[str, Any]) -> tuple[Read, str]:
    """This package. settings: yaml, models, options."""
    serving = importlib.import_module("serving")
    reader = serving.load_pipeline(settings["yaml"], models=settings["models"])

    def read(path: str) -> tuple[list[str], list[Any]]:
        lines = [
            line for page in reader.predict(path, **settings["options"]) for line in page.lines
        ]
        return [line.text for line in lines], [line.box for line in lines]

    return read, _versions("paddleocr-hpi-serving", "openvino", "onnxruntime")


def open_paddlex(settings: dict[str, Any]) -> tuple[Read, str]:
    """PaddleX. settings: yaml and engine; or `models`: by section, what to put into the YAML that
    PaddleX ships, on the engine of its own choice."""
    os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
    paddlex = importlib.import_module("paddlex")
    if "yaml" in settings:
        pipeline = paddlex.create_pipeline(settings["yaml"], engine=settings["engine"])
    else:
        config = importlib.import_module("paddlex.inference").load_pipeline_config("OCR")
        # Its models for these come from hosts of PaddleX's alone.
        config |= {"use_doc_preprocessor": False, "use_textline_orientation": False}
        for section, models in settings["models"].items():
            config["SubModules"][section] |= models
        pipeline = paddlex.create_pipeline(config=config)

    def read(path: str) -> tuple[list[str], list[Any]]:
        (page,) = pipeline.predict(path)
        return list(page["rec_texts"]), [poly.tolist() for poly in page["rec_polys"]]

    return read, _versions("paddlex", _RUNTIMES[settings.get("engine", "paddle_static")])


def open_rapidocr(settings: dict[str, Any]) -> tuple[Read, str]:
    """RapidOCR. settings: engine, params."""
    rapidocr = importlib.import_module("rapidocr")
    engine = rapidocr.EngineType(settings["engine"])
    chosen = {f"{part}.engine_type": engine for part in settings["parts"]}
    ocr = rapidocr.RapidOCR(params={**settings["params"], **chosen})

    def read(path: str) -> tuple[list[str], list[Any]]:
        page = ocr(path)
        if page.txts is None:
            return [], []
        return list(page.txts), [box.tolist() for box in page.boxes]

    return read, _versions("rapidocr", settings["engine"])


_RUNTIMES = {"paddle_static": "paddlepaddle", "onnxruntime": "onnxruntime"}
"""What an engine of PaddleX's runs on."""


def _versions(*distributions: str) -> str:
    """Those of them that are installed, with their versions."""
    found = {item.metadata["Name"].lower(): item.version for item in metadata.distributions()}
    return ", ".join(f"{name} {found[name]}" for name in distributions if name in found)


OPENERS = {"ours": open_ours, "paddlex": open_paddlex, "rapidocr": open_rapidocr}


def main(kind: str, settings: str) -> None:
    """Answers until stdin ends."""
    # Libraries print where they like: what they print goes to stderr, the answers to the pipe.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    start = time.perf_counter()
    read, version = OPENERS[kind](json.loads(settings))
    say(version=version, start_ms=(time.perf_counter() - start) * 1e3)
    for line in sys.stdin:
        asked = json.loads(line)
        if "images" in asked:
            say(**_crowd(read, asked["images"], asked["callers"]))
            continue
        start = time.perf_counter()
        texts, polys = read(asked["image"])
        ms = (time.perf_counter() - start) * 1e3
        say(texts=texts, polys=polys, ms=ms, peak_mb=_peak_mb())


def _crowd(read: Read, paths: list[str], callers: int) -> dict[str, Any]:
    """All of them on so many threads, as a server with one pipeline would call it."""
    with ThreadPoolExecutor(callers) as pool:
        start = time.perf_counter()
        try:
            texts = list(pool.map(lambda path: read(path)[0], paths))
        except Exception as error:  # a peer that cannot be called so
            said = " ".join(str(error).split())
            return {"failed": f"{type(error).__name__}: ...{said[-160:]}"}
        return {"texts": texts, "ms": (time.perf_counter() - start) * 1e3}


def _peak_mb() -> float:
    """Of this process alone: getrusage begins with what its parent had."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
