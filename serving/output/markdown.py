"""Pages as Markdown: plain paragraphs, by where the lines stand."""

from __future__ import annotations

import re
from collections.abc import Sequence

from serving.output.layout import paragraphs
from serving.output.pages import ReadPage

_MARKS = re.compile(r"^(\d{1,9})(?=[.)])|([\\`*_{}\[\]<>#|~&!]|^[-+=])")
"""What may be a mark anywhere, or at the start of a line: of a list, of a heading under it."""


def markdown(pages: Sequence[ReadPage]) -> str:
    """A blank line between paragraphs, a rule between pages. No text is taken for a mark."""
    parts = []
    for read in pages:
        groups = paragraphs(read.page.lines)
        texts = [[" ".join(line.text.split()) for line in lines] for lines in groups]
        parts.append("\n\n".join("\n".join(map(_escaped, filter(None, lines))) for lines in texts))
    return "\n\n---\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    """With a backslash before each mark: `1\\.`, `\\#`."""
    return _MARKS.sub(lambda mark: f"{mark[1]}\\" if mark[1] else f"\\{mark[2]}", text)
