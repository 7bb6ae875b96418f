"""Decoder processes: limits are enforced, dead ones are replaced, nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imaging_files as files
import numpy as np
import pytest

from serving.errors import EngineError, NotReady, TimedOut, Undecodable
from serving.imaging.decode import Decoder
from serving.imaging.sandbox import client

GOOD = files.paper("0 0 9 9")
ROOT = Path(__file__).resolve().parents[2]


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("the condition was never met")


def read(decoder: Decoder, data: bytes = GOOD) -> int:
    return sum(1 for _ in decoder.pages(data))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def is_running(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def test_processes_start_late_are_reused_and_leave_nothing() -> None:
    before, descriptors = files.children(), open_files()
    with Decoder() as decoder:
        assert files.children() == before
        read(decoder)
        processes = files.children() - before
        assert len(processes) == 1
        for _ in range(5):
            read(decoder)
        assert files.children() - before == processes
    assert files.children() == before
    assert open_files() == descriptors


def test_an_unreferenced_decoder_ends_its_processes() -> None:
    before = files.children()
    decoder = Decoder()
    read(decoder)
    del decoder
    gc.collect()
    assert files.children() == before


def test_processor_time_is_limited() -> None:
    with Decoder(processes=1, page_seconds=0.5) as decoder:
        with pytest.raises(Undecodable, match=r"page 1: .* processor time"):
            files.given_time(lambda: next(iter(decoder.pages(files.endless_pdf()))))
        assert read(decoder) == 1


def test_memory_is_limited() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (3000, 3000, 3), dtype=np.uint8)
    data = files.encoded(files.Image.fromarray(noise), "TIFF")
    with Decoder(processes=1, memory_bytes=16 << 20) as decoder:
        with pytest.raises(Undecodable, match="more than 16 MiB of memory"):
            list(decoder.pages(data))
        assert read(decoder) == 1


def test_a_busy_process_that_crashes_fails_one_request() -> None:
    before = files.children()
    with Decoder(processes=1) as decoder, ThreadPoolExecutor() as threads:
        pages = iter(decoder.pages(files.endless_pdf()))
        (process,) = files.children() - before
        answer = threads.submit(next, pages)
        wait_until(lambda: "R" in Path(f"/proc/{process}/stat").read_text().split()[2])
        os.kill(process, signal.SIGSEGV)
        with pytest.raises(Undecodable, match=r"crashed its decoder \(SIGSEGV\)"):
            answer.result()
        assert read(decoder) == 1
    assert files.children() == before


def test_an_idle_process_that_dies_fails_no_request() -> None:
    before = files.children()
    with Decoder(processes=1) as decoder:
        document = iter(decoder.pages(files.paper("0 0 9 9", "0 0 9 9")))
        next(document)
        (process,) = files.children() - before
        os.kill(process, signal.SIGKILL)
        wait_until(lambda: not is_running(process))
        assert next(document).shape == (18, 18, 3)
        assert process not in files.children()


def test_an_idle_process_that_is_stopped_fails_no_request() -> None:
    before = files.children()
    with Decoder(processes=1, page_seconds=1000) as decoder:
        read(decoder)
        (process,) = files.children() - before
        os.kill(process, signal.SIGSTOP)
        assert read(decoder) == 1
        assert process not in files.children()


def test_a_busy_process_that_is_stopped_is_replaced() -> None:
    before = files.children()
    with Decoder(processes=1, page_seconds=1000) as decoder, ThreadPoolExecutor() as threads:
        pages = iter(decoder.pages(files.endless_pdf()))
        (process,) = files.children() - before
        answer = threads.submit(next, pages)
        wait_until(lambda: "R" in Path(f"/proc/{process}/stat").read_text().split()[2])
        os.kill(process, signal.SIGSTOP)
        wait_until(lambda: files.children() - before - {process})
        (second,) = files.children() - before - {process}
        os.kill(second, signal.SIGSEGV)
        with pytest.raises((Undecodable, EngineError)):
            answer.result()
        assert process not in files.children()
        assert read(decoder) == 1


def test_a_process_that_hangs_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = files.children()
    hanging = client._BOOTSTRAP.replace("main()", "").rstrip("; ") + (
        "; import socket, time; from serving.imaging.sandbox import protocol; "
        "channel = socket.socket(fileno=int(sys.argv[1])); "
        "protocol.send(channel, {'ready': True}); time.sleep(9999)"
    )
    with Decoder(processes=1, page_seconds=1000) as decoder:
        monkeypatch.setattr(client, "_MAX_IDLE_CHECKS", 2)
        with monkeypatch.context() as patch:
            patch.setattr(client, "_BOOTSTRAP", hanging)
            with pytest.raises(TimedOut, match="try again later"):
                decoder.pages(GOOD)
        assert files.children() == before
        assert read(decoder) == 1


def test_closing_while_callers_decode_and_wait() -> None:
    before = files.children()
    decoder = Decoder(processes=1)
    documents = [iter(decoder.pages(files.endless_pdf())) for _ in range(3)]
    (process,) = files.children() - before
    with ThreadPoolExecutor() as threads:
        answers = [threads.submit(next, document) for document in documents]
        wait_until(lambda: "R" in Path(f"/proc/{process}/stat").read_text().split()[2])
        decoder.close()
        for answer in answers:
            with pytest.raises(NotReady, match="stopping"):
                answer.result()
    assert files.children() == before
    with pytest.raises(NotReady):
        decoder.pages(GOOD)
    decoder.close()


def test_many_threads_share_few_processes() -> None:
    before = files.children()
    max_children = 0
    data = [files.paper(*[f"0 0 {9 + k} {9 + page}" for page in range(3)]) for k in range(8)]

    def work(number: int) -> None:
        for _ in range(5):
            for page, image in enumerate(decoder.pages(data[number], pdf_dpi=72)):
                assert image.shape == (9 + page, 9 + number, 3)

    with Decoder(processes=2) as decoder:
        with ThreadPoolExecutor(8) as threads:
            answers = [threads.submit(work, number) for number in range(8)]
            while not all(answer.done() for answer in answers):
                max_children = max(max_children, len(files.children() - before))
                time.sleep(0.01)
            for answer in answers:
                answer.result()
        assert 1 <= max_children <= 2


def script(tmp_path: Path, body: str) -> subprocess.Popen[str]:
    """A program without a main guard, run outside the repository."""
    path = tmp_path / "program.py"
    head = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'tests' / 'support')]!r}\n"
    path.write_text(head + textwrap.dedent(body))
    (tmp_path / "document.pdf").write_bytes(GOOD)
    (tmp_path / "endless.pdf").write_bytes(files.endless_pdf())
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_plain_script_without_a_main_guard(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        """
        from pathlib import Path
        from serving.imaging.decode import Decoder
        decoder = Decoder()
        [page] = decoder.pages(Path("document.pdf").read_bytes())
        print(page.shape)
        """,
    )
    output, _ = program.communicate(timeout=60)
    assert (program.returncode, output) == (0, "(18, 18, 3)\n")


def test_processes_end_with_their_server_even_while_decoding(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        """
        import threading
        from pathlib import Path
        import imaging_files
        from serving.imaging.decode import Decoder
        decoder = Decoder(page_seconds=1000)
        busy = decoder.pages(Path("endless.pdf").read_bytes())
        list(decoder.pages(Path("document.pdf").read_bytes()))
        threading.Thread(target=next, args=(iter(busy),)).start()
        list(decoder.pages(Path("document.pdf").read_bytes()))
        print(*imaging_files.children(), flush=True)
        """,
    )
    assert program.stdout is not None
    processes = [int(number) for number in program.stdout.readline().split()]
    assert processes and all(is_running(process) for process in processes)
    program.kill()
    program.communicate()
    wait_until(lambda: not any(is_running(process) for process in processes))


def test_a_forked_child_leaves_its_parents_processes_alone() -> None:
    before = files.children()
    program = [sys.executable, "-W", "ignore", "-c"]
    body = f"""
import os, sys
sys.path[:] = {sys.path!r}
import imaging_files as files
from serving.imaging.decode import Decoder
decoder = Decoder()
list(decoder.pages(files.paper("0 0 9 9")))
child = os.fork()
if child == 0:
    sys.exit(0)
os.waitpid(child, 0)
(process,) = files.children()
assert len(list(decoder.pages(files.paper("0 0 9 9")))) == 1
assert files.children() == {{process}}
"""
    subprocess.run([*program, body], check=True, timeout=60)
    assert files.children() == before


def test_the_worker_imports_no_backend(tmp_path: Path) -> None:
    body = (
        f"import sys; sys.path[:] = {sys.path!r}; import serving.imaging.sandbox.worker; "
        "print([name for name in ('cv2', 'openvino', 'onnxruntime', 'flask', 'pydantic') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
