"""The settings of `ocr-hpi serve`, for every part of the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from serving.imaging.formats import MAX_PIXELS

if TYPE_CHECKING:
    from serving.download import HostPattern

MIB = 1024 * 1024

_SPARE_THREADS = 28
"""8 that drain, 4 that evict, and some that refuse and answer /health."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The server's settings. Sizes in bytes and pixels, times in seconds."""

    pipelines: Mapping[str, Path]
    """NAME of `/ocr/v1/NAME` to pipeline YAML; the first answers `POST /ocr`."""
    shadows: Mapping[str, Path] = field(default_factory=dict)
    """NAME of a pipeline to the YAML that reads some of its pages again, to be compared."""
    shadow_share: float = 0.05
    """The share of the pages, 0 to 1."""
    models: Path = Path("models")
    host: str = "127.0.0.1"
    port: int = 8868
    device: str | None = None
    """cpu, gpu or gpu:0,1; None: what `build` chose."""
    allow_cpu_fallback: bool = False
    """Read on the CPU where the GPU that the plan is for cannot be used."""
    cores: int | None = None
    """Cores that the plan is for, which the workers share; None: all usable."""
    workers: int = 1
    threads: int = 1
    """Pages of a pipeline that one worker processes at a time: its page slots."""
    memory: int | None = None
    """That all workers together may hold: before they do, new ones take over. None: no limit."""
    queue: int = 32
    """Requests that may wait, for the whole server."""
    max_body: int = 20 * MIB
    max_pixels: int = MAX_PIXELS
    max_pages: int = 200
    timeout: float = 60.0
    """Waiting allowed to a request, plus `page_time` for each page."""
    page_time: float = 10.0
    body_time: float = 20.0
    """For a body to arrive, plus a second for every 64 KiB."""
    api_keys_file: Path | None = None
    """Every request needs one of these keys; None: none is needed."""
    allow_anonymous: bool = False
    """Listen beyond loopback without API keys."""
    allow_url_hosts: tuple[HostPattern, ...] = ()
    """Hosts from which pictures are fetched by URL; none when empty."""
    spool: Path = Path("spool")
    """Where jobs are kept, with their documents and results."""
    max_spool: int = 512 * MIB
    """Of all jobs together; 0: no jobs are taken."""
    spool_time: float = 24 * 3600.0
    """For which a job is kept after its last page."""
    pidfile: Path | None = None
    """Where the master's process id is written, until it ends."""
    allow_origins: tuple[str, ...] = ()
    """Origins whose pages may read answers in a browser (CORS); none when empty."""
    drain_time: float = 2.0
    """For draining a refused body, so that no reset overtakes the answer."""

    @property
    def permits(self) -> int:
        """Requests that the whole server admits: in work and in the queue together."""
        return self.workers * self.threads + self.queue

    @property
    def http_threads(self) -> int:
        """Threads of one worker: one for every permit, and some beside them."""
        return self.permits + _SPARE_THREADS
