"""A Prefect API of our own for the length of one build.

Prefect can start such a server itself, but that one outlives a killed build. Ours watches a pipe to its parent and ends
with it, however it ends.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from datagen.common.errors import DependencyError
from datagen.common.files import claim_folder

STARTUP_SECONDS = 120.0
POLL_SECONDS = 0.1
STOP_SECONDS = 5.0
LOG_TAIL = 600


class LocalApi:
    """A server process on the loopback interface; starts at once, may be waited for later.

    Parameters
    ----------
    home : Path
        Folder for what Prefect keeps; made if missing.

    Raises
    ------
    StorageError
        If the folder holds something and was not made here.
    """

    def __init__(self, home: Path) -> None:
        claim_folder(home)
        self._port = _free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server
        self._process = subprocess.Popen(
            [sys.executable, "-m", "datagen.flows.runners.local_api", str(self._port)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"},
        )

    @property
    def url(self) -> str:
        """The value for ``PREFECT_API_URL``."""
        return f"http://127.0.0.1:{self._port}/api"

    def wait(self) -> None:
        """Return when the server answers.

        Raises
        ------
        DependencyError
            If it ends, or does not answer within two minutes.
        """
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if answers(self.url):
                return
            time.sleep(POLL_SECONDS)
        # Read without a seek: the server's end of the file would move with it.
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), LOG_TAIL, max(0, size - LOG_TAIL)).decode(errors="replace").strip()
        state = "ended" if self._process.poll() is not None else f"gave no answer in {STARTUP_SECONDS:.0f} s"
        raise DependencyError(
            f"the local Prefect server {state}" + (f": {tail}" if tail else ""),
            "a server on the loopback interface",
            "Use --runner serial, which needs none, or start `prefect server start` and export PREFECT_API_URL",
        )

    def stop(self) -> None:
        """End the server."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._log.close()
        if self._process.stdin is not None:
            self._process.stdin.close()


def answers(url: str) -> bool:
    """Whether a server of Prefect's answers there, were it only that it wants to know who asks."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as refused:
        return refused.code in (401, 403)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def serve(port: int) -> None:
    """Serve Prefect's API until standard input closes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    serve(int(sys.argv[1]))
