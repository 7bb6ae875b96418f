"""Checks that the installed PaddleX is the one that this integration was written for."""

from __future__ import annotations

import importlib
import inspect
import sys
from contextlib import suppress
from importlib import metadata

from serving.errors import EngineError

SERIES = "3.7"
"""The supported series of PaddleX and PaddleOCR, whose internals are used here."""

_INSTALL = (
    "install it in a separate environment (its OpenCV conflicts with ours): "
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
    (
        "",
        "_resolve_local_model_dir",
        ("inference_engine", "model_name", "model_dir", "model_dir_resolved"),
    ),
    ("bindings", "try_get_supported_engines", ("model_name",)),
)


def check_installed() -> str:
    """The version of PaddleX, which is not imported.

    Raises EngineError where it is absent, or it or a PaddleOCR beside it is of another series.
    """
    versions = {}
    for name in ("PaddleX", "PaddleOCR"):  # the settings that PaddleOCR gives PaddleX are relied on
        with suppress(metadata.PackageNotFoundError):
            versions[name] = version = metadata.version(name)
            if not f"{version}.".startswith(f"{SERIES}."):
                raise EngineError(
                    f"{name} {version} is installed, and {name} {SERIES} is supported; {_INSTALL}"
                )
    if "PaddleX" not in versions:
        raise EngineError(f"PaddleX is not installed in {sys.prefix}; {_INSTALL}")
    return versions["PaddleX"]


def check_paddlex() -> None:
    """Raise EngineError as `check_installed` does, and where PaddleX differs internally."""
    version = check_installed()
    try:
        importlib.import_module("paddlex")
    except ImportError as error:
        raise EngineError(f"PaddleX {version} cannot be imported: {error}") from error
    changed = [difference for entry in _FUNCTIONS if (difference := _difference(*entry))]
    if changed:
        raise EngineError(
            f"PaddleX {version} differs from the supported PaddleX {SERIES}: "
            f"{'; '.join(changed)}. Please {_INSTALL}"
        )


def _difference(module: str, name: str, parameters: tuple[str, ...]) -> str:
    """How a function differs from the expected one; empty where it does not."""
    path = f"paddlex.inference.models.{module}".rstrip(".")
    try:
        found = importlib.import_module(path)
        for part in name.split("."):
            found = getattr(found, part)
        now = tuple(inspect.signature(found).parameters)  # type: ignore[arg-type]
    except (ImportError, AttributeError):
        return f"{path} has no {name}"
    except (TypeError, ValueError):
        return f"{path}.{name} is no function"
    if now != parameters:
        return f"{path}.{name} takes ({', '.join(now)}), not ({', '.join(parameters)})"
    return ""
