"""The query of a reading request, checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from werkzeug.datastructures import MultiDict

from serving.config.options import Options
from serving.errors import BadRequest

Format = Literal["lines", "pages", "text", "image", "paddlex"]

_SHOWN = 40


class OcrQuery(Options):
    """`POST /ocr/v1/NAME?...`: the form of the answer, and overrides for this request alone."""

    format: Format | None = None
    pdf_dpi: Annotated[int, Field(ge=36, le=1200)] = 144
    pictures: bool = False
    """With format=pages: each page's picture too, for viewers that cannot draw the document."""

    def options(self) -> Options:
        """The overrides alone."""
        return Options(**self.model_dump(include=set(Options.model_fields)))


def parse_query(args: MultiDict[str, str]) -> OcrQuery:
    """Check a query string. Raises BadRequest, naming the parameter and what is allowed."""
    for name, values in args.lists():
        if len(values) > 1:
            raise BadRequest(f"{name} is given {len(values)} times; give it once")
    try:
        return OcrQuery.model_validate(args.to_dict())
    except ValidationError as error:
        raise BadRequest("; ".join(_finding(item) for item in error.errors())) from None


def _finding(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = ", ".join(OcrQuery.model_fields)
        return f"unknown query parameter {name[:_SHOWN]!r}; known are: {known}"
    return f"{name}: {item['msg']}, not {str(item['input'])[:_SHOWN]!r}"
