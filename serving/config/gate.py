"""The accuracy gate: how far an engine's results may differ and still be chosen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from serving.errors import ConfigError

_NAMED: dict[str, dict[str, Any]] = {
    "default": {},
    "strict": {"error_rate": 0.001},
    "exact": {"error_rate": 0.001, "equal_lines": 0.995, "float32_only": True},
}


class Gate(BaseModel):
    """Bounds on a candidate against float32 ONNX Runtime, on the calibration set.

    Each figure is judged by its 95 % bootstrap bound, so that a lucky sample does not pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    h_mean: float = Field(default=0.98, ge=0, le=1)
    """Detection: minimum H-mean of boxes at IoU 0.7."""
    error_rate: float = Field(default=0.01, ge=0, le=1)
    """Recognition: maximum character error rate, with spaces, against the reference's text."""
    accuracy_loss: float = Field(default=0.003, ge=0, le=1)
    """Recognition: maximum loss of character accuracy on the true text (0.003 is 0.3 points)."""
    equal_lines: float = Field(default=0.0, ge=0, le=1)
    """Recognition: minimum share of lines whose text equals the reference's."""
    float32_only: bool = False
    """Allow float32 arithmetic only (on a GPU without TF32)."""


def _by_name(value: Any) -> Any:
    if isinstance(value, str):
        if value not in _NAMED:
            raise ValueError(f"must be {', '.join(_NAMED)} or a mapping of bounds")
        return _NAMED[value]
    return value


GateSetting = Annotated[Gate, BeforeValidator(_by_name)]
"""A gate by name (default, strict, exact) or as a mapping of its bounds."""

GateName = Literal["default", "strict", "exact"]


def named_gate(name: GateName) -> Gate:
    """The gate of that name. Raises ConfigError for another name."""
    try:
        return Gate(**_by_name(name))
    except ValueError as error:
        raise ConfigError(f"gate: {name!r}: {error}") from None
