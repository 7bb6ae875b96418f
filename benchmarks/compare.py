"""One run of the benchmark: who takes part, what is measured of them, what was found."""

from __future__ import annotations

import datetime
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.chart import figure
from benchmarks.contender import Contender
from benchmarks.measure import measure
from benchmarks.profile import profile
from benchmarks.rendered import rendered_pages
from benchmarks.report import Report, rows
from benchmarks.throughput import throughput
from serving.evaluate import labelled_pages
from serving.machine import cpu_name, usable_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What to run. data: folder of labelled pages; without it, pages are rendered."""

    pipelines: Sequence[Path]
    models: Path
    data: Path | None = None
    groups: Sequence[str] = ()
    paddlex: Path | None = None
    rapidocr: Path | None = None
    rounds: int = 2
    concurrency: Sequence[int] = ()

    def run(self, tell: Callable[[str], None] = lambda _: None) -> Report:
        """Raises ConfigError for the data, PlanError and EngineError for a contender."""
        figure(1, 1)  # a chart that cannot be drawn is told before the work, not after
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            pages = labelled_pages(self.data, self.groups) if self.data else rendered_pages(scratch)
            specs = [peers.ours(path, self.models, Path(sys.executable)) for path in self.pipelines]
            specs += peers.peers(
                self.pipelines[0], self.models, self.paddlex, self.rapidocr, scratch
            )
            contenders: list[Contender] = []
            with ExitStack() as running:
                for spec in specs:
                    tell(f"loading {spec.name}")
                    contenders.append(running.enter_context(closing(Contender(spec))))
                found = measure(contenders, pages, rounds=self.rounds, tell=tell)
                same = [contender for contender in contenders if contender.table == "same"]
                crowds = throughput(same, pages, found, self.concurrency, tell=tell)
            # Alone on the machine: no contender runs any more.
            profiles = [
                found
                for path in self.pipelines
                for found in profile(path, pages, self.models, tell=tell)
            ]
        return Report(
            self._facts(contenders),
            rows(found, {contender.name: contender.start_ms for contender in contenders}),
            found,
            crowds,
            profiles,
        )

    def _facts(self, contenders: Sequence[Contender]) -> dict[str, Any]:
        return {
            "machine": f"{cpu_name()}, {usable_cores()} cores",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "pages": str(self.data) if self.data else "rendered by this package",
            "rounds": self.rounds,
            **{contender.name: contender.version for contender in contenders},
        }
