"""Evidence beside a capture: found, read lazily, part of the input, and refused in words where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen.common.errors import InputError
from datagen.common.progress import Progress
from datagen.common.seen_points import SeenPoints, seen_points_bytes
from datagen.flows.check import check_captures
from datagen.geometry.camera import look_at
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.sources.folder import FolderCaptures
from datagen.sources.folder_writer import SequenceWriter
from datagen.sources.frame import SequenceKey
from datagen.sources.scale import scale_from, scaled_frame

KEY = SequenceKey("anna", "speech")
CAMERAS = tuple(look_at(f"cam{k}", [x, 0.0, 1.0], [0, 0, 0], 60.0, 32, 24) for k, x in enumerate((-0.3, 0.3)))
PATTERN = "evidence/align/{camera}/{frame:06d}.npz"


def seen(source: str = "align", width: int = 32, n: int = 5) -> SeenPoints:
    covariance = np.broadcast_to(np.eye(2), (n, 2, 2))
    return SeenPoints(source, "abc", width, 24, np.arange(n), np.full((n, 3), 1 / 3), np.ones((n, 2)), covariance)


def ball() -> Mesh:
    points = np.random.default_rng(0).normal(size=(60, 3))
    points *= 0.1 / np.linalg.norm(points, axis=1, keepdims=True)
    return Mesh.of(points, np.random.default_rng(1).integers(0, 60, (80, 3)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A capture of frames 3 and 5, with evidence of both cameras in the first and of one in the second."""
    with SequenceWriter(tmp_path, KEY, CAMERAS, 25.0) as writer:
        for frame in (3, 5):
            writer.add(frame, ball())
    found = tmp_path / "anna" / "speech"
    edit(found, evidence=PATTERN)
    for frame, camera in ((3, "cam0"), (3, "cam1"), (5, "cam1")):
        put(found, PATTERN.format(frame=frame, camera=camera), seen())
    return found


def put(folder: Path, name: str, points: SeenPoints) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(seen_points_bytes(points))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "capture.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_evidence_is_read_with_its_cameras(folder: Path) -> None:
    captures = FolderCaptures(folder.parents[1])
    both, one = captures.frame(KEY, 3), captures.frame(KEY, 5)
    assert [look.camera.name for look in both.evidence] == ["cam0", "cam1"]
    assert [look.camera.name for look in one.evidence] == ["cam1"]
    assert len(both.evidence[0].points) == 5
    assert both.evidence[0].camera is both.cameras[0]


def test_several_programs_may_have_looked(folder: Path) -> None:
    edit(folder, evidence=[PATTERN, "evidence/detector/{camera}/{frame:06d}.npz"])
    put(folder, "evidence/detector/cam1/000005.npz", seen("detector"))
    found = FolderCaptures(folder.parents[1]).frame(KEY, 5).evidence
    assert [look.points.source for look in found] == ["align", "detector"]


def test_a_frame_in_which_nothing_was_seen_has_none(folder: Path) -> None:
    (folder / PATTERN.format(frame=5, camera="cam1")).unlink()
    assert FolderCaptures(folder.parents[1]).frame(KEY, 5).evidence == ()


def test_a_pattern_that_leads_nowhere_is_refused(folder: Path) -> None:
    edit(folder, evidence="evidense/{camera}/{frame:06d}.npz")
    with pytest.raises(InputError, match="none of the evidence"):
        FolderCaptures(folder.parents[1]).frame(KEY, 5)


@pytest.mark.parametrize("pattern", [PATTERN, "evidence/{frame:06d}.{camera}.npz"])
def test_evidence_of_a_camera_that_is_not_ours_is_refused(folder: Path, pattern: str) -> None:
    edit(folder, evidence=pattern)
    put(folder, pattern.format(frame=5, camera="cam1"), seen())
    put(folder, pattern.format(frame=5, camera="Cam0"), seen())
    with pytest.raises(InputError, match=r"has evidence of 'Cam0', which is no camera.*nearest name is 'cam0'"):
        FolderCaptures(folder.parents[1]).frame(KEY, 5)


