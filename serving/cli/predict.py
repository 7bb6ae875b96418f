"""`ocr-hpi predict`: read files without a server.

Each page is read on its own: what is broken is reported, and the rest is read. With --output and
--save-img the folders of the inputs are mirrored, and a file appears under its name only once it
is whole. Beside a document of which only some pages could be read stands NAME.errors.txt, which
names the others. --resume relies on that.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import click

from serving.cli.options import (
    DEFAULT_PIPELINES,
    checked_options,
    max_pages_option,
    max_pixels_option,
    models_option,
    override_options,
    pdf_dpi_option,
    pdf_text_option,
)
from serving.config.options import MAX_PAGES, PdfText
from serving.errors import BadRequest, EngineError, InputError, TimedOut, printable
from serving.imaging.formats import PageRanges
from serving.imaging.source import is_supported, is_url, list_files
from serving.output.formats import DOCUMENTS, DocumentFormat, DocumentName
from serving.output.pages import ReadPage, page_answer
from serving.types import Page

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from serving.api import PageResult
    from serving.imaging.decode import Decoder
    from serving.imaging.formats import Data

OnError = Callable[[str, BaseException], None]
"""Notified of an input that cannot be read: its name, and why."""

_SUFFIXES = {"text": ".txt", "json": ".jsonl", "paddlex": ".paddlex.jsonl"}
"""Of the formats that are written page by page; the others are in output/formats.py."""
_JSON_KEYS = "page", "source", "width", "height", "lines"
_ENDS = {".png": b"IEND\xaeB`\x82", ".hocr": b"</html>\n", ".xml": b"</alto>\n", ".pdf": b"%%EOF\n"}
"""Of a whole file; all others end with a line feed."""
_MAX_NAME = 200
"""Bytes of a file's name, to which a page's number and a suffix are added: 255 are allowed."""


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--pipeline",
    type=click.Path(path_type=Path),
    default=DEFAULT_PIPELINES[0],
    show_default=True,
    help="The pipeline YAML.",
)
@click.option("-r", "--recursive", is_flag=True, help="Also read the folders in a folder.")
@click.option(
    "--format",
    "form",
    type=click.Choice([*dict.fromkeys((*_SUFFIXES, *get_args(DocumentName)))]),
    default="text",
    show_default=True,
    help="text: the lines. json: a line for each page, with scores and boxes. paddlex: a line for "
    "each page, as PaddleX's results have it. The others hold all pages of an input.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for the text, a file for each input, instead of stdout.",
)
@click.option(
    "--save-img",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for images of the pages with boxes and text drawn, one for each page.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Skip what --output or --save-img has already, unless the input is newer.",
)
@pdf_dpi_option
@click.option(
    "--pages",
    default="1-",
    show_default=True,
    help="Which pages of each document are read: 1-3,7 or 2-.",
)
@pdf_text_option
@max_pixels_option
@max_pages_option(MAX_PAGES, "a document")
@override_options
@models_option
def command(
    paths: tuple[str, ...],
    pipeline: Path,
    recursive: bool,
    form: str,
    output: Path | None,
    save_img: Path | None,
    resume: bool,
    pdf_dpi: int,
    pages: str,
    pdf_text: PdfText,
    max_pixels: int,
    max_pages: int,
    models: Path,
    **overrides: Any,
) -> None:
    """Read images, PDFs, folders or URLs, or standard input (-), and print their text.

    With several inputs, each begins with a line `==> PATH <==`; form feeds separate its pages. A
    file or page that cannot be read is reported on stderr, the rest is read, and the exit code is
    1. A page that is missing does not change the numbers of the others.
    """
    options = checked_options(overrides)
    try:
        ranges = PageRanges.parse(pages)
    except BadRequest as error:
        raise click.UsageError(f"--{error}") from None
    folders = [os.path.realpath(folder) for folder in (output, save_img) if folder is not None]
    if resume and not folders:
        raise click.UsageError("--resume needs --output or --save-img: where to look")
    if save_img is not None and any(os.path.realpath(path) == folders[-1] for path in paths):
        raise click.UsageError("--save-img: the folder that is read; its images would be read, too")
    alone = len(paths) == 1 and not Path(paths[0]).is_dir()
    if form not in _SUFFIXES and output is None and not alone:
        raise click.UsageError(f"--format {form} makes a file of each input: give --output DIR")
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)

    from serving import load_pipeline

    document = None if form in _SUFFIXES else DOCUMENTS[cast(DocumentName, form)]
    if document is not None:
        options = document.options(options)
    inputs = _Inputs(paths, recursive, folders)
    bar = _progress_bar()
    done = _Done(bar.console)
    try:
        with (
            load_pipeline(
                pipeline, models=models, warm=False, max_pixels=max_pixels, max_pages=max_pages
            ) as ocr,
            bar,
        ):
            ocr.pipeline.check(options)
            writer = _Writer(
                form, document, ocr.decoder, output, save_img, ranges.first, headed=not alone
            )
            for note in inputs.left_out():
                done.say(note)
            total = 0 if bar.disable else sum(1 for _ in inputs.each(lambda name, error: None))
            task = bar.add_task("", total=total)
            for item in inputs.each(done.failed):
                bar.update(task, description=item.name)
                if resume and writer.is_done(item):
                    done.skipped += 1
                else:
                    broken: dict[int, str] = {}
                    try:
                        results = ocr.predict(
                            sys.stdin.buffer.read() if item.source == "-" else item.source,
                            pdf_dpi=pdf_dpi,
                            pages=pages,
                            pdf_text=pdf_text,
                            on_page_error=partial(done.page_failed, item.name, broken),
                            **options.model_dump(exclude_none=True),
                        )
                        count = writer.write(item, results, broken)
                        done.pages += count
                        done.files += count > 0
                    except (InputError, TimedOut, EngineError, MemoryError) as error:
                        done.failed(item.name, error)
                bar.advance(task)
    except KeyboardInterrupt:
        again = "; the same command with --resume reads the rest" if folders else ""
        click.echo(f"interrupted: {done.text()}{again}", err=True)
        raise click.exceptions.Exit(130) from None
    except OSError:  # of writing: the disk is full, or stdout was closed
        if done.files:
            click.echo(f"stopped: {done.text()}", err=True)
        raise
    if not alone or folders:
        places = dict.fromkeys(str(path) for path in (output, save_img) if path is not None)
        where = f"; written to {' and '.join(places)}" if places and done.files else ""
        click.echo(done.text() + where, err=True)
    if done.errors:
        raise click.exceptions.Exit(1)


def _progress_bar() -> Progress:
    """On stderr, where that is a terminal. Text on the same terminal is written above it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        Remaining(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True, markup=False, emoji=False, highlight=False),
        redirect_stdout=sys.stdout.isatty(),
        disable=not sys.stderr.isatty(),
    )


