"""Routes that describe themselves: what checks a request also describes it in /openapi.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, TypeVar

from flask import Flask, request
from flask_openapi3 import APIBlueprint, Tag
from flask_openapi3.models import Schema
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.json_schema import JsonSchemaMode
from werkzeug.datastructures import MultiDict

from serving.config.errors import problem
from serving.errors import BadRequest
from serving.http.errors import ErrorAnswer, code_of
from serving.http.keys import is_open

_SHOWN = 40
"""Characters of a value in an error."""
_MAX_FINDINGS = 3
"""Of a query, in an error: it has room for 2000 parameters, and a finding may list all names."""
Query = TypeVar("Query", bound=BaseModel)
_REFERENCE = "#/components/schemas/{model}"

_HEADERS = {
    "X-Request-Id": {
        "description": "the caller's, if it sent one; every line of the log has it",
        "schema": {"type": "string"},
    },
    "Server-Timing": {
        "description": "milliseconds by stage",
        "schema": {"type": "string"},
    },
}
_RETRY = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}


READING_ERRORS = (400, 401, 413, 415, 422, 429, 503, 504)
"""Statuses of a request that has a body to read."""


class Routes(APIBlueprint):
    """Some addresses and their description.

    A route function's `path: Model` and `query: Model` are checked with these models before it
    is called, and are described from them.
    """

    def __init__(self, name: str, import_name: str, *, tag: str, **options: Any) -> None:
        super().__init__(
            name,
            import_name,
            abp_tags=[Tag(name=tag)],
            operation_id_callback=lambda *, name, **_: name,
            **options,
        )

    def content(self, types: Mapping[str, Any], mode: JsonSchemaMode) -> dict[str, Any]:
        """Media types, each with the schema of what its type reads or writes.

        types: media type to a type that pydantic knows; `bytes` is a file.
        """
        return {media: {"schema": self._schema(kind, mode)} for media, kind in types.items()}

    def body(self, types: Mapping[str, Any]) -> dict[str, Any]:
        """A request's body by media type, for `openapi_extensions`."""
        content = self.content(types, "validation")
        return {"requestBody": {"required": True, "content": content}}

    def answers(
        self, types: Mapping[str, Any], *errors: int, error: Any = ErrorAnswer
    ) -> dict[str | int | HTTPStatus, Any]:
        """What a route answers: `types` by media type when all went well, and errors by status."""
        described: dict[str | int | HTTPStatus, Any] = {
            200: {
                "description": "OK",
                "headers": _HEADERS,
                "content": self.content(types, "serialization"),
            }
        }
        for status in (*errors, 500):
            described[status] = {
                "description": code_of(status),
                "headers": _HEADERS | (_RETRY if status == 429 else {}),
                "content": self.content({"application/json": error}, "serialization"),
            }
        return described

    @staticmethod
    def create_view_func(  # the library passes these by position
        func: Callable[..., Any],
        header: Any,
        cookie: Any,
        path: type[BaseModel] | None,
        query: type[BaseModel] | None,
        *others: Any,
        **options: Any,
    ) -> Callable[..., Any]:
        """The function that Flask calls.

        The library's own makes each model's JSON schema anew at every request, takes the first of
        doubled parameters, and has another form of error.
        """

        def view(**found: str) -> Any:
            checked: dict[str, Any] = {}
            if path is not None:
                checked["path"] = path.model_validate(found)
            if query is not None:
                checked["query"] = parse_query(request.args, query)
            return func(**checked)

        view.__name__, view.__doc__ = func.__name__, func.__doc__
        return view

    def _schema(self, kind: Any, mode: JsonSchemaMode) -> dict[str, Any]:
        schema, components = _schemas(kind, mode)
        self.components_schemas |= components
        return schema


@cache  # the form of an error stands at every route many times
def _schemas(kind: Any, mode: JsonSchemaMode) -> tuple[dict[str, Any], dict[str, Schema]]:
    """Of one type, and of those that it refers to, by name."""
    if kind is bytes:
        return {"type": "string", "format": "binary"}, {}
    found, definitions = TypeAdapter.json_schemas(
        [("it", mode, TypeAdapter(kind))], ref_template=_REFERENCE
    )
    components = definitions.get("$defs", {})
    return found["it", mode], {name: Schema(**schema) for name, schema in components.items()}


def document(app: Flask) -> dict[str, Any]:
    """All that is served, as OpenAPI 3.1."""
    api: dict[str, Any] = app.api_doc  # type: ignore[attr-defined]
    api["servers"] = [{"url": "."}]  # relative to this document, also behind a path prefix
    names = {"type": "string", "enum": list(app.extensions["ocr"].registry.names)}
    has_keys = app.extensions["ocr.keys"] is not None
    if has_keys:
        api["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
    for path, operations in api["paths"].items():
        for operation in operations.values():
            if has_keys and not is_open(path):
                operation["security"] = [{"bearer": []}, {"header": []}]
            for item in operation.get("parameters", ()):
                if (item["in"], item["name"]) == ("path", "name"):
                    item["schema"] = names
    return api


def parse_query(args: MultiDict[str, str], model: type[Query]) -> Query:
    """Check a query string. Raises BadRequest, naming the parameter and what is allowed."""
    for name, values in args.lists():
        if len(values) > 1:
            raise BadRequest(f"{name} is given {len(values)} times; give it once")
    try:
        return model.model_validate(args.to_dict())
    except ValidationError as error:
        found = error.errors()
        said = [_finding(item, model) for item in found[:_MAX_FINDINGS]]
        if len(found) > _MAX_FINDINGS:
            said.append(f"and {len(found) - _MAX_FINDINGS} more errors")
        raise BadRequest("; ".join(said)) from None


def _finding(item: Any, model: type[BaseModel]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields)
        return f"unknown query parameter {name[:_SHOWN]!r}; known are: {known}"
    return f"{name}: {problem(item)}, not {str(item['input'])[:_SHOWN]!r}"
