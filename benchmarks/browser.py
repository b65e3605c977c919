"""A browser without a window, driven over a pipe: opens pages, presses keys, and says what went wrong in them."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from datagen.common.errors import InputError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE_PX = (390, 844)
DESK_PX = (1280, 900)
_FLAGS = (
    *("--headless", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars"),
    *("--enable-unsafe-swiftshader", "--use-angle=swiftshader"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def find_browser() -> str | None:
    """Return the path of a browser that can be driven, None if there is none."""
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


class Browser:
    """One tab of a browser, as a context manager.

    Attributes
    ----------
    complaints : list of str
        Errors of the console and of scripts since the page was opened.
    requests : list of str
        Addresses that were asked for since, whatever their scheme.

    Raises
    ------
    InputError
        If there is no browser, or it does not answer.
    """

    def __init__(self) -> None:
        path = find_browser()
        if path is None:
            raise InputError("there is no browser", f"one of {', '.join(BROWSERS)}", "Install one")
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # It reads from 3 and writes to 4, whatever numbers the pipes have here.
        redirect = f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"'
        command = ["bash", "-c", redirect, "bash", path, *_FLAGS, f"--user-data-dir={self._profile.name}"]
        quiet = subprocess.DEVNULL
        fds = (to_browser, from_browser)
        self.process = subprocess.Popen(command, pass_fds=fds, stdin=quiet, stdout=quiet, stderr=quiet)
        for fd in fds:
            os.close(fd)
        self._buffer, self._number, self._session = b"", 0, ""
        self._loaded = False
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        os.close(self._out)  # it ends with its pipe
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._in)
        self._profile.cleanup()

    def look_like(
        self, size_px: tuple[int, int] = DESK_PX, *, dark: bool = False, medium: Literal["screen", "print"] = "screen"
    ) -> None:
        """Choose the window's size in CSS pixels, the colour scheme and the medium of all pages from now on."""
        width, height = size_px
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", media=medium, features=features)

    def open(self, address: str, *, ready: str = "true", timeout_s: float = 30) -> float:
        """Open a page, wait for its load and until an expression is true; return the seconds that took.

        Raises
        ------
        InputError
            If it is not ready in time.
        """
        self.complaints.clear()
        self.requests.clear()
        self._loaded = False
        began = time.monotonic()
        self._call("Page.navigate", url=address)
        while not self._loaded or not self.run(ready):
            if time.monotonic() - began > timeout_s:
                raise InputError(f"{address} is not ready after {timeout_s:g} s", "a page that loads", "Look at it")
            self._receive(0.02)
        return time.monotonic() - began

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page and return its value as plain data; promises are awaited.

        Raises
        ------
        InputError
            If it throws.
        """
        done = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            told = done["exceptionDetails"]
            text = told.get("exception", {}).get("description", told["text"])
            raise InputError(f"a script threw {text}", "an expression that has a value", "Correct it")
        return done["result"].get("value")

    def wait(self, script: str, timeout_s: float = 15) -> None:
        """Wait until an expression is true; raises as :meth:`open`."""
        began = time.monotonic()
        while not self.run(script):
            if time.monotonic() - began > timeout_s:
                raise InputError(f"not true after {timeout_s:g} s: {script}", "a page that does it", "Look at it")
            self._receive(0.02)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other: Tab, Enter, Escape, ArrowDown, or a character."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39}
        for key in keys:
            about: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
            if key == "Enter" or len(key) == 1:
                about["text"] = "\r" if key == "Enter" else key
            self._call("Input.dispatchKeyEvent", type="keyDown", **about)
            self._call("Input.dispatchKeyEvent", type="keyUp", **about)

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """Write a PNG of the window, or of the whole page."""
        picture = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))
        return path

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        number, deadline = self._number, time.monotonic() + 60
        while time.monotonic() < deadline:
            for answer in self._receive(0.5):
                if answer.get("id") == number:
                    if "error" in answer:
                        raise InputError(f"{method}: {answer['error']['message']}", "an answer", "Correct the call")
                    return dict(answer["result"])
        raise InputError(f"the browser does not answer {method}", "an answer in a minute", "Look at its output")

    def _receive(self, seconds: float) -> Sequence[dict[str, Any]]:
        """Take note of events and return all messages that came within the time."""
        if not select.select([self._in], [], [], seconds)[0]:
            return []
        self._buffer += os.read(self._in, 2**20)
        *whole, self._buffer = self._buffer.split(b"\0")
        messages = [json.loads(text) for text in whole]
        for message in messages:
            self._note(message.get("method", ""), message.get("params", {}))
        return messages

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            about = told["exceptionDetails"]
            self.complaints.append(about.get("exception", {}).get("description", about["text"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.complaints.append(" ".join(str(one.get("value", one.get("description"))) for one in told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            entry = told["entry"]
            self.complaints.append(f"{entry['text']} {entry.get('url', '')}".strip())
