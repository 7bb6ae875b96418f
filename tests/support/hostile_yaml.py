"""YAML files that cost far more than their size, that PyYAML chokes on, or that are no pipeline."""

from __future__ import annotations

from http_fake import CONFIG

WHOLE = CONFIG.read_text(encoding="utf-8")

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
    "no text at all": b"a: \xff\xfe\n",
    "the end of the file is missing": WHOLE[:200],
    "no detection": WHOLE.replace("TextDetection", "TextDetektion"),
    "an unknown key": WHOLE.replace("box_thresh", "box_tresh"),
    "a text for a number": WHOLE.replace("limit_side_len: 960", "limit_side_len: wide"),
    "a number out of its range": WHOLE.replace("thresh: 0.3", "thresh: 3"),
    "a backend of nobody": f"{WHOLE}\nhpi_config: {{backend: om}}\n",
    "a gate of nobody": f"{WHOLE}\ngate: lax\n",
    "both names of one key": f"{WHOLE}\nuse_hpip: True\n",
    "another pipeline": WHOLE.replace("pipeline_name: OCR", "pipeline_name: table_recognition"),
    "an unknown user's home": WHOLE.replace("model_dir: null", "model_dir: ~nobody-here/x"),
    "tabs": WHOLE.replace("  ", "\t"),
}
