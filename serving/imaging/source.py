"""Loads the inputs of the Python interface: paths, URLs, folders, files, pictures, arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL.ExifTags import Base

from serving.config.options import MAX_PAGES, PDF_DPI
from serving.errors import BadRequest, InputError, TimedOut, Undecodable, UnsupportedMedia
from serving.imaging import pillow
from serving.imaging.decode import Decoder, Pages
from serving.imaging.formats import ALL_PAGES, SNIFF_BYTES, Data, Limits, PageRanges, sniff
from serving.types import Dpi, Image, Page

OnPageError = Callable[[str, int | None, Exception], None]
"""Notified of a page that cannot be read: its source and page, as `Loaded` has them, and why."""

Single = str | os.PathLike[str] | Data | IO[bytes] | PillowImage.Image | NDArray[Any]
Source = Single | Iterable[Single]
Decode = Callable[[Data], Pages]

MAX_URL_BYTES = 100 << 20
URL_SECONDS = 60.0
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
SUFFIXES = {*IMAGE_SUFFIXES, ".pdf"}


class Loaded(NamedTuple):
    """A page of an input, decoded."""

    name: str
    """Path, URL, or `image_N` for the N-th input without a name."""
    page_index: int | None
    """From 0, within a PDF or TIFF; None for an image."""
    image: Image
    """(H, W, 3), BGR, uint8, upright."""
    dpi: Dpi | None = None
    """As its file says; of a PDF, as it was rendered."""
    own_text: Page | None = None
    """A PDF page's own text, with words, where it was asked for and is all there."""
    data: Data = b""
    """Of the file that the page is from; empty for an array or a PIL image."""


def load(
    source: Source,
    *,
    decoder: Decoder | None = None,
    pdf_dpi: int = PDF_DPI,
    ranges: PageRanges = ALL_PAGES,
    pdf_text: bool = False,
    on_page_error: OnPageError | None = None,
) -> Iterator[Loaded]:
    """Yield the pages of an input, or of each of an iterable, which is asked for one at a time.

    A folder yields, recursively and sorted, every file whose content is of a supported format. A
    URL may take 60 s and 100 MiB. A file object is read to its end. Of a PIL image it is the
    current frame, turned as its EXIF says. An array is (H, W), (H, W, 1), (H, W, 3) BGR or
    (H, W, 4) BGRA, uint8. `ranges` selects pages of each; `pdf_text` asks for the own text of
    PDFs. Without `decoder` one is made, with the default limits except that of pages: these are
    the caller's own files.

    Raises InputError, naming the source; for an iterable, `index` is that in it. TimedOut. With
    `on_page_error`, files and pages that cannot be read are given to it and left out.
    """
    with ExitStack() as stack:
        if decoder is None:
            decoder = stack.enter_context(Decoder(Limits(max_pages=MAX_PAGES)))
        entries = cast(Iterable[Single], [source] if _is_single(source) else source)
        for index, entry in enumerate(entries):
            try:
                decode = partial(decoder.pages, pdf_dpi=pdf_dpi, ranges=ranges)
                yield from _load(entry, index, decode, pdf_text, on_page_error)
            except InputError as error:
                if entries is source and error.index is None:
                    error.index = index
                if on_page_error is None:
                    raise
                named = isinstance(entry, str | os.PathLike)
                on_page_error(str(entry) if named else f"image_{index}", None, error)


def _is_single(source: Source) -> bool:
    """True also for a type that `_load` refuses."""
    kinds = str | bytes | bytearray | memoryview | np.ndarray | PillowImage.Image
    return isinstance(source, kinds) or hasattr(source, "read") or not isinstance(source, Iterable)


def _load(
    source: Single, index: int, decode: Decode, pdf_text: bool, on_error: OnPageError | None
) -> Iterator[Loaded]:
    unnamed = f"image_{index}"
    if isinstance(source, np.ndarray):
        yield Loaded(unnamed, None, _from_array(source))
    elif isinstance(source, PillowImage.Image):
        yield Loaded(unnamed, None, _from_pillow(unnamed, source), pillow.dpi_of(source))
    elif isinstance(source, bytes | bytearray | memoryview):
        yield from _decode(unnamed, lambda: source, decode, pdf_text, on_error)
    elif isinstance(source, str) and is_url(source):
        from serving.download import read_url

        read = partial(read_url, source, max_bytes=MAX_URL_BYTES, seconds=URL_SECONDS)
        yield from _decode(source, read, decode, pdf_text, on_error)
    elif isinstance(source, str | os.PathLike):
        for path in _files(Path(source)):
            yield from _decode(str(path), partial(_read, path), decode, pdf_text, on_error)
    elif hasattr(source, "read"):
        name = getattr(source, "name", None)
        name = name if isinstance(name, str) else unnamed
        yield from _decode(name, partial(_read_file, source), decode, pdf_text, on_error)
    else:
        raise BadRequest(
            f"cannot read an image from a {type(source).__name__}: give a path, URL, folder, "
            "bytes, file object, PIL image, numpy array, or a list or generator of these"
        )


