"""Whatever a body is made of: images, or an error on purpose."""

from __future__ import annotations

import io
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import InputError
from serving.http.body import Body
from serving.http.settings import Settings
from serving.http.uploads import read_uploads

_PIECES = st.one_of(
    st.sampled_from(
        [
            b"--b",
            b"--",
            b"\r\n",
            b"\n",
            b"Content-Disposition: form-data",
            b'; name="image"',
            b'; name="file"',
            b"; name=",
            b'; filename="a"',
            b"; filename*=UTF-8''%ff",
            b"Content-Type: text/plain; charset=utf-16",
            b"Content-Length: x",
            b"Content-Transfer-Encoding: base64",
            b"data",
            b'{"image":',
            b'"images":[',
            b'"aGk="',
            b"]}",
        ]
    ),
    st.binary(max_size=8),
)


def body_of(data: bytes, length: int | None = None) -> Body:
    settings = Settings(pipelines={}, max_body=4096)
    return Body(io.BytesIO(data), length=len(data) if length is None else length, settings=settings)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(_PIECES, max_size=30).map(b"".join),
    st.sampled_from(["multipart/form-data; boundary=b", "application/json", "image/png", ""]),
)
def test_any_body_is_images_or_an_error_on_purpose(data: bytes, kind: str) -> None:
    try:
        documents = read_uploads(kind, body_of(data), 3)
    except InputError as error:
        assert str(error)
    else:
        assert 1 <= len(documents) <= 3
        assert all(documents)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_content_type(kind: str) -> None:
    try:
        assert read_uploads(kind, body_of(b"data"), 3) == [b"data"]
    except InputError as error:
        assert str(error)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=3), st.booleans())
def test_a_form_gives_back_the_bytes_of_its_files(files: list[bytes], close: bool) -> None:
    head = b'--bound\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    data = b"".join(head + file + b"\r\n" for file in files) + b"--bound--" + b"\r\n" * close
    if any(b"\r\n--bound" in file for file in files):
        return
    assert read_uploads("multipart/form-data; boundary=bound", body_of(data), 3) == files


def test_a_body_that_ends_early_is_told() -> None:
    with pytest.raises(InputError, match="after 3 of 5 bytes"):
        read_uploads("image/png", body_of(b"abc", length=5), 3)


@pytest.mark.parametrize("filling", [b"\n", b"\r\n", b"\r\n--boun", bytes(range(256)), b"-"])
def test_large_files_of_any_bytes_pass_the_form(filling: bytes) -> None:
    file = filling * (1_000_000 // len(filling))
    head = b'--bound\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    data = head + file + b"\r\n--bound--\r\n"
    body = Body(
        io.BytesIO(data), length=len(data), settings=Settings(pipelines={}, max_body=2_000_000)
    )
    found = read_uploads("multipart/form-data; boundary=bound", body, 3)
    assert [hash(document) for document in found] == [hash(file)]  # no megabytes in a failure


@pytest.mark.parametrize(
    "data",
    [
        b'{"images":[' + b"1," * 1_500_000 + b"1]}",
        b'{"images":' + b"[" * 3_000_000,
        b"{" + b",".join(b'"a%d":1' % key for key in range(300_000)) + b"}",
        b'{"image":' + b"1" * 3_000_000 + b"}",
        b'{"image":"x","b":[' + b"{}," * 1_000_000 + b"{}]}",
    ],
    ids=["numbers", "depth", "keys", "digits", "objects"],
)
def test_json_costs_in_proportion_to_its_size(data: bytes) -> None:
    """3 MiB of JSON took 2.4 GiB and 40 s: an error for each of a million wrong elements."""
    allowed = Settings(pipelines={}, max_body=len(data))
    body = Body(io.BytesIO(data), length=len(data), settings=allowed)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(InputError) as error:
        read_uploads("application/json", body, 200)
    seconds = time.perf_counter() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(str(error.value)) < 1000
    assert peak < 5 * len(data)
    assert seconds < 2


def form(head: bytes, content: bytes = b"GIF89a") -> bytes:
    return b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n--b--\r\n"


@pytest.mark.parametrize(
    "head",
    [
        'Content-Disposition: form-data; name="image"; filename="发票.jpg"'.encode("gbk"),
        'Content-Disposition: form-data; name="image"; filename="Entwürfe.jpg"'.encode("latin-1"),
        'Content-Disposition: form-data; name="image"; filename="发票.jpg"'.encode(),
        b'Content-Disposition: form-data; name="image"; filename=""',
        b"Content-Disposition: form-data; name=\"image\"; filename*=UTF-8''%ff%fe.jpg",
        b'Content-Disposition: form-data; name="image"\r\nContent-Type: image/png',
        b'Content-Disposition: form-data; name="file"\r\nContent-Type: application/pdf',
    ],
)
def test_what_a_file_is_called_does_not_matter(head: bytes) -> None:
    data = form(head)
    assert read_uploads("multipart/form-data; boundary=b", body_of(data), 3) == [b"GIF89a"]


def test_a_text_field_is_no_file() -> None:
    data = form(b'Content-Disposition: form-data; name="image"')
    with pytest.raises(InputError, match="the field image is text, not a file"):
        read_uploads("multipart/form-data; boundary=b", body_of(data), 3)
