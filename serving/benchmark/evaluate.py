"""How well a pipeline reads labelled pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.benchmark.labelled import LabelledPage
from serving.reader import load_pipeline
from serving.scores import Overlap, character_overlap, token_overlap

TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Score:
    """What one or more pages have in common with their truth."""

    pages: int = 0
    tokens: Overlap = field(default_factory=Overlap)
    characters: Overlap = field(default_factory=Overlap)

    def __add__(self, other: Score) -> Score:
        return Score(
            self.pages + other.pages,
            self.tokens + other.tokens,
            self.characters + other.characters,
        )


def evaluate(
    yaml: Path,
    pages: Sequence[LabelledPage],
    models: Path,
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Score]:
    """Scores by set, and of all pages under TOTAL. An image of several pages counts as one.

    Raises what load_pipeline raises, and InputError for a page that cannot be read.
    """
    scores: dict[str, Score] = {}
    with load_pipeline(yaml, models=models) as reader:
        for index, page in enumerate(pages, 1):
            tell(f"{yaml}: {index} of {len(pages)}: {page.group}/{page.path.name}")
            read = [line.text for result in reader.predict(page.path) for line in result.lines]
            score = Score(1, token_overlap(page.texts, read), character_overlap(page.texts, read))
            scores[page.group] = scores.get(page.group, Score()) + score
    return {**scores, TOTAL: sum(scores.values(), Score())}
