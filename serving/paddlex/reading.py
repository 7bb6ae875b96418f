"""`enable_hpi: False`: a YAML read by plain PaddleX, in the form of our own pipeline."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.config.options import DEFAULT_OPTIONS, Options, first_set
from serving.config.pipeline import PipelineConfig, load_config
from serving.errors import ConfigError, EngineError
from serving.paddlex.plain import plain_pipeline
from serving.stages.detect import corners
from serving.types import Line, Page


def is_plain(yaml: str | Path) -> bool:
    """Whether the YAML says `enable_hpi: False`. Raises ConfigError where one model differs."""
    config = load_config(yaml)
    own = {module.enable_hpi for module in config.modules} - {None, config.enable_hpi}
    if own and not config.enable_hpi:
        raise ConfigError(
            f"{yaml}: enable_hpi: False at the top and True in a model: only PaddleX itself mixes "
            "both; in Python: serving.paddlex.enable(), then paddlex.create_pipeline(config="
            "serving.paddlex.paddlex_config(yaml))"
        )
    return not config.enable_hpi


class PlainPipeline:
    """PaddleX's own pipeline on its own engine: to compare with, a page at a time."""

    def __init__(self, yaml: str | Path, models: Path) -> None:
        """Raises ConfigError, ModelError, and EngineError where PaddleX is not installed."""
        self._config = load_config(yaml)
        try:
            self._pipeline = plain_pipeline(yaml, models=models)
        except EngineError as error:
            raise EngineError(
                f"{yaml}: enable_hpi: False means plain PaddleX: {error}. Or set enable_hpi: True"
            ) from error
        self._one_at_a_time = threading.Lock()  # PaddleX mixes up pages of several threads

    def read(self, image: npt.NDArray[np.uint8], options: Options = DEFAULT_OPTIONS) -> Page:
        """Read one upright page, (H, W, 3) uint8 BGR. Lines are PaddleX's, those empty included."""
        start = time.perf_counter()
        with self._one_at_a_time:
            (found,) = self._pipeline.predict(image, **options.model_dump(exclude_none=True))
        read = zip(found["rec_texts"], found["rec_scores"], found["rec_polys"], strict=True)
        lines = tuple(
            Line(text=str(text), score=float(score), quad=corners(np.asarray(quad)))
            for text, score, quad in read
        )
        spent = (time.perf_counter() - start) * 1e3
        return Page(image.shape[1], image.shape[0], lines, timing={"paddlex": spent})

    def settings(self, options: Options = DEFAULT_OPTIONS) -> dict[str, Any]:
        """What is in force for a request, in PaddleX's own words."""
        return settings_in_force(self._config, options)

    def close(self) -> None:
        """Free PaddleX's models."""
        del self._pipeline


def settings_in_force(config: PipelineConfig, options: Options) -> dict[str, Any]:
    """The options, else the YAML's values; None is left to the model's inference.yml."""
    detection, recognition = config.sub_modules.detection, config.sub_modules.recognition
    keys = ("limit_side_len", "limit_type", "max_side_limit", "thresh", "box_thresh")
    asked = options.model_dump()
    return {
        "model_settings": {
            "use_doc_preprocessor": config.use_doc_preprocessor,
            "use_textline_orientation": first_set(
                options.use_textline_orientation, config.use_textline_orientation
            ),
        },
        "text_det_params": {
            key: first_set(asked[f"text_det_{key}"], getattr(detection, key))
            for key in (*keys, "unclip_ratio")
            if asked[f"text_det_{key}"] is not None or getattr(detection, key) is not None
        },
        "text_type": config.text_type,
        "text_rec_score_thresh": first_set(options.text_rec_score_thresh, recognition.score_thresh),
        "return_word_box": first_set(options.return_word_box, recognition.return_word_box),
    }
