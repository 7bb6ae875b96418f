"""What one request may change, for itself alone, in PaddleX's own names."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from serving.config.pipeline import LimitType, Ratio, Side

T = TypeVar("T")


class Options(BaseModel):
    """Overrides of the pipeline's YAML; None keeps what the YAML says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use_textline_orientation: bool | None = None
    text_det_limit_side_len: Side | None = None
    text_det_limit_type: LimitType | None = None
    text_det_max_side_limit: Side | None = None
    text_det_thresh: Ratio | None = None
    text_det_box_thresh: Ratio | None = None
    text_det_unclip_ratio: float | None = Field(default=None, gt=0, le=10)
    text_rec_score_thresh: Ratio | None = None
    return_word_box: bool | None = None


DEFAULT_OPTIONS = Options()
"""Everything as the pipeline's YAML says."""


def first_set(*values: T | None) -> T:
    """The first value that is not None: the request's, the pipeline's, then the model's."""
    return next(value for value in values if value is not None)
