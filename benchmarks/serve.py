"""Load test: throughput, latency, refusals and memory of a server.

Closed-loop load in rounds, in turn with `load_pipeline` on the same images; then open-loop load at
twice the best throughput.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import systems
from benchmarks.compare import word_f1
from benchmarks.servers import OurServer, PaddleXServer, Server
from serving.child import ChildProcess
from serving.errors import EngineError
from serving.evaluate.labels import LabelledPage

DIRECT = "load_pipeline"
"""This project without HTTP; its clients are threads."""
_DIRECT_THREADS = (1, 2, 4)
_OVERLOAD = 2.0
"""The rate of the open-loop load over the best throughput."""
_WARM_UP = 50
"""Pages at most that are read, all of them once, before anything is measured."""
_PEER_CLIENTS = 4
"""PaddleX's server gets at most so many: it reads one page at a time."""
_OK, _REFUSED = 200, 429


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Clients that send again once they were answered. Latencies in ms, from sending to answer."""

    system: str
    clients: int
    pages_per_second: float
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    failed: int = 0
    """Answers other than 200, or none."""
    generator_cores: float | None = None
    """Cores that the load generator used."""


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Requests at a fixed rate, whether answered or not. Latencies in ms."""

    system: str
    rate: float
    seconds: float
    goodput: float
    """Pages answered with 200 a second, within those seconds."""
    accepted: int
    accepted_p50: float | None
    accepted_p99: float | None
    """From when a request was due to its answer."""
    refused: int
    refused_p50: float | None
    refused_p99: float | None
    """From the body's last byte to the answer."""
    failed: int
    """Neither accepted nor refused."""
    generator_cores: float
    answered: float
    """Requests answered with 200 a second, until the last of them was."""
    memory: tuple[float, ...]
    """MiB of the server before, halfway and after."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Medians of the closed loops' rounds, in the order they ran, and the open loop."""

    closed: Sequence[ClosedLoop]
    open: OpenLoop
    http_efficiency: float
    """Throughput over HTTP with 4 clients over the best of `load_pipeline`: median of rounds."""
    word_f1: float
    """In percent: the mean over pages, read over HTTP; see `compare.word_f1`."""

    @property
    def goodput_share(self) -> float:
        """Goodput of the open loop over the best throughput of the closed loops."""
        rates = [row.pages_per_second for row in self.closed if row.system == self.open.system]
        return self.open.goodput / max(rates)


