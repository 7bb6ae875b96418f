"""Many callers at once, each with other options, during reloads: every answer is the one that the
same request gets alone.
"""

from __future__ import annotations

import io
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import requests
from http_server import eventually, real_server
from PIL import Image

from benchmarks.corpus import Sample

CALLERS = 32
REQUESTS = 96
PATIENCE = 240.0
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"return_word_box": "true"},
    {"text_det_limit_side_len": 480, "text_det_limit_type": "max"},
    {"text_det_limit_side_len": 320, "text_det_limit_type": "min"},
    {"text_det_box_thresh": 0.8, "text_rec_score_thresh": 0.9},
    {"text_det_unclip_ratio": 1.2},
    {"format": "text"},
    {"format": "paddlex"},
)


def pictures(page: np.ndarray) -> list[bytes]:
    """Parts of a page, upright and tilted, as different formats."""
    files = []
    for number, kind in enumerate(("PNG", "JPEG", "WEBP", "TIFF", "GIF")):
        part = page[number * 60 : number * 60 + 120, 40:640]
        if number % 2:
            turn = cv2.getRotationMatrix2D((300, 60), 4, 1)
            part = cv2.warpAffine(part, turn, (600, 120), borderMode=cv2.BORDER_REPLICATE)
        stream = io.BytesIO()
        Image.fromarray(part[..., ::-1].copy()).save(stream, kind)
        files.append(stream.getvalue())
    return files


def test_each_answer_is_that_of_the_request_alone(
    repo: Path, unwarmed: Path, sample_page: Sample, tmp_path: Path
) -> None:
    pipeline = f"accurate={repo / 'configs/PP-OCRv4_mobile.yaml'}"
    options = ("--queue", "64", "--models", str(unwarmed), "--pipeline", pipeline)
    log = tmp_path / "log"
    with real_server(log, *options) as (server, base):
        files = pictures(sample_page.image)
        cases = [(file, options) for file in files for options in OPTIONS]

        def ask(case: tuple[bytes, dict[str, Any]]) -> tuple[int, bytes]:
            file, options = case
            url = f"{base}/ocr/v1/accurate"
            answer = requests.post(url, data=file, params=options, timeout=PATIENCE)
            text = answer.content
            if options.get("format") == "paddlex":  # each answer has its own logId
                text = repr(answer.json()["result"]).encode()
            return answer.status_code, text

        def generation() -> int:
            return int(requests.get(f"{base}/ocr/v1", timeout=PATIENCE).json()["generation"])

        alone = [ask(case) for case in cases]
        assert {status for status, _ in alone} == {200}
        assert len({text for _, text in alone}) > len(cases) / 2  # the options matter
        order = random.Random(7).choices(range(len(cases)), k=REQUESTS)
        with ThreadPoolExecutor(CALLERS) as callers:
            answers = callers.map(lambda index: ask(cases[index]), order)
            server.send_signal(signal.SIGHUP)
            together = list(answers)
        assert together == [alone[index] for index in order]
        assert eventually(lambda: generation() == 2), log.read_text()
