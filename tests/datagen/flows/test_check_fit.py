"""Captures of pictures alone are checked by a quick fit: cameras that disagree are named before any build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.fit.people import simulated_person
from datagen.common.progress import Progress
from datagen.flows.check import check_captures
from datagen.heads.registry import load_head
from tests.support.pictures_only import change, seen_frames, write_capture


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people: as they are, with a camera in the wrong place, and pictures that nobody looked at."""
    folder, head = tmp_path_factory.mktemp("captures"), load_head("anny")
    frames = seen_frames(head, simulated_person(head, 11, 1, 1, 1.0), every=18)
    for subject in ("anna", "ben", "cleo"):
        write_capture(folder, frames, subject)
    cameras = json.loads((folder / "ben" / "talk" / "capture.json").read_text())["cameras"]
    cameras["cam03"]["world_to_camera"][0][3] += 0.06
    change(folder / "ben" / "talk", cameras=cameras)
    change(folder / "cleo" / "talk", evidence=None)
    return folder


def test_a_camera_that_disagrees_is_named_and_what_a_build_does_is_told(root: Path) -> None:
    with Progress("check", 0, "frames") as progress:
        found = check_captures(root, progress)
    (problem,) = found.problems
    assert problem["where"] == "ben/talk"
    assert "camera cam03 disagrees with the others" in problem["problem"]
    told = {note["where"]: note["problem"] for note in found.notes}
    assert "a build fits a head to what was seen in its pictures (captured)" in told["anna/talk"]
    assert "neither evidence nor landmarks" in told["cleo/talk"]
