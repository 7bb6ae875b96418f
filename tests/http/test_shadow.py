"""Shadow reading in one worker; in a real server, on real models: tests/test_fine_tuned.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_fake import FakeReader, picture
from http_server import eventually
from prometheus_client.parser import text_string_to_metric_families

from serving.config.options import DEFAULT_OPTIONS, Options
from serving.http.admission import Admission
from serving.http.registry import Registry
from serving.http.service import ReadRequest, Service
from serving.http.settings import Settings
from serving.http.shadow import Agreement, Shadow
from serving.types import Line, Page


@pytest.fixture
def service() -> Iterator[Service]:
    """A service whose pipeline has a shadow, which reads every page."""
    settings = Settings(
        pipelines={"accurate": Path()}, shadows={"accurate": Path()}, shadow_share=1.0
    )
    service = Service(settings, Registry(("accurate",)), Admission(settings.permits))
    yield service
    service.close()


class Sender:
    lag = 0.0

    def evict(self) -> None: ...


class Failing(FakeReader):
    """Fails at the first page, as whatever a model may raise."""

    def read(self, image: Any, options: Options = DEFAULT_OPTIONS) -> Page:
        if not self.seen:
            self.seen.append(options)
            raise ZeroDivisionError
        return super().read(image, options)


def shadow_of(service: Service) -> Shadow:
    assert service.shadow is not None
    return service.shadow


def read(service: Service, options: Options = DEFAULT_OPTIONS, **of: Any) -> list[str]:
    """What a request gets."""
    request = ReadRequest("accurate", FakeReader("served"), [picture(**of)], options, {})
    return [line.text for read in service.read(request) for line in read.page.lines]  # type: ignore[union-attr]


def counted(service: Service) -> dict[str, float]:
    """The metrics of shadows, as "pages read" or "lines yes"."""
    text = service.metrics.scrape().decode()
    return {
        " ".join([sample.name[11:-6], *(v for k, v in sample.labels.items() if k != "pipeline")]):
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("ocr_shadow_") and sample.name.endswith("_total")
    }  # fmt: skip


def line(text: str) -> Line:
    return Line(text, 1.0, ((0, 0), (1, 0), (1, 1), (0, 1)))


def test_how_far_two_readings_agree() -> None:
    served = [line(text) for text in ("Total 5", "Total 5", "Riga", "1O")]
    shadow = [line(text) for text in ("Riga", "Total 5", "10")]
    assert Agreement.of(served, shadow) == Agreement(4, 2, 12, 23)
    assert Agreement.of(served, served) == Agreement(4, 4, 0, 23)
    assert Agreement.of([], []) == Agreement(0, 0, 0, 0)


def test_a_page_is_read_again_with_its_options(service: Service) -> None:
    reader = FakeReader("other")
    shadow_of(service).open("accurate", reader)
    options = Options(text_det_thresh=0.2)
    assert read(service, options) == ["served 40x20 字"]
    assert eventually(lambda: counted(service).get("pages read") == 1)
    assert reader.seen == [options]
    assert counted(service) == {
        "pages read": 1,
        "lines yes": 0,
        "lines no": 1,
        "edits": 5,  # "served" to "other"
        "characters": 14,
    }
    read(service, colour="white")  # no text
    assert eventually(lambda: counted(service)["pages read"] == 2)
    assert counted(service)["lines no"] == 1


def test_it_waits_for_an_idle_server(service: Service) -> None:
    reader = FakeReader("other")
    shadow_of(service).open("accurate", reader)
    leave = service.admission.admit(Sender())  # a request, whose answer is being sent
    read(service)
    with service.slots["accurate"].slot(lambda: None, job=True):
        time.sleep(0.3)  # several looks of the shadow
        leave()
        time.sleep(0.3)
        assert not reader.seen
    assert eventually(lambda: bool(reader.seen))


def test_its_failure_touches_no_answer(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    shadow_of(service).open("accurate", Failing("served"))
    for _ in range(2):
        assert read(service) == ["served 40x20 字"]
    assert eventually(lambda: len(counted(service)) > 4)
    assert counted(service)["pages failed"] == 1
    assert counted(service)["lines yes"] == 1
    assert "the shadow of accurate cannot read a page" in caplog.text


def test_what_waits_is_bounded(service: Service) -> None:
    shadow, reader = shadow_of(service), FakeReader("other")
    leave = service.admission.admit(Sender())
    large = np.zeros((5000, 4000, 3), np.uint8)  # 57 MiB, of which the system gives none yet
    shadow.offer("accurate", large, DEFAULT_OPTIONS, [])  # not loaded yet
    shadow.open("accurate", reader)
    for _ in range(4):
        shadow.offer("accurate", large, DEFAULT_OPTIONS, [])
    assert counted(service) == {"pages dropped": 3}
    leave()
    assert eventually(lambda: counted(service).get("pages read") == 2)
    shadow.offer("accurate", large, DEFAULT_OPTIONS, [])  # there is room again
    assert eventually(lambda: counted(service).get("pages read") == 3)


def test_a_share_of_the_pages_of_a_pipeline_that_has_one(service: Service) -> None:
    image = np.zeros((1, 1, 3), np.uint8)
    shadow = Shadow({"accurate"}, 0.25, lambda: False, service.metrics)
    shadow.open("accurate", FakeReader())
    for name in ("accurate", "other"):
        for _ in range(1000):
            shadow.offer(name, image, DEFAULT_OPTIONS, [])
    shadow.close()
    assert 180 < counted(service)["pages dropped"] < 320
    assert b'pipeline="other"' not in service.metrics.scrape()


def test_at_the_end_it_drops_what_waits_and_closes(service: Service) -> None:
    reader = FakeReader("other")
    shadow_of(service).open("accurate", reader)
    service.admission.admit(Sender())
    read(service)
    shadow_of(service).close()
    assert (reader.seen, reader.closed) == ([], True)
    shadow_of(service).offer("accurate", np.zeros((1, 1, 3), np.uint8), DEFAULT_OPTIONS, [])
    assert counted(service) == {"pages dropped": 2}
