"""Logs as one JSON object per line on stderr, without any text of documents or file names."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import MutableMapping
from datetime import timedelta
from typing import Any

from gunicorn.config import Config
from gunicorn.glogging import Logger

_ACCESS = logging.getLogger("serving.access")

_CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What JSON lets through and a terminal or an editor obeys; and half characters, which cannot be
written."""

_FIELDS = "ocr.log_fields"


class JsonFormatter(logging.Formatter):
    """A record's time, level, process and message, and the `fields` of its `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "pid": record.process,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            entry["traceback"] = self.formatException(record.exc_info)
        text = json.dumps(entry, ensure_ascii=False, default=str)
        return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def configure_logs() -> None:
    """Log to stderr as JSON: this package from level info, all others from warning."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("serving").setLevel(logging.INFO)


def add_log_fields(environ: MutableMapping[str, Any], **fields: Any) -> None:
    """Add fields to the request's line in the access log."""
    environ.setdefault(_FIELDS, {}).update(fields)


class GunicornLogger(Logger):
    """Gunicorn's own messages and the access log in the same format."""

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(JsonFormatter())

    def access(
        self, resp: Any, req: Any, environ: MutableMapping[str, Any], request_time: timedelta
    ) -> None:
        status = int(str(resp.status).split()[0])
        path = environ.get("PATH_INFO", "")
        if status == 200 and path.startswith("/health"):
            return
        headers = {name.lower(): value for name, value in resp.headers}
        fields = {
            "request_id": headers.get("x-request-id"),
            "remote": environ.get("REMOTE_ADDR"),
            "method": environ.get("REQUEST_METHOD"),
            "path": path,
            "status": status,
            "bytes": resp.sent,
            "ms": round(request_time.total_seconds() * 1e3, 1),
            **environ.get(_FIELDS, {}),
        }
        _ACCESS.info("request", extra={"fields": fields})
