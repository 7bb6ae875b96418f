"""KServe's Open Inference Protocol, version 2, under /v2: a pipeline is a model of tensors.

The protocol: github.com/kserve/open-inference-protocol. Binary tensors are Triton's extension of it
(`extension_binary_data.md` of its server's documentation). The tensors are those with which
docling's `KserveV2OcrModel` calls a server.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any, Literal, NotRequired

import numpy as np
from flask import Response, current_app, request
from PIL import Image as PillowImage
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt
from typing_extensions import TypedDict

from serving.config.options import first_set
from serving.errors import BadRequest
from serving.http.body import Body
from serving.http.context import add_timing, json_response
from serving.http.openapi import READING_ERRORS, Routes
from serving.http.routes.ocr import CallerOptions, PipelinePath
from serving.http.service import ReadRequest, Service
from serving.http.uploads import parse_json
from serving.output.pages import described, read_pages, total_timing
from serving.types import Line

blueprint = Routes("kserve", __name__, tag="KServe", url_prefix="/v2")

_LENGTH = "Inference-Header-Content-Length"
"""Of the JSON at the start of a body; behind it are the binary tensors, without gaps."""
_NUMBERS = re.compile(rb'"data"\s*:\s*(\[[\s\d+\-.eE,\[\]]*\])')
_WAYS = "send image as UINT8 [1, height, width, 3], RGB"

Output = Literal["boxes", "txts", "scores"]


class InputParameters(BaseModel):
    """Of one tensor that is sent."""

    binary_data_size: NonNegativeInt | None = None
    """So many bytes behind the JSON are its data."""


class InputTensor(BaseModel):
    """One tensor that is sent."""

    model_config = ConfigDict(extra="forbid")

    name: Literal["image", "lang_type"]
    """lang_type is not needed: a pipeline reads the languages of its model, whatever it says."""
    datatype: Literal["UINT8", "BYTES"]
    shape: Annotated[list[NonNegativeInt], Field(min_length=1, max_length=4)]
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None
    """Row by row, flat or nested."""


class OutputParameters(BaseModel):
    """Of one tensor that is asked for."""

    binary_data: bool | None = None
    """Behind the JSON, not in it."""


class RequestedOutput(BaseModel):
    """One tensor that is asked for."""

    model_config = ConfigDict(extra="forbid")

    name: Output
    parameters: OutputParameters = OutputParameters()


class RequestParameters(CallerOptions):
    """Overrides for this request alone, in the names of `POST /ocr/v1/NAME`."""

    binary_data_output: bool = False
    """What `binary_data` is where a tensor does not say."""


class TensorRequest(BaseModel):
    """The JSON of a request."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = None
    """Comes back with the answer."""
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=2)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=3)] | None = None
    """All three, if it does not say."""


@described
class TensorSpec(TypedDict):
    """One tensor of a model."""

    name: str
    datatype: str
    shape: list[int]
    """-1 is any size."""


class AnsweredTensor(TensorSpec):
    """One tensor of an answer."""

    data: NotRequired[list[float] | list[str]]
    parameters: NotRequired[dict[str, int]]
    """`binary_data_size`, of a tensor behind the JSON."""


@described
class TensorAnswer(TypedDict):
    """The JSON of an answer."""

    model_name: str
    id: NotRequired[str]
    outputs: list[AnsweredTensor]


@described
class ServerMetadata(TypedDict):
    """Of GET /v2."""

    name: str
    version: str
    extensions: list[str]


@described
class ModelMetadata(TypedDict):
    """Of GET /v2/models/NAME."""

    name: str
    platform: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]


@described
class Live(TypedDict):
    """Of GET /v2/health/live."""

    live: bool


@described
class Ready(TypedDict):
    """Of GET /v2/health/ready and of a model's."""

    ready: bool
    name: NotRequired[str]


@described
class TensorError(TypedDict):
    """The protocol's form of an error."""

    error: str