@dataclass(slots=True)
class _Done:
    """What was done so far, and what is said of it on stderr."""

    console: Console
    files: int = 0
    pages: int = 0
    skipped: int = 0
    errors: int = 0

    def say(self, message: str) -> None:
        self.console.print(message, soft_wrap=True)

    def failed(self, name: str, error: BaseException) -> None:
        """Count an error and report it, by the name of its input."""
        self.errors += 1
        message = _reason(error)
        self.say(f"Error: {message}" if name in message else f"Error: {name}: {message}")

    def page_failed(
        self, name: str, broken: dict[int, str], _: str, page_index: int | None, error: Exception
    ) -> None:
        """The same of a page of that input; `broken` gets its number, from 1, and the reason."""
        number = (page_index or 0) + 1
        broken[number] = reason = _reason(error)
        is_named = page_index is None or f", page {number}" in reason
        self.failed(name if is_named else f"{name}, page {number}", error)

    def text(self) -> str:
        """For example `14 files read (20 pages), 1 failed`."""
        parts = [f"{_counted(self.files, 'file')} read ({_counted(self.pages, 'page')})"]
        if self.skipped:
            parts.append(f"{self.skipped} already there")
        if self.errors:
            parts.append(f"{self.errors} failed")
        return ", ".join(parts)


def _reason(error: BaseException) -> str:
    return printable(str(error) or type(error).__name__)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(frozen=True, slots=True)
