"""Pages as PaddleX has them: its OCRResult, and the answer of its basic serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, cast

import numpy as np
from typing_extensions import TypedDict

from serving.imaging.draw import draw
from serving.imaging.formats import sniff
from serving.ocr.document import turn_upright
from serving.output.image import jpeg_base64
from serving.output.layout import bounds
from serving.output.pages import ReadPage, described
from serving.types import Image, Line, Page


def paddlex_result(page: Page, image: Image, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The page as PaddleX's OCRResult has it, whose boxes are arrays.

    Without `input_path` and `page_index`. image: as sent, (H, W, 3) BGR. settings: what
    `Pipeline.settings` says was in force. Of a page that was flattened, `doc_preprocessor_res`
    lacks `output_img`: that picture is not kept.
    """
    result = pruned_result(page, settings)
    prepared: dict[str, Any] = result.get("doc_preprocessor_res", {})
    if prepared:
        prepared |= {"input_path": None, "page_index": None}
    if page.as_read is None:
        prepared["output_img"] = image
    elif not settings["doc_preprocessor"]["use_doc_unwarping"]:
        prepared["output_img"] = turn_upright(image, page.angle)
    result["doc_preprocessor_res"] = prepared
    result["rec_boxes"] = np.array(result["rec_boxes"])
    for key in {"dt_polys", "rec_polys", "text_word_boxes"} & result.keys():
        result[key] = list(map(np.array, result[key]))
    if settings["return_word_box"]:
        lines = (page.as_read or page).lines
        result["text_word_region"] = [[list(word.box) for word in line.words] for line in lines]
    return result


def printed(result: Mapping[str, Any]) -> dict[str, Any]:
    """An OCRResult as PaddleX prints it."""
    keys = ("dt_polys", "textline_orientation_angles", "rec_scores", "rec_polys")
    return {**without_pictures(result), **{key: np.array(result[key]) for key in keys}}


def without_pictures(result: Mapping[str, Any]) -> dict[str, Any]:
    """What PaddleX writes of an OCRResult."""
    shown = {key: value for key, value in result.items() if key != "text_word_region"}
    prepared = shown.pop("doc_preprocessor_res", {})
    if shown["model_settings"]["use_doc_preprocessor"]:
        prepared = {key: value for key, value in prepared.items() if key != "output_img"}
        shown["doc_preprocessor_res"] = prepared
    return shown


def pruned_result(page: Page, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same as PaddleX's serving has it: plain values, without a file's path and its page."""
    angle, page = page.angle, page.as_read or page  # its boxes are on the preprocessed page
    polys = [[list(point) for point in line.quad] for line in page.lines]
    prepared: dict[str, Any] = {}
    if settings["model_settings"]["use_doc_preprocessor"]:
        classified = settings["doc_preprocessor"]["use_doc_orientation_classify"]
        prepared["doc_preprocessor_res"] = {
            "model_settings": settings["doc_preprocessor"],
            "angle": angle if classified else -1,
        }
    oriented = settings["model_settings"]["use_textline_orientation"]
    words: dict[str, Any] = {}
    if settings["return_word_box"]:
        words = {
            "text_word_boxes": [[bounds(word.box) for word in line.words] for line in page.lines],
            "text_word": [[word.text for word in line.words] for line in page.lines],
        }
    return {
        "model_settings": settings["model_settings"],
        **prepared,
        "dt_polys": polys,
        "text_det_params": settings["text_det_params"],
        "text_type": settings["text_type"],
        "textline_orientation_angles": [
            int(line.turn >= 180) if oriented else -1 for line in page.lines
        ],
        "text_rec_score_thresh": settings["text_rec_score_thresh"],
        "return_word_box": settings["return_word_box"],
        "rec_texts": [line.text for line in page.lines],
        "rec_scores": [line.score for line in page.lines],
        "rec_polys": polys,
        "rec_boxes": [bounds(poly) for poly in polys],
        **words,
    }


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
    """All pages of a document. Another pipeline than OCR has its own name for them, as PaddleX's
    serving has: sealRecResults, tableRecResults, formulaRecResults, layoutParsingResults.
    """

    ocrResults: list[OcrResult]
    dataInfo: dict[str, Any]


@described
class InferAnswer(TypedDict):
    """What PaddleX's serving returns."""

    logId: str
    result: InferResult
    errorCode: Literal[0]
    errorMsg: str


def pictures(image: Image, lines: Sequence[Line]) -> dict[str, str]:
    """The pictures of an OcrResult."""
    return {"ocrImage": jpeg_base64(draw(image, lines)), "inputImage": jpeg_base64(image)}


def infer_answer(
    document: bytes, pages: Sequence[ReadPage], settings: Mapping[str, Any], log_id: str
) -> InferAnswer:
    """The body that PaddleX's serving returns for one document."""
    results, name = [], "ocrResults"
    for read in pages:
        if (own := read.page.paddlex) is not None:
            name, content = own.name, {**own.content}
        else:
            content = pruned_result(read.page, settings)
        drawn = read.picture if isinstance(read.picture, dict) else {}
        results.append({"prunedResult": content, **drawn})
    info = data_info(document, [(it.page.width, it.page.height) for it in pages])
    return {
        "logId": log_id,
        "result": cast(InferResult, {name: results, "dataInfo": info}),
        "errorCode": 0,
        "errorMsg": "Success",
    }


def data_info(document: bytes, pages: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The sizes of a document's pages (width, height), as PaddleX's serving tells them."""
    sizes = [{"width": width, "height": height} for width, height in pages]
    kind = sniff(document)
    if kind == "pdf" or (kind == "tiff" and len(sizes) > 1):
        return {"numPages": len(sizes), "pages": sizes, "type": kind}
    return {**sizes[0], "type": "image"}