INPUTS = [
    TensorSpec(name="image", datatype="UINT8", shape=[1, -1, -1, 3]),
    TensorSpec(name="lang_type", datatype="BYTES", shape=[1, 1]),
]
OUTPUTS = [
    TensorSpec(name="boxes", datatype="FP32", shape=[-1, 4, 2]),
    TensorSpec(name="txts", datatype="BYTES", shape=[-1]),
    TensorSpec(name="scores", datatype="FP32", shape=[-1]),
]


def _answers(kind: Any, *errors: int, **more: Any) -> Any:
    types = {"application/json": kind, **more}
    return blueprint.answers(types, *errors, error=TensorError)


_BINARY: dict[str, Any] = {"application/octet-stream": bytes}


@blueprint.get("", responses=_answers(ServerMetadata, 401))
def server() -> Response:
    """The server, as KServe's clients ask for it."""
    name = "paddleocr-hpi-serving"
    return json_response(
        ServerMetadata(name=name, version=version(name), extensions=["binary_tensor_data"])
    )


@blueprint.get("/health/live", responses=_answers(Live))
def tensor_live() -> Response:
    """As /health/live."""
    return json_response(Live(live=True))


@blueprint.get("/health/ready", responses=_answers(Ready, 503))
def tensor_ready() -> Response:
    """As /health/ready."""
    service: Service = current_app.extensions["ocr"]
    service.registry.check_ready()
    return json_response(Ready(ready=True))


@blueprint.get("/models/<name>", responses=_answers(ModelMetadata, 401, 404, 503))
def model(path: PipelinePath) -> Response:
    """A pipeline's tensors."""
    service: Service = current_app.extensions["ocr"]
    service.registry.get(path.name)
    platform = "paddleocr-hpi-serving"
    return json_response(
        ModelMetadata(name=path.name, platform=platform, inputs=INPUTS, outputs=OUTPUTS)
    )


@blueprint.get("/models/<name>/ready", responses=_answers(Ready, 401, 404, 503))
def model_ready(path: PipelinePath) -> Response:
    """Whether a pipeline is loaded."""
    service: Service = current_app.extensions["ocr"]
    service.registry.get(path.name)
    return json_response(Ready(name=path.name, ready=True))


@blueprint.post(
    "/models/<name>/infer",
    openapi_extensions=blueprint.body({"application/json": TensorRequest, **_BINARY}),
    responses=_answers(TensorAnswer, 404, *READING_ERRORS, **_BINARY),
)
def tensor_infer(path: PipelinePath) -> Response:
    """Read the text of an image that is sent as a tensor."""
    service: Service = current_app.extensions["ocr"]
    pipeline = service.registry.get(path.name)
    body = Body.of(request.environ)
    service.admit(body)
    wanted, image = _parse(body.read(), request.headers.get(_LENGTH))
    options = wanted.parameters.options()
    [page] = read_pages(
        service.read(ReadRequest(path.name, pipeline, [image], options, request.environ))
    )
    add_timing(total_timing([page]))
    return _answer(path.name, wanted, page.page.lines)


def _parse(body: bytes, length: str | None) -> tuple[TensorRequest, bytes]:
    """The request, and its image as a file. Raises BadRequest.

    No size that the caller names is believed: each is compared with the bytes that are there.
    """
    head, behind = body, memoryview(b"")
    if length is not None:
        size = int(length) if re.fullmatch(r"\d{1,15}", length) else 0
        if not 0 < size <= len(body):
            raise BadRequest(f"{_LENGTH} is {length[:40]!r}, and the body has {len(body)} bytes")
        head, behind = body[:size], memoryview(body)[size:]
    numbers: list[bytes] = []

    def cut(found: re.Match[bytes]) -> bytes:
        numbers.append(found[1])
        return b'"data":[]'

    head = _NUMBERS.sub(cut, head)  # the rest is small
    wanted = parse_json(head, TensorRequest, strict=True, hint=f"; {_WAYS}")
    found: dict[str, memoryview | None] = {}
    for tensor in wanted.inputs:
        if tensor.name in found:
            raise BadRequest(f"{tensor.name} is sent twice")
        found[tensor.name] = None
        count = tensor.parameters.binary_data_size
        if count is not None:
            if count > len(behind):
                raise BadRequest(
                    f"{tensor.name}: its binary_data_size is {count} bytes, and {len(behind)} are "
                    "left behind the JSON"
                )
            found[tensor.name], behind = behind[:count], behind[count:]
    if behind:
        raise BadRequest(f"{len(behind)} bytes behind the JSON belong to no tensor")
    image = next((tensor for tensor in wanted.inputs if tensor.name == "image"), None)
    if image is None:
        raise BadRequest(f"there is no tensor image; {_WAYS}")
    return wanted, _bitmap(image, found["image"], numbers)


