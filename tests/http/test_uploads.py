"""Whatever a body is made of: images, or an error on purpose."""

from __future__ import annotations

import io

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
