"""YAML that PyYAML chokes on, or that would cost far more than its size."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from serving.config import load_config
from serving.errors import ConfigError

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)

HOSTILE = {
    "an impossible date": "text_type: 2026-02-30\n",
    "an impossible time": "text_type: 2026-02-03 25:61:61\n",
    "5000 digits": f"batch_size: {'9' * 5000}\n",
    "1900 hexadecimal digits": f"batch_size: 0x{'f' * 1900}\n",
    "an integer to the base of 60": f"batch_size: 1{':59' * 600}\n",
    "a float beyond all floats": "batch_size: 1e999999\n",
    "5000 open brackets": "[" * 5000,
    "5000 brackets": "[" * 5000 + "]" * 5000,
    "500 brackets": "SubModules: " + "[" * 500 + "]" * 500,
    "400 nested mappings": "".join(f"{' ' * i}a:\n" for i in range(340)),
    "an alias to itself": "SubModules: &a\n  TextDetection: *a\n",
    "a list in itself": "&a [*a]\n",
    "a merge of itself": "SubModules: &a\n  <<: *a\n",
    "nine to the power of eleven": BOMB + "pipeline_name: *a11\n",
    "too many keys": "".join(f"key{i}: {i}\n" for i in range(4000)),
    "more than a file may have": "# " + "x" * 100_000,
    "a key that is a list": "? [a, b]\n: c\n",
    "a key that is a number": "1: 2\n",
    "a tag of Python": "a: !!python/object/apply:os.system ['true']\n",
    "a broken tag": "a: !!binary '\u00e9'\n",
    "a wrong tag": "a: !!int 'x'\n",
    "an empty integer": "batch_size: !!int ''\n",
    "a tag that is no map": "a: !!map [b]\n",
    "an undefined alias": "a: *b\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "nothing": "",
    "a null byte": "a: \0\n",
    "a surrogate": 'a: "\\ud800"\n',
    "a text": "hello\n",
    "not a number": "SubModules: {TextDetection: {model_name: x, unclip_ratio: .nan}}\n",
    "a line of 60,000 characters": "pipeline_name: " + "x" * 60_000 + "\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_yaml_is_one_short_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text, encoding="utf-8")
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


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(path)


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
