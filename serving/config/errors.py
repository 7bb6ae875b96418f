"""Pydantic's errors as one ConfigError that a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from typing_extensions import is_typeddict

from serving.errors import ConfigError

_PROBLEMS = {
    "missing": "missing",
    "extra_forbidden": "unknown key",
    "less_than_equal": "must be at most {le}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "too_short": "must have {min_length} or more",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("dict_type", "model_type"), "must be a mapping of keys"),
}
"""By pydantic's type of an error; of the others its own message says it."""
_MAX_ERRORS = 10
_MAX_REPR = 200


def config_error(
    error: ValidationError,
    *,
    where: str,
    schema: type[BaseModel],
    hint: str = "",
    document: Any = None,
) -> ConfigError:
    """One message that names the file, the key and what is allowed, for each error.

    document: the raw one, whose inner `hpi_config` may be inherited: an error in the outer one is
    named once.
    """
    items = error.errors()
    if document is not None:
        items = [item for item in items if not _is_inherited(item["loc"], document)] or items
    messages = [_message(item, schema) for item in items[:_MAX_ERRORS]]
    if len(items) > _MAX_ERRORS:
        messages.append(f"and {len(items) - _MAX_ERRORS} more errors")
    return ConfigError("; ".join(f"{where}: {message}" for message in messages) + hint)


def problem(item: Mapping[str, Any]) -> str:
    """What is wrong, of an item of `ValidationError.errors()`, without the value itself."""
    if item["type"] in _PROBLEMS:
        bounds = {
            name: f"{bound:.9g}" if isinstance(bound, float) else bound
            for name, bound in item.get("ctx", {}).items()
        }
        return _PROBLEMS[item["type"]].format(**bounds)
    message: str = item["msg"]
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def _is_inherited(path: Sequence[str | int], document: Any) -> bool:
    """Whether a path leads through an `hpi_config` that is not in the document itself."""
    for index, part in enumerate(path):
        if not isinstance(document, Mapping) or part not in document:
            return "hpi_config" in path[: index + 1]
        document = document[part]
    return False


def _message(item: Mapping[str, Any], schema: type[BaseModel]) -> str:
    path = [str(part) for part in item["loc"]]
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        allowed = sorted(_keys(schema, path[:-1]))
        close = difflib.get_close_matches(path[-1], allowed, n=1)
        suggestion = f" (did you mean {close[0]}?)" if close else ""
        return f"{key}: unknown key{suggestion}; allowed here: {', '.join(allowed)}"
    if item["type"] == "missing":
        return f"{key}: missing"
    return f"{key}: {problem(item)}, not {shortened(item['input'])}"


def shortened(value: Any) -> str:
    """The value's repr for a message, which a large value does not fill."""
    text = "null" if value is None else repr(value)
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
    return {
        field.alias or name: field.annotation
        for name, field in schema.model_fields.items()
        if not field.exclude
    }


def _section_in(annotation: Any) -> Any:
    if is_typeddict(annotation) or hasattr(annotation, "model_fields"):
        return annotation
    found = map(_section_in, getattr(annotation, "__args__", ()))
    return next((section for section in found if section is not None), None)
