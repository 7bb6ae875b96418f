"""Every error this package raises on purpose.

The message is for the person who can fix it: what is wrong, where, and how to fix it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

_ROOT = Path(__file__).resolve().parents[1]
CLONE = _ROOT if (_ROOT / "scripts" / "lib.sh").is_file() else None
"""The clone that this package runs from, whose scripts prepare environments; None for a wheel."""
FETCH = "bash scripts/fetch_models.sh" if CLONE else "ocr-hpi fetch"
BUILD = "bash scripts/build_engines.sh" if CLONE else "ocr-hpi build"
INSTALL = {
    **{kind: f"bash scripts/install_hpi_deps.sh {kind}" for kind in ("cpu", "gpu")},
    **{extra: f".venv/bin/pip install -e '.[{extra}]'" for extra in ("bulk", "ray")},
}
"""What installs the inference backends, by kind of device, and what `ocr-hpi bulk` needs."""
if CLONE is None:
    INSTALL = {extra: f"pip install 'paddleocr-hpi-serving[{extra}]'" for extra in INSTALL}


def printable(text: str) -> str:
    """With a mark for each byte of a file's name that is no UTF-8."""
    return os.fsencode(text).decode("utf-8", "replace")


class OcrError(Exception):
    """Base of all errors raised on purpose. `str(error)` is one clear line."""

    code: ClassVar[str] = "internal"
    """What it is called in answers and in the rows of `ocr-hpi bulk`."""


class ConfigError(OcrError):
    """A pipeline YAML, a flag or a model's inference.yml is wrong."""


class ModelError(OcrError):
    """A model in the store is missing or unusable."""


class ModelMissing(ModelError):
    """The model is not in the store."""


class FetchError(ModelError):
    """A download failed, was cut off or has the wrong hash."""


class RemoteFileMissing(FetchError):
    """The host answers, but does not have this file: try the next source."""


class HostUnreachable(FetchError):
    """The host does not answer: do not ask it for other files."""


class HashMismatch(FetchError):
    """Not the bytes of the manifest or of the first fetch. No other source is tried."""


class ModelInvalid(ModelError):
    """A model folder lacks files or they cannot be read."""


class ConversionError(ModelError):
    """Paddle to ONNX failed, or the converted model computes something else."""


class EngineError(OcrError):
    """A backend is missing, does not load the model or fails while running it."""

    code = "engine"


class DeviceError(EngineError):
    """The requested GPU is absent, or its driver or libraries do not load."""


class WorkerLost(EngineError):
    """A process or a machine ended while it read a page; another one may read it."""

    code = "worker_lost"


class DiskError(OcrError):
    """A folder cannot be read or written: a full disk, read-only, another user's, locked."""


class PlanError(OcrError):
    """There is no engine plan, or it does not match the models or the machine."""


class InputError(OcrError):
    """The caller's input is at fault. `index`: which of several images."""

    def __init__(self, message: str, *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class BadRequest(InputError):
    """No image, bad base64 or a bad parameter."""

    code = "bad_request"


class UnsupportedMedia(InputError):
    """The bytes are not an image format this package reads."""

    code = "unsupported_media"


class Unfetchable(InputError):
    """The image cannot be fetched from its URL."""

    code = "unfetchable"


class Undecodable(InputError):
    """The bytes are an image or document, but broken or encrypted."""

    code = "undecodable"


class TooLarge(InputError):
    """Bytes, pixels or pages are over the limit."""

    code = "too_large"


class TooManyErrors(OcrError):
    """More pages of a bulk run could not be read than it allows."""


class Unauthorized(OcrError):
    """The request has no API key, or an unknown one."""

    code = "unauthorized"


class Busy(OcrError):
    """The queue is full."""

    code = "busy"


class SpoolFull(OcrError):
    """The spool has no room for a job, or cannot be written."""

    code = "spool_full"


class TimedOut(OcrError):
    """The request waited or worked longer than allowed."""

    code = "timeout"


class NotReady(OcrError):
    """The server has not processed its warm-up image yet."""

    code = "not_ready"
