"""A server on pipelines without models, for tests of what stands around them.

`python http_fake.py '{"settings": {...}, "gate": "/path"}'` serves until a signal ends it.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from PIL import Image as PillowImage

from serving.config.options import DEFAULT_OPTIONS, Options
from serving.config.pipeline import PipelineConfig
from serving.engines.base import OnBatch
from serving.errors import BadRequest, EngineError, OcrError
from serving.http.gunicorn import master
from serving.http.settings import Settings
from serving.types import Image, Line, Page

HELD = (255, 0, 0)
"""A page of this colour (RGB) is read only once the file `gate` is there.

`gate.reached` says that one is in work.
"""

HOARDED = (0, 255, 0)
"""For a page of this colour a reader keeps `HOARD` bytes for ever."""
HOARD = 2 << 20

LONG = (0, 0, 255)
"""A page of this colour has a megabyte of text, more than a few of which no socket holds."""


CONFIG = Path(__file__).resolve().parents[2] / "configs" / "PP-OCRv4_mobile.yaml"
"""Where no YAML is told. A `model_dir` of the recognition in one names the reader instead."""


class Client(FlaskClient):
    """Flask's client, which ends each answer as a server does."""

    def open(self, *args: Any, **options: Any) -> Any:
        return super().open(*args, buffered=True, **options)


class FakeReader:
    """Reads a page as one line that tells the page's size. A white one has no text."""

    plan: Mapping[str, Any] = {}

    def __init__(
        self,
        name: str = "fake",
        gate: Path | None = None,
        identity: str = "",
        on_batch: OnBatch = lambda *_: None,
    ) -> None:
        self.name = name
        self.on_batch = on_batch
        self.identity = identity
        self.gate = gate
        self.seen: list[Options] = []
        self.closed = False
        self.hoard: list[bytes] = []

    def read(self, image: Image, options: Options = DEFAULT_OPTIONS) -> Page:
        self.check(options)
        height, width = image.shape[:2]
        self.seen.append(options)
        colour = tuple(int(value) for value in image[0, 0, ::-1])
        if self.gate is not None and colour == HELD:
            self.gate.with_suffix(".reached").touch()
            wait_for(self.gate)
        if colour == HOARDED:
            self.hoard.append(b"x" * HOARD)
        if colour == (0, 0, 1):
            raise EngineError("the engine broke")
        self.on_batch("TextRecognition", 3)
        text = f"{self.name} {width}x{height} 字"
        line = Line(
            text=text + "x" * 1_000_000 if colour == LONG else text,
            score=0.98765432,
            quad=((1, 2), (width, 2), (width, height), (1, height)),
        )
        lines = () if colour == (255, 255, 255) else (line,)
        return Page(width, height, lines, {"detect": 1.0, "recognise": 2.0})

    def check(self, options: Options) -> None:
        if options.use_doc_unwarping:
            raise BadRequest("use_doc_unwarping: this pipeline has no unwarping model")

    def settings(self, options: Options = DEFAULT_OPTIONS) -> dict[str, Any]:
        return {
            "model_settings": {"use_doc_preprocessor": False, "use_textline_orientation": False},
            "text_det_params": {
                "thresh": 0.3 if options.text_det_thresh is None else options.text_det_thresh
            },
            "text_type": "general",
            "text_rec_score_thresh": 0.0,
            "return_word_box": False,
        }

    def to_dict(self) -> dict[str, Any]:
        return {"TextDetection": {"model": "none", "engine": {"backend": "fake"}}}

    def warm(self) -> None:
        if self.name == "cold" and self.gate is not None:
            self.gate.with_suffix(".warming").touch()
            wait_for(self.gate.with_suffix(".warm"))

    def close(self) -> None:
        self.closed = True


def wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.01)


def picture(
    width: int = 40, height: int = 20, colour: Any = "black", kind: str = "PNG", pages: int = 1
) -> bytes:
    """An image file; more than one page for TIFF and PDF."""
    return document(*[colour] * pages, size=(width, height), kind=kind)


def document(*colours: Any, size: tuple[int, int] = (40, 20), kind: str = "TIFF") -> bytes:
    """An image file with a page of each colour."""
    file = io.BytesIO()
    images = [PillowImage.new("RGB", size, colour) for colour in colours]
    more = {"save_all": True, "append_images": images[1:]} if len(images) > 1 else {}
    images[0].save(file, kind, **more)
    return file.getvalue()


def _raising(error: type[Exception]) -> Any:
    def read_generation(number: int, settings: Settings) -> None:
        raise error("from a reload")

    return read_generation


def main() -> int:
    told = json.loads(sys.argv[1])
    pipelines = told["settings"]["pipelines"]
    fail_reload = told["settings"].pop("fail_reload", None)
    if isinstance(pipelines, list):
        pipelines = dict.fromkeys(pipelines, CONFIG)
    for name in ("api_keys_file", "models", "pidfile", "spool"):
        if path := told["settings"].get(name):
            told["settings"][name] = Path(path)
    settings = Settings(
        **told["settings"] | {"pipelines": {n: Path(yaml) for n, yaml in pipelines.items()}}
    )

    def load(name: str, config: PipelineConfig, slot: int, on_batch: OnBatch) -> FakeReader:
        folder = config.sub_modules.recognition.model_dir
        name = name if folder is None else folder.name
        if name == "crash":
            os._exit(1)
        if name == "slow":
            wait_for(Path(told["gate"]))
        if name == "broken":
            raise EngineError("broken: there is no such model; run: bash scripts/fetch_models.sh")
        if Path(told["gate"]).with_suffix(".broken").exists():
            raise EngineError("the model is broken")
        if name == "bug":
            raise ZeroDivisionError("oops")
        on_disk = Path(told["gate"]).with_suffix(".models")
        identity = on_disk.read_text() if on_disk.exists() else ""
        return FakeReader(name, Path(told["gate"]), identity, on_batch)

    try:
        master._SETTLING = 1.0  # these readers have nothing to warm up
        first = master.read_generation(1, settings)
        if fail_reload:
            master.read_generation = _raising(getattr(builtins, fail_reload))
        master.run(settings, load, first)
    except OcrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
