"""Images of many callers in one call: on a GPU 16 lines cost little more than one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from serving.engines.base import Array, Engine, EngineSpec, batch_sizes
from serving.errors import EngineError


class _Ticket:
    """One caller's image and, in the end, its part of the outputs or the error of its call."""

    def __init__(self, image: Array) -> None:
        self.image = image
        self.outputs: tuple[Array, ...] = ()
        self.error: BaseException | None = None
        self.done = threading.Event()


class DynamicBatcher(Engine):
    """Groups images of one shape into calls of 1, 2, 4, ... up to `spec.batch` of them.

    Nobody waits for company: a free stream takes what is there, and what comes in meanwhile is the
    next batch. The image that waits longest says which shape is next. A batch is filled up to its
    size with blank images, so that the engine meets few shapes; an image's result does not depend
    on its neighbours.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.spec)
        self.inputs, self.max_input_size, self.nodes = (
            engine.inputs,
            engine.max_input_size,
            engine.nodes,
        )
        self.tell: Callable[[int], None] | None = None
        """Called with how many callers' images are in it, blank ones not counted."""
        self._engine = engine
        self._waiting: list[_Ticket] = []
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{i}", daemon=True)
            for i in range(engine.spec.streams)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        if more:  # a plain graph of several inputs: not ours to group
            return self._engine.run(images, *more)
        tickets = [_Ticket(image) for image in images]
        with self._changed:
            if self._closed:
                raise EngineError("the engine is closed")
            self._waiting.extend(tickets)
            self._changed.notify()
        for ticket in tickets:
            ticket.done.wait()
        for ticket in tickets:
            if ticket.error is not None:
                raise ticket.error
        return tuple(np.stack(column) for column in zip(*(t.outputs for t in tickets), strict=True))

    def warm(self, height: int, width: int) -> None:
        for size in batch_sizes(self.spec.batch):
            self._engine.run(np.full((size, height, width, 3), 255, np.uint8))

    @property
    def waiting(self) -> int:
        """Images that are in no call yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Answer what is waiting, then free the engine."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._engine.close()

    def _work(self) -> None:
        while tickets := self._take():
            try:
                if self.tell is not None:
                    self.tell(len(tickets))
                outputs = self._engine.run(self._filled(tickets))
                for place, ticket in enumerate(tickets):
                    ticket.outputs = tuple(output[place] for output in outputs)
            except BaseException as error:
                for ticket in tickets:
                    ticket.error = error
            for ticket in tickets:
                ticket.done.set()

    def _take(self) -> list[_Ticket]:
        """The next batch, in the order of arrival; empty when closed and nothing waits."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            shape = self._waiting[0].image.shape
            alike = [ticket for ticket in self._waiting if ticket.image.shape == shape]
            taken = alike[: self.spec.batch]
            gone = set(map(id, taken))
            self._waiting = [ticket for ticket in self._waiting if id(ticket) not in gone]
            if self._waiting:
                self._changed.notify()
            return taken

    def _filled(self, tickets: Sequence[_Ticket]) -> Array:
        """Their images as one batch, with blank ones up to the next size."""
        size = next(size for size in batch_sizes(self.spec.batch) if size >= len(tickets))
        first = tickets[0].image
        batch = np.zeros((size, *first.shape), first.dtype)
        for place, ticket in enumerate(tickets):
            batch[place] = ticket.image
        return batch


def callers(spec: EngineSpec) -> int:
    """How many callers keep an engine busy: one a stream, or so many that its batches fill."""
    return spec.streams * (2 * spec.batch if spec.dynamic_batching else 1)
