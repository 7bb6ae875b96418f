"""OCRmyPDF's plugin: one of our pipelines reads the pages.

    ocrmypdf --plugin serving.integrations.ocrmypdf in.pdf out.pdf

It needs the extra `ocrmypdf`, and Tesseract no more. The pipeline is loaded once, and OCRmyPDF's
threads share it. Or a running server reads: then neither backends nor OpenCV need be installed.
"""

from __future__ import annotations

import atexit
import math
import os
import re
import threading
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, ParseError, fromstring, tostring

import numpy as np
import pluggy
import requests
from ocrmypdf import OcrEngine, OcrOptions, OrientationConfidence, hookimpl
from ocrmypdf.builtin_plugins.tesseract_ocr import TesseractOptions
from ocrmypdf.exceptions import BadArgsError, ExitCodeException
from pydantic import BaseModel
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from serving.config import load_config
from serving.config.options import Options
from serving.errors import OcrError
from serving.ocr.skew import skew
from serving.output.layout import space_width

if TYPE_CHECKING:
    from serving.ocr.pipeline import Pipeline

API_KEY = "OCR_HPI_API_KEY"
"""The environment variable with the server's key: flags are seen by other users of the machine."""

_SURE = 15.0
"""OCRmyPDF's units; it turns a page from 14 on."""
_SECONDS = 600.0
"""For the answer of a server, which has a limit of its own."""
_LOADING = threading.Lock()


class HpiOptions(BaseModel):
    """`--ocr-hpi-...`, and `ocr_hpi_...` of `ocrmypdf.ocr`."""

    pipeline: str = "configs/PP-OCRv4_mobile.yaml"
    models: str = "models"
    server: str | None = None


@hookimpl
def initialize(plugin_manager: pluggy.PluginManager) -> None:
    """Tesseract need not be installed; its options are accepted, and ignored."""
    plugin_manager.set_blocked(TesseractOptions.__module__)


@hookimpl
def register_options() -> dict[str, type[BaseModel]]:
    """`options.ocr_hpi`, and `options.tesseract`, which OCRmyPDF reads itself."""
    return {"ocr_hpi": HpiOptions, "tesseract": TesseractOptions}


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """The command line's."""
    TesseractOptions.add_arguments_to_parser(parser)
    group = parser.add_argument_group("paddleocr-hpi-serving", "The pipeline that reads the pages")
    default = HpiOptions()
    group.add_argument(
        "--ocr-hpi-pipeline",
        metavar="YAML",
        default=default.pipeline,
        help=f"pipeline to load (default: {default.pipeline})",
    )
    group.add_argument(
        "--ocr-hpi-models",
        metavar="DIR",
        default=default.models,
        help=f"folder of its models and engines (default: {default.models})",
    )
    group.add_argument(
        "--ocr-hpi-server",
        metavar="URL",
        help="pipeline of a running server that reads instead, for example "
        f"http://127.0.0.1:8868/ocr/v1/accurate; {API_KEY} has its key",
    )


@hookimpl
def check_options(options: OcrOptions) -> None:
    """Load the pipeline, so that what is missing is said before any page is drawn."""
    if options.ocr_engine == "none":
        return
    if options.ocr_engine == "tesseract":
        raise BadArgsError("--ocr-engine tesseract: this plugin takes Tesseract's place; omit one")
    if options.pdf_renderer == "sandwich":
        raise BadArgsError("--pdf-renderer sandwich needs Tesseract; omit it or say fpdf2")
    server = options.ocr_hpi.server
    if server is None:
        options.use_threads = True  # each process would load the pipeline
        _load(options.ocr_hpi)
    elif not re.fullmatch(r"https?://[^/]+/(.+/)?ocr/v1/[^/?#]+", server):
        raise BadArgsError(
            f"--ocr-hpi-server {server}: give the address of a pipeline, for example "
            "http://127.0.0.1:8868/ocr/v1/accurate"
        )


@hookimpl
def get_ocr_engine(options: OcrOptions | None) -> OcrEngine | None:
    """This one, unless none is wanted."""
    return None if options is not None and options.ocr_engine == "none" else HpiEngine()


class HpiEngine(OcrEngine):
    """A pipeline as OCRmyPDF calls it, from many threads at once."""

    def __str__(self) -> str:
        return self.creator_tag(None)

    @staticmethod
    def version() -> str:
        """Of this package."""
        return version("paddleocr-hpi-serving")

    @staticmethod
    def creator_tag(options: OcrOptions | None) -> str:
        """What stands in the PDF's metadata."""
        return f"paddleocr-hpi-serving {HpiEngine.version()}"

    @staticmethod
    def languages(options: OcrOptions) -> set[str]:
        """Empty, so that any `-l` is accepted: the model decides which languages it reads."""
        return set()

    @staticmethod
    def get_orientation(input_file: Path, options: OcrOptions) -> OrientationConfidence:
        """For `--rotate-pages`: the turn of most of the text. Reads the page once more."""
        turns: Counter[int] = Counter()
        document = _read(input_file, options, use_doc_orientation_classify=True)
        for line, _, _, counterclockwise in _lines(document):
            turns[-counterclockwise % 360] += len(_text(line))
        if not turns:
            return OrientationConfidence(angle=0, confidence=0.0)
        return OrientationConfidence(angle=turns.most_common(1)[0][0], confidence=_SURE)

    @staticmethod
    def get_deskew(input_file: Path, options: OcrOptions) -> float:
        """For `--deskew`: degrees to turn the page counter-clockwise. Reads it once more."""
        quads = [
            [(0, 0), (right - left, slope * (right - left)), (0, 0), (0, 1)]
            for _, (left, _, right, _), slope, turn in _lines(_read(input_file, options))
            if not turn
        ]
        return math.degrees(skew(np.array(quads).reshape(-1, 4, 2)) or 0.0)

    @staticmethod
    def generate_hocr(
        input_file: Path, output_hocr: Path, output_text: Path, options: OcrOptions
    ) -> None:
        """Read a page, and write where its words are, and its text."""
        document, texts = _read(input_file, options), []
        for line, box, _, turn in _lines(document):
            texts.append(f"{_text(line)}\n")
            _widen(line, box, turn)
        output_hocr.write_bytes(tostring(document))
        output_text.write_text("".join(texts), encoding="utf-8")

    @staticmethod
    def generate_pdf(
        input_file: Path, output_pdf: Path, output_text: Path, options: OcrOptions
    ) -> None:
        """Of `--pdf-renderer sandwich`, which `check_options` refuses."""
        raise NotImplementedError


