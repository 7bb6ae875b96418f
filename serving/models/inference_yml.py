"""The `inference.yml` of a model whose source has none, in PaddleX's own form.

The characters that a text recogniser knows, in the order of its output.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from serving.errors import FetchError

_METADATA_PROPS = 14  # ModelProto.metadata_props of onnx.proto; entries are {key = 1, value = 2}


def characters_of_text(path: Path) -> list[str]:
    """One character a line. Only line feeds part lines: some characters are separators too."""
    text = path.read_text(encoding="utf-8-sig")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def characters_of_onnx(path: Path) -> list[str] | None:
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


_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # a dictionary of 18,000 characters


def write_inference_yml(
    folder: Path, name: str, template: Mapping[str, Any], characters: list[str] | None
) -> None:
    """Write `folder/inference.yml` for the model `name` from a template of the manifest.

    `characters`: a recogniser's dictionary, without the blank and the space that the decoder adds.
    Raises FetchError when the template wants one and there is none.
    """
    data = {"Global": {"model_name": name}, **copy.deepcopy(dict(template))}
    if "character_dict" in data["PostProcess"]:
        if not characters:
            raise FetchError(
                f"{name}: no inference.yml and no dictionary of characters beside the graph; "
                "put the inference.yml that PaddleX exported into the folder"
            )
        data["PostProcess"]["character_dict"] = characters
    text = yaml.dump(data, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
    (folder / "inference.yml").write_text(text, encoding="utf-8")
