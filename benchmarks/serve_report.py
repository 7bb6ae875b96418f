"""What the load test prints and writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.serve_phases import Closed, Open
from benchmarks.serve_run import Found

HEAD = (
    "who", "at a time", "pages/s", "median ms", "p95 ms", "p99 ms", "failed", "generator's cores",
)  # fmt: skip


def cells(row: Closed) -> tuple[str, ...]:
    """A closed load as texts, under HEAD."""
    numbers = (row.median, row.p95, row.p99)
    return (
        row.who,
        str(row.clients),
        f"{row.pages_s:.2f}",
        *(_whole(number) for number in numbers),
        str(row.failed),
        "" if row.generator_cores is None else f"{row.generator_cores:.2f}",
    )


def overload(row: Open) -> list[str]:
    """The open load in words, a fact each."""
    return [
        f"open load: {row.rate:.1f} requests/s for {row.seconds:g} s; "
        f"{row.goodput:.2f} pages/s were read within them",
        f"accepted {row.accepted}: p50 {_whole(row.accepted_p50)} ms, "
        f"p99 {_whole(row.accepted_p99)} ms from when they were due",
        f"refused {row.refused}: p50 {_tenth(row.refused_p50)} ms, "
        f"p99 {_tenth(row.refused_p99)} ms from the body's last byte",
        f"neither accepted nor refused: {row.failed}",
        f"load generator: {row.generator_cores:.2f} cores",
        "server's memory, MiB, before, in the middle, after: "
        + ", ".join(f"{amount:.0f}" for amount in row.memory),
    ]


def words(found: Found) -> list[str]:
    """What is said below the table."""
    best = max(row.pages_s for row in found.closed if row.who == found.opened.who)
    share = found.opened.goodput / best if best else 0.0
    return [
        f"over HTTP at 4 clients: {100 * found.efficiency:.0f} % of load_pipeline's best",
        *overload(found.opened),
        f"goodput under overload: {100 * share:.0f} % of the best closed load",
    ]


def markdown(found: Found, facts: Mapping[str, Any]) -> str:
    """The table, what is said below it, and what it was measured on."""
    lines = ["| " + " | ".join(HEAD) + " |", "| --- " * len(HEAD) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in found.closed]
    lines += ["", *(f"- {line}" for line in words(found))]
    return "\n".join([*lines, *(f"- {key}: {value}" for key, value in facts.items()), ""])


def write(folder: Path, found: Found, facts: Mapping[str, Any]) -> Sequence[Path]:
    """serve.json and serve.md into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "facts": facts,
        "efficiency": found.efficiency,
        "closed": [asdict(row) for row in found.closed],
        "open": asdict(found.opened),
    }
    text = json.dumps(data, ensure_ascii=False, indent=1)
    paths = folder / "serve.json", folder / "serve.md"
    paths[0].write_text(text + "\n", encoding="utf-8")
    paths[1].write_text(markdown(found, facts), encoding="utf-8")
    return paths


def _whole(number: float | None) -> str:
    return "" if number is None else f"{number:.0f}"


def _tenth(number: float | None) -> str:
    return "-" if number is None else f"{number:.1f}"
