"""What one request may change, for itself alone, in PaddleX's own names."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from serving.config.pipeline import LimitType, Ratio, Side

T = TypeVar("T")


class Options(BaseModel):
    """Overrides of the pipeline's YAML; None keeps what the YAML says."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    use_textline_orientation: bool | None = None
    """Read lines that stand on their head as well."""
    text_det_limit_side_len: Side | None = None
    """Pixels to which the page is made smaller or larger for detection; see the next."""
    text_det_limit_type: LimitType | None = None
    """min: the short side gets at least so many, max: the long side at most, resize_long: just."""
    text_det_max_side_limit: Side | None = None
    """The long side never has more pixels than that."""
    text_det_thresh: Ratio | None = None
    """A pixel with this probability or more is text."""
    text_det_box_thresh: Ratio | None = None
    """A box whose pixels have this mean probability or more is kept."""
    text_det_unclip_ratio: float | None = Field(default=None, gt=0, le=10)
    """How far a box grows around what was detected."""
    text_rec_score_thresh: Ratio | None = None
    """A line with this score or more is kept."""
    return_word_box: bool | None = None
    """A box for each word of a line as well."""


DEFAULT_OPTIONS = Options()
"""Everything as the pipeline's YAML says."""


def first_set(*values: T | None) -> T:
    """The first value that is not None: the request's, the pipeline's, then the model's."""
    return next(value for value in values if value is not None)
