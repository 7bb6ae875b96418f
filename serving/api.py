"""The Python API: `load_pipeline(yaml).predict(x)` and the results that it yields."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from pydantic import ValidationError

from serving.config.errors import config_error
from serving.config.options import MAX_PAGES, PDF_DPI, Options, PdfText
from serving.config.pipeline import PipelineConfig, load_config
from serving.errors import ConfigError, EngineError
from serving.imaging.decode import Decoder
from serving.imaging.draw import draw
from serving.imaging.formats import MAX_PIXELS, Limits, PageRanges
from serving.imaging.source import IMAGE_SUFFIXES, Loaded, OnPageError, Source, load
from serving.integrations.paddlex.plain import PlainPipeline, is_plain
from serving.output.paddlex import paddlex_result, printed, without_pictures
from serving.plan.load import open_pipeline
from serving.types import Line, Page


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
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}: give 1 or more")
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
    ) -> None:
        """Arguments and errors as of `load_pipeline`, which makes it."""
        self._is_closed = False
        self.decoder = Decoder(limits)
        self.pipeline = (
            PlainPipeline(config, Path(models))
            if is_plain(config)
            else open_pipeline(
                config,
                models=Path(models),
                threads=threads,
                device=device,
                warm=warm,
            )
        )

    def predict(
        self,
        input: Source,
        *,
        pdf_dpi: int = PDF_DPI,
        pages: str | int = "1-",
        pdf_text: PdfText = "ignore",
        on_page_error: OnPageError | None = None,
        **options: Any,
    ) -> Iterator[PageResult]:
        """Yield one result per page, in order, each as soon as it is ready.

        input: path, http(s) URL, folder, bytes, file object, PIL image, (H, W, 3) uint8 BGR array;
        or a list, generator or other iterable of these, which is asked for one at a time.
        pdf_dpi: dots per inch at which a PDF is rendered, 36 to 1200.
        pages: those that are read of each document, for example 1-3,7 or 2-, or one number.
        pdf_text: auto takes a PDF page's own text where it is all there, and reads the other pages.
        on_page_error: called with the name, page index and error of each page that cannot be read,
        None for the index of a whole file; the others are yielded. Without it, the first such error
        is raised.
        options: for this call only, under PaddleX's names; see `serving.Options`.
        Raises ConfigError for an unknown option, InputError for an input that is no image, and
        EngineError, also once it is closed.
        """
        try:
            parsed = Options(**options)
        except ValidationError as error:
            raise config_error(error, where="predict", schema=Options) from None
        self._check_open()
        settings = self.pipeline.settings(parsed)
        ranges = PageRanges.parse(str(pages))
        for loaded in load(
            input,
            decoder=self.decoder,
            pdf_dpi=pdf_dpi,
            ranges=ranges,
            pdf_text=pdf_text == "auto",
            on_page_error=on_page_error,
        ):
            page = loaded.own_text
            self._check_open()
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
            yield PageResult(loaded, page, settings)

    def close(self) -> None:
        """Free the engines and end the decoder processes."""
        self._is_closed = True
        self.decoder.close()
        self.pipeline.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineError("this pipeline is closed: load it again with load_pipeline()")

    def __enter__(self) -> OcrPipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


FilePath = str | Path
Values = dict[str, Any]
"""By PaddleX's names."""


class PageResult(dict[str, Any]):
    """The text of one page. Also a dictionary, with the keys and methods of PaddleX's OCRResult."""

    def __init__(self, loaded: Loaded, page: Page, settings: Values) -> None:
        """settings: in force for this page, as `Pipeline.settings` says."""
        self.name = loaded.name
        """Path or URL of its input; `image_N` for the N-th input without one."""
        self.page_index = loaded.page_index
        """Within a PDF or TIFF, from 0; None for a single image."""
        self.page = page
        self.image = loaded.image
        """(H, W, 3), BGR, uint8, upright."""
        self.dpi = loaded.dpi
        """As its file says; of a PDF, as it was rendered."""
        self.data = loaded.data
        """Of the file that the page is from; empty for an array or a PIL image."""
        path = loaded.name if loaded.data else None
        super().__init__(
            input_path=path,
            page_index=loaded.page_index,
            **paddlex_result(page, loaded.image, settings),
        )

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines in reading order."""
        return self.page.lines

    @property
    def str(self) -> Values:
        """`{"res": {...}}` with arrays: what `print` prints."""
        return {"res": printed(self)}

    @property
    def json(self) -> Values:
        """`{"res": {...}}` with plain values."""
        return {"res": json.loads(_json_text(self))}

    @property
    def img(self) -> Values:
        """`{"ocr_res_img": picture}`: the page with its boxes and, beside it, its text; RGB."""
        drawn = draw(self.image, self.lines)
        return {"ocr_res_img": PillowImage.fromarray(np.ascontiguousarray(drawn[:, :, ::-1]))}

    def print(self, json_format: bool = False, indent: int = 4, ensure_ascii: bool = False) -> None:
        """Print `str`, long arrays in short; or, with `json_format`, `json`."""
        if json_format:
            print(json.dumps(self.json, indent=indent, ensure_ascii=ensure_ascii))
        else:
            with np.printoptions(threshold=1, edgeitems=1):
                print(self.str)

    def save_to_json(
        self, save_path: FilePath, indent: int = 4, ensure_ascii: bool = False
    ) -> Path:
        """Write the JSON to a .json file, else into a folder as STEM_res.json. Returns the path."""
        target = _target(self, Path(save_path), "application/json", "_res.json")
        text = _json_text(self, indent=indent, ensure_ascii=ensure_ascii)
        target.write_text(text + "\n", encoding="utf-8")
        return target

    def save_to_img(self, save_path: FilePath) -> Path:
        """Write `img` to an image file, else into a folder as STEM_ocr_res_img. Returns the path.

        In a folder its format is that of the input, or PNG where the input is no image file.
        """
        suffix = Path(self.name).suffix
        suffix = suffix if suffix.lower() in IMAGE_SUFFIXES else ".png"
        target = _target(self, Path(save_path), "image/", f"_ocr_res_img{suffix}")
        self.img["ocr_res_img"].save(target)
        return target

    def save_all(self, save_path: FilePath) -> None:
        """Write both into a folder."""
        self.save_to_json(save_path)
        self.save_to_img(save_path)


def _json_text(result: PageResult, **options: Any) -> str:
    return json.dumps(without_pictures(result), default=lambda it: it.tolist(), **options)


def _target(result: PageResult, path: Path, kind: str, ending: str) -> Path:
    """The file itself if its name is one of that media type; else a file in that folder."""
    if not (mimetypes.guess_type(path.name)[0] or "").startswith(kind):
        page = "" if result.page_index is None else f"_{result.page_index}"
        path /= f"{Path(result.name).stem}{page}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
