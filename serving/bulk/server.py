"""Running servers (`ocr-hpi serve`), which take turns by how much each has to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from serving.bulk.inputs import RANGE, Item
from serving.bulk.read import Row, RowError, error_row, error_rows, open_pages, page_row, row_error
from serving.config.options import Options, PdfText
from serving.errors import ConfigError, EngineError, WorkerLost
from serving.imaging.decode import Decoder
from serving.imaging.formats import Limits, sniff
from serving.output.pages import PageAnswer
from serving.plan.plan import key

_TIMEOUT = 10.0, 600.0
"""Seconds for a connection, and for an answer: the server's own limits are far below."""
_PATIENCE = 120.0
"""Seconds after which a run ends when no server takes connections."""
_PAUSE = 1.0
"""Seconds between two attempts, where no Retry-After says it."""
_MAX_PAUSE = 60.0
_CALLERS = 8
"""Requests at a time to a server that does not say how many cores it has."""


class _Server:
    """One pipeline of a server."""

    def __init__(self, url: str, session: requests.Session) -> None:
        """url: of the server, or of one of its pipelines (/ocr/v1/NAME); default: its first one.

        Raises ConfigError.
        """
        base, _, name = url.rstrip("/").partition("/ocr/v1/")
        if urlsplit(base).scheme not in ("http", "https"):
            raise ConfigError(f"--server: {url} is not an address like http://127.0.0.1:8868")
        try:
            response = session.get(f"{base}/ocr/v1", timeout=_TIMEOUT)
            response.raise_for_status()
            pipelines = {each["name"]: each for each in response.json()["pipelines"]}
        except (requests.RequestException, ValueError, KeyError) as error:
            raise ConfigError(
                f"--server: {base} does not answer as ocr-hpi serve: {error}"
            ) from error
        name = name or next(iter(pipelines))
        if name not in pipelines:
            raise ConfigError(f"--server: {base} has no {name}; it has {', '.join(pipelines)}")
        found = pipelines[name]
        models = found.get("models", {})
        self.url = f"{base}/ocr/v1/{name}"
        self.name = f"{name}@{key(models)}"
        self.models = {section: model["model"] for section, model in models.items()}
        # One in work and one that waits for each core: fewer leave cores idle between two pages.
        self.callers = 2 * found["plan"]["cores"] if "plan" in found else _CALLERS
        self.busy = 0
        self.rests_until = 0.0


class ServerExecutor:
    """Sends items to servers that have the same models. Raises ConfigError."""

    def __init__(
        self,
        urls: Sequence[str],
        options: Options,
        pdf_dpi: int,
        pdf_text: PdfText,
        limits: Limits,
        api_key: str | None,
    ) -> None:
        self._session = requests.Session()
        if api_key:
            self._session.headers["X-API-Key"] = api_key
        self._servers = [_Server(url, self._session) for url in urls]
        first = self._servers[0]
        for other in self._servers:
            if other.models != first.models:
                raise ConfigError(
                    f"--server: {other.url} has other models than {first.url}: {other.models}, "
                    f"not {first.models}"
                )
        asked = {"pdf_dpi": pdf_dpi, "pdf_text": pdf_text, **options.model_dump(exclude_none=True)}
        self._query = {"format": "pages", "partial": True, **asked}
        self.settings: Mapping[str, Any] = {"models": first.models, **asked}
        self.slots = sum(server.callers for server in self._servers)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=self.slots))
        self._pool = ThreadPoolExecutor(self.slots)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._decoder = Decoder(limits)  # counts pages; the servers decode them

    def submit(self, item: Item) -> Future[list[Row]]:
        """See `Executor`."""
        return self._pool.submit(self._read, item)

    def close(self) -> None:
        """Wait for the requests that are under way."""
        self._closed.set()
        self._pool.shutdown(cancel_futures=True)
        self._decoder.close()
        self._session.close()

    def _read(self, item: Item) -> list[Row]:
        try:
            data = item.read()
            dpi = self._query["pdf_dpi"]
            count = item.count or open_pages(self._decoder, data, item.first, dpi).count
            kind = sniff(data)
        except Exception as error:  # as `Reader.read` does
            return error_rows(item, row_error(error), "")
        query = {**self._query, "pages": f"{item.first + 1}-{min(item.first + RANGE, count)}"}
        content_type = "application/pdf" if kind == "pdf" else f"image/{kind}"
        server, response = self._send(data, query, content_type)
        try:
            answer = response.json()
            if response.status_code != 200:
                return error_rows(item, _problem(answer), server.name)
            if rows := [_row(item, page, count, server.name) for page in answer["pages"]]:
                return rows
            raise ValueError("no page in it")
        except (ValueError, KeyError, TypeError) as error:
            status = response.status_code
            raise WorkerLost(
                f"{server.url}: no answer of ours, status {status}: {error}"
            ) from error

    def _send(
        self, data: bytes, query: Mapping[str, Any], content_type: str
    ) -> tuple[_Server, requests.Response]:
        """The answer, of the first server that has room. Raises WorkerLost, EngineError."""
        headers = {"Content-Type": content_type}
        end = time.monotonic() + _PATIENCE
        while True:
            server, rest = self._take(), 0.0
            try:
                response = self._session.post(
                    server.url, data, params=query, headers=headers, timeout=_TIMEOUT
                )
                status = response.status_code
                if status in (401, 403, 404):
                    raise ConfigError(f"{server.url}: status {status}: {response.text[:500]}")
                if status >= 500 and status != 503:
                    raise WorkerLost(f"{server.url}: status {status}: {response.text[:500]}")
                if status not in (429, 503):
                    return server, response
                rest = _retry_after(response)
                problem = f"{server.url} is not ready: {response.text[:500]}"
                if status == 429:  # busy, and not loading
                    end = time.monotonic() + _PATIENCE
            except requests.RequestException as error:
                rest = _PAUSE
                if not _is_refused(error):  # it may have been this page
                    raise WorkerLost(f"{server.url}: {error}") from error
                problem = f"no server takes connections; the last: {error}"
            finally:
                self._give_back(server, rest)
            if time.monotonic() > end:
                raise EngineError(problem)

    def _take(self) -> _Server:
        """The server with the fewest requests, by its cores, among those that do not rest."""
        while not self._closed.is_set():
            with self._lock:
                awake = [each for each in self._servers if each.rests_until <= time.monotonic()]
                if awake:
                    server = min(awake, key=lambda each: each.busy / each.callers)
                    server.busy += 1
                    return server
            self._closed.wait(0.05)
        raise WorkerLost("the run has ended")

    def _give_back(self, server: _Server, rest: float) -> None:
        with self._lock:
            server.busy -= 1
            server.rests_until = max(server.rests_until, time.monotonic() + rest)


def _row(item: Item, page: dict[str, Any], count: int, name: str) -> Row:
    if "error" in page:
        return error_row(item, _problem(page), name, page=page.get("page"), pages=count)
    ms = sum(page["timing"].values())
    return page_row(item, page["page"], count, cast(PageAnswer, page), ms, name)


def _problem(answer: dict[str, Any]) -> RowError:
    return RowError(code=answer["error"]["code"], message=answer["error"]["message"])


def _retry_after(response: requests.Response) -> float:
    """Seconds; a proxy may give a date instead."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), _MAX_PAUSE) if value.isdecimal() else _PAUSE


def _is_refused(error: requests.RequestException) -> bool:
    """Whether nothing was sent: no page can be at fault."""
    from urllib3.exceptions import MaxRetryError, NewConnectionError

    reason = error.args[0] if error.args else None
    return isinstance(error, requests.ConnectTimeout) or (
        isinstance(reason, MaxRetryError) and isinstance(reason.reason, NewConnectionError)
    )
