"""Videos of a rig as `datagen init` finds them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from datagen.sources.capture_draft import Answers
from datagen.sources.capture_folders import draft_captures
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceKey
from datagen.sources.video_patterns import video_pattern
from tests.support.videos import shade, write_video

pytest.importorskip("av")

K = [[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]]
POSE = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0.8], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("paths", "known", "text", "cameras"),
    [
        (["left.mp4", "right.mp4"], (), "{camera}.mp4", ["left", "right"]),
        (["v/cam_1.mp4", "v/cam_12.mp4"], ("1", "12"), "v/cam_{camera}.mp4", ["1", "12"]),
        (["v/cam_1.mp4", "v/cam_12.mp4"], ("cam_1", "cam_12"), "v/{camera}.mp4", ["cam_1", "cam_12"]),
        (["take3_A_final.mov", "take3_B_final.mov"], ("A", "B"), "take3_{camera}_final.mov", ["A", "B"]),
        (["A/clip.mkv", "B/clip.mkv"], (), "{camera}/clip.mkv", ["A", "B"]),
        (["only.mp4"], (), "{camera}.mp4", ["only"]),
    ],
)
def test_the_part_of_a_name_that_tells_the_camera(
    tmp_path: Path, paths: list[str], known: tuple[str, ...], text: str, cameras: list[str]
) -> None:
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        write_video(tmp_path / path, [0, 40, 80])
    found = video_pattern(tmp_path, paths, known, [1, 2, 3])
    assert found is not None
    assert (found.text, list(found.cameras), found.frames) == (text, cameras, (1, 2))


def test_a_folder_of_videos_and_scans_becomes_a_capture(tmp_path: Path) -> None:
    folder = tmp_path / "anna" / "speech"
    folder.mkdir(parents=True)
    points = np.random.default_rng(0).normal(size=(60, 3))
    points *= 0.1 / np.linalg.norm(points, axis=1, keepdims=True)
    for frame in (0, 2, 5):
        np.savez(folder / f"scan_{frame:04d}.npz", vertices=points, faces=np.arange(60).reshape(-1, 3))
    for name in ("cam_a", "cam_b"):
        write_video(folder / f"{name}.mp4", [0, 40, 80])
        masks = [np.full((48, 64, 3), 255, np.uint8)] * 3
        write_video(folder / f"{name}_mask.mp4", [0, 40, 80], masks)
    calibration = {name: {"K": K, "world_to_camera": POSE} for name in ("cam_a", "cam_b")}
    (folder / "calibration.json").write_text(json.dumps(calibration))
    (one,) = draft_captures(tmp_path, Answers(unit="m", fps=25, pixel_center=0.5)).sequences
    assert (one.problem, one.missing) == ("", ())
    content = json.loads((folder / "capture.json").read_text())
    assert (content["images"], content["masks"]) == ("{camera}.mp4", "{camera}_mask.mp4")
    # Of the last there is no picture.
    assert content["frames"] == [0, 2]
    assert any('"first": 1' in remark for remark in content["_remarks"])
    frame = FolderCaptures(tmp_path).frame(SequenceKey("anna", "speech"), 2)
    assert abs(frame.images["cam_b"]().mean() - shade(2)) < 3
    assert frame.masks["cam_a"]().all()


def test_videos_of_several_cameras_are_taken_without_scans(tmp_path: Path) -> None:
    for camera, frames in (("left", 3), ("right", 4)):
        write_video(tmp_path / f"{camera}.mp4", range(0, 40 * frames, 40))
    (one,) = draft_captures(tmp_path, Answers(unit="m", fps=25, pixel_center=0.5)).sequences
    content = json.loads((tmp_path / "capture.json").read_text())
    assert (content["surface"], content["images"], content["frames"]) == ("none", "{camera}.mp4", [0, 1, 2])
    assert [missing.key for missing in one.missing] == ["cameras"]
