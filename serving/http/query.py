"""The query of a reading request, checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.datastructures import MultiDict

from serving.config.options import Options
from serving.errors import BadRequest

Format = Literal["lines", "pages", "text", "image", "paddlex"]

Query = TypeVar("Query", bound=BaseModel)

_SHOWN = 40


def _no_null(schema: dict[str, Any]) -> None:
    """A parameter that is not given is absent: a query has no null."""
    for name, field in schema["properties"].items():
        [kind] = [kind for kind in field.pop("anyOf", [field]) if kind != {"type": "null"}]
        schema["properties"][name] = {**field, **kind}
        schema["properties"][name].pop("title", None)
        if field.get("default", ...) is None:
            del schema["properties"][name]["default"]


class PipelinePath(BaseModel):
    """The end of `/ocr/v1/NAME`."""

    name: str


class OcrQuery(Options):
    """`POST /ocr/v1/NAME?...`: the form of the answer, and overrides for this request alone."""

    model_config = ConfigDict(json_schema_extra=_no_null)

    format: Format | None = None
    """The form of the answer; default: what Accept prefers, else lines."""
    text_det_max_side_limit: Annotated[int, Field(ge=1, le=4000)] | None = None
    """The long side never has more pixels than that. A caller cannot ask for more than 4000."""
    pdf_dpi: Annotated[int, Field(ge=36, le=1200)] = 144
    """Dots per inch at which pages of a PDF are drawn; boxes are in their pixels."""
    pictures: bool = False
    """With format=pages: each page's picture too, for viewers that cannot draw the document."""

    def options(self) -> Options:
        """The overrides alone."""
        return Options(**self.model_dump(include=set(Options.model_fields)))


def parse_query(args: MultiDict[str, str], model: type[Query]) -> Query:
    """Check a query string. Raises BadRequest, naming the parameter and what is allowed."""
    for name, values in args.lists():
        if len(values) > 1:
            raise BadRequest(f"{name} is given {len(values)} times; give it once")
    try:
        return model.model_validate(args.to_dict())
    except ValidationError as error:
        raise BadRequest("; ".join(_finding(item, model) for item in error.errors())) from None


def _finding(item: Any, model: type[BaseModel]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields)
        return f"unknown query parameter {name[:_SHOWN]!r}; known are: {known}"
    return f"{name}: {item['msg']}, not {str(item['input'])[:_SHOWN]!r}"
