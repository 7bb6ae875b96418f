"""The accuracy gate: does a candidate still find and read the same text?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.config.gate import Gate
from serving.scores import bootstrap_bound, box_overlap, character_errors
from serving.types import Image, Quad

_SINGLES_LOST = 0.02
"""Share of the lines of one character that may be read worse: among all characters they are few."""

_LEVELS = 16
"""Of 255, by which a pixel of a flattened page may differ."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a candidate passes."""

    accepted: bool
    reason: str = ""
    """Why it is rejected."""
    figures: dict[str, float] = field(default_factory=dict)
    """What was measured, and the bound of each that decides."""


def verdict(gate: Gate, figures: dict[str, float]) -> Verdict:
    """Compare figures, measured now or read from a plan, with the gate's bounds."""
    for name, lower in (("h_mean", gate.h_mean), ("agreement", gate.h_mean)):
        if figures.get(f"{name}_bound", 1.0) < lower:
            return Verdict(False, f"{_text(figures, name)} is under {lower:.3f}", figures)
    for name, upper in (("error_rate", gate.error_rate), ("accuracy_loss", gate.accuracy_loss)):
        if figures.get(f"{name}_bound", 0.0) > upper:
            return Verdict(False, f"{_text(figures, name)} is over {upper:.2%}", figures)
    if (lost := figures.get("singles_lost", 0.0)) > _SINGLES_LOST:
        return Verdict(False, f"{lost:.1%} of single characters lost", figures)
    equal = figures.get("equal_lines", 1.0)
    if equal < gate.equal_lines:
        return Verdict(False, f"{equal:.1%} of lines equal, under {gate.equal_lines:.1%}", figures)
    return Verdict(True, figures=figures)


def judge_detection(
    gate: Gate, reference: Sequence[Sequence[Quad]], read: Sequence[Sequence[Quad]]
) -> Verdict:
    """Boxes by page against the reference's: H-mean at IoU 0.7, by its lower 95 % bound."""
    overlaps = [box_overlap(*page) for page in zip(reference, read, strict=True)]
    hits = [2.0 * overlap.common for overlap in overlaps]
    boxes = [float(overlap.truth + overlap.read) for overlap in overlaps]
    if not sum(boxes):
        return Verdict(False, "the reference finds no text on the calibration set")
    return verdict(gate, _shares("h_mean", hits, boxes))


def judge_recognition(
    gate: Gate, truth: Sequence[str], reference: Sequence[str], read: Sequence[str]
) -> Verdict:
    """Lines against the reference's and the known text, by upper 95 % bounds."""
    changed = [character_errors(*line) for line in zip(reference, read, strict=True)]
    before = [character_errors(*line)[0] for line in zip(truth, reference, strict=True)]
    after = [character_errors(*line)[0] for line in zip(truth, read, strict=True)]
    lengths = [float(len(text)) for text in truth]
    errors = [float(count) for count, _ in changed]
    reference_lengths = [float(length) for _, length in changed]
    lost = [float(b - a) for a, b in zip(before, after, strict=True)]
    equal = sum(a == b for a, b in zip(reference, read, strict=True)) / max(1, len(read))
    singles = [index for index, text in enumerate(truth) if len(text) == 1]
    right_before, right_after = (
        sum(texts[index] == truth[index] for index in singles) for texts in (reference, read)
    )
    if not sum(reference_lengths):
        return Verdict(False, "the reference reads no text on the calibration set")
    figures = {
        "error_rate": sum(errors) / sum(reference_lengths),
        "error_rate_bound": bootstrap_bound(errors, reference_lengths, "upper"),
        "accuracy_loss": sum(lost) / sum(lengths),
        "accuracy_loss_bound": bootstrap_bound(lost, lengths, "upper"),
        "singles_lost": (right_before - right_after) / max(1, len(singles)),
        "equal_lines": equal,
        "accuracy": 1 - sum(after) / sum(lengths),
    }
    return verdict(gate, figures)


def judge_orientation(gate: Gate, reference: Sequence[int], read: Sequence[int]) -> Verdict:
    """Share of equal answers, by its lower 95 % bound, against the detector's H-mean bound."""
    equal = [float(a == b) for a, b in zip(reference, read, strict=True)]
    return verdict(gate, _shares("agreement", equal, [1.0] * len(equal)))


def judge_unwarping(gate: Gate, reference: Sequence[Image], read: Sequence[Image]) -> Verdict:
    """Share of a flattened page's pixels that are the reference's, within 16 of 255 levels."""
    equal = [
        float((np.abs(a.astype(np.int16) - b) <= _LEVELS).mean()) if a.shape == b.shape else 0.0
        for a, b in zip(reference, read, strict=True)
    ]
    return verdict(gate, _shares("agreement", equal, [1.0] * len(equal)))


def _shares(name: str, parts: Sequence[float], wholes: Sequence[float]) -> dict[str, float]:
    """sum(parts) / sum(wholes), and its lower bound."""
    return {
        name: sum(parts) / sum(wholes),
        f"{name}_bound": bootstrap_bound(parts, wholes, "lower"),
    }


def _text(figures: dict[str, float], name: str) -> str:
    label = "H-mean" if name == "h_mean" else name.replace("_", " ")
    return f"{label} {figures[name]:.4f} (bound {figures[f'{name}_bound']:.4f})"
