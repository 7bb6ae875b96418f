"""Jobs over real sockets, in PaddleOCR's protocol: /api/v2/ocr/jobs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from http_fake import HELD, LONG, document, picture
from http_jobs import JOBS, ended, job_id, lines, status, submit, texts
from http_server import PATIENCE, Server, eventually

from serving.errors import SpoolFull, TimedOut
from serving.http.jobs import Job, JobRequest, JobRunner, Spool
from serving.http.keys import new_key

MIB = 1 << 20


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def begin(start: Callable[..., Server], spool: Path) -> Callable[..., Server]:
    def begin(**settings: Any) -> Server:
        return start(**{"spool": str(spool), "max_spool": 64 * MIB, **settings}).wait_ready()

    return begin


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For requests that leave it as it was."""
    folder = tmp_path_factory.mktemp("refusing")
    spool = str(folder / "spool")
    server = Server(folder, spool=spool, max_spool=64 * MIB, max_pages=3).wait_ready()
    yield server
    assert server.end() == 0


def test_a_job_from_its_document_to_its_lines(begin: Callable[..., Server], spool: Path) -> None:
    server = begin()
    sizes = document("black", "red", "white", size=(60, 30), kind="PDF")
    job = job_id(submit(server, sizes, pageRanges="1,3", optionalPayload='{"textDetThresh": 0.4}'))
    found = ended(server, job)
    assert found["state"] == "done"
    progress = found["extractProgress"]
    assert (progress["totalPages"], progress["extractedPages"]) == (2, 2)
    assert progress["startTime"] <= progress["endTime"]
    first, second = lines(found)
    pruned = first["result"]["ocrResults"][0]["prunedResult"]
    assert pruned["text_det_params"]["thresh"] == 0.4
    assert len(pruned["rec_texts"]) == len(pruned["rec_boxes"]) == 1
    assert first["errorCode"] == 0
    assert first["result"]["dataInfo"] == {}
    assert second["result"]["dataInfo"]["numPages"] == 2
    assert texts(found)[1] == ""
    assert not list(spool.glob("*/document"))
    metrics = requests.get(server.base + "/metrics", timeout=PATIENCE).text
    assert "ocr_jobs_waiting 0.0" in metrics
    assert 0 < float(metrics.partition("\nocr_spool_bytes ")[2].split()[0]) < MIB


@pytest.mark.parametrize(
    ("data", "fields", "code", "said"),
    [
        (b"hello", {}, 415, "unsupported format"),
        (b"", {}, 415, "empty"),
        (picture(), {"model": "PP-StructureV3"}, 400, "no 'PP-StructureV3' here; there are: acc"),
        (picture(), {"pageRanges": "2"}, 400, "there is no page 2"),
        (picture(), {"pageRanges": "x"}, 400, "no page or range"),
        (picture(), {"optionalPayload": "{"}, 400, "JSON"),
        (picture(), {"optionalPayload": '{"visualize": true}'}, 400, "visualize"),
        (picture(), {"optionalPayload": '{"textDetThresh": 7}'}, 400, "text_det_thresh"),
        (picture(), {"optionalPayload": '{"useDocUnwarping": true}'}, 400, "no unwarping model"),
        (picture(), {"batchId": "../x"}, 400, "batchId"),
        (picture(), {"color": "red"}, 400, "known are file, model"),
        (picture(pages=4, kind="TIFF"), {}, 413, "limit is 3"),
    ],
)
def test_what_is_refused_leaves_nothing(
    refusing: Server,
    data: bytes,
    fields: dict[str, str],
    code: int,
    said: str,
) -> None:
    answer = submit(refusing, data, **fields)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (code, code)
    assert said in body["msg"] == body["error"]["message"]
    assert not refusing.gate.with_name("spool").exists()


