"""What a real server answers, to bodies too large and malformed ones too; its log."""

from __future__ import annotations

import base64
import concurrent.futures
import http.client
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from http_fake import picture
from http_server import PATIENCE, URL, Server, answer, eventually, open_file, request
from PIL import Image


def test_answers(server: Server) -> None:
    with open_file(picture()) as file:
        response = requests.post(server.base + URL, files={"image": file}, timeout=PATIENCE)
    assert [result["data"] for result in response.json()] == ["accurate 40x20 字"]
    assert response.headers["X-Request-Id"]
    assert "recognise;dur=" in response.headers["Server-Timing"]
    assert requests.get(server.base + "/health/ready", timeout=PATIENCE).status_code == 200


def test_the_documented_client_works_unchanged(server: Server, repo: Path) -> None:
    """Which is the one that tutorials of the beta had: post `image`, print each `data`."""
    page = (repo / "docs/http.md").read_text()
    [client] = re.findall(r"```python\n(import requests\n.*?)```", page, re.DOTALL)
    code = client.replace("http://127.0.0.1:8868", server.base)
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, check=True)
    width, height = Image.open(io.BytesIO((repo / "docs/page.jpg").read_bytes())).size
    assert done.stdout.decode() == f"accurate {width}x{height} 字\n"


def test_paddlexs_example_client_works_unchanged(server: Server) -> None:
    payload = {"file": base64.b64encode(picture()).decode("ascii"), "fileType": 1}
    response = requests.post(f"{server.base}/ocr", json=payload, timeout=PATIENCE)
    assert response.status_code == 200
    [found] = response.json()["result"]["ocrResults"]
    assert found["prunedResult"]["rec_texts"] == ["accurate 40x20 字"]
    assert Image.open(io.BytesIO(base64.b64decode(found["ocrImage"]))).size[1] == 20


def test_sixteen_posts_side_by_side(server: Server) -> None:
    def post(number: int) -> str:
        found = server.post(data=picture(40 + number)).json()
        return str(found[0]["data"])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(post, range(64)))
    assert found == [f"accurate {40 + number}x20 字" for number in range(64)]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_gets_its_answer(server: Server, chunked: bool) -> None:
    # http.client sends all of the body before it reads: a reset would lose the answer.
    caller = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    body = b"x" * 180_000
    headers = {"Content-Type": "image/png"}
    if chunked:
        pieces = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
        caller.request("POST", URL, pieces, headers, encode_chunked=True)
    else:
        caller.request("POST", URL, body, headers)
    response = caller.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "too_large"
    caller.request("POST", URL, picture(), headers)  # drained, so the connection is still good
    assert caller.getresponse().status == 200
    caller.close()


def test_an_announced_length_over_the_limit_is_refused_before_it_comes(server: Server) -> None:
    caller = server.connect()
    caller.sendall(request(b"x", length=10**12))
    status, body, _ = answer(caller)
    assert (status, body["error"]["code"]) == (413, "too_large")


def test_a_body_for_nobody_gets_its_answer(server: Server) -> None:
    response = requests.post(server.base + "/nowhere", data=b"x" * 90_000, timeout=PATIENCE)
    assert response.json()["error"]["code"] == "not_found"


def test_requests_sent_at_once_on_one_connection(server: Server) -> None:
    caller = server.connect()
    caller.sendall(request(picture(41)) + request(picture(42)) + request(picture(43)))
    found = b""
    while found.count(b"accurate 4") < 3:
        data = caller.recv(65536)
        assert data, found
        found += data
    assert [found.index(b"accurate 4%d" % width) for width in (1, 2, 3)] == sorted(
        found.index(b"accurate 4%d" % width) for width in (1, 2, 3)
    )
    caller.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/9\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
        request(b"", length=5).replace(b"Content-Length: 5", b"Content-Length: five"),
        request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz\r\n",
    ],
)
def test_malformed_requests_get_json_too(server: Server, sent: bytes) -> None:
    caller = server.connect()
    caller.sendall(sent)
    status, body, response = answer(caller)
    assert status in (400, 414, 431)
    assert body["error"]["code"] == "bad_request"
    assert body["error"]["request_id"] == response.headers["X-Request-Id"]
    assert response.headers["Server-Timing"]


def test_logs_are_json_with_the_request_id_and_no_text(server: Server) -> None:
    with open_file(picture()) as file:
        requests.post(
            server.base + URL,
            files={"image": ("secret-name.png", file)},
            headers={"X-Request-Id": "find-me"},
            timeout=PATIENCE,
        )

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in server.errors().splitlines()]

    assert eventually(lambda: any(line.get("request_id") == "find-me" for line in lines()))
    [found] = [line for line in lines() if line.get("request_id") == "find-me"]
    assert (found["status"], found["pipeline"], found["pages"]) == (200, "accurate", 1)
    assert "secret-name" not in server.errors()
    assert "40x20" not in server.errors()
