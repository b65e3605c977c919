"""Logs for machines: every line of standard error as a JSON object of its own, whoever writes it."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from threading import RLock
from typing import Any, TextIO

from datagen.common.errors import printable

LOGGER = "canonface"
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING}
_FIELDS = "fields"


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time (UTC), level, event, and what it tells besides."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **getattr(record, _FIELDS, {"event": "log", "logger": record.name}),
        }
        message = record.getMessage()
        if message:
            told["message"] = printable(message)
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


def event(name: str, message: str = "", level: int = logging.INFO, **fields: Any) -> None:
    """Log something that happened; heard only where :func:`json_lines` or somebody else listens."""
    told = {name: value for name, value in fields.items() if value not in (None, "")}
    logging.getLogger(LOGGER).log(level, "%s", message, extra={_FIELDS: {"event": name, **told}})


class _Quiet(logging.StreamHandler[TextIO]):
    """Goes on without a word if its reader has gone: the work is worth more than the log of it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Do nothing."""


class _Lines(io.TextIOBase):
    """Standard error for those who print: each line becomes a message in the log."""

    def __init__(self, handler: logging.Handler) -> None:
        self._handler, self._begun, self._lock = handler, "", RLock()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Take a text, and log the lines that end in it."""
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                self._log(line)
        return len(text)

    def _log(self, line: str) -> None:
        level = _LEVELS.get(line.partition(":")[0], logging.INFO)
        record = logging.LogRecord(LOGGER, level, "", 0, "%s", (line.rstrip(),), None)
        setattr(record, _FIELDS, {"event": "message"})
        self._handler.handle(record)

    def finish(self) -> None:
        """Log what is begun."""
        if self._begun:
            self.write("\n")


def is_json() -> bool:
    """Whether what is said on standard error becomes lines of JSON now: then events tell how work goes on."""
    return isinstance(sys.stderr, _Lines)


@contextmanager
def json_lines() -> Iterator[None]:
    """Have all that this process says on standard error, warnings and errors included, said in lines of JSON."""
    before: TextIO = sys.stderr
    handler = _Quiet(before)
    handler.setFormatter(JsonLines())
    root, own = logging.getLogger(), logging.getLogger(LOGGER)
    lines: Any = _Lines(handler)
    root.addHandler(handler)
    level, propagates = own.level, own.propagate
    own.setLevel(logging.INFO)
    # By itself: libraries put handlers of their own in the place of the root's (Prefect, when it is imported).
    own.addHandler(handler)
    own.propagate = False
    logging.captureWarnings(True)
    sys.stderr = lines
    try:
        yield
    finally:
        lines.finish()
        logging.captureWarnings(False)
        own.setLevel(level)
        own.removeHandler(handler)
        own.propagate = propagates
        root.removeHandler(handler)
        sys.stderr = before


_TO_THE_END = ExitStack()


def speak_json() -> None:
    """As :func:`json_lines`, until this process ends: the error that ends it is said so too."""
    _TO_THE_END.enter_context(json_lines())
