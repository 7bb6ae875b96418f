"""`load_pipeline` on the same bytes without HTTP, in a process of its own. Run as a file:

    python serve_direct.py YAML MODELS FOLDER

FOLDER holds images. Speaks JSON lines: for each {"threads": N, "seconds": S} one line
{"done": [SECONDS, ...], "lap": IMAGES}: when each page had been read, since the phase began.
"most": images in all.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from pathlib import Path

from serving.api import Reader, load_pipeline
from serving.plan.child import Parent


def read(
    reader: Reader, images: list[bytes], threads: int, seconds: float, most: int | None = None
) -> list[float]:
    """Read the images again and again on so many threads; when each page had been read."""
    done: list[float] = []
    numbers = iter(itertools.count() if most is None else range(most))
    start = time.perf_counter()

    def work() -> None:
        while time.perf_counter() - start < seconds:
            if (number := next(numbers, None)) is None:
                break
            image = images[number % len(images)]
            for _ in reader.predict(image, use_textline_orientation=False):
                done.append(time.perf_counter() - start)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return done


def main(yaml: str, models: str, folder: str) -> None:
    """Answers until stdin ends."""
    parent = Parent()
    images = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    with load_pipeline(yaml, models=models) as reader:
        for asked in parent.questions():
            parent.answer(done=read(reader, images, **asked), lap=len(images))


if __name__ == "__main__":
    main(*sys.argv[1:])
