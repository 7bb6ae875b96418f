"""Dynamic batching: images of many callers in one engine call.

On a GPU a call with 16 lines takes little longer than one with a single line.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from serving.engines.base import Array, Engine, EngineSpec, WrappedEngine, batch_sizes
from serving.errors import EngineError


class _Request:
    """One image of a caller; later its outputs, or the error of its call."""

    def __init__(self, image: Array) -> None:
        self.image = image
        self.outputs: tuple[Array, ...] = ()
        self.error: BaseException | None = None
        self.done = threading.Event()


class DynamicBatcher(WrappedEngine):
    """Groups images of one shape into batches of 1, 2, 4, ... up to `spec.batch`.

    A batch is never delayed to fill it: a free stream takes what is queued, and what arrives
    meanwhile is the next batch. The oldest image determines the shape of the next batch. Batches
    are padded with blank images to the next size, so that the engine meets few shapes. An image's
    outputs do not depend on the other images of its batch.
    """

    def __init__(self, engine: Engine, on_batch: Callable[[int], None] | None = None) -> None:
        """on_batch: called before each call with its number of images, padding not counted."""
        super().__init__(engine)
        self._on_batch = on_batch
        self._queue: list[_Request] = []
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{i}", daemon=True)
            for i in range(engine.spec.streams)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        if more:  # a plain graph with several inputs is not batched
            return self._engine.run(images, *more)
        requests = [_Request(image) for image in images]
        with self._changed:
            if self._closed:
                raise EngineError("the engine is closed")
            self._queue.extend(requests)
            self._changed.notify()
        for request in requests:
            request.done.wait()
        for request in requests:
            if request.error is not None:
                raise request.error
        return tuple(np.stack(part) for part in zip(*(r.outputs for r in requests), strict=True))

    def warm(self, height: int, width: int) -> None:
        for size in batch_sizes(self.spec.batch):
            self._engine.run(np.full((size, height, width, 3), 255, np.uint8))

    @property
    def waiting(self) -> int:
        """Number of queued images."""
        return len(self._queue)

    def close(self) -> None:
        """Run what is queued, then free the engine."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._engine.close()

    def _work(self) -> None:
        while requests := self._next_batch():
            try:
                if self._on_batch is not None:
                    self._on_batch(len(requests))
                outputs = self._engine.run(self._padded(requests))
                for index, request in enumerate(requests):
                    request.outputs = tuple(output[index] for output in outputs)
            except BaseException as error:
                for request in requests:
                    request.error = error
            for request in requests:
                request.done.set()

    def _next_batch(self) -> list[_Request]:
        """The next requests of one shape, oldest first; empty once closed and drained."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return []
                self._changed.wait()
            shape = self._queue[0].image.shape
            same_shape = [request for request in self._queue if request.image.shape == shape]
            batch = same_shape[: self.spec.batch]
            taken = set(map(id, batch))
            self._queue = [request for request in self._queue if id(request) not in taken]
            if self._queue:
                self._changed.notify()
            return batch

    def _padded(self, requests: Sequence[_Request]) -> Array:
        """The images as one batch, padded with blank ones to the next batch size."""
        size = next(size for size in batch_sizes(self.spec.batch) if size >= len(requests))
        first = requests[0].image
        batch = np.zeros((size, *first.shape), first.dtype)
        for index, request in enumerate(requests):
            batch[index] = request.image
        return batch


def callers(spec: EngineSpec) -> int:
    """Number of concurrent callers that keep an engine busy: twice what fills its batches."""
    return spec.streams * (2 * spec.batch if spec.dynamic_batching else 1)