def _decode(
    name: str,
    read: Callable[[], Data],
    decode: Decode,
    pdf_text: bool,
    on_error: OnPageError | None,
) -> Iterator[Loaded]:
    try:
        try:
            data = read()
            pages = decode(data)
        except (InputError, TimedOut) as error:
            if on_error is None:
                raise
            on_error(name, None, error)
            return
        for info in pages.pages:
            index = info.index if pages.kind in ("pdf", "tiff") else None
            try:
                own = pages.own_text(info) if pdf_text else None
                image = pages.decode(info)
            except (InputError, TimedOut) as error:
                if on_error is None:
                    raise
                on_error(name, index, error)
            else:
                yield Loaded(name, index, image, info.dpi, own, data)
                del image  # not held beside the next one
    except InputError as error:
        raise type(error)(f"{name}: {error}", index=error.index) from error


def _from_array(array: NDArray[Any]) -> Image:
    shape = array.shape
    valid = array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not valid or array.size == 0:
        raise BadRequest(
            f"an array of shape {shape} and type {array.dtype} is no image: give uint8 of shape "
            "(H, W), (H, W, 1), (H, W, 3) in BGR or (H, W, 4) in BGRA"
        )
    if array.ndim == 2 or shape[2] == 1:
        return np.repeat(array.reshape(*shape[:2], 1), 3, axis=2)
    if shape[2] == 4:
        rgba = PillowImage.fromarray(np.ascontiguousarray(array[..., [2, 1, 0, 3]]))
        array = np.asarray(pillow.flatten(rgba))[..., ::-1]
    return np.ascontiguousarray(array)


def _from_pillow(name: str, picture: PillowImage.Image) -> Image:
    try:
        picture.load()
        pixels = pillow.decode(picture, picture.getexif().get(Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises a dozen types for damaged files
        raise Undecodable(f"{name}: Pillow cannot decode it: {error}") from error
    return _from_array(pixels[..., ::-1] if pixels.ndim == 3 else pixels)


def _read_file(file: IO[bytes]) -> bytes:
    try:
        data = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise BadRequest(str(error)) from error
    if not isinstance(data, bytes):
        raise BadRequest(f'read() gives {type(data).__name__}: open it with "rb"')
    return data


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BadRequest(f"{path}: no such file or folder")
    files = [file for file in list_files(path) if is_supported(file)]
    if not files:
        raise BadRequest(f"{path}: no file in this folder is an image or a PDF")
    return files


def _raise(error: InputError) -> None:
    raise error


def list_files(
    folder: Path,
    *,
    recursive: bool = True,
    without: Collection[str] = (),
    on_error: Callable[[InputError], None] = _raise,
) -> Iterator[Path]:
    """Yield the files of a folder, sorted, listing a folder only when it is reached.

    without: real paths of folders that are left out. Links to folders are not followed. on_error
    gets a BadRequest for each folder that cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        on_error(BadRequest(f"{folder}: {error.strerror}"))
        return
    for entry in entries:
        path = folder / entry.name
        if not entry.is_dir(follow_symlinks=False):
            yield path
        elif recursive and os.path.realpath(path) not in without:
            yield from list_files(path, without=without, on_error=on_error)


def is_url(text: str) -> bool:
    """Whether it is an address that is fetched, and no path."""
    return text.lower().startswith(("http://", "https://"))


def is_supported(path: Path, *, by_name: bool = False) -> bool:
    """Whether the content of a file is of a supported format.

    by_name: also if it is only named like one, as a damaged image is.
    """
    if not path.is_file():
        return False  # a socket or a pipe would block
    if by_name and path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
        return True
    try:
        with path.open("rb") as file:
            sniff(file.read(SNIFF_BYTES))
    except (UnsupportedMedia, OSError):
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadRequest(str(error.strerror)) from error
