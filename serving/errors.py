"""Every error this package raises on purpose.

    OcrError
    ├── ConfigError             a pipeline YAML, a flag or a model's inference.yml is wrong
    ├── ModelError              a model of the store
    │   ├── ModelMissing        not fetched yet, or not to be had
    │   ├── FetchError          a download failed or was cut off
    │   │   ├── NotThere        the host does not have the file: try the next source
    │   │   ├── Unreachable     the host does not answer: ask it nothing more
    │   │   └── WrongHash       not the bytes of the manifest or of the first fetch
    │   ├── ModelInvalid        a model folder without the files it needs
    │   └── ConversionError     Paddle to ONNX failed, or the result differs
    ├── EngineError             a backend is missing, does not load or fails
    │   └── DeviceError         the GPU that was asked for cannot be used
    ├── PlanError               no engine plan, or one that does not fit this machine
    ├── InputError              the caller's image or parameters; `index`: which of several images
    │   ├── BadRequest          no image, bad base64, bad parameter
    │   ├── UnsupportedMedia    not an image format this package reads
    │   ├── Unfetchable         a URL behind which no image is to be had
    │   ├── Undecodable         an image, but broken; an encrypted PDF
    │   └── TooLarge            bytes, pixels or pages over the limit
    ├── Unauthorized            no key, or an unknown one
    ├── Busy                    every place is taken
    ├── TimedOut                waited or worked longer than allowed
    └── NotReady                the server has not warmed up yet

The message is for the person who can fix it: what is wrong, where, and the way out.
"""

from __future__ import annotations


class OcrError(Exception):
    """Base of all errors raised on purpose. `str(error)` is one clear line."""


class ConfigError(OcrError):
    """A pipeline YAML, a flag or a model's inference.yml is wrong."""


class ModelError(OcrError):
    """Something about a model of the store."""


class ModelMissing(ModelError):
    """The model is not in the store."""


class FetchError(ModelError):
    """A download failed, was cut off or has the wrong hash."""


class NotThere(FetchError):
    """The host answers, but does not have this file: the next source."""


class Unreachable(FetchError):
    """The host does not answer at all: no further package of it."""


class WrongHash(FetchError):
    """Not the bytes of the manifest or of the first fetch: an alarm, so no other source."""


class ModelInvalid(ModelError):
    """A model folder lacks files or they cannot be read."""


class ConversionError(ModelError):
    """Paddle to ONNX failed, or the converted model computes something else."""


class EngineError(OcrError):
    """A backend is missing, does not load the model or fails while running it."""


class DeviceError(EngineError):
    """The GPU that was asked for is not there, or its driver or libraries do not load."""


class PlanError(OcrError):
    """There is no engine plan, or it was made for something else."""


class InputError(OcrError):
    """The caller's input is at fault. `index` says which of several images."""

    def __init__(self, message: str, *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class BadRequest(InputError):
    """No image, bad base64 or a bad parameter."""


class UnsupportedMedia(InputError):
    """The bytes are not an image format this package reads."""


class Unfetchable(InputError):
    """The image is not to be had from its URL."""


class Undecodable(InputError):
    """The bytes are an image, but a broken or an encrypted one."""


class TooLarge(InputError):
    """Bytes, pixels or pages are over the limit."""


class Unauthorized(OcrError):
    """The request comes without a key, or with an unknown one."""


class Busy(OcrError):
    """Every place in work and in the queue is taken."""


class TimedOut(OcrError):
    """The request waited or worked longer than allowed."""


class NotReady(OcrError):
    """The server has not answered its warm-up image yet."""
