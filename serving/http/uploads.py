"""From a request's body to the bytes of its images: multipart, raw or JSON."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection
from typing import Annotated, Any, TypeVar

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
)
from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from werkzeug.http import parse_options_header

from serving.config.errors import problem
from serving.download import Url
from serving.errors import BadRequest, TooLarge, UnsupportedMedia
from serving.http.body import Body


class FormBody(BaseModel):
    """`multipart/form-data`: files in either field, in the order in which they are sent."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})

    image: list[bytes] = Field(default_factory=list)
    file: list[bytes] = Field(default_factory=list)


Model = TypeVar("Model", bound=BaseModel)

_FIELDS = tuple(FormBody.model_fields)
_RAW = ("application/pdf", "application/octet-stream")
_IMAGES = tuple(f"image/{kind}" for kind in ("jpeg", "png", "webp", "bmp", "tiff", "gif"))
"""Documented; any other image/* is accepted too."""
_CURL_DEFAULT = "application/x-www-form-urlencoded"
_FILE_TYPES = ("image/", *_RAW)
"""A part of such a Content-Type is a file also without a file name."""
_PIECE = 128 * 1024
"""Bytes; the parser is fastest with what fits into the processor's cache."""
_MAX_MARKS = 100
"""Values, keys and brackets of a JSON body, beside four for each image: data: URLs have commas."""
_LONG_NUMBER = re.compile(rb"[:,\[]\s*-?\d{30}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WAYS = (
    'send it as curl -F "image=@page.jpg", as raw bytes with Content-Type image/jpeg (or another '
    'image type, or application/pdf), or as JSON {"image": "<base64>"}'
)


_JSON_HINT = f"; options go into the query string; {_WAYS}"


def read_uploads(content_type: str, body: Body, max_images: int) -> list[bytes | Url]:
    """The images or documents of a request, or where they are, in order; at least one.

    Raises BadRequest, UnsupportedMedia, TooLarge and what reading the body raises.
    """
    body.check()
    kind, options = parse_options_header(content_type)
    kind = kind.lower()
    documents: list[bytes | Url]
    if kind == "multipart/form-data":
        documents = [*read_form(body, options.get("boundary", ""), max_images)[0]]
    elif kind == "application/json":
        given = parse_json(body.read(), JsonBody, max_images=max_images, hint=_JSON_HINT)
        documents = given.images or [given.image]
    elif not kind or kind.startswith("image/") or kind in _RAW:
        documents = [body.read()]
    else:
        curl = ", which curl sends by default" if kind == _CURL_DEFAULT else ""
        raise UnsupportedMedia(f"unsupported Content-Type {kind[:60]}{curl}; {_WAYS}")
    if len(documents) > max_images:
        raise TooLarge(f"{len(documents)} images; a request may have {max_images} (--max-pages)")
    for index, document in enumerate(documents):
        if not document:
            several = f"image {index} of the request" if len(documents) > 1 else "the image"
            index_of = index if len(documents) > 1 else None
            raise BadRequest(f"{several} is empty; {_WAYS}", index=index_of)
    return documents


def read_form(
    body: Body, boundary: str, max_images: int, texts: Collection[str] = ()
) -> tuple[list[bytes], dict[str, str]]:
    """The files of a form, and its text fields, of which `texts` are allowed.

    What a file is called, and in which encoding, does not matter. Raises BadRequest, TooLarge and
    what reading the body raises.
    """
    if not boundary:
        raise BadRequest("multipart/form-data without a boundary in its Content-Type")
    parts: list[tuple[MultipartSegment, bytearray]] = []
    try:
        with PushMultipartParser(
            boundary.encode("latin-1"),
            header_charset="latin-1",
            max_segment_count=max_images + len(_FIELDS) + len(texts),
        ) as parser:
            while not parser.closed:
                for event in parser.parse(body.read(_PIECE)):
                    if isinstance(event, MultipartSegment):
                        _check_part(event, texts)
                        parts.append((event, bytearray()))
                    elif event is not None:
                        parts[-1][1].extend(event)
    except ParserLimitReached as error:
        raise TooLarge(
            f"the form has more than {max_images} files (--max-pages), or a part with too many "
            f"headers ({error})"
        ) from None
    except (MultipartError, UnicodeError) as error:
        raise BadRequest(f"the multipart body is malformed: {error}") from None
    files = [bytes(data) for part, data in parts if part.name in _FIELDS]
    if not files:
        raise BadRequest(f"no image in the form; {_WAYS}")
    found = [(part.name, data) for part, data in parts if part.name not in _FIELDS]
    if len(dict(found)) < len(found):
        raise BadRequest("a text field of the form is given twice; give it once")
    return files, {name: data.decode("utf-8", "replace") for name, data in found}


def _check_part(part: MultipartSegment, texts: Collection[str]) -> None:
    """Raise BadRequest for a part that is no file, or in another field."""
    named = any("filename" in value for name, value in part.headerlist if name != "Content-Type")
    is_file = named or (part.content_type or "").startswith(_FILE_TYPES)
    if part.name in _FIELDS:
        if not is_file:
            raise BadRequest(f"the field {part.name} is text, not a file; {_WAYS}")
    elif is_file:
        raise BadRequest(f"a file in field {part.name[:60]!r}; the field is image or file")
    elif part.name not in texts:
        known = ", ".join(("file", *texts))
        hint = f"known are {known}" if texts else "options go into the query string"
        raise BadRequest(f"unknown form field {part.name[:60]!r}; {hint}")


def _decoded(value: Any) -> bytes | Url:
    """Base64, white space and the head of a data: URL ignored; or another URL."""
    if not isinstance(value, str):
        raise ValueError("must be a string of base64")
    if value.startswith("data:"):
        head, _, value = value.partition(",")
        if not head.endswith(";base64"):
            raise ValueError("a data: URL must be base64")
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
    images: Annotated[list[Base64OrUrl], Field(min_length=1), FailFast()] = Field(
        default_factory=list
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> JsonBody:
        if len(self.model_fields_set) != 1:
            raise ValueError('give either "image" or "images"')
        return self


BODIES = {
    "multipart/form-data": FormBody,
    **dict.fromkeys((*_IMAGES, *_RAW), bytes),
    "application/json": JsonBody,
}
"""What a request may bring, by media type."""


def first_finding(error: ValidationError) -> str:
    """What is wrong first, and where. Never the input itself, which is the caller's document."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "JSON"
    return f"{where}: {problem(first)}"


def parse_json(
    data: bytes, model: type[Model], *, max_images: int = 1, strict: bool = False, hint: str = ""
) -> Model:
    """Check a body of JSON. Raises BadRequest.

    JSON that would cost much more to parse than it has bytes is refused before it is parsed: a
    caller's array of a million numbers becomes a million objects, or errors.
    """
    marks = sum(map(data.count, (b",", b"[", b"{")))
    if marks > 4 * max_images + _MAX_MARKS or _LONG_NUMBER.search(data):
        raise BadRequest(
            f"the JSON has more values than a request of {max_images} images (--max-pages), or a "
            f"number of 30 digits; {_WAYS}"
        )
    try:
        return model.model_validate_json(data, strict=strict)
    except ValidationError as error:
        where = error.errors(include_input=False, include_url=False)[0]["loc"]
        index = next((part for part in where if isinstance(part, int)), None)
        raise BadRequest(first_finding(error) + hint, index=index) from None