@pytest.mark.parametrize(
    ("fields", "files", "said"),
    [
        ([("model", "PP-OCRv6")], ["file", "file"], "2 files; a job reads one"),
        ([("model", "PP-OCRv6"), ("model", "accurate")], ["file"], "given twice"),
        ([("model", "PP-OCRv6")], [], "no image in the form"),
        ([], ["file"], "model: missing"),
        ([("file", "text"), ("model", "PP-OCRv6")], [], "the field file is text"),
    ],
)
def test_a_form_that_is_ambiguous_is_refused(
    refusing: Server, fields: list[tuple[str, str]], files: list[str], said: str
) -> None:
    parts = [(name, (None, value)) for name, value in fields]
    parts += [(name, ("a", picture())) for name in files]  # type: ignore[misc]
    answer = requests.post(refusing.base + JOBS, files=parts, timeout=PATIENCE)
    assert answer.status_code == 400
    assert said in answer.json()["msg"]


def test_ten_thousand_pages_are_told_at_once(
    begin: Callable[..., Server], spool: Path, tmp_path: Path
) -> None:
    import pikepdf

    with pikepdf.new() as pdf:
        for _ in range(10_000):
            pdf.add_blank_page(page_size=(72, 72))
        pdf.save(tmp_path / "long.pdf")
    server = begin()
    data = (tmp_path / "long.pdf").read_bytes()
    answer = submit(server, data)
    assert answer.status_code == 413
    assert "10000 pages" in answer.json()["msg"]
    assert not spool.exists()
    found = ended(server, job_id(submit(server, data, pageRanges="9999-")))
    assert found["extractProgress"]["extractedPages"] == 2


def test_a_url_is_fetched_only_from_allowed_hosts(begin: Callable[..., Server]) -> None:
    asked = {"model": "PP-OCRv6", "fileUrl": "http://127.0.0.1:1/x.pdf", "optionalPayload": {}}
    answer = requests.post(begin().base + JOBS, json=asked, timeout=PATIENCE)
    assert answer.status_code == 400
    assert "--allow-url-hosts" in answer.json()["msg"]


def test_without_a_spool_the_address_says_so(begin: Callable[..., Server]) -> None:
    server = begin(max_spool=0)
    for answer in (submit(server, picture()), requests.get(f"{server.base}{JOBS}/x", timeout=9)):
        assert answer.status_code == 404
        assert "--spool-mb 0" in answer.json()["msg"]


def test_a_job_is_its_keys_alone(begin: Callable[..., Server], tmp_path: Path, spool: Path) -> None:
    (alice, line), (bob, other) = new_key("alice"), new_key("bob")
    (tmp_path / "keys.txt").write_text(f"{line}\n{other}\n")
    server = begin(api_keys_file=str(tmp_path / "keys.txt"))
    mine, his = ({"Authorization": f"Bearer {key}"} for key in (alice, bob))
    assert submit(server, picture()).status_code == 401
    job = job_id(submit(server, picture(), mine, batchId="b1"))
    found = ended(server, job, **mine)
    for method, path in (("GET", job), ("DELETE", job), ("GET", "batch/b1")):
        url = f"{server.base}{JOBS}/{path}"
        assert requests.request(method, url, timeout=PATIENCE).status_code == 401
        assert requests.request(method, url, headers=his, timeout=PATIENCE).status_code == 404
    url = found["resultUrl"]["jsonUrl"]
    assert texts(found) == ["accurate 40x20 字"]
    secret = url.rpartition("=")[2]
    for wrong in (url[:-1], url[:-1] + "ÿ", url.replace(secret, job), url.partition("?")[0]):
        assert requests.get(wrong, timeout=PATIENCE).status_code in (400, 404)
    assert secret not in server.errors()
    batch = requests.get(f"{server.base}{JOBS}/batch/b1", headers=mine, timeout=PATIENCE)
    assert [item["jobId"] for item in batch.json()["data"]["extractResult"]] == [job]
    assert spool.stat().st_mode & 0o077 == 0
    assert (spool / job).is_dir()


