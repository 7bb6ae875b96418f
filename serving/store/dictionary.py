"""The characters that a text recogniser knows, in the order of its output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from serving.errors import FetchError

_METADATA_PROPS = 14  # ModelProto.metadata_props of onnx.proto; entries are {key = 1, value = 2}


def from_text(path: Path) -> list[str]:
    """One character a line. Only line feeds part lines: some characters are separators too."""
    text = path.read_text(encoding="utf-8-sig")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def from_onnx(path: Path) -> list[str] | None:
    """RapidOCR's form: the metadata `character` of the graph, one a line. None without it."""
    text = onnx_metadata(path).get("character")
    return text.removesuffix("\n").split("\n") if text else None


def onnx_metadata(path: Path) -> dict[str, str]:
    """An ONNX model's metadata, read without the onnx package, which fetching does not need.

    Raises FetchError for a file that is no protobuf message.
    """
    found = {}
    try:
        for number, value in _fields(path.read_bytes()):
            if number == _METADATA_PROPS:
                entry = dict(_fields(value))
                found[bytes(entry.get(1, b"")).decode()] = bytes(entry.get(2, b"")).decode()
    except (IndexError, ValueError) as error:
        raise FetchError(f"{path.name}: not a readable ONNX file: {error}") from error
    return found


def _fields(message: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each length-delimited field of a protobuf message, others skipped."""
    view = memoryview(message)
    at = 0
    while at < len(view):
        key, at = _varint(view, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(view, at)
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        elif kind == 2:
            size, at = _varint(view, at)
            if at + size > len(view):
                raise ValueError("cut off")
            yield key >> 3, view[at : at + size]
            at += size
        else:
            raise ValueError(f"field of kind {kind}")


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
