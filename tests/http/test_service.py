"""What the requests of one worker share: pages in turn, and nothing kept of who has gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_fake import FakeReader, picture
from http_server import eventually

from serving.config.options import DEFAULT_OPTIONS, Options
from serving.errors import TimedOut
from serving.http.admission import Admission
from serving.http.registry import Registry
from serving.http.service import ReadRequest, Service
from serving.http.settings import Settings
from serving.types import Page


def make_service(**settings: Any) -> Service:
    names = ("accurate", "fast")
    chosen = Settings(pipelines=dict.fromkeys(names, Path()), threads=1, **settings)
    return Service(chosen, Registry(names), Admission(chosen.permits))


@pytest.fixture
def service() -> Iterator[Service]:
    """A service of two pipelines, of one page slot each."""
    service = make_service()
    yield service
    service.close()


class Paused(FakeReader):
    """Reads the first page when `first` is set, and every other one when `rest` is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = threading.Event(), threading.Event()
        self.pages = 0

    def read(self, image: Any, options: Options = DEFAULT_OPTIONS) -> Page:
        self.pages += 1
        assert (self.first if self.pages == 1 else self.rest).wait(30)
        return super().read(image, options)


def request_of(pipeline: FakeReader, *documents: bytes, name: str = "accurate") -> ReadRequest:
    return ReadRequest(name, pipeline, documents or [picture()], DEFAULT_OPTIONS, {})


def test_a_page_is_answered_when_it_is_read_whoever_waits(service: Service) -> None:
    pipeline = Paused()

    def ask() -> threading.Thread:
        thread = threading.Thread(target=lambda: list(service.read(request_of(pipeline))))
        thread.start()
        return thread

    one = ask()
    assert eventually(lambda: pipeline.pages == 1)
    other = ask()
    assert eventually(lambda: service.slots["accurate"].waiting == 1)
    pipeline.first.set()
    one.join(10)
    answered = not one.is_alive()
    pipeline.rest.set()
    other.join(10)
    assert answered


def test_a_page_does_not_wait_for_another_pipelines(service: Service) -> None:
    accurate = Paused()
    busy = threading.Thread(target=lambda: list(service.read(request_of(accurate))))
    busy.start()
    assert eventually(lambda: accurate.pages == 1)
    assert len(list(service.read(request_of(FakeReader(), name="fast")))) == 1
    assert busy.is_alive()
    accurate.first.set()
    busy.join(10)


def test_an_abandoned_document_reads_no_further_page(service: Service) -> None:
    pipeline = Paused()
    pipeline.first.set()
    pages = service.read(request_of(pipeline, picture(kind="TIFF", pages=5)))
    assert next(pages).total == 5
    pages.close()
    assert pipeline.pages == 1
    pipeline.rest.set()
    assert len(list(service.read(request_of(pipeline)))) == 1  # the slot is free


class Slow(FakeReader):
    """Takes a tenth of a second for a page."""

    def read(self, image: Any, options: Options = DEFAULT_OPTIONS) -> Page:
        time.sleep(0.1)
        return super().read(image, options)


def test_a_document_out_of_time_says_how_far_it_came() -> None:
    service = make_service(timeout=0.05, page_time=0.0)
    pages = service.read(request_of(Slow(), picture(kind="TIFF", pages=3)))
    assert next(pages).number == 0  # a page in progress is finished
    with pytest.raises(TimedOut, match="1 pages were read"):
        next(pages)
    service.close()


def test_a_page_that_cannot_be_decoded_in_time_says_so(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overloaded(*_: Any, **__: Any) -> None:
        raise TimedOut("page 0: not decoded within 20 s")

    monkeypatch.setattr("serving.imaging.sandbox.client.Sandbox.decode", overloaded)
    with pytest.raises(TimedOut, match="not decoded"):
        list(service.read(request_of(FakeReader(), picture(kind="TIFF", pages=2))))
