"""The locked packages are those that setup.cfg asks for, each with a hash."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

LOCKS = {
    "cpu": ["cpu"],
    "gpu": ["gpu"],
    "build": ["build"],
    "paddlex": ["paddlex"],
    "mcp": ["mcp"],
    "dev": ["cpu", "dev", "test", "benchmark"],
}
"""File of requirements/ -> the extras of setup.cfg that it holds."""


def requirements(repo: Path, extra: str) -> list[Requirement]:
    """What setup.cfg says of an extra, or, for "", of every installation."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(repo / "setup.cfg", encoding="utf-8")
    if extra:
        lines = config["options.extras_require"][extra]
    else:
        lines = config["options"]["install_requires"]
    return [
        Requirement(line)
        for line in lines.splitlines()
        if line.strip() and not line.startswith(("#", "%"))
    ]


def pins(repo: Path, lock: str) -> list[tuple[Requirement, int]]:
    """Each pinned package of a lock file, and how many hashes it may have."""
    text = (repo / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    entries = text.replace("\\\n", " ").splitlines()
    return [
        (Requirement(re.split(r"\s+--hash", entry)[0]), entry.count("--hash=sha256:"))
        for entry in entries
        if entry.strip() and not entry.startswith("#")
    ]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_what_setup_cfg_asks_for(repo: Path, lock: str) -> None:
    pinned: dict[str, list[str]] = {}
    for pin, _ in pins(repo, lock):
        [version] = [specifier.version for specifier in pin.specifier]
        pinned.setdefault(normal(pin.name), []).append(version)
    for extra in ("", *LOCKS[lock]):
        for wanted in requirements(repo, extra):
            versions = pinned.get(normal(wanted.name), [])
            assert versions, f"{wanted} is not in {lock}.txt: bash scripts/lock_requirements.sh"
            assert all(wanted.specifier.contains(version) for version in versions), str(wanted)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_is_exact_and_has_hashes(repo: Path, lock: str) -> None:
    for pin, hashes in pins(repo, lock):
        assert [specifier.operator for specifier in pin.specifier] == ["=="], str(pin)
        assert hashes > 0, str(pin)


def test_everything_that_setup_cfg_asks_for_has_an_upper_bound(repo: Path) -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(repo / "setup.cfg", encoding="utf-8")
    for extra in ("", *config["options.extras_require"]):
        for wanted in requirements(repo, extra):
            operators = {specifier.operator for specifier in wanted.specifier}
            assert operators & {"<", "<=", "==", "~="}, f"{wanted} of {extra or 'install_requires'}"
