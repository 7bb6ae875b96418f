"""One file over HTTP, by pooch."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from serving.errors import FetchError
from serving.store.failures import NotThere, Unreachable
from serving.store.progress import Bar, Progress

_TIMEOUT = (10.0, 60.0)  # seconds to connect; seconds without a byte


def download(url: str, target: Path, progress: Progress) -> None:
    """Write what `url` gives to the new file `target`.

    Raises NotThere, Unreachable or, for a transfer that failed or was cut off, FetchError;
    OSError where the disk refuses. The caller throws a partial `target` away.
    """
    import requests
    from pooch import HTTPDownloader

    def close_at_end(response: requests.Response, **_: object) -> None:
        responses.callback(response.close)  # pooch leaves that of a failed transfer open

    parts = urlsplit(url)
    label = f"{parts.path.rpartition('/')[2]} from {parts.netloc}"
    with ExitStack() as responses, progress.bar(label) as bar, target.open("xb") as file:
        fetch = HTTPDownloader(
            progressbar=_Counter(bar),
            chunk_size=_Counter.CHUNK,
            timeout=_TIMEOUT,
            headers={"Accept-Encoding": "identity"},  # so that sizes are the file's own
            hooks={"response": close_at_end},
        )
        try:
            fetch(url, file, None)
        except requests.HTTPError as error:
            status = error.response.status_code
            if status in (401, 403, 404, 410):  # Hugging Face says 401 of what is not there
                raise NotThere(f"{url}: not there (HTTP {status})") from error
            raise FetchError(f"{url}: HTTP {status} {error.response.reason}") from error
        except (requests.ConnectTimeout, requests.exceptions.SSLError) as error:
            raise _unreachable(url, error) from error
        except requests.RequestException as error:
            if file.tell() == 0 and isinstance(error, requests.ConnectionError):
                raise _unreachable(url, error) from error
            raise FetchError(f"{url}: the transfer was cut off ({_root(error)})") from error


class _Counter:
    """pooch's idea of a progress bar: counts chunks; we count what it tells us."""

    CHUNK = 1 << 16

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._done = 0
        self.total = 0

    def update(self, size: int) -> None:
        self._done += size
        done = min(self._done, self.total) if self.total else self._done
        self._bar.update(done, self.total or None)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass


def _unreachable(url: str, error: BaseException) -> Unreachable:
    return Unreachable(f"{urlsplit(url).netloc} cannot be reached ({_root(error)})")


def _root(error: BaseException) -> str:
    """The innermost reason, in one line: requests and urllib3 wrap it several times."""
    while inner := [arg for arg in error.args if isinstance(arg, BaseException)]:
        error = inner[-1]
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        error = reason
    what = re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", " ".join(str(error).split()))
    return what or type(error).__name__
