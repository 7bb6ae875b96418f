"""Options of a single request, in PaddleX's own names.

`order`, `text_det_tiling` and `text_det_deskew` are ours.
"""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from serving.config.pipeline import LimitType, Order, Ratio, Side

T = TypeVar("T")


class Options(BaseModel):
    """Overrides of the pipeline's YAML; None keeps its setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    use_doc_orientation_classify: bool | None = None
    """Turn a page upright that is turned by 90, 180 or 270 degrees."""
    use_doc_unwarping: bool | None = None
    """Flatten the photo of a page."""
    use_textline_orientation: bool | None = None
    """Also read upside-down lines."""
    text_det_limit_side_len: Side | None = None
    """Pixels to which a side of the page is resized; text_det_limit_type says which side."""
    text_det_limit_type: LimitType | None = None
    """min: the short side is at least that, max: the long side at most, resize_long: exactly."""
    text_det_max_side_limit: Side | None = None
    """Upper limit of the long side in pixels."""
    text_det_thresh: Ratio | None = None
    """A pixel with this probability or more is text."""
    text_det_box_thresh: Ratio | None = None
    """A box whose pixels have this mean probability or more is kept."""
    text_det_unclip_ratio: float | None = Field(default=None, gt=0, le=10)
    """How far a box is expanded around the detected text."""
    text_det_tiling: bool | None = None
    """Look for text that is too small at the page's scale once more, in tiles at a larger one."""
    text_det_deskew: bool | None = None
    """Turn a skewed page back, by up to 45 degrees, before its lines are detected."""
    text_rec_score_thresh: Ratio | None = None
    """A line with this score or more is kept."""
    return_word_box: bool | None = None
    """Also return a box for each word of a line."""
    order: Order | None = None
    """Order of the lines. paddlex: by rows; columns: column by column, where a page has columns."""


DEFAULT_OPTIONS = Options()
"""No overrides."""

PdfText = Literal["ignore", "auto"]
"""Whether a PDF page's own text is taken, where it is all there."""

PDF_DPI = 144
"""Dots per inch at which a PDF is rendered."""

MAX_PAGES = 100_000
"""Of a document of the user's own."""


def first_set(*values: T | None) -> T:
    """The first value that is not None: the request's, the pipeline's, then the model's."""
    return next(value for value in values if value is not None)
