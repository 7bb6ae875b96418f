"""The `inference.yml` of a model whose source has none, in PaddleX's own form."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from serving.config.model import MAX_BYTES
from serving.config.yaml_file import read_file
from serving.errors import INSTALL, ConfigError, FetchError

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # a dictionary of 18,000 characters


def characters_of_text(path: Path) -> list[str]:
    """One character a line. Only a line feed ends a line: other separators are characters here.

    Raises FileNotFoundError, and ConfigError: not readable, larger than 4 MiB, or not UTF-8.
    """
    try:
        text = read_file(path, max_bytes=MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8, from byte {error.start} on") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def characters_of_onnx(path: Path) -> list[str] | None:
    """RapidOCR's form: the metadata `character` of the graph, one per line. None without it.

    Raises FetchError for a file that is not ONNX, and without the package onnx.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise FetchError(
            f"onnx, which reads the dictionary in a graph, is not installed: {INSTALL['cpu']}"
        ) from None
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise FetchError(f"{path.name}: not a readable ONNX file: {error}") from error
    text = {item.key: item.value for item in model.metadata_props}.get("character")
    return text.removesuffix("\n").split("\n") if text else None


def write_inference_yml(
    folder: Path, name: str, template: Mapping[str, Any], characters: list[str] | None
) -> None:
    """Write `folder/inference.yml` for the model `name` from a template of the manifest.

    `characters`: a recogniser's dictionary, without the blank and the space that the decoder adds.
    Raises FetchError when the template needs one and there is none.
    """
    data = {"Global": {"model_name": name}, **copy.deepcopy(dict(template))}
    if data.get("PostProcess", {}).get("character_dict") == []:
        if not characters:
            raise FetchError(
                f"{name}: no inference.yml and no dictionary of characters beside the graph; "
                "put the inference.yml that PaddleX exported into the folder"
            )
        data["PostProcess"]["character_dict"] = characters
    text = yaml.dump(data, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
    (folder / "inference.yml").write_text(text, encoding="utf-8")
