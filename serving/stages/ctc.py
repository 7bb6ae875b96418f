"""Text from a CTC recogniser's best class per step.

Graves et al., "Connectionist Temporal Classification" (ICML 2006), best path decoding, as
PaddleX's CTCLabelDecode. Pure functions. A line has some dozens of steps: Python's own loop over
so few takes half the time of NumPy's calls.
"""

from __future__ import annotations

from collections.abc import Sequence


def starts(path: Sequence[int], classes: int) -> list[int]:
    """The steps that begin a character: neither a blank nor a repeat.

    path: class per step, 0 is the blank; `classes`, one past the last, means that the engine gave
    no number, and counts as blank.
    """
    found, last = [], 0
    for step, number in enumerate(path):
        if number != last and 0 < number < classes:
            found.append(step)
        last = number
    return found


def text_at(at: Sequence[int], path: Sequence[int], characters: Sequence[str]) -> str:
    """The text that begins at these steps; an entry of the dictionary may be several letters."""
    return "".join([characters[path[step]] for step in at])


def score_at(at: Sequence[int], scores: Sequence[float]) -> float:
    """The mean of the probabilities at these steps; without any, 0.0."""
    return sum([scores[step] for step in at]) / len(at) if at else 0.0


def letter_steps(at: Sequence[int], path: Sequence[int], characters: Sequence[str]) -> list[int]:
    """The step of every letter of the text that `text_at` makes."""
    return [step for step in at for _ in characters[path[step]]]
