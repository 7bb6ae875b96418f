"""Is the PaddleX that is installed the one that this package stands on?"""

from __future__ import annotations

import importlib
import inspect
import sys
from importlib import metadata

from serving.errors import EngineError

SERIES = "3.7"
"""The series of PaddleX, and of PaddleOCR, whose inside this package knows."""

_INSTALL = (
    "install what fits, in an environment of its own (its OpenCV excludes ours): "
    "python3 -m venv .venv-paddlex && .venv-paddlex/bin/pip install '.[paddlex]'"
)

# What is replaced or relied on: module, name in it, parameters.
_FUNCTIONS = (
    ("engines.hpi", "HPIEngine.ensure_environment", ("self",)),
    (
        "engines.hpi",
        "HPIEngine.build_runner",
        ("self", "model_name", "model_dir", "model_config", "engine_config", "binding"),
    ),
    ("engines", "InferenceEngine.all", ()),
    ("runners.inference_runner", "InferenceRunner.__call__", ("self", "x", "kwargs")),
    ("runners.inference_runner", "InferenceRunner.close", ("self",)),
    (
        "",
        "_select_engine_config_source",
        ("engine", "engine_config", "pp_option", "hpi_config", "genai_config"),
    ),
    ("bindings", "try_get_supported_engines", ("model_name",)),
)


def check_paddlex() -> None:
    """Raise EngineError where PaddleX is absent, of another series or different inside.

    So is a PaddleOCR of another series, where there is one.
    """
    try:
        version = metadata.version("paddlex")
        importlib.import_module("paddlex")
    except metadata.PackageNotFoundError:
        raise EngineError(f"PaddleX is not installed in {sys.prefix}; {_INSTALL}") from None
    except ImportError as error:
        raise EngineError(f"PaddleX {version} cannot be imported: {error}") from error
    _check_series("PaddleX", version)
    _check_paddleocr()
    moved = [what for entry in _FUNCTIONS if (what := _difference(*entry))]
    if moved:
        raise EngineError(
            f"PaddleX {version} differs from the PaddleX {SERIES} that this package stands on: "
            f"{'; '.join(moved)}. Please {_INSTALL}"
        )


def _check_paddleocr() -> None:
    """PaddleOCR is not needed, but its settings for PaddleX are part of what is stood on."""
    try:
        _check_series("PaddleOCR", metadata.version("paddleocr"))
    except metadata.PackageNotFoundError:
        return


def _check_series(what: str, version: str) -> None:
    if not f"{version}.".startswith(f"{SERIES}."):
        raise EngineError(
            f"{what} {version} is installed, and this package stands on {what} {SERIES}; {_INSTALL}"
        )


def _difference(module: str, name: str, parameters: tuple[str, ...]) -> str:
    """What has become of a function, in words; nothing where it is as expected."""
    place = f"paddlex.inference.models.{module}".rstrip(".")
    try:
        found = importlib.import_module(place)
        for part in name.split("."):
            found = getattr(found, part)
        now = tuple(inspect.signature(found).parameters)  # type: ignore[arg-type]
    except (ImportError, AttributeError):
        return f"{place} has no {name}"
    except (TypeError, ValueError):
        return f"{place}.{name} is no function"
    if now != parameters:
        return f"{place}.{name} takes ({', '.join(now)}), not ({', '.join(parameters)})"
    return ""
