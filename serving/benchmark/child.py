"""One contender in a process, and mostly in an environment, of its own. Run as a file:

    python child.py ours|paddlex|rapidocr '{"its": "settings"}'

Imports nothing of this package's at the top: a peer's environment does not have it. Speaks JSON
lines: first {"version", "start_ms"}; then, for each line {"image": PATH} on stdin, one line
{"texts", "polys", "ms", "peak_mb"}. The time holds everything from the path to the texts.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata
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
    """PaddleX. settings: yaml (with model folders), engine."""
    os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
    paddlex = importlib.import_module("paddlex")
    pipeline = paddlex.create_pipeline(settings["yaml"], engine=settings["engine"])

    def read(path: str) -> tuple[list[str], list[Any]]:
        (page,) = pipeline.predict(path)
        return list(page["rec_texts"]), [poly.tolist() for poly in page["rec_polys"]]

    return read, _versions("paddlex", settings["engine"])


def open_rapidocr(settings: dict[str, Any]) -> tuple[Read, str]:
    """RapidOCR. settings: engine, params."""
    rapidocr = importlib.import_module("rapidocr")
    engine = rapidocr.EngineType(settings["engine"])
    chosen = {"Det.engine_type": engine, "Rec.engine_type": engine}
    ocr = rapidocr.RapidOCR(params={**settings["params"], **chosen})

    def read(path: str) -> tuple[list[str], list[Any]]:
        page = ocr(path)
        if page.txts is None:
            return [], []
        return list(page.txts), [box.tolist() for box in page.boxes]

    return read, _versions("rapidocr", settings["engine"])


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
        path = json.loads(line)["image"]
        start = time.perf_counter()
        texts, polys = read(path)
        ms = (time.perf_counter() - start) * 1e3
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        say(texts=texts, polys=polys, ms=ms, peak_mb=peak)


if __name__ == "__main__":
    main(*sys.argv[1:])
