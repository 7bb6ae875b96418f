"""A caller of /api/v2/ocr/jobs, as PaddleOCR's client calls it."""

from __future__ import annotations

import json
from typing import Any

import requests
from http_server import PATIENCE, Server, eventually

JOBS = "/api/v2/ocr/jobs"


def submit(
    server: Server, data: bytes, headers: dict[str, str] | None = None, **fields: str
) -> requests.Response:
    return requests.post(
        server.base + JOBS,
        data={"model": "PP-OCRv6", "optionalPayload": "{}", **fields},
        files={"file": ("a file's name", data)},
        headers=headers,
        timeout=PATIENCE,
    )


def job_id(response: requests.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["data"]["jobId"])


def status(server: Server, job: str, **headers: str) -> dict[str, Any]:
    answer = requests.get(f"{server.base}{JOBS}/{job}", headers=headers, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["data"]
    return found


def ended(server: Server, job: str, **headers: str) -> dict[str, Any]:
    assert eventually(lambda: status(server, job, **headers)["state"] in ("done", "failed"))
    return status(server, job, **headers)


def lines(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The result, asked for as PaddleOCR's client does: without a key."""
    answer = requests.get(found["resultUrl"]["jsonUrl"], timeout=PATIENCE)
    assert answer.status_code == 200
    assert answer.encoding == "utf-8"
    return [json.loads(line) for line in answer.text.splitlines()]


def texts(found: dict[str, Any]) -> list[str]:
    pages = [page for line in lines(found) for page in line["result"]["ocrResults"]]
    return ["".join(page["prunedResult"]["rec_texts"]) for page in pages]
