"""The Python door: `load_pipeline(yaml).predict(x)`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from serving.assembly import open_pipeline
from serving.config.errors import config_error
from serving.config.options import Options
from serving.imaging.source import Source, load
from serving.paddlex.reading import PlainPipeline, is_plain
from serving.pipeline import Pipeline
from serving.results import PageResult


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
