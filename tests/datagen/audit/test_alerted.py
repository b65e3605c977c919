"""Frames that alerts name, in the table and among the pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from datagen.audit.alerted import PICTURED, alerted_first, alerts_of_frames, first_alerts, to_picture
from datagen.audit.alerts import Alert, Severity, in_order
from datagen.audit.results import FrameResult
from datagen.sources.frame import SequenceKey
from datagen.warp.result import WARP_FILE, Status, Verdict


@pytest.fixture
def made(tmp_path: Path) -> Path:
    (tmp_path / WARP_FILE).touch()
    return tmp_path


def result(frame: int, folder: Path, status: Status = "pass") -> FrameResult:
    return FrameResult(SequenceKey("s", "a"), frame, folder, Verdict(status))


def alert(severity: Severity, title: str, *frames: int) -> Alert:
    return Alert(severity, title, "", "", "", tuple(f"s/a/{frame:06d}" for frame in frames))


def test_among_frames_of_a_verdict_those_come_first_that_alerts_name(made: Path) -> None:
    ranked = [result(4, made, "review"), *(result(k, made) for k in range(4))]
    alerts = in_order([alert("review", "doubtful", 1, 3), alert("fail", "wrong", 3)])
    of_frames = alerts_of_frames(alerts)
    assert [r.frame for r in alerted_first(ranked, of_frames)] == [4, 3, 1, 0, 2]
    assert [a.title for a in of_frames["s/a/000003"]] == ["wrong", "doubtful"]
    assert first_alerts(alerts, of_frames) == {"s/a/000003": 0, "s/a/000001": 1}


def test_of_each_alert_that_shows_none_of_its_frames_one_is_pictured(made: Path) -> None:
    results = {r.name: r for r in [*(result(k, made) for k in range(20)), result(20, made / "none")]}
    alerts = [alert("fail", "a", 1, 2), alert("fail", "b", 2, 3), alert("review", "c", 0), alert("fail", "d", 20)]
    # The first is named by none that is shown, the second by what the first has chosen no more.
    assert [r.frame for r in to_picture(alerts, results, ["s/a/000000"])] == [1, 2]
    many = [alert("fail", str(k), k) for k in range(20)]
    assert len(to_picture(many, results, [])) == PICTURED
