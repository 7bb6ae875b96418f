"""The accuracy gate: does a candidate still find and read the same text? Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.config.gate import Gate
from serving.scores import bootstrap_bound, box_overlap, character_errors
from serving.types import Quad


@dataclass(frozen=True, slots=True)
class Verdict:
    """`figures`: what was measured, with the bound that decided; `reason`: why it is rejected."""

    accepted: bool
    reason: str = ""
    figures: dict[str, float] = field(default_factory=dict)


def verdict(gate: Gate, figures: dict[str, float]) -> Verdict:
    """Hold figures, measured now or read from a plan, against the gate's bounds for them."""
    for name, least in (("h_mean", gate.h_mean), ("agreement", gate.h_mean)):
        if figures.get(f"{name}_bound", 1.0) < least:
            return Verdict(False, f"{_words(figures, name)} is under {least:.3f}", figures)
    for name, most in (("error_rate", gate.error_rate), ("accuracy_loss", gate.accuracy_loss)):
        if figures.get(f"{name}_bound", 0.0) > most:
            return Verdict(False, f"{_words(figures, name)} is over {most:.2%}", figures)
    equal = figures.get("equal_lines", 1.0)
    if equal < gate.equal_lines:
        return Verdict(False, f"{equal:.1%} of lines equal, under {gate.equal_lines:.1%}", figures)
    return Verdict(True, figures=figures)


def judge_detection(
    gate: Gate, reference: Sequence[Sequence[Quad]], found: Sequence[Sequence[Quad]]
) -> Verdict:
    """Boxes by page against the reference's: H-mean at IoU 0.7, by its lower 95 % bound."""
    overlaps = [box_overlap(wanted, read) for wanted, read in zip(reference, found, strict=True)]
    hits = [2.0 * overlap.common for overlap in overlaps]
    boxes = [float(overlap.truth + overlap.read) for overlap in overlaps]
    if not sum(boxes):
        return Verdict(False, "the reference finds no text on the calibration set")
    return verdict(gate, _shares("h_mean", hits, boxes))


def judge_recognition(
    gate: Gate, truth: Sequence[str], reference: Sequence[str], read: Sequence[str]
) -> Verdict:
    """Lines against the reference's text and against the known text, by upper 95 % bounds."""
    changed = [character_errors(wanted, text) for wanted, text in zip(reference, read, strict=True)]
    before = [
        character_errors(text, wanted)[0] for text, wanted in zip(truth, reference, strict=True)
    ]
    after = [character_errors(text, got)[0] for text, got in zip(truth, read, strict=True)]
    lengths = [float(len(text)) for text in truth]
    errors = [float(count) for count, _ in changed]
    reference_lengths = [float(length) for _, length in changed]
    lost = [float(b - a) for a, b in zip(before, after, strict=True)]
    equal = sum(a == b for a, b in zip(reference, read, strict=True)) / max(1, len(read))
    if not sum(reference_lengths):
        return Verdict(False, "the reference reads no text on the calibration set")
    figures = {
        "error_rate": sum(errors) / sum(reference_lengths),
        "error_rate_bound": bootstrap_bound(errors, reference_lengths, "upper"),
        "accuracy_loss": sum(lost) / sum(lengths),
        "accuracy_loss_bound": bootstrap_bound(lost, lengths, "upper"),
        "equal_lines": equal,
        "accuracy": 1 - sum(after) / sum(lengths),
    }
    return verdict(gate, figures)


def judge_orientation(gate: Gate, reference: Sequence[bool], found: Sequence[bool]) -> Verdict:
    """Share of lines turned alike, by its lower 95 % bound, against the detector's H-mean bound."""
    alike = [float(a == b) for a, b in zip(reference, found, strict=True)]
    return verdict(gate, _shares("agreement", alike, [1.0] * len(alike)))


def _shares(name: str, parts: Sequence[float], wholes: Sequence[float]) -> dict[str, float]:
    """sum(parts) / sum(wholes), and its lower bound."""
    return {
        name: sum(parts) / sum(wholes),
        f"{name}_bound": bootstrap_bound(parts, wholes, "lower"),
    }


def _words(figures: dict[str, float], name: str) -> str:
    said = "H-mean" if name == "h_mean" else name.replace("_", " ")
    return f"{said} {figures[name]:.4f} (bound {figures[f'{name}_bound']:.4f})"
