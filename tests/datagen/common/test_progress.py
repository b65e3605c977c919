"""Progress in a log: plain lines, how much is left, silence where another process speaks."""

from __future__ import annotations

import io

import pytest

from datagen.common import progress as progress_module
from datagen.common.progress import Progress


def test_progress_in_a_log_is_plain_lines() -> None:
    stream = io.StringIO()
    with Progress("2/5 warp", 4, "frames", stream) as progress:
        progress.advance(3)
        progress.advance(1)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[2/5 warp] started"
    assert lines[-1].startswith("[2/5 warp] 4/4 frames")
    assert "\x1b" not in stream.getvalue()


def test_progress_says_every_ten_seconds_how_much_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress("fit", 50, "steps", stream, done=10) as progress:  # ten were done by an earlier call
        for step in range(11, 51):
            now[0] += 4.0
            progress.update(step, f"loss {step}")
    first, second, *_, last = stream.getvalue().splitlines()[1:]
    assert first == "[fit] 13/50 steps, 12.0 s, 0.2 steps/s, 148 s left, loss 13"
    assert second.startswith("[fit] 16/50 steps, 24.0 s")
    assert last == "[fit] 50/50 steps, 160.0 s, 0.2 steps/s, loss 50"
    with Progress("fit", 50, "steps", stream, quiet=True) as progress:
        length = len(stream.getvalue())
        progress.say("a word")
    assert len(stream.getvalue()) == length
