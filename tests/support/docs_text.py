"""The commands, programs and links of the README and the pages under docs/."""

from __future__ import annotations

import re
from pathlib import Path


def pages(repo: Path) -> dict[Path, str]:
    """The README and every page under docs/, by file."""
    files = [repo / "README.md", *sorted((repo / "docs").glob("*.md"))]
    return {file: file.read_text(encoding="utf-8") for file in files}


def commands(text: str) -> list[str]:
    """Every line of the page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def programs(text: str) -> list[str]:
    """The page's Python blocks."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def links(text: str) -> list[str]:
    """Files that the page links to or shows, relative to it."""
    return re.findall(r"\]\(([^)h#][^)#]*)", text) + re.findall(r'src(?:set)?="([^"]+)"', text)
