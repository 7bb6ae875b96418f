"""KServe v2: tensors in, tensors out; what lies about its size is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from flask.testing import FlaskClient
from http_fake import Client, FakeReader
from http_server import PATIENCE, Server, real_server

from benchmarks.corpus import Sample
from benchmarks.soak import pdf
from serving.http.app import create_app
from serving.http.settings import Settings
from serving.scores import character_overlap

URL = "/v2/models/accurate/infer"
READER = FakeReader("fake")
LANG = {"name": "lang_type", "datatype": "BYTES", "shape": [1, 1]}
Tensor = dict[str, Any]


@pytest.fixture(scope="module")
def client() -> Iterator[FlaskClient]:
    settings = Settings(pipelines={"accurate": Path()}, max_body=4_000_000, max_pixels=100_000)
    app = create_app(settings)
    app.service.registry.open(lambda _: READER)
    yield Client(app)
    app.service.close()


def image(width: int, height: int, **more: Any) -> Tensor:
    return {"name": "image", "datatype": "UINT8", "shape": [1, height, width, 3], **more}


def ask(client: FlaskClient, *inputs: Tensor, behind: bytes | None = None, **more: Any) -> Any:
    """Post it as JSON or, with bytes behind it, in the binary form."""
    head = json.dumps({"inputs": inputs, **more}).encode()
    headers = {} if behind is None else {"Inference-Header-Content-Length": str(len(head))}
    return client.post(URL, data=head + (behind or b""), headers=headers)


def test_json_in_and_out(client: FlaskClient) -> None:
    lang = {**LANG, "data": ["en"]}
    answer = ask(client, lang, image(4, 3, data=[7] * 36), id="mine").get_json()
    assert answer == {
        "model_name": "accurate",
        "id": "mine",
        "outputs": [
            {
                "name": "boxes",
                "datatype": "FP32",
                "shape": [1, 4, 2],
                "data": [1.0, 2.0, 4.0, 2.0, 4.0, 3.0, 1.0, 3.0],
            },
            {"name": "txts", "datatype": "BYTES", "shape": [1], "data": ["fake 4x3 字"]},
            {"name": "scores", "datatype": "FP32", "shape": [1], "data": [0.9877]},
        ],
    }


def test_the_numbers_may_be_nested(client: FlaskClient) -> None:
    data = np.full((1, 3, 4, 3), 7).tolist()
    answer = ask(client, image(4, 3, data=data), outputs=[{"name": "txts"}]).get_json()
    assert [output["data"] for output in answer["outputs"]] == [["fake 4x3 字"]]


def test_binary_in_and_out(client: FlaskClient) -> None:
    lang = {**LANG, "parameters": {"binary_data_size": 6}}
    tensor = image(4, 3, parameters={"binary_data_size": 36})
    asked = [
        {"name": "txts", "parameters": {"binary_data": True}},
        {"name": "boxes", "parameters": {"binary_data": True}},
        {"name": "scores", "parameters": {"binary_data": False}},
    ]
    response = ask(client, lang, tensor, behind=b"\2\0\0\0en" + bytes(36), outputs=asked)
    length = int(response.headers["Inference-Header-Content-Length"])
    boxes, texts, scores = json.loads(response.data[:length])["outputs"]
    assert scores["data"] == [0.9877]
    assert (boxes["parameters"], texts["parameters"]) == (
        {"binary_data_size": 32},
        {"binary_data_size": 16},
    )
    behind = response.data[length:]
    assert np.frombuffer(behind[:32], "<f4").tolist() == [1, 2, 4, 2, 4, 3, 1, 3]
    assert behind[32:] == b"\x0c\0\0\0" + "fake 4x3 字".encode()


def test_the_channels_are_red_green_blue(client: FlaskClient) -> None:
    """The fake reader breaks on a page whose first pixel has no colour but a little blue."""
    assert ask(client, image(1, 1, data=[0, 0, 1])).status_code == 500
    assert ask(client, image(1, 1, data=[1, 0, 0])).status_code == 200


def test_no_text_is_empty_tensors(client: FlaskClient) -> None:
    parameters = {"binary_data_output": True}
    response = ask(client, image(2, 2, data=[255] * 12), parameters=parameters)
    outputs = json.loads(response.data)["outputs"]
    assert [output["shape"] for output in outputs] == [[0, 4, 2], [0], [0]]
    assert {output["parameters"]["binary_data_size"] for output in outputs} == {0}


def test_overrides(client: FlaskClient) -> None:
    parameters = {"text_det_thresh": 0.25, "use_textline_orientation": True}
    assert ask(client, image(2, 2, data=[0] * 12), parameters=parameters).status_code == 200
    assert READER.seen[-1].text_det_thresh == 0.25
    assert READER.seen[-1].use_textline_orientation is True


def test_the_server_and_its_models(client: FlaskClient) -> None:
    assert client.get("/v2").get_json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").get_json() == {"live": True}
    assert client.get("/v2/health/ready").get_json() == {"ready": True}
    assert client.get("/v2/models/accurate/ready").get_json()["ready"] is True
    model = client.get("/v2/models/accurate").get_json()
    shapes = {tensor["name"]: tensor["shape"] for tensor in model["inputs"] + model["outputs"]}
    assert shapes == {
        "image": [1, -1, -1, 3],
        "lang_type": [1, 1],
        "boxes": [-1, 4, 2],
        "txts": [-1],
        "scores": [-1],
    }


def binary(*sizes: int) -> list[Tensor]:
    names = [LANG, image(2, 2)]
    return [
        {**tensor, "parameters": {"binary_data_size": size}}
        for tensor, size in zip(names[-len(sizes) :], sizes, strict=True)
    ]


HUGE = 10**15
WRONG: dict[str, tuple[list[Tensor], bytes | None, dict[str, Any], str]] = {
    "no image": ([LANG], None, {}, "no tensor image"),
    "twice": ([image(1, 1), image(1, 1)], None, {}, "image is sent twice"),
    "another input": ([{**LANG, "name": "mask"}], None, {}, "'image' or 'lang_type'"),
    "no data": ([image(2, 2)], None, {}, "image has no data"),
    "texts for data": ([image(1, 1, data=["a", "b", "c"])], None, {}, "not of numbers alone"),
    "two numbers": ([{**LANG, "data": [1]}, image(1, 1, data=[1, 2, 3])], None, {}, "no data"),
    "too few": ([image(2, 2, data=[1, 2, 3])], None, {}, "has 12 values, and 3 were sent"),
    "no byte": ([image(1, 1, data=[1, 2, 256])], None, {}, "whole numbers from 0 to 255"),
    "negative": ([image(1, 1, data=[1, 2, -1])], None, {}, "whole numbers from 0 to 255"),
    "fraction": ([image(1, 1, data=[1, 2, 0.5])], None, {}, "whole numbers from 0 to 255"),
    "two images": ([{**image(2, 2), "shape": [2, 2, 2, 3]}], None, {}, "one image a request"),
    "grey": ([{**image(2, 2), "shape": [1, 2, 2, 1]}], None, {}, "UINT8 [1, height, width, 3]"),
    "empty": ([image(0, 5, data=[])], None, {}, "UINT8 [1, 5, 0, 3]"),
    "floats": ([{**image(2, 2), "datatype": "FP32"}], None, {}, "'UINT8' or 'BYTES'"),
    "bytes": ([{**image(2, 2), "datatype": "BYTES"}], None, {}, "image is BYTES"),
    "huge": ([image(HUGE, HUGE, data=[1])], None, {}, "and 1 were sent"),
    "huge size": (binary(HUGE), bytes(12), {}, "12 are left"),
    "short": (binary(12), bytes(11), {}, "binary_data_size is 12 bytes, and 11 are left"),
    "other size": (binary(11), bytes(11), {}, "has 12 values, and 11 were sent"),
    "first takes all": (binary(12, 12), bytes(12), {}, "and 0 are left"),
    "rest": (binary(12), bytes(13), {}, "1 bytes behind the JSON belong to no tensor"),
    "negative size": (binary(-1), bytes(12), {}, "must be at least 0"),
    "a size in JSON": (binary(12), None, {}, "and 0 are left"),
    "unknown output": ([image(1, 1)], None, {"outputs": [{"name": "x"}]}, "outputs.0.name"),
    "unknown option": ([image(1, 1)], None, {"parameters": {"x": 1}}, "parameters.x"),
    "large side": (
        [image(1, 1)],
        None,
        {"parameters": {"text_det_max_side_limit": 4001}},
        "text_det_max_side_limit",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_is_wrong(client: FlaskClient, name: str) -> None:
    inputs, behind, more, said = WRONG[name]
    response = ask(client, *inputs, behind=behind, **more)
    assert response.status_code == 400
    assert response.get_json().keys() == {"error"}
    assert said in response.get_json()["error"]


@pytest.mark.parametrize("length", ["0", "-1", "12x", "999", "9" * 400, "1e1", "", "٣"])
def test_a_header_that_lies_about_the_json(client: FlaskClient, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length.encode().decode("latin-1")}
    response = client.post(URL, data=b"{} and more", headers=headers)
    assert response.status_code == 400
    assert "Inference-Header-Content-Length is" in response.get_json()["error"]


def test_a_million_values_are_refused_before_they_are_parsed(client: FlaskClient) -> None:
    for data in (b'["a"' + b',"a"' * 900_000 + b"]", b"[" * 2_000_000, b"[0" + b",0" * 1_900_000):
        head = b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1,1,1,3],"data":'
        tracemalloc.start()
        response = client.post(URL, data=head + data + b"]}]}")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert response.status_code == 400
        assert peak < 5 * len(data)


def test_limits_hold_as_for_every_other_image(client: FlaskClient) -> None:
    wide = image(400, 300, parameters={"binary_data_size": 360_000})
    response = ask(client, wide, behind=bytes(360_000))
    assert response.status_code == 413
    assert "100000" in response.get_json()["error"]
    assert client.post(URL, data=bytes(4_000_001)).status_code == 413
    assert client.post("/v2/models/none/infer").status_code == 404
    assert client.get("/v2/nothing").get_json()["error"].startswith("no such route")
    assert client.get(URL).status_code == 405


def test_keys_admission_and_metrics_are_those_of_every_request(
    server: Server, start: Any, tmp_path: Path
) -> None:
    body = {"inputs": [image(2, 2, data=[0] * 12)]}
    before = _count(server.base)
    assert requests.post(server.base + URL, json=body, timeout=PATIENCE).status_code == 200
    assert _count(server.base) == before + 1
    full = start(threads=1, queue=0).wait_ready()
    caller = full.hold_in_work()
    refused = requests.post(full.base + URL, json=body, timeout=PATIENCE)
    caller.close()
    assert (refused.status_code, refused.json().keys()) == (429, {"error"})
    assert int(refused.headers["Retry-After"]) > 0
    keys = tmp_path / "keys.txt"
    keys.write_text("me:" + "0" * 64)
    locked = start(api_keys_file=str(keys)).wait_ready()
    assert requests.post(locked.base + URL, json=body, timeout=PATIENCE).status_code == 401
    assert requests.get(locked.base + "/v2/models/accurate", timeout=PATIENCE).status_code == 401
    assert requests.get(locked.base + "/v2/health/ready", timeout=PATIENCE).status_code == 200


def _count(base: str) -> float:
    text = requests.get(base + "/metrics", timeout=PATIENCE).text
    return sum(
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("ocr_requests_total{") and 'code="200"' in line and "accurate" in line
    )


def test_doclings_own_client_reads_a_page(
    repo: Path, unwarmed: Path, sample_page: Sample, tmp_path: Path
) -> None:
    """Its OCR stage, `KserveV2OcrModel`, over HTTP, on a page of a scanned PDF: as JSON or not."""
    scan = tmp_path / "scan.pdf"
    scan.write_bytes(pdf(sample_page.image, 1))
    log = tmp_path / "log"
    with real_server(log, "--models", str(unwarmed), "--max-body-mb", "60") as (_, url):
        done = subprocess.run(
            [sys.executable, "tests/support/docling_child.py", scan, url],
            cwd=repo,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    binary, plain = json.loads(done.stdout)
    assert binary == plain
    assert (binary["errors"], binary["model"]) == ([], ["image", "lang_type"])
    truth = [line.text for line in sample_page.lines]
    assert character_overlap(truth, [cell["text"] for cell in binary["cells"]]).f1 > 0.97
    for cell in binary["cells"]:
        assert 0 <= cell["left"] < cell["right"] <= binary["width"] + 1
        assert 0 <= cell["top"] < cell["bottom"] <= binary["height"] + 1
