from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import ConfigError
from serving.plan.calibration import calibration_hash, calibration_set


def test_the_shipped_set_is_what_recorded_plans_were_measured_on() -> None:
    """A new hash makes every plan anew: change it only with the set."""
    shipped = calibration_set()
    assert shipped.to_dict() == {
        "hash": "cdad9793e8185898",
        "pages": 15,
        "own_pages": 0,
        "lines": 665,
        "characters": 12252,
    }
    assert len(shipped.crops) == len(shipped.texts)


def test_the_users_pages_come_beside_and_change_the_hash(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "serving" / "data" / "calibration"
    page = source / "letter-en-1-0.webp"
    (tmp_path / "mine.webp").write_bytes(page.read_bytes())
    (tmp_path / "labels.json").write_text("{}", encoding="utf-8")
    own = calibration_set(tmp_path)
    assert [image.shape for image in own.own_pages] == [(1187, 1290, 3)]
    assert own.texts == calibration_set().texts
    assert own.hash == calibration_hash(tmp_path) != calibration_hash()
    (tmp_path / "mine.webp").rename(tmp_path / "renamed.webp")
    assert calibration_hash(tmp_path) != own.hash
    with pytest.raises(ConfigError, match="no such folder"):
        calibration_hash(tmp_path / "absent")