class _Input:
    source: str | Path
    name: str
    """As it is shown."""
    target: str
    """Its path below --output and --save-img; no two inputs have the same."""


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Everything that is to be read, in order. Files are looked for as they are needed."""

    paths: Sequence[str]
    recursive: bool
    without: Collection[str]
    """Real paths of folders that are not read: those that are written."""

    def each(self, on_error: OnError) -> Iterator[_Input]:
        """Yield the inputs; a folder that cannot be read, or has nothing to read, is an error."""
        base = self._base()
        for path in self.paths:
            if path == "-":
                yield _Input("-", "-", "stdin")
            elif is_url(path):
                yield _Input(path, path, _shortened(re.sub(r"[^\w.-]+", "_", path), path, 0))
            elif Path(path).is_dir():
                yield from self._in_folder(path, base, on_error)
            else:
                yield _local(Path(path), base)

    def left_out(self) -> Iterator[str]:
        """A line for each folder with folders in it that are not read."""
        for folder in () if self.recursive else map(Path, self.paths):
            with suppress(OSError):
                inner = [path for path in folder.iterdir() if path.is_dir()]
                count = sum(os.path.realpath(path) not in self.without for path in inner)
                if count:
                    what = _counted(count, "folder")
                    yield f"{printable(str(folder))}: {what} in it not read, without --recursive"

    def _in_folder(self, folder: str, base: str, on_error: OnError) -> Iterator[_Input]:
        count = 0
        for path in list_files(
            Path(folder),
            recursive=self.recursive,
            without=self.without,
            on_error=lambda error: on_error(printable(folder), error),
        ):
            if is_supported(path, by_name=True):
                count += 1
                yield _local(path, base)
        if not count:
            more = "" if self.recursive else "; --recursive also reads the folders in it"
            error = BadRequest(f"no file in this folder is an image or a PDF{more}")
            on_error(printable(folder), error)

    def _base(self) -> str:
        """The deepest folder that has all inputs in it."""
        local = [_absolute(path) for path in self.paths if path != "-" and not is_url(path)]
        tops = [path if path.is_dir() else path.parent for path in local]
        return os.path.commonpath(tops) if tops else ""


def _local(path: Path, base: str) -> _Input:
    target = _absolute(path).relative_to(base)
    target = target.with_name(_shortened(path.name, path.name))
    return _Input(path, printable(str(path)), str(target))


def _absolute(path: str | Path) -> Path:
    return Path(os.path.normpath(Path(path).absolute()))


def _shortened(name: str, whole: str, max_bytes: int = _MAX_NAME) -> str:
    """The name itself or, where it is too long, its beginning and a hash of `whole`."""
    if len(os.fsencode(name)) <= max_bytes:
        return name
    digest = hashlib.sha256(os.fsencode(whole)).hexdigest()[:12]
    return f"{os.fsdecode(os.fsencode(name)[:100])}-{digest}"


@dataclass(frozen=True, slots=True)
class _Writer:
    """Puts what was read where it belongs, a page at a time."""

    form: str
    document: DocumentFormat | None
    """Where the format holds all pages of an input."""
    decoder: Decoder
    output: Path | None
    save_img: Path | None
    first_page: int
    """The first that is read of each input, from 1."""
    headed: bool
    """Whether a line with the path stands before each input's text on stdout."""

    def is_done(self, item: _Input) -> bool:
        """Whether all that is to be written for this input is there, whole and not older."""
        written_last = []
        if self.output is not None:
            written_last.append(self._output(self.output, item))
        if self.save_img is not None:
            written_last.append(self._image(self.save_img, item, self.first_page))
        with suppress(OSError):
            newest = item.source.stat().st_mtime_ns if isinstance(item.source, Path) else 0
            whole = all(_is_whole(path, newest) for path in written_last)
            return whole and not any(path.exists() for path in self._errors(item))
        return False

    def write(self, item: _Input, results: Iterator[PageResult], broken: Mapping[int, str]) -> int:
        """Take the pages of an input, and count them. Nothing half done is left.

        broken: grows, as `results` goes on, by the pages that cannot be read. What holds all pages
        has an empty one in their place. Where there is no other page, nothing is written.
        """
        files = _StagedFiles()
        stream: AbstractContextManager[TextIOWrapper]
        try:
            if self.output is None:
                stream = nullcontext(cast(TextIOWrapper, sys.stdout))
            else:
                path = files.add(self._output(self.output, item))
                stream = path.open("w", encoding="utf-8")
            with stream as out:
                count, last = self._write_pages(item, _with_gaps(results, broken), out, files)
            if not count:
                return 0
            for path in self._errors(item) if broken else ():
                said = (f"page {number}: {reason}\n" for number, reason in broken.items())
                files.add(path).write_text("".join(said), encoding="utf-8")
            files.publish()
        finally:
            files.remove()
        self._remove_old(item, broken, last)
        return count

    def _write_pages(
        self,
        item: _Input,
        pages: Iterable[tuple[int, PageResult | None]],
        out: TextIOWrapper,
        files: _StagedFiles,
    ) -> tuple[int, int]:
        """How many were read, and the number of the last one."""
        count = number = 0
        data: Data = b""
        read: list[ReadPage] = []
        for index, (number, page) in enumerate(pages):
            if self.form == "text":
                if not index and self.headed and self.output is None:
                    print(f"==> {item.name} <==", file=out)
                text = "\n".join(line.text for line in page.lines) if page is not None else ""
                # A file ends with a line feed, also where a page has no text.
                end = "\n" if text or self.output is not None else ""
                print("\f" * (index > 0) + text, end=end, file=out)
            elif self.document is not None:
                if page is not None and not count and self.document.check is not None:
                    self.document.check(page.data, self.decoder)
                read.append(_read_page(number, page))
            elif page is not None:
                print(json.dumps(self._json(item, number, page), ensure_ascii=False), file=out)
            if page is not None:
                if self.save_img is not None:
                    page.save_to_img(files.add(self._image(self.save_img, item, number)))
                count, data = count + 1, page.data
        if count and self.document is not None:
            out.buffer.write(self.document.write(read, [data], self.decoder))
        return count, number

    def _json(self, item: _Input, number: int, page: PageResult) -> dict[str, Any]:
        if self.form == "paddlex":
            page["input_path"] = item.name
            return page.json
        answer = page_answer(_read_page(number, page))
        values = {key: value for key, value in answer.items() if key in _JSON_KEYS}
        return {"path": item.name, **values}

    def _output(self, folder: Path, item: _Input) -> Path:
        suffix = self.document.suffix if self.document else _SUFFIXES[self.form]
        return folder / f"{item.target}{suffix}"

    def _image(self, folder: Path, item: _Input, number: int) -> Path:
        return folder / f"{item.target}.page-{number}.png"

    def _errors(self, item: _Input) -> set[Path]:
        """The files that name pages which could not be read."""
        folders = (self.output, self.save_img)
        return {folder / f"{item.target}.errors.txt" for folder in folders if folder is not None}

    def _remove_old(self, item: _Input, broken: Iterable[int], last: int) -> None:
        """Remove what an earlier run wrote for this input, and this one did not."""
        for path in () if broken else self._errors(item):
            path.unlink(missing_ok=True)
        if self.save_img is not None:
            for number in broken:
                self._image(self.save_img, item, number).unlink(missing_ok=True)
            for number in itertools.count(last + 1):
                try:
                    self._image(self.save_img, item, number).unlink()
                except FileNotFoundError:
                    break


