"""What `load_pipeline(...).predict(x)` yields, with the methods of PaddleX's results.

The Python door: `load_pipeline(yaml).predict(x)`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from serving.config.errors import config_error
from serving.config.options import Options
from serving.imaging.source import Source, load
from serving.integrations.paddlex.plain import PlainPipeline, is_plain
from serving.ocr.pipeline import Pipeline
from serving.output.paddlex import paddlex_result
from serving.plan.load import open_pipeline
from serving.types import Line, Page


class Reader:
    """A pipeline that takes paths, URLs, bytes, folders, PDFs, arrays or lists of these."""

    def __init__(
        self, yaml: str | Path, *, models: str | Path, threads: int | None, device: str | None
    ) -> None:
        self.pipeline: Pipeline | PlainPipeline
        if is_plain(yaml):
            self.pipeline = PlainPipeline(yaml, Path(models))
        else:
            self.pipeline = open_pipeline(yaml, models=Path(models), threads=threads, device=device)

    def predict(self, source: Source, **options: Any) -> Iterator[PageResult]:
        """Yield a result a page, in order, as each is done.

        source: path, http(s) URL, bytes, folder, (H, W, 3) uint8 BGR array, or a list of these.
        options: PaddleX's own names, as in `serving.Options`, for this call alone.
        Raises ConfigError for an unknown option and InputError for a source that is no image.
        """
        try:
            chosen = Options(**options)
        except ValidationError as error:
            raise config_error(error, where="predict", schema=Options) from None
        settings = self.pipeline.settings(chosen)
        for name, page_index, image in load(source):
            yield PageResult(name, page_index, self.pipeline.read(image, chosen), image, settings)

    def close(self) -> None:
        """Free the engines."""
        self.pipeline.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load_pipeline(
    yaml: str | Path,
    *,
    models: str | Path = "models",
    threads: int | None = None,
    device: str | None = None,
) -> Reader:
    """Load a pipeline YAML on the engines that `scripts/build_engines.sh` made.

    One that says `enable_hpi: False` is read by plain PaddleX, which must be installed.

    models: the store's folder. threads: cores to use, default all usable. device: cpu, gpu or
    gpu:0, default what was built.
    Raises ConfigError, ModelError, PlanError and EngineError, each naming the way out.
    """
    return Reader(yaml, models=models, threads=threads, device=device)


@dataclass(frozen=True, slots=True)
class PageResult:
    """One page, read. `name` is the path, URL or index it came from."""

    name: str
    page_index: int | None
    """Page within a document of several pages; None for an image."""
    page: Page
    image: npt.NDArray[np.uint8]
    settings: Mapping[str, Any]

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines in reading order."""
        return self.page.lines

    @property
    def json(self) -> dict[str, Any]:
        """PaddleX's form: `{"res": {...}}`."""
        return {"res": paddlex_result(self.page, self.settings, self.name, self.page_index)}

    def print(self) -> None:
        """Print the page's JSON."""
        print(json.dumps(self.json, ensure_ascii=False, indent=4))

    def save_to_json(self, path: str | Path) -> Path:
        """Write the JSON to a file, or into a folder under the image's name; returns the file."""
        target = self._target(Path(path), ".json")
        target.write_text(
            json.dumps(self.json["res"], ensure_ascii=False, indent=4) + "\n", encoding="utf-8"
        )
        return target

    def save_to_img(self, path: str | Path) -> Path:
        """Write the page with its boxes and text to a file or into a folder; returns the file."""
        from PIL import Image

        from serving.imaging.draw import draw

        target = self._target(Path(path), ".png")
        drawn = draw(self.image, self.lines)
        Image.fromarray(np.ascontiguousarray(drawn[:, :, ::-1])).save(target)
        return target

    def _target(self, path: Path, suffix: str) -> Path:
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path
        path.mkdir(parents=True, exist_ok=True)
        page = "" if self.page_index is None else f"_{self.page_index}"
        return path / f"{Path(self.name).stem}{page}_res{suffix}"