def load_test(
    pipeline: Path,
    models: Path,
    pages: Sequence[LabelledPage],
    scratch: Path,
    *,
    clients: Sequence[int] = (1, 4, 32),
    rounds: int = 3,
    seconds: float = 10.0,
    open_seconds: float = 60.0,
    paddlex: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> LoadResult:
    """Start the servers, load them, stop them.

    seconds: of each closed loop. paddlex: the Python that serves PaddleX.
    Raises EngineError where a server does not start, or reads nothing within a closed loop.
    """
    images = [page.path for page in pages]
    with ExitStack() as stack:
        progress("starting")
        ours = stack.enter_context(closing(OurServer({"accurate": pipeline}, models)))
        scores = [word_f1(page.texts, ours.read(page.path.read_bytes())) for page in pages]
        requests = [ours.request(image.read_bytes()) for image in images]
        generator = stack.enter_context(closing(start_generator(ours, requests, scratch / "ours")))
        direct = stack.enter_context(closing(systems.System(systems.ours(pipeline, models))))
        direct.read_concurrently(images[:_WARM_UP], callers=2)
        loops = _closed_loops(ours, generator, clients, seconds)
        for threads in _DIRECT_THREADS:
            loops[DIRECT, threads] = partial(_direct_loop, direct, images, threads, seconds)
        if paddlex is not None:
            [spec] = systems.paddlex_on(
                "onnxruntime", pipeline, models, paddlex, scratch / "paddlex"
            )
            peer = stack.enter_context(closing(PaddleXServer(spec.settings["yaml"], paddlex)))
            requests = [peer.request(image.read_bytes()) for image in images]
            peers = stack.enter_context(closing(start_generator(peer, requests, scratch / "peer")))
            few = [count for count in clients if count <= _PEER_CLIENTS]
            loops |= _closed_loops(peer, peers, few, seconds)
        found = _interleaved(loops, rounds, progress)
        closed = [medians(rows) for rows in found.values()]
        best = max(row.pages_per_second for row in closed if row.system == ours.name)
        if best == 0:
            raise EngineError(
                f"load test: no page was read within {seconds:g} s; give a longer --phase"
            )
        progress(f"open loop at {_OVERLOAD:g} times the throughput, for {open_seconds:g} s")
        overload = _open_loop(ours, generator, _OVERLOAD * best, open_seconds)
    efficiency = _http_efficiency(found, ours.name)
    return LoadResult(closed, overload, efficiency, 100 * float(np.mean(scores)))


Loops = dict[tuple[str, int], Callable[[], ClosedLoop]]
"""By system and number of clients."""


def _closed_loops(
    server: Server, generator: ChildProcess, clients: Sequence[int], seconds: float
) -> Loops:
    def run(count: int) -> ClosedLoop:
        answer = generator.request(clients=count, seconds=seconds)
        return closed_loop(server.name, count, seconds, answer)

    return {(server.name, count): partial(run, count) for count in clients}


def _direct_loop(
    system: systems.System, images: Sequence[Path], threads: int, seconds: float
) -> ClosedLoop:
    done = system.read_for(seconds, images, threads)
    return ClosedLoop(DIRECT, threads, pages_per_second(done, seconds, len(images)))


def _interleaved(
    loops: Loops, rounds: int, progress: Callable[[str], None]
) -> dict[tuple[str, int], list[ClosedLoop]]:
    """Every loop once a round, so that a noisy machine slows all of them alike."""
    found: dict[tuple[str, int], list[ClosedLoop]] = {key: [] for key in loops}
    for number in range(rounds):
        for (system, clients), run in loops.items():
            progress(f"round {number + 1} of {rounds}: {system}, concurrency {clients}")
            found[system, clients].append(run())
    return found


def _open_loop(server: Server, generator: ChildProcess, rate: float, seconds: float) -> OpenLoop:
    memory = [server.memory()]
    halfway = threading.Timer(seconds / 2, lambda: memory.append(server.memory()))
    halfway.start()
    answer = generator.request(rate=rate, seconds=seconds)
    halfway.join()
    memory.append(server.memory())
    return open_loop(server.name, rate, seconds, answer, memory)


def _http_efficiency(rounds: Mapping[tuple[str, int], Sequence[ClosedLoop]], ours: str) -> float:
    """With 4 clients (or the number nearest to it) over the best number of threads."""
    counts = [clients for system, clients in rounds if system == ours]
    served = rounds[ours, min(counts, key=lambda clients: abs(clients - 4))]
    direct = [rows for (system, _), rows in rounds.items() if system == DIRECT]
    best = max(direct, key=lambda rows: medians(rows).pages_per_second)
    ratios = [
        row.pages_per_second / base.pages_per_second
        for row, base in zip(served, best, strict=True)
        if base.pages_per_second
    ]
    return sorted(ratios)[len(ratios) // 2] if ratios else 0.0


def start_generator(server: Server, requests: Sequence[bytes], folder: Path) -> ChildProcess:
    """A load generator for the server, which has then read every page once.

    requests: whole HTTP requests, kept in `folder`, which must not exist yet.
    """
    folder.mkdir()
    for number, request in enumerate(requests):
        (folder / f"{number:06}").write_bytes(request)
    host, port = server.address
    script = Path(__file__).resolve().with_name("load_generator.py")
    child = ChildProcess("the load generator", [sys.executable, script, host, str(port), folder])
    child.request(clients=2, seconds=math.inf, max_calls=min(_WARM_UP, len(requests)))
    return child


def closed_loop(system: str, clients: int, seconds: float, answer: dict[str, Any]) -> ClosedLoop:
    """The figures of what the load generator answered."""
    calls = np.asarray(answer["calls"], float).reshape(-1, 4)
    accepted = calls[calls[:, 3] == _OK]
    latency = (accepted[:, 2] - accepted[:, 0]) * 1e3
    return ClosedLoop(
        system,
        clients,
        pages_per_second(accepted[:, 2].tolist(), seconds, answer["files"]),
        _percentile(latency, 50),
        _percentile(latency, 95),
        _percentile(latency, 99),
        len(calls) - len(accepted),
        answer["cpu"] / answer["wall"],
    )


def open_loop(
    system: str, rate: float, seconds: float, answer: dict[str, Any], memory: Sequence[float]
) -> OpenLoop:
    """The figures of what the load generator answered."""
    calls = np.asarray(answer["calls"], float).reshape(-1, 4)
    accepted, refused = calls[calls[:, 3] == _OK], calls[calls[:, 3] == _REFUSED]
    latency = (accepted[:, 2] - accepted[:, 0]) * 1e3
    refusal = np.maximum(0.0, refused[:, 2] - refused[:, 1]) * 1e3
    return OpenLoop(
        system=system,
        rate=rate,
        seconds=seconds,
        goodput=float((accepted[:, 2] <= seconds).sum() / seconds),
        accepted=len(accepted),
        accepted_p50=_percentile(latency, 50),
        accepted_p99=_percentile(latency, 99),
        refused=len(refused),
        refused_p50=_percentile(refusal, 50),
        refused_p99=_percentile(refusal, 99),
        failed=len(calls) - len(accepted) - len(refused),
        generator_cores=answer["cpu"] / answer["wall"],
        answered=len(accepted) / float(accepted[:, 2].max()) if len(accepted) else 0.0,
        memory=tuple(memory),
    )


def pages_per_second(done: Sequence[float], seconds: float, files: int = 1) -> float:
    """From the first page done to the last within `seconds`, over whole rounds of `files` pages.

    Before the first and after the last page fewer are in work, and part of a round may be easier
    than the whole. If no round was finished: over all pages; if fewer than two pages were done in
    time: all pages over the time to the last one.
    """
    times = sorted(time for time in done if time <= seconds)
    rounds = (len(times) - 1) // files
    last = rounds * files if rounds > 0 else len(times) - 1
    if last < 1 or times[last] <= times[0]:
        return len(done) / max(done) if done else 0.0
    return last / (times[last] - times[0])


def medians(rounds: Sequence[ClosedLoop]) -> ClosedLoop:
    """Several rounds of one closed loop: the median of each figure; failures add up."""

    def median(name: str) -> Any:
        values = [value for row in rounds if (value := getattr(row, name)) is not None]
        return float(np.median(values)) if values else None

    names = ("pages_per_second", "p50", "p95", "p99", "generator_cores")
    return ClosedLoop(
        rounds[0].system,
        rounds[0].clients,
        failed=sum(row.failed for row in rounds),
        **{name: median(name) for name in names},
    )


def _percentile(values: Any, percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None