def _with_gaps(
    results: Iterable[PageResult], broken: Iterable[int]
) -> Iterator[tuple[int, PageResult | None]]:
    """Every page by its number, None for a broken one. Nothing where all are broken."""
    last = 0
    for page in results:
        yield from ((number, None) for number in broken if number > last)
        last = (page.page_index or 0) + 1
        yield last, page
    if last:
        yield from ((number, None) for number in broken if number > last)


def _read_page(number: int, page: PageResult | None) -> ReadPage:
    if page is None:
        return ReadPage(0, number - 1, number, Page(0, 0))
    return ReadPage(0, number - 1, number, page.page, page.dpi)


def _is_whole(path: Path, newest: int) -> bool:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        end = _ENDS.get(path.suffix, b"\n")
        if status.st_size < len(end) or status.st_mtime_ns < newest:
            return False
        file.seek(-len(end), os.SEEK_END)
        return file.read() == end


@dataclass(slots=True)
class _StagedFiles:
    """Files with temporary names beside their own, which they get together at the end."""

    paths: dict[Path, Path] = field(default_factory=dict)
    """The temporary name of each, and its own."""

    def add(self, path: Path) -> Path:
        """A temporary name for `path`, which a next run overwrites if this one is killed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
        self.paths[temporary] = path
        return temporary

    def publish(self) -> None:
        """Give them their names, the first one last."""
        for temporary, path in reversed(self.paths.items()):
            temporary.replace(path)

    def remove(self) -> None:
        """Remove those that still have temporary names."""
        for temporary in self.paths:
            temporary.unlink(missing_ok=True)
