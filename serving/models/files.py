"""A model folder in PaddleX's form: what must be in it, and its digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ModelInvalid

MODEL_FILES = (
    "inference.yml",
    "inference.json",
    "inference.pdmodel",
    "inference.pdiparams",
    "inference.onnx",
)
"""Every file that belongs to a model. Whatever else lies beside them is no part of it."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a complete model folder. At least one of `onnx` and `paddle` is there."""

    folder: Path
    config: Path
    onnx: Path | None
    paddle: tuple[Path, Path] | None
    """The graph (.json before .pdmodel, as PaddleX has it) and its weights."""

    @property
    def format(self) -> str:
        """`onnx` where no conversion is needed, else `paddle`."""
        return "onnx" if self.onnx is not None else "paddle"


def model_files(folder: Path) -> ModelFiles:
    """Look at a model folder.

    Raises ModelInvalid naming what is missing. A file of no bytes counts as missing.
    """
    if not folder.is_dir():
        raise ModelInvalid(f"{folder}: no such model folder")
    missing = missing_files(folder)
    if missing:
        raise ModelInvalid(f"{folder}: lacks {missing}; a model folder is what PaddleX exports")
    there = {name: folder / name for name in MODEL_FILES if _has_bytes(folder / name)}
    graph = there.get("inference.json") or there.get("inference.pdmodel")
    weights = there.get("inference.pdiparams")
    return ModelFiles(
        folder=folder,
        config=there["inference.yml"],
        onnx=there.get("inference.onnx"),
        paddle=(graph, weights) if graph and weights else None,
    )


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
    """What a folder lacks to be a model, in words; nothing for a complete one."""
    there = {name for name in MODEL_FILES if _has_bytes(folder / name)}
    missing = [] if "inference.yml" in there else ["inference.yml"]
    if "inference.onnx" not in there:
        if not there & {"inference.json", "inference.pdmodel"}:
            missing.append(
                "a graph (inference.json or inference.pdmodel with inference.pdiparams, "
                "or inference.onnx)"
            )
        elif "inference.pdiparams" not in there:
            missing.append("inference.pdiparams")
    return " and ".join(missing)


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
    return {name: sha256(folder / name) for name in MODEL_FILES if _has_bytes(folder / name)}


def sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
