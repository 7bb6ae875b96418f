"""PaddleX and PaddleOCR on our engines: their `use_hpip=True` and `enable_hpi=True`, made true.

    import serving.paddlex
    serving.paddlex.enable()
    ocr = PaddleOCR(enable_hpi=True, ...)  # or paddlex.create_pipeline(..., use_hpip=True)

Needs PaddleX 3.7 and neither paddlepaddle nor PaddleX's own plugin.
"""

from __future__ import annotations

from pathlib import Path

from serving.paddlex.choice import Choose, ModelRequest, simplest
from serving.paddlex.hook import install
from serving.paddlex.plain import paddlex_config, plain_pipeline

__all__ = ["Choose", "ModelRequest", "enable", "paddlex_config", "plain_pipeline", "simplest"]


def enable(*, models: str | Path = "models", choose: Choose = simplest) -> None:
    """From now on, in this process, a model that PaddleX opens with HPI runs on our engines.

    models: the store's folder; conversions from Paddle are cached under its `engines`.
    choose: which engine a model gets; by default `simplest`, which obeys `hpi_config`.
    What other engines PaddleX has stays as it is. Calling it again replaces `models` and `choose`.
    Raises EngineError where PaddleX is not installed or is not the one that this stands on.
    """
    install(Path(models).absolute(), choose)
