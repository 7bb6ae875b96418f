"""What the disk refuses while building: one clear line, and nothing half done is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
YAML = "configs/PP-OCRv4_mobile.yaml"
UNFETCHED = "PP-OCRv6_small_det"
"""Other tests may have fetched it: these leave it out of their stores."""
Mount = Callable[[Path, str], None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mounts a small file system; options as of `mount -o`."""
    mounted: list[Path] = []

    def tmpfs(folder: Path, options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"only root may mount: {done.stderr.strip()}")
        if "remount" not in options:
            mounted.append(folder)

    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    yield tmpfs
    for folder in reversed(mounted):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def cli(*arguments: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "serving.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def remains(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if "part" in path.name]


def test_a_full_disk(store: Path, mount: Mount) -> None:
    (store / "engines" / "graphs").unlink()
    mount(store / "engines" / "graphs", "size=1m")
    done = cli("build", YAML, "--models", store)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "the disk is full (no space left on device); nothing half done was kept" in done.stderr
    assert "OSError" not in done.stderr
    assert remains(store / "engines") == []


def test_a_read_only_store(model_store: object, store: Path, tmp_path: Path, mount: Mount) -> None:
    models = tmp_path / "read-only"
    mount(models, "size=1m")
    for path in store.iterdir():
        if path.name not in ("engines", ".lock", UNFETCHED):
            (models / path.name).symlink_to(path.resolve())
    mount(models, "remount,ro")
    for command in (("build", YAML), ("fetch", UNFETCHED)):
        done = cli(*command, "--models", models)
        assert done.returncode == 1
        assert "Read-only file system" in done.stderr
        assert "or choose another folder" in done.stderr
        assert "Error: OSError" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can chown")
@pytest.mark.parametrize("command", ["build", "plan", "fetch"])
def test_another_users_store(store: Path, command: str) -> None:
    (store / ".lock").unlink(missing_ok=True)
    os.chown(store, 65534, 65534)
    os.chown(store / "engines", 65534, 65534)
    (store / "engines").chmod(0o700)
    capabilities = "-dac_override,-dac_read_search"  # what lets root read everything
    before = ("setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}")
    (store / UNFETCHED).unlink(missing_ok=True)
    what = UNFETCHED if command == "fetch" else YAML
    done = cli(command, what, "--models", store, before=before)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "belongs to nobody, and this is root" in done.stderr
    assert "(unexpected" not in done.stderr
