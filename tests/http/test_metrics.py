"""GET /metrics: correct over several workers, and after one was killed."""

from __future__ import annotations

import io
import os
import signal
import sys
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import requests
from http_fake import Client, FakeReader, picture
from http_server import PATIENCE, Server, eventually
from PIL import Image
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.http.app import create_app
from serving.http.metrics import RuntimeCollector
from serving.http.registry import Registry
from serving.http.settings import Settings

URL = "/ocr/v1/accurate"
RECOGNITION = {"pipeline": "accurate", "module": "TextRecognition"}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by name and sorted labels."""


def parsed(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@pytest.fixture
def client() -> Iterator[Client]:
    settings = Settings(pipelines={"accurate": Path(), "second": Path()}, max_pages=3)
    app = create_app(settings)
    count = app.service.metrics.engine_called
    app.service.registry.open(lambda name: FakeReader(name, on_batch=partial(count, name)))
    yield Client(app)
    app.service.close()


def scraped(client: Client) -> Samples:
    response = client.get("/metrics")
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(response.get_data(as_text=True))


def test_a_request_is_queued_once_whatever_its_pages_are(client: Client) -> None:
    """The first two of three are broken."""
    file, page = io.BytesIO(), Image.effect_noise((40, 20), 50)
    page.save(file, "TIFF", save_all=True, append_images=[page, page], compression="tiff_lzw")
    data = bytearray(file.getvalue())
    with Image.open(file) as pages:
        for index in range(2):
            pages.seek(index)
            [start] = pages.tag_v2[273]
            data[start : start + 300] = b"\xff" * 300
    response = client.post(f"{URL}?format=pages&partial=true", data=bytes(data))
    assert ["error" in page for page in response.get_json()["pages"]] == [True, True, False]
    samples = scraped(client)
    assert value(samples, "ocr_queue_depth") == 0
    assert value(samples, "ocr_requests_in_work") == 0


def test_requests_pages_and_stages_are_counted(client: Client) -> None:
    client.post(URL, data=picture(40, 20))
    client.post(URL, data=picture(10, 10, pages=2, kind="PDF"))
    client.post(URL, data=b"hello")
    client.post("/ocr/v1/second", data=picture(colour="white"))
    client.post("/ocr", json={})
    samples = scraped(client)
    assert value(samples, "ocr_requests_total", pipeline="accurate", code="200") == 2
    assert value(samples, "ocr_requests_total", pipeline="accurate", code="415") == 1
    assert value(samples, "ocr_requests_total", pipeline="accurate", code="400") == 1
    assert value(samples, "ocr_request_seconds_count", pipeline="accurate") == 4
    assert value(samples, "ocr_pages_total", pipeline="accurate") == 3
    assert value(samples, "ocr_pixels_total", pipeline="accurate") == 40 * 20 + 2 * 20 * 20
    assert value(samples, "ocr_lines_total", pipeline="accurate") == 3
    assert value(samples, "ocr_lines_total", pipeline="second") == 0
    for stage, seconds in (("detect", 0.003), ("recognise", 0.006)):
        of = {"pipeline": "accurate", "stage": stage}
        assert value(samples, "ocr_stage_seconds_count", **of) == 3
        assert value(samples, "ocr_stage_seconds_sum", **of) == pytest.approx(seconds)
    assert value(samples, "ocr_stage_seconds_count", pipeline="accurate", stage="decode") == 3
    assert value(samples, "ocr_queue_wait_seconds_count", pipeline="accurate") == 2
    assert value(samples, "ocr_batch_lines_sum", **RECOGNITION) == 4 * 3
    assert value(samples, "ocr_batch_lines_bucket", **RECOGNITION, le="2.0") == 0
    assert value(samples, "ocr_batch_lines_bucket", **RECOGNITION, le="4.0") == 4
    assert value(samples, "ocr_queue_depth") == value(samples, "ocr_requests_in_work") == 0
    assert 1e6 < value(samples, "ocr_process_resident_bytes", worker=str(os.getpid())) < 1e11


def test_the_engines_in_use(client: Client) -> None:
    names = [dict(labels) for name, labels in scraped(client) if name == "ocr_engine_info"]
    assert [(engine["pipeline"], engine["backend"]) for engine in names] == [
        ("accurate", "fake"),
        ("second", "fake"),
    ]


class Nvml(types.ModuleType):
    """pynvml on a machine with two GPUs, of which the second does not report its utilization."""

    class NVMLError(Exception): ...

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetMemoryInfo(self, card: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(used=3 * 2**30 + card, total=80 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, card: int) -> types.SimpleNamespace:
        if card == 1:
            raise self.NVMLError
        return types.SimpleNamespace(gpu=37)


def test_gpus_by_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml("pynvml"))
    samples = parsed(generate_latest(RuntimeCollector(Registry(()))).decode())
    assert value(samples, "ocr_gpu_memory_used_bytes", gpu="0") == 3 * 2**30
    assert value(samples, "ocr_gpu_memory_used_bytes", gpu="1") == 3 * 2**30 + 1
    assert value(samples, "ocr_gpu_memory_bytes", gpu="1") == 80 * 2**30
    assert value(samples, "ocr_gpu_busy_ratio", gpu="0") == 0.37
    assert ("ocr_gpu_busy_ratio", (("gpu", "1"),)) not in samples


def test_no_driver_no_gpu_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml("pynvml")

    def no_driver() -> None:
        raise nvml.NVMLError

    monkeypatch.setattr(nvml, "nvmlInit", no_driver, raising=False)
    for module in (nvml, None):  # None: it is not installed
        monkeypatch.setitem(sys.modules, "pynvml", module)
        text = generate_latest(RuntimeCollector(Registry(()))).decode()
        assert "ocr_engine_info" in text
        assert "ocr_gpu" not in text


def test_clients_cannot_add_labels(client: Client) -> None:
    client.get("/")
    before = scraped(client)
    for number in range(20):
        client.get(f"/nowhere/{number}")
        client.post(f"/ocr/v1/nobody-{number}", data=picture())
        client.open(f"/ocr/v1/accurate?{number}", method="DELETE")
    after = scraped(client)
    assert value(after, "ocr_requests_total", pipeline="", code="404") >= 40
    new = {labels for _, labels in after.keys() - before.keys()}
    assert {dict(labels).get("code", "405") for labels in new} <= {"200", "404", "405"}


def test_waiting_and_running_requests(tmp_path: Path) -> None:
    server = Server(tmp_path, threads=1, queue=5).wait_ready()
    try:
        working, *waiting = [server.hold_in_work(), server.hold(), server.hold()]

        def both() -> bool:
            samples = scrape(server)
            depth = value(samples, "ocr_queue_depth")
            return (depth, value(samples, "ocr_requests_in_work")) == (2, 1)

        assert eventually(both)
        for caller in waiting:
            caller.close()
        assert eventually(lambda: value(scrape(server), "ocr_queue_depth") == 0)
        working.close()
    finally:
        server.end()


def scrape(server: Server) -> Samples:
    # A connection each, so that any worker may answer.
    return parsed(requests.get(server.base + "/metrics", timeout=PATIENCE).text)


def answered(samples: Samples) -> float:
    return value(samples, "ocr_requests_total", pipeline="accurate", code="200")


def test_counts_of_all_workers_survive_each_of_them(tmp_path: Path) -> None:
    server = Server(tmp_path, workers=2, threads=1, queue=20).wait_ready()
    try:
        folder = server.metrics_folder()
        served = set()
        sent = 0
        for _ in range(3):  # kills both of the first workers, and one that replaced them
            for _ in range(20):
                assert server.post().status_code == 200
            sent += 20
            before = scrape(server)
            assert answered(before) == value(before, "ocr_pages_total", pipeline="accurate") == sent
            assert value(before, "ocr_batch_lines_sum", **RECOGNITION) == 3 * sent
            workers = server.workers()
            assert resident(before) == set(workers)
            served |= set(workers)
            os.kill(workers[0], signal.SIGKILL)
            assert eventually(lambda dead=workers[0]: len(set(server.workers()) - {dead}) == 2)
            assert eventually(lambda: both_answer(server))
            after = scrape(server)
            assert all(after[key] >= count for key, count in before.items() if counts(key[0]))
            assert answered(after) == sent
            assert resident(after) == set(server.workers())
        assert len(served) >= 4
        files = {file.name.split("_")[-1] for file in folder.glob("*.db")}
        assert files == {"0.db", "1.db"}  # no more than workers
    finally:
        server.end()
    assert not folder.exists()


def counts(name: str) -> bool:
    return name.endswith(("_total", "_count", "_sum", "_bucket"))


def resident(samples: Samples) -> set[int]:
    return {
        int(dict(labels)["worker"])
        for name, labels in samples
        if name == "ocr_process_resident_bytes"
    }


def both_answer(server: Server) -> bool:
    try:
        return len(resident(scrape(server))) == 2
    except requests.ConnectionError:
        return False


def test_counts_survive_reloads(tmp_path: Path) -> None:
    server = Server(tmp_path).wait_ready()

    def reloaded(generation: int) -> bool:
        state = requests.get(server.base + "/ocr/v1", timeout=PATIENCE).json()
        return bool(state["generation"] == generation and state["reload"]["state"] == "idle")

    try:
        folder = server.metrics_folder()
        for generation in (1, 2, 3):
            if generation > 1:
                server.process.send_signal(signal.SIGHUP)
                assert eventually(lambda: reloaded(generation))  # noqa: B023
            assert server.post().status_code == 200
            samples = scrape(server)
            assert answered(samples) == generation
            assert resident(samples) == set(server.workers())
        # The old and the new worker counted at the same time; the third took over from the first.
        assert {file.name.split("_")[-1] for file in folder.glob("*.db")} == {"0.db", "1.db"}
    finally:
        server.end()
