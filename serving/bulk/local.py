"""Worker processes on this machine, as many as the engine plan found best for a server.

Each is `python -m serving.bulk.local`: its first request is a `ReadSettings` with its slot; every
next one is an item, and responses come as pages are read. A worker that ends is replaced, and its
items are read again.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from serving.bulk.inputs import Document, Item
from serving.bulk.read import Reader, ReadSettings, Row
from serving.child import ChildProcess, ParentConnection
from serving.errors import EngineError, OcrError, WorkerLost
from serving.machine import share, usable_cores
from serving.plan.load import check_plan
from serving.plan.plan import planned_workers

_AHEAD = 2
"""Items that wait in a worker, so that no core waits for this process."""


class LocalExecutor:
    """The workers. Raises PlanError where the engines are not built, ModelError, DeviceError."""

    def __init__(self, reading: ReadSettings) -> None:
        cores = usable_cores()
        check_plan(reading.config, reading.models, cores, reading.device)
        count = planned_workers(reading.models, [reading.config], cores, reading.device)
        self._callers = share(cores, count)
        self._count = count
        self._spec = {"reading": reading.to_dict(), "cores": cores, "workers": count}
        self._workers: list[_Worker] = []
        self.settings: Mapping[str, Any] = reading.settings()
        self.slots = count * (self._callers + _AHEAD)

    def submit(self, item: Item) -> Future[list[Row]]:
        """See `Executor`."""
        for slot in range(self._count):
            if slot == len(self._workers):
                self._workers.append(_Worker({**self._spec, "slot": slot}))
            elif self._workers[slot].ended:
                self._workers[slot] = _Worker({**self._spec, "slot": slot})
        return min(self._workers, key=lambda worker: len(worker.items)).submit(item)

    def close(self) -> None:
        """End the workers, busy ones too."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """The parent's end of a worker."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.ended = False
        self.items: dict[int, Future[list[Row]]] = {}
        """Those it has, by number."""
        self._lock = threading.Lock()
        self._number = 0
        command = [sys.executable, "-P", "-m", "serving.bulk.local"]
        self._child = ChildProcess(f"worker {spec['slot'] + 1}", command)
        self._child.send(**spec)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> Future[list[Row]]:
        future: Future[list[Row]] = Future()
        with self._lock:
            if self.ended:
                future.set_exception(WorkerLost("the worker has ended"))
                return future
            self._number += 1
            self.items[self._number] = future
        document = asdict(item.document)
        with suppress(ValueError):  # it has just ended: then _listen fails the future
            self._child.send(
                number=self._number, document=document, first=item.first, count=item.count
            )
        return future

    def close(self) -> None:
        self._child.close()
        self._thread.join()

    def _listen(self) -> None:
        """Answer futures until the child ends."""
        error: OcrError
        try:
            while "error" not in (response := self._child.receive()):
                if "number" in response:
                    with self._lock:
                        future = self.items.pop(response["number"])
                    future.set_result(response["rows"])
            error = EngineError(response["error"])  # it cannot start: nor would another one
        except EngineError as ended:
            error = WorkerLost(str(ended))
        except ValueError:  # closed by this process
            error = WorkerLost("the run has ended")
        with self._lock:
            self.ended = True
            left = list(self.items.values())
            self.items.clear()
        for future in left:
            future.set_exception(error)


def main() -> None:
    """One worker: answers until the parent ends."""
    parent = ParentConnection()
    requests = parent.requests()
    spec = next(requests)
    cores, workers = spec["cores"], spec["workers"]
    try:
        reader = Reader(ReadSettings.from_dict(spec["reading"]), cores, spec["slot"], workers)
    except OcrError as error:
        parent.respond(error=str(error))
        return
    lock = threading.Lock()

    def read(number: int, document: dict[str, Any], first: int, count: int | None) -> None:
        rows = reader.read(Item(Document(**document), first, count))
        with lock:
            parent.respond(number=number, rows=rows)

    with ThreadPoolExecutor(share(cores, workers)) as pool:
        for request in requests:
            pool.submit(read, **request)


if __name__ == "__main__":
    main()
