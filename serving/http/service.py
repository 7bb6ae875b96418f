"""The work behind the routes: documents in, pages out, within permits, page slots and time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import ClientDisconnected

from serving.config.options import Options
from serving.download import Url, UrlFetcher
from serving.errors import BadRequest, InputError, TimedOut, TooLarge
from serving.http.admission import Admission, PageSlots
from serving.http.body import Body
from serving.http.context import add_timing
from serving.http.gunicorn.sockets import hung_up
from serving.http.jobs import Job, JobRequest, JobRunner, Spool
from serving.http.logs import add_log_fields
from serving.http.metrics import Metrics
from serving.http.registry import Registry, ServedPipeline
from serving.http.settings import Settings
from serving.imaging.decode import Decoder, Pages
from serving.imaging.formats import ALL_PAGES, Limits, PageRanges
from serving.imaging.sandbox.client import PageInfo
from serving.output.formats import Check
from serving.output.paddlex import data_info, infer_answer
from serving.output.pages import Failure, ReadPage
from serving.types import Image, Line

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from serving.http.shadow import Shadow

Draw = Callable[[Image, Sequence[Line]], Any]


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What one request wants to have read."""

    name: str
    """Of the pipeline."""
    pipeline: ServedPipeline
    documents: Sequence[bytes]
    options: Options
    environ: WSGIEnvironment
    pdf_dpi: int = 144
    ranges: PageRanges = ALL_PAGES
    """The pages that are read of each document."""
    draw: Draw | None = None
    """Makes `ReadPage.picture` from each page, where pictures are wanted."""
    check: Check | None = None
    """Refuses a document before any is read."""
    pdf_text: bool = False
    """Take a PDF page's own text where it is all there."""
    partial: bool = False
    """Yield a Failure for what cannot be decoded, instead of raising its error."""
    one_page: bool = False
    """Refuse more: the answer has room for one."""
    skip: int = 0
    """Pages at the beginning that have been read before."""
    job_check: Callable[[], None] | None = None
    """Of a job, which waits behind requests for as long as it takes: raises once it is to stop."""


