"""Checking captures: one count from the first frame to the last."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import pytest

from datagen.common import progress
from datagen.common.progress import Progress
from datagen.flows.check import check_captures
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceKey
from tests.datagen.sources.test_folder import KEY, write_sequence


def test_what_is_counted_is_a_share_of_all_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    monkeypatch.setattr(progress, "FIRST_LOG_SECONDS", 0.0)
    for sequence in ("a", "b", "c"):
        write_sequence(tmp_path, SequenceKey("anna", sequence))
    stream = io.StringIO()
    with Progress("check", 0, "frames", stream) as shown:
        found = check_captures(tmp_path, shown)
    assert (found.sequences, found.frames, found.problems) == (3, 6, [])
    assert re.findall(r"\d+/\d+", stream.getvalue()) == [f"{k}/6" for k in range(1, 7)]


def edited(root: Path, **changes: object) -> list[str]:
    """Check one sequence whose capture.json says something else; return what is found."""
    shutil.rmtree(root, ignore_errors=True)
    write_sequence(root)
    path = root / KEY.subject / KEY.sequence / "capture.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    with Progress("check", 0, "frames", io.StringIO()) as shown:
        found = check_captures(root, shown)
    # The pictures of these captures show nobody, which is noted of each camera.
    said = [entry["problem"] for entry in (*found.problems, *found.notes)]
    return [problem for problem in said if "pictures do not tell" not in problem]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": [-1, 3]}, "not an increasing list of numbers from 0 on"),
        ({"frames": [3, 3.5]}, "integer"),
        ({"frames": [3, 2**63]}, "the number 9223372036854775808 is too large"),
        ({"frames": [3, 2**62, 2**62 + 1]}, "can no longer be told apart"),
        ({"fps": 1e-320}, "can no longer be told apart"),
        ({"fps": None}, "give `fps`, or `times_s`"),
        ({"times_s": [0, 1]}, "give `fps`, or `times_s`"),
        ({"fps": None, "times_s": [0]}, "`times_s` has 1 times for 2 frames"),
        ({"fps": None, "times_s": [5, 5]}, "frame 5 has the time 5.0 s, and frame 3 before it 5.0 s"),
        ({"fps": None, "times_s": [-1e308, 1e308]}, "frame 5 has the time"),
        ({"fps": None, "times_s": [0, 1], "epoch_s": 0}, "`epoch_s` goes with `fps`"),
        ({"fps": 0.1}, "no two frames are nearer than 20 s in time"),
        ({"images": "images/" + "x" * 152 + "{camera}" * 25 + "{frame}.png"}, "names longer than"),
    ],
)
def test_numbers_and_names_that_end_a_build_are_found_by_a_check(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    found = edited(tmp_path, **changes)
    assert len(found) == 1
    assert message in found[0]


def test_times_of_a_clock_are_counted_from_the_first_frame(tmp_path: Path) -> None:
    assert edited(tmp_path, fps=None, times_s=[1669283041.25, 1669283041.75]) == []
    source = FolderCaptures(tmp_path)
    assert source.sequences()[0].epoch_s == 1669283041.25
    assert [source.frame(KEY, frame).time_s for frame in (3, 5)] == [0, 0.5]
    assert edited(tmp_path, epoch_s=-7.5) == []
    assert FolderCaptures(tmp_path).sequences()[0].epoch_s == -7.5