@pytest.mark.parametrize(
    "hostile", ["..", "%2e%2e", "..%2f..%2fetc", "x" * 5000, "%00", "ÿ", ".abc", "batch/%2e%2e"]
)
def test_hostile_ids_are_not_found(refusing: Server, hostile: str) -> None:
    for method in ("GET", "DELETE"):
        url = f"{refusing.base}{JOBS}/{hostile}"
        assert requests.request(method, url, timeout=PATIENCE).status_code in (404, 405, 414)


def test_cancelling_ends_a_job_and_leaves_nothing(
    begin: Callable[..., Server], spool: Path
) -> None:
    server = begin()
    held = job_id(submit(server, document(HELD, "black")))
    later = job_id(submit(server, picture()))
    assert eventually(server.gate.with_suffix(".reached").exists)
    assert status(server, later)["state"] == "pending"
    for job in (held, later):
        answer = requests.delete(f"{server.base}{JOBS}/{job}", timeout=PATIENCE)
        assert answer.status_code == 200
        again = requests.delete(f"{server.base}{JOBS}/{job}", timeout=PATIENCE)
        assert again.status_code == 404
    server.gate.touch()
    assert eventually(lambda: "job cancelled" in server.errors())
    assert list(spool.iterdir()) == []
    assert ended(server, job_id(submit(server, picture())))["state"] == "done"


def test_a_full_spool_loses_nothing(begin: Callable[..., Server], spool: Path) -> None:
    server = begin(max_spool=MIB)
    jobs = []
    while (answer := submit(server, picture(pages=4, kind="PDF"))).status_code == 200:
        jobs.append(job_id(answer))
    assert answer.status_code == 507
    assert "--spool-mb" in answer.json()["msg"]
    assert [len(texts(ended(server, job))) for job in jobs] == [4] * len(jobs) != []
    assert {path.name for path in spool.iterdir()} == set(jobs)
    assert submit(server, picture()).status_code == 200  # what they had reserved is free


def test_a_result_that_outgrows_the_spool_fails_its_job_alone(
    begin: Callable[..., Server],
) -> None:
    server = begin(max_spool=MIB)
    found = ended(server, job_id(submit(server, picture(colour=LONG))))
    assert found["state"] == "failed"
    assert "--spool-mb" in found["errorMsg"]
    assert ended(server, job_id(submit(server, picture())))["state"] == "done"


def test_a_spool_that_cannot_be_written_says_so(begin: Callable[..., Server], spool: Path) -> None:
    spool.write_text("a file")
    server = begin()
    answer = submit(server, picture())
    assert answer.status_code == 507
    assert "--spool" in answer.json()["msg"]
    assert requests.get(server.base + "/metrics", timeout=PATIENCE).status_code == 200


def test_a_broken_page_fails_its_job(begin: Callable[..., Server]) -> None:
    server = begin()
    found = ended(server, job_id(submit(server, picture()[:60])))
    assert (found["state"], found["errorMsg"][:6]) == ("failed", "broken")
    assert "resultUrl" not in found


def test_an_engine_that_fails_fails_the_job_and_the_log_says_why(
    begin: Callable[..., Server],
) -> None:
    server = begin()
    found = ended(server, job_id(submit(server, picture(colour=(0, 0, 1)))))
    assert (found["state"], found["errorMsg"][:14]) == ("failed", "internal error")
    assert "the engine broke" in server.errors()


