"""PaddleX's basic serving: its request, its answer, its error form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import TypedDict

from serving.config.options import Options
from serving.errors import BadRequest
from serving.http.context import described
from serving.http.errors import ErrorAnswer
from serving.http.service import Reading
from serving.http.uploads import Base64OrUrl, first_finding
from serving.imaging.draw import draw
from serving.imaging.formats import sniff
from serving.output.image import jpeg_base64
from serving.output.paddlex import paddlex_result
from serving.types import Image, Line


class InferRequest(BaseModel):
    """The body of `POST /ocr`, in PaddleX's names; what is not given is as the YAML says."""

    model_config = ConfigDict(frozen=True)  # unknown fields are passed over, as PaddleX does

    file: Base64OrUrl
    fileType: Literal[0, 1] | None = None
    """0: PDF, 1: image. Not needed: the bytes tell."""
    useDocOrientationClassify: bool | None = None
    useDocUnwarping: bool | None = None
    useTextlineOrientation: bool | None = None
    textDetLimitSideLen: int | None = None
    textDetLimitType: str | None = None
    textDetThresh: float | None = None
    textDetBoxThresh: float | None = None
    textDetUnclipRatio: float | None = None
    textRecScoreThresh: float | None = None
    returnWordBox: bool | None = None
    visualize: bool | None = None
    logId: str | None = None

    def options(self) -> Options:
        """The overrides. Raises BadRequest."""
        for name in ("useDocOrientationClassify", "useDocUnwarping"):
            if getattr(self, name):
                raise BadRequest(f"{name}: the document preprocessor is not served here")
        try:
            return Options(
                use_textline_orientation=self.useTextlineOrientation,
                text_det_limit_side_len=self.textDetLimitSideLen,
                text_det_limit_type=self.textDetLimitType,
                text_det_thresh=self.textDetThresh,
                text_det_box_thresh=self.textDetBoxThresh,
                text_det_unclip_ratio=self.textDetUnclipRatio,
                text_rec_score_thresh=self.textRecScoreThresh,
                return_word_box=self.returnWordBox,
            )
        except ValidationError as error:
            raise BadRequest(first_finding(error)) from None


@described
class OcrResult(TypedDict):
    """One page."""

    prunedResult: dict[str, Any]
    """What PaddleX's result has: dt_polys, rec_texts, rec_scores, rec_boxes, ..."""
    ocrImage: NotRequired[str]
    """The page with its boxes drawn, JPEG in base64."""
    inputImage: NotRequired[str]


@described
class InferResult(TypedDict):
    """All pages of a document."""

    ocrResults: list[OcrResult]
    dataInfo: dict[str, Any]


@described
class InferAnswer(TypedDict):
    """What PaddleX's serving returns."""

    logId: str
    result: InferResult
    errorCode: Literal[0]
    errorMsg: str


@described
class InferError(ErrorAnswer):
    """An error in both forms."""

    logId: str
    errorCode: int
    errorMsg: str


@described
class HealthAnswer(TypedDict):
    """PaddleX's own health check."""

    logId: str
    errorCode: Literal[0]
    errorMsg: str


def parse_infer(body: bytes) -> InferRequest:
    """Check the body of `POST /ocr`. Raises BadRequest."""
    try:
        return InferRequest.model_validate_json(body)
    except ValidationError as error:
        raise BadRequest(first_finding(error)) from None


@dataclass(frozen=True, slots=True)
class Pictures:
    """Of one page, as base64 of JPEG."""

    drawn: str
    page: str


def pictures(image: Image, lines: Sequence[Line]) -> Pictures:
    """What PaddleX shows of a page: with its boxes, and as it came."""
    return Pictures(drawn=jpeg_base64(draw(image, lines)), page=jpeg_base64(image))


def answer(
    document: bytes, readings: Sequence[Reading], settings: Mapping[str, Any], log_id: str
) -> InferAnswer:
    """The body that PaddleX's serving returns for one document."""
    results = []
    for reading in readings:
        pruned = paddlex_result(reading.page, settings, None, None)
        del pruned["input_path"], pruned["page_index"]
        result: OcrResult = {"prunedResult": pruned}
        if isinstance(reading.picture, Pictures):
            result |= {"ocrImage": reading.picture.drawn, "inputImage": reading.picture.page}
        results.append(result)
    return {
        "logId": log_id,
        "result": {"ocrResults": results, "dataInfo": _info(document, readings)},
        "errorCode": 0,
        "errorMsg": "Success",
    }


def _info(document: bytes, readings: Sequence[Reading]) -> dict[str, Any]:
    sizes = [{"width": r.page.width, "height": r.page.height} for r in readings]
    kind = sniff(document)
    if kind == "pdf" or (kind == "tiff" and len(sizes) > 1):
        return {"numPages": len(sizes), "pages": sizes, "type": kind}
    return {**sizes[0], "type": "image"}
