"""From a request's body to the bytes of its images: multipart, raw or JSON."""

from __future__ import annotations

import base64
import binascii
import io
import re
from typing import Annotated, Any, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import MultiPartParser
from werkzeug.http import parse_options_header

from serving.download import Url
from serving.errors import BadRequest, TooLarge, UnsupportedMedia
from serving.http.body import Body

_Form = tuple[list[tuple[str | None, str]], list[tuple[str | None, FileStorage]]]


class FormBody(BaseModel):
    """`multipart/form-data`: files in either field, in the order in which they are sent."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})

    image: list[bytes] = Field(default_factory=list)
    file: list[bytes] = Field(default_factory=list)


_FIELDS = tuple(FormBody.model_fields)
_RAW = ("application/pdf", "application/octet-stream")
_IMAGES = tuple(f"image/{kind}" for kind in ("jpeg", "png", "webp", "bmp", "tiff", "gif"))
"""Shown to people; any other image/* is taken as well."""
_CURLS_OWN = "application/x-www-form-urlencoded"
_PIECE = 128 * 1024  # the parser is quickest with what the processor's cache holds
_MAX_TEXT = 512 * 1024  # well above a piece of the body, which the parser counts as text too
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WAYS = (
    'send it as curl -F "image=@page.jpg", as raw bytes with Content-Type image/jpeg (or another '
    'image type, or application/pdf), or as JSON {"image": "<base64>"}'
)


def read_uploads(content_type: str, body: Body, max_images: int) -> list[bytes | Url]:
    """The images or documents of a request, or where they are, in order; at least one.

    Raises BadRequest, UnsupportedMedia, TooLarge and what reading the body raises.
    """
    body.check()
    kind, options = parse_options_header(content_type)
    kind = kind.lower()
    documents: list[bytes | Url]
    if kind == "multipart/form-data":
        documents = [*_multipart(body, options.get("boundary", ""), max_images)]
    elif kind == "application/json":
        documents = _json(body.read())
    elif not kind or kind.startswith("image/") or kind in _RAW:
        documents = [body.read()]
    else:
        curl = ", though curl says it unless told" if kind == _CURLS_OWN else ""
        raise UnsupportedMedia(f"Content-Type {kind[:60]} is not read here{curl}; {_WAYS}")
    if len(documents) > max_images:
        raise TooLarge(f"{len(documents)} images; a request may have {max_images} (--max-pages)")
    for index, document in enumerate(documents):
        if not document:
            several = f"image {index} of the request is empty" if index else "no image"
            raise BadRequest(f"{several}; {_WAYS}", index=index if len(documents) > 1 else None)
    return documents


def _multipart(body: Body, boundary: str, max_images: int) -> list[bytes]:
    if not boundary:
        raise BadRequest("multipart/form-data without a boundary in its Content-Type")
    parser = MultiPartParser(
        stream_factory=_in_memory,
        max_form_memory_size=_MAX_TEXT,
        buffer_size=_PIECE,
        max_form_parts=max_images + len(_FIELDS),
        cls=cast(Any, list),  # keeps the parts in their order
    )
    try:
        parsed = parser.parse(cast(Any, body), boundary.encode("latin-1"), None)
    except RequestEntityTooLarge:
        raise TooLarge(
            f"the form has more than {max_images} files (--max-pages) or too long a text field"
        ) from None
    except (ValueError, UnicodeError) as error:
        raise BadRequest(f"the multipart body is malformed: {error}") from None
    fields, files = cast(_Form, parsed)
    for name, _ in fields:
        if name in _FIELDS:
            raise BadRequest(f"the field {name} is text, not a file; {_WAYS}")
        raise BadRequest(f"unknown form field {name or ''!r:.60}; options go into the query string")
    for name, _ in files:
        if name not in _FIELDS:
            raise BadRequest(f"a file in the field {name or ''!r:.60}; the field is image or file")
    if not files:
        raise BadRequest(f"no image in the form; {_WAYS}")
    return [cast(io.BytesIO, part.stream).getvalue() for _, part in files]


def _in_memory(
    total_content_length: int | None,
    content_type: str | None,
    filename: str | None,
    content_length: int | None = None,
) -> io.BytesIO:
    """Where a file of a form is kept. The body is bounded, so nothing goes to a disk."""
    return io.BytesIO()


def _decoded(value: Any) -> bytes | Url:
    """Standard base64; white space and a data: URL's head are passed over. Or another URL."""
    if not isinstance(value, str):
        raise ValueError("a string of base64 is wanted")
    if value.startswith("data:"):
        head, _, value = value.partition(",")
        if not head.endswith(";base64"):
            raise ValueError("a data: URL has to be base64")
    elif _URL.match(value):
        return Url(value)
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not valid base64") from None


_Base64Text = Annotated[str, Field(json_schema_extra={"format": "byte"})]
Base64OrUrl = Annotated[bytes | Url, PlainValidator(_decoded, json_schema_input_type=_Base64Text)]


class JsonBody(BaseModel):
    """`{"image": "<base64>"}` or `{"images": ["<base64>", ...]}`, or URLs in their place."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"minProperties": 1, "maxProperties": 1},
    )

    image: Base64OrUrl = Field(default_factory=bytes)
    images: Annotated[list[Base64OrUrl], Field(min_length=1)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_of_both(self) -> JsonBody:
        if len(self.model_fields_set) != 1:
            raise ValueError('give either "image" or "images"')
        return self

    def documents(self) -> list[bytes | Url]:
        """What was sent, in order."""
        return self.images or [self.image]


BODIES = {
    "multipart/form-data": FormBody,
    **dict.fromkeys((*_IMAGES, *_RAW), bytes),
    "application/json": JsonBody,
}
"""What a request may bring, by media type."""


def first_finding(error: ValidationError) -> str:
    """What is wrong first, and where. Never the input itself: a picture, or the caller's text."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "JSON"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"


def _json(data: bytes) -> list[bytes | Url]:
    try:
        return JsonBody.model_validate_json(data).documents()
    except ValidationError as error:
        where = error.errors(include_input=False, include_url=False)[0]["loc"]
        index = next((part for part in where if isinstance(part, int)), None)
        raise BadRequest(f"{first_finding(error)}; {_WAYS}", index=index) from None