def _bitmap(image: InputTensor, pixels: memoryview | None, numbers: Sequence[bytes]) -> bytes:
    """The tensor as an uncompressed image file, to be read like any other. Raises BadRequest."""
    shape = image.shape
    if image.datatype != "UINT8" or len(shape) != 4 or 0 in shape or (shape[0], shape[3]) != (1, 3):
        raise BadRequest(f"image is {image.datatype} {shape}; {_WAYS}, one image a request")
    _, height, width, _ = shape
    count = height * width * 3
    if pixels is not None:
        there = len(pixels)
    elif image.data == [] and len(numbers) == 1:
        there = numbers[0].count(b",") + 1
    else:
        raise BadRequest(f"image has no data, or not of numbers alone; {_WAYS}")
    if there != count:
        raise BadRequest(f"image: its shape {shape} has {count} values, and {there} were sent")
    file = io.BytesIO()
    values = np.frombuffer(_values(numbers[0]) if pixels is None else pixels, np.uint8)
    PillowImage.fromarray(values.reshape(height, width, 3)).save(file, "BMP")
    return file.getvalue()


def _values(numbers: bytes) -> bytes:
    """From a JSON array, flat or nested. Raises BadRequest."""
    try:
        return bytes(json.loads(b"[" + numbers.translate(None, b"[]") + b"]"))
    except (ValueError, TypeError):
        raise BadRequest("image: its data must be whole numbers from 0 to 255") from None


def _answer(name: str, wanted: TensorRequest, lines: Sequence[Line]) -> Response:
    values: dict[str, list[Any]] = {
        "boxes": [float(side) for line in lines for corner in line.box for side in corner],
        "txts": [line.text for line in lines],
        "scores": [round(float(line.score), 4) for line in lines],
    }
    asked = wanted.outputs or [RequestedOutput(name=name) for name in ("boxes", "txts", "scores")]
    default = wanted.parameters.binary_data_output
    binary = {out.name: first_set(out.parameters.binary_data, default) for out in asked}
    outputs, behind = [], []
    for spec in OUTPUTS:
        if spec["name"] not in binary:
            continue
        data = values[spec["name"]]
        tensor = AnsweredTensor(
            name=spec["name"], datatype=spec["datatype"], shape=[len(lines), *spec["shape"][1:]]
        )
        if binary[spec["name"]]:
            is_text = spec["datatype"] == "BYTES"
            behind.append(_packed(data) if is_text else np.array(data, "<f4").tobytes())
            tensor["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            tensor["data"] = data
        outputs.append(tensor)
    answer = TensorAnswer(model_name=name, outputs=outputs)
    if wanted.id is not None:
        answer["id"] = wanted.id
    response = json_response(answer)
    if behind:
        head = response.get_data()
        response = Response(b"".join([head, *behind]), mimetype="application/octet-stream")
        response.headers[_LENGTH] = str(len(head))
    return response


def _packed(texts: Sequence[str]) -> bytes:
    """Each in UTF-8 behind its length, 4 bytes, little-endian."""
    coded = [text.encode("utf-8", "replace") for text in texts]
    return b"".join(len(text).to_bytes(4, "little") + text for text in coded)
