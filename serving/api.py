"""The Python API: `load_pipeline(yaml).predict(x)` and the results that it yields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from pydantic import ValidationError

from serving.config.errors import config_error
from serving.config.options import MAX_PAGES, PDF_DPI, Options, PdfText
from serving.config.pipeline import PipelineConfig, load_config
from serving.errors import EngineError
from serving.imaging.decode import Decoder
from serving.imaging.formats import MAX_PIXELS, Data, Limits, PageRanges
from serving.imaging.source import OnPageError, Source, load
from serving.integrations.paddlex.plain import PlainPipeline, is_plain
from serving.output.paddlex import paddlex_result
from serving.plan.load import open_pipeline
from serving.types import Dpi, Image, Line, Page


def load_pipeline(
    yaml: str | Path,
    *,
    models: str | Path = "models",
    threads: int | None = None,
    device: str | None = None,
    warm: bool = True,
    max_pixels: int = MAX_PIXELS,
    max_pages: int = MAX_PAGES,
) -> OcrPipeline:
    """Load a pipeline YAML on the engines that `scripts/build_engines.sh` built.

    A YAML with `enable_hpi: False` runs on plain PaddleX, which must be installed.

    models: the folder of models. threads: CPU cores to use, by default all usable ones.
    device: cpu, gpu or gpu:0, by default the one that the engines were built for.
    warm: take the 2 to 3 seconds that the first input of each common shape costs now, not later.
    max_pixels, max_pages: of a page and of a document that is read; more raises TooLarge.
    Raises ConfigError, ModelError, PlanError and EngineError; the message says how to fix it.
    """
    limits = Limits(max_pixels, max_pages)
    return OcrPipeline(
        load_config(yaml), models=models, threads=threads, device=device, warm=warm, limits=limits
    )


class OcrPipeline:
    """A loaded pipeline. Close it, or use it as a context manager, to free its engines."""

    def __init__(
        self,
        config: PipelineConfig,
        *,
        models: str | Path,
        threads: int | None,
        device: str | None,
        warm: bool,
        limits: Limits,
        slot: int = 0,
        workers: int = 1,
    ) -> None:
        """slot, workers: see `open_pipeline`."""
        self.decoder = Decoder(limits)
        self.pipeline = (
            PlainPipeline(config, Path(models))
            if is_plain(config)
            else open_pipeline(
                config,
                models=Path(models),
                threads=threads,
                device=device,
                slot=slot,
                workers=workers,
                warm=warm,
            )
        )

    def predict(
        self,
        source: Source,
        *,
        pdf_dpi: int = PDF_DPI,
        pages: str = "1-",
        pdf_text: PdfText = "ignore",
        on_page_error: OnPageError | None = None,
        **options: Any,
    ) -> Iterator[PageResult]:
        """Yield one result per page, in order, each as soon as it is ready.

        source: path, http(s) URL, bytes, folder, (H, W, 3) uint8 BGR array, or a list of these.
        pdf_dpi: dots per inch at which a PDF is rendered, 36 to 1200.
        pages: those that are read of each document, for example 1-3,7 or 2-.
        pdf_text: auto takes a PDF page's own text where it is all there, and reads the other pages.
        on_page_error: called with the name, page index and error of each page that cannot be read;
        the others are yielded. Without it, the first such error is raised.
        options: for this call only, under PaddleX's names; see `serving.Options`.
        Raises ConfigError for an unknown option and InputError for a source that is no image.
        """
        try:
            parsed = Options(**options)
        except ValidationError as error:
            raise config_error(error, where="predict", schema=Options) from None
        settings = self.pipeline.settings(parsed)
        ranges = PageRanges.parse(pages)
        for loaded in load(
            source,
            decoder=self.decoder,
            pdf_dpi=pdf_dpi,
            ranges=ranges,
            pdf_text=pdf_text == "auto",
            on_page_error=on_page_error,
        ):
            page = loaded.own_text
            try:
                if page is None:
                    page = self.pipeline.read(loaded.image, parsed)
                elif not settings["return_word_box"]:
                    page = page.without_words()
            except (EngineError, MemoryError) as error:
                if on_page_error is None:
                    raise
                on_page_error(loaded.name, loaded.page_index, error)
                continue
            yield PageResult(
                loaded.name,
                loaded.page_index,
                page,
                loaded.image,
                settings,
                loaded.dpi,
                loaded.data,
            )

    def close(self) -> None:
        """Free the engines and end the decoder processes."""
        self.decoder.close()
        self.pipeline.close()

    def __enter__(self) -> OcrPipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class PageResult:
    """The text of one page, with the methods of PaddleX's results."""

    name: str
    """Path or URL of its source, or its index in a list."""
    page_index: int | None
    """Page number within a multi-page document, from 0; None for a single image."""
    page: Page
    image: Image
    settings: Mapping[str, Any]
    """In force for this page, under PaddleX's names."""
    dpi: Dpi | None = None
    """As its file says; of a PDF, as it was rendered."""
    data: Data = field(default=b"", repr=False)
    """Of the file that the page is from; empty for an array."""

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines in reading order."""
        return self.page.lines

    @property
    def json(self) -> dict[str, Any]:
        """As PaddleX's result: `{"res": {...}}`."""
        return {"res": paddlex_result(self.page, self.settings, self.name, self.page_index)}

    def print(self) -> None:
        """Print the page's JSON."""
        print(json.dumps(self.json, ensure_ascii=False, indent=4))

    def save_to_json(self, path: str | Path) -> Path:
        """Write the JSON to a file, or into a folder, named after the image. Returns the path."""
        target = self._target(Path(path), ".json")
        target.write_text(
            json.dumps(self.json["res"], ensure_ascii=False, indent=4) + "\n", encoding="utf-8"
        )
        return target

    def save_to_img(self, path: str | Path) -> Path:
        """Draw boxes and text on the page and write it to a file or folder. Returns the path."""
        from PIL import Image as PillowImage

        from serving.imaging.draw import draw

        target = self._target(Path(path), ".png")
        drawn = draw(self.image, self.lines)
        PillowImage.fromarray(np.ascontiguousarray(drawn[:, :, ::-1])).save(target)
        return target

    def _target(self, path: Path, suffix: str) -> Path:
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path
        path.mkdir(parents=True, exist_ok=True)
        page = "" if self.page_index is None else f"_{self.page_index}"
        return path / f"{Path(self.name).stem}{page}_res{suffix}"
