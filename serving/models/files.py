"""A model folder in PaddleX's form: its files and their digest."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from serving.disk import sha256
from serving.errors import ModelInvalid

MODEL_FILES = (
    "inference.yml",
    "inference.json",
    "inference.pdmodel",
    "inference.pdiparams",
    "inference.onnx",
)
"""Every file that belongs to a model, beside weights outside the graph (ONNX external data)."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a complete model folder. At least one of `onnx` and `paddle` is set."""

    folder: Path
    onnx: Path | None
    paddle: tuple[Path, Path] | None
    """The graph (.json before .pdmodel, as PaddleX has it) and its weights."""


def model_files(folder: Path) -> ModelFiles:
    """Find the files of a model folder.

    Raises ModelInvalid naming what is missing. A file of no bytes counts as missing.
    """
    if not folder.is_dir():
        looked = f" ({folder.absolute()}: it is relative to the working directory)"
        raise ModelInvalid(
            f"{folder}: no such model folder{'' if folder.is_absolute() else looked}"
        )
    missing = missing_files(folder)
    if missing:
        raise ModelInvalid(f"{folder}: lacks {missing}; {_what_it_is(folder)}")
    files = {name: folder / name for name in MODEL_FILES if _has_bytes(folder / name)}
    graph = files.get("inference.json") or files.get("inference.pdmodel")
    weights = files.get("inference.pdiparams")
    return ModelFiles(
        folder=folder,
        onnx=files.get("inference.onnx"),
        paddle=(graph, weights) if graph and weights else None,
    )


_EXPORTS = ("inference", "best_accuracy/inference")
"""Where, in the output of a training with PaddleX, the model folder is."""


def _what_it_is(folder: Path) -> str:
    """What an incomplete folder is rather than a model, and what to do."""
    for name in _EXPORTS:
        if not missing_files(folder / name):
            return f"{folder / name} is the model: name that folder"
    if any(folder.glob("*.pdparams")):
        return (
            "*.pdparams are the weights of a training: export them with PaddleOCR's "
            "tools/export_model.py, and name the folder that it writes"
        )
    if missing_files(folder) == "inference.yml":
        return "PaddleOCR 2 exports none: `ocr-hpi adopt` makes a model folder of such an export"
    return "a model folder is what PaddleX exports"


def paddle_graph(folder: Path) -> Path:
    """The Paddle graph of a model folder. Raises ModelInvalid where it has none."""
    paddle = model_files(folder).paddle
    if paddle is None:
        raise ModelInvalid(
            f"{folder}: has no Paddle graph (inference.json or inference.pdmodel with "
            "inference.pdiparams)"
        )
    return paddle[0]


def missing_files(folder: Path) -> str:
    """The files that a model folder lacks, for an error message; empty for a complete one."""
    names = {name for name in MODEL_FILES if _has_bytes(folder / name)}
    missing = [] if "inference.yml" in names else ["inference.yml"]
    if "inference.onnx" not in names:
        if not names & {"inference.json", "inference.pdmodel"}:
            missing.append(
                "a graph (inference.json or inference.pdmodel with inference.pdiparams, "
                "or inference.onnx)"
            )
        elif "inference.pdiparams" not in names:
            missing.append("inference.pdiparams")
    return " and ".join(missing)


def copy_model(source: Path, target: Path) -> None:
    """Copy the model files that are in `source`, external data too, to the folder `target`."""
    present = (name for name in MODEL_FILES if (source / name).is_file())
    for name in (*present, *_external_data(source)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def digest(folder: Path) -> str:
    """sha256 (hex) over names and bytes of all the model's files in `folder`.

    Raises ModelInvalid for an incomplete folder.
    """
    model_files(folder)
    whole = hashlib.sha256()
    for name, value in file_hashes(folder).items():
        whole.update(f"{name} {value}\n".encode())
    return whole.hexdigest()


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 (hex) of each of the model's files in `folder`, by name."""
    names = [name for name in MODEL_FILES if _has_bytes(folder / name)]
    return {name: sha256(folder / name) for name in (*names, *_external_data(folder))}


_LOCATION = re.compile(rb"\n\x08location\x12([\x80-\xff]?[\x00-\x7f])")
"""Before the name of a file in an ONNX graph: a StringStringEntryProto, and the name's length."""


def _external_data(folder: Path) -> list[str]:
    """Files in or below the folder that hold weights of its ONNX graph, which names them.

    The graph's bytes are searched and not parsed, because a server does not need the package onnx.
    """
    graph = folder / "inference.onnx"
    if not _has_bytes(graph) or {path.name for path in folder.iterdir()} <= {*MODEL_FILES}:
        return []
    data = graph.read_bytes()
    names: set[str] = set()
    for match in _LOCATION.finditer(data):
        length = sum((byte & 127) << 7 * index for index, byte in enumerate(match[1]))
        name = data[match.end() : match.end() + length].decode("utf-8", "replace")
        path = PurePosixPath(name)
        inside = name.isprintable() and not path.is_absolute() and ".." not in path.parts
        if inside and (folder / path).is_file():
            names.add(str(path))
    return sorted(names - {*MODEL_FILES})


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
