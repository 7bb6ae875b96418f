"""Renders the calibration set into serving/data: `python -m benchmarks.render_calibration`.

Run only to change the set: every plan made with the old one is then made anew. Lossless WebP, so
that every machine measures on the same pixels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from benchmarks import corpus

FOLDER = Path(__file__).resolve().parent.parent / "serving" / "data" / "calibration"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    truth = []
    for sample in corpus.calibration():
        name = f"{sample.name}.webp"
        Image.fromarray(sample.image[:, :, ::-1]).save(
            FOLDER / name, lossless=True, quality=100, method=6, exact=True
        )
        lines = [{"text": line.text, "poly": line.quad} for line in sample.lines]
        truth.append({"image": name, "lines": lines})
    text = ",\n".join(json.dumps(page, ensure_ascii=False) for page in truth)
    (FOLDER / "truth.json").write_text(f"[\n{text}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
