"""The flags and environment variables of `ocr-hpi serve`."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from plans import deploy

from serving.cli.serve import command
from serving.config import load_config
from serving.download import HostPattern
from serving.errors import ConfigError, PlanError
from serving.http.settings import Settings
from serving.machine import usable_cores


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, repo: Path) -> list[Settings]:
    """The settings that the server would start with."""
    seen: list[Settings] = []
    monkeypatch.setattr(
        "serving.http.gunicorn.master.run", lambda settings, first, listener: seen.append(settings)
    )
    monkeypatch.setattr(  # the port of the settings may be another server's
        "serving.http.startup.bind", lambda settings: socket.create_server(("127.0.0.1", 0))
    )
    monkeypatch.chdir(repo)
    return seen


def serve(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(command, arguments, env=dict(environment))


def test_defaults(started: list[Settings]) -> None:
    assert serve().exit_code == 0
    [settings] = started
    assert settings == Settings(
        pipelines={"accurate": Path("configs/PP-OCRv4_mobile.yaml")},
        cores=usable_cores(),
        threads=usable_cores(),
    )
    assert (settings.host, settings.port) == ("127.0.0.1", 8868)
    assert (settings.max_body, settings.max_pixels) == (20 * 1024 * 1024, 100_000_000)
    assert (settings.max_pages, settings.timeout, settings.page_time) == (200, 60, 10)


def test_flags(started: list[Settings]) -> None:
    a, b = "configs/PP-OCRv4_mobile.yaml", "configs/PP-OCRv6_small.yaml"
    done = serve(
        *("--pipeline", f"fast={a}", "--pipeline", f"best-1.2={b}", "--host", "::1"),
        *("--spool", "/s", "--spool-mb", "0.5", "--spool-hours", "2"),
        *("--port", "0", "--threads", "3", "--workers", "2", "--max-body-mb", "0.5"),
        *("--queue", "0", "--timeout", "0.5", "--device", "gpu:1,0", "--models", "/m"),
        *("--allow-cpu-fallback", "--allow-anonymous", "--shadow-share", "0.5"),
    )
    assert done.exit_code == 0, done.output
    assert started == [
        Settings(
            pipelines={"fast": Path(a), "best-1.2": Path(b)},
            host="::1",
            port=0,
            device="gpu:1,0",
            allow_cpu_fallback=True,
            allow_anonymous=True,
            cores=6,
            threads=3,
            workers=2,
            max_body=512 * 1024,
            queue=0,
            timeout=0.5,
            models=Path("/m"),
            spool=Path("/s"),
            max_spool=512 * 1024,
            spool_time=7200.0,
            shadow_share=0.5,
        )
    ]


def test_keys_and_urls(started: list[Settings], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{'0' * 64}\n")
    file = str(keys)
    assert serve("--api-keys-file", file, "--allow-url-hosts", "a.b, *.c.d:81,").exit_code == 0
    assert serve(OCR_HPI_API_KEYS_FILE=file, OCR_HPI_ALLOW_URL_HOSTS="a.b,*.c.d:81").exit_code == 0
    assert started[0] == started[1]
    assert started[0].api_keys_file == keys
    assert started[0].allow_url_hosts == (HostPattern("a.b"), HostPattern("c.d", True, 81))


def test_environment(started: list[Settings]) -> None:
    yaml = "configs/PP-OCRv4_mobile.yaml"
    done = serve(
        OCR_HPI_PIPELINE=f"a={yaml},b={yaml}",
        OCR_HPI_PORT="1234",
        OCR_HPI_MAX_BODY_MB="1",
        OCR_HPI_MAX_PAGES="7",
        OCR_HPI_DEVICE="gpu",
        OCR_HPI_ALLOW_CPU_FALLBACK="1",
    )
    assert done.exit_code == 0, done.output
    [settings] = started
    assert list(settings.pipelines) == ["a", "b"]
    assert (settings.device, settings.allow_cpu_fallback) == ("gpu:0", True)
    assert (settings.port, settings.max_body, settings.max_pages) == (1234, 1024 * 1024, 7)


def test_workers_are_what_the_plans_say(
    started: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.machine.usable_cores", lambda: 16)
    first, second = Path("configs/PP-OCRv4_mobile.yaml"), Path("configs/PP-OCRv6_small.yaml")
    deploy(tmp_path, load_config(first), 16, "cpu", 4)
    deploy(tmp_path, load_config(second), 16, "cpu", 2)
    both = ("--models", str(tmp_path), "--pipeline", f"a={first}", "--pipeline", f"b={second}")
    for arguments in (
        both[:4],
        both,
        (*both, "--workers", "3"),
        (*both, "--workers", "8", "--threads", "2"),
        (*both, "--threads", "8"),
        (*both, "--device", "gpu:0"),
    ):
        assert serve(*arguments).exit_code == 0
    numbers = [(settings.workers, settings.threads, settings.cores) for settings in started]
    # Of two pipelines the smaller number: both are in every process, and were measured alone.
    assert numbers == [(4, 4, 16), (2, 8, 16), (3, 5, 16), (8, 2, 16), (1, 8, 8), (1, 16, 16)]
    assert started[0].permits == 4 * 4 + 32


def test_the_first_pipeline_stays_the_first(started: list[Settings]) -> None:
    yaml = "configs/PP-OCRv4_mobile.yaml"
    serve("--pipeline", f"z={yaml}", "--pipeline", f"a={yaml}")
    assert list(started[0].pipelines) == ["z", "a"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--pipeline", "configs/PP-OCRv4_mobile.yaml"), "NAME=YAML"),
        (("--pipeline", "a/b=x.yaml"), "letters, digits"),
        (("--pipeline", "a=x.yaml", "--pipeline", "a=y.yaml"), "given twice"),
        (("--device", "npu"), "gpu:0,1"),
        (("--device", "gpu:"), "gpu:0,1"),
        (("--port", "70000"), "65535"),
        (("--queue", "-1"), "queue"),
        (("--timeout", "0"), "timeout"),
        (("--allow-url-hosts", "http://a.b"), "is not HOST"),
        (("--nonsense",), "--nonsense"),
        (("--shadow", "best=x.yaml"), "--shadow: no --pipeline has the name best"),
        (("--shadow", "accurate=x", "--shadow", "accurate=y"), "--shadow: the name accurate is"),
        (("--shadow-share", "0"), "--shadow-share"),
    ],
)
def test_wrong_usage(started: list[Settings], arguments: tuple[str, ...], words: str) -> None:
    done = serve(*arguments)
    assert done.exit_code == 2
    assert words in done.output
    assert not started


def test_a_shadow_that_cannot_read_is_an_error_before_anything_starts(
    started: list[Settings], repo: Path, tmp_path: Path, built: Path
) -> None:
    shadow = tmp_path / "new.yaml"
    yaml = (repo / "configs/PP-OCRv4_mobile.yaml").read_text()
    shadow.write_text(yaml.replace("limit_side_len: 960", "limit_side_len: 961"))
    done = serve("--shadow", f"accurate={shadow}")
    assert isinstance(done.exception, PlanError)
    assert f"{shadow}: no engine plan" in str(done.exception)
    shadow.write_text("pipeline_name: seal_recognition\n")
    done = serve("--check", "--shadow", f"accurate={shadow}")
    assert isinstance(done.exception, ConfigError)
    assert "it has no lines to compare" in str(done.exception)
    assert not started


def test_a_wrong_yaml_is_an_error_before_anything_starts(
    started: list[Settings], tmp_path: Path
) -> None:
    yaml = tmp_path / "wrong.yaml"
    yaml.write_text("pipeline_name: OCR\n")
    done = serve("--pipeline", f"a={yaml}")
    assert isinstance(done.exception, ConfigError)
    assert str(yaml) in str(done.exception)
    assert not started


def test_threads_and_permits_add_up() -> None:
    settings = Settings(pipelines={}, workers=2, threads=3, queue=5)
    assert settings.permits == 11
    assert settings.http_threads > settings.permits
