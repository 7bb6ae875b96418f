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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast, get_args

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
from serving.errors import BadRequest, EngineError, InputError, TimedOut
from serving.imaging.formats import PageRanges
from serving.imaging.source import printable
from serving.output.formats import DOCUMENTS, DocumentFormat, DocumentName
from serving.output.pages import ReadPage
from serving.types import Page

if TYPE_CHECKING:
    from rich.progress import Progress

    from serving.api import PageResult
    from serving.imaging.decode import Decoder
    from serving.imaging.formats import Data

Say = Callable[[str], None]

_SUFFIXES = {"text": ".txt", "json": ".jsonl", "paddlex": ".paddlex.jsonl"}
"""Of the formats that are written page by page; the others are in output/formats.py."""
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
@max_pages_option(MAX_PAGES, "Of a document")
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

    With several inputs each begins with a line `==> PATH <==`; a form feed parts the pages of one.
    What cannot be read, a file or a page, is reported on stderr; the rest is read, and the exit
    code is 1. Its pages are numbered as if it had been read.
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
    done = _Done()
    try:
        with ExitStack() as stack:
            ocr = stack.enter_context(
                load_pipeline(
                    pipeline, models=models, warm=False, max_pixels=max_pixels, max_pages=max_pages
                )
            )
            ocr.pipeline.settings(options)  # refuses what this pipeline does not have
            work = _Work(
                form, document, ocr.decoder, output, save_img, ranges.first, headed=not alone
            )
            inputs = _Inputs(paths, recursive, folders)
            for note in inputs.left_out():
                click.echo(note, err=True)
            shown = stack.enter_context(_shown(inputs))
            for item in inputs.each(done.failed(shown.say)):
                shown.begin(item.name)
                if resume and work.is_done(item):
                    done.skipped += 1
                    continue
                try:
                    source = _stdin() if item.source == "-" else item.source
                    broken = _Broken(item.name, done.failed(shown.say))
                    results = ocr.predict(
                        source,
                        pdf_dpi=pdf_dpi,
                        pages=pages,
                        pdf_text=pdf_text,
                        on_page_error=broken.add,
                        **options.model_dump(exclude_none=True),
                    )
                    count = work.read(item, results, broken.pages)
                    done.pages += count
                    done.files += count > 0
                except (InputError, TimedOut, EngineError, MemoryError) as error:
                    done.failed(shown.say)(item.name, error)
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


def _stdin() -> bytes:
    return sys.stdin.buffer.read()


@dataclass(slots=True)
class _Done:
    """What was done so far."""

    files: int = 0
    pages: int = 0
    skipped: int = 0
    errors: int = 0

    def failed(self, say: Say) -> Callable[[str, BaseException], None]:
        """Counts an error and reports it, by the name of its input."""

        def report(name: str, error: BaseException) -> None:
            self.errors += 1
            message = _reason(error)
            say(f"Error: {message}" if name in message else f"Error: {name}: {message}")

        return report

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


@dataclass(slots=True)
class _Broken:
    """The pages of an input that could not be read."""

    name: str
    report: Callable[[str, BaseException], None]
    pages: dict[int, str] = field(default_factory=dict)
    """Number, from 1, and why."""

    def add(self, _: str, page_index: int | None, error: Exception) -> None:
        """Called as soon as a page has failed."""
        number = (page_index or 0) + 1
        self.pages[number] = reason = _reason(error)
        tells = page_index is None or f", page {number}" in reason
        self.report(self.name if tells else f"{self.name}, page {number}", error)


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

    def each(self, on_error: Callable[[str, BaseException], None]) -> Iterator[_Input]:
        """Yield the inputs; a folder that cannot be read, or has nothing to read, is an error."""
        base = self._base()
        for path in self.paths:
            if path == "-":
                yield _Input("-", "-", "stdin")
            elif _is_url(path):
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

    def _in_folder(
        self, folder: str, base: str, on_error: Callable[[str, BaseException], None]
    ) -> Iterator[_Input]:
        from serving.imaging.source import is_supported, list_files

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
        local = [_absolute(path) for path in self.paths if path != "-" and not _is_url(path)]
        tops = [path if path.is_dir() else path.parent for path in local]
        return os.path.commonpath(tops) if tops else ""