def test_expired_jobs_are_removed(begin: Callable[..., Server], spool: Path) -> None:
    server = begin(spool_time=0.5)
    job = job_id(submit(server, picture()))
    ended(server, job)
    time.sleep(0.6)
    later = job_id(submit(server, picture()))
    assert [path.name for path in spool.iterdir()] == [later]
    gone = requests.get(f"{server.base}{JOBS}/{job}", timeout=PATIENCE)
    assert gone.status_code == 404
    assert "expired" in gone.json()["msg"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_leaves_its_job_to_another(
    begin: Callable[..., Server], workers: int
) -> None:
    server = begin(workers=workers)
    job = job_id(submit(server, document("black", "black", HELD, "white")))
    assert eventually(server.gate.with_suffix(".reached").exists)
    assert status(server, job)["extractProgress"]["extractedPages"] == 2
    for worker in server.workers():
        os.kill(worker, signal.SIGKILL)
    server.gate.touch()
    assert eventually(lambda: is_done(server, job))
    found = status(server, job)
    assert len(texts(found)) == 4
    pages = requests.get(server.base + "/metrics", timeout=PATIENCE).text
    assert 'ocr_pages_total{pipeline="accurate"} 4.0' in pages  # none was read twice


def is_done(server: Server, job: str) -> bool:
    try:
        return status(server, job)["state"] == "done"
    except requests.ConnectionError:  # no worker yet
        return False


def test_a_page_that_ends_every_worker_fails_its_job(begin: Callable[..., Server]) -> None:
    server = begin()
    job = job_id(submit(server, picture(colour=HELD)))
    for _ in range(3):
        assert eventually(server.gate.with_suffix(".reached").exists)
        server.gate.with_suffix(".reached").unlink()
        before = server.workers()
        os.kill(before[0], signal.SIGKILL)
        assert eventually(lambda: server.workers() not in ([], before))  # noqa: B023
    assert eventually(lambda: "not read in 3 attempts" in said(server, job))
    assert server.post().status_code == 200


def said(server: Server, job: str) -> str:
    try:
        return str(status(server, job).get("errorMsg"))
    except requests.ConnectionError:
        return ""


def test_a_reload_and_a_restart_go_on_where_a_job_was(begin: Callable[..., Server]) -> None:
    server = begin()
    job = job_id(submit(server, document("black", HELD, "black")))
    waiting = job_id(submit(server, picture()))
    assert eventually(server.gate.with_suffix(".reached").exists)
    server.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: len(server.workers()) == 2)
    # The new generation takes the job that waits; the old worker keeps its own.
    assert ended(server, waiting)["state"] == "done"
    assert status(server, job)["state"] == "running"
    later = job_id(submit(server, document("black", HELD)))
    server.gate.with_suffix(".reached").unlink()
    server.process.kill()
    server.process.wait()
    server.gate.touch()
    second = begin()
    second.gate.touch()
    for it, count in ((job, 3), (later, 2)):
        assert len(texts(ended(second, it))) == count
    assert len(texts(status(second, waiting))) == 1


def test_sigterm_finishes_the_page_and_keeps_the_job(begin: Callable[..., Server]) -> None:
    server = begin()
    job = job_id(submit(server, document(HELD, "black")))
    assert eventually(server.gate.with_suffix(".reached").exists)
    assert server.end() == 0  # which opens the gate
    second = begin()
    assert len(texts(ended(second, job))) == 2


def test_requests_go_before_jobs(begin: Callable[..., Server]) -> None:
    """A job of many pages and a request: the request has its answer before the job has ended."""
    server = begin(threads=1, queue=20)
    job = job_id(submit(server, document(*["black"] * 190)))
    answers = []
    while status(server, job)["state"] != "done" and len(answers) < 5:
        answers.append(server.post().status_code)
    assert answers == [200] * len(answers)
    assert ended(server, job)["state"] == "done"


def test_the_address_of_a_result_is_the_one_that_a_proxy_has(begin: Callable[..., Server]) -> None:
    server = begin()
    job = job_id(submit(server, picture()))
    ended(server, job)
    proxied = {"Proto": "https", "Host": "ocr.example.org, inner", "Prefix": "/docs/"}
    headers = {f"X-Forwarded-{name}": value for name, value in proxied.items()}
    url = status(server, job, **headers)["resultUrl"]["jsonUrl"]
    assert url.startswith(f"https://ocr.example.org/docs/api/v2/ocr/results/{job}?secret=")


