"""CTC decoding, and spaces that the recogniser saw but did not rank first.

Graves et al., "Connectionist Temporal Classification" (ICML 2006), best path decoding, as
PaddleX's CTCLabelDecode. Pure functions on lists: a line has a few dozen time steps, for which
Python's own loop takes half the time of NumPy calls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise


def character_steps(path: Sequence[int], classes: int) -> list[int]:
    """The time steps at which a character starts: neither blank nor a repeat.

    path: class per step; 0 is the blank, and so is all from `classes` on: NaN.
    """
    steps, last = [], 0
    for step, index in enumerate(path):
        if index != last and 0 < index < classes:
            steps.append(step)
        last = index
    return steps


def text_at(steps: Sequence[int], path: Sequence[int], characters: Sequence[str]) -> str:
    """The text of these steps. An entry of the dictionary may have several letters."""
    return "".join([characters[path[step]] for step in steps])


def mean_score(steps: Sequence[int], scores: Sequence[float]) -> float:
    """The mean probability at these steps; 0.0 without any."""
    return sum([scores[step] for step in steps]) / len(steps) if steps else 0.0


def letter_steps(steps: Sequence[int], path: Sequence[int], characters: Sequence[str]) -> list[int]:
    """The step of each letter of the text that `text_at` returns."""
    return [step for step in steps for _ in characters[path[step]]]


_UNBREAKABLE = re.compile(
    r"""\w@[a-z]   # name@host, but not 2 @ 6.50
    |   (?: https?: | www\. ) [^\s,;]+
    |   ([^\w\s]) \1+   # ..... and ***
    """,
    re.VERBOSE,
)
"""Text that contains no space, whatever the probabilities."""
_NUMBER_MARK = re.compile(r"(?<=\d)(?:\.(?=\d)|,(?=\d{3}(?!\d))|:(?=\d\d(?!\d)))")
"""A mark of an amount or a time: no space on either side. 1,234.56 and 10:30, not May 4,2009."""
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}(\1)\d{2,4}")
_FULL_STOP = re.compile(r"(?<=\d)\.")
"""No space before it."""
_DASH = re.compile(r"(?<=\d)[-/](?=\d)")
"""In codes and telephone numbers: with a space on both sides or on neither."""
_PUNCTUATION = re.compile(r"[^\w\s]")
"""Every match of _UNBREAKABLE has one of these. Most lines have none: this search is 4x faster."""


def restore_spaces(
    path: Sequence[int],
    steps: Sequence[int],
    space: Sequence[float],
    characters: Sequence[str],
    min_space: float,
) -> Sequence[int]:
    """The path with missing spaces inserted; the other characters stay. `path` itself if none is.

    PP-OCRv4's Chinese model gives the space some probability at nearly every gap between words,
    but often less than the blank. Between letters of one word it is hundreds of times less, which
    separates the two better than the width of the gap.

    path: class per step, 0 is the blank; steps: from `character_steps`; space: per step, the
    probability of the last class, the space; min_space: minimum of its sum over the blank steps of
    a gap. A space replaces the blank step where it is most probable, and only between Latin
    letters, digits and their punctuation.
    """
    blanks = [p if index == 0 else 0.0 for index, p in zip(path, space, strict=True)]
    sums = list(accumulate(blanks))
    gaps = [gap for gap, (a, b) in enumerate(pairwise(steps)) if sums[b] - sums[a] >= min_space]
    if not gaps:
        return path
    entries = [characters[path[step]] for step in steps]
    ends = list(accumulate(map(len, entries)))
    unbreakable = _unbreakable("".join(entries), {ends[gap] for gap in gaps})
    restored = list(path)
    for gap in gaps:
        left, right = entries[gap][-1:], entries[gap + 1][:1]
        if ends[gap] not in unbreakable and _is_latin(left) and _is_latin(right):
            step = max(range(steps[gap], steps[gap + 1]), key=blanks.__getitem__)
            restored[step] = len(characters) - 1
    return restored


def _unbreakable(text: str, gaps: set[int]) -> set[int]:
    """The offsets before which no space is allowed. gaps: those at which one was seen."""
    if not _PUNCTUATION.search(text):
        return set()
    matches = _UNBREAKABLE.finditer(text)
    offsets = {offset for match in matches for offset in range(match.start() + 1, match.end())}
    offsets.update(match.start() for match in _FULL_STOP.finditer(text))
    marks = [match.span() for match in _NUMBER_MARK.finditer(text)]
    marks += [match.span(group) for match in _DATE.finditer(text) for group in (1, 2)]
    marks += [dash for dash in map(re.Match.span, _DASH.finditer(text)) if len(gaps & {*dash}) == 1]
    return offsets.union(*marks)


_FULL_WIDTH = {0xFF01 + offset: 0x21 + offset for offset in range(94)} | {
    ord("。"): ".",
    ord("、"): ",",
}
_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


def ascii_punctuation(text: str) -> str:
    """The text with ASCII for full-width marks, as long as before; lines with CJK stay.

    The dictionary has both, and the recogniser takes specks and Latin punctuation for either.
    """
    return text if text.isascii() or has_cjk(text) else text.translate(_FULL_WIDTH)


def has_cjk(text: str) -> bool:
    """Whether the text has a Chinese, Japanese or Korean character."""
    return _CJK.search(text) is not None


def _is_latin(character: str) -> bool:
    """ASCII or an accented Latin letter, and not a space."""
    return "!" <= character < "\u0250"