def _local(path: Path, base: str) -> _Input:
    target = _absolute(path).relative_to(base)
    target = target.with_name(_shortened(path.name, path.name))
    return _Input(path, printable(str(path)), str(target))


def _absolute(path: str | Path) -> Path:
    return Path(os.path.normpath(Path(path).absolute()))


def _is_url(path: str) -> bool:
    return path.lower().startswith(("http://", "https://"))


def _shortened(name: str, whole: str, max_bytes: int = _MAX_NAME) -> str:
    """The name itself or, where it is too long, its begin and a hash of `whole`."""
    if len(os.fsencode(name)) <= max_bytes:
        return name
    digest = hashlib.sha256(os.fsencode(whole)).hexdigest()[:12]
    return f"{os.fsdecode(os.fsencode(name)[:100])}-{digest}"


@dataclass(frozen=True, slots=True)
class _Work:
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
        with suppress(OSError):
            newest = item.source.stat().st_mtime_ns if isinstance(item.source, Path) else 0
            marks = all(_is_whole(path, newest) for path in self._marks(item))
            return marks and not any(path.exists() for path in self._errors(item))
        return False

    def _marks(self, item: _Input) -> Iterator[Path]:
        """The files that are written last."""
        if self.output is not None:
            yield self._output(self.output, item)
        if self.save_img is not None:
            yield self._image(item, self.first_page)

    def _output(self, folder: Path, item: _Input) -> Path:
        suffix = self.document.suffix if self.document else _SUFFIXES[self.form]
        return folder / f"{item.target}{suffix}"

    def _image(self, item: _Input, number: int) -> Path:
        assert self.save_img is not None
        return self.save_img / f"{item.target}.page-{number}.png"

    def _errors(self, item: _Input) -> set[Path]:
        """The files that name pages which could not be read."""
        folders = (self.output, self.save_img)
        return {folder / f"{item.target}.errors.txt" for folder in folders if folder is not None}

    def read(self, item: _Input, results: Iterator[PageResult], broken: Mapping[int, str]) -> int:
        """Take the pages of an input, and count them. Nothing half done is left.

        broken: grows, as `results` goes on, by the pages that cannot be read. What holds all pages
        has an empty one in their place. Where there is no other page, nothing is written.
        """
        count = last = 0
        data: Data = b""
        pages: list[ReadPage] = []
        with _staged() as files, ExitStack() as stack:
            out = cast(TextIOWrapper, sys.stdout)
            if self.output is not None:
                path = files.add(self._output(self.output, item))
                out = stack.enter_context(path.open("w", encoding="utf-8"))
            text = _Text(out)
            for page in results:
                number = (page.page_index or 0) + 1
                page["input_path"] = item.name
                if self.form == "text":
                    if not count and self.headed and self.output is None:
                        print(f"==> {item.name} <==", file=out)
                    text.write_empty(_after(last, broken))
                    text.write(line.text for line in page.lines)
                elif self.document is None:
                    content = page.json if self.form == "paddlex" else _page(page)
                    print(json.dumps(content, ensure_ascii=False), file=out)
                else:
                    if not count and self.document.check is not None:
                        self.document.check(page.data, self.decoder)
                    data = page.data
                    pages += map(_empty, _after(last, broken))
                    pages.append(ReadPage(0, number - 1, number, page.page, page.dpi))
                if self.save_img is not None:
                    page.save_to_img(files.add(self._image(item, number)))
                count, last = count + 1, number
            if not count:
                files.discard()
                return 0
            if self.form == "text":
                text.write_empty(_after(last, broken))
            if self.document is not None:
                pages += map(_empty, _after(last, broken))
                out.buffer.write(self.document.write(pages, [data], self.decoder))
            for path in self._errors(item) if broken else ():
                said = (f"page {number}: {reason}\n" for number, reason in broken.items())
                files.add(path).write_text("".join(said), encoding="utf-8")
        self._remove_old(item, broken, max(last, *broken) if broken else last)
        return count

    def _remove_old(self, item: _Input, broken: Collection[int], last: int) -> None:
        """Remove what an earlier run wrote for this input, and this one did not."""
        for path in () if broken else self._errors(item):
            path.unlink(missing_ok=True)
        if self.save_img is not None:
            for number in broken:
                self._image(item, number).unlink(missing_ok=True)
            for number in itertools.count(last + 1):
                try:
                    self._image(item, number).unlink()
                except FileNotFoundError:
                    break