def test_two_workers_never_read_the_same_job(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MIB * 100, 60)
    wanted = JobRequest(owner="", pipeline="p", options={}, pages="1-")
    jobs = [spool.add(wanted, b"document", 1) for _ in range(20)]
    seen: list[str] = []

    def work() -> None:
        while True:
            with spool.claim() as job:
                if job is None:
                    return
                seen.append(job.id)
                job.begin()
                job.add_page((1, 1), b"{}\n")
                job.end()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == jobs


def test_half_written_jobs_harm_no_other(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MIB, 60)
    wanted = JobRequest(owner="", pipeline="p", options={}, pages="1-")
    broken, whole = (spool.add(wanted, b"document", 1) for _ in range(2))
    (tmp_path / broken / "state.json").write_text("")
    with spool.claim() as job:
        assert job is not None and job.id == whole
    with pytest.raises(SpoolFull, match="--spool-mb"):
        spool.add(wanted, b"x" * MIB, 1)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_not_the_spools_own_is_left_alone(tmp_path: Path) -> None:
    """As in a home folder, or on a volume with lost+found."""
    days_ago = time.time() - 60 * 24 * 3600
    for name in (".ssh", ".git", "terraform", "lost+found"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text("{}")
        os.utime(tmp_path / name / "state.json", (days_ago, days_ago))
        os.utime(tmp_path / name, (days_ago, days_ago))
    spool = Spool(tmp_path, MIB, 60)
    spool.expire()
    assert spool.used() == 0
    assert len(list(tmp_path.glob("*/state.json"))) == 4


@pytest.mark.parametrize("damage", ["result.jsonl", "request.json"])
def test_a_damaged_job_does_not_keep_the_others_waiting(tmp_path: Path, damage: str) -> None:
    spool = Spool(tmp_path, MIB, 60)
    wanted = JobRequest(owner="", pipeline="p", options={}, pages="1-")
    damaged, whole = (spool.add(wanted, b"document", 1) for _ in range(2))
    (tmp_path / damaged / damage).unlink()
    read: list[str] = []

    def page(job: Job, check: Callable[[], None]) -> None:
        job.add_page((1, 1), b"{}\n")
        read.append(job.id)

    runner = JobRunner(spool, lambda: True, page)
    end = time.monotonic() + PATIENCE
    while whole not in read and time.monotonic() < end:
        time.sleep(0.05)
    runner.close()
    assert read == [whole]
    (tmp_path / whole / "state.json").write_text("{}")
    assert list(spool.collect())


def test_a_job_that_waits_is_kept_though_the_server_was_down_for_days(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MIB, seconds=60)
    wanted = JobRequest(owner="", pipeline="p", options={}, pages="1-")
    waiting = spool.add(wanted, b"document", 1)
    days_ago = time.time() - 3 * 24 * 3600
    os.utime(tmp_path / waiting / "state.json", (days_ago, days_ago))
    spool.expire()
    with spool.claim() as job:
        assert job is not None
        job.begin()
        job.end()
    os.utime(tmp_path / waiting / "state.json", (days_ago, days_ago))
    spool.expire()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("late", "state"), [(2, "done"), (9, "failed")])
def test_a_page_that_the_machine_had_no_time_for_is_read_again(
    tmp_path: Path, late: int, state: str
) -> None:
    spool = Spool(tmp_path, MIB, seconds=60)
    job_id = spool.add(JobRequest(owner="", pipeline="p", options={}, pages="1-"), b"document", 2)
    calls = []

    def read(job: Job, check: Callable[[], None]) -> None:
        if not job.state.pages:
            job.add_page((1, 1), b"{}\n")
        calls.append(len(job.state.pages))
        if len(calls) <= late:
            raise TimedOut("the machine is overloaded: try again later")
        job.add_page((1, 1), b"{}\n")

    runner = JobRunner(spool, lambda: True, read)
    try:
        assert eventually(lambda: spool.get(job_id, "").state.state == state)
    finally:
        runner.close()
    assert calls == [1, 1, 1]
    found = spool.get(job_id, "").state
    assert len(found.pages) == (2 if state == "done" else 1)
    assert ("took too long" in str(found.error)) == (state == "failed")
