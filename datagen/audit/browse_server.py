"""A page over a dataset for this machine alone: a server that answers nobody who lacks the token of its address."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from datagen.audit.browsing import Browsing, encoded
from datagen.common.errors import CanonfaceError, InputError
from datagen.common.files import atomic_write_bytes
from datagen.common.pages import render_page
from datagen.common.scales import CONFIDENCE, DEPTH, scale_stops

LOOPBACK = "127.0.0.1"
MOST_BODY = 1 << 16
MOST_SAMPLES = 512  # looked through in one request
# Nothing from elsewhere, and nobody else may show the page inside theirs.
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


class Marks:
    """Samples marked by hand, kept in a text file of ours: ``subject/sequence/frame/camera``, one a line.

    Parameters
    ----------
    path : Path
        Lines that are there already are kept.

    Raises
    ------
    InputError, StorageError
        If the file is there and holds something else, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._names: dict[str, None] = {}
        if not os.path.lexists(path):
            # Said now, and not at the first mark.
            atomic_write_bytes(path, b"")
            path.unlink()
            return
        if not path.is_file():
            raise InputError(f"{path} is no file", "a list of marks, or a new name", "Name another file")
        try:
            lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read ({error})", "a list of marks", "Name another file") from None
        if not lines:
            raise InputError(f"{path} is empty", "a list of marks, or a new name", "Name another file, or remove it")
        odd = next((line for line in lines if line.count("/") != 3), None)
        if odd is not None:
            raise InputError(
                f"{path} holds the line {odd[:80]!r}", "subject/sequence/frame/camera, one a line", "Name another file"
            )
        self._names = dict.fromkeys(lines)

    def names(self) -> list[str]:
        """Return the marks in their order."""
        with self._lock:
            return list(self._names)

    def put(self, name: str, *, on: bool) -> list[str]:
        """Add or remove a mark, and write the file."""
        with self._lock:
            if on:
                self._names[name] = None
            else:
                self._names.pop(name, None)
            if self._names:
                atomic_write_bytes(self.path, "".join(f"{one}\n" for one in self._names).encode())
            else:
                self.path.unlink(missing_ok=True)
            return list(self._names)


def page_bytes(browsing: Browsing, marks: Marks | None, commands: Mapping[str, str]) -> bytes:
    """Return the page; what it shows it asks for."""
    scales = {"confidence": scale_stops(CONFIDENCE), "depth": scale_stops(DEPTH)}
    page = {**browsing.contents(), "scales": scales, "commands": dict(commands)}
    page["marks"] = marks.names() if marks else []
    return render_page("datagen.audit", "templates", "browse.html", page=page)


class BrowseServer:
    """Serves a dataset on the loopback interface, each request in a thread.

    Parameters
    ----------
    port : int
        0 for any that is free.
    commands : mapping of str to str
        What the page says of how marks are used.

    Raises
    ------
    InputError
        If the port is taken.
    """

    def __init__(self, browsing: Browsing, marks: Marks, commands: Mapping[str, str], port: int = 0) -> None:
        self._browsing, self._marks = browsing, marks
        token = secrets.token_urlsafe(18)
        self._page = page_bytes(browsing, marks, commands)
        answers: dict[str, Callable[[Mapping[str, str]], tuple[str, bytes]]] = {
            "": lambda _: ("text/html; charset=utf-8", self._page),
            "sequence": lambda q: _json(browsing.sequence(q["subject"], q["sequence"])),
            "picture": lambda q: ("image/png", encoded(browsing.picture(q["split"], int(q["sample"]), q["kind"]))),
            "point": lambda q: _json(browsing.point(q["split"], int(q["sample"]), float(q["x"]), float(q["y"]))),
            "trace": lambda q: _json(browsing.trace(q["split"], int(q["sample"]), float(q["x"]), float(q["y"]))),
            "find": self._find,
            "history": lambda q: _json(browsing.history(q["split"], int(q["sample"]))),
        }
        handler = _handler(token, answers, self._mark)
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), handler)
        except OSError as error:
            raise InputError(
                f"port {port} cannot be listened on ({error})", "a port that is free", "Choose another --port"
            ) from None
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}/{token}/"

    def serve(self) -> None:
        """Answer until :meth:`stop` is called, or the program is interrupted."""
        try:
            self._server.serve_forever(poll_interval=0.2)
        finally:
            self._server.server_close()

    def stop(self) -> None:
        """End :meth:`serve`, which runs in another thread."""
        self._server.shutdown()

    def _find(self, query: Mapping[str, str]) -> tuple[str, bytes]:
        samples = [int(part) for part in query["samples"].split(",") if part][:MOST_SAMPLES]
        wanted = [float(part) for part in query["mm"].split(",")]
        if len(wanted) != 3:
            raise InputError(f"{len(wanted)} numbers", "x, y and z in millimetres", "Name three")
        return _json(self._browsing.find(query["split"], samples, wanted))

    def _mark(self, content: Any) -> tuple[str, bytes]:
        name = self._browsing.name(str(content["split"]), int(content["sample"]))
        return _json(self._marks.put(name, on=bool(content["on"])))


def _json(content: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(content).encode()


def _handler(
    token: str,
    answers: Mapping[str, Callable[[Mapping[str, str]], tuple[str, bytes]]],
    mark: Callable[[Any], tuple[str, bytes]],
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30
        server_version = "canonface"
        sys_version = ""

        def log_message(self, format: str, *args: Any) -> None:
            del format, args  # the address, token included, belongs into no log

        def do_GET(self) -> None:
            path = self._asked()
            if path is None:
                return
            query = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}
            self._answer(answers.get(path), query)

        def do_POST(self) -> None:
            path = self._asked()
            if path is None:
                return
            size = self.headers.get("Content-Length", "")
            # Pages of other origins cannot send JSON without asking first, which is never answered.
            sent_as = self.headers.get("Content-Type", "").partition(";")[0]
            if path != "mark" or not size.isdigit() or int(size) > MOST_BODY or sent_as != "application/json":
                self.close_connection = True
                self._send(HTTPStatus.BAD_REQUEST, "text/plain", b"bad request")
                return
            body = self.rfile.read(int(size))
            self._answer(lambda _: mark(json.loads(body)), {})

        def _asked(self) -> str | None:
            """Return what is asked for behind the token; without it, or under another host's name, say no."""
            if self.path == "/favicon.ico":  # browsers ask of their own accord
                self._send(HTTPStatus.NO_CONTENT, "text/plain", b"")
                return None
            host = self.headers.get("Host", "").rpartition(":")[0]
            parts = urlsplit(self.path).path.split("/")
            right = len(parts) == 3 and secrets.compare_digest(parts[1].encode(), token.encode())
            if host not in (LOOPBACK, "localhost") or not right:
                self.close_connection = True
                self._send(HTTPStatus.FORBIDDEN, "text/plain", b"forbidden")
                return None
            return parts[2]

        def _answer(
            self, make: Callable[[Mapping[str, str]], tuple[str, bytes]] | None, query: Mapping[str, str]
        ) -> None:
            if make is None:
                self._send(HTTPStatus.NOT_FOUND, "text/plain", b"not found")
                return
            try:
                kind, body = make(query)
            except (CanonfaceError, KeyError, ValueError, TypeError) as error:
                told = json.dumps({"error": str(error)}).encode()
                self._send(HTTPStatus.BAD_REQUEST, "application/json", told)
                return
            self._send(HTTPStatus.OK, kind, body)

        def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                ("Content-Security-Policy", POLICY),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
                ("Cache-Control", "private, max-age=600" if kind == "image/png" else "no-store"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler
