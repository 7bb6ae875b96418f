"""Callers that post all the time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import requests
from http_server import PATIENCE


@dataclass
class Load:
    """Callers that post all the time, some on connections that they keep, some on new ones."""

    url: str
    body: bytes
    kind: str = "image/tiff"
    callers: tuple[tuple[bool, float], ...] = ((True, 0), (True, 0.03), (False, 0), (True, 1))
    """Whether each keeps its connection, and its pause after an answer in seconds."""
    wrong: list[str] = field(default_factory=list)
    seen: list[tuple[str, ...]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._threads = [
            threading.Thread(target=self._post, args=(kept, pause)) for kept, pause in self.callers
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _post(self, kept: bool, pause: float) -> None:
        headers = {"Content-Type": self.kind}
        with requests.Session() as session:
            while not self._stop.wait(pause):
                post = session.post if kept else requests.post
                try:
                    response = post(self.url, data=self.body, headers=headers, timeout=PATIENCE)
                except requests.RequestException as error:
                    self.wrong.append(repr(error))
                    continue
                if response.status_code != 200:
                    self.wrong.append(response.text)
                else:
                    self.seen.append(tuple(str(line) for line in response.json()))
