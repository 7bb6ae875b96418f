"""POST /ocr/v1/NAME by Flask's own client: bodies, formats, parameters, errors."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
from flask.testing import FlaskClient
from http_fake import Client, FakeReader, picture
from imaging_files import paper, pdf, stream
from PIL import Image

from serving.config.options import DEFAULT_OPTIONS, Options
from serving.http.app import create_app
from serving.http.settings import Settings

READERS = {"accurate": FakeReader("accurate"), "second": FakeReader("second")}
URL = "/ocr/v1/accurate"


@pytest.fixture(scope="module")
def client() -> Iterator[FlaskClient]:
    settings = Settings(
        pipelines=dict.fromkeys(READERS, Path()),
        max_body=256 * 1024,
        max_pixels=300_000,
        max_pages=4,
    )
    app = create_app(settings)
    app.service.registry.open(READERS.__getitem__)
    yield Client(app)
    app.service.close()
    assert all(reader.closed for reader in READERS.values())


def form(*images: bytes, field: str = "image") -> dict[str, Any]:
    return {"data": {field: [(io.BytesIO(image), "x.bin") for image in images]}}


def code(response: Any) -> tuple[int, str]:
    error = response.get_json()["error"]
    assert error["message"]
    assert error["request_id"] == response.headers["X-Request-Id"]
    return response.status_code, error["code"]


@pytest.mark.parametrize("field", ["image", "file"])
def test_multipart_answers_an_array_of_lines(client: FlaskClient, field: str) -> None:
    response = client.post(URL, **form(picture(40, 20), field=field))
    assert response.status_code == 200
    assert response.get_json() == [
        {
            "data": "accurate 40x20 字",
            "score": 0.9877,
            "box": [[1, 2], [40, 2], [40, 20], [1, 20]],
            "page": 0,
            "image": 0,
        }
    ]
    assert "字" in response.get_data(as_text=True)


def test_images_keep_their_order_across_fields(client: FlaskClient) -> None:
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n%s\r\n' % part
        for part in ((b"file", picture(30)), (b"image", picture(50)), (b"file", picture(70)))
    )
    response = client.post(
        URL, data=body + b"--b--\r\n", content_type="multipart/form-data; boundary=b"
    )
    found = [(line["image"], line["data"].split()[1]) for line in response.get_json()]
    assert found == [(0, "30x20"), (1, "50x20"), (2, "70x20")]


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "image/anything", None])
def test_raw_bytes(client: FlaskClient, kind: str | None) -> None:
    response = client.post(URL, data=picture(), content_type=kind)
    assert [line["data"] for line in response.get_json()] == ["accurate 40x20 字"]


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_json(client: FlaskClient, head: str) -> None:
    coded = base64.encodebytes(picture()).decode()  # with line breaks
    one = client.post(URL, json={"image": head + coded})
    two = client.post(URL, json={"images": [coded, head + coded]})
    assert [line["image"] for line in one.get_json()] == [0]
    assert [line["image"] for line in two.get_json()] == [0, 1]


def test_no_text_is_an_empty_array(client: FlaskClient) -> None:
    assert client.post(URL, **form(picture(colour="white"))).get_json() == []


@pytest.mark.parametrize("kind", ["PDF", "TIFF"])
def test_all_pages_of_a_document(client: FlaskClient, kind: str) -> None:
    response = client.post(URL, data=picture(pages=3, kind=kind), content_type="image/any")
    assert [line["page"] for line in response.get_json()] == [0, 1, 2]


def test_pdf_dpi(client: FlaskClient) -> None:
    page = picture(kind="PDF")  # 40 x 20 points
    at_72 = client.post(f"{URL}?pdf_dpi=72&format=pages", data=page, content_type="image/any")
    assert at_72.get_json()["pages"][0]["width"] == 40
    assert code(client.post(f"{URL}?pdf_dpi=20", data=page)) == (400, "bad_request")


def test_each_name_is_its_own_pipeline(client: FlaskClient) -> None:
    answer = client.post("/ocr/v1/second", **form(picture())).get_json()
    assert answer[0]["data"].startswith("second")


# Formats


def test_pages(client: FlaskClient) -> None:
    response = client.post(
        f"{URL}?format=pages", headers={"X-Request-Id": "me.1"}, **form(picture(), picture(30))
    )
    answer = response.get_json()
    assert answer["request_id"] == "me.1"
    assert [(page["image"], page["width"]) for page in answer["pages"]] == [(0, 40), (1, 30)]
    assert set(answer["pages"][0]["lines"][0]) == {"data", "score", "box"}
    assert {"decode", "detect", "recognise"} == set(answer["timing"])
    assert answer["timing"]["recognise"] == 4.0
    assert answer["engine"]["TextDetection"]["engine"] == {"backend": "fake"}


@pytest.mark.parametrize("query", ["", "?format=pages"])
def test_pages_as_ndjson(client: FlaskClient, query: str) -> None:
    asked = {"Accept": "application/x-ndjson", "X-Request-Id": "me.2"}
    response = client.post(URL + query, headers=asked, **form(picture(), picture(30)))
    assert response.content_type == "application/x-ndjson"
    *pages, last = map(json.loads, response.get_data(as_text=True).splitlines())
    plain = client.post(URL + "?format=pages", **form(picture(), picture(30))).get_json()
    for page in (*pages, *plain["pages"]):
        assert page["timing"].pop("decode") > 0
    assert pages == [{**page, "pages": 2} for page in plain["pages"]]
    assert last["engine"] == plain["engine"]
    assert (last["request_id"], last["timing"]["recognise"]) == ("me.2", 4.0)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("application/json, application/x-ndjson", "application/json"),
        ("application/json;q=0.5, application/x-ndjson", "application/x-ndjson"),
        ("application/x-ndjson, */*", "application/x-ndjson"),
    ],
)
def test_ndjson_only_for_who_wants_it(client: FlaskClient, accept: str, kind: str) -> None:
    asked = {"Accept": accept}
    response = client.post(f"{URL}?format=pages", headers=asked, **form(picture()))
    assert response.content_type == kind
    array = client.post(f"{URL}?format=lines", headers=asked, **form(picture()))
    assert isinstance(array.get_json(), list)


def test_text_parts_pages_by_form_feeds(client: FlaskClient) -> None:
    for ask in ({"query_string": "format=text"}, {"headers": {"Accept": "text/plain"}}):
        response = client.post(URL, **form(picture(), picture(30)), **ask)
        assert response.get_data(as_text=True) == "accurate 40x20 字\faccurate 30x20 字"
        assert response.content_type == "text/plain; charset=utf-8"


def test_image_is_a_png_with_the_boxes_drawn(client: FlaskClient) -> None:
    for ask in ({"query_string": "format=image"}, {"headers": {"Accept": "image/png"}}):
        response = client.post(URL, **form(picture(90, 60)), **ask)
        assert response.content_type == "image/png"
        assert Image.open(io.BytesIO(response.data)).size[1] == 60


def test_image_of_several_pages_is_refused(client: FlaskClient) -> None:
    response = client.post(f"{URL}?format=image", data=picture(pages=2, kind="PDF"))
    assert code(response) == (400, "bad_request")


@pytest.mark.parametrize(
    ("form", "kind"), [("hocr", "text/vnd.hocr+html"), ("alto", "application/alto+xml")]
)
def test_hocr_and_alto_hold_all_pages_and_ask_for_words(
    client: FlaskClient, form: str, kind: str
) -> None:
    for ask in ({"query_string": f"format={form}"}, {"headers": {"Accept": kind}}):
        response = client.post(URL, **form_of_two(), **ask)
        assert response.content_type.split(";")[0] == kind
        assert READERS["accurate"].seen[-1].return_word_box
        text = response.get_data(as_text=True)
        assert text.count(">40x20</span>") + text.count('CONTENT="40x20"') == 1
        assert text.count(">30x20</span>") + text.count('CONTENT="30x20"') == 1
    response = client.post(f"{URL}?format={form}&return_word_box=false", **form_of_two())
    assert "x_wconf" in response.get_data(as_text=True) or form == "alto"


def test_a_searchable_pdf_of_all_that_was_sent(client: FlaskClient) -> None:
    for ask in ({"query_string": "format=pdf"}, {"headers": {"Accept": "application/pdf"}}):
        response = client.post(URL, **form(picture(90, 60), picture(kind="PDF", pages=2)), **ask)
        assert response.content_type == "application/pdf"
        assert READERS["accurate"].seen[-1].return_word_box
        assert "write;dur=" in response.headers["Server-Timing"]
        document = pypdfium2.PdfDocument(response.data)
        assert [page.get_size() for page in document] == [(45, 30), (40, 20), (40, 20)]
        document.close()


def test_no_page_is_read_of_a_pdf_that_must_not_be_changed(client: FlaskClient) -> None:
    signed = paper("0 0 90 90").replace(b"/Catalog", b"/Catalog/Perms<<>>")
    before = len(READERS["accurate"].seen)
    response = client.post(f"{URL}?format=pdf", **form(picture(), signed))
    assert code(response) == (422, "undecodable")
    assert response.get_json()["error"]["index"] == 1
    assert "signed" in response.get_json()["error"]["message"]
    assert len(READERS["accurate"].seen) == before
    assert client.post(URL, **form(picture(), signed)).status_code == 200


def form_of_two() -> dict[str, Any]:
    return form(picture(), picture(30))


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        "application/json, text/plain, */*",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8",
        "text/plain;q=0.5, application/json",
        "application/xml",
    ],
)
def test_lines_for_who_takes_anything(client: FlaskClient, accept: str) -> None:
    response = client.post(URL, headers={"Accept": accept}, **form(picture()))
    assert response.content_type == "application/json"
    assert isinstance(response.get_json(), list)


# Pages, and what is broken


@pytest.mark.parametrize("kind", ["PDF", "TIFF"])
@pytest.mark.parametrize(
    ("pages", "read"),
    [
        ("2", [1]),
        ("3-", [2, 3, 4, 5]),
        ("6,1-2,2", [0, 1, 5]),
        ("2-4", [1, 2, 3]),
        ("5-99", [4, 5]),
    ],
)
def test_selected_pages(client: FlaskClient, kind: str, pages: str, read: list[int]) -> None:
    """Of six, where four are allowed: only the selected ones count."""
    before = len(READERS["accurate"].seen)
    data = picture(kind=kind, pages=6)
    response = client.post(f"{URL}?pages={pages}", data=data, content_type="image/any")
    assert [line["page"] for line in response.get_json()] == read
    assert len(READERS["accurate"].seen) == before + len(read)


@pytest.mark.parametrize(
    "pages", ["0", "2-1", "1,", "", "a", "1 2", "-3", "1-2-3", "1" * 7, "1," * 200 + "1"]
)
def test_bad_page_ranges_are_named(client: FlaskClient, pages: str) -> None:
    response = client.post(URL, query_string={"pages": pages}, **form(picture()))
    assert code(response) == (400, "bad_request")
    assert response.get_json()["error"]["message"].startswith("pages: ")


@pytest.mark.parametrize("kind", ["PDF", "TIFF", "PNG"])
def test_pages_that_are_not_there(client: FlaskClient, kind: str) -> None:
    data = picture(kind=kind, pages=1 if kind == "PNG" else 2)
    response = client.post(f"{URL}?pages=1,3-4", **form(picture(), data))
    assert code(response) == (400, "bad_request")
    assert "no page 3; the document has one page" in response.get_json()["error"]["message"]
    response = client.post(f"{URL}?pages=1,7", data=data)
    assert "no page 7" in response.get_json()["error"]["message"]


def test_too_many_selected_pages(client: FlaskClient) -> None:
    for kind in ("PDF", "TIFF"):
        data = picture(kind=kind, pages=9)
        assert code(client.post(f"{URL}?pages=2-6", data=data)) == (413, "too_large")


BROKEN = picture(colour="red", kind="JPEG")[:200]


def test_partial_lines_name_what_is_broken(client: FlaskClient) -> None:
    response = client.post(
        f"{URL}?partial=true", **form(picture(), BROKEN, picture(1000, 400), b"hello")
    )
    assert response.status_code == 200
    first, *failed = response.get_json()
    assert (first["image"], first["data"]) == (0, "accurate 40x20 字")
    assert [item["image"] for item in failed] == [1, 2, 3]
    assert [item["error"]["code"] for item in failed] == [
        "undecodable", "too_large", "unsupported_media",
    ]  # fmt: skip
    assert all(item["error"]["message"] and "data" not in item for item in failed)
    response = client.post(f"{URL}?partial=true", **form(BROKEN, picture(30)))
    assert [set(item) >= {"data"} for item in response.get_json()] == [False, True]


def test_partial_pages_have_an_error_in_their_place(client: FlaskClient) -> None:
    """A TIFF whose second page is damaged: the others are read."""
    page = Image.effect_noise((40, 20), 50)
    file = io.BytesIO()
    page.save(file, "TIFF", save_all=True, append_images=[page, page], compression="tiff_lzw")
    data = bytearray(file.getvalue())
    with Image.open(file) as pages:
        pages.seek(1)
        [start] = pages.tag_v2[273]
    data[start : start + 300] = b"\xff" * 300
    broken = bytes(data)
    assert code(client.post(f"{URL}?format=pages", data=broken)) == (422, "undecodable")
    for accept in ("application/json", "application/x-ndjson"):
        response = client.post(
            f"{URL}?format=pages&partial=true",
            headers={"Accept": accept, "X-Request-Id": "me.3"},
            **form(broken, BROKEN),
        )
        assert response.status_code == 200
        if accept == "application/json":
            pages = response.get_json()["pages"]
        else:
            *pages, last = map(json.loads, response.get_data(as_text=True).splitlines())
            assert last["request_id"] == "me.3"
            assert [page.pop("pages") for page in pages] == [4] * 4
        assert [page.get("page") for page in pages] == [0, 1, 2, None]
        assert ["lines" in page for page in pages] == [True, False, True, False]
        assert pages[1]["error"]["code"] == "undecodable"
        assert set(pages[3]) == {"image", "error"}


@pytest.mark.parametrize("form_", ["text", "image", "paddlex", "hocr", "alto", "pdf"])
def test_partial_is_for_formats_with_a_place_for_errors(client: FlaskClient, form_: str) -> None:
    response = client.post(f"{URL}?partial=true&format={form_}", **form(picture()))
    assert code(response) == (400, "bad_request")
    assert "partial" in response.get_json()["error"]["message"]


def text_pdf() -> bytes:
    """A page with text and one without."""
    return pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R 4 0 R]/Count 2/MediaBox[0 0 200 100]"
        b"/Resources<</Font<</F 6 0 R>>>>>>",
        b"<</Type/Page/Parent 2 0 R/Contents 5 0 R>>",
        b"<</Type/Page/Parent 2 0 R/Contents 7 0 R>>",
        stream(b"BT /F 20 Tf 20 60 Td (Own text) Tj ET"),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        stream(b"0 0 200 100 re f"),
    )


def test_a_pdfs_own_text_is_taken_on_request(client: FlaskClient) -> None:
    seen = READERS["accurate"].seen
    for query, found in (
        ("", [("ocr", "accurate 400x200 字")] * 2),
        ("&pdf_text=ignore", [("ocr", "accurate 400x200 字")] * 2),
        ("&pdf_text=auto", [("pdf_text", "Own text"), ("ocr", "accurate 400x200 字")]),
    ):
        before = len(seen)
        answer = client.post(f"{URL}?format=pages{query}", data=text_pdf()).get_json()
        pages = answer["pages"]
        # The first page is white: the fake reads no text there.
        assert [page["source"] for page in pages] == [source for source, _ in found]
        texts = [line["data"] for page in pages for line in page["lines"]]
        assert texts == [text for source, text in found][-len(texts) :]
        assert len(seen) == before + sum(source == "ocr" for source, _ in found)
        assert {page["width"] for page in pages} == {400}
        assert all("words" not in line for page in pages for line in page["lines"])
    assert answer["timing"]["pdf_text"] > 0
    text = client.post(f"{URL}?format=text&pdf_text=auto", data=text_pdf()).get_data(as_text=True)
    assert text == "Own text\faccurate 400x200 字"
    drawn = client.post(f"{URL}?format=image&pdf_text=auto&pages=1", data=text_pdf())
    assert Image.open(io.BytesIO(drawn.data)).size[1] == 200


def test_own_text_is_not_added_to_a_searchable_pdf_again(client: FlaskClient) -> None:
    response = client.post(f"{URL}?format=pdf&pdf_text=auto", data=text_pdf())
    document = pypdfium2.PdfDocument(response.data)
    texts = []
    for page in document:
        text = page.get_textpage()
        texts.append(text.get_text_range().strip())
        text.close()
        page.close()
    document.close()
    assert texts[0] == "Own text"
    assert texts[1].startswith("accurate")
    words = client.post(f"{URL}?format=hocr&pdf_text=auto", data=text_pdf()).get_data(as_text=True)
    assert ">Own</span>" in words


# Parameters


def test_overrides_are_for_one_request(client: FlaskClient) -> None:
    seen = READERS["accurate"].seen
    query = "text_det_thresh=0.5&use_textline_orientation=true&order=columns"
    client.post(f"{URL}?{query}", **form(picture()))
    assert seen[-1] == Options(text_det_thresh=0.5, use_textline_orientation=True, order="columns")
    client.post(URL, **form(picture()))
    assert seen[-1] == DEFAULT_OPTIONS


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("text_det_thresh=2", ["text_det_thresh", "must be at most 1", "'2'"]),
        ("text_det_thresh=nan", ["text_det_thresh"]),
        ("text_det_limit_type=both", ["text_det_limit_type", "'min'"]),
        ("return_word_box=perhaps", ["return_word_box", "true or false"]),
        ("order=rows", ["order", "'paddlex'", "'columns'"]),
        ("format=xml", ["format", "'lines'", "'text'"]),
        ("threshold=0.5", ["unknown", "'threshold'", "text_det_thresh"]),
        ("format=text&format=lines", ["format", "once"]),
    ],
)
def test_bad_parameters_are_named(client: FlaskClient, query: str, words: list[str]) -> None:
    response = client.post(f"{URL}?{query}", **form(picture()))
    assert code(response) == (400, "bad_request")
    message = response.get_json()["error"]["message"]
    assert all(word in message for word in words), message


# Errors


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ({}, (400, "bad_request")),
        ({"data": b"", "content_type": "image/png"}, (400, "bad_request")),
        ({"data": {"image": "text"}, "content_type": "multipart/form-data"}, (400, "bad_request")),
        (form(picture(), field="picture"), (400, "bad_request")),
        ({"data": {"file": (io.BytesIO(picture()), "a"), "x": "y"}}, (400, "bad_request")),
        ({"data": {"image": (io.BytesIO(b""), "a")}}, (400, "bad_request")),
        ({"json": {}}, (400, "bad_request")),
        ({"json": {"image": "!!!"}}, (400, "bad_request")),
        ({"json": {"image": "http://127.0.0.1/a.png"}}, (400, "bad_request")),
        ({"json": {"image": 1}}, (400, "bad_request")),
        ({"json": {"images": []}}, (400, "bad_request")),
        ({"json": {"image": "", "images": []}}, (400, "bad_request")),
        ({"json": {"picture": ""}}, (400, "bad_request")),
        ({"json": [1]}, (400, "bad_request")),
        ({"data": b"{", "content_type": "application/json"}, (400, "bad_request")),
        ({"data": b"x", "content_type": "multipart/form-data"}, (400, "bad_request")),
        ({"data": b"hello", "content_type": "image/png"}, (415, "unsupported_media")),
        ({"data": b"hello", "content_type": "text/plain"}, (415, "unsupported_media")),
        (
            {"data": picture(), "content_type": "application/x-www-form-urlencoded"},
            (415, "unsupported_media"),
        ),
        ({"data": picture()[:60], "content_type": "image/png"}, (422, "undecodable")),
        ({"data": b"x" * 300_000, "content_type": "image/png"}, (413, "too_large")),
        ({"data": picture(1000, 400), "content_type": "image/png"}, (413, "too_large")),
        ({"data": picture(pages=5, kind="PDF"), "content_type": "image/x"}, (413, "too_large")),
        (form(*[picture()] * 5), (413, "too_large")),
        (form(*[picture(pages=2, kind="PDF")] * 3), (413, "too_large")),
        ({"data": picture(colour=(0, 0, 1)), "content_type": "image/x"}, (500, "internal")),
    ],
)
def test_the_error_table(
    client: FlaskClient, request_: dict[str, Any], answer: tuple[int, str]
) -> None:
    assert code(client.post(URL, **request_)) == answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"no boundary at all",
        b"--b\r\n\r\n",
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc',
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc\r\n--b',
        b"--b\r\nContent-Disposition: nonsense\r\n\r\nabc\r\n--b--\r\n",
        b"--b--\r\n",
    ],
)
def test_malformed_multipart(client: FlaskClient, body: bytes) -> None:
    response = client.post(URL, data=body, content_type="multipart/form-data; boundary=b")
    assert code(response)[0] in (400, 415)


def test_one_broken_image_among_several_is_named(client: FlaskClient) -> None:
    broken = picture(colour="red", kind="JPEG")[:200]
    response = client.post(URL, **form(picture(), broken, picture()))
    assert code(response) == (422, "undecodable")
    assert response.get_json()["error"]["index"] == 1
    response = client.post(URL, json={"images": [base64.b64encode(picture()).decode(), "?"]})
    assert code(response) == (400, "bad_request")
    assert response.get_json()["error"]["index"] == 1


def test_a_single_broken_image_has_no_index(client: FlaskClient) -> None:
    assert "index" not in client.post(URL, data=picture()[:60]).get_json()["error"]


def test_no_pixel_is_read_when_one_of_several_is_no_image(client: FlaskClient) -> None:
    before = len(READERS["accurate"].seen)
    assert code(client.post(URL, **form(picture(), b"hello")))[0] == 415
    assert len(READERS["accurate"].seen) == before


def test_unknown_pipeline(client: FlaskClient) -> None:
    response = client.post("/ocr/v1/nobody", **form(picture()))
    assert code(response) == (404, "not_found")
    assert "accurate, second" in response.get_json()["error"]["message"]


def test_errors_do_not_repeat_the_callers_picture(client: FlaskClient) -> None:
    secret = base64.b64encode(b"secret").decode() + "!"
    assert secret not in json.dumps(client.post(URL, json={"image": secret}).get_json())
