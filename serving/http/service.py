"""The work behind the routes: documents in, pages out, within places, turns and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from serving.config.options import Options
from serving.download import UrlFetcher
from serving.errors import BadRequest, InputError, TooLarge
from serving.http.admission import Admission
from serving.http.body import Body, BodyLimits
from serving.http.metrics import Metrics, QueuedRequest
from serving.http.registry import Reader, Registry
from serving.http.settings import Settings
from serving.http.turns import PageScheduler
from serving.imaging.decode import Decoder, Pages
from serving.imaging.formats import Limits
from serving.types import Image, Line, Page

Draw = Callable[[Image, Sequence[Line]], Any]


@dataclass(frozen=True, slots=True)
class Work:
    """What one request asks for."""

    pipeline: str
    """Its name."""
    reader: Reader
    documents: Sequence[bytes]
    options: Options
    pdf_dpi: int = 144
    draw: Draw | None = None
    """Makes what `Reading.picture` holds of each page, where pictures are wanted."""
    one_page: bool = False
    """More are refused: the answer has room for one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One page, read."""

    image: int
    """Which of the request's documents."""
    number: int
    """Which page of it."""
    of: int
    """How many pages the request has, of all its documents."""
    page: Page
    picture: Any = field(default=None, repr=False)


class Service:
    """All that one worker process shares among requests."""

    def __init__(self, settings: Settings, registry: Registry, places: Admission) -> None:
        self.settings = settings
        self.registry = registry
        self.places = places
        self.metrics = Metrics(registry)
        self.turns = PageScheduler(settings.threads)
        self.fetcher = UrlFetcher(
            settings.allow_url_hosts, max_bytes=settings.max_body, seconds=settings.timeout
        )
        self._decoder = Decoder(Limits(settings.max_pixels, settings.max_pages))
        self._room = BodyLimits(settings.bodies)

    def let_in(self, body: Body) -> None:
        """Begin with a request that has a body. Raises Busy, before the body is read."""
        self.places.check()
        self._room.enter(body)

    def read(self, work: Work, gone: Callable[[], bool]) -> Iterator[Reading]:
        """Yield the pages as they are read.

        Formats and limits of all documents are checked before a pixel of any is decoded.
        Raises Busy, InputError, TimedOut, NotReady, and Gone once `gone()` is true.
        """
        give_back = self.places.take()
        try:
            documents = self._open(work)
        except BaseException:
            give_back()
            raise
        pages = sum(document.count for document in documents)
        seconds = self.settings.timeout + pages * self.settings.page_time
        waiting = self.metrics.request_queued(work.pipeline)

        def ended() -> None:
            waiting.end()
            give_back()

        with self.turns.submit(self._steps(work, documents, waiting), ended) as job:
            # The last page is the end: to be told so would take one more turn behind all others.
            yield from islice(job.results(seconds, gone), pages)

    def _steps(
        self, work: Work, documents: Sequence[Pages], waiting: QueuedRequest
    ) -> Generator[Reading, None, None]:
        """Decode and read, a page at each step."""
        waiting.begin()
        count = sum(pages.count for pages in documents)
        for index, pages in enumerate(documents):
            for number in range(pages.count):
                start = time.perf_counter()
                with _index(index, work):
                    image = next(pages)
                decoded = {"decode": (time.perf_counter() - start) * 1e3}
                page = work.reader.read(image, work.options)
                page = replace(page, timing={**decoded, **page.timing})
                self.metrics.page_read(work.pipeline, page)
                picture = None if work.draw is None else work.draw(image, page.lines)
                del image  # not beside the next one, nor while this request waits for its turn
                yield Reading(index, number, count, page, picture)

    def _open(self, work: Work) -> list[Pages]:
        documents = []
        for index, data in enumerate(work.documents):
            with _index(index, work):
                documents.append(self._decoder.pages(data, pdf_dpi=work.pdf_dpi))
        pages = sum(document.count for document in documents)
        if work.one_page and pages > 1:
            raise BadRequest(
                f"format=image draws one page, and there are {pages}; send them one by one or "
                "ask for another format"
            )
        if pages > self.settings.max_pages:
            raise TooLarge(
                f"the request has {pages} pages; the limit is {self.settings.max_pages} "
                "(--max-pages): send them in parts"
            )
        return documents

    def close(self) -> None:
        """End the threads and the decoder processes, then close the pipelines and the places."""
        self.turns.close()
        self._decoder.close()
        self.registry.close()
        self.places.close()


@contextmanager
def _index(index: int, work: Work) -> Iterator[None]:
    """Say in an error which of several documents is at fault."""
    try:
        yield
    except InputError as error:
        error.index = index if len(work.documents) > 1 else None
        raise
