"""Closed loads in interleaved rounds beside `load_pipeline`, then an open load."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.serve_phases import Closed, Open, closed, opened, pages_a_second, together
from benchmarks.serve_servers import Ours, PaddleX, Server
from serving.errors import EngineError
from serving.plan.child import Child

DIRECT = "load_pipeline"
"""Its `clients` are threads."""
_HERE = Path(__file__).resolve()
_WARM = 50
"""Pages at most that are read, all of them once, before anything is measured."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to run."""

    pipeline: Path
    models: Path
    images: Sequence[Path]
    clients: Sequence[int] = (1, 4, 32)
    threads: Sequence[int] = (1, 2, 4)
    rounds: int = 3
    seconds: float = 10.0
    """Of each closed phase."""
    open_seconds: float = 60.0
    overload: float = 2.0
    """The open load's rate over the best that closed loads showed."""
    options: Sequence[str] = ()
    """More options of `ocr-hpi serve`."""


@dataclass(frozen=True, slots=True)
class Found:
    """What it showed: each phase's rounds together, in the order they ran."""

    closed: Sequence[Closed]
    opened: Open
    efficiency: float
    """Pages a second over HTTP at 4 clients over the best of `load_pipeline`: median of rounds."""


def run(
    asked: Asked,
    scratch: Path,
    *,
    paddlex: Callable[[], PaddleX] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Found:
    """Start the servers, load them, stop them.

    Raises EngineError where one does not start or reads nothing within a phase.
    """
    with contextlib.ExitStack() as stack:
        tell("starting")
        ours = stack.enter_context(
            contextlib.closing(
                Ours(asked.pipeline, asked.models, Path(sys.executable), asked.options)
            )
        )
        load = stack.enter_context(contextlib.closing(_generator(ours, asked, scratch / "ours")))
        phases = _of_server(ours, load, asked.clients, asked.seconds)
        direct = stack.enter_context(contextlib.closing(_direct(asked, scratch / "images")))
        phases |= {
            (DIRECT, threads): partial(_read, direct, threads, asked.seconds)
            for threads in asked.threads
        }
        if paddlex is not None:
            peer = stack.enter_context(contextlib.closing(paddlex()))
            peers = stack.enter_context(
                contextlib.closing(_generator(peer, asked, scratch / "paddlex"))
            )
            few = [clients for clients in asked.clients if clients <= 4]
            phases |= _of_server(peer, peers, few, asked.seconds)
        rounds = _interleaved(phases, asked.rounds, tell)
        means = [together(found) for found in rounds.values()]
        best = max(found.pages_s for found in means if found.who == ours.name)
        if best == 0:
            raise EngineError(
                f"load: no page was read within {asked.seconds:g} s; give a longer --phase"
            )
        tell(f"{asked.overload:g} times the load it can bear, for {asked.open_seconds:g} s")
        overload = _overload(ours, load, asked.overload * best, asked.open_seconds)
    return Found(means, overload, _efficiency(rounds, ours.name))


Phases = dict[tuple[str, int], Callable[[], Closed]]


def _of_server(server: Server, load: Child, clients: Sequence[int], seconds: float) -> Phases:
    return {(server.name, n): partial(_close, server, load, n, seconds) for n in clients}


def _interleaved(
    phases: Phases, rounds: int, tell: Callable[[str], None]
) -> dict[tuple[str, int], list[Closed]]:
    """Every phase once a round, so that a noisy machine hits all alike."""
    found: dict[tuple[str, int], list[Closed]] = {phase: [] for phase in phases}
    for number in range(rounds):
        for (who, clients), run_phase in phases.items():
            tell(f"round {number + 1} of {rounds}: {who}, {clients} at a time")
            found[who, clients].append(run_phase())
    return found


def _close(server: Server, load: Child, clients: int, seconds: float) -> Closed:
    answer = load.ask(clients=clients, seconds=seconds)
    return closed(server.name, clients, seconds, answer)


def _read(direct: Child, threads: int, seconds: float) -> Closed:
    answer = direct.ask(threads=threads, seconds=seconds)
    return Closed(DIRECT, threads, pages_a_second(answer["done"], seconds, answer["lap"]))


def _overload(server: Server, load: Child, rate: float, seconds: float) -> Open:
    memory = [server.memory()]
    middle = threading.Timer(seconds / 2, lambda: memory.append(server.memory()))
    middle.start()
    answer = load.ask(rate=rate, seconds=seconds)
    middle.join()
    memory.append(server.memory())
    return opened(server.name, rate, seconds, answer, memory)


def _efficiency(rounds: Mapping[tuple[str, int], Sequence[Closed]], ours: str) -> float:
    """Ours at 4 clients (or the number nearest to it) over the best number of threads."""
    counts = [clients for who, clients in rounds if who == ours]
    served = rounds[ours, min(counts, key=lambda clients: abs(clients - 4))]
    direct = [found for (who, _), found in rounds.items() if who == DIRECT]
    best = max(direct, key=lambda found: together(found).pages_s)
    ratios = [a.pages_s / b.pages_s for a, b in zip(served, best, strict=True) if b.pages_s]
    return sorted(ratios)[len(ratios) // 2] if ratios else 0.0


def _generator(server: Server, asked: Asked, folder: Path) -> Child:
    """The load generator for a server, which has now read every page once."""
    folder.mkdir()
    for number, image in enumerate(asked.images):
        (folder / f"{number:06}").write_bytes(server.request(image.read_bytes()))
    host, port = server.address
    child = Child(
        "the load generator", [sys.executable, _file("serve_load"), host, str(port), folder]
    )
    child.ask(clients=2, seconds=math.inf, most=min(_WARM, len(asked.images)))
    return child


def _direct(asked: Asked, folder: Path) -> Child:
    folder.mkdir()
    for number, image in enumerate(asked.images):
        (folder / f"{number:06}").write_bytes(image.read_bytes())
    words = (sys.executable, _file("serve_direct"), asked.pipeline, asked.models, folder)
    child = Child(DIRECT, [str(word) for word in words])
    child.ask(threads=2, seconds=math.inf, most=min(_WARM, len(asked.images)))
    return child


def _file(name: str) -> Path:
    return _HERE.with_name(f"{name}.py")
