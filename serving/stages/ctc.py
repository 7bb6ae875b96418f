"""Text from a CTC recogniser's best class per step.

Graves et al., "Connectionist Temporal Classification" (ICML 2006), best path decoding, as
PaddleX's CTCLabelDecode. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def decode(
    index: npt.NDArray[np.int64], score: npt.NDArray[np.float32], characters: Sequence[str]
) -> tuple[str, float]:
    """Drop repeats and blanks; the score is the mean probability of the characters kept.

    index: (T,) class per step, 0 is the blank; one past the last class means that the engine gave
    no number, and counts as blank. score: (T,) its probability. No character: 0.0.
    """
    found = kept(index, characters)
    if not found.any():
        return "", 0.0
    text = "".join([characters[i] for i in index[found].tolist()])
    return text, float(score[found].mean(dtype=np.float64))


def steps(index: npt.NDArray[np.int64], characters: Sequence[str]) -> list[int]:
    """The step of every character of the text that `decode` makes of the same `index`."""
    found = np.flatnonzero(kept(index, characters)).tolist()
    return [step for step in found for _ in characters[index[step]]]


def kept(index: npt.NDArray[np.int64], characters: Sequence[str]) -> npt.NDArray[np.bool_]:
    """(T,) whether a step begins a character of the text: neither a blank nor a repeat."""
    found: npt.NDArray[np.bool_] = (index != 0) & (index < len(characters))
    found[1:] &= index[1:] != index[:-1]
    return found