class _Text:
    """Writes pages of text, parted by form feeds."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._written = 0

    def write(self, lines: Iterable[str]) -> None:
        text = "\n".join(lines)
        # A file ends with a line feed, also where a page has no text.
        end = "\n" if text or self._out is not sys.stdout else ""
        print("\f" * (self._written > 0) + text, end=end, file=self._out)
        self._written += 1

    def write_empty(self, pages: Iterable[int]) -> None:
        """An empty page for each of these."""
        for _ in pages:
            self.write(())


def _after(last: int, broken: Iterable[int]) -> list[int]:
    return [number for number in broken if number > last]


def _empty(number: int) -> ReadPage:
    return ReadPage(0, number - 1, number, Page(0, 0))


def _page(result: PageResult) -> dict[str, Any]:
    lines = []
    for line in result.lines:
        words = [
            {"data": word.text, "score": word.score, "box": _points(word.box)}
            for word in line.words
        ]
        lines.append(
            {"data": line.text, "score": line.score, "box": _points(line.box)}
            | ({"words": words} if words else {})
        )
    size = {"width": result.page.width, "height": result.page.height}
    source = result.page.source
    where = {"path": result["input_path"], "page": result.page_index or 0, "source": source}
    return {**where, **size, "lines": lines}


def _points(quad: Sequence[Sequence[int]]) -> list[list[int]]:
    return [list(point) for point in quad]


def _is_whole(path: Path, newest: int) -> bool:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        end = _ENDS.get(path.suffix, b"\n")
        if status.st_size < len(end) or status.st_mtime_ns < newest:
            return False
        file.seek(-len(end), os.SEEK_END)
        return file.read() == end


@dataclass(slots=True)
class _Staged:
    """Files with temporary names beside their own."""

    paths: list[tuple[Path, Path]] = field(default_factory=list)

    def add(self, path: Path) -> Path:
        """A temporary name for `path`, which a next run overwrites if this one is killed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self.paths.append((partial, path))
        return partial

    def discard(self) -> None:
        """Remove them all."""
        for partial, _ in self.paths:
            partial.unlink(missing_ok=True)
        self.paths.clear()


@contextmanager
def _staged() -> Iterator[_Staged]:
    """Files that get their names together at the end, the first one last; else they are removed."""
    files = _Staged()
    try:
        yield files
        for partial, path in reversed(files.paths):
            partial.replace(path)
    except BaseException:
        files.discard()
        raise


class _Shown:
    """Messages on stderr, and nothing else."""

    def say(self, message: str) -> None:
        """Show a line."""
        click.echo(message, err=True)

    def begin(self, name: str) -> None:
        """The input before is done, and this one begins."""


class _Bar(_Shown):
    """Messages above a progress bar."""

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total, completed=-1)

    def say(self, message: str) -> None:
        self._bar.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def begin(self, name: str) -> None:
        from rich.markup import escape

        self._bar.update(self._task, advance=1, description=escape(name))


@contextmanager
def _shown(inputs: _Inputs) -> Iterator[_Shown]:
    """What is shown on stderr: a progress bar where that is a terminal."""
    if not sys.stderr.isatty():
        yield _Shown()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = BarColumn(), MofNCompleteColumn(), Remaining(), TextColumn("{task.description}")
    # Text on the same terminal is written above the bar; text for elsewhere is left alone.
    with Progress(
        *columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()
    ) as bar:
        shown = _Bar(bar, sum(1 for _ in inputs.each(lambda name, error: None)))
        yield shown
        shown.begin("")