class Service:
    """What the requests of one worker process share."""

    def __init__(self, settings: Settings, registry: Registry, admission: Admission) -> None:
        self.settings = settings
        self.registry = registry
        self.admission = admission
        self.metrics = Metrics(registry)
        self.slots = {name: PageSlots(settings.threads) for name in settings.pipelines}
        self.fetcher = UrlFetcher(
            settings.allow_url_hosts, max_bytes=settings.max_body, seconds=settings.timeout
        )
        self.decoder = Decoder(Limits(settings.max_pixels, settings.max_pages))
        self.shadow: Shadow | None = None
        if settings.shadows:
            from serving.http.shadow import Shadow  # here: what scores texts takes 45 ms to import

            self.shadow = Shadow(
                settings.shadows,
                settings.shadow_share,
                lambda: admission.is_idle and all(slots.is_idle for slots in self.slots.values()),
                self.metrics,
            )
        self.takes_jobs: Callable[[], bool] = lambda: True
        """Whether this worker is the one that serves; not before and after a reload."""
        self.spool: Spool | None = None
        self._runner: JobRunner | None = None
        if settings.max_spool:
            self.spool = Spool(settings.spool, settings.max_spool, settings.spool_time)
            self.metrics.add(self.spool)
            self._runner = JobRunner(
                self.spool, lambda: registry.ready and self.takes_jobs(), self._read_job
            )

    def admit(self, body: Body) -> None:
        """Take the request's permit, before its body is read; held until its answer has gone.

        Raises Busy.
        """
        body.admitted(self.admission.admit(body))

    def retry_after(self) -> int:
        """Whole seconds after which a permit is likely to be free."""
        return max(slots.retry_after() for slots in self.slots.values())

    def fetch(self, documents: Sequence[bytes | Url], environ: WSGIEnvironment) -> list[bytes]:
        """The documents, those behind URLs downloaded. Raises what `UrlFetcher.fetch` does."""
        if not any(isinstance(document, Url) for document in documents):
            return [document for document in documents if isinstance(document, bytes)]
        start = time.perf_counter()
        fetched = self.fetcher.fetch(documents, lambda: _check_caller(environ))
        add_timing({"fetch": (time.perf_counter() - start) * 1e3})
        return fetched

    def read(self, request: ReadRequest) -> Generator[ReadPage | Failure, None, None]:
        """Yield the pages as they are read, each within a page slot; log how many.

        Formats and limits of all documents are checked before a pixel of any is decoded. A page in
        progress is finished, and yielded, even when the time is up. Raises InputError, TimedOut,
        NotReady, and ClientDisconnected once the caller has gone.
        """
        environ = request.environ
        add_log_fields(environ, pipeline=request.name, images=len(request.documents))
        documents = self._open(request)
        total = sum(_count(document) for document in documents)
        seconds = self.settings.timeout + total * self.settings.page_time
        is_job = request.job_check is not None
        deadline = math.inf if is_job else time.monotonic() + seconds
        done = lines = 0

        def check() -> None:
            _check_caller(environ)
            if request.job_check is not None:
                request.job_check()
            if time.monotonic() >= deadline:
                raise TimedOut(
                    f"not done within {seconds:g} s; {done} pages were read. Send fewer pages at a "
                    "time, or start the server with a larger --timeout"
                )

        queued = None if is_job else self.metrics.request_queued(request.name)
        try:
            for index, document in enumerate(documents):
                if isinstance(document, InputError):
                    yield Failure(index, None, total, document)
                    continue
                for info in document.pages[request.skip :]:
                    check()
                    with self.slots[request.name].slot(check, job=is_job):
                        if queued is not None:
                            queued.begin()
                        result = self._read_page(request, document, index, info, total)
                    _check_caller(environ)
                    if isinstance(result, ReadPage):
                        done, lines = done + 1, lines + len(result.page.lines)
                        add_log_fields(environ, pages=done, lines=lines)
                    yield result
        finally:
            if queued is not None:
                queued.end()

    def take_job(self, request: JobRequest, document: bytes) -> str:
        """Check the document, and spool it to be read in the background; returns the job's id.

        Raises InputError, NotReady and SpoolFull.
        """
        assert self.spool is not None and self._runner is not None
        pages = self.decoder.pages(document, ranges=PageRanges.parse(request.pages))
        job_id = self.spool.add(request, document, len(pages.pages))
        self._runner.wake()
        return job_id

    def _read_job(self, job: Job, check: Callable[[], None]) -> None:
        wanted = job.request
        if wanted.pipeline not in self.registry.names:
            raise BadRequest(f"the pipeline {wanted.pipeline} is served no more")
        pipeline, options = self.registry.get(wanted.pipeline), Options(**wanted.options)
        document = job.document()
        request = ReadRequest(
            wanted.pipeline,
            pipeline,
            [document],
            options,
            {},
            ranges=PageRanges.parse(wanted.pages),
            skip=len(job.state.pages),
            job_check=check,
        )
        for read in self.read(request):
            assert isinstance(read, ReadPage)
            answer = infer_answer(document, [read], pipeline.settings(options), job.id)
            sizes = [*job.state.pages, (read.page.width, read.page.height)]
            info = data_info(document, sizes) if len(sizes) == read.total else {}
            line = {**answer, "result": {**answer["result"], "dataInfo": info}}
            job.add_page(sizes[-1], json.dumps(line, ensure_ascii=False).encode() + b"\n")
            check()

    def _read_page(
        self, request: ReadRequest, document: Pages, index: int, info: PageInfo, total: int
    ) -> ReadPage | Failure:
        start = time.perf_counter()
        try:
            with _of_document(index, request):
                own = document.own_text(info) if request.pdf_text else None
                image = document.decode(info) if own is None or request.draw else None
        except InputError as error:
            if not request.partial:
                raise
            return Failure(index, info.index, total, error)
        if own is not None:
            words = request.pipeline.settings(request.options)["return_word_box"]
            page = own if words else own.without_words()
        else:
            assert image is not None
            decoded = {"decode": (time.perf_counter() - start) * 1e3}
            page = request.pipeline.read(image, request.options)
            page = replace(page, timing={**decoded, **page.timing})
            if self.shadow is not None:
                self.shadow.offer(request.name, image, request.options, page.lines)
        self.metrics.page_read(request.name, page)
        picture = request.draw(image, page.lines) if request.draw and image is not None else None
        return ReadPage(index, info.index, total, page, info.dpi, picture)

    def close(self) -> None:
        """Finish the pages in progress, then end decoder processes, pipelines and permits."""
        if self.shadow is not None:
            self.shadow.close()
        if self._runner is not None:
            self._runner.close()
        for slots in self.slots.values():
            slots.close()
        self.decoder.close()
        self.registry.close()
        self.admission.close()

    def _open(self, request: ReadRequest) -> list[Pages | InputError]:
        """The documents; with `partial`, the error of each that does not open."""
        documents: list[Pages | InputError] = []
        for index, data in enumerate(request.documents):
            try:
                with _of_document(index, request):
                    pages = self.decoder.pages(data, pdf_dpi=request.pdf_dpi, ranges=request.ranges)
                    if request.check is not None:
                        request.check(data, self.decoder)
                documents.append(pages)
            except InputError as error:
                if not request.partial:
                    raise
                documents.append(error)
        count = sum(map(_count, documents))
        if request.one_page and count > 1:
            raise BadRequest(
                f"format=image draws one page, and there are {count}; send them one by one, select "
                "one with pages=1 or request another format"
            )
        if count > self.settings.max_pages:
            raise TooLarge(
                f"the request has {count} pages; the limit is {self.settings.max_pages} "
                "(--max-pages): send them in parts, or select some pages, as 1-100"
            )
        return documents


def _count(document: Pages | InputError) -> int:
    return len(document.pages) if isinstance(document, Pages) else 1


def _check_caller(environ: WSGIEnvironment) -> None:
    if hung_up(environ.get("gunicorn.socket")):
        raise ClientDisconnected


@contextmanager
def _of_document(index: int, request: ReadRequest) -> Iterator[None]:
    """Say in an error which of several documents is at fault."""
    try:
        yield
    except InputError as error:
        error.index = index if len(request.documents) > 1 else None
        raise