def _read(path: Path, options: OcrOptions, **more: Any) -> Element:
    """The page as hOCR. Raises ExitCodeException, whose message OCRmyPDF prints."""
    if options.ocr_hpi.server is not None:
        text = _ask(options.ocr_hpi.server, path, more)
    else:
        from serving.imaging.source import load
        from serving.output.hocr import hocr
        from serving.output.pages import ReadPage

        pipeline = _load(options.ocr_hpi)
        try:
            [loaded] = load(path)
            page = pipeline.read(loaded.image, Options(return_word_box=True, **more))
        except OcrError as error:
            raise ExitCodeException(str(error)) from error
        text = hocr([ReadPage(0, 0, 1, page, loaded.dpi)])
    try:
        # OCRmyPDF parses it the same way; expat bounds what entities grow to.
        return fromstring(text)  # noqa: S314  # nosec B314
    except ParseError as error:
        raise ExitCodeException(f"{options.ocr_hpi.server} sent no hOCR: {error}") from error


def _load(options: HpiOptions) -> Pipeline:
    with _LOADING:  # OCRmyPDF's threads
        try:
            return _pipeline(options.pipeline, options.models)
        except OcrError as error:
            raise BadArgsError(str(error)) from error


@cache
def _pipeline(yaml: str, models: str) -> Pipeline:
    from serving.plan.load import open_pipeline

    pipeline = open_pipeline(load_config(yaml), models=Path(models))
    atexit.register(pipeline.close)
    return pipeline


@cache
def _session() -> requests.Session:
    """Waits where the server is busy or reloads, as long as it says.

    read: once more, because the server may close a connection between two pages.
    """
    session = requests.Session()
    retry = Retry(
        8, connect=2, read=1, backoff_factor=0.5, status_forcelist=[429, 503], allowed_methods=None
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=os.cpu_count() or 1, max_retries=retry))
    return session


def _ask(server: str, path: Path, more: dict[str, Any]) -> str:
    query = {name: str(value).lower() for name, value in more.items()}
    headers = {"Content-Type": "image/png"}
    if key := os.environ.get(API_KEY):
        headers["X-API-Key"] = key
    try:
        answer = _session().post(
            server,
            params={"format": "hocr", **query},
            headers=headers,
            data=path.read_bytes(),
            timeout=_SECONDS,
        )
    except requests.RequestException as error:
        raise ExitCodeException(f"--ocr-hpi-server {server} does not answer: {error}") from error
    if not answer.ok:
        raise ExitCodeException(f"{server} answered {answer.status_code}: {answer.text.strip()}")
    return answer.content.decode(errors="replace")


def _lines(document: Element) -> Iterator[tuple[Element, list[int], float, int]]:
    """The lines of hOCR with their boxes, slopes (down, per pixel) and counter-clockwise turns."""
    for line in document.iterfind(".//{*}span[@class='ocr_line']"):
        title = line.attrib["title"]
        slope, turn = re.search(r"baseline (\S+)", title), re.search(r"textangle (\d+)", title)
        yield line, _box(line), float(slope[1]) if slope else 0.0, int(turn[1]) if turn else 0


def _box(element: Element) -> list[int]:
    """[left, top, right, bottom]"""
    return [int(side) for side in element.attrib["title"].partition(";")[0].split()[1:]]


def _text(line: Element) -> str:
    return " ".join(word.text or "" for word in line)


def _widen(line: Element, line_box: list[int], turn: int) -> None:
    """Let each word of a line begin and end with its letters.

    Our boxes are PaddleX's: they begin and end within the first letter and the last. OCRmyPDF makes
    the letters as wide as the box, and readers of its PDF would take what is left for columns. A
    quarter of a letter is added on each side, at most to the middle between two words: then half of
    the sides are within a pixel of the ink, at 144 dpi. So is what is too wide for a space.
    """
    (low, high), (top, bottom) = ((1, 3), (0, 2)) if turn % 180 else ((0, 2), (1, 3))
    quarter = (line_box[high] - line_box[low]) / (4 * max(1, len(_text(line))))
    height = line_box[bottom] - line_box[top]
    words = sorted(((_box(word), word) for word in line), key=lambda pair: pair[0][low])
    gaps = [b[low] - a[high] for (a, _), (b, _) in pairwise(words)]
    more = [min(gap / 2, max(quarter, (gap - space_width(gap, height)) / 2)) for gap in gaps]
    ends = words[0][0][low] - line_box[low], line_box[high] - words[-1][0][high]
    first, last = (min(end, quarter) for end in ends)
    for (box, word), (before, after) in zip(words, pairwise([first, *more, last]), strict=True):
        box[low] = round(box[low] - before)
        box[high] = round(box[high] + after)
        _, _, rest = word.attrib["title"].partition(";")
        word.set("title", f"bbox {' '.join(map(str, box))};{rest}")
