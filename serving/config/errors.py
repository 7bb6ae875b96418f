"""Pydantic's errors as one ConfigError that a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from typing_extensions import is_typeddict

from serving.errors import ConfigError

_MAX_ERRORS = 10
_MAX_REPR = 200


def config_error(
    error: ValidationError, *, where: str, schema: type[BaseModel], hint: str = ""
) -> ConfigError:
    """One message that names the file, the key and what is allowed, for each error."""
    items = error.errors()
    messages = [_message(item, schema) for item in items[:_MAX_ERRORS]]
    if len(items) > _MAX_ERRORS:
        messages.append(f"and {len(items) - _MAX_ERRORS} more errors")
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
    return f"{key}: {message}, not {shortened(item['input'])}"


def shortened(value: Any) -> str:
    """The value's repr for a message, which a large value does not fill."""
    text = repr(value)
    return text if len(text) <= _MAX_REPR else f"{text[:_MAX_REPR]}..."


def _keys(schema: Any, path: list[str]) -> set[str]:
    """Keys of the section at `path`."""
    for part in path:
        nested = _section_in(_fields(schema).get(part))
        if nested is None:
            break
        schema = nested
    return set(_fields(schema))


def _fields(schema: Any) -> dict[str, Any]:
    """The keys of a pydantic model or a TypedDict, and their annotations."""
    if is_typeddict(schema):
        return dict(schema.__annotations__)
    return {field.alias or name: field.annotation for name, field in schema.model_fields.items()}


def _section_in(annotation: Any) -> Any:
    if is_typeddict(annotation) or hasattr(annotation, "model_fields"):
        return annotation
    found = map(_section_in, getattr(annotation, "__args__", ()))
    return next((section for section in found if section is not None), None)