@pytest.mark.parametrize("pattern", ["evidence/{frame}.npz", [], "../{camera}/{frame}.npz"])
def test_what_is_no_pattern_is_refused(folder: Path, pattern: Any) -> None:
    edit(folder, evidence=pattern)
    with pytest.raises(InputError, match="evidence"):
        FolderCaptures(folder.parents[1]).sequences()


def test_broken_evidence_and_that_of_another_size_are_named_when_asked_for(folder: Path) -> None:
    put(folder, PATTERN.format(frame=3, camera="cam1"), seen(width=64))
    (folder / PATTERN.format(frame=5, camera="cam1")).write_bytes(b"nothing")
    captures = FolderCaptures(folder.parents[1])
    for frame, words in ((3, r"000003\.npz tells of a picture of 64 x 24 px"), (5, r"000005\.npz")):
        found = captures.frame(KEY, frame)
        with pytest.raises(InputError, match=words):
            _ = found.evidence


def test_evidence_is_part_of_the_input(folder: Path) -> None:
    captures = FolderCaptures(folder.parents[1])
    before = captures.input_digest(KEY, 5), captures.input_digest(KEY, 3)
    put(folder, PATTERN.format(frame=5, camera="cam1"), seen("another"))
    assert captures.input_digest(KEY, 5) != before[0]
    assert captures.input_digest(KEY, 3) == before[1]


def test_captures_without_surface_say_what_to_do(folder: Path) -> None:
    edit(folder, surface="none", scan=None)
    captures = FolderCaptures(folder.parents[1])
    (info,) = captures.sequences()
    assert info.bare
    frame = captures.frame(KEY, 3)
    assert not frame.fused
    with pytest.raises(InputError, match="datagen fit"):
        _ = frame.scan
    assert captures.inputs(KEY, 3).bare
    assert captures.brings(KEY) == {"evidence"}
    edit(folder, surface=None, scan="scans/{frame:06d}.ply")
    assert not captures.inputs(KEY, 3).bare


def test_no_surface_without_pictures_and_evidence_is_refused(folder: Path) -> None:
    edit(folder, surface="none", scan=None, evidence=None)
    with pytest.raises(InputError, match="neither `images` nor `evidence`"):
        FolderCaptures(folder.parents[1]).sequences()


def test_cameras_of_evidence_are_scaled_with_the_frame(folder: Path) -> None:
    edit(folder, surface="none", scan=None)
    frame = FolderCaptures(folder.parents[1]).frame(KEY, 3)
    points = np.random.default_rng(0).normal(size=(68, 3))
    scale = scale_from([Landmarks(np.arange(68), points)])
    scaled = scaled_frame(frame, scale)
    np.testing.assert_allclose(scaled.evidence[0].camera.centre, scale.factor * frame.cameras[0].centre)


def test_a_check_reads_evidence_and_names_captures_without_a_surface(folder: Path) -> None:
    root = folder.parents[1]
    (folder / PATTERN.format(frame=5, camera="cam1")).write_bytes(b"nothing")
    with Progress("check", 0, "frames") as progress:
        found = check_captures(root, progress)
    assert [problem["where"] for problem in found.problems if "cam1/000005.npz" in problem["problem"]] == [
        f"{KEY}/000005"
    ]
    edit(folder, surface="none", scan=None)
    put(folder, PATTERN.format(frame=5, camera="cam1"), seen())
    with Progress("check", 0, "frames") as progress:
        found = check_captures(root, progress)
    assert ["too little" in problem["problem"] for problem in found.problems] == [True]
    assert [note["where"] for note in found.notes if "a build fits a head" in note["problem"]] == [str(KEY)]
    put(folder, PATTERN.format(frame=3, camera="cam1"), seen(n=8))
    with Progress("check", 0, "frames") as progress:
        found = check_captures(root, progress)
    assert found.problems == []
    assert any("of another head model than anny" in note["problem"] for note in found.notes)
