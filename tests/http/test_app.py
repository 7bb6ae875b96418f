"""What every answer has in common, health, and the list of pipelines."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from http_fake import Client, FakeReader, picture
from http_server import eventually

from serving import errors
from serving.cli import main
from serving.errors import EngineError, OcrError
from serving.http.app import App, create_app
from serving.http.errors import TABLE
from serving.http.keys import Keys
from serving.http.settings import Settings


@pytest.fixture
def app() -> Iterator[App]:
    settings = Settings(pipelines={"accurate": Path()})
    app = create_app(settings)
    yield app
    app.service.close()


@pytest.fixture
def client(app: App) -> FlaskClient:
    return Client(app)


def load(app: App) -> FakeReader:
    reader = FakeReader()
    app.service.registry.open(lambda name: reader)
    return reader


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/ocr/v1/accurate", 405, "method_not_allowed"),
        ("DELETE", "/health/live", 405, "method_not_allowed"),
        ("POST", "/ocr/v1/accurate", 503, "not_ready"),
        ("POST", "/ocr", 503, "not_ready"),
        ("GET", "/health/ready", 503, "not_ready"),
    ],
)
def test_errors_are_json(
    client: FlaskClient, method: str, path: str, status: int, code: str
) -> None:
    response = client.open(path, method=method)
    error = response.get_json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["request_id"] == response.headers["X-Request-Id"]
    assert "total;dur=" in response.headers["Server-Timing"]
    if status == 405:
        assert response.headers["Allow"]


def test_every_input_error_has_its_place_in_the_table() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    leaves = [
        kind
        for kind in kinds
        if issubclass(kind, errors.InputError) and kind is not errors.InputError
    ]
    assert leaves
    assert all(kind in TABLE for kind in leaves)
    assert len({code for _, code in TABLE.values()}) == len(TABLE)


@pytest.mark.parametrize("given", ["abc-123", "a" * 128, "trace/1:2=3@x.y_z+"])
def test_the_callers_request_id_is_kept(client: FlaskClient, given: str) -> None:
    response = client.get("/health/live", headers={"X-Request-Id": given})
    assert response.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", 'a"b', "ä", "<x>"])
def test_a_strange_request_id_is_replaced(client: FlaskClient, given: str) -> None:
    response = client.get("/health/live", headers={"X-Request-Id": given})
    assert len(bytes.fromhex(response.headers["X-Request-Id"])) == 16


def test_ready_only_once_every_pipeline_has_answered(app: App, client: FlaskClient) -> None:
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 503
    reader = load(app)
    assert len(reader.seen) == 1  # the warm-up image
    assert client.get("/health/ready").get_json() == {"status": "ready"}


def test_a_pipeline_that_cannot_read_the_warm_up_image_is_not_ready(app: App) -> None:
    class Broken(FakeReader):
        def read(self, *_: object) -> None:  # type: ignore[override]
            raise EngineError("broken")

    with pytest.raises(EngineError):
        app.service.registry.open(lambda name: Broken())
    assert not app.service.registry.ready


def test_the_list_of_pipelines(app: App, client: FlaskClient) -> None:
    [before] = client.get("/ocr/v1").get_json()["pipelines"]
    assert before == {"name": "accurate", "url": "v1/accurate", "ready": False}
    load(app)
    [after] = client.get("/ocr/v1/").get_json()["pipelines"]
    assert after["ready"]
    assert after["models"]["TextDetection"]["engine"] == {"backend": "fake"}


def test_a_bug_is_a_500_that_tells_the_caller_nothing(
    app: App, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    load(app)
    with caplog.at_level(logging.ERROR, logger="serving.http"):
        response = client.post("/ocr/v1/accurate", data=picture(colour=(0, 0, 1)))
    error = response.get_json()["error"]
    assert (response.status_code, error["code"]) == (500, "internal")
    assert "engine broke" not in error["message"]
    [record] = caplog.records
    assert record.exc_info
    assert isinstance(record.exc_info[1], OcrError)
    assert record.fields["request_id"] == error["request_id"]  # type: ignore[attr-defined]


def test_busy_says_when_to_come_back(tmp_path: Path) -> None:
    app = create_app(Settings(pipelines={"accurate": Path()}, threads=1, queue=0))
    load(app)
    sender = SimpleNamespace(lag=0.0, evict=lambda: None)
    give_back = app.service.admission.admit(sender)
    response = Client(app).post("/ocr/v1/accurate", data=picture())
    assert (response.status_code, response.get_json()["error"]["code"]) == (429, "busy")
    assert int(response.headers["Retry-After"]) >= 1
    give_back()
    assert Client(app).post("/ocr/v1/accurate", data=picture()).status_code == 200
    app.service.close()


def test_what_waits_too_long_is_a_504(tmp_path: Path) -> None:
    settings = Settings(pipelines={"accurate": Path()}, threads=1, timeout=0.05, page_time=0.05)
    app = create_app(settings)
    gate = tmp_path / "gate"
    app.service.registry.open(lambda name: FakeReader(gate=gate))
    first = threading.Thread(
        target=lambda: Client(app).post("/ocr/v1/accurate", data=picture(colour="red"))
    )
    first.start()
    assert eventually(lambda: app.service.retry_after() and app.service.admission.held == 1)
    response = Client(app).post("/ocr/v1/accurate", data=picture(colour="red"))
    assert (response.status_code, response.get_json()["error"]["code"]) == (504, "timeout")
    assert app.service.admission.held == 1  # of the page that is still in progress
    gate.touch()
    first.join(30)
    assert app.service.admission.held == 0
    app.service.close()


def test_every_link_holds_behind_a_path_prefix(app: App) -> None:
    """As a proxy that serves us below /ocr-service/ sees them: none begins with a slash."""
    client = app.test_client()
    page = client.get("/docs").get_data(as_text=True)
    links = re.findall(r'(?:href|src|data-url)="([^"]+)"', page)
    assert {"docs/swagger-ui.css", "openapi.json"} <= set(links)
    with client.get("/") as index:
        links += re.findall(r'(?:href|src)="([^"]+)"', index.get_data(as_text=True))
    links += [server["url"] for server in client.get("/openapi.json").get_json()["servers"]]
    links += [item["url"] for item in client.get("/ocr/v1").get_json()["pipelines"]]
    assert [link for link in links if link.startswith(("/", "http"))] == []
    assert client.get("/docs/").headers["Location"] == "../docs"


@pytest.mark.parametrize("origin", ["https://*.example.org", "app.example.org", "https://a.b/c"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    """Flask-CORS would take the first for a regular expression, which fits evil.com, too."""
    done = CliRunner().invoke(main, ["serve", "--check", "--allow-origin", origin])
    assert done.exit_code == 2
    assert "is no origin: give scheme and host" in done.output


def test_pages_of_other_origins_are_allowed_only_where_said() -> None:
    settings = Settings(pipelines={"accurate": Path()}, allow_origins=("https://app.example",))
    app = create_app(settings, keys=Keys({"0" * 64: "alice"}))
    load(app)
    client = app.test_client()
    preflight = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key",
    }
    allowed = client.options("/ocr/v1/accurate", headers=preflight)
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "x-api-key" in allowed.headers["Access-Control-Allow-Headers"].lower()
    answer = client.get("/ocr/v1", headers={"Origin": "https://app.example"})
    assert answer.status_code == 401  # an origin is no key
    assert "X-Request-Id" in answer.headers["Access-Control-Expose-Headers"]
    other = client.options("/ocr/v1/accurate", headers={**preflight, "Origin": "https://evil"})
    assert "Access-Control-Allow-Origin" not in other.headers
    app.service.close()


def test_without_allowed_origins_nothing_is_said_of_them(app: App) -> None:
    answer = app.test_client().get("/health/live", headers={"Origin": "https://app.example"})
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
