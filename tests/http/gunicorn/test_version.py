"""The server extends the inside of Gunicorn, and says so where another version is installed."""

from __future__ import annotations

import re
from pathlib import Path

import gunicorn
import pytest

from serving.errors import OcrError
from serving.http.gunicorn import SERIES, check_version
from serving.http.gunicorn.master import run
from serving.http.settings import Settings


def test_the_installed_gunicorn_is_of_the_series_this_was_written_for() -> None:
    assert gunicorn.version_info[0] == SERIES, "read serving/http/gunicorn/__init__.py first"
    check_version()


def test_setup_cfg_asks_for_that_series(repo: Path) -> None:
    assert f"gunicorn>={SERIES},<{SERIES + 1}\n" in (repo / "setup.cfg").read_text()


def test_another_series_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn, "version_info", (28, 1, 0))
    monkeypatch.setattr(gunicorn, "__version__", "28.1.0")
    message = "Gunicorn 28.1.0 is installed, and the server needs 27.x"
    with pytest.raises(OcrError, match=re.escape(message)):
        run(Settings(pipelines={"accurate": Path("none.yaml")}))


def test_gunicorn_is_extended_in_one_folder(repo: Path) -> None:
    """Elsewhere only its error classes and its logger are used."""
    pattern = re.compile(r"^\s*(?:from|import) (gunicorn[.\w]*)", re.MULTILINE)
    used = {
        name
        for file in (repo / "serving").rglob("*.py")
        if file.parent != repo / "serving/http/gunicorn"
        for name in pattern.findall(file.read_text())
    }
    assert used <= {"gunicorn.config", "gunicorn.glogging", "gunicorn.http.errors"}
