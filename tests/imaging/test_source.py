"""What `predict` takes: paths, folders, URLs, bytes, arrays, lists; errors name the source."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import imaging_files as files
import numpy as np
import pytest
from PIL import Image

from serving.errors import BadRequest, TooLarge, Undecodable, Unfetchable, UnsupportedMedia
from serving.imaging import source
from serving.imaging.decode import Decoder
from serving.imaging.source import Loaded, load

PNG = files.encoded(files.picture(), "PNG")
PDF = files.paper("0 0 9 9", "0 0 9 18")


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        self.wfile.write(PDF if self.path == "/a.pdf" else PNG)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Server) as server,
        pytest.MonkeyPatch.context() as env,
    ):
        env.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def names(pages: Iterator[Loaded]) -> list[tuple[str, int | None]]:
    return [(name, page) for name, page, *_ in pages]


def test_path_bytes_and_array_are_the_same_image(tmp_path: Path, decoder: Decoder) -> None:
    path = tmp_path / "no suffix"
    path.write_bytes(PNG)
    expected = files.bgr(files.picture())
    for source_value in (path, str(path), PNG, bytearray(PNG), memoryview(PNG), expected):
        ((name, page, image, *_),) = load(source_value, decoder=decoder)
        np.testing.assert_array_equal(image, expected)
        assert image.flags.c_contiguous
        assert (name, page) == (
            str(path) if isinstance(source_value, str | Path) else "image_0",
            None,
        )


def test_documents_count_their_pages(decoder: Decoder) -> None:
    assert names(load(PDF, decoder=decoder)) == [("image_0", 0), ("image_0", 1)]
    (first, _) = load(PDF, decoder=decoder, pdf_dpi=72)
    assert first.image.shape == (9, 9, 3)


def test_without_a_decoder_one_is_made_and_closed() -> None:
    before = files.children()
    pages = load(PDF)
    next(pages)
    assert len(files.children() - before) == 1
    pages.close()
    assert files.children() == before


def test_a_folder_is_read_recursively_and_sorted_without_other_files(
    tmp_path: Path, decoder: Decoder
) -> None:
    (tmp_path / "sub").mkdir()
    for name, data in {"b.txt": PNG, "a.png": b"text", "sub/c": PDF, "empty.jpg": b""}.items():
        (tmp_path / name).write_bytes(data)
    base = str(tmp_path)
    assert names(load(tmp_path, decoder=decoder)) == [
        (f"{base}/b.txt", None),
        (f"{base}/sub/c", 0),
        (f"{base}/sub/c", 1),
    ]


def test_folder_without_images(tmp_path: Path, decoder: Decoder) -> None:
    with pytest.raises(BadRequest, match="no file in this folder"):
        list(load(tmp_path, decoder=decoder))


def test_url(url: str, decoder: Decoder) -> None:
    assert names(load(f"{url}/a", decoder=decoder)) == [(f"{url}/a", None)]
    assert names(load(f"{url}/a.pdf", decoder=decoder)) == [
        (f"{url}/a.pdf", 0),
        (f"{url}/a.pdf", 1),
    ]
    with pytest.raises(Unfetchable, match="404"):
        list(load(f"{url}/missing", decoder=decoder))
    with pytest.raises(Unfetchable, match=r"http://127\.0\.0\.1:1/"):
        list(load("http://127.0.0.1:1/", decoder=decoder))


def test_url_with_too_many_bytes(
    url: str, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_URL_BYTES", 10)
    with pytest.raises(TooLarge, match="more than 10 bytes"):
        list(load(f"{url}/a", decoder=decoder))


def test_list(tmp_path: Path, decoder: Decoder) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    pages = load([PNG, tmp_path, PDF], decoder=decoder)
    assert names(pages) == [
        ("image_0", None),
        (str(tmp_path / "a.png"), None),
        ("image_2", 0),
        ("image_2", 1),
    ]


def test_a_generator_is_asked_for_one_at_a_time(decoder: Decoder) -> None:
    given = []

    def pictures() -> Iterator[bytes]:
        for data in (PNG, PNG[:40], PNG):
            given.append(data)
            yield data

    pages = load(pictures(), decoder=decoder)
    next(pages)
    assert len(given) == 1
    with pytest.raises(Undecodable) as caught:
        next(pages)
    assert (caught.value.index, len(given)) == (1, 2)


def test_file_objects(tmp_path: Path, decoder: Decoder) -> None:
    path = tmp_path / "two.pdf"
    path.write_bytes(PDF)
    with path.open("rb") as file:
        assert names(load([file, io.BytesIO(PNG)], decoder=decoder)) == [
            (str(path), 0),
            (str(path), 1),
            ("image_1", None),
        ]
    with pytest.raises(BadRequest, match=r"two\.pdf: .*closed"):
        list(load(file, decoder=decoder))
    with path.open() as text, pytest.raises(BadRequest, match="rb"):
        list(load(text, decoder=decoder))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_a_pil_image_is_read_as_its_file_is(mode: str, decoder: Decoder) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    data = files.encoded(files.picture().convert(mode), kind)
    ((_, _, expected, *_),) = load(data, decoder=decoder)
    ((name, page, image, *_),) = load(Image.open(io.BytesIO(data)), decoder=decoder)
    np.testing.assert_array_equal(image, expected)
    assert (name, page) == ("image_0", None)


def test_a_pil_image_is_turned_as_its_exif_says(decoder: Decoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = files.encoded(files.picture(), "PNG", exif=exif, dpi=(200, 200))
    ((_, _, expected, *_),) = load(data, decoder=decoder)
    converted = Image.open(io.BytesIO(data)).convert("RGB")  # which Pillow does not turn
    ((_, _, image, dpi, *_),) = load(converted, decoder=decoder)
    np.testing.assert_array_equal(image, expected)
    assert dpi == (200, 200)


def test_a_pil_image_of_a_damaged_file(decoder: Decoder) -> None:
    cut = Image.open(io.BytesIO(PNG[:-30]))
    with pytest.raises(Undecodable, match="image_0: Pillow cannot decode"):
        list(load(cut, decoder=decoder))


def test_errors_name_the_source_and_its_index(tmp_path: Path, decoder: Decoder) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(PNG[:40])
    pages = load([PNG, str(broken)], decoder=decoder)
    next(pages)
    with pytest.raises(Undecodable, match=r"broken\.png") as caught:
        next(pages)
    assert caught.value.index == 1
    with pytest.raises(BadRequest, match="no such file"):
        list(load("no/such/file.png", decoder=decoder))
    with pytest.raises(UnsupportedMedia, match="image_0"):
        list(load(b"text", decoder=decoder))


def test_a_file_that_does_not_open_is_told_of_and_the_others_are_read(
    tmp_path: Path, decoder: Decoder
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.png").write_bytes(PNG[:40])
    (tmp_path / "c.pdf").write_bytes(PDF)
    failed: list[tuple[str, int | None, str]] = []
    sources = [tmp_path, b"text", "http://127.0.0.1:9/refused.png", PNG]
    pages = load(
        sources,
        decoder=decoder,
        on_page_error=lambda name, index, error: failed.append((name, index, str(error))),
    )
    read = [(Path(name).name, index) for name, index in names(pages)]
    assert read == [("a.png", None), ("c.pdf", 0), ("c.pdf", 1), ("image_3", None)]
    assert [(Path(name).name, index) for name, index, _ in failed] == [
        ("b.png", None),
        ("image_1", None),
        ("refused.png", None),
    ]
    assert all(reason for _, _, reason in failed)


def test_arrays_of_other_shapes(decoder: Decoder) -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for source_value in (grey, grey[..., None]):
        ((_, _, image, *_),) = load(source_value, decoder=decoder)
        assert image.shape == (2, 3, 3) and (image == grey[..., None]).all()
    bgra = np.array([[[10, 20, 30, 255], [0, 0, 0, 0]]], np.uint8)
    ((_, _, image, *_),) = load(bgra, decoder=decoder)
    assert image.tolist() == [[[10, 20, 30], [255, 255, 255]]]
    ((_, _, image, *_),) = load(np.zeros((4, 6, 3), np.uint8)[::2, ::-1], decoder=decoder)
    assert image.flags.c_contiguous


@pytest.mark.parametrize(
    "source_value",
    [
        np.zeros((2, 2, 3), np.float32),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros((0, 2, 3), np.uint8),
        np.zeros(5, np.uint8),
        42,
        [PNG, [PNG]],
        io.StringIO("text"),
    ],
)
def test_other_values_are_rejected(decoder: Decoder, source_value: object) -> None:
    with pytest.raises(BadRequest, match=r"array|bytes|rb"):
        list(load(source_value, decoder=decoder))
