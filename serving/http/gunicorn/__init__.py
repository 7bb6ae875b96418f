"""All that touches Gunicorn's inside, which may change with any of its versions.

Gunicorn is embedded for its process management and its HTTP parser. What is used of it beyond its
documented settings and hooks, and why:

- `master.py`, of `arbiter.Arbiter`: `WORKERS`, `num_workers`, `manage_workers`, `spawn_worker`,
  `kill_worker`, `reap_workers`, `wait_for_signals`, `handle_hup`, `start`, `stop`,
  `WORKER_BOOT_ERROR` and `APP_LOAD_ERROR`, because Gunicorn's own reload drops the old workers
  before the new ones can answer, and a worker that fails to boot ends the server.
- `worker.py`, of `workers.gthread.ThreadWorker`: `accept`, `set_accept_enabled`, `enqueue_req`,
  `finish_request`, `murder_pending`, `handle`, `handle_error`, `poller`, `method_queue`,
  `nr_conns`, its `TConn` and the parser's `unreader`, because a caller that sends or reads slowly
  would hold a thread, and a stopping worker resets connections.
- `sockets.py`: the calls that it makes on a client's socket, to give each a limit.

`check_version` refuses any series but the one this was written for.
"""

from __future__ import annotations

import gunicorn

from serving.errors import OcrError

SERIES = 27
"""The major version of Gunicorn that this folder was written for."""


def check_version() -> None:
    """Raise OcrError where another series of Gunicorn is installed."""
    if gunicorn.version_info[0] != SERIES:
        raise OcrError(
            f"Gunicorn {gunicorn.__version__} is installed, and the server needs {SERIES}.x, whose "
            f"workers it extends; run: pip install 'gunicorn>={SERIES},<{SERIES + 1}'"
        )
