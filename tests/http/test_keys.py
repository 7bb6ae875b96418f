"""API keys: requests without one are refused, and only hashes of keys are stored."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from http_fake import Client, FakeReader, picture

from serving.cli import main
from serving.errors import ConfigError
from serving.http.app import App, create_app
from serving.http.keys import Keys, new_key, read_keys
from serving.http.settings import Settings

KEY, LINE = new_key("alice")


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def app() -> Iterator[App]:
    name, _, value = LINE.partition(":")
    keys = Keys({value: name, hashed("bob's key"): "bob"})
    app = create_app(Settings(pipelines={"accurate": Path()}), keys=keys)
    app.service.registry.open(FakeReader)
    app.test_client_class = Client
    yield app
    app.service.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer {KEY}"},
        {"X-API-Key": KEY},
        {"X-API-Key": "bob's key"},
        {"Authorization": "Basic Zm9vOmJhcg==", "X-API-Key": KEY},
        {"Authorization": "Bearer of a proxy", "X-API-Key": KEY},
    ],
)
def test_a_known_key_is_accepted(app: App, headers: dict[str, str]) -> None:
    answer = app.test_client().post(
        "/ocr/v1/accurate", data=picture(), content_type="image/png", headers=headers
    )
    assert answer.status_code == 200
    assert app.test_client().get("/ocr/v1", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {LINE.partition(':')[2]}"},
        {"X-API-Key": ""},
        {"X-API-Key": "ÿ"},
        {"X-API-Key": KEY.upper()},
    ],
)
@pytest.mark.parametrize(
    "path", ["/ocr/v1/accurate", "/ocr/v1", "/ocr", "/metrics", "/no", "/ocr//"]
)
def test_a_missing_or_unknown_key_is_refused(app: App, headers: dict[str, str], path: str) -> None:
    answer = app.test_client().get(path, headers=headers)
    assert answer.status_code == 401
    error = answer.get_json()["error"]
    assert error["code"] == "unauthorized"
    assert "Authorization: Bearer KEY" in error["message"]
    assert error["request_id"] == answer.headers["X-Request-Id"]
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


class Unread(io.RawIOBase):
    """A body that may be read only after the answer, to drain it."""

    answered = False

    def read(self, size: int = -1) -> bytes:
        assert self.answered
        return b""


def test_the_body_is_not_read_before_the_key_is_checked(app: App) -> None:
    body = Unread()

    def start(status: str, headers: Any, error: Any = None) -> Any:
        assert status.startswith("401")
        body.answered = True

    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/ocr/v1/accurate",
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": body,
        "CONTENT_LENGTH": "1000",
        "CONTENT_TYPE": "image/png",
    }
    answer = app.wsgi_app(environ, start)
    assert b"unauthorized" in b"".join(answer)
    answer.close()  # type: ignore[attr-defined]
    assert body.answered


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/health"])
def test_health_needs_no_key(app: App, path: str) -> None:
    assert app.test_client().get(path).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/x.js", "/openapi.json", "/page/a.css"])
def test_nor_do_pages_that_reveal_nothing(app: App, path: str) -> None:
    assert app.test_client().get(path).status_code != 401


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "keys.txt"
        path.write_text(text)
        return path

    return write


def test_a_keys_file(write: Callable[[str], Path]) -> None:
    keys = read_keys(write(f"# ours\n\n{LINE}\r\n  bob@x.org:{hashed('b').upper()}  \n"))
    assert (keys.owner(KEY), keys.owner("b"), keys.owner("c")) == ("alice", "bob@x.org", None)


def test_a_name_may_have_several_keys(write: Callable[[str], Path]) -> None:
    """So a key can be replaced without a moment in which neither the old nor the new one works."""
    keys = read_keys(write(f"{LINE}\nalice:{hashed('new')}\n{LINE}\n"))
    assert (keys.owner(KEY), keys.owner("new")) == ("alice", "alice")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{LINE}\nsecret-in-clear\n", "line 2: not NAME:SHA256"),
        ("alice:secret-in-clear\n", "line 1: not NAME:SHA256"),
        (f"{LINE} # hers\n", "line 1: not NAME:SHA256"),
        (f"a b:{hashed('x')}\n", "line 1: not NAME:SHA256"),
        (f"{LINE}\n\n{LINE.replace('alice', 'bob')}\n", "line 3: another name has this key"),
        ("# none\n", "contains no key"),
        ("", "contains no key"),
    ],
    ids=["a later line", "no hash", "a comment", "a space", "another name", "comments", "nothing"],
)
def test_the_error_for_a_malformed_file_names_the_line_but_not_its_text(
    write: Callable[[str], Path], text: str, message: str
) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        read_keys(path)
    assert f"{path}" in str(caught.value)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value).removeprefix(str(path))


def test_a_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_keys(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        read_keys(tmp_path / "binary")
    (tmp_path / "large").write_bytes(b"#" * (5 << 20))
    with pytest.raises(ConfigError, match="larger than"):
        read_keys(tmp_path / "large")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    with pytest.raises(ConfigError, match="not a file"):
        read_keys(tmp_path / "pipe")


def test_the_command_makes_a_key_and_its_line(write: Callable[[str], Path]) -> None:
    made = CliRunner().invoke(main, ["key", "carol"])
    assert made.exit_code == 0
    key = made.stderr.split()[-1]
    assert key not in made.stdout
    assert read_keys(write(made.stdout)).owner(key) == "carol"
    again = CliRunner().invoke(main, ["key", "carol"])
    assert again.stdout != made.stdout


def test_an_invalid_name_is_wrong_usage() -> None:
    assert CliRunner().invoke(main, ["key", "a:b"]).exit_code == 2
