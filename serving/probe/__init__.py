"""What a conversion is checked on: rounds of inputs for a model, and what comes of them."""

from serving.probe.compare import largest_difference
from serving.probe.other import Input, other_rounds
from serving.probe.text import Round, model_kind, text_rounds

__all__ = ["Input", "Round", "largest_difference", "model_kind", "other_rounds", "text_rounds"]
