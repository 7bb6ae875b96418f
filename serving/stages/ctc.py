"""Text from a CTC recogniser's best class per step.

Graves et al., "Connectionist Temporal Classification" (ICML 2006), best path decoding, as
PaddleX's CTCLabelDecode. Pure functions. A line has some dozens of steps: Python's own loop over
so few takes half the time of NumPy's calls.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def decode(
    index: npt.NDArray[np.int64], score: npt.NDArray[np.float32], characters: Sequence[str]
) -> tuple[str, float]:
    """Text and its mean score.

    index: (T,) class per step, 0 is the blank; one past the last class means that the engine gave
    no number, and counts as blank. score: (T,) its probability. No character: 0.0.
    """
    found = starts(index, characters)
    if not found:
        return "", 0.0
    scores = score.tolist()
    mean = sum([scores[step] for step in found]) / len(found)
    return text_at(found, index, characters), mean


def steps(index: npt.NDArray[np.int64], characters: Sequence[str]) -> list[int]:
    """The step of every character of the text that `decode` makes of the same `index`."""
    found = starts(index, characters)
    return [step for step in found for _ in characters[index[step]]]


def starts(index: npt.NDArray[np.int64], characters: Sequence[str]) -> list[int]:
    """The steps that begin an entry of the dictionary: neither a blank nor a repeat."""
    found, last, most = [], 0, len(characters)
    for step, number in enumerate(index.tolist()):
        if number != last and 0 < number < most:
            found.append(step)
        last = number
    return found


def text_at(found: Sequence[int], index: npt.NDArray[np.int64], characters: Sequence[str]) -> str:
    """The text that begins at these steps."""
    numbers = index.tolist()
    return "".join([characters[numbers[step]] for step in found])
