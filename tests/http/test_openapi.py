"""What /openapi.json says is what the server does: Schemathesis asks real servers."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from http_fake import picture
from http_server import PATIENCE, Server, real_server
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from serving.http.app import create_app
from serving.http.openapi import document
from serving.http.registry import warmup_image
from serving.http.settings import Settings

CASES = {"fake": 0, "real": 0}

SIDE = 320
SLOW = 120.0
"""Seconds for an answer of real models, on a machine that is busy with other tests."""


def warm(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(warmup_image()).save(file, kind)
    return file.getvalue()


_IMAGES = st.sampled_from(
    [
        warm("PNG"),
        warm("JPEG"),
        picture(40, 20),
        picture(60, 60, "white", "JPEG"),
        picture(kind="BMP"),
        picture(kind="GIF"),
        picture(kind="WEBP"),
        picture(pages=2, kind="TIFF"),
        picture(pages=2, kind="PDF"),
        picture()[:60],
        b"hello",
    ]
)
for _kind in ("jpeg", "png", "webp", "bmp", "tiff", "gif"):
    schemathesis.openapi.media_type(f"image/{_kind}", _IMAGES)
schemathesis.openapi.media_type("application/pdf", _IMAGES)
schemathesis.openapi.format("binary", _IMAGES)
schemathesis.openapi.format("byte", _IMAGES.map(lambda data: base64.b64encode(data).decode()))


def _document() -> Any:
    app = create_app(Settings(pipelines={"accurate": Path()}))
    app.service.close()
    with app.app_context():
        return document(app)


fake = schemathesis.openapi.from_dict(_document())
fake.config.phases.coverage.generate_duplicate_query_parameters = True
real = schemathesis.openapi.from_dict(_document())
real.config.phases.update(phases=["fuzzing"])
_REJECTED = [*fake.config.checks.negative_data_rejection.expected_statuses, "413"]
"""A list in place of a text makes a form of too many parts."""
for _schema in (fake, real):
    _schema.config.checks.negative_data_rejection.expected_statuses = _REJECTED


def quick(cases: int) -> settings:
    """So many cases, the same in each run."""
    unhealthy = list(HealthCheck)
    return settings(
        max_examples=cases, deadline=None, derandomize=True, suppress_health_check=unhealthy
    )


def ask(case: schemathesis.Case, url: str) -> None:
    """Send it and hold the answer against the document."""
    excluded = []
    if case.method == "POST":
        # No schema says whether bytes are an image.
        excluded.append(positive_data_acceptance)
    if case.path == "/ocr":
        # PaddleX takes "1" for 1 and "yes" for true, so its clients may send that.
        excluded.append(negative_data_rejection)
    case.call_and_validate(base_url=url, excluded_checks=excluded, timeout=SLOW)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("openapi")
    jobs = {"spool": str(folder / "spool"), "max_spool": 1 << 30}
    server = Server(folder, threads=2, queue=20, **jobs).wait_ready()
    yield server
    assert server.end() == 0


@pytest.fixture(scope="module")
def real_url(unwarmed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the default pipeline is served by its real models."""
    log = tmp_path_factory.mktemp("real") / "log"
    with real_server(log, "--models", str(unwarmed)) as (_, url):
        yield url


@fake.parametrize()
@quick(200)
def test_every_answer_is_as_described(case: schemathesis.Case, server: Server) -> None:
    CASES["fake"] += 1
    ask(case, server.base)


@real.include(path_regex="^/ocr").parametrize()
@quick(20)
def test_every_answer_of_real_models_is_as_described(
    case: schemathesis.Case, real_url: str
) -> None:
    CASES["real"] += 1
    side = (case.query or {}).get("text_det_max_side_limit", SIDE)
    if isinstance(side, int) and side >= SIDE:
        # A caller may have 4000 pixels searched, which takes seconds a page.
        case.query = {**(case.query or {}), "text_det_max_side_limit": SIDE}
    ask(case, real_url)


def test_that_these_were_enough() -> None:
    if all(CASES.values()):  # all of the file was run
        assert CASES["fake"] >= 500, CASES
        assert CASES["real"] >= 40, CASES


def test_the_server_serves_that_document(server: Server) -> None:
    served = requests.get(server.base + "/openapi.json", timeout=PATIENCE).json()
    assert served == _document()
    parameters = served["paths"]["/ocr/v1/{name}"]["post"]["parameters"]
    assert [p["schema"]["enum"] for p in parameters if p["in"] == "path"] == [["accurate"]]


def test_everything_that_is_served_is_described() -> None:
    app = create_app(Settings(pipelines={"accurate": Path()}))
    app.service.close()
    rules = {str(rule).replace("<", "{").replace(">", "}") for rule in app.url_map.iter_rules()}
    for_people = {rule for rule in rules if rule == "/" or rule.startswith(("/page/", "/docs/"))}
    assert set(_document()["paths"]) == rules - for_people


def test_docs_come_from_here_alone(server: Server) -> None:
    page = requests.get(server.base + "/docs", timeout=PATIENCE)
    assert "default-src 'none'; script-src 'self'" in page.headers["Content-Security-Policy"]
    found = re.findall(r'(?:src|href|data-url)="(?!data:)([^"]+)"', page.text)
    assert len(found) == 4
    for address in found:
        assert not address.startswith(("/", "http"))
        answer = requests.get(f"{server.base}/{address}", timeout=PATIENCE)
        kind = answer.headers["Content-Type"].split(";")[0]
        assert answer.status_code == 200
        assert kind in ("text/css", "text/javascript", "application/json")
    assert requests.get(server.base + "/docs/nothing.js", timeout=PATIENCE).status_code == 404


def test_the_plan_in_force_is_shown(real_url: str) -> None:
    [pipeline] = requests.get(real_url + "/ocr/v1", timeout=PATIENCE).json()["pipelines"]
    plan = pipeline["plan"]
    assert plan["pages_per_second"] > 0
    assert plan["latency_ms"] > 0
    assert plan["models"].keys() == pipeline["models"].keys() >= {"TextDetection"}
    assert plan["models"]["TextDetection"]["ms"] > 0
    for model in pipeline["models"].values():
        assert {"backend", "precision", "streams", "threads"} <= model["engine"].keys()
    engines = requests.get(real_url + "/metrics", timeout=PATIENCE).text.splitlines()
    assert sum(line.startswith("ocr_engine_info{") for line in engines) == len(pipeline["models"])
