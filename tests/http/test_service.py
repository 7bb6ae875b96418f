"""What one worker shares among requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_fake import FakeReader, picture
from http_server import eventually

from serving.config.options import DEFAULT_OPTIONS, Options
from serving.http.admission import Admission
from serving.http.registry import Registry
from serving.http.service import Service, Work
from serving.http.settings import Settings
from serving.types import Page


@pytest.fixture
def service() -> Iterator[Service]:
    settings = Settings(pipelines={"accurate": Path()}, threads=1)
    service = Service(settings, Registry(("accurate",)), Admission(settings.places))
    yield service
    service.close()


class InSteps(FakeReader):
    """Reads the first page when `first` is set, and every other one when `rest` is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = threading.Event(), threading.Event()
        self.pages = 0

    def read(self, image: Any, options: Options = DEFAULT_OPTIONS) -> Page:
        self.pages += 1
        assert (self.first if self.pages == 1 else self.rest).wait(30)
        return super().read(image, options)


def test_a_page_is_answered_when_it_is_read_whoever_waits(service: Service) -> None:
    reader = InSteps()

    def ask() -> threading.Thread:
        work = Work("accurate", reader, [picture()], DEFAULT_OPTIONS)
        thread = threading.Thread(target=lambda: list(service.read(work, lambda: False)))
        thread.start()
        return thread

    one = ask()
    assert eventually(lambda: reader.pages == 1)
    other = ask()
    assert eventually(lambda: service.turns.waiting == 1)
    reader.first.set()
    one.join(10)
    answered = not one.is_alive()
    reader.rest.set()
    other.join(10)
    assert answered
