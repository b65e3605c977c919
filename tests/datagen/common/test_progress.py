"""Progress in a log and on a terminal: paces people say, how much is left, silence where nobody reads."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading

import pytest

from datagen.common import progress as progress_module
from datagen.common.progress import Progress, duration, pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a test moves it."""
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_progress_in_a_log_is_plain_lines() -> None:
    stream = io.StringIO()
    with Progress("2/5 warp", 4, "frames", stream) as progress:
        progress.advance(3)
        progress.advance(1)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[2/5 warp] started"
    assert lines[-1].startswith("[2/5 warp] 4/4 frames")
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_progress_says_every_ten_seconds_how_much_is_left(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress("fit", 50, "steps", stream, done=10) as progress:  # ten were done by an earlier call
        for step in range(11, 51):
            clock[0] += 4.0
            progress.update(step, f"loss {step}")
    first, second, third, *_, last = stream.getvalue().splitlines()[1:]
    assert first == "[fit] 11/50 steps, 4 s, 4 s a step, 2.6 minutes left, loss 11"
    assert second.startswith("[fit] 14/50 steps, 16 s, 4 s a step")
    assert third.startswith("[fit] 17/50 steps, 28 s")
    assert last == "[fit] 50/50 steps, 2.7 minutes, 4 s a step, loss 50"
    with Progress("fit", 50, "steps", stream, quiet=True) as progress:
        length = len(stream.getvalue())
        progress.say("a word")
    assert len(stream.getvalue()) == length


def test_what_was_finished_before_does_not_count_for_what_is_left(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress("warp", 1100, "frames", stream) as progress:
        clock[0] += 1.0
        progress.advance(1000)  # only looked at
        for _ in range(60):
            clock[0] += 20.0
            progress.advance(1)
        assert "20 s a frame, 13 minutes left" in stream.getvalue().splitlines()[-1]


def test_steps_of_one_thing_are_named_as_they_begin(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress("warp", 2, "", stream) as progress:
        progress.begin("reading the scan")
        clock[0] += 0.5
        progress.begin("drawing")
        clock[0] += 0.75
    assert stream.getvalue().splitlines() == [
        "[warp] 1/2 reading the scan",
        "[warp] 2/2 drawing",
        "[warp] done, 1.2 s",
    ]


@pytest.mark.parametrize(
    ("count", "seconds", "unit", "text"),
    [
        (500, 1.0, "frames", "500 frames/s"),
        (7, 2.0, "samples", "3.5 samples/s"),
        (2, 2.0, "steps", "1.0 steps/s"),
        (5, 60.0, "sequences", "12 s a sequence"),
        (5, 420.0, "sequences", "84 s a sequence"),
        (10, 1014.0, "sequences", "1.7 minutes a sequence"),
        (1, 9000.0, "topologies", "2.5 hours a topology"),
        (1, 3.0, "exports", "3 s an export"),
    ],
)
def test_a_pace_is_never_nought(count: int, seconds: float, unit: str, text: str) -> None:
    assert pace(count, seconds, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 s"),
        (0.25, "0.25 s"),
        (9.96, "10 s"),
        (89.0, "89 s"),
        (90.0, "1.5 minutes"),
        (5399.0, "90 minutes"),
        (5400.0, "1.5 hours"),
        (400_000.0, "4.6 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def _on_a_terminal(program: str, **environment: str) -> str:
    """Return what a program writes to a terminal of 80 columns."""
    shown, side = pty.openpty()
    received: list[bytes] = []

    def read() -> None:
        try:
            while chunk := os.read(shown, 4096):
                received.append(chunk)
        except OSError:  # the other side has closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    call = [sys.executable, "-c", program]
    subprocess.run(call, stderr=side, env={**os.environ, "COLUMNS": "80", **environment}, check=True, timeout=60)
    os.close(side)
    reader.join()
    os.close(shown)
    return b"".join(received).decode()


SHOW = """
import time
from datagen.common.progress import Progress
with Progress("4/5 render", 200, "views") as progress:
    for k in range(4):
        time.sleep(0.15)
        progress.update(k, "loss 0.1234, 12.3 frames/s and much more to say than fits on one line of a terminal")
"""


def test_on_a_terminal_all_fits_in_one_line_of_80_columns() -> None:
    text = _on_a_terminal(SHOW, TERM="xterm")
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", text)]
    assert any("4/5 render" in line and "3/200 views" in line for line in lines), lines
    assert max(map(len, lines)) <= 80, lines


def test_a_terminal_that_cannot_redraw_gets_lines() -> None:
    text = _on_a_terminal(SHOW, TERM="dumb")
    assert "[4/5 render] started" in text
    assert "\x1b" not in text


def test_work_goes_on_when_nobody_reads_its_progress() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    program = SHOW.replace("time.sleep(0.15)", "pass") + "print('worked')"
    call = [sys.executable, "-c", program]
    done = subprocess.run(call, stderr=writing, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stdout) == (0, "worked\n")
