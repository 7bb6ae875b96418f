"""Pydantic's errors as one ConfigError that a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from serving.errors import ConfigError


def config_error(
    error: ValidationError, *, where: str, schema: type[BaseModel], hint: str = ""
) -> ConfigError:
    """One message that names the file, the key and what is allowed, for each error."""
    messages = [_message(item, schema) for item in error.errors()]
    return ConfigError("; ".join(f"{where}: {message}" for message in messages) + hint)


def _message(item: Mapping[str, Any], schema: type[BaseModel]) -> str:
    path = [str(part) for part in item["loc"]]
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        allowed = sorted(_keys(schema, path[:-1]))
        close = difflib.get_close_matches(path[-1], allowed, n=1)
        suggestion = f" (did you mean {close[0]}?)" if close else ""
        return f"{key}: unknown key{suggestion}; allowed here: {', '.join(allowed)}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{key}: missing"
    return f"{key}: {message}, not {item['input']!r}"


def _keys(schema: type[BaseModel], path: list[str]) -> set[str]:
    """Keys of the section at `path`."""
    for part in path:
        for name, field in schema.model_fields.items():
            if part in (name, field.alias):
                nested = _model_in(field.annotation)
                if nested is not None:
                    schema = nested
                break
    return {field.alias or name for name, field in schema.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(
        (model for arg in getattr(annotation, "__args__", ()) if (model := _model_in(arg))), None
    )
