"""Mixed load: three pipelines in one server, small images beside pages and long documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import corpus
from benchmarks.serve import OpenLoop, closed_loop, open_loop, start_generator
from benchmarks.servers import OurServer
from benchmarks.soak import jpeg, pdf
from serving.child import ChildProcess

KINDS = {"small images": 150, "pages": 50, "long documents": 8}
"""How many of each a closed loop has read that measures the server's capacity."""
LOAD = 0.7
"""Of the server's capacity, in each open loop that is judged."""
_CLIENTS = 4
"""Of the closed loops."""
_DOCUMENT_PAGES = 10
_SMALL = (slice(100, 400), slice(100, 500))
"""What a small image shows of a page: a few lines."""
_MIN_ANSWERED = 0.8
"""A kind starves if its answers come at less than this share of the rate of its requests."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of requests in one open loop."""

    load: str
    kind: str
    pipeline: str
    share: float
    """Its rate over its capacity: what a closed loop of this kind alone reaches."""
    figures: OpenLoop


@dataclass(frozen=True, slots=True)
class MixedLoad:
    """Small images alone at LOAD, alone at the rate that they have in the mix, and in the mix."""

    rows: Sequence[Row]

    @property
    def delay(self) -> float:
        """The p99 of small images in the mix over theirs alone, both at LOAD."""
        small = [row.figures.accepted_p99 for row in self.rows if row.kind == next(iter(KINDS))]
        alone, *_, mixed = small
        return mixed / alone if mixed and alone else float("inf")

    @property
    def starved(self) -> list[str]:
        """The kinds of the mix of which some are refused or fail, or that fall behind."""
        mix = [(row.kind, row.figures) for row in self.rows[-len(KINDS) :]]
        return [
            kind
            for kind, found in mix
            if found.failed or found.refused or found.answered < _MIN_ANSWERED * found.rate
        ]


@dataclass(frozen=True, slots=True)
class _Source:
    """Sends one kind of requests. `capacity`: what a closed loop reaches, in requests a second."""

    kind: str
    pipeline: str
    generator: ChildProcess
    capacity: float


def mixed_load(
    pipelines: Sequence[Path],
    models: Path,
    scratch: Path,
    *,
    seconds: float = 60.0,
    calls: Mapping[str, int] = KINDS,
    document_pages: int = _DOCUMENT_PAGES,
    progress: Callable[[str], None] = lambda _: None,
) -> MixedLoad:
    """Serve the pipelines, one for each of KINDS, and load them; all images are rendered here.

    seconds: of each open loop. calls: of each closed loop, by kind.
    Raises EngineError where the server does not start.
    """
    part = LOAD / len(KINDS)
    with ExitStack() as stack:
        # Two kinds may have the same YAML.
        served = {f"{number}-{path.stem}": path for number, path in enumerate(pipelines)}
        server = stack.enter_context(closing(OurServer(served, models)))
        sources = []
        for kind, name, files in zip(KINDS, served, _files(document_pages), strict=True):
            progress(f"{kind} alone, {_CLIENTS} clients")
            requests = [server.request(file, name) for file in files]
            generator = start_generator(server, requests, scratch / name)
            stack.enter_context(closing(generator))
            answer = generator.request(clients=_CLIENTS, seconds=math.inf, max_calls=calls[kind])
            capacity = closed_loop(kind, _CLIENTS, math.inf, answer).pages_per_second
            sources.append(_Source(kind, name, generator, capacity))
        rows = []
        for load, share, senders in (
            ("alone", LOAD, sources[:1]),
            ("alone, at its rate in the mix", part, sources[:1]),
            ("mixed", part, sources),
        ):
            progress(f"{load}, for {seconds:g} s")
            rows += _open_loops(load, share, senders, seconds)
    return MixedLoad(rows)


def _open_loops(load: str, share: float, sources: Sequence[_Source], seconds: float) -> list[Row]:
    """All at once, each at this share of its capacity."""
    rates = [share * source.capacity for source in sources]
    for source, rate in zip(sources, rates, strict=True):
        source.generator.send(rate=rate, seconds=seconds)
    found = [
        open_loop(source.kind, rate, seconds, source.generator.receive(), ())
        for source, rate in zip(sources, rates, strict=True)
    ]
    return [
        Row(load, source.kind, source.pipeline, share, figures)
        for source, figures in zip(sources, found, strict=True)
    ]


def _files(document_pages: int) -> tuple[list[bytes], ...]:
    """The files of each of KINDS."""
    pages = [sample.image for sample in corpus.pages(count=6)]
    return (
        [jpeg(page[_SMALL]) for page in pages],
        [jpeg(page) for page in pages],
        [pdf(page, document_pages) for page in pages[:2]],
    )
