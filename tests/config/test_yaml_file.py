"""YAML that PyYAML chokes on, or that would cost far more than its size."""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path

import pytest
from hostile_yaml import HOSTILE
from plans import deploy

from serving.config import load_config
from serving.errors import ConfigError
from serving.plan.plan import find_plan


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_yaml_is_one_short_error(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(ConfigError, match=r"pipeline\.yaml") as caught:
            load_config(path)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 10  # it is bounded; unbounded, some of these never end
    assert len(str(caught.value)) < 20_000


@pytest.mark.parametrize("path", ["/dev/zero", ".", "a\0b"])
def test_what_is_no_file(path: str) -> None:
    with pytest.raises(ConfigError):
        load_config(path)


def test_anchors_and_merge_keys_are_read(tmp_path: Path, repo: Path) -> None:
    text = (repo / "configs" / "PP-OCRv4_mobile.yaml").read_text()
    path = tmp_path / "pipeline.yaml"
    path.write_text("gate: &bounds {h_mean: 0.9}\n" + text.replace("gate:", "# gate:"))
    assert load_config(path).gate.h_mean == 0.9
    path.write_text("\ufeff" + text)
    assert (
        load_config(path).sub_modules
        == load_config(repo / "configs/PP-OCRv4_mobile.yaml").sub_modules
    )


def test_a_name_that_is_no_utf8_can_be_shown_and_has_a_plan(tmp_path: Path, repo: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.yaml"))
    path.write_bytes((repo / "configs" / "PP-OCRv4_mobile.yaml").read_bytes())
    config = load_config(path)
    assert config.source == f"{tmp_path}/caf\ufffd.yaml"
    deploy(tmp_path, config, 2, "cpu", workers=1)
    assert find_plan(config, tmp_path, 2).workers == 1
